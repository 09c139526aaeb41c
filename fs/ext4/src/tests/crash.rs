//! Power cuts: whatever the drive had not made durable is there in parts, and recovery, ours and that
//! of `e2fsck`, finds a file system with nothing to fix and everything that was promised.

use super::bench::{Bench, Random, block_size_of, cuts, fsck, recover, scratch, seeded};
use super::worker::{Story, Worker};
use super::*;

/// Works at random, then cuts the power at random moments.
fn survives_cuts(options: &str, journal: Option<&str>, megabytes: u64, steps: u64, seed: u64) {
    survives_cuts_with("", options, journal, megabytes, steps, seed);
}

/// The same with mount options.
pub(super) fn survives_cuts_with(
    mount: &str,
    options: &str,
    journal: Option<&str>,
    megabytes: u64,
    steps: u64,
    seed: u64,
) {
    let seed = seeded(seed);
    let (path, mut bytes) = image(options, megabytes, None);
    if let Some(version) = journal {
        // The journal gets checksums of an older version when `debugfs` writes to it first.
        let data = path.with_extension("data");
        std::fs::write(&data, vec![0; 4096]).unwrap();
        let last = (megabytes << 20) / block_size_of(&bytes) as u64 - 3;
        let script = format!(
            "journal_open {version}\njournal_write -b {last} {}\njournal_close\n",
            data.display()
        );
        let commands = path.with_extension("script");
        std::fs::write(&commands, script).unwrap();
        let output = Command::new("debugfs").args(["-w", "-f"]).arg(&commands).arg(&path).output();
        assert!(output.unwrap().status.success());
        bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(data).unwrap();
        std::fs::remove_file(commands).unwrap();
    }
    let unit = block_size_of(&bytes);
    let bench = Bench::with(bytes, unit, mount);
    let begun = bench.drive.position();
    let mut worker = Worker::new(&bench, bench.root(), "", seed);
    for _ in 0..steps {
        worker.step();
    }
    let story = worker.end();
    let position = bench.drive.position();
    bench.unmount();
    let drive = bench.drive.clone();
    let closed = drive.position();
    let mut random = Random(seed ^ 0x5555_5555);
    let out = scratch("cut");
    for round in 0..cuts() {
        // Some while it is unmounted.
        let end = if round % 8 == 7 { closed } else { position };
        let start = if round % 8 == 7 { position } else { begun };
        let at = start + random.below((end - start) as u64 + 1) as usize;
        let chance = [0, 50, 90, 100][random.below(4) as usize];
        let image = drive.cut(at, &mut || random.below(100) < chance);
        let context =
            format!("{options} {mount} (seed {seed:x}): cut after {at} of {closed}, {chance} %");
        let tree = recover(image, &out, &context);
        story.check(&tree, at, &context);
    }
    drive.empty();
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn power_cuts_with_large_blocks() {
    survives_cuts("-t ext4 -b 4096", None, 24, 400, 0x1234_5678_9abc_def1);
    survives_cuts("-t ext4 -b 4096 -O ^metadata_csum,^64bit", None, 24, 400, 0x2234_5678_9abc_def1);
}

#[test]
fn power_cuts_with_a_journal_that_wraps() {
    survives_cuts("-t ext4 -b 1024 -J size=1", None, 16, 900, 0x3234_5678_9abc_def1);
    survives_cuts("-t ext4 -b 2048 -J size=2 -O ^flex_bg", None, 24, 900, 0x4234_5678_9abc_def1);
}

#[test]
fn power_cuts_with_older_formats() {
    survives_cuts("-t ext3 -b 1024 -I 256 -J size=1", None, 16, 500, 0x5234_5678_9abc_def1);
    survives_cuts("-t ext4 -b 1024 -J size=1", Some("-c -v 2"), 16, 500, 0x6234_5678_9abc_def1);
    survives_cuts("-t ext4 -b 1024 -O ^metadata_csum", Some("-c"), 16, 500, 0x7234_5678_9abc_def1);
}

/// A commit block that arrives in parts is whole with its first sector, or not there.
#[test]
fn commit_blocks_are_written_over_what_they_bring() {
    let (path, bytes) = image("-t ext4 -b 4096 -J size=4", 24, None);
    let bench = Bench::new(bytes, 512);
    let root = bench.root();
    let made = root.ops().create(&root, b"file", &new(FileKind::Regular, b"")).unwrap();
    let file = InodeRef::new(made);
    // The log wraps, and what it held before is no zeros.
    for round in 0..600_u64 {
        let name = format!("{round}-{}", "x".repeat(round as usize % 200));
        root.ops().create(&root, name.as_bytes(), &new(FileKind::Regular, b"")).unwrap();
        write(&file, round << 12, &[round as u8; 4096]).unwrap();
        bench.sb.ops().sync(&bench.sb, true).unwrap();
    }
    let (count, torn) = bench.drive.commits();
    assert!(count > 500 && torn == 0, "{torn} of {count}");
    drop(file);
    drop(root);
    std::fs::write(&path, bench.close()).unwrap();
    let (status, text) = fsck("-fn", &path);
    assert_eq!(status, 0, "{text}");
}

/// A large file is freed in many transactions: a crash between them goes on with it.
#[test]
fn a_file_too_large_for_a_transaction_is_shortened_over_a_crash() {
    let (path, bytes) = image("-t ext4 -b 1024 -g 256 -J size=1 -N 512", 40, None);
    let bench = Bench::new(bytes, 1024);
    let root = bench.root();
    let make = |name: &[u8]| {
        let made = root.ops().create(&root, name, &new(FileKind::Regular, b""));
        let inode = InodeRef::new(made.unwrap());
        for part in 0..15u64 {
            write(&inode, part << 20, &vec![part as u8 + 1; 1 << 20]).unwrap();
        }
        inode
    };
    let (short, gone) = (make(b"short"), make(b"gone"));
    bench.sb.ops().sync(&bench.sb, true).unwrap();
    let begun = bench.drive.position();
    let change = vfs::SetAttr { size: Some(5000), now: Time::now(), ..Default::default() };
    short.ops().setattr(&short, &change).unwrap();
    root.ops().unlink(&root, b"gone", gone.arc()).unwrap();
    drop((short, gone));
    bench.sb.ops().sync(&bench.sb, true).unwrap();
    let ended = bench.drive.position();
    let out = scratch("large");
    let mut random = Random(0x77);
    let rounds = cuts() as usize;
    for round in 0..rounds {
        let at = begun + (ended - begun) * round / (rounds - 1);
        let image = bench.drive.cut(at, &mut || random.below(2) == 0);
        let tree = recover(image, &out, &format!("cut after {at}"));
        let (_, size, contents) = &tree["short"];
        assert!(*size == 5000 || *size == 15 << 20, "cut after {at}: {size}");
        assert!(contents[..5000].iter().all(|&byte| byte == 1), "cut after {at}");
    }
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop(root);
    bench.close();
}

/// Blocks of a directory that is gone become file data: the journal has older copies of them.
#[test]
fn revoked_blocks_do_not_come_back() {
    let (path, bytes) = image("-t ext4 -b 1024 -J size=1 -N 4096", 8, None);
    let bench = Bench::new(bytes, 1024);
    let root = bench.root();
    let sync = || bench.sb.ops().sync(&bench.sb, true).unwrap();
    let out = scratch("revoke");
    for round in 0..6u8 {
        let name = format!("dir{round}");
        let made = root.ops().create(&root, name.as_bytes(), &new(FileKind::Directory, b""));
        let dir = InodeRef::new(made.unwrap());
        let inner: Vec<String> = (0..60).map(|n| format!("{n}-{}", "x".repeat(100))).collect();
        for name in &inner {
            dir.ops().create(dir.arc(), name.as_bytes(), &new(FileKind::Regular, b"")).unwrap();
        }
        sync();
        for name in &inner {
            let inode = dir.ops().lookup(dir.arc(), name.as_bytes()).unwrap().unwrap();
            let inode = InodeRef::new(inode);
            dir.ops().unlink(dir.arc(), name.as_bytes(), inode.arc()).unwrap();
        }
        root.ops().rmdir(&root, name.as_bytes(), dir.arc()).unwrap();
        drop(dir);
        sync();
        // All that is free becomes data, in its place.
        let name = format!("data{round}");
        let made = root.ops().create(&root, name.as_bytes(), &new(FileKind::Regular, b""));
        let file = InodeRef::new(made.unwrap());
        let free = bench.sb.ops().statfs(&bench.sb).unwrap().free;
        let len = (free as usize - 300).min(2000) * 1024;
        write(&file, 0, &vec![round + 1; len]).unwrap();
        sync();
        let at = bench.drive.position();
        let image = bench.drive.cut(at, &mut || false);
        let tree = recover(image, &out, &format!("round {round}"));
        let (_, size, contents) = &tree[&name];
        assert_eq!(*size, len as u64);
        assert!(contents.iter().all(|&byte| byte == round + 1), "round {round}: data is lost");
        if round % 2 == 1 {
            root.ops().unlink(&root, name.as_bytes(), file.arc()).unwrap();
            let first = format!("data{}", round - 1);
            let inode = root.ops().lookup(&root, first.as_bytes()).unwrap().unwrap();
            let inode = InodeRef::new(inode);
            root.ops().unlink(&root, first.as_bytes(), inode.arc()).unwrap();
        }
    }
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop(root);
    bench.close();
}

/// What other tools say of the log.
#[test]
fn other_tools_read_the_log() {
    let (path, bytes) = image("-t ext4 -b 1024", 16, None);
    let bench = Bench::new(bytes, 1024);
    let root = bench.root();
    for number in 0..4 {
        let name = format!("file{number}");
        root.ops().create(&root, name.as_bytes(), &new(FileKind::Regular, b"")).unwrap();
        bench.sb.ops().sync(&bench.sb, true).unwrap();
    }
    std::fs::write(&path, bench.drive.contents()).unwrap();
    let text = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg(&path).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let header = text("dumpe2fs", &["-h"]);
    for wanted in ["needs_recovery", "journal_incompat_revoke", "journal_64bit"] {
        assert!(header.contains(wanted), "{wanted}: {header}");
    }
    assert!(header.contains("journal_checksum_v3"), "{header}");
    let log = text("debugfs", &["-R", "logdump"]);
    for sequence in 1..=4 {
        let commit = format!("Found expected sequence {sequence}, type 2 (commit block)");
        assert!(log.contains(&commit), "{log}");
    }
    assert!(!log.contains("Found expected sequence 5"), "{log}");
    drop(root);
    bench.close();
    std::fs::remove_file(path).unwrap();
}

/// A log that cannot be written: nothing panics, programs are told, the disk stays consistent.
#[test]
fn a_journal_that_fails_turns_the_file_system_read_only() {
    let (path, bytes) = image("-t ext4", 16, None);
    let bench = Bench::new(bytes, 4096);
    let root = bench.root();
    let make = |name: &[u8]| root.ops().create(&root, name, &new(FileKind::Regular, b""));
    let (file, other) = (InodeRef::new(make(b"file").unwrap()), InodeRef::new(make(b"b").unwrap()));
    write(&file, 0, &[1; 10_000]).unwrap();
    bench.sb.ops().sync(&bench.sb, true).unwrap();
    let cursor = file.mapping().unwrap().error_cursor();
    let second = other.mapping().unwrap().error_cursor();
    make(b"lost").unwrap();
    bench.drive.fail(true);
    let node = file.private::<crate::node::Node>().unwrap();
    let fs = node.fs.clone();
    assert_eq!(fs.make_durable(fs.running()), Err(Errno::EIO));
    // Each open file hears of it once.
    for (inode, cursor) in [(&file, &cursor), (&other, &second)] {
        let mapping = inode.mapping().unwrap();
        assert_eq!(mapping.check_error(cursor), Err(Errno::EIO));
        assert_eq!(mapping.check_error(cursor), Ok(()));
    }
    assert!(bench.sb.is_read_only());
    assert_eq!(make(b"more").err(), Some(Errno::EROFS));
    assert_eq!(write(&file, 0, &[2; 10]), Err(Errno::EROFS));
    assert_eq!(root.ops().unlink(&root, b"b", other.arc()), Err(Errno::EROFS));
    assert_eq!(fs.make_durable(fs.running()), Err(Errno::EROFS));
    let remount = bench.sb.ops().remount(&bench.sb, 0, b"");
    assert_eq!(remount, Err(Errno::EROFS));
    bench.drive.fail(false);
    drop((file, other, root));
    let image = bench.close();
    let tree = recover(image, &path, "aborted");
    assert_eq!(tree.keys().collect::<Vec<_>>(), ["b", "file", "lost+found"]);
    std::fs::remove_file(path).unwrap();
}

/// Many threads work and sync at the same time.
#[test]
fn threads_share_commits() {
    let (path, bytes) = image("-t ext4 -b 1024 -J size=1", 32, None);
    let bench = Bench::new(bytes, 1024);
    let root = bench.root();
    let begun = bench.drive.position();
    let done: Vec<std::sync::Mutex<Vec<(String, usize)>>> =
        (0..4).map(|_| std::sync::Mutex::default()).collect();
    std::thread::scope(|scope| {
        for (worker, done) in done.iter().enumerate() {
            let (root, bench) = (&root, &bench);
            scope.spawn(move || {
                for number in 0..40 {
                    let name = format!("t{worker}-{number}");
                    let lock = root.lock().write();
                    let made =
                        root.ops().create(root, name.as_bytes(), &new(FileKind::Regular, b""));
                    drop(lock);
                    let inode = InodeRef::new(made.unwrap());
                    write(&inode, 0, &[worker as u8 + 1; 3000]).unwrap();
                    inode.mapping().unwrap().sync().unwrap();
                    let node = inode.private::<crate::node::Node>().unwrap();
                    node.fs.make_durable(node.last_change(false)).unwrap();
                    done.lock().unwrap().push((name, bench.drive.position()));
                }
            });
        }
    });
    let ended = bench.drive.position();
    let out = scratch("threads");
    let mut random = Random(0x99);
    for _ in 0..cuts() {
        let at = begun + random.below((ended - begun) as u64 + 1) as usize;
        let image = bench.drive.cut(at, &mut || random.below(2) == 0);
        let tree = recover(image, &out, &format!("cut after {at} of {ended}"));
        for (name, when) in done.iter().flat_map(|done| done.lock().unwrap().clone()) {
            if when <= at {
                let (_, size, contents) = &tree[&name];
                assert_eq!(*size, 3000, "{name}");
                let wanted = name.as_bytes()[1] - b'0' + 1;
                assert!(contents.iter().all(|&byte| byte == wanted), "{name}");
            }
        }
    }
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop(root);
    bench.close();
}

/// Threads that do anything, each in a directory of its own.
#[test]
fn power_cuts_while_threads_work() {
    threads_work("");
}

pub(super) fn threads_work(mount: &str) {
    let (path, bytes) = image("-t ext4 -b 1024 -J size=1", 24, None);
    let bench = Bench::with(bytes, 1024, mount);
    let root = bench.root();
    let begun = bench.drive.position();
    let stories: Vec<Story> = std::thread::scope(|scope| {
        let start = |number: u64| {
            let name = format!("w{number}");
            let made = root.ops().create(&root, name.as_bytes(), &new(FileKind::Directory, b""));
            let seed = seeded(0x8877_6655_4433_2211 + number);
            let mut worker = Worker::new(&bench, made.unwrap(), &format!("{name}/"), seed);
            scope.spawn(move || {
                for _ in 0..250 {
                    worker.step();
                }
                worker.end()
            })
        };
        let threads: Vec<_> = (0..3).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let ended = bench.drive.position();
    let out = scratch("workers");
    let mut random = Random(0x1199);
    for _ in 0..cuts() {
        let at = begun + random.below((ended - begun) as u64 + 1) as usize;
        let image = bench.drive.cut(at, &mut || random.below(2) == 0);
        let context = format!("cut after {at} of {ended}");
        let tree = recover(image, &out, &context);
        stories.iter().for_each(|story| story.check(&tree, at, &context));
    }
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop(root);
    bench.close();
}

/// Blocks that were given up and not yet committed are found when there are no others, and nobody sees
/// the old ones after a crash.
#[test]
fn a_full_disk_is_used_again_at_once() {
    let (path, bytes) = image("-t ext4 -b 1024 -J size=1 -m 0", 8, None);
    let bench = Bench::new(bytes, 1024);
    let root = bench.root();
    let free = bench.sb.ops().statfs(&bench.sb).unwrap().free as usize;
    let len = (free - 200) * 1024;
    let make = |name: &str, byte: u8| {
        let made = root.ops().create(&root, name.as_bytes(), &new(FileKind::Regular, b""));
        let inode = InodeRef::new(made.unwrap());
        write(&inode, 0, &vec![byte; len]).unwrap();
        inode
    };
    let begun = bench.drive.position();
    let mut file = make("file0", 1);
    let mut marks = Vec::new();
    for round in 1..5u8 {
        bench.sb.ops().sync(&bench.sb, true).unwrap();
        marks.push((bench.drive.position(), round));
        let name = format!("file{}", round - 1);
        root.ops().unlink(&root, name.as_bytes(), file.arc()).unwrap();
        drop(file);
        file = make(&format!("file{round}"), round + 1);
    }
    bench.sb.ops().sync(&bench.sb, true).unwrap();
    let ended = bench.drive.position();
    assert!(file.mapping().unwrap().check_error(&Default::default()).is_ok(), "data is lost");
    let out = scratch("full");
    let mut random = Random(0x2299);
    for _ in 0..cuts() {
        let at = begun + random.below((ended - begun) as u64 + 1) as usize;
        let image = bench.drive.cut(at, &mut || random.below(2) == 0);
        let tree = recover(image, &out, &format!("cut after {at} of {ended}"));
        for (name, (_, size, contents)) in tree.iter().filter(|(name, _)| name.starts_with("file"))
        {
            let byte = name.as_bytes()[4] - b'0' + 1;
            let bad = contents.iter().position(|&found| found != byte);
            assert!(bad.is_none(), "cut after {at}: {name} of {size}: byte {bad:?}");
        }
    }
    std::fs::remove_file(out).unwrap();
    std::fs::remove_file(path).unwrap();
    drop((file, root));
    bench.close();
}
