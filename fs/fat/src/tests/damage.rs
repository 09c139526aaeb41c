//! Damaged images end in an error, not in a panic or an endless walk.

use super::*;

use abi::mount::MS_RDONLY;

/// An image with a file of four clusters, in a directory; where the FAT is, and the first cluster.
fn image() -> (Vec<u8>, usize, u32) {
    let fixture = Fixture::new("-F 16 -s 1", 8 << 10, "");
    let root = fixture.root();
    let dir = make(&root, "dir", FileKind::Directory).unwrap();
    let file = make(&dir, "file", FileKind::Regular).unwrap();
    write(&file, 0, &[5; 2048]).unwrap();
    let first = crate::node::node(&file).unwrap().first_cluster();
    drop((root, dir, file));
    let image = fixture.check();
    let bytes = image.bytes();
    let reserved = usize::from(u16::from_le_bytes([bytes[14], bytes[15]]));
    (bytes, reserved * 512, first)
}

#[test]
fn wrong_chains_are_errors_and_nothing_is_written_any_more() {
    let (bytes, fat, first) = image();
    let entry = fat + first as usize * 2;
    // Free, no cluster, bad, beyond the end, the end too early.
    for value in [0_u16, 1, 0xfff7, 0xfff0, 0xffff] {
        let mut damaged = bytes.clone();
        damaged[entry..entry + 2].copy_from_slice(&value.to_le_bytes());
        let (_, disk, sb) = open(damaged, "").unwrap();
        let root = sb.root().unwrap().inode().unwrap();
        let dir = find(&root, "dir").unwrap();
        let file = find(&dir, "file").unwrap();
        assert_eq!(read(&file).err(), Some(Errno::EIO), "{value:x}");
        assert!(sb.flags() & MS_RDONLY != 0);
        assert_eq!(write(&file, 4000, b"x").err(), Some(Errno::EROFS));
        sb.ops().put_super(&sb);
        disk.remove();
    }
    // A circle in the chain of a file that says that it is long.
    let mut damaged = bytes.clone();
    damaged[entry + 4..entry + 6].copy_from_slice(&(first as u16 + 1).to_le_bytes());
    let record = damaged.windows(11).position(|name| name == b"FILE       ").unwrap();
    damaged[record + 28..record + 32].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    let (_, disk, sb) = open(damaged, "").unwrap();
    let root = sb.root().unwrap().inode().unwrap();
    let file = find(&find(&root, "dir").unwrap(), "file").unwrap();
    let pieces = crate::node::node(&file).unwrap().pieces(1 << 29, 1 << 30, 1 << 30);
    assert_eq!(pieces.err(), Some(Errno::EIO));
    assert!(sb.flags() & MS_RDONLY != 0);
    sb.ops().put_super(&sb);
    disk.remove();
    // A circle in a directory's chain.
    let mut damaged = bytes.clone();
    let entry = fat + (first as usize - 1) * 2;
    damaged[entry..entry + 2].copy_from_slice(&((first - 1) as u16).to_le_bytes());
    let (_, disk, sb) = open(damaged, "errors=continue").unwrap();
    let root = sb.root().unwrap().inode().unwrap();
    assert_eq!(find(&root, "dir").err(), Some(Errno::EIO));
    assert_eq!(sb.flags() & MS_RDONLY, 0);
    sb.ops().put_super(&sb);
    disk.remove();
}

fn visit(dir: &Arc<Inode>, depth: usize) {
    for name in list(dir).iter().take(20) {
        let Ok(inode) = find(dir, name).map(InodeRef::new) else { continue };
        if inode.is_dir() && depth < 3 {
            visit(inode.arc(), depth + 1);
        } else if !inode.is_dir() {
            let _ = inode.size() < 1 << 20 && read(&inode).is_ok();
            let _ = write(&inode, 100, &[1; 3000]);
            let _ = set_size(inode.arc(), 700);
            let _ = remove(dir, name, inode.arc());
        }
    }
    let _ = make(dir, "some new name", FileKind::Directory);
    let _ = make(dir, "NEW", FileKind::Regular).map(|file| write(&file, 0, &[2; 5000]));
}

#[test]
fn damage_is_an_error_at_most() {
    let (image, ..) = image();
    let mut state = 1_u64;
    for round in 0..300_u64 {
        let mut damaged = image.clone();
        for _ in 0..=round % 6 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            // The boot sector, the FAT or what is behind.
            let reach = [64, 2048, 120 << 10][(state >> 60) as usize % 3];
            damaged[(state >> 33) as usize % reach] = (state >> 25) as u8;
        }
        if let Ok((_, disk, sb)) = open(damaged, "errors=continue") {
            visit(&sb.root().unwrap().inode().unwrap(), 0);
            sb.ops().put_super(&sb);
            disk.remove();
        }
    }
}
