//! What a crash left is put right at mount, as `e2fsck` does it.

use super::*;

/// Writes transactions into the image's journal with `debugfs`, then recovers one copy here and
/// one with `e2fsck`: the same blocks must change.
#[test]
fn journals_are_recovered_as_e2fsck_does() {
    for (options, version) in [
        ("-t ext4 -b 1024 -J size=4", ""),
        ("-t ext4 -b 4096 -J size=8", "-c -v 3"),
        ("-t ext4 -b 4096 -J size=8 -O ^metadata_csum", "-c -v 2"),
        ("-t ext4 -b 2048 -J size=4 -O ^64bit", "-c -v 3"),
        ("-t ext3 -b 1024 -J size=4", ""),
    ] {
        let (path, _) = image(options, 32, None);
        let size = 1024 << options.contains("-b 2048") as usize;
        let size = if options.contains("4096") { 4096 } else { size };
        let data = path.with_extension("data");
        let mut script = String::new();
        for round in 0..6u8 {
            let mut bytes = vec![round + 1; size * 40];
            // A block that looks like the journal's own must be escaped.
            bytes[size * 3..size * 3 + 4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
            let file = path.with_extension(format!("data{round}"));
            std::fs::write(&file, bytes).unwrap();
            let list = |from: u32, len: u32| {
                (from..from + len).map(|b| b.to_string()).collect::<Vec<_>>().join(",")
            };
            // The blocks are free ones near the end; the last transaction is not committed.
            let start = (32 << 20) / size as u32 - 400 + u32::from(round) * 20;
            let uncommitted = if round == 5 { "-c " } else { "" };
            script += &format!("journal_open {version}\n");
            script +=
                &format!("journal_write -b {} {uncommitted}{}\n", list(start, 40), file.display());
            // `debugfs` signs revoke blocks of version 2 so that `e2fsck` gives up.
            if round == 2 && !version.contains("-v 2") {
                script += &format!("journal_write -r {}\n", list(start + 5, 10));
            }
            script += "journal_close\n";
        }
        std::fs::write(&data, script).unwrap();
        let output = Command::new("debugfs").args(["-w", "-f"]).arg(&data).arg(&path).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        let dirty = std::fs::read(&path).unwrap();
        let place = 1024 + 0x60;
        assert!(dirty[place] & 4 != 0, "{options}: no recovery is needed: {text}");

        let output = Command::new("e2fsck").args(["-fy"]).arg(&path).output().unwrap();
        assert!(output.status.code().unwrap() < 4, "{}", String::from_utf8_lossy(&output.stdout));
        let wanted = std::fs::read(&path).unwrap();
        std::fs::write(&path, &dirty).unwrap();
        let fixture = Fixture::on(path.clone(), dirty, 0).unwrap();
        let found = fixture.drive.contents();
        let blocks = (32 << 20) / size;
        for block in blocks - 500..blocks {
            let range = block * size..(block + 1) * size;
            assert!(
                found[range.clone()] == wanted[range.clone()],
                "{options}: block {block}: {} {}",
                found[range.start],
                wanted[range.start]
            );
        }
        assert!(found[(blocks - 390) * size] != 0, "{options}: nothing was copied");
        fixture.check();
        for round in 0..6 {
            std::fs::remove_file(path.with_extension(format!("data{round}"))).unwrap();
        }
        std::fs::remove_file(data).unwrap();
    }
}

#[test]
fn a_crash_frees_files_without_names() {
    let fixture = Fixture::new("-t ext4 -b 1024", 16, None);
    let root = fixture.root();
    let free = fixture.sb.ops().statfs(&fixture.sb).unwrap().free;
    let mut open = Vec::new();
    for name in [&b"a"[..], b"b", b"c"] {
        let inode =
            InodeRef::new(root.ops().create(&root, name, &new(FileKind::Regular, b"")).unwrap());
        write(&inode, 0, &[7; 100_000]).unwrap();
        root.ops().unlink(&root, name, &inode).unwrap();
        open.push(inode);
    }
    fixture.sb.ops().sync(&fixture.sb, true).unwrap();
    let crashed = fixture.drive.contents();
    drop((open, root));
    fixture.check();
    let (path, _) = image("-t ext4", 8, None);
    let fixture = Fixture::on(path, crashed, 0).unwrap();
    assert_eq!(fixture.sb.ops().statfs(&fixture.sb).unwrap().free, free);
    fixture.check();
}
