//! A thread's work: files of its own, in its directory and in the one of all, and its part of the file of
//! all.

use std::fs::File;
use std::io::Result;
use std::time::Instant;

use guest::marks::{COMMON_FILE, How, Op, UNIT, mix};

use crate::stream::Stream;

/// Most files that a thread has.
const MAX_FILES: usize = 16;
/// A file's length in units where it is not a log.
const MAX_UNITS: u64 = 160;
/// Units of the file of all that belong to one thread.
const COMMON_UNITS: u64 = 64;
/// Where a log ends and gets a successor.
const MAX_LOG: u64 = 120_000;

/// The directory of a thread.
pub(crate) fn home(number: u32) -> String {
    format!("t{number}")
}

/// A file of the thread.
struct Mine {
    file: u32,
    path: String,
    /// Bytes are only added at its end, any number of them. Others are written anywhere, in units.
    is_log: bool,
    size: u64,
    /// Of its last write.
    version: u32,
}

/// The thread.
pub(crate) struct Worker {
    stream: Stream,
    random: u64,
    files: Vec<Mine>,
    dirs: Vec<String>,
    /// Without a name, and in use.
    orphans: Vec<File>,
    /// What numbers of files and versions of the common file count.
    made: u32,
    common_version: u32,
}

impl Worker {
    pub(crate) fn new(stream: Stream, seed: u64) -> Worker {
        let random = mix(seed ^ u64::from(stream.number) << 32);
        let (files, dirs, orphans) = (Vec::new(), Vec::new(), Vec::new());
        Worker { stream, random, files, dirs, orphans, made: 0, common_version: 0 }
    }

    /// Works until it is time.
    pub(crate) fn run(&mut self, deadline: Instant) -> Result<()> {
        while Instant::now() < deadline {
            self.step()?;
        }
        Ok(())
    }

    /// Says that it is done; how many operations there were.
    pub(crate) fn end(&mut self) -> Result<u64> {
        self.stream.end()
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(1);
        mix(self.random) % limit.max(1)
    }

    fn fresh_name(&mut self) -> String {
        self.made += 1;
        let number = self.stream.number;
        let tail = "n".repeat(self.below(60) as usize);
        match (self.below(4), self.dirs.len() as u64) {
            (0, _) => format!("shared/t{number}-{}{tail}", self.made),
            (1, count @ 1..) => {
                let at = self.below(count) as usize;
                format!("{}/f{}{tail}", self.dirs[at], self.made)
            }
            _ => format!("t{number}/f{}{tail}", self.made),
        }
    }

    fn some_file(&mut self) -> Option<usize> {
        let count = self.files.len() as u64;
        (count > 0).then(|| self.below(count) as usize)
    }

    fn step(&mut self) -> Result<()> {
        let Some(at) = self.some_file().filter(|_| self.files.len() > 2) else {
            return self.create();
        };
        match self.below(40) {
            0..=3 if self.files.len() < MAX_FILES => self.create(),
            0..=3 => self.unlink(at),
            4..=15 => self.write(at),
            16..=18 => self.write_common(),
            19..=22 => self.fsync(at),
            23..=25 => self.stream.run(Op::FdataSync { file: self.files[at].file }),
            26..=28 => self.rename(at),
            29 => self.link_elsewhere(at),
            30..=31 => self.unlink(at),
            32..=33 => self.sync_dir(at),
            34..=35 => self.replace(at),
            36 => self.truncate(at),
            37 => self.change_dirs(),
            38 if self.below(4) == 0 => self.stream.run(Op::Sync),
            _ => {
                self.orphans.clear();
                self.stream.run(Op::FdataSync { file: COMMON_FILE })
            }
        }
    }

    fn create(&mut self) -> Result<()> {
        let path = self.fresh_name();
        let file = self.stream.number << 20 | self.made;
        self.stream.run(Op::Create { file, path: path.clone() })?;
        let is_log = self.below(2) == 0;
        self.files.push(Mine { file, path, is_log, size: 0, version: 0 });
        self.write(self.files.len() - 1)
    }

    /// Some way to write; past the cache only in units.
    fn some_way(&mut self, is_log: bool) -> How {
        match self.below(if is_log { 6 } else { 10 }) {
            0..=3 => How::Buffered,
            4 => How::Sync,
            5 => How::DataSync,
            6..=7 => How::Direct,
            _ => How::DirectDataSync,
        }
    }

    fn write(&mut self, at: usize) -> Result<()> {
        let how = self.some_way(self.files[at].is_log);
        let (place, len, version) = if self.files[at].is_log {
            (self.files[at].size, 1 + self.below(9000), 1)
        } else {
            let unit = self.below(MAX_UNITS);
            (unit * UNIT, (1 + self.below(32)) * UNIT, self.files[at].version + 1)
        };
        let mine = &mut self.files[at];
        mine.version = version;
        mine.size = mine.size.max(place + len);
        let file = mine.file;
        self.stream.run(Op::Write { file, how, at: place, len: len as u32, version })?;
        if self.files[at].is_log && self.files[at].size > MAX_LOG {
            return self.unlink(at);
        }
        Ok(())
    }

    fn write_common(&mut self) -> Result<()> {
        let unit = self.below(COMMON_UNITS);
        let len = 1 + self.below((COMMON_UNITS - unit).min(16));
        let at = (u64::from(self.stream.number) * COMMON_UNITS + unit) * UNIT;
        self.common_version += 1;
        let (how, version) = (self.some_way(false), self.common_version);
        let len = (len * UNIT) as u32;
        self.stream.run(Op::Write { file: COMMON_FILE, how, at, len, version })
    }

    fn fsync(&mut self, at: usize) -> Result<()> {
        self.stream.run(Op::Fsync { file: self.files[at].file })
    }

    fn sync_dir(&mut self, at: usize) -> Result<()> {
        let path = &self.files[at].path;
        let dir = path.rsplit_once('/').map_or(".", |(dir, _)| dir).to_owned();
        self.stream.run(Op::FsyncDir { path: dir })
    }

    fn rename(&mut self, at: usize) -> Result<()> {
        let to = self.fresh_name();
        let from = std::mem::replace(&mut self.files[at].path, to.clone());
        self.stream.run(Op::Rename { from, to })?;
        match self.below(3) {
            0 => self.fsync(at),
            1 => self.sync_dir(at),
            _ => Ok(()),
        }
    }

    /// Another name, and then away with the first.
    fn link_elsewhere(&mut self, at: usize) -> Result<()> {
        let to = self.fresh_name();
        let from = std::mem::replace(&mut self.files[at].path, to.clone());
        let file = self.files[at].file;
        self.stream.run(Op::Link { file, path: to.clone() })?;
        // By renaming the first name over a third, which is the only way to a name that is known.
        let third = self.fresh_name();
        self.stream.run(Op::Rename { from, to: third.clone() })?;
        self.stream.run(Op::Unlink { path: third })?;
        self.stream.know(file, to);
        Ok(())
    }

    /// The file may stay open, and be written, for a while.
    fn unlink(&mut self, at: usize) -> Result<()> {
        let mine = self.files.swap_remove(at);
        let open = self.stream.open(mine.file, 0)?;
        self.stream.run(Op::Unlink { path: mine.path.clone() })?;
        if self.below(2) == 0 {
            use std::os::unix::fs::FileExt;
            open.write_all_at(&[7; 5000], mine.size)?;
            self.orphans.push(open);
        }
        Ok(())
    }

    /// A new version of a file is written aside and takes the place of the old one.
    fn replace(&mut self, at: usize) -> Result<()> {
        self.create()?;
        let fresh = self.files.len() - 1;
        if fresh == at || self.files.len() < 2 {
            return Ok(());
        }
        self.fsync(fresh)?;
        let from = self.files[fresh].path.clone();
        let to = self.files[at].path.clone();
        self.stream.run(Op::Rename { from, to: to.clone() })?;
        self.files[fresh].path = to;
        self.files.swap_remove(at);
        if self.below(2) == 0 {
            return self.sync_dir(at);
        }
        Ok(())
    }

    fn truncate(&mut self, at: usize) -> Result<()> {
        let mine = &self.files[at];
        if mine.is_log || mine.size == 0 {
            return self.fsync(at);
        }
        let (file, units) = (mine.file, mine.size / UNIT);
        let size = self.below(units) * UNIT;
        self.files[at].size = size;
        self.stream.run(Op::Truncate { file, size })
    }

    fn change_dirs(&mut self) -> Result<()> {
        let is_used = |dir: &str, files: &[Mine]| {
            files.iter().any(|mine| mine.path.rsplit_once('/').is_some_and(|(at, _)| at == dir))
        };
        if let Some(at) = self.dirs.iter().position(|dir| !is_used(dir, &self.files)) {
            let path = self.dirs.swap_remove(at);
            return self.stream.run(Op::RemoveDir { path });
        }
        self.made += 1;
        let path = format!("{}/d{}", home(self.stream.number), self.made);
        self.dirs.push(path.clone());
        self.stream.run(Op::MakeDir { path })
    }
}
