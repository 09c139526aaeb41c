//! Images made by `mkfs.vfat` and `mtools`, changed by this crate, judged by `fsck.vfat` and `mtools`.

use std::format;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::string::String;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec;
use std::vec::Vec;

use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use block::memory::MemoryDrive;
use block::{Disk, Limits};
use pagecache::ReadAhead;
use vfs::{DeviceNumber, FileKind, Inode, InodeRef, NewInode, SetAttr, SuperBlock, Time};

use crate::mounting::mount_as;
use crate::options::{Mounter, Options};

mod damage;
mod names;
mod random;
mod space;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Options of `mkfs.vfat` and KiB of an image: all widths, sectors and clusters of all sizes.
const SHAPES: [(&str, u64); 9] = [
    ("-F 12 -s 1", 1440),
    ("-F 12 -s 8 -S 1024", 8 << 10),
    ("-F 12 -s 2 -S 4096 -r 128", 16 << 10),
    ("-F 16 -s 1", 8 << 10),
    ("-F 16 -s 16 -f 1", 64 << 10),
    ("-F 16 -s 4 -S 2048", 64 << 10),
    ("-F 32 -s 1", 40 << 10),
    ("-F 32 -s 8", 280 << 10),
    ("-F 32 -s 1 -f 1 -S 1024", 72 << 10),
];

/// An image on a drive in memory, mounted.
struct Fixture {
    drive: Arc<MemoryDrive>,
    disk: Arc<Disk>,
    sb: Arc<SuperBlock>,
    image: Image,
}

/// An image file, which goes with the test.
struct Image(PathBuf);

impl Image {
    fn new(options: &str, kib: u64) -> Image {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fat-{}-{number}.img", std::process::id()));
        fs::File::create(&path).unwrap().set_len(kib << 10).unwrap();
        let image = Image(path);
        image.run("mkfs.vfat", &options.split_whitespace().collect::<Vec<_>>(), &[]);
        image
    }

    /// Runs a program on the image; what it prints.
    fn run(&self, program: &str, before: &[&str], after: &[&str]) -> String {
        let mut command = Command::new(program);
        command.env("MTOOLS_SKIP_CHECK", "1").args(before).arg(&self.0).args(after);
        let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {before:?} {after:?}: {text}{errors}");
        text
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }

    fn store(&self, bytes: &[u8]) {
        fs::write(&self.0, bytes).unwrap();
    }

    fn check(&self) {
        self.run("fsck.vfat", &["-n", "-v"], &[]);
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Mounts bytes.
fn open(bytes: Vec<u8>, data: &str) -> Result<(Arc<MemoryDrive>, Arc<Disk>, Arc<SuperBlock>)> {
    frames::init_host(512 << 20);
    let sectors = bytes.len() as u64 / 512;
    let drive = MemoryDrive::new(bytes, Limits::default());
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let disk = Disk::add(&format!("fat{number}"), drive.clone(), sectors)?;
    let (is_vfat, data) = match data.strip_prefix("msdos") {
        Some(data) => (false, data),
        None => (true, data),
    };
    let root = Mounter { uid: 0, gid: 0, umask: 0o022 };
    let options = Options::parse(is_vfat, data.as_bytes(), root)?;
    match mount_as(if is_vfat { "vfat" } else { "msdos" }, disk.whole(), 0, options) {
        Ok(sb) => Ok((drive, disk, sb)),
        Err(error) => {
            disk.remove();
            Err(error)
        }
    }
}

impl Fixture {
    fn new(options: &str, kib: u64, data: &str) -> Fixture {
        Fixture::on(Image::new(options, kib), data)
    }

    fn on(image: Image, data: &str) -> Fixture {
        let (drive, disk, sb) = open(image.bytes(), data).unwrap();
        Fixture { drive, disk, sb, image }
    }

    fn root(&self) -> Arc<Inode> {
        self.sb.root().unwrap().inode().unwrap()
    }

    /// Unmounts.
    fn close(self) -> Image {
        self.sb.ops().put_super(&self.sb);
        self.image.store(&self.drive.contents());
        self.disk.remove();
        self.image
    }

    /// Unmounts and lets `fsck.vfat` judge.
    fn check(self) -> Image {
        let image = self.close();
        image.check();
        image
    }
}

fn new(kind: FileKind) -> NewInode<'static> {
    NewInode {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: DeviceNumber::NONE,
        target: b"",
        now: Time::new(1_700_000_001, 567_000_000),
    }
}

fn make(dir: &Arc<Inode>, name: &str, kind: FileKind) -> Result<InodeRef> {
    dir.ops().create(dir, name.as_bytes(), &new(kind)).map(InodeRef::new)
}

fn find(dir: &Arc<Inode>, name: &str) -> Result<Arc<Inode>> {
    dir.ops().lookup(dir, name.as_bytes())?.ok_or(Errno::ENOENT)
}

fn remove(dir: &Arc<Inode>, name: &str, victim: &Arc<Inode>) -> Result<()> {
    match victim.is_dir() {
        true => dir.ops().rmdir(dir, name.as_bytes(), victim),
        false => dir.ops().unlink(dir, name.as_bytes(), victim),
    }
}

/// What `write(2)` does of it.
fn write(inode: &Inode, pos: u64, bytes: &[u8]) -> Result<()> {
    let node = crate::node::node(inode)?;
    let mapping = inode.mapping().unwrap();
    node.fill(mapping, pos)?;
    let result = mapping.write(pos, &mut Source::kernel(bytes));
    node.mark_dirty();
    node.trim(inode)?;
    if result? == bytes.len() { Ok(()) } else { Err(Errno::ENOSPC) }
}

fn set_size(inode: &Arc<Inode>, size: u64) -> Result<()> {
    let change = SetAttr { size: Some(size), now: Time::now(), ..SetAttr::default() };
    inode.ops().setattr(inode, &change)
}

fn read(inode: &Inode) -> Result<Vec<u8>> {
    let mut bytes = vec![0; inode.size() as usize];
    let mapping = inode.mapping().unwrap();
    let mut done = 0;
    while done < bytes.len() {
        let ahead = ReadAhead::new();
        match mapping.read(done as u64, &mut Sink::kernel(&mut bytes[done..]), &ahead)? {
            0 => return Err(Errno::EIO),
            count => done += count,
        }
    }
    Ok(bytes)
}

/// The names of a directory in the order of the disk.
fn list(dir: &Inode) -> Vec<String> {
    let listing = crate::node::node(dir).unwrap().listing.lock();
    let (mut at, mut names) = (0, Vec::new());
    while let Some((first, entry)) = listing.next(at) {
        names.push(String::from_utf8_lossy(&entry.name).into_owned());
        at = first + entry.count;
    }
    names
}

#[test]
fn what_mtools_wrote_is_read() {
    let folder = std::env::temp_dir().join(format!("fat-src-{}", std::process::id()));
    fs::create_dir_all(folder.join("Folder with a long name/sub")).unwrap();
    let big: Vec<u8> = (0..300_001_u32).map(|at| (at / 7) as u8).collect();
    fs::write(folder.join("Folder with a long name/big.bin"), &big).unwrap();
    fs::write(folder.join("SHORT.TXT"), b"short").unwrap();
    fs::write(folder.join("lower.txt"), b"lower").unwrap();
    for number in 0..100 {
        let name = format!("Folder with a long name/sub/file number {number}.text");
        fs::write(folder.join(name), format!("{number}")).unwrap();
    }
    let sources: Vec<String> = ["Folder with a long name", "SHORT.TXT", "lower.txt"]
        .map(|name| folder.join(name).to_str().unwrap().into())
        .to_vec();
    for (options, kib) in SHAPES {
        let image = Image::new(options, kib);
        let mut after: Vec<&str> = vec!["-s"];
        after.extend(sources.iter().map(String::as_str));
        after.push("::");
        image.run("mcopy", &["-i"], &after);
        let fixture = Fixture::on(image, "");
        let root = fixture.root();
        let mut names = list(&root);
        names.sort();
        assert_eq!(names, ["Folder with a long name", "SHORT.TXT", "lower.txt"], "{options}");
        let dir = find(&root, "folder WITH a long name").unwrap();
        assert!(read(&find(&dir, "BIG.bin").unwrap()).unwrap() == big, "{options}");
        assert_eq!((root.nlink(), dir.nlink()), (3, 3));
        assert_eq!(find(&root, "FOLDER~1").unwrap().ino, dir.ino);
        let sub = find(&dir, "sub").unwrap();
        assert_eq!(list(&sub).len(), 100);
        let file = find(&sub, "file number 57.text").unwrap();
        assert_eq!(read(&file).unwrap(), b"57");
        drop((root, dir, sub, file));
        fixture.check();
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn times_and_attributes_stay() {
    let fixture = Fixture::new("-F 16 -s 4", 16 << 10, "");
    let root = fixture.root();
    let file = make(&root, "file", FileKind::Regular).unwrap();
    assert_eq!(file.btime(), Some(Time::new(1_700_000_001, 560_000_000)));
    assert_eq!(file.mtime(), Time::new(1_700_000_000, 0));
    assert_eq!(file.atime(), Time::new(1_699_920_000, 0));
    let set = |change: SetAttr| file.ops().setattr(file.arc(), &change);
    let change = SetAttr {
        mtime: Some(Time::new(1_600_000_001, 5)),
        atime: Some(Time::new(1_600_100_001, 5)),
        ..SetAttr::default()
    };
    set(change).unwrap();
    set(SetAttr { mode: Some(0o555), ..SetAttr::default() }).unwrap();
    assert_eq!(file.mode() & 0o777, 0o555);
    assert_eq!(set(SetAttr { uid: Some(5), ..SetAttr::default() }).err(), Some(Errno::EPERM));
    set(SetAttr { uid: Some(0), gid: Some(0), ..SetAttr::default() }).unwrap();
    set(SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    assert_eq!(file.mode() & 0o777, 0o555);
    drop((root, file));
    let fixture = Fixture::on(fixture.check(), "");
    let root = fixture.root();
    let file = find(&root, "file").unwrap();
    assert_eq!(file.mode() & 0o777, 0o555);
    assert_eq!(file.mtime(), Time::new(1_600_000_000, 0));
    assert_eq!(file.atime(), Time::new(1_600_041_600, 0));
    assert_eq!(file.btime(), Some(Time::new(1_700_000_001, 560_000_000)));
    drop((root, file));
    fixture.check();
}

#[test]
fn a_volume_in_use_says_so() {
    let fixture = Fixture::new("-F 32 -s 1", 40 << 10, "");
    let state = |fixture: &Fixture| fixture.drive.contents()[65] & 1;
    assert_eq!(state(&fixture), 1);
    fixture.sb.ops().remount(&fixture.sb, abi::mount::MS_RDONLY, b"").unwrap();
    assert_eq!(state(&fixture), 0);
    fixture.sb.ops().remount(&fixture.sb, 0, b"").unwrap();
    assert_eq!(state(&fixture), 1);
    let bytes = fixture.drive.contents();
    let image = fixture.check();
    // The power went.
    image.store(&bytes);
    let fixture = Fixture::on(image, "");
    assert_eq!(state(&fixture), 1);
    let image = fixture.close();
    assert_eq!(image.bytes()[65] & 1, 1);
}

#[test]
fn what_is_no_fat_is_refused() {
    let refused = |bytes: Vec<u8>| open(bytes, "").err() == Some(Errno::EINVAL);
    assert!(refused(vec![0; 1 << 20]));
    assert!(refused(vec![0xff; 1 << 20]));
    let image = Image::new("-F 16 -s 4", 16 << 10);
    for (at, value) in [(11, 1), (13, 3), (14, 0), (16, 0), (21, 7), (17, 1)] {
        let mut bytes = image.bytes();
        bytes[at] = value;
        if at == 14 {
            bytes[15] = 0;
        }
        assert!(refused(bytes), "{at}");
    }
}
