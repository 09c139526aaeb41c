//! Where data goes: `data=`, the flag of single files, and the options about blocks, over power cuts.

use super::bench::{Bench, cuts, recover, scratch};
use super::crash::{survives_cuts_with, threads_work};
use super::worker::write_file;
use super::*;
use crate::node::{Node, flags};

const JOURNAL: &str = "data=journal";

#[test]
fn power_cuts_with_data_in_the_journal() {
    survives_cuts_with(JOURNAL, "-t ext4 -b 4096", None, 24, 400, 0x1134_5678_9abc_def1);
    survives_cuts_with(JOURNAL, "-t ext4 -b 1024 -J size=1", None, 16, 700, 0x2134_5678_9abc_def1);
    let old = "-t ext3 -b 1024 -I 256 -J size=1";
    survives_cuts_with(JOURNAL, old, None, 16, 500, 0x3134_5678_9abc_def1);
}

#[test]
fn power_cuts_with_unordered_data() {
    let mount = "data=writeback";
    survives_cuts_with(mount, "-t ext4 -b 4096", None, 24, 400, 0x4134_5678_9abc_def1);
    survives_cuts_with(mount, "-t ext4 -b 1024 -J size=1", None, 16, 700, 0x5134_5678_9abc_def1);
}

#[test]
fn power_cuts_with_blocks_allocated_at_once() {
    let mount = "nodelalloc";
    survives_cuts_with(mount, "-t ext4 -b 4096", None, 24, 400, 0x6134_5678_9abc_def1);
    let old = "-t ext3 -b 1024 -I 256 -J size=1";
    survives_cuts_with(mount, old, None, 16, 500, 0x7134_5678_9abc_def1);
}

#[test]
fn power_cuts_while_threads_journal_data() {
    threads_work(JOURNAL);
}

/// Sets or clears the flag of a file, as the device control does.
fn set_flag(inode: &InodeRef, on: bool) {
    let node = inode.private::<Node>().unwrap();
    node.change_logging(inode, on).unwrap();
}

/// Blocks that were journaled are written in place, and given to others, after the flag is gone.
#[test]
fn a_flag_on_a_file_journals_its_data() {
    let (path, bytes) = image("-t ext4 -b 1024 -J size=1", 16, None);
    let bench = Bench::new(bytes, 1024);
    let root = bench.root();
    let made = root.ops().create(&root, b"file", &new(FileKind::Regular, b""));
    let file = InodeRef::new(made.unwrap());
    let node = file.private::<Node>().unwrap();
    let out = scratch("flag");
    let mut random = super::bench::Random(0x3399);
    for round in 0..6u8 {
        set_flag(&file, round % 2 == 0);
        assert_eq!(node.state.lock().flags & flags::JOURNAL_DATA != 0, round % 2 == 0);
        write_file(&file, 0, &vec![round + 1; 30_000]);
        crate::file::make_durable(&file, node, 0..u64::MAX, true).unwrap();
        let begun = bench.drive.position();
        // What comes next is not synced: the old contents, the new, or parts of both.
        write_file(&file, 5000, &vec![round + 101; 9000]);
        file.mapping().unwrap().start_writeback(0, i64::MAX as u64);
        node.fs.commit_old().unwrap();
        let ended = bench.drive.position();
        for _ in 0..cuts().min(20) {
            let at = begun + random.below((ended - begun) as u64 + 1) as usize;
            let image = bench.drive.cut(at, &mut || random.below(2) == 0);
            let tree = recover(image, &out, &format!("round {round}: cut after {at} of {ended}"));
            let (_, size, contents) = &tree["file"];
            assert_eq!(*size, 30_000);
            let fresh = |at: usize| (5000..14_000).contains(&at) && contents[at] == round + 101;
            let wrong = (0..30_000).find(|&at| contents[at] != round + 1 && !fresh(at));
            assert_eq!(wrong, None, "round {round}: cut after {at} of {ended}");
        }
    }
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop((file, root));
    bench.close();
}

/// A page that leaves memory before its block is in its place is read from the log's copy.
#[test]
fn journaled_pages_are_read_again() {
    let (path, bytes) = image("-t ext4 -b 1024", 16, None);
    let bench = Bench::with(bytes, 1024, JOURNAL);
    let root = bench.root();
    let made = root.ops().create(&root, b"file", &new(FileKind::Regular, b""));
    let file = InodeRef::new(made.unwrap());
    let mapping = file.mapping().unwrap();
    let mut model = vec![0; 200_000];
    for round in 0..40usize {
        let (at, len) = (round * 4793 % 150_000, 1 + round * 1237 % 40_000);
        write_file(&file, at as u64, &vec![round as u8 + 1; len]);
        model[at..at + len].fill(round as u8 + 1);
        mapping.drop_clean(0, i64::MAX as u64 >> 12);
        assert_eq!(mapping.cached_pages(), 0, "pages are clean once they are journaled");
        let found = read(&file);
        assert!(found[..] == model[..found.len()], "round {round}");
        if round % 9 == 0 {
            bench.sb.ops().sync(&bench.sb, true).unwrap();
        }
    }
    std::fs::remove_file(path).unwrap();
    drop((file, root));
    bench.close();
}
