//! Images that mksquashfs makes, whole and damaged.

use std::format;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path as HostPath, PathBuf};
use std::process::Command;
use std::string::String;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec;
use std::vec::Vec;

use abi::{Errno, Result};
use arch::uio::Sink;
use block::memory::MemoryDrive;
use block::{Disk, Limits};
use vfs::{DirEntry, DirSink, FileKind, Inode, SuperBlock};

use crate::tree::Node;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("squashfs-{}-{number}", std::process::id()));
        fs::create_dir_all(path.join("files")).unwrap();
        Folder(path)
    }

    fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    /// An image of the files, with mksquashfs's options.
    fn image(&self, options: &str) -> Vec<u8> {
        let image = self.0.join("image");
        let mut make = Command::new("mksquashfs");
        make.arg(self.files()).arg(&image).args(["-noappend", "-quiet", "-no-progress"]);
        let output =
            make.args(options.split_whitespace()).output().expect("mksquashfs is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(image).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An image, mounted. The device goes with the file system.
fn open(image: Vec<u8>) -> Result<Arc<SuperBlock>> {
    frames::init_host(512 << 20);
    let name = format!("squash{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let sectors = image.len() as u64 / 512;
    let disk = Disk::add(&name, MemoryDrive::new(image, Limits::default()), sectors)?;
    let sb = crate::mount(disk.whole(), 0, b"");
    disk.remove();
    sb
}

fn root(sb: &SuperBlock) -> Arc<Inode> {
    sb.root().unwrap().inode().unwrap()
}

fn find(from: &Arc<Inode>, path: &str) -> Result<Arc<Inode>> {
    let mut at = from.clone();
    for name in path.split('/') {
        at = at.ops().lookup(&at, name.as_bytes())?.ok_or(Errno::ENOENT)?;
    }
    Ok(at)
}

fn contents(inode: &Inode) -> Result<Vec<u8>> {
    let mut bytes = vec![0; inode.size() as usize];
    let mapping = inode.mapping().ok_or(Errno::EISDIR)?;
    let mut done = 0;
    while done < bytes.len() {
        let ahead = pagecache::ReadAhead::new();
        match mapping.read(done as u64, &mut Sink::kernel(&mut bytes[done..]), &ahead)? {
            0 => return Err(Errno::EIO),
            count => done += count,
        }
    }
    Ok(bytes)
}

/// Takes so many entries.
struct Names {
    names: Vec<Vec<u8>>,
    room: usize,
}

impl DirSink for Names {
    fn emit(&mut self, entry: &DirEntry<'_>) -> bool {
        if self.room == 0 {
            return false;
        }
        self.room -= 1;
        self.names.push(entry.name.to_vec());
        true
    }
}

/// The names of a directory, asked for a few at a time.
fn list(dir: &Inode, step: usize) -> Result<Vec<Vec<u8>>> {
    let node = dir.private::<Node>().unwrap();
    let (mut cursor, mut names) = (0, Vec::new());
    loop {
        let mut some = Names { names: Vec::new(), room: step };
        cursor = node.list(dir, cursor, &mut some)?;
        if some.names.is_empty() {
            assert!(names.len() >= 2);
            return Ok(names.split_off(2));
        }
        names.extend(some.names);
    }
}

/// Compares a tree of the host with one of an image.
fn compare(host: &HostPath, dir: &Arc<Inode>) {
    let mut count = 0;
    for entry in fs::read_dir(host).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let inode = find(dir, &name).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        count += 1;
        let facts = entry.path().symlink_metadata().unwrap();
        assert_eq!(inode.mode(), facts.mode(), "{name}");
        assert_eq!((inode.uid(), inode.gid()), (facts.uid(), facts.gid()));
        assert_eq!(inode.mtime().sec, facts.mtime());
        if facts.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            let text = inode.ops().link_text().unwrap();
            assert_eq!(&*text, target.to_str().unwrap().as_bytes());
        } else if facts.is_dir() {
            compare(&entry.path(), &inode);
        } else if facts.is_file() {
            assert_eq!(u64::from(inode.nlink()), facts.nlink());
            assert!(contents(&inode).unwrap() == fs::read(entry.path()).unwrap(), "{name}");
        }
    }
    assert_eq!(list(dir, 7).unwrap().len(), count);
}

fn sample(folder: &Folder) {
    let files = folder.files();
    let bytes: Vec<u8> = (0..2_500_001_usize).map(|at| (at * 7 + at / 512) as u8).collect();
    for len in [0, 1, 4095, 4096, 4097, 131_071, 131_072, 131_073, 2_500_001] {
        fs::write(files.join(format!("file of {len}")), &bytes[..len]).unwrap();
    }
    let mut sparse = vec![0; 3 << 20];
    sparse[1_500_000..1_500_010].fill(9);
    sparse[(3 << 20) - 5..].fill(8);
    fs::write(files.join("sparse"), sparse).unwrap();
    fs::hard_link(files.join("file of 1"), files.join("linked")).unwrap();
    symlink("../a/b/../c", files.join("relative")).unwrap();
    symlink("l".repeat(1000), files.join("long link")).unwrap();
    let mut deep = files.clone();
    for level in 0..8 {
        deep = deep.join(format!("level {level}"));
        fs::create_dir(&deep).unwrap();
    }
    fs::write(deep.join("n".repeat(255)), b"long name").unwrap();
    fs::create_dir(files.join("many")).unwrap();
    for number in 0..2000 {
        fs::write(files.join(format!("many/entry number {number}")), format!("{number}")).unwrap();
    }
    fs::create_dir(files.join("empty")).unwrap();
    fs::copy("/bin/true", files.join("program")).unwrap();
    fs::set_permissions(files.join("empty"), fs::Permissions::from_mode(0o1711)).unwrap();
}

#[test]
fn an_image_has_what_the_host_had() {
    let folder = Folder::new();
    sample(&folder);
    for options in [
        "-comp gzip",
        "-comp xz -b 4096",
        "-comp xz -Xbcj x86 -b 1M",
        "-comp lz4 -Xhc",
        "-comp zstd -b 16K",
        "-comp zstd -Xcompression-level 19 -b 1M",
        "-noI -noD -noF -noX",
        "-no-fragments -no-exports",
        "-always-use-fragments -b 64K",
    ] {
        let sb = open(folder.image(options)).unwrap();
        compare(&folder.files(), &root(&sb));
        let many = find(&root(&sb), "many").unwrap();
        assert_eq!(list(&many, 1).unwrap().len(), 2000, "{options}");
        assert_eq!(find(&many, "entry number 77x").err(), Some(Errno::ENOENT));
    }
}

#[test]
fn handles_lead_back() {
    let folder = Folder::new();
    fs::write(folder.files().join("file"), b"x").unwrap();
    let sb = open(folder.image("")).unwrap();
    let file = find(&root(&sb), "file").unwrap();
    let (kind, handle) = file.ops().file_handle(&file).unwrap();
    let ino = file.ino;
    drop(file);
    assert_eq!(sb.ops().inode_of_handle(&sb, kind, &handle).unwrap().ino, ino);
    let unknown = sb.ops().inode_of_handle(&sb, kind, &[9, 9, 0, 0, 0, 0, 0, 0]);
    assert_eq!(unknown.err(), Some(Errno::ESTALE));
}

#[test]
fn devices_and_attributes_are_there() {
    let folder = Folder::new();
    fs::write(folder.files().join("plain"), b"x").unwrap();
    let definitions = folder.0.join("definitions");
    fs::write(&definitions, "null c 600 0 5 1 3\ndisk b 660 0 6 8 300\nfifo i 640 1 2 f\n")
        .unwrap();
    let options = format!("-pf {}", definitions.display());
    let sb = open(folder.image(&options)).unwrap();
    let null = find(&root(&sb), "null").unwrap();
    assert_eq!((null.kind, null.mode() & 0o7777, null.gid()), (FileKind::CharDevice, 0o600, 5));
    assert_eq!((null.rdev.major(), null.rdev.minor()), (1, 3));
    let disk = find(&root(&sb), "disk").unwrap();
    assert_eq!((disk.kind, disk.rdev.major(), disk.rdev.minor()), (FileKind::BlockDevice, 8, 300));
    assert_eq!(find(&root(&sb), "fifo").unwrap().kind, FileKind::Fifo);
    let plain = find(&root(&sb), "plain").unwrap();
    let absent = plain.ops().get_xattr(&plain, b"user.x", &mut Vec::new());
    assert_eq!(absent.err(), Some(Errno::ENODATA));
}

#[test]
fn extended_attributes_are_read() {
    let folder = Folder::new();
    let values: Vec<String> = (0..40).map(|n| format!("{n}").repeat(n * 20 + 1)).collect();
    let mut set = true;
    for (number, value) in values.iter().enumerate() {
        let path = folder.files().join(format!("f{number}"));
        fs::write(&path, b"").unwrap();
        for name in ["user.one", "user.same"] {
            let value = if name == "user.one" { value.as_str() } else { values[30].as_str() };
            let done = Command::new("setfattr").args(["-n", name, "-v", value]).arg(&path).status();
            set &= done.is_ok_and(|status| status.success());
        }
    }
    if !set {
        // The host has no such attributes; the comparison with Linux has.
        return;
    }
    let sb = open(folder.image("")).unwrap();
    for (number, expected) in values.iter().enumerate() {
        let file = find(&root(&sb), &format!("f{number}")).unwrap();
        let mut value = Vec::new();
        file.ops().get_xattr(&file, b"user.one", &mut value).unwrap();
        assert_eq!(value, expected.as_bytes());
        file.ops().get_xattr(&file, b"user.same", &mut value).unwrap();
        assert_eq!(value, values[30].as_bytes());
        let mut names = Vec::new();
        file.ops().list_xattr(&file, &mut names).unwrap();
        assert_eq!(names, b"user.one\0user.same\0");
        let absent = file.ops().get_xattr(&file, b"user.two", &mut value);
        assert_eq!(absent.err(), Some(Errno::ENODATA));
    }
}

fn visit(dir: &Arc<Inode>, depth: usize) {
    let Ok(names) = list(dir, 50) else { return };
    for name in names.iter().take(30) {
        let Ok(Some(inode)) = dir.ops().lookup(dir, name) else { continue };
        let _ = inode.ops().list_xattr(&inode, &mut Vec::new());
        if inode.kind == FileKind::Directory && depth < 4 {
            visit(&inode, depth + 1);
        } else if inode.kind == FileKind::Regular && inode.size() < 1 << 22 {
            let _ = contents(&inode);
        }
    }
}

/// No damage does more than an error: plain metadata, so that it reaches the parsers, and packed ones.
#[test]
fn damage_is_an_error_at_most() {
    let folder = Folder::new();
    let files = folder.files();
    fs::create_dir(files.join("dir")).unwrap();
    fs::write(files.join("dir/file"), vec![5; 50_000]).unwrap();
    symlink("a/b", files.join("link")).unwrap();
    for number in 0..300 {
        fs::write(files.join(format!("dir/entry {number}")), b"entry").unwrap();
    }
    let mut state = 1_u64;
    for options in ["-noI -noF -noX -b 4096", "-b 4096", "-comp xz", "-comp zstd", "-comp lz4"] {
        let image = folder.image(options);
        for round in 0..150_u64 {
            let mut damaged = image.clone();
            for _ in 0..=round % 4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let reach = if state >> 63 == 0 { image.len() } else { 96 };
                damaged[(state >> 33) as usize % reach] = (state >> 25) as u8;
            }
            if let Ok(sb) = open(damaged) {
                visit(&root(&sb), 0);
            }
        }
        let cut = open(image[..image.len() / 2].to_vec());
        assert!(cut.is_err(), "{options}");
    }
    assert_eq!(open(vec![0; 1 << 20]).err(), Some(Errno::EINVAL));
}
