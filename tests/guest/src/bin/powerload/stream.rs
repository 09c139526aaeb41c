//! A stream of operations: each is announced by a mark and then carried out.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, Result};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use guest::marks::{self, How, MARK_LEN, MARK_STRIDE, Mark, Op};

use crate::machine;

/// Where the file system is.
pub(crate) const ROOT: &str = "/files";
/// Most bytes of one write.
pub(crate) const MAX_WRITE: usize = 64 << 10;
/// What transfers past the cache want memory to be a multiple of.
const ALIGNMENT: usize = 4096;

/// Memory that transfers past the cache take.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Aligned { bytes, start }
    }

    fn front(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }
}

/// The stream.
pub(crate) struct Stream {
    marks: File,
    buffer: Aligned,
    run: u64,
    pub(crate) number: u32,
    /// The operation that is or was announced last.
    operation: u64,
    /// A name of each file that has one.
    paths: HashMap<u32, String>,
}

impl Stream {
    /// Stream `number` of a run, with its marks on this device.
    pub(crate) fn new(device: &str, run: u64, number: u32) -> Result<Stream> {
        let mut options = OpenOptions::new();
        let marks = options.write(true).custom_flags(libc::O_DIRECT).open(device);
        let marks = marks.map_err(|error| Error::other(format!("{device}: {error}")))?;
        let paths = HashMap::from([(marks::COMMON_FILE, marks::COMMON_PATH.to_owned())]);
        let buffer = Aligned::new(MAX_WRITE);
        Ok(Stream { marks, buffer, run, number, operation: 0, paths })
    }

    /// Says that all before is done, and what comes next.
    pub(crate) fn announce(&mut self, next: Op) -> Result<()> {
        self.operation += 1;
        let mark = Mark { run: self.run, stream: self.number, number: self.operation, next };
        let sector = self.buffer.front(MARK_LEN);
        sector.copy_from_slice(&mark.to_bytes());
        let at = u64::from(self.number) * MARK_STRIDE;
        let written = self.marks.write_at(sector, at);
        match written {
            Ok(MARK_LEN) => Ok(()),
            Ok(len) => Err(Error::other(format!("a mark of {len} bytes"))),
            Err(error) => Err(Error::other(format!("a mark: {error}"))),
        }
    }

    /// Announces the end; how many operations there were.
    pub(crate) fn end(&mut self) -> Result<u64> {
        self.announce(Op::End)?;
        Ok(self.operation - 1)
    }

    /// Announces an operation and carries it out.
    pub(crate) fn run(&mut self, op: Op) -> Result<()> {
        self.announce(op.clone())?;
        let what = format!("stream {}, operation {}: {op:?}", self.number, self.operation);
        self.carry_out(op).map_err(|error| Error::other(format!("{what}: {error}")))
    }

    fn carry_out(&mut self, op: Op) -> Result<()> {
        match op {
            Op::Create { file, path } => {
                OpenOptions::new().write(true).create_new(true).open(place(&path))?;
                self.paths.insert(file, path);
                Ok(())
            }
            Op::Write { file, how, at, len, version } => self.write(file, how, at, len, version),
            Op::Truncate { file, size } => self.open(file, 0)?.set_len(size),
            Op::Fsync { file } => self.open(file, 0)?.sync_all(),
            Op::FdataSync { file } => self.open(file, 0)?.sync_data(),
            Op::Rename { from, to } => {
                fs::rename(place(&from), place(&to))?;
                self.paths.retain(|_, path| *path != to);
                for path in self.paths.values_mut().filter(|path| **path == from) {
                    path.clone_from(&to);
                }
                Ok(())
            }
            Op::Link { file, path } => fs::hard_link(place(self.path(file)?), place(&path)),
            Op::Unlink { path } => {
                fs::remove_file(place(&path))?;
                self.paths.retain(|_, other| *other != path);
                Ok(())
            }
            Op::MakeDir { path } => fs::create_dir(place(&path)),
            Op::RemoveDir { path } => fs::remove_dir(place(&path)),
            Op::FsyncDir { path } => File::open(place(&path))?.sync_all(),
            Op::Sync => machine::sync_file_system(&File::open(ROOT)?),
            Op::Insert { .. } | Op::End => Err(Error::other("nothing to carry out")),
        }
    }

    /// A file that lost the name it was known by has this one too.
    pub(crate) fn know(&mut self, file: u32, path: String) {
        self.paths.insert(file, path);
    }

    fn path(&self, file: u32) -> Result<&str> {
        self.paths.get(&file).map(String::as_str).ok_or_else(|| Error::other("no such file"))
    }

    /// Opens a file for writing.
    pub(crate) fn open(&self, file: u32, flags: i32) -> Result<File> {
        OpenOptions::new().write(true).custom_flags(flags).open(place(self.path(file)?))
    }

    fn write(&mut self, file: u32, how: How, at: u64, len: u32, version: u32) -> Result<()> {
        let opened = self.open(file, flags(how))?;
        let bytes = self.buffer.front(len as usize);
        marks::fill(file, version, at, bytes);
        opened.write_all_at(bytes, at)
    }
}

fn place(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

fn flags(how: How) -> i32 {
    match how {
        How::Buffered => 0,
        How::Sync => libc::O_SYNC,
        How::DataSync => libc::O_DSYNC,
        How::Direct => libc::O_DIRECT,
        How::DirectDataSync => libc::O_DIRECT | libc::O_DSYNC,
    }
}
