//! A damaged image of a file system: mounted, walked, read, changed, unmounted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arch::uio::{Sink, Source};
use block::memory::MemoryDrive;
use block::{Device, Disk, Limits};
use pagecache::ReadAhead;
use vfs::{DeviceNumber, FileKind, Inode, NewInode, SuperBlock, Time};

/// Names that the tests put into their images.
const NAMES: [&[u8]; 6] = [b"dir", b"big", b"sub", b"link", b"lost+found", b"name-7"];
/// How much of a file is read.
const READ_LEN: usize = 64 << 10;

type Mount = fn(&Arc<Device>, u64, &[u8]) -> abi::Result<Arc<SuperBlock>>;

/// Mounts an ext4 image and does what a program might do to a few of its files; whether all of that
/// worked.
pub fn ext4(bytes: Vec<u8>) -> bool {
    try_image(bytes, ::ext4::mount, change, NAMES.len())
}

/// The same for a FAT image, which has neither links nor a place for what was lost.
pub fn fat(bytes: Vec<u8>) -> bool {
    try_image(bytes, ::fat::mount, change, NAMES.len() - 2)
}

/// The same for a squashfs image, which cannot be changed.
pub fn squashfs(bytes: Vec<u8>) -> bool {
    try_image(bytes, ::squashfs::mount, |_| true, NAMES.len() - 1)
}

fn try_image(bytes: Vec<u8>, mount: Mount, change: fn(&Arc<Inode>) -> bool, names: usize) -> bool {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    frames::init_host(512 << 20);
    let sectors = bytes.len() as u64 / 512;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let drive = MemoryDrive::new(bytes, Limits::default());
    let Ok(disk) = Disk::add(&format!("damaged{number}"), drive, sectors) else { return false };
    let mut is_sound = false;
    if let Ok(sb) = mount(disk.whole(), 0, b"") {
        if let Some(root) = sb.root().ok().and_then(|root| root.inode()) {
            let found = visit(&root, 0);
            is_sound = change(&root) && found == names;
        }
        sb.ops().put_super(&sb);
    }
    disk.remove();
    is_sound
}

/// Reads what is there; how many of the names were found.
fn visit(dir: &Arc<Inode>, depth: usize) -> usize {
    let mut found = 0;
    for name in NAMES {
        let Ok(Some(child)) = dir.ops().lookup(dir, name) else { continue };
        found += 1;
        if let Some(mapping) = child.mapping() {
            let mut buffer = vec![0; READ_LEN];
            for at in [0, child.size().saturating_sub(READ_LEN as u64), 1 << 40] {
                let _ = mapping.read(at, &mut Sink::kernel(&mut buffer), &ReadAhead::new());
            }
        }
        if depth < 3 {
            found += visit(&child, depth + 1);
        }
    }
    found
}

/// Makes a directory and a file with contents; whether both could be had.
fn change(root: &Arc<Inode>) -> bool {
    let new = |kind| NewInode {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: DeviceNumber::new(0, 0),
        target: b"",
        now: Time::new(1, 0),
    };
    let has_dir = root.ops().create(root, b"new-dir", &new(FileKind::Directory)).is_ok();
    let file = root.ops().create(root, b"new-file", &new(FileKind::Regular));
    let Some((file, mapping)) = file.as_ref().ok().and_then(|file| Some((file, file.mapping()?)))
    else {
        return false;
    };
    let is_written = mapping.write(5000, &mut Source::kernel(&[7; 9000])).is_ok();
    file.ops().dirty(file);
    has_dir && is_written
}
