//! A file system whose drive's power can be cut, and what is found on it afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::power::Recorder;
use super::*;

/// A random number generator.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A file system on a [`Recorder`].
pub(super) struct Bench {
    pub(super) drive: Arc<Recorder>,
    disk: Arc<Disk>,
    pub(super) sb: Arc<SuperBlock>,
}

pub(super) fn attach(drive: &Arc<Recorder>, size: usize) -> Arc<Disk> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Disk::add(&format!("cut{number}"), drive.clone(), size as u64 / 512).unwrap()
}

impl Bench {
    pub(super) fn new(bytes: Vec<u8>, unit: usize) -> Bench {
        Bench::with(bytes, unit, "")
    }

    /// The same with mount options.
    pub(super) fn with(bytes: Vec<u8>, unit: usize, options: &str) -> Bench {
        frames::init_host(512 << 20);
        let size = bytes.len();
        let drive = Recorder::new(bytes, unit);
        let disk = attach(&drive, size);
        let sb = crate::mount(disk.whole(), 0, options.as_bytes()).unwrap();
        Bench { drive, disk, sb }
    }

    pub(super) fn root(&self) -> Arc<Inode> {
        self.sb.root().unwrap().inode().unwrap()
    }

    /// Unmounts; what is on the drive then.
    pub(super) fn close(self) -> Vec<u8> {
        self.unmount();
        let contents = self.drive.contents();
        self.drive.empty();
        contents
    }

    pub(super) fn unmount(&self) {
        self.sb.ops().put_super(&self.sb);
        self.disk.remove();
    }
}

/// Name, contents and attributes of all that is in a directory and below it.
pub(super) type Tree = BTreeMap<String, (char, u64, Vec<u8>)>;

pub(super) fn walk(dir: &Arc<Inode>, prefix: &str, tree: &mut Tree) {
    for name in super::names(dir, 1000) {
        if name == "." || name == ".." {
            continue;
        }
        let inode = dir.ops().lookup(dir, name.as_bytes()).unwrap().unwrap();
        let path = format!("{prefix}{name}");
        let mut attributes = Vec::new();
        inode.ops().list_xattr(&inode, &mut attributes).unwrap();
        match inode.kind {
            FileKind::Directory => {
                tree.insert(path.clone(), ('d', inode.nlink().into(), attributes));
                walk(&inode, &format!("{path}/"), tree);
            }
            FileKind::Regular => {
                let mut contents = read(&inode);
                contents.extend(attributes);
                tree.insert(path, ('f', inode.size(), contents));
            }
            _ => drop(tree.insert(path, ('o', inode.size(), attributes))),
        }
    }
}

pub(super) fn fsck(how: &str, path: &Path) -> (i32, String) {
    let output = Command::new("e2fsck").arg(how).arg(path).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is in an image that needs no recovery, or gets ours. Leaves it clean.
pub(super) fn look(image: Vec<u8>, path: &Path, context: &str) -> Tree {
    let bench = Bench::new(image, 4096);
    let mut tree = Tree::new();
    walk(&bench.root(), "", &mut tree);
    std::fs::write(path, bench.close()).unwrap();
    let (code, text) = fsck("-fn", path);
    assert_eq!(code, 0, "{context}: after our recovery: {text}");
    tree
}

/// Recovers an image in both ways; returns what is there then.
pub(super) fn recover(image: Vec<u8>, path: &Path, context: &str) -> Tree {
    std::fs::write(path, &image).unwrap();
    let (code, text) = fsck("-fy", path);
    if code > 1 || text.contains("yes") {
        let kept = path.with_extension("bad");
        std::fs::write(&kept, &image).unwrap();
        panic!("{context}: e2fsck -fy ({code}), see {}: {text}", kept.display());
    }
    let (code, text) = fsck("-fn", path);
    assert_eq!(code, 0, "{context}: {text}");
    let theirs = look(std::fs::read(path).unwrap(), path, context);
    let ours = look(image, path, context);
    for name in theirs.keys().chain(ours.keys()) {
        let same = theirs.get(name) == ours.get(name);
        assert!(same, "{context}: {name} differs from what e2fsck makes of it");
    }
    ours
}

pub(super) fn scratch(name: &str) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ext4-{name}-{}-{number}.img", std::process::id()))
}

/// How many cuts each test makes: more with `EXT4_CUTS`.
pub(super) fn cuts() -> u64 {
    std::env::var("EXT4_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Makes the work another with `EXT4_SEED`.
pub(super) fn seeded(seed: u64) -> u64 {
    let other = std::env::var("EXT4_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    seed ^ other.unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(super) fn block_size_of(image: &[u8]) -> usize {
    1024 << image[1024 + 0x18]
}
