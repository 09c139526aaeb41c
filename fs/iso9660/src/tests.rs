//! Images that xorriso makes, whole and damaged.

use std::format;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
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
use vfs::superblock::SuperInit;
use vfs::{FileKind, Inode, SuperBlock};

use crate::mounting::Options;
use crate::tree::{self, Node};
use crate::volume::{Names, Volume};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("iso9660-{}-{number}", std::process::id()));
        fs::create_dir_all(path.join("files")).unwrap();
        Folder(path)
    }

    fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    /// An image of the files; the options are mkisofs's.
    fn image(&self, options: &[&str]) -> Vec<u8> {
        let image = self.0.join("image");
        let mut make = Command::new("xorriso");
        make.args(["-as", "mkisofs", "-quiet"]).args(options).arg("-o").arg(&image);
        let output = make.arg(self.files()).output().expect("xorriso is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(image).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The root directory of an image.
fn open(image: Vec<u8>, options: &str) -> Result<(Arc<Inode>, Names)> {
    frames::init_host(256 << 20);
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("iso{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let sectors = image.len() as u64 / 512;
    let disk = Disk::add(&name, MemoryDrive::new(image, Limits::default()), sectors)?;
    let device = disk.whole();
    let options = Options::parse(options.as_bytes())?;
    let volume = Volume::open(device, &options)?;
    let names = volume.names;
    let medium = tree::medium(volume, options, device.claim()?);
    let sb = SuperBlock::new(SuperInit::pseudo("iso9660", 0x9660), tree::operations(&medium));
    let root = medium.root(&sb)?;
    disk.remove();
    Ok((root, names))
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

fn link(inode: &Inode) -> Vec<u8> {
    inode.ops().link_text().unwrap().to_vec()
}

/// Compares a tree of the host with one of an image.
fn compare(host: &HostPath, dir: &Arc<Inode>) {
    let mut count = 0;
    for entry in fs::read_dir(host).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let inode = find(dir, &name).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        count += 1;
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            assert_eq!(link(&inode), target.to_str().unwrap().as_bytes());
        } else if kind.is_dir() {
            compare(&entry.path(), &inode);
        } else {
            assert!(contents(&inode).unwrap() == fs::read(entry.path()).unwrap(), "{name}");
        }
    }
    assert_eq!(inode_names(dir), count);
}

fn inode_names(dir: &Inode) -> usize {
    dir.private::<Node>().unwrap().count().unwrap()
}

fn sample(folder: &Folder) {
    let files = folder.files();
    let bytes: Vec<u8> = (0..300_001).map(|at: usize| (at * 7 + at / 512) as u8).collect();
    for len in [0, 1, 511, 512, 2047, 2048, 2049, 4096, 300_001] {
        fs::write(files.join(format!("File with {len} bytes.text")), &bytes[..len]).unwrap();
    }
    let mut deep = files.clone();
    for level in 0..12 {
        deep = deep.join(format!("level {level}"));
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("x"), format!("{level}")).unwrap();
    }
    symlink("../a/b/../c", files.join("relative")).unwrap();
    symlink("/usr/lib", files.join("absolute")).unwrap();
    symlink(vec!["long"; 150].join("/"), files.join("long link")).unwrap();
    fs::write(files.join("n".repeat(250)), b"long name").unwrap();
    fs::create_dir(files.join("many")).unwrap();
    for number in 0..300 {
        fs::write(files.join(format!("many/entry number {number}")), b"").unwrap();
    }
}

#[test]
fn rock_ridge_has_what_the_host_had() {
    let folder = Folder::new();
    sample(&folder);
    let mode = fs::Permissions::from_mode(0o711);
    fs::set_permissions(folder.files().join("many"), mode).unwrap();
    let (root, names) = open(folder.image(&["-R", "-J", "-joliet-long"]), "").unwrap();
    assert!(matches!(names, Names::RockRidge { .. }));
    compare(&folder.files(), &root);
    let many = find(&root, "many").unwrap();
    assert_eq!((many.kind, many.mode() & 0o777), (FileKind::Directory, 0o711));
}

#[test]
fn joliet_and_plain_names_are_other_trees() {
    let folder = Folder::new();
    let files = folder.files();
    fs::write(files.join("Größe und Gewicht.txt"), b"euro").unwrap();
    fs::create_dir(files.join("Ordner")).unwrap();
    fs::write(files.join("Ordner/readme"), b"r").unwrap();
    let image = folder.image(&["-J", "-input-charset", "utf-8"]);
    let (root, names) = open(image.clone(), "norock").unwrap();
    assert_eq!(names, Names::Joliet);
    compare(&files, &root);
    let (root, names) = open(image, "norock,nojoliet").unwrap();
    assert_eq!(names, Names::Plain);
    assert_eq!(contents(&find(&root, "ordner/readme").unwrap()).unwrap(), b"r");
    assert!(find(&root, "Ordner").is_err());
}

/// No damage does more than an error: every byte of the metadata in turn, and bytes at random.
#[test]
fn damage_is_an_error_at_most() {
    fn visit(dir: &Arc<Inode>, depth: usize) {
        let Some(names) = dir.private::<Node>().and_then(|node| node.names().ok()) else { return };
        for name in names.iter().take(40) {
            let Ok(Some(inode)) = dir.ops().lookup(dir, name) else { continue };
            if inode.kind == FileKind::Directory && depth < 4 {
                visit(&inode, depth + 1);
            } else if inode.kind == FileKind::Regular && inode.size() < 1 << 20 {
                let _ = contents(&inode);
            }
        }
    }
    let folder = Folder::new();
    fs::create_dir(folder.files().join("dir")).unwrap();
    fs::write(folder.files().join("dir/file"), vec![5; 5000]).unwrap();
    symlink("a/b", folder.files().join("link")).unwrap();
    let image = folder.image(&["-R"]);
    let end = image.len().min(64 << 11);
    let mut state = 1_u64;
    for round in 0..400_u64 {
        let mut damaged = image.clone();
        for _ in 0..=round % 4 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (16 << 11) + (state >> 33) as usize % (end - (16 << 11));
            damaged[at] = (state >> 25) as u8;
        }
        if let Ok((root, _)) = open(damaged, "") {
            visit(&root, 0);
        }
    }
    assert_eq!(open(vec![0; 1 << 20], "").err(), Some(Errno::EINVAL));
    assert_eq!(open(image[..36 << 10].to_vec(), "").err(), Some(Errno::EIO));
}
