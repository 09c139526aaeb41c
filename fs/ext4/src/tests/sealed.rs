//! The emergency remount.

use super::*;
use abi::mount::MS_RDONLY;

/// What e2fsck says of the disk as it is.
fn disk_is_clean(fixture: &Fixture) -> bool {
    std::fs::write(&fixture.path, fixture.drive.contents()).unwrap();
    let fsck = |how: &str| Command::new("e2fsck").arg(how).arg(&fixture.path).status().unwrap();
    // Files without links are deleted first, without a question.
    let code = fsck("-p").code();
    matches!(code, Some(0 | 1)) && fsck("-fn").success()
}

#[test]
fn a_sealed_file_system_is_clean_and_stays_so() {
    let fixture = Fixture::new("-t ext4", 16, None);
    let free = fixture.sb.ops().statfs(&fixture.sb).unwrap().free;
    let root = fixture.root();
    let make = |name: &[u8]| {
        InodeRef::new(root.ops().create(&root, name, &new(FileKind::Regular, b"")).unwrap())
    };
    let (kept, first, second) = (make(b"kept"), make(b"first"), make(b"second"));
    for (file, name) in [(&first, &b"first"[..]), (&second, b"second")] {
        write(file, 0, &[3; 50_000]).unwrap();
        root.ops().unlink(&root, name, file.arc()).unwrap();
    }
    write(&kept, 0, &[1; 200_000]).unwrap();
    fixture.sb.set_flags(fixture.sb.flags() | MS_RDONLY);
    fixture.sb.ops().seal(&fixture.sb).unwrap();
    assert!(disk_is_clean(&fixture));

    let before = fixture.drive.contents();
    assert_eq!(write(&kept, 0, &[2; 10]), Err(Errno::EROFS));
    assert_eq!(write(&first, 0, &[2; 10]), Err(Errno::EROFS));
    drop(first);
    fixture.sb.ops().sync(&fixture.sb, true).unwrap();
    assert!(fixture.drive.contents() == before, "the disk has changed");
    assert!(read(&kept) == [1; 200_000]);

    // Writable again: who has gone meanwhile goes for good, who is open does not.
    fixture.sb.set_flags(fixture.sb.flags() & !MS_RDONLY);
    fixture.sb.ops().remount(&fixture.sb, fixture.sb.flags(), b"").unwrap();
    assert!(read(&second) == [3; 50_000]);
    write(&second, 50_000, &[4; 10]).unwrap();
    root.ops().unlink(&root, b"kept", kept.arc()).unwrap();
    drop((kept, second));
    assert_eq!(fixture.sb.ops().statfs(&fixture.sb).unwrap().free, free);
    drop(root);
    fixture.check();
}
