//! Submission, splitting, flushes and partitions over a drive in memory.

use std::sync::Arc;

use arch::uio::Source;

use crate::memory::MemoryDrive;
use crate::*;

fn drive(bytes: usize, limits: Limits) -> (Arc<MemoryDrive>, Arc<Disk>) {
    frames::init_host(256 << 20);
    let drive = MemoryDrive::new(vec![0; bytes], limits);
    let disk = Disk::add_named(names::RAM, drive.clone(), bytes as u64 / 512).unwrap();
    (drive, disk)
}

#[test]
fn data_goes_through_the_cache_and_is_split_to_the_limits() {
    let limits = Limits { max_sectors: 24, max_segments: 2, queue_depth: 2, ..Limits::default() };
    let (drive, disk) = drive(1 << 20, limits);
    let device = disk.whole();
    let data: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 251) as u8).collect();
    device.mapping().write(4097, &mut Source::kernel(&data)).unwrap();
    device.sync().unwrap();
    assert_eq!(&drive.contents()[4097..204_097], &data[..]);
    device.mapping().drop_clean(0, u64::MAX >> 13);
    let mut back = vec![0; data.len()];
    device.read_at(4097, &mut back).unwrap();
    assert_eq!(back, data);
    assert!(device.stats().write.sectors >= 390);
    disk.remove();
}

#[test]
fn errors_and_bounds_are_reported() {
    let (drive, disk) = drive(1 << 20, Limits { write_cache: true, ..Limits::default() });
    let device = disk.whole();
    let page = frames::alloc_page(frames::Flags::ZERO).unwrap();
    let bio = |sector| {
        let mut bio = Bio::new(Op::Write, sector, |_| {});
        bio.flags |= BioFlags::PREFLUSH | BioFlags::FUA;
        bio.push(page.clone(), 0, 4096);
        bio
    };
    assert_eq!(device.submit_and_wait(bio(2041)), Err(abi::Errno::EIO));
    let before = drive.requests();
    assert_eq!(device.submit_and_wait(bio(2040)), Ok(()));
    assert_eq!(drive.requests() - before, 3);
    drive.fail_every(1);
    assert_eq!(device.submit_and_wait(bio(0)), Err(abi::Errno::EIO));
    disk.remove();
}

#[test]
fn partitions_are_found() {
    frames::init_host(256 << 20);
    let mut bytes = vec![0; 1 << 20];
    bytes[440..444].copy_from_slice(&0x1234_abcdu32.to_le_bytes());
    bytes[446 + 4] = 0x83;
    bytes[446 + 8..446 + 12].copy_from_slice(&64u32.to_le_bytes());
    bytes[446 + 12..446 + 16].copy_from_slice(&1000u32.to_le_bytes());
    bytes[462 + 4] = 0x83;
    bytes[462 + 8..462 + 12].copy_from_slice(&1100u32.to_le_bytes());
    bytes[462 + 12..462 + 16].copy_from_slice(&100u32.to_le_bytes());
    bytes[510] = 0x55;
    bytes[511] = 0xaa;
    bytes[64 * 512 + 1024 + 56] = 0x53;
    bytes[64 * 512 + 1024 + 57] = 0xef;
    bytes[64 * 512 + 1024 + 120..][..4].copy_from_slice(b"root");
    let drive = MemoryDrive::new(bytes, Limits::default());
    let disk = Disk::add_named(names::VIRTIO, drive, 2048).unwrap();
    let found = by_spec("PARTUUID=1234ABCD-01").unwrap();
    assert_eq!((found.name(), found.sectors()), ("vda1", 1000));
    assert_eq!(by_spec("/dev/vda1").unwrap().id(), DeviceId { major: 254, minor: 1 });
    assert_eq!(by_spec("fe01").unwrap().name(), "vda1");
    assert_eq!(by_spec("PARTUUID=1234abcd-01/PARTNROFF=1").unwrap().name(), "vda2");
    assert_eq!(by_spec("PARTUUID=1234abcd-02/PARTNROFF=-1").unwrap().name(), "vda1");
    assert!(by_spec("PARTUUID=1234abcd-01/PARTNROFF=2").is_none());
    assert_eq!(by_spec("LABEL=root").unwrap().name(), "vda1");
    disk.remove();
    assert!(by_spec("vda1").is_none());
}
