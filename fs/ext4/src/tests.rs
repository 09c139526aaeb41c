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

mod bench;
mod crash;
mod modes;
mod power;
mod put_away;
mod recovery;
mod sealed;
mod transactions;
mod worker;

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
    // What follows a bar is for `tune2fs`.
    let (options, tune) = options.split_once('|').unwrap_or((options, ""));
    command.arg("-qF").args(options.split_whitespace());
    if let Some(source) = source {
        command.args(["-d", source]);
    }
    let status = command.arg(&path).arg(format!("{megabytes}M")).status().unwrap();
    assert!(status.success());
    if !tune.is_empty() {
        let mut command = Command::new("tune2fs");
        let output = command.args(tune.split_whitespace()).arg(&path).output().unwrap();
        assert!(output.status.success());
    }
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

impl Fixture {
    fn new(options: &str, megabytes: u64, source: Option<&str>) -> Fixture {
        let (path, bytes) = image(options, megabytes, source);
        Fixture::on(path, bytes, 0).unwrap()
    }

    /// Mounts an image.
    fn on(path: std::path::PathBuf, bytes: Vec<u8>, flags: u64) -> Result<Fixture, Errno> {
        frames::init_host(512 << 20);
        let sectors = bytes.len() as u64 / 512;
        let drive = MemoryDrive::new(bytes, Limits::default());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let disk = Disk::add(&format!("test{number}"), drive.clone(), sectors).unwrap();
        let _ = names::VIRTIO;
        let sb = match crate::mount(disk.whole(), flags, b"") {
            Ok(sb) => sb,
            Err(error) => {
                disk.remove();
                return Err(error);
            }
        };
        Ok(Fixture { drive, disk, sb, path })
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

const FEATURES: [&str; 10] = [
    "-t ext3 -b 1024 -I 256",
    "-t ext2 -b 4096",
    "-t ext4 -b 2048 -O ^extents,^64bit",
    "-t ext4",
    "-t ext4 -b 1024",
    "-t ext4 -b 2048 -O ^metadata_csum",
    "-t ext4 -b 4096 -I 128",
    "-t ext4 -O ^metadata_csum,uninit_bg,^64bit -g 8192 -b 4096",
    "-t ext4 -O metadata_csum_seed,sparse_super2,^resize_inode",
    "-t ext4 -O ^has_journal,^flex_bg,^metadata_csum",
];

#[test]
fn a_link_longer_than_a_block_is_refused() {
    let fixture = Fixture::new("-t ext4 -b 1024", 16, None);
    let root = fixture.root();
    let text = [b'x'; 1500];
    let link = |len: usize| {
        let name = format!("link-{len}");
        root.ops().create(&root, name.as_bytes(), &new(FileKind::Symlink, &text[..len]))
    };
    assert_eq!(link(1024).err(), Some(Errno::ENAMETOOLONG));
    assert_eq!(link(1500).err(), Some(Errno::ENAMETOOLONG));
    let made = InodeRef::new(link(1023).unwrap());
    assert_eq!(made.size(), 1023);
    drop((made, root));
    fixture.check();
}

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
        let mut seed = 0x0135_79bd_f246_8aceu64 + round as u64;
        let mut random = move |limit: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % limit
        };
        let sub = root.ops().create(&root, b"sub", &new(FileKind::Directory, b"")).unwrap();
        let mut files: BTreeMap<String, (InodeRef, Vec<u8>)> = BTreeMap::new();
        let mut attributes: BTreeMap<(u64, String), Vec<u8>> = BTreeMap::new();
        for step in 0..600u64 {
            let pick = random(files.len().max(1) as u64) as usize;
            let some = files.keys().nth(pick).cloned();
            match (random(12), some) {
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
                    attributes.retain(|(ino, _), _| *ino != inode.ino);
                    root.ops().unlink(&root, name.as_bytes(), &inode).unwrap();
                }
                (9..=10, Some(name)) => {
                    let Some((inode, _)) = files.get(&name) else { continue };
                    let space = ["user", "trusted", "security"][random(3) as usize];
                    let key = format!("{space}.key{}", random(4));
                    let len = if random(3) == 0 { 500 } else { 40 };
                    let value = vec![step as u8; random(len) as usize];
                    let known = attributes.contains_key(&(inode.ino, key.clone()));
                    if random(4) == 0 {
                        let done = inode.ops().remove_xattr(inode, key.as_bytes());
                        assert_eq!(done.is_ok(), known, "{options}");
                        attributes.remove(&(inode.ino, key));
                        continue;
                    }
                    match inode.ops().set_xattr(inode, key.as_bytes(), &value, 0) {
                        Ok(()) => drop(attributes.insert((inode.ino, key), value)),
                        Err(error) => assert_eq!(error, Errno::ENOSPC),
                    }
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
            let mut names = Vec::new();
            inode.ops().list_xattr(inode, &mut names).unwrap();
            let count = attributes.keys().filter(|(ino, _)| *ino == inode.ino).count();
            assert_eq!(names.iter().filter(|&&b| b == 0).count(), count, "{options}: {name}");
        }
        for ((ino, key), wanted) in &attributes {
            let (inode, _) = files.values().find(|(inode, _)| inode.ino == *ino).unwrap();
            let mut value = Vec::new();
            inode.ops().get_xattr(inode, key.as_bytes(), &mut value).unwrap();
            assert_eq!(&value, wanted, "{options}: {key}");
        }
        drop((files, root, sub, other));
        fixture.check();
    }
}

fn names(dir: &Inode, chunk: usize) -> Vec<String> {
    let node = dir.private::<crate::node::Node>().unwrap();
    let (mut cursor, mut all) = (0, Vec::new());
    loop {
        let mut room = chunk;
        let next = node
            .list(dir, cursor, &mut |entry: &vfs::file::DirEntry<'_>| {
                if room == 0 {
                    return false;
                }
                room -= 1;
                all.push(String::from_utf8(entry.name.to_vec()).unwrap());
                true
            })
            .unwrap();
        if next == cursor || room == chunk {
            return all;
        }
        cursor = next;
    }
}

#[test]
fn hashed_directories_grow_and_shrink() {
    for options in [
        "-t ext4 -b 1024 -N 40000 -O large_dir",
        "-t ext4 -b 4096 -N 40000",
        "-t ext4 -b 1024 -N 40000 -O ^metadata_csum|-E hash_alg=tea",
        "-t ext4 -b 2048 -N 40000|-E hash_alg=legacy",
        "-t ext4 -b 1024 -N 40000 -O ^dir_index",
    ] {
        let count = if options.contains("^dir_index") { 2000 } else { 30000 };
        let fixture = Fixture::new(options, 64, None);
        let root = fixture.root();
        let dir = root.ops().create(&root, b"dir", &new(FileKind::Directory, b"")).unwrap();
        let first = dir.ops().create(&dir, b"first", &new(FileKind::Regular, b"")).unwrap();
        let mut model = std::collections::BTreeSet::from(["first".to_owned()]);
        for number in 0..count {
            let name = format!("{number}-{}", "n".repeat(number * 7 % 90));
            if number % 50 == 0 {
                dir.ops().create(&dir, name.as_bytes(), &new(FileKind::Regular, b"")).unwrap();
            } else {
                let limit = first.nlink() >= 60_000;
                assert!(!limit);
                dir.ops().link(&dir, name.as_bytes(), &first).unwrap();
            }
            model.insert(name);
            if number % 3 == 2 {
                let gone = model.range(format!("{}", number / 2)..).next().unwrap().clone();
                let inode = dir.ops().lookup(&dir, gone.as_bytes()).unwrap().unwrap();
                let inode = InodeRef::new(inode);
                dir.ops().unlink(&dir, gone.as_bytes(), &inode).unwrap();
                model.remove(&gone);
            }
        }
        for chunk in [7, 100_000] {
            let mut listed = names(&dir, chunk);
            assert_eq!(listed[..2], [".", ".."], "{options}");
            listed.drain(..2);
            let total = listed.len();
            listed.sort();
            listed.dedup();
            assert_eq!(listed.len(), total, "{options}: {chunk}: names repeat");
            assert!(listed.iter().eq(model.iter()), "{options}: {chunk}");
        }
        assert!(dir.ops().lookup(&dir, b"absent").unwrap().is_none());
        for name in &model {
            assert!(dir.ops().lookup(&dir, name.as_bytes()).unwrap().is_some(), "{name}");
        }
        drop((first, dir, root));
        fixture.check();
    }
}

/// Cutting a page in a hole makes it dirty; what is written to it then is not lost.
#[test]
fn a_write_next_to_a_short_end_in_a_hole_is_kept() {
    for options in ["-t ext4 -b 4096", "-t ext4 -b 1024", "-t ext2 -b 4096"] {
        let fixture = Fixture::new(options, 16, None);
        let root = fixture.root();
        let make = |name: &[u8]| {
            InodeRef::new(root.ops().create(&root, name, &new(FileKind::Regular, b"")).unwrap())
        };
        let cut = |file: &InodeRef, size| {
            let change = vfs::SetAttr { size: Some(size), now: Time::now(), ..Default::default() };
            file.ops().setattr(file, &change).unwrap();
        };
        let (longer, shorter) = (make(b"longer"), make(b"shorter"));
        // Behind the end, in its page.
        cut(&longer, 1741);
        write(&longer, 3820, &[7; 1525]).unwrap();
        // Before the end, which has just moved into the hole.
        cut(&shorter, 9000);
        cut(&shorter, 5000);
        write(&shorter, 4200, &[9; 700]).unwrap();
        for (file, range, byte) in [(&longer, 3820..5345, 7), (&shorter, 4200..4900, 9)] {
            let mapping = file.mapping().unwrap();
            mapping.sync().unwrap();
            mapping.drop_clean(0, u64::MAX >> 13);
            assert!(read(file)[range].iter().all(|&found| found == byte), "{options}");
        }
        drop((root, longer, shorter));
        fixture.check();
    }
}

/// Does everything a program could with whatever is there; errors are fine.
fn poke(dir: &Arc<Inode>, depth: u32, budget: &mut u32) {
    let Some(node) = dir.private::<crate::node::Node>() else { return };
    let mut names = Vec::new();
    let _ = node.list(dir, 0, &mut |entry: &vfs::file::DirEntry<'_>| {
        names.push(entry.name.to_vec());
        names.len() < 60
    });
    for name in names {
        if *budget == 0 || name == b"." || name == b".." {
            continue;
        }
        *budget -= 1;
        let Ok(Some(inode)) = dir.ops().lookup(dir, &name) else { continue };
        let inode = InodeRef::new(inode);
        let mut list = Vec::new();
        let _ = inode.ops().list_xattr(&inode, &mut list);
        let _ = inode.ops().set_xattr(&inode, b"user.x", b"value", 0);
        if inode.is_dir() && depth < 4 {
            poke(&inode, depth + 1, budget);
        } else if let Some(mapping) = inode.mapping() {
            let mut bytes = vec![0; 5000];
            let _ = mapping.read(0, &mut Sink::kernel(&mut bytes), &ReadAhead::new());
            let _ = write(&inode, 3000, &[1; 3000]);
        }
        if (*budget).is_multiple_of(3) && !inode.is_dir() {
            let _ = dir.ops().unlink(dir, &name, &inode);
        }
    }
    for number in 0..5 {
        let name = format!("new-{number}-{}", "z".repeat(100));
        let _ = dir.ops().create(dir, name.as_bytes(), &new(FileKind::Regular, b""));
    }
}

#[test]
fn flipped_bits_never_panic() {
    let source = std::env::temp_dir().join(format!("ext4-flip-{}", std::process::id()));
    std::fs::create_dir_all(source.join("dir/sub")).unwrap();
    for number in 0..120 {
        let name = format!("dir/sub/file-with-a-long-name-to-fill-blocks-{number}");
        std::fs::write(source.join(name), vec![number as u8; number * 40]).unwrap();
    }
    let images: Vec<_> = [
        "-t ext4 -b 1024 -N 256 -O ^metadata_csum,^uninit_bg -J size=1",
        "-t ext3 -b 1024 -N 256 -J size=1",
        "-t ext4 -b 1024 -N 256 -J size=1",
    ]
    .map(|options| image(options, 4, source.to_str()))
    .into();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % limit as u64) as usize
    };
    let mut mounted = 0;
    for round in 0..300 {
        let (path, clean) = &images[round % 5 % images.len()];
        let mut bytes = clean.clone();
        // Where something is: metadata and names come first, data is mostly zeros.
        let end = bytes.len().min(1 << 20);
        let mut flips = 1 + random(12);
        while flips > 0 {
            let at = 1024 + random(end - 1024);
            if bytes[at] != 0 || random(40) == 0 {
                bytes[at] ^= 1 << random(8);
                flips -= 1;
            }
        }
        let Ok(fixture) = Fixture::on(path.with_extension("flip"), bytes, 0) else { continue };
        mounted += 1;
        if let Ok(root) = fixture.sb.root()
            && let Some(inode) = root.inode()
        {
            poke(&inode, 0, &mut 200);
        }
        let _ = fixture.sb.ops().sync(&fixture.sb, true);
        fixture.sb.ops().put_super(&fixture.sb);
        fixture.disk.remove();
    }
    assert!(mounted > 100, "only {mounted} of 300 images could be mounted");
    for (path, _) in images {
        std::fs::remove_file(path).unwrap();
    }
    std::fs::remove_dir_all(source).unwrap();
}

/// A sync writes the chain of files without links while their last users go.
#[test]
fn deletions_during_a_sync_leave_no_trace_of_the_orphan_chain() {
    // Files of a later round would be written over the traces of an earlier one.
    for _ in 0..12 {
        let fixture = Fixture::new("-t ext4", 16, None);
        let root = fixture.root();
        let names: Vec<String> = (0..1500).map(|n| format!("file-{n}")).collect();
        let make = |name: &String| {
            let made = root.ops().create(&root, name.as_bytes(), &new(FileKind::Regular, b""));
            InodeRef::new(made.unwrap())
        };
        let files: Vec<InodeRef> = names.iter().map(make).collect();
        fixture.sb.ops().sync(&fixture.sb, true).unwrap();
        for (name, file) in names.iter().zip(&files) {
            root.ops().unlink(&root, name.as_bytes(), file.arc()).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| fixture.sb.ops().sync(&fixture.sb, true).unwrap());
            // Against the order of the chain: where the sync arrives last they go first.
            files.into_iter().rev().for_each(drop);
        });
        drop(root);
        fixture.check();
    }
}
