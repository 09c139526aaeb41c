//! Random work on a file system, and what has to be true of it after a power cut.

use std::collections::{BTreeMap, BTreeSet};

use super::bench::{Bench, Random, Tree};
use super::*;

/// What happened while the drive recorded.
#[derive(Default)]
pub(super) struct Story {
    /// Path, when (in events of the drive) an operation that touches it began.
    touched: Vec<(String, usize)>,
    /// Path, when it was known to be durable, with what contents (`None`: that it is gone).
    durable: Vec<(String, usize, Option<Vec<u8>>)>,
}

impl Story {
    /// Whether `tree`, found after a cut at `position`, keeps all promises.
    pub(super) fn check(&self, tree: &Tree, position: usize, context: &str) {
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
                    let differs = |at: &usize| found[*at] != contents[*at];
                    let bad: Vec<usize> = (0..contents.len()).filter(differs).collect();
                    if let (Some(first), Some(last)) = (bad.first(), bad.last()) {
                        panic!(
                            "{context}: {path}, durable since {when}: bytes {first}..={last} of {} are \
                             {} instead of {}",
                            contents.len(),
                            found[*first],
                            contents[*first]
                        );
                    }
                }
            }
        }
        // A file that is replaced by renaming is there, whole, in one version or another.
        for (_, (_, size, found)) in tree.iter().filter(|(path, _)| path.ends_with("atomic")) {
            let first = found.first().copied().unwrap_or(0);
            assert_eq!(*size, 9000, "{context}: atomic");
            assert!(found.iter().take(9000).all(|&byte| byte == first), "{context}: atomic");
        }
    }
}

/// What the file operations do about a write.
pub(super) fn write_file(inode: &Inode, pos: u64, bytes: &[u8]) {
    let node = inode.private::<crate::node::Node>().unwrap();
    node.before_write(inode);
    write(inode, pos, bytes).unwrap();
    node.after_write(inode.mapping().unwrap(), pos, pos + bytes.len() as u64);
    let _handle = node.fs.begin(crate::commit::INODE).unwrap();
    node.changed();
}

/// Makes bytes zeros and frees their blocks, as `fallocate` does.
pub(super) fn punch(inode: &Inode, start: u64, end: u64) {
    let node = inode.private::<crate::node::Node>().unwrap();
    let size = node.fs.sb.block_size as u64;
    let mapping = inode.mapping().unwrap();
    mapping.punch(start, end).unwrap();
    mapping.write_and_wait(start, end).unwrap();
    let (first, last) = (start.div_ceil(size) as u32, (end / size) as u32);
    if first < last {
        node.free_range(first, last).unwrap();
    }
}

/// Random work on a mounted file system.
pub(super) struct Worker<'a> {
    bench: &'a Bench,
    /// Where it works, and what its paths begin with.
    base: Arc<Inode>,
    prefix: String,
    random: Random,
    files: BTreeMap<String, (InodeRef, Vec<u8>)>,
    dirs: Vec<(String, Arc<Inode>)>,
    open: Vec<InodeRef>,
    story: Story,
    step: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(bench: &'a Bench, base: Arc<Inode>, prefix: &str, seed: u64) -> Worker<'a> {
        Worker {
            bench,
            base,
            prefix: prefix.to_owned(),
            random: Random(seed),
            files: BTreeMap::new(),
            dirs: Vec::new(),
            open: Vec::new(),
            story: Story::default(),
            step: 0,
        }
    }

    /// What happened, and that its files are not used any more.
    pub(super) fn end(self) -> Story {
        self.story
    }

    fn touch(&mut self, path: &str) {
        let at = self.bench.drive.position();
        self.story.touched.push((format!("{}{path}", self.prefix), at));
    }

    fn dir_of(&self, path: &str) -> (Arc<Inode>, String) {
        match path.rsplit_once('/') {
            None => (self.base.clone(), path.to_owned()),
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
        assert!(&read(inode) == model, "{path} is another in step {}", self.step);
        let node = inode.private::<crate::node::Node>().unwrap();
        let data_only = self.step.is_multiple_of(2);
        // What this thread did so far is in this transaction at the latest.
        let transaction = node.fs.running();
        crate::file::make_durable(inode, node, 0..u64::MAX, data_only).unwrap();
        let at = self.bench.drive.position();
        let committed = |journal: &crate::journal::Journal| journal.is_committed(transaction);
        if node.fs.journals_all_data() && node.fs.journal.as_ref().is_some_and(committed) {
            // What was written before went with it, in every file. A file that was durable already
            // takes nobody along.
            return self.all_durable(at);
        }
        self.story.durable.push((format!("{}{path}", self.prefix), at, Some(model.clone())));
    }

    fn sync(&mut self) {
        self.bench.sb.ops().sync(&self.bench.sb, true).unwrap();
        self.all_durable(self.bench.drive.position());
    }

    /// All that was done is durable since `at`.
    fn all_durable(&mut self, at: usize) {
        let known: BTreeMap<String, &Vec<u8>> = self
            .files
            .iter()
            .map(|(path, (_, model))| (format!("{}{path}", self.prefix), model))
            .collect();
        let mut paths: BTreeSet<String> = known.keys().cloned().collect();
        paths.extend(self.story.touched.iter().map(|(path, _)| path.clone()));
        for path in paths {
            let contents = known.get(&path).map(|model| model.to_vec());
            self.story.durable.push((path, at, contents));
        }
    }

    fn remove(&mut self, path: &str) -> InodeRef {
        let (dir, name) = self.dir_of(path);
        let (inode, _) = self.files.remove(path).unwrap();
        dir.ops().unlink(&dir, name.as_bytes(), inode.arc()).unwrap();
        inode
    }

    pub(super) fn step(&mut self) {
        self.step += 1;
        let pick = self.random.below(self.files.len().max(1) as u64) as usize;
        let some = self.files.keys().nth(pick).filter(|path| *path != "atomic").cloned();
        let kind = self.random.below(27);
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
                write_file(inode, at as u64, &bytes);
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
            (21, Some(path)) => {
                self.touch(&path);
                let (inode, model) = self.files.get_mut(&path).unwrap();
                let start = self.random.below(30_000);
                let end = start + 1 + self.random.below(20_000);
                punch(inode, start, end);
                let end = (end as usize).min(model.len());
                if let Some(hole) = model.get_mut(start as usize..end) {
                    hole.fill(0);
                }
            }
            (22, Some(path)) => {
                self.touch(&path);
                let (inode, _) = self.files.get(&path).unwrap();
                let first = self.random.below(40) as u32;
                let len = 1 + self.random.below(30) as u32;
                let node = inode.private::<crate::node::Node>().unwrap();
                if node.state.lock().flags & crate::node::flags::EXTENTS != 0 {
                    node.preallocate(first, first + len).unwrap();
                }
            }
            (23, Some(path)) => self.link_elsewhere(&path),
            (24, _) => self.move_empty_dir(),
            (25, _) => {
                let path = format!("{}s{}", self.some_dir(), self.step);
                let (dir, name) = self.dir_of(&path);
                let text = vec![b't'; 1 + self.random.below(300) as usize];
                let made = dir.ops().create(&dir, name.as_bytes(), &new(FileKind::Symlink, &text));
                drop(made.unwrap());
            }
            (_, Some(path)) => {
                // Write-back on its own, and commits now and then.
                let (inode, _) = self.files.get(&path).unwrap();
                inode.mapping().unwrap().start_writeback(0, i64::MAX as u64);
                let node = inode.private::<crate::node::Node>().unwrap();
                node.fs.commit_old().unwrap();
            }
        }
    }

    /// The file gets another name and loses its first.
    fn link_elsewhere(&mut self, path: &str) {
        let target = self.fresh_path();
        self.touch(path);
        self.touch(&target);
        let (inode, model) = self.files.get(path).cloned().unwrap();
        let (to, fresh) = self.dir_of(&target);
        to.ops().link(&to, fresh.as_bytes(), inode.arc()).unwrap();
        self.remove(path);
        self.files.insert(target, (inode, model));
    }

    fn remove_empty_dir(&mut self) {
        let Some((path, victim)) = self.take_empty_dir() else { return };
        let victim = InodeRef::new(victim);
        let (dir, name) = self.dir_of(&path);
        dir.ops().rmdir(&dir, name.as_bytes(), victim.arc()).unwrap();
    }

    fn move_empty_dir(&mut self) {
        let Some((path, moved)) = self.take_empty_dir() else { return };
        let target = format!("{}m{}", self.some_dir(), self.step);
        let ((from, name), (to, fresh)) = (self.dir_of(&path), self.dir_of(&target));
        let old = RenameEnd { dir: &from, name: name.as_bytes() };
        let end = RenameEnd { dir: &to, name: fresh.as_bytes() };
        from.ops().rename(old, &moved, end, None, RenameFlags::empty()).unwrap();
        self.dirs.push((target, moved));
    }

    fn take_empty_dir(&mut self) -> Option<(String, Arc<Inode>)> {
        let used: BTreeSet<String> = self
            .files
            .keys()
            .chain(self.dirs.iter().map(|(path, _)| path))
            .filter_map(|path| path.rsplit_once('/').map(|(dir, _)| dir.to_owned()))
            .collect();
        let is_free = |(path, dir): &(String, Arc<Inode>)| {
            let node = dir.private::<crate::node::Node>().unwrap();
            !used.contains(path) && node.is_empty_dir(dir).unwrap()
        };
        let at = self.dirs.iter().position(is_free)?;
        Some(self.dirs.remove(at))
    }

    /// Writes a new version of a file and puts it in the place of the old one.
    fn replace(&mut self) {
        self.touch("fresh");
        let inode = self.create("fresh");
        let bytes = vec![self.step as u8; 9000];
        write_file(&inode, 0, &bytes);
        if let Some((_, model)) = self.files.get_mut("fresh") {
            *model = bytes;
        }
        self.fsync("fresh");
        self.touch("fresh");
        self.touch("atomic");
        let root = self.base.clone();
        let (fresh, model) = self.files.remove("fresh").unwrap();
        let before = self.files.remove("atomic");
        let old = RenameEnd { dir: &root, name: b"fresh" };
        let end = RenameEnd { dir: &root, name: b"atomic" };
        let victim = before.as_ref().map(|(inode, _)| inode.arc());
        root.ops().rename(old, fresh.arc(), end, victim, RenameFlags::empty()).unwrap();
        self.files.insert("atomic".to_owned(), (fresh, model));
    }
}
