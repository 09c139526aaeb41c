//! A disk in memory as a file.

use block::Limits;
use block::memory::MemoryDrive;
use std::vec;
use vfs::file::FileInit;
use vfs::rw::{self, At};
use vfs::{Creds, KernelCaller, MountNamespace, NewInode, Time, UserNamespace};

use super::*;

const O_RDWR: u32 = 2;

/// Runs `work` with an open disk of 1 MiB.
fn with_disk(name: &str, work: impl FnOnce(&Context<'_>, &Arc<File>)) {
    frames::init_host(64 << 20);
    let disk =
        Disk::add(name, MemoryDrive::new(vec![0; 1 << 20], Limits::default()), 2048).unwrap();
    let user_ns = UserNamespace::initial();
    let sb = tmpfs::create("tmpfs", tmpfs::Options::default(), (0, 0)).unwrap();
    let mounts = MountNamespace::with_root(3, user_ns.clone(), &sb, b"t", 0).unwrap();
    let root = mounts.root_path().unwrap();
    let creds = Arc::new(Creds::root(user_ns));
    let caller = &KernelCaller;
    let ctx = Context { creds: &creds, root: &root, cwd: &root, umask: 0, mounts: &mounts, caller };
    let rdev = number(disk.whole().id());
    let (kind, now) = (FileKind::BlockDevice, Time::new(1, 0));
    let node = NewInode { kind, mode: 0o600, uid: 0, gid: 0, rdev, target: b"", now };
    let dir = root.inode().unwrap();
    let inode = dir.ops().create(&dir, b"disk", &node).unwrap();
    let Opened { ops, mode } = Opener.open(rdev, &inode, O_RDWR, &ctx).unwrap();
    let (path, creds) = (root.clone(), creds.clone());
    let file = File::new(FileInit { ops, inode, path, creds, flags: O_RDWR, mode });
    work(&ctx, &file);
    drop(file);
    disk.remove();
}

/// man 2 pread: what can be sought can be read and written at an offset.
#[test]
fn offsets_can_be_given() {
    with_disk("offsets", |ctx, file| {
        let written = rw::write(ctx, file, At::Offset(700), &mut Source::kernel(&[7; 900]), 0);
        assert_eq!(written, Ok(900));
        let mut found = [1; 1000];
        let count = rw::read(file, At::Offset(650), &mut Sink::kernel(&mut found));
        assert_eq!(count, Ok(1000));
        assert_eq!(
            (&found[..50], &found[50..950], &found[950..]),
            (&[0; 50][..], &[7; 900][..], &[0; 50][..])
        );
        let mut first = [1; 10];
        assert_eq!(rw::read(file, At::Position, &mut Sink::kernel(&mut first)), Ok(10));
        assert_eq!(first, [0; 10], "the position did not move");
    });
}
