//! Files of a tmpfs as disks.

use std::format;
use std::string::String;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec;
use std::vec::Vec;

use abi::Errno;
use abi::loopdev::*;
use block::{Bio, Disk, Op};
use vfs::rw::{self, At};
use vfs::{
    Context, Creds, DeviceNumber, File, FileKind, KernelCaller, MountNamespace, NewInode, Time,
    UserNamespace,
};

use arch::uio::{Sink, Source};

use crate::drive::Drive;
use crate::registry;
use crate::status;

const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 2;

/// One test at a time: the devices are the machine's.
static TURN: Mutex<()> = Mutex::new(());

struct Fixture {
    mounts: Arc<MountNamespace>,
    creds: Arc<Creds>,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    fn new() -> Fixture {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        frames::init_host(64 << 20);
        let user_ns = UserNamespace::initial();
        let sb = tmpfs::create("tmpfs", tmpfs::Options::default(), (0, 0)).unwrap();
        let mounts = MountNamespace::with_root(3, user_ns.clone(), &sb, b"t", 0).unwrap();
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            registry::init(&mounts).unwrap();
            blockdev::init();
        });
        Fixture { mounts, creds: Arc::new(Creds::root(user_ns)), _turn: turn }
    }

    fn with<R>(&self, work: impl FnOnce(&Context<'_>) -> R) -> R {
        let root = self.mounts.root_path().unwrap();
        let caller = &KernelCaller;
        work(&Context {
            creds: &self.creds,
            root: &root,
            cwd: &root,
            umask: 0,
            mounts: &self.mounts,
            caller,
        })
    }

    /// A file of so many bytes.
    fn file(&self, name: &str, len: usize) -> Arc<File> {
        let file = self.open_node(name, FileKind::Regular, DeviceNumber::NONE, O_RDWR);
        let bytes: Vec<u8> = (0..len).map(|at| at as u8 ^ (at >> 9) as u8).collect();
        self.with(|ctx| {
            let mut source = Source::kernel(&bytes);
            assert_eq!(rw::write(ctx, &file, At::Offset(0), &mut source, 0), Ok(len));
        });
        file
    }

    fn open_node(&self, name: &str, kind: FileKind, rdev: DeviceNumber, flags: u32) -> Arc<File> {
        let root = self.mounts.root_path().unwrap();
        let dir = root.inode().unwrap();
        let now = Time::new(1, 0);
        let node = NewInode { kind, mode: 0o600, uid: 0, gid: 0, rdev, target: b"", now };
        let inode = dir.ops().create(&dir, name.as_bytes(), &node).unwrap();
        self.with(|ctx| {
            let how = vfs::OpenHow::new(flags, 0);
            drop(inode);
            vfs::open(ctx, ctx.root, name.as_bytes(), &how).unwrap()
        })
    }

    /// A device that is not bound, and it open.
    fn device(&self, flags: u32) -> (Arc<Drive>, Arc<Disk>, Arc<File>) {
        let index = registry::free().unwrap();
        let drive = registry::drive_of(index).unwrap();
        let disk = drive.disk().unwrap();
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (kind, rdev) = (FileKind::BlockDevice, DeviceNumber::new(7, index));
        let open = self.open_node(&format!("loop-{next}"), kind, rdev, flags);
        (drive, disk, open)
    }
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.inode().size() as usize];
    let len = rw::read(file, At::Offset(0), &mut Sink::kernel(&mut bytes)).unwrap();
    assert_eq!(len, bytes.len());
    bytes
}

#[test]
fn what_is_written_is_in_the_file() {
    let fixture = Fixture::new();
    let file = fixture.file("a", 40_000);
    let (drive, disk, open) = fixture.device(O_RDWR);
    let mut info = status::empty();
    (info.lo_offset, info.lo_sizelimit) = (1024, 16_384);
    drive.bind(&open, file.clone(), &info, 0, LO_FLAGS_CONFIGURABLE).unwrap();
    assert_eq!(disk.whole().sectors(), 32);
    let mut found = vec![0; 16_384];
    disk.whole().read_at(0, &mut found).unwrap();
    assert!(found == contents(&file)[1024..17_408]);

    fixture.with(|ctx| {
        let mut source = Source::kernel(&[7; 3000]);
        assert_eq!(rw::write(ctx, &open, At::Offset(500), &mut source, 0), Ok(3000));
    });
    disk.whole().sync().unwrap();
    let now = contents(&file);
    assert!(now[1524..4524].iter().all(|&byte| byte == 7));
    assert_eq!(now.len(), 40_000);

    let discard = Bio::without_data(Op::Discard, 8, 8, |_| {});
    disk.whole().submit_and_wait(discard).unwrap();
    assert!(contents(&file)[1024 + 4096..1024 + 8192].iter().all(|&byte| byte == 0));
    assert_eq!(disk.whole().write_zeroes(0, 1), Ok(()));
    assert!(contents(&file)[1024..1536].iter().all(|&byte| byte == 0));

    let status = drive.status().unwrap();
    assert_eq!((status.lo_offset, status.lo_sizelimit, status.lo_flags), (1024, 16_384, 0));
    drive.let_go().unwrap();
    assert_eq!((disk.whole().sectors(), drive.status().err()), (0, Some(Errno::ENXIO)));
    let mut nothing = [0; 512];
    assert_eq!(disk.whole().read_at(0, &mut nothing), Err(Errno::EIO));
}

#[test]
fn devices_are_busy_while_bound_and_clear_themselves() {
    let fixture = Fixture::new();
    let file = fixture.file("b", 10_000);
    let (drive, disk, open) = fixture.device(O_RDWR);
    drive.bind(&open, file.clone(), &status::empty(), 0, 0).unwrap();
    let again = drive.bind(&open, file.clone(), &status::empty(), 0, 0);
    assert_eq!(again, Err(Errno::EBUSY));
    // A tail that is no whole sector is not there.
    assert_eq!(disk.whole().size(), 9728);
    assert_ne!(registry::free().unwrap(), drive.index);
    let second = disk.whole().open();
    drive.let_go().unwrap();
    assert_eq!(drive.status().unwrap().lo_flags, LO_FLAGS_AUTOCLEAR);
    drop(second);
    assert!(drive.binding.is_some());
    let held = Arc::strong_count(&file);
    drop(open);
    assert!(!drive.binding.is_some() && Arc::strong_count(&file) < held);
}

#[test]
fn a_file_that_cannot_be_written_makes_a_read_only_device() {
    let fixture = Fixture::new();
    let file = fixture.file("c", 8192);
    let (drive, disk, open) = fixture.device(O_RDONLY);
    drive.bind(&open, file.clone(), &status::empty(), 0, 0).unwrap();
    assert_eq!(drive.status().unwrap().lo_flags, LO_FLAGS_READ_ONLY);
    assert_eq!(disk.whole().write_zeroes(0, 1), Err(Errno::EROFS));
    let other = fixture.file("c2", 4096);
    assert_eq!(drive.change_file(other), Err(Errno::EINVAL));
    let other = fixture.file("c3", 8192);
    assert_eq!(drive.change_file(other), Ok(()));
    drive.let_go().unwrap();
}

#[test]
fn what_is_wrong_is_refused() {
    let fixture = Fixture::new();
    let file = fixture.file("d", 8192);
    let (drive, _disk, open) = fixture.device(O_RDWR);
    assert_eq!(drive.bind(&open, open.clone(), &status::empty(), 0, 0), Err(Errno::EBADF));
    let mut info = status::empty();
    info.lo_offset = u64::MAX;
    assert_eq!(drive.bind(&open, file.clone(), &info, 0, 0), Err(Errno::EOVERFLOW));
    for size in [256, 1000, 8192] {
        let result = drive.bind(&open, file.clone(), &status::empty(), size, 0);
        assert_eq!(result, Err(Errno::EINVAL));
    }
    assert_eq!(drive.let_go(), Err(Errno::ENXIO));
    assert_eq!(drive.set_block_size(512), Err(Errno::ENXIO));
    info.lo_offset = 8193;
    drive.bind(&open, file, &info, 4096, 0).unwrap();
    assert_eq!(drive.set_block_size(513), Err(Errno::EINVAL));
    assert_eq!(drive.set_direct(true), Err(Errno::EINVAL));
    drive.let_go().unwrap();
}

#[test]
fn partitions_come_and_go() {
    let fixture = Fixture::new();
    let file = fixture.file("e", 64 << 10);
    let mut mbr = [0; 512];
    // One entry: type 0x83, 64 sectors from sector 8 on.
    mbr[446 + 4] = 0x83;
    mbr[446 + 8] = 8;
    mbr[446 + 12] = 64;
    (mbr[510], mbr[511]) = (0x55, 0xaa);
    fixture.with(|ctx| rw::write(ctx, &file, At::Offset(0), &mut Source::kernel(&mbr), 0)).unwrap();
    let (drive, disk, open) = fixture.device(O_RDWR);
    let mut info = status::empty();
    drive.bind(&open, file.clone(), &info, 0, LO_FLAGS_CONFIGURABLE).unwrap();
    assert!(disk.partitions().is_empty());
    info.lo_flags = LO_FLAGS_PARTSCAN;
    drive.set_status(&info).unwrap();
    let names: Vec<String> = disk.partitions().iter().map(|p| p.name().into()).collect();
    assert_eq!(names, [format!("loop{}p1", drive.index)]);
    assert_eq!(disk.partitions()[0].sectors(), 64);
    let mut found = [0; 512];
    disk.partitions()[0].read_at(0, &mut found).unwrap();
    assert!(found == contents(&file)[4096..4608]);
    drive.let_go().unwrap();
    assert!(disk.partitions().is_empty());
}

/// Many requests at once, in any order, each to its own place.
#[test]
fn threads_write_beside_each_other() {
    let fixture = Fixture::new();
    let file = fixture.file("f", 1 << 20);
    let (drive, disk, open) = fixture.device(O_RDWR);
    drive.bind(&open, file.clone(), &status::empty(), 0, 0).unwrap();
    std::thread::scope(|scope| {
        for part in 0..4_u64 {
            let (disk, fixture, open) = (&disk, &fixture, &open);
            scope.spawn(move || {
                for round in 0..8 {
                    let at = part << 18 | round << 15;
                    let bytes = vec![part as u8 + 1; 1 << 15];
                    fixture.with(|ctx| {
                        let mut source = Source::kernel(&bytes);
                        rw::write(ctx, open, At::Offset(at), &mut source, 0).unwrap();
                    });
                    disk.whole().sync().unwrap();
                }
            });
        }
    });
    let now = contents(&file);
    for part in 0..4 {
        assert!(now[part << 18..(part + 1) << 18].iter().all(|&b| usize::from(b) == part + 1));
    }
    drive.let_go().unwrap();
}
