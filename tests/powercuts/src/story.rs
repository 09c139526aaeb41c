//! What a stream of operations was promised, by its marks, and what may be found of it.
//!
//! Names change in one transaction each and in order, so that what is found must be the names after *some*
//! operation: at least the last whose names were promised, at most the one that was under way.

use std::collections::{BTreeMap, HashMap};

use guest::marks::{COMMON_FILE, How, Mark, Op};

use crate::file::{File, Mode};
use crate::tree::{Found, Tree};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Dir,
    File(u32),
}

/// What an operation does to names.
#[derive(Clone, Debug)]
enum Change {
    Put(String, Named),
    Remove(String),
    Move(String, String),
}

/// One stream: its operations with the place of their marks in the log.
#[derive(Debug, Default)]
pub struct Story {
    operations: Vec<(usize, Op)>,
}

impl Story {
    /// The next mark of this stream, found at this place of the log.
    ///
    /// # Errors
    ///
    /// When one is missing before it.
    pub fn add(&mut self, place: usize, mark: Mark) -> Result<(), String> {
        let expected = self.operations.len() as u64 + 1;
        if mark.number != expected {
            let (stream, number) = (mark.stream, mark.number);
            return Err(format!("stream {stream}: mark {number} instead of {expected}"));
        }
        self.operations.push((place, mark.next));
        Ok(())
    }

    /// How many operations had ended before this moment.
    #[must_use]
    pub fn ended(&self, moment: usize) -> usize {
        self.operations.partition_point(|(place, _)| *place < moment).saturating_sub(1)
    }

    /// Whether the stream came to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.operations.last().is_some_and(|(_, op)| *op == Op::End)
    }

    /// The database that is its work, if it is one; how many of its transactions had ended and how many
    /// had begun before this moment.
    #[must_use]
    pub fn database(&self, moment: usize) -> Option<(&str, usize, usize)> {
        let begun = self.begun(moment);
        let rows = |ops: &[(usize, Op)]| {
            ops.iter().filter(|(_, op)| matches!(op, Op::Insert { .. })).count()
        };
        let Some((_, Op::Insert { database, .. })) = self.operations.first() else { return None };
        Some((database, self.ended(moment), rows(begun)))
    }

    fn begun(&self, moment: usize) -> &[(usize, Op)] {
        let count = self.operations.partition_point(|(place, _)| *place < moment);
        self.operations.get(..count).unwrap_or_default()
    }

    /// What may be there after a cut at this moment.
    #[must_use]
    pub fn at(&self, moment: usize) -> State {
        let mut state = State::default();
        let begun = self.begun(moment);
        for (index, (_, op)) in begun.iter().enumerate() {
            state.begin(op);
            if index + 1 < begun.len() {
                state.end(op);
            }
        }
        state
    }
}

/// What a stream's operations made, and what of it is promised.
#[derive(Debug, Default)]
pub struct State {
    files: HashMap<u32, File>,
    /// Changes of names, in order.
    changes: Vec<Change>,
    /// How many of them are promised.
    promised: usize,
    /// How many changes there were when a file was made, and when its last name changed.
    made: HashMap<u32, usize>,
    named: HashMap<u32, usize>,
    /// The same of a directory's names.
    dirs: HashMap<String, usize>,
    /// The names now.
    names: BTreeMap<String, Named>,
}

impl State {
    fn begin(&mut self, op: &Op) {
        match op {
            Op::Create { file, path } => {
                self.files.entry(*file).or_default();
                self.made.insert(*file, self.changes.len() + 1);
                self.change(Change::Put(path.clone(), Named::File(*file)));
            }
            Op::Link { file, path } => {
                self.change(Change::Put(path.clone(), Named::File(*file)));
            }
            Op::MakeDir { path } => self.change(Change::Put(path.clone(), Named::Dir)),
            Op::Unlink { path } | Op::RemoveDir { path } => {
                self.change(Change::Remove(path.clone()));
            }
            Op::Rename { from, to } => self.change(Change::Move(from.clone(), to.clone())),
            Op::Write { file, at, len, version, .. } => {
                self.files.entry(*file).or_default().write(*at, (*len).into(), *version);
            }
            Op::Truncate { file, size } => self.files.entry(*file).or_default().truncate(*size),
            Op::Fsync { .. } | Op::FdataSync { .. } | Op::FsyncDir { .. } => {}
            Op::Sync | Op::Insert { .. } | Op::End => {}
        }
    }

    fn end(&mut self, op: &Op) {
        match op {
            Op::Write { file, how, at, len, .. } => {
                let names = match how {
                    How::Buffered | How::Direct => return,
                    How::Sync => &self.named,
                    How::DataSync | How::DirectDataSync => &self.made,
                };
                self.promised = self.promised.max(names.get(file).copied().unwrap_or(0));
                self.files.entry(*file).or_default().make_range_durable(*at, (*len).into());
            }
            Op::Fsync { file } | Op::FdataSync { file } => {
                let is_all = matches!(op, Op::Fsync { .. });
                let names = if is_all { &self.named } else { &self.made };
                self.promised = self.promised.max(names.get(file).copied().unwrap_or(0));
                self.files.entry(*file).or_default().make_durable();
            }
            Op::FsyncDir { path } => {
                self.promised = self.promised.max(self.dirs.get(path).copied().unwrap_or(0));
            }
            Op::Sync => {
                self.promised = self.changes.len();
                self.files.values_mut().for_each(File::make_durable);
            }
            _ => {}
        }
    }

    fn change(&mut self, change: Change) {
        let count = self.changes.len() + 1;
        let paths = match &change {
            Change::Put(path, named) => {
                if let Named::File(file) = named {
                    self.named.insert(*file, count);
                }
                [Some(path), None]
            }
            Change::Remove(path) => [Some(path), None],
            Change::Move(from, to) => [Some(from), Some(to)],
        };
        for path in paths.into_iter().flatten() {
            if let Some(Named::File(file)) = self.names.get(path) {
                self.named.insert(*file, count);
            }
            let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            self.dirs.insert(dir.to_owned(), count);
        }
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    /// Whether this may be found: all of `tree` that belongs to the stream.
    ///
    /// # Errors
    ///
    /// What is lost, back or wrong.
    pub fn check(&self, tree: &Tree, mine: &Tree, mode: Mode) -> Result<(), String> {
        if let (Some(part), false) =
            (self.files.get(&COMMON_FILE), self.made.contains_key(&COMMON_FILE))
        {
            let path = guest::marks::COMMON_PATH;
            match tree.get(path) {
                Some(Found::File(found)) => {
                    let outcome = part.check_part(COMMON_FILE, found, mode);
                    outcome.map_err(|why| format!("{path}: {why}"))?;
                }
                _ => return Err(format!("{path} is lost")),
            }
        }
        let mut names = BTreeMap::new();
        for change in self.changes.iter().take(self.promised) {
            apply(&mut names, change);
        }
        let promised = names.clone();
        let mut rest = self.changes.iter().skip(self.promised);
        let mut failure = None;
        loop {
            if is_same(&names, mine) {
                match self.check_contents(&names, mine, mode) {
                    Ok(()) => return Ok(()),
                    Err(why) => failure = Some(why),
                }
            }
            match rest.next() {
                Some(change) => apply(&mut names, change),
                None => break,
            }
        }
        Err(failure.unwrap_or_else(|| self.why(&promised, mine)))
    }

    fn check_contents(
        &self,
        names: &BTreeMap<String, Named>,
        mine: &Tree,
        mode: Mode,
    ) -> Result<(), String> {
        for (path, named) in names {
            let (Named::File(number), Some(Found::File(found))) = (named, mine.get(path)) else {
                continue;
            };
            let Some(file) = self.files.get(number) else { continue };
            let outcome = if *number == COMMON_FILE {
                // Each stream looks after its part.
                file.check_part(*number, found, mode)
            } else {
                file.check(*number, found, mode)
            };
            outcome.map_err(|why| format!("{path} (file {number}): {why}"))?;
        }
        Ok(())
    }

    /// Why no moment has these names.
    fn why(&self, promised: &BTreeMap<String, Named>, mine: &Tree) -> String {
        let later = self.changes.get(self.promised..).unwrap_or_default();
        let is_touched = |path: &str| {
            later.iter().any(|change| match change {
                Change::Put(other, _) | Change::Remove(other) => other == path,
                Change::Move(from, to) => from == path || to == path,
            })
        };
        let lost = promised.keys().find(|path| !mine.contains_key(*path) && !is_touched(path));
        if let Some(path) = lost {
            return format!("{path} is lost");
        }
        let back = mine.keys().find(|path| !promised.contains_key(*path) && !is_touched(path));
        if let Some(path) = back {
            return format!("{path} is there and should not be");
        }
        let found: Vec<&String> = mine.keys().collect();
        format!("names that never were together: {found:?}; promised {promised:?}; then {later:?}")
    }
}

fn apply(names: &mut BTreeMap<String, Named>, change: &Change) {
    match change {
        Change::Put(path, named) => {
            names.insert(path.clone(), *named);
        }
        Change::Remove(path) => {
            names.remove(path);
        }
        Change::Move(from, to) => {
            if let Some(named) = names.remove(from) {
                names.insert(to.clone(), named);
            }
        }
    }
}

fn is_same(names: &BTreeMap<String, Named>, found: &Tree) -> bool {
    names.len() == found.len()
        && names.iter().zip(found).all(|((path, named), (other, what))| {
            path == other
                && match named {
                    Named::Dir => *what == Found::Dir,
                    Named::File(_) => matches!(what, Found::File(_)),
                }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: usize = 10;

    /// A story whose marks are at places 10, 20, 30…
    fn story(ops: Vec<Op>) -> Story {
        let mut story = Story::default();
        for (number, next) in (1..).zip(ops) {
            let mark = Mark { run: 1, stream: 2, number, next };
            story.add(number as usize * 10, mark).unwrap();
        }
        story
    }

    fn create(file: u32, path: &str) -> Op {
        Op::Create { file, path: path.into() }
    }

    fn rename(from: &str, to: &str) -> Op {
        Op::Rename { from: from.into(), to: to.into() }
    }

    fn write(file: u32, how: How) -> Op {
        Op::Write { file, how, at: 0, len: 512, version: 1 }
    }

    fn tree(files: &[(&str, u32)]) -> Tree {
        let contents = |file| {
            let mut bytes = vec![0; if file == 0 { 0 } else { 512 }];
            guest::marks::fill(file, 1, 0, &mut bytes);
            Found::File(bytes)
        };
        files.iter().map(|(path, file)| ((*path).to_owned(), contents(*file))).collect()
    }

    /// Whether these files may be there after a cut behind the mark of this operation.
    fn fits(story: &Story, number: usize, files: &[(&str, u32)]) -> bool {
        let tree = tree(files);
        story.at(number * 10 + 1).check(&tree, &tree, Mode::Strict).is_ok()
    }

    #[test]
    fn a_promise_begins_with_the_mark_after_it() {
        let ops = vec![create(7, "a"), write(7, How::Buffered), Op::Fsync { file: 7 }, Op::End];
        let story = story(ops);
        assert!(story.is_complete());
        assert_eq!((story.ended(BEFORE), story.ended(31), story.ended(41)), (0, 2, 3));
        for number in 1..=3 {
            assert!(fits(&story, number, &[]));
            assert!(fits(&story, number, &[("a", 0)]), "{number}");
        }
        assert!(!fits(&story, 1, &[("a", 7)]) && fits(&story, 2, &[("a", 7)]));
        assert!(!fits(&story, 4, &[]) && !fits(&story, 4, &[("a", 0)]));
        assert!(fits(&story, 4, &[("a", 7)]) && !fits(&story, 4, &[("a", 7), ("b", 0)]));
        assert!(!fits(&story, 4, &[("a", 8)]));
    }

    #[test]
    fn names_are_those_of_some_moment() {
        let ops = vec![
            create(7, "t2/a"),
            rename("t2/a", "t2/b"),
            create(8, "t2/c"),
            rename("t2/c", "t2/b"),
            Op::FsyncDir { path: "t2".into() },
            Op::Unlink { path: "t2/b".into() },
            Op::End,
        ];
        let story = story(ops);
        for files in [&[][..], &[("t2/a", 0)], &[("t2/b", 0)], &[("t2/b", 0), ("t2/c", 0)]] {
            assert!(fits(&story, 4, files), "{files:?}");
            assert_eq!(fits(&story, 6, files), files == [("t2/b", 0)] || files.is_empty());
        }
        assert!(!fits(&story, 4, &[("t2/a", 0), ("t2/c", 0)]));
        assert!(!fits(&story, 4, &[("t2/c", 0)]));
    }

    #[test]
    fn syncing_a_file_keeps_its_name() {
        for (op, keeps_rename) in [
            (Op::Fsync { file: 7 }, true),
            (Op::FdataSync { file: 7 }, false),
            (write(7, How::Sync), true),
            (write(7, How::DirectDataSync), false),
        ] {
            let story = story(vec![create(7, "a"), rename("a", "b"), op, Op::End]);
            let file = |path: &str| fits(&story, 4, &[(path, 0)]) || fits(&story, 4, &[(path, 7)]);
            assert!(file("b"));
            assert_eq!(file("a"), !keeps_rename);
            assert!(!fits(&story, 4, &[]));
        }
        let all = story(vec![create(7, "a"), create(8, "d/b"), Op::Sync, Op::End]);
        assert!(fits(&all, 4, &[("a", 0), ("d/b", 0)]) && !fits(&all, 4, &[("a", 0)]));
    }

    #[test]
    fn databases_are_known_by_their_transactions() {
        let insert = |row| Op::Insert { database: "db/x.db".into(), row };
        let story = story(vec![insert(0), insert(1), insert(2), Op::End]);
        assert_eq!(story.database(11), Some(("db/x.db", 0, 1)));
        assert_eq!(story.database(31), Some(("db/x.db", 2, 3)));
        assert_eq!(story.database(41), Some(("db/x.db", 3, 3)));
    }

    #[test]
    fn marks_come_in_a_row() {
        let mut story = Story::default();
        let mark = |number| Mark { run: 1, stream: 2, number, next: Op::Sync };
        assert!(story.add(1, mark(2)).is_err());
        assert!(story.add(1, mark(1)).is_ok() && story.add(2, mark(3)).is_err());
        assert!(!story.is_complete());
    }
}
