//! What unmounting leaves: a device that is free, and a bare device that shows what is on it. And what
//! becomes of files that nobody uses.

use std::sync::Arc;

use arch::uio::Source;
use vfs::{FileKind, InodeRef};

use crate::node::Node;

use super::{Fixture, new, read, write};

#[test]
fn the_device_is_free_though_an_inode_lives_on() {
    let fixture = Fixture::new("-t ext4", 16, None);
    let root = fixture.root();
    let inode = root.ops().create(&root, b"file", &new(FileKind::Regular, b"")).unwrap();
    let file = InodeRef::new(inode);
    write(&file, 0, b"contents").unwrap();
    let device = fixture.disk.whole().clone();
    assert!(device.is_claimed());
    fixture.sb.ops().put_super(&fixture.sb);
    assert!(!device.is_claimed());
    let again = crate::mount(&device, 0, b"").unwrap();
    assert!(device.is_claimed());
    again.ops().put_super(&again);
    drop((root, file));
    fixture.check();
}

#[test]
fn the_bare_device_is_the_file_system_s() {
    let fixture = Fixture::new("-t ext4 -b 1024 -O ^metadata_csum", 16, None);
    let device = fixture.disk.whole().clone();
    let cached = || {
        let mut bytes = vec![0; 16 << 20];
        device.read_at(0, &mut bytes).unwrap();
        bytes
    };
    let before = cached();
    let root = fixture.root();
    for number in 0..200 {
        let name = format!("a file of some name {number}");
        let inode =
            root.ops().create(&root, name.as_bytes(), &new(FileKind::Regular, b"")).unwrap();
        write(&InodeRef::new(inode), 0, name.as_bytes()).unwrap();
    }
    fixture.sb.ops().put_super(&fixture.sb);
    let after = cached();
    assert_ne!(before, after);
    assert!(after == fixture.drive.contents());
    // And what a program writes is there for the next mount, synced or not.
    let label = *b"a new label\0\0\0\0\0";
    let at = 1024 + 0x78;
    let bare = Arc::clone(device.mapping());
    assert_eq!(bare.write(at, &mut Source::kernel(&label)), Ok(label.len()));
    let again = crate::mount(&device, abi::mount::MS_RDONLY, b"").unwrap();
    assert_eq!(fixture.drive.contents()[at as usize..][..16], label);
    again.ops().put_super(&again);
    drop(root);
    fixture.disk.remove();
    std::fs::remove_file(&fixture.path).unwrap();
}

#[test]
fn a_file_that_nobody_uses_lives_until_its_data_is_on_the_disk() {
    let fixture = Fixture::new("-t ext4", 16, None);
    let root = fixture.root();
    let inode = root.ops().create(&root, b"file", &new(FileKind::Regular, b"")).unwrap();
    let file = InodeRef::new(inode);
    write(&file, 0, b"contents").unwrap();
    // The inode is stored long before the data; then the last user goes.
    let fs = file.private::<Node>().unwrap().fs.clone();
    fs.store_metadata().unwrap();
    let known = Arc::downgrade(file.arc());
    drop(file);
    let again = InodeRef::new(root.ops().lookup(&root, b"file").unwrap().unwrap());
    assert_eq!(read(&again), b"contents");
    drop(again);
    fixture.sb.ops().sync(&fixture.sb, true).unwrap();
    fs.device.flusher().write_all(pagecache::Wait::ForDevice);
    assert!(known.upgrade().is_none());
    let again = InodeRef::new(root.ops().lookup(&root, b"file").unwrap().unwrap());
    assert_eq!(read(&again), b"contents");
    drop((root, again));
    fixture.check();
}

#[test]
fn features_that_files_need_are_added() {
    let fixture = Fixture::new("-t ext4 -b 1024 -O ^ext_attr,^large_file", 16, None);
    let root = fixture.root();
    let inode = root.ops().create(&root, b"file", &new(FileKind::Regular, b"")).unwrap();
    let file = InodeRef::new(inode);
    file.ops().set_xattr(&file, b"user.long", &[b'x'; 700], 0).unwrap();
    write(&file, 3 << 30, b"far away").unwrap();
    drop((root, file));
    fixture.check();
}
