//! What happens where there is no room, and where a lot is in one place.

use super::*;

fn free(fixture: &Fixture) -> u64 {
    fixture.sb.ops().statfs(&fixture.sb).unwrap().free
}

#[test]
fn a_full_volume_says_so_and_is_free_again() {
    for (options, kib) in [("-F 12 -s 1", 1440), ("-F 16 -s 1", 8 << 10), ("-F 32 -s 1", 40 << 10)]
    {
        let fixture = Fixture::new(options, kib, "");
        let before = free(&fixture);
        let root = fixture.root();
        let file = make(&root, "big", FileKind::Regular).unwrap();
        let piece = vec![7; 100_000];
        let mut pos = 0;
        let error = loop {
            match write(&file, pos, &piece) {
                Ok(()) => pos += 100_000,
                Err(error) => break error,
            }
        };
        assert_eq!(error, Errno::ENOSPC);
        // A page is written as a whole: parts of one go on.
        assert!(free(&fixture) < 8, "{options}");
        while write(&file, file.size(), &piece[..512]).is_ok() {}
        assert_eq!(free(&fixture), 0, "{options}");
        let size = file.size();
        assert!(size.div_ceil(512) >= before - 8, "{options}");
        assert_eq!(make(&root, "dir", FileKind::Directory).err(), Some(Errno::ENOSPC));
        assert_eq!(set_size(file.arc(), size + (1 << 20)).err(), Some(Errno::ENOSPC));
        assert_eq!(file.size(), size);
        fixture.sb.ops().sync(&fixture.sb, true).unwrap();
        set_size(file.arc(), 1000).unwrap();
        assert_eq!(free(&fixture), before - 2);
        assert_eq!(file.blocks(), 2);
        remove(&root, "big", file.arc()).unwrap();
        assert_eq!(free(&fixture), before - 2);
        drop(file);
        assert_eq!(free(&fixture), before);
        drop(root);
        fixture.check();
    }
}

#[test]
fn a_root_directory_of_fixed_length_is_full() {
    let fixture = Fixture::new("-F 12 -s 1 -r 112", 1440, "");
    let root = fixture.root();
    for number in 0..112 {
        make(&root, &format!("F{number}"), FileKind::Regular).unwrap();
    }
    assert_eq!(make(&root, "MORE", FileKind::Regular).err(), Some(Errno::ENOSPC));
    let first = InodeRef::new(find(&root, "F5").unwrap());
    remove(&root, "F5", first.arc()).unwrap();
    // Two records do not fit into the place of one.
    assert_eq!(make(&root, "long name", FileKind::Regular).err(), Some(Errno::ENOSPC));
    make(&root, "MORE", FileKind::Regular).unwrap();
    drop((root, first));
    fixture.check();
}

#[test]
fn a_file_grows_by_zeros() {
    let fixture = Fixture::new("-F 32 -s 1", 40 << 10, "");
    let root = fixture.root();
    // What was on the disk before is not to be seen.
    let old = make(&root, "old", FileKind::Regular).unwrap();
    write(&old, 0, &vec![0xaa; 3 << 20]).unwrap();
    fixture.sb.ops().sync(&fixture.sb, true).unwrap();
    remove(&root, "old", old.arc()).unwrap();
    drop(old);
    let file = make(&root, "new", FileKind::Regular).unwrap();
    write(&file, 0, b"start").unwrap();
    write(&file, 1 << 20, b"end").unwrap();
    set_size(file.arc(), 2 << 20).unwrap();
    assert_eq!(file.blocks(), (2 << 20) / 512);
    drop(file);
    let fixture = {
        drop(root);
        Fixture::on(fixture.check(), "")
    };
    let root = fixture.root();
    let bytes = read(&find(&root, "new").unwrap()).unwrap();
    assert_eq!(bytes.len(), 2 << 20);
    let others = bytes.iter().filter(|byte| **byte != 0).count();
    assert_eq!(
        (&bytes[..5], &bytes[1 << 20..(1 << 20) + 3], others),
        (&b"start"[..], &b"end"[..], 8)
    );
    drop(root);
    fixture.check();
}

#[test]
fn many_names_fit_into_a_directory() {
    let fixture = Fixture::new("-F 32 -s 1", 40 << 10, "");
    let root = fixture.root();
    let dir = make(&root, "dir", FileKind::Directory).unwrap();
    for number in 0..2000 {
        make(&dir, &format!("the same beginning {number}"), FileKind::Regular).unwrap();
    }
    assert_eq!(list(&dir).len(), 2000);
    for number in (0..2000).step_by(2) {
        let name = format!("THE SAME BEGINNING {number}");
        let file = InodeRef::new(find(&dir, &name).unwrap());
        remove(&dir, &name, file.arc()).unwrap();
    }
    let size = dir.size();
    for number in 0..1000 {
        make(&dir, &format!("another beginning {number}"), FileKind::Regular).unwrap();
    }
    assert_eq!(dir.size(), size);
    drop((root, dir));
    fixture.check();
}
