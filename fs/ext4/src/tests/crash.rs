//! Power cuts: whatever the drive had not made durable is there in parts, and recovery, ours and that
//! of `e2fsck`, finds a file system with nothing to fix and everything that was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::power::Recorder;
use super::*;

/// A random number generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A file system on a [`Recorder`].
struct Bench {
    drive: Arc<Recorder>,
    disk: Arc<Disk>,
    sb: Arc<SuperBlock>,
}

fn attach(drive: &Arc<Recorder>, size: usize) -> Arc<Disk> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Disk::add(&format!("cut{number}"), drive.clone(), size as u64 / 512).unwrap()
}

impl Bench {
    fn new(bytes: Vec<u8>, unit: usize) -> Bench {
        frames::init_host(512 << 20);
        let size = bytes.len();
        let drive = Recorder::new(bytes, unit);
        let disk = attach(&drive, size);
        let sb = crate::mount(disk.whole(), 0).unwrap();
        Bench { drive, disk, sb }
    }

    fn root(&self) -> Arc<Inode> {
        self.sb.root().unwrap().inode().unwrap()
    }

    /// Unmounts; what is on the drive then.
    fn close(self) -> Vec<u8> {
        self.unmount();
        let contents = self.drive.contents();
        self.drive.empty();
        contents
    }

    fn unmount(&self) {
        self.sb.ops().put_super(&self.sb);
        self.disk.remove();
    }
}

/// Name, contents and attributes of all that is in a directory and below it.
type Tree = BTreeMap<String, (char, u64, Vec<u8>)>;

fn walk(dir: &Arc<Inode>, prefix: &str, tree: &mut Tree) {
    for name in super::names(dir, 1000) {
        if name == "." || name == ".." {
            continue;
        }
        let inode = dir.ops().lookup(dir, name.as_bytes()).unwrap().unwrap();
        let path = format!("{prefix}{name}");
        let mut attributes = Vec::new();
        inode.ops().list_xattr(&inode, &mut attributes).unwrap();
        match inode.kind {
            FileKind::Directory => {
                tree.insert(path.clone(), ('d', inode.nlink().into(), attributes));
                walk(&inode, &format!("{path}/"), tree);
            }
            FileKind::Regular => {
                let mut contents = read(&inode);
                contents.extend(attributes);
                tree.insert(path, ('f', inode.size(), contents));
            }
            _ => drop(tree.insert(path, ('o', inode.size(), attributes))),
        }
    }
}

fn fsck(how: &str, path: &Path) -> (i32, String) {
    let output = Command::new("e2fsck").arg(how).arg(path).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is in an image that needs no recovery, or gets ours. Leaves it clean.
fn look(image: Vec<u8>, path: &Path, context: &str) -> Tree {
    let bench = Bench::new(image, 4096);
    let mut tree = Tree::new();
    walk(&bench.root(), "", &mut tree);
    std::fs::write(path, bench.close()).unwrap();
    let (code, text) = fsck("-fn", path);
    assert_eq!(code, 0, "{context}: after our recovery: {text}");
    tree
}

/// Recovers an image in both ways; returns what is there then.
fn recover(image: Vec<u8>, path: &Path, context: &str) -> Tree {
    std::fs::write(path, &image).unwrap();
    let (code, text) = fsck("-fy", path);
    if code > 1 || text.contains("yes") {
        let kept = path.with_extension("bad");
        std::fs::write(&kept, &image).unwrap();
        panic!("{context}: e2fsck -fy ({code}), see {}: {text}", kept.display());
    }
    let (code, text) = fsck("-fn", path);
    assert_eq!(code, 0, "{context}: {text}");
    let theirs = look(std::fs::read(path).unwrap(), path, context);
    let ours = look(image, path, context);
    for name in theirs.keys().chain(ours.keys()) {
        let same = theirs.get(name) == ours.get(name);
        assert!(same, "{context}: {name} differs from what e2fsck makes of it");
    }
    ours
}

/// What happened while the drive recorded.
#[derive(Default)]
struct Story {
    /// Path, when (in events of the drive) an operation that touches it began.
    touched: Vec<(String, usize)>,
    /// Path, when it was known to be durable, with what contents (`None`: that it is gone).
    durable: Vec<(String, usize, Option<Vec<u8>>)>,
}

impl Story {
    /// Whether `tree`, found after a cut at `position`, keeps all promises.
    fn check(&self, tree: &Tree, position: usize, context: &str) {
        let mut last: BTreeMap<&String, (usize, &Option<Vec<u8>>)> = BTreeMap::new();
        for (path, when, contents) in &self.durable {
            if *when <= position {
                last.insert(path, (*when, contents));
            }
        }
        for (path, (when, contents)) in last {
            let is_touched =
                self.touched.iter().any(|(p, at)| p == path && *at >= when && *at <= position);
            if is_touched {
                continue;
            }
            let found = tree.get(path);
            match contents {
                None => assert!(found.is_none(), "{context}: {path} is back"),
                Some(contents) => {
                    let Some((_, size, found)) = found else {
                        panic!("{context}: {path}, durable since {when}, is lost");
                    };
                    assert_eq!(*size, contents.len() as u64, "{context}: size of {path}");
                    assert!(found.starts_with(contents), "{context}: contents of {path}");
                }
            }
        }
        // A file that is replaced by renaming is there, whole, in one version or another.
        if let Some((_, size, found)) = tree.get("atomic") {
            let first = found.first().copied().unwrap_or(0);
            assert_eq!(*size, 9000, "{context}: atomic");
            assert!(found.iter().take(9000).all(|&byte| byte == first), "{context}: atomic");
        }
    }
}

/// What the file operations do after a write that made the file longer.
fn note_write(inode: &Inode) {
    let node = inode.private::<crate::node::Node>().unwrap();
    let _handle = node.fs.begin(crate::commit::INODE).unwrap();
    node.changed();
}

/// Random work on a mounted file system.
struct Worker<'a> {
    bench: &'a Bench,
    random: Random,
    files: BTreeMap<String, (InodeRef, Vec<u8>)>,
    dirs: Vec<(String, Arc<Inode>)>,
    open: Vec<InodeRef>,
    story: Story,
    step: u64,
}

impl Worker<'_> {
    fn touch(&mut self, path: &str) {
        let at = self.bench.drive.position();
        self.story.touched.push((path.to_owned(), at));
    }

    fn dir_of(&self, path: &str) -> (Arc<Inode>, String) {
        match path.rsplit_once('/') {
            None => (self.bench.root(), path.to_owned()),
            Some((dir, name)) => {
                let found = self.dirs.iter().find(|(known, _)| known == dir).unwrap();
                (found.1.clone(), name.to_owned())
            }
        }
    }

    fn some_dir(&mut self) -> String {
        match self.random.below(self.dirs.len() as u64 + 1) as usize {
            0 => String::new(),
            n => format!("{}/", self.dirs[n - 1].0),
        }
    }

    fn fresh_path(&mut self) -> String {
        let dir = self.some_dir();
        let tail = "n".repeat(self.random.below(80) as usize);
        format!("{dir}f{}-{tail}", self.step)
    }

    fn create(&mut self, path: &str) -> InodeRef {
        let (dir, name) = self.dir_of(path);
        let made = dir.ops().create(&dir, name.as_bytes(), &new(FileKind::Regular, b""));
        let inode = InodeRef::new(made.unwrap());
        self.files.insert(path.to_owned(), (inode.clone(), Vec::new()));
        inode
    }

    fn fsync(&mut self, path: &str) {
        let Some((inode, model)) = self.files.get(path) else { return };
        inode.mapping().unwrap().sync().unwrap();
        let node = inode.private::<crate::node::Node>().unwrap();
        let data_only = self.step.is_multiple_of(2);
        node.fs.make_durable(node.last_change(data_only)).unwrap();
        let at = self.bench.drive.position();
        self.story.durable.push((path.to_owned(), at, Some(model.clone())));
    }

    fn sync(&mut self) {
        self.bench.sb.ops().sync(&self.bench.sb, true).unwrap();
        let at = self.bench.drive.position();
        for (path, (_, model)) in &self.files {
            self.story.durable.push((path.clone(), at, Some(model.clone())));
        }
        let touched: BTreeSet<&String> = self.story.touched.iter().map(|(path, _)| path).collect();
        for path in touched.into_iter().filter(|path| !self.files.contains_key(*path)) {
            self.story.durable.push((path.clone(), at, None));
        }
    }

    fn remove(&mut self, path: &str) -> InodeRef {
        let (dir, name) = self.dir_of(path);
        let (inode, _) = self.files.remove(path).unwrap();
        dir.ops().unlink(&dir, name.as_bytes(), inode.arc()).unwrap();
        inode
    }

    fn step(&mut self) {
        self.step += 1;
        let pick = self.random.below(self.files.len().max(1) as u64) as usize;
        let some = self.files.keys().nth(pick).filter(|path| *path != "atomic").cloned();
        let kind = self.random.below(22);
        match (kind, some) {
            (0..=3, _) | (_, None) => {
                let path = self.fresh_path();
                self.touch(&path);
                self.create(&path);
            }
            (4..=8, Some(path)) => {
                self.touch(&path);
                let at = self.random.below(60_000) as usize;
                let bytes = vec![self.step as u8 | 1; self.random.below(20_000) as usize + 1];
                let (inode, model) = self.files.get_mut(&path).unwrap();
                write(inode, at as u64, &bytes).unwrap();
                note_write(inode);
                model.resize(model.len().max(at + bytes.len()), 0);
                model[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            (9, Some(path)) => {
                self.touch(&path);
                let size = self.random.below(40_000);
                let change =
                    vfs::SetAttr { size: Some(size), now: Time::now(), ..Default::default() };
                let (inode, model) = self.files.get_mut(&path).unwrap();
                inode.ops().setattr(inode, &change).unwrap();
                model.resize(size as usize, 0);
            }
            (10..=11, Some(path)) => {
                self.touch(&path);
                let inode = self.remove(&path);
                if kind == 10 {
                    self.open.push(inode);
                }
            }
            (12, _) => drop(self.open.pop()),
            (13, Some(path)) => {
                let target = self.fresh_path();
                self.touch(&path);
                self.touch(&target);
                let (inode, model) = self.files.remove(&path).unwrap();
                let ((from, name), (to, fresh)) = (self.dir_of(&path), self.dir_of(&target));
                let old = RenameEnd { dir: &from, name: name.as_bytes() };
                let end = RenameEnd { dir: &to, name: fresh.as_bytes() };
                from.ops().rename(old, inode.arc(), end, None, RenameFlags::empty()).unwrap();
                self.files.insert(target, (inode, model));
            }
            (14, Some(path)) => {
                self.touch(&path);
                let (inode, _) = self.files.get(&path).unwrap();
                let value = vec![self.step as u8; self.random.below(600) as usize];
                let key = format!("user.k{}", self.step % 3);
                match inode.ops().set_xattr(inode, key.as_bytes(), &value, 0) {
                    Ok(()) | Err(Errno::ENOSPC) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            (15, _) => {
                let path = format!("{}d{}", self.some_dir(), self.step);
                let (dir, name) = self.dir_of(&path);
                let made = dir.ops().create(&dir, name.as_bytes(), &new(FileKind::Directory, b""));
                self.dirs.push((path, made.unwrap()));
            }
            (16, _) => self.remove_empty_dir(),
            (17..=18, Some(path)) => self.fsync(&path),
            (19, _) => self.sync(),
            (20, _) => self.replace(),
            (_, Some(path)) => {
                // Write-back on its own, and commits now and then.
                let (inode, _) = self.files.get(&path).unwrap();
                inode.mapping().unwrap().start_writeback(0, i64::MAX as u64);
                let node = inode.private::<crate::node::Node>().unwrap();
                node.fs.commit_old().unwrap();
            }
        }
    }

    fn remove_empty_dir(&mut self) {
        let used: BTreeSet<String> = self
            .files
            .keys()
            .chain(self.dirs.iter().map(|(path, _)| path))
            .filter_map(|path| path.rsplit_once('/').map(|(dir, _)| dir.to_owned()))
            .collect();
        let Some(at) = self.dirs.iter().position(|(path, _)| !used.contains(path)) else { return };
        let (path, victim) = self.dirs.remove(at);
        let victim = InodeRef::new(victim);
        let (dir, name) = self.dir_of(&path);
        dir.ops().rmdir(&dir, name.as_bytes(), victim.arc()).unwrap();
    }

    /// Writes a new version of a file and puts it in the place of the old one.
    fn replace(&mut self) {
        let inode = self.create("fresh");
        let bytes = vec![self.step as u8; 9000];
        write(&inode, 0, &bytes).unwrap();
        note_write(&inode);
        if let Some((_, model)) = self.files.get_mut("fresh") {
            *model = bytes;
        }
        self.fsync("fresh");
        self.touch("fresh");
        self.touch("atomic");
        let root = self.bench.root();
        let (fresh, model) = self.files.remove("fresh").unwrap();
        let before = self.files.remove("atomic");
        let old = RenameEnd { dir: &root, name: b"fresh" };
        let end = RenameEnd { dir: &root, name: b"atomic" };
        let victim = before.as_ref().map(|(inode, _)| inode.arc());
        root.ops().rename(old, fresh.arc(), end, victim, RenameFlags::empty()).unwrap();
        self.files.insert("atomic".to_owned(), (fresh, model));
    }
}

fn scratch(name: &str) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ext4-{name}-{}-{number}.img", std::process::id()))
}

/// How many cuts each test makes: more with `EXT4_CUTS`.
fn cuts() -> u64 {
    std::env::var("EXT4_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Makes the work another with `EXT4_SEED`.
fn seeded(seed: u64) -> u64 {
    let other = std::env::var("EXT4_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    seed ^ other.unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn block_size_of(image: &[u8]) -> usize {
    1024 << image[1024 + 0x18]
}

/// Works at random, then cuts the power at random moments.
fn survives_cuts(options: &str, journal: Option<&str>, megabytes: u64, steps: u64, seed: u64) {
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
    let bench = Bench::new(bytes, unit);
    let begun = bench.drive.position();
    let mut worker = Worker {
        bench: &bench,
        random: Random(seed),
        files: BTreeMap::new(),
        dirs: Vec::new(),
        open: Vec::new(),
        story: Story::default(),
        step: 0,
    };
    for _ in 0..steps {
        worker.step();
    }
    let Worker { story, files, open, dirs, .. } = worker;
    drop((files, open, dirs));
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
        let context = format!("{options} (seed {seed:x}): cut after {at} of {closed}, {chance} %");
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
