//! Images made by `mke2fs`, changed by this crate, checked by `e2fsck` and a model.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use arch::uio::{Sink, Source};
use block::memory::MemoryDrive;
use block::{Disk, Limits, names};
use pagecache::ReadAhead;
use vfs::{
    DeviceNumber, FileKind, Inode, InodeRef, NewInode, RenameEnd, RenameFlags, SuperBlock, Time,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

struct Fixture {
    drive: Arc<MemoryDrive>,
    disk: Arc<Disk>,
    sb: Arc<SuperBlock>,
    path: std::path::PathBuf,
}

fn image(options: &str, megabytes: u64, source: Option<&str>) -> (std::path::PathBuf, Vec<u8>) {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ext4-{}-{number}.img", std::process::id()));
    let mut command = Command::new("mke2fs");
    command.arg("-qF").args(options.split_whitespace());
    if let Some(source) = source {
        command.args(["-d", source]);
    }
    let status = command.arg(&path).arg(format!("{megabytes}M")).status().unwrap();
    assert!(status.success());
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

impl Fixture {
    fn new(options: &str, megabytes: u64, source: Option<&str>) -> Fixture {
        frames::init_host(512 << 20);
        let (path, bytes) = image(options, megabytes, source);
        let sectors = bytes.len() as u64 / 512;
        let drive = MemoryDrive::new(bytes, Limits::default());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let disk = Disk::add(&format!("test{number}"), drive.clone(), sectors).unwrap();
        let _ = names::VIRTIO;
        let sb = crate::mount(disk.whole(), 0).unwrap();
        Fixture { drive, disk, sb, path }
    }

    fn root(&self) -> Arc<Inode> {
        self.sb.root().unwrap().inode().unwrap()
    }

    /// Unmounts and lets `e2fsck` judge.
    fn check(self) {
        self.sb.ops().put_super(&self.sb);
        std::fs::write(&self.path, self.drive.contents()).unwrap();
        let output = Command::new("e2fsck").args(["-fn"]).arg(&self.path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        self.disk.remove();
        std::fs::remove_file(&self.path).unwrap();
    }
}

fn new(kind: FileKind, target: &[u8]) -> NewInode<'_> {
    NewInode {
        kind,
        mode: 0o644,
        uid: 70000,
        gid: 5,
        rdev: DeviceNumber::new(8, 1),
        target,
        now: Time::new(1_700_000_000, 123),
    }
}

fn write(inode: &Inode, pos: u64, bytes: &[u8]) -> Result<(), Errno> {
    let mapping = inode.mapping().unwrap();
    let count = mapping.write(pos, &mut Source::kernel(bytes))?;
    inode.ops().dirty(inode);
    if count == bytes.len() { Ok(()) } else { Err(Errno::ENOSPC) }
}

fn read(inode: &Inode) -> Vec<u8> {
    let mut bytes = vec![0; inode.size() as usize];
    let mapping = inode.mapping().unwrap();
    let count = mapping.read(0, &mut Sink::kernel(&mut bytes), &ReadAhead::new()).unwrap();
    assert_eq!(count, bytes.len());
    bytes
}

const FEATURES: [&str; 7] = [
    "-t ext4",
    "-t ext4 -b 1024",
    "-t ext4 -b 2048 -O ^metadata_csum",
    "-t ext4 -b 4096 -I 128",
    "-t ext4 -O ^metadata_csum,uninit_bg,^64bit -g 8192 -b 4096",
    "-t ext4 -O metadata_csum_seed,sparse_super2,^resize_inode",
    "-t ext4 -O ^has_journal,^flex_bg,^metadata_csum",
];

#[test]
fn trees_made_by_mke2fs_are_read() {
    let source = std::env::temp_dir().join(format!("ext4-src-{}", std::process::id()));
    std::fs::create_dir_all(source.join("dir/sub")).unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    std::fs::write(source.join("dir/big"), &big).unwrap();
    for number in 0..700 {
        std::fs::write(source.join(format!("dir/sub/file-with-a-name-{number}")), [number as u8])
            .unwrap();
    }
    std::os::unix::fs::symlink("dir/big", source.join("link")).unwrap();
    for options in FEATURES {
        let fixture = Fixture::new(options, 32, source.to_str());
        let root = fixture.root();
        let dir = root.ops().lookup(&root, b"dir").unwrap().unwrap();
        let file = dir.ops().lookup(&dir, b"big").unwrap().unwrap();
        assert!(read(&file) == big, "{options}");
        let sub = dir.ops().lookup(&dir, b"sub").unwrap().unwrap();
        for number in [0, 350, 699] {
            let name = format!("file-with-a-name-{number}");
            let file = sub.ops().lookup(&sub, name.as_bytes()).unwrap().unwrap();
            assert_eq!(read(&file), [number as u8]);
        }
        assert!(sub.ops().lookup(&sub, b"absent").unwrap().is_none());
        let link = root.ops().lookup(&root, b"link").unwrap().unwrap();
        assert_eq!((link.kind, link.size()), (FileKind::Symlink, 7));
        drop((root, dir, file, sub, link));
        fixture.check();
    }
    std::fs::remove_dir_all(source).unwrap();
}

#[test]
fn random_changes_leave_a_clean_image() {
    for (round, options) in FEATURES.into_iter().enumerate() {
        let fixture = Fixture::new(options, 32, None);
        let root = fixture.root();
        let mut seed = 0x1357_9bdf_2468_aceu64 + round as u64;
        let mut random = move |limit: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % limit
        };
        let sub = root.ops().create(&root, b"sub", &new(FileKind::Directory, b"")).unwrap();
        let mut files: BTreeMap<String, (InodeRef, Vec<u8>)> = BTreeMap::new();
        for step in 0..600u64 {
            let pick = random(files.len().max(1) as u64) as usize;
            let some = files.keys().nth(pick).cloned();
            match (random(10), some) {
                (0..=2, _) | (_, None) => {
                    let name = format!("name-{step}-{}", "x".repeat(random(60) as usize));
                    let inode = root
                        .ops()
                        .create(&root, name.as_bytes(), &new(FileKind::Regular, b""))
                        .unwrap();
                    files.insert(name, (InodeRef::new(inode), Vec::new()));
                }
                (3..=5, Some(name)) => {
                    let Some((inode, model)) = files.get_mut(&name) else { continue };
                    let pos = random(400_000) as usize;
                    let bytes = vec![step as u8 | 1; random(60_000) as usize + 1];
                    match write(inode, pos as u64, &bytes) {
                        Ok(()) => {}
                        Err(error) => panic!("{options}: {error}"),
                    }
                    model.resize(model.len().max(pos + bytes.len()), 0);
                    model[pos..pos + bytes.len()].copy_from_slice(&bytes);
                }
                (6, Some(name)) => {
                    let Some((inode, model)) = files.get_mut(&name) else { continue };
                    let size = random(300_000);
                    let change =
                        vfs::SetAttr { size: Some(size), now: Time::now(), ..Default::default() };
                    inode.ops().setattr(inode, &change).unwrap();
                    model.resize(size as usize, 0);
                }
                (7, Some(name)) => {
                    let Some((inode, _)) = files.remove(&name) else { continue };
                    root.ops().unlink(&root, name.as_bytes(), &inode).unwrap();
                }
                (8, Some(name)) => {
                    let Some((inode, model)) = files.remove(&name) else { continue };
                    let target = format!("renamed-{step}");
                    let old = RenameEnd { dir: &root, name: name.as_bytes() };
                    let end = RenameEnd { dir: &root, name: target.as_bytes() };
                    root.ops().rename(old, &inode, end, None, RenameFlags::empty()).unwrap();
                    files.insert(target, (inode, model));
                }
                _ => {
                    if step % 3 == 0 {
                        fixture.sb.ops().sync(&fixture.sb, true).unwrap();
                    }
                    for (inode, model) in files.values().take(3) {
                        inode.mapping().unwrap().drop_clean(0, u64::MAX >> 13);
                        assert!(&read(inode) == model, "{options}");
                    }
                }
            }
        }
        let long = vec![b'l'; 300];
        root.ops().create(&root, b"long", &new(FileKind::Symlink, &long)).unwrap();
        root.ops().create(&root, b"short", &new(FileKind::Symlink, b"abc")).unwrap();
        root.ops().create(&root, b"device", &new(FileKind::BlockDevice, b"")).unwrap();
        let old = RenameEnd { dir: &root, name: b"sub" };
        let other = root.ops().create(&root, b"other", &new(FileKind::Directory, b"")).unwrap();
        let end = RenameEnd { dir: &other, name: b"moved" };
        root.ops().rename(old, &sub, end, None, RenameFlags::empty()).unwrap();
        for (name, (inode, model)) in &files {
            assert!(&read(inode) == model, "{options}: {name}");
        }
        drop((files, root, sub, other));
        fixture.check();
    }
}
