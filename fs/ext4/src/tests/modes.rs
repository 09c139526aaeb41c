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

/// `fsync` while another thread has taken the pages to write them and has not found their blocks yet.
#[test]
fn syncing_waits_for_pages_that_another_is_about_to_place() {
    for mount in ["", "data=writeback", "nodelalloc", JOURNAL] {
        let (path, bytes) = image("-t ext4 -b 1024", 16, None);
        let bench = Bench::with(bytes, 1024, mount);
        let root = bench.root();
        let made = root.ops().create(&root, b"file", &new(FileKind::Regular, b""));
        let file = InodeRef::new(made.unwrap());
        let size = vfs::SetAttr { size: Some(3000), now: Time::now(), ..Default::default() };
        file.ops().setattr(&file, &size).unwrap();
        let (node, mapping) = (file.private::<Node>().unwrap(), file.mapping().unwrap());
        let out = scratch("placing");
        // Into a hole, and over what is there.
        for round in 1..3u8 {
            bench.sb.ops().sync(&bench.sb, true).unwrap();
            write(&file, 0, &[round; 3000]).unwrap();
            std::thread::scope(|scope| {
                let state = node.state.lock();
                scope.spawn(|| mapping.start_writeback(0, i64::MAX as u64));
                while !mapping.has_writeback_starting() {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
                scope.spawn(|| crate::file::make_durable(&file, node, 0..u64::MAX, true).unwrap());
                std::thread::sleep(std::time::Duration::from_millis(50));
                drop(state);
            });
            let image = bench.drive.cut(bench.drive.position(), &mut || false);
            let tree = recover(image, &out, mount);
            assert!(tree["file"].2[..3000].iter().all(|&byte| byte == round), "{mount}: {round}");
        }
        std::fs::remove_file(out).unwrap();
        std::fs::remove_file(path).unwrap();
        drop((file, root));
        bench.close();
    }
}

/// A commit while a journaled write is under way: the length covers the blocks that it has got, and
/// nothing else of it.
#[test]
fn a_commit_amid_a_journaled_write_has_a_length_for_its_blocks() {
    let (path, bytes) = image("-t ext4 -b 1024", 16, None);
    let bench = Bench::with(bytes, 1024, JOURNAL);
    let root = bench.root();
    let made = root.ops().create(&root, b"file", &new(FileKind::Regular, b""));
    let file = InodeRef::new(made.unwrap());
    write_file(&file, 0, &[1; 1500]);
    bench.sb.ops().sync(&bench.sb, true).unwrap();
    let (node, mapping) = (file.private::<Node>().unwrap(), file.mapping().unwrap());
    let out = scratch("amid");
    let found = || {
        node.changed();
        node.fs.commit_old().unwrap();
        let image = bench.drive.cut(bench.drive.position(), &mut || false);
        recover(image, &out, "amid").remove("file").unwrap().2
    };
    node.before_write(&file);
    write(&file, 1500, &[2; 400]).unwrap();
    assert_eq!(found(), [1; 1500], "not in the transaction yet");
    write(&file, 1900, &[2; 8000]).unwrap();
    mapping.start_writeback(1500, 4095);
    let part = [vec![1; 1500], vec![2; 4096 - 1500]].concat();
    assert_eq!(found(), part, "a page of it is");
    node.after_write(mapping, 1500, 9900);
    assert_eq!(found(), [vec![1; 1500], vec![2; 8400]].concat());
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop((file, root));
    bench.close();
}

/// What was cut off does not come back when the file is longer again.
#[test]
fn the_end_of_a_journaled_file_that_was_cut_is_in_the_log() {
    let (path, bytes) = image("-t ext4 -b 1024", 16, None);
    let bench = Bench::with(bytes, 1024, JOURNAL);
    let root = bench.root();
    let made = root.ops().create(&root, b"file", &new(FileKind::Regular, b""));
    let file = InodeRef::new(made.unwrap());
    write_file(&file, 0, &[1; 3000]);
    bench.sb.ops().sync(&bench.sb, true).unwrap();
    let size = vfs::SetAttr { size: Some(1500), now: Time::now(), ..Default::default() };
    file.ops().setattr(&file, &size).unwrap();
    write_file(&file, 5000, &[2; 10]);
    file.private::<Node>().unwrap().fs.commit_old().unwrap();
    let image = bench.drive.cut(bench.drive.position(), &mut || false);
    let out = scratch("end");
    let found = recover(image, &out, "end").remove("file").unwrap().2;
    assert_eq!(found, [vec![1; 1500], vec![0; 3500], vec![2; 10]].concat());
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop((file, root));
    bench.close();
}

/// A commit between a file's cut and the operation that frees its blocks, which the disk did not know
/// before: the length covers them.
#[test]
fn a_commit_amid_a_cut_has_a_length_for_the_blocks() {
    let (path, bytes) = image("-t ext4 -b 1024", 16, None);
    let bench = Bench::new(bytes, 1024);
    let root = bench.root();
    let made = root.ops().create(&root, b"file", &new(FileKind::Regular, b""));
    let file = InodeRef::new(made.unwrap());
    let (node, mapping) = (file.private::<Node>().unwrap(), file.mapping().unwrap());
    let out = scratch("cutting");
    let found = || {
        node.changed();
        node.fs.commit_old().unwrap();
        let image = bench.drive.cut(bench.drive.position(), &mut || false);
        recover(image, &out, "cutting").remove("file").unwrap().2
    };
    write(&file, 0, &[1; 10_000]).unwrap();
    assert_eq!(found(), [], "blocks are only promised");
    mapping.sync().unwrap();
    mapping.truncate(1500).unwrap();
    assert_eq!(found().len(), 10_000);
    node.shorten(&file).unwrap();
    assert_eq!(found(), [1; 1500]);
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop((file, root));
    bench.close();
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
