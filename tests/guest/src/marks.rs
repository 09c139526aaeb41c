//! Marks: how a program that works on a file system while the power may fail says what it was
//! promised.
//!
//! Each of its streams of work (a thread, a database) writes a mark of one sector past the cache to a part
//! of the *same* disk that has no file system, before every operation: "all before is done, and this comes
//! next". A log of the disk's writes holds marks and everything else in one order. So a mark before a moment
//! of the log proves that the operations before it had returned by then, and that none after the one it
//! names had begun. No flush goes with a mark: it says something by being in the log, not on the disk.
//!
//! The bytes of files are made from the file's number, a version and the place, so that nobody has to keep
//! them.

use std::fmt;

/// Bytes of a mark: a sector.
pub const MARK_LEN: usize = 512;
/// Where the mark of the next stream goes, so that no two of them are ever one transfer.
pub const MARK_STRIDE: u64 = 4096;
/// Bytes that get a version together: a sector, the unit in which a drive may have written parts.
pub const UNIT: u64 = 512;
/// The file that all streams write parts of.
pub const COMMON_FILE: u32 = 1;
/// Where that file is.
pub const COMMON_PATH: &str = "shared/common";
/// The directory of the databases, whose files nobody else knows.
pub const DATABASES: &str = "db";

const MAGIC: &[u8; 8] = b"PWRMARK1";
const SUM_AT: usize = MARK_LEN - 8;
const MAX_PATH: usize = 200;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Through the cache; durable with the next sync.
    Buffered,
    /// `O_SYNC`.
    Sync,
    /// `O_DSYNC`.
    DataSync,
    /// `O_DIRECT`; durable with the next sync.
    Direct,
    /// `O_DIRECT | O_DSYNC`.
    DirectDataSync,
}

impl How {
    const ALL: [How; 5] =
        [How::Buffered, How::Sync, How::DataSync, How::Direct, How::DirectDataSync];
}

/// An operation. Paths begin at the root of the file system that is worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new, empty file.
    Create { file: u32, path: String },
    /// Bytes of a version.
    Write { file: u32, how: How, at: u64, len: u32, version: u32 },
    /// A shorter file.
    Truncate { file: u32, size: u64 },
    /// `fsync(2)`.
    Fsync { file: u32 },
    /// `fdatasync(2)`.
    FdataSync { file: u32 },
    /// To a name that may be taken.
    Rename { from: String, to: String },
    /// Another name of a file.
    Link { file: u32, path: String },
    /// A name goes away.
    Unlink { path: String },
    /// A new directory.
    MakeDir { path: String },
    /// An empty directory goes away.
    RemoveDir { path: String },
    /// `fsync(2)` of a directory.
    FsyncDir { path: String },
    /// `syncfs(2)`.
    Sync,
    /// A transaction of a database that puts this row in; 0 makes the tables.
    Insert { database: String, row: u32 },
    /// Nothing comes any more.
    End,
}

/// One mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which run it belongs to.
    pub run: u64,
    /// Which stream of work.
    pub stream: u32,
    /// The number of the operation that comes next, from 1: those with smaller numbers are done.
    pub number: u64,
    /// That operation.
    pub next: Op,
}

/// Why bytes are no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMark(&'static str);

impl fmt::Display for NoMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no mark: {}", self.0)
    }
}

impl std::error::Error for NoMark {}

impl Mark {
    /// As it goes to the disk.
    ///
    /// # Panics
    ///
    /// When a path is too long for it.
    pub fn to_bytes(&self) -> [u8; MARK_LEN] {
        let mut bytes = Vec::with_capacity(MARK_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.run.to_le_bytes());
        bytes.extend_from_slice(&self.stream.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        put_op(&mut bytes, &self.next);
        assert!(bytes.len() <= SUM_AT, "an operation that does not fit into its mark");
        bytes.resize(SUM_AT, 0);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let mut sector = [0; MARK_LEN];
        sector.copy_from_slice(&bytes);
        sector
    }

    /// Reads one back.
    ///
    /// # Errors
    ///
    /// When the bytes are anything else.
    pub fn parse(bytes: &[u8]) -> Result<Mark, NoMark> {
        let body = bytes.get(..SUM_AT).ok_or(NoMark("too short"))?;
        let mut tail = Reader(bytes.get(SUM_AT..MARK_LEN).ok_or(NoMark("too short"))?);
        let mut reader = Reader(body);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(NoMark("another magic number"));
        }
        if tail.u64()? != checksum(body) {
            return Err(NoMark("wrong checksum"));
        }
        let (run, stream, number) = (reader.u64()?, reader.u32()?, reader.u64()?);
        Ok(Mark { run, stream, number, next: reader.op()? })
    }
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn put_path(bytes: &mut Vec<u8>, path: &str) {
    assert!(path.len() <= MAX_PATH, "a path too long for a mark: {path}");
    bytes.push(path.len() as u8);
    bytes.extend_from_slice(path.as_bytes());
}

fn put_op(bytes: &mut Vec<u8>, op: &Op) {
    let kind = match op {
        Op::Create { .. } => 1,
        Op::Write { .. } => 2,
        Op::Truncate { .. } => 3,
        Op::Fsync { .. } => 4,
        Op::FdataSync { .. } => 5,
        Op::Rename { .. } => 6,
        Op::Link { .. } => 7,
        Op::Unlink { .. } => 8,
        Op::MakeDir { .. } => 9,
        Op::RemoveDir { .. } => 10,
        Op::FsyncDir { .. } => 11,
        Op::Sync => 12,
        Op::Insert { .. } => 13,
        Op::End => 14,
    };
    bytes.push(kind);
    match op {
        Op::Create { file, path } | Op::Link { file, path } => {
            bytes.extend_from_slice(&file.to_le_bytes());
            put_path(bytes, path);
        }
        Op::Write { file, how, at, len, version } => {
            bytes.extend_from_slice(&file.to_le_bytes());
            bytes.push(How::ALL.iter().position(|one| one == how).unwrap_or(0) as u8);
            bytes.extend_from_slice(&at.to_le_bytes());
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&version.to_le_bytes());
        }
        Op::Truncate { file, size } => {
            bytes.extend_from_slice(&file.to_le_bytes());
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        Op::Fsync { file } | Op::FdataSync { file } => {
            bytes.extend_from_slice(&file.to_le_bytes());
        }
        Op::Rename { from, to } => {
            put_path(bytes, from);
            put_path(bytes, to);
        }
        Op::Unlink { path }
        | Op::MakeDir { path }
        | Op::RemoveDir { path }
        | Op::FsyncDir { path } => put_path(bytes, path),
        Op::Insert { database, row } => {
            put_path(bytes, database);
            bytes.extend_from_slice(&row.to_le_bytes());
        }
        Op::Sync | Op::End => {}
    }
}

/// Takes values off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, len: usize) -> Result<&[u8], NoMark> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(NoMark("cut off"))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NoMark> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, NoMark> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, NoMark> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn path(&mut self) -> Result<String, NoMark> {
        let [len] = self.array()?;
        let bytes = self.take(usize::from(len))?.to_vec();
        String::from_utf8(bytes).map_err(|_| NoMark("a path that is no text"))
    }

    fn op(&mut self) -> Result<Op, NoMark> {
        let [kind] = self.array()?;
        Ok(match kind {
            1 => Op::Create { file: self.u32()?, path: self.path()? },
            2 => {
                let file = self.u32()?;
                let [how] = self.array()?;
                let how =
                    How::ALL.get(usize::from(how)).ok_or(NoMark("an unknown way to write"))?;
                let (at, len, version) = (self.u64()?, self.u32()?, self.u32()?);
                if at.checked_add(len.into()).is_none_or(|end| end > MAX_FILE) {
                    return Err(NoMark("a write past the end of everything"));
                }
                Op::Write { file, how: *how, at, len, version }
            }
            3 => {
                let (file, size) = (self.u32()?, self.u64()?);
                if size > MAX_FILE {
                    return Err(NoMark("a size past the end of everything"));
                }
                Op::Truncate { file, size }
            }
            4 => Op::Fsync { file: self.u32()? },
            5 => Op::FdataSync { file: self.u32()? },
            6 => Op::Rename { from: self.path()?, to: self.path()? },
            7 => Op::Link { file: self.u32()?, path: self.path()? },
            8 => Op::Unlink { path: self.path()? },
            9 => Op::MakeDir { path: self.path()? },
            10 => Op::RemoveDir { path: self.path()? },
            11 => Op::FsyncDir { path: self.path()? },
            12 => Op::Sync,
            13 => Op::Insert { database: self.path()?, row: self.u32()? },
            14 => Op::End,
            _ => return Err(NoMark("an unknown operation")),
        })
    }
}

/// Files of the load are far smaller; what reads marks makes tables as long as files.
const MAX_FILE: u64 = 16 << 20;

/// Fills `bytes` with what a file has from `at` on when all of it is of one version. Version 0 is
/// zeros: a hole.
pub fn fill(file: u32, version: u32, at: u64, bytes: &mut [u8]) {
    if version == 0 {
        return bytes.fill(0);
    }
    let own = mix(u64::from(file) << 32 | u64::from(version));
    let word = |number: u64| mix(own ^ mix(number)).to_le_bytes();
    let mut current = word(at / 8);
    for (place, byte) in (at..).zip(bytes) {
        if place % 8 == 0 {
            current = word(place / 8);
        }
        *byte = current[(place % 8) as usize];
    }
}

/// The text of a row: some short, some of several pages of a database.
pub fn row_text(row: u32) -> String {
    let len = 20 + u64::from(row) * 977 % 7000;
    let digits = (0..len.div_ceil(16)).map(|n| format!("{:016x}", mix(u64::from(row) << 20 | n)));
    let mut text: String = digits.collect();
    text.truncate(len as usize);
    text
}

/// The mixing step of SplitMix64.
pub fn mix(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_ops() -> Vec<Op> {
        let path = || "w3/name".to_owned();
        let mut ops = vec![
            Op::Create { file: 7, path: path() },
            Op::Truncate { file: 7, size: 512 },
            Op::Fsync { file: 7 },
            Op::FdataSync { file: 7 },
            Op::Rename { from: path(), to: "x".repeat(MAX_PATH) },
            Op::Link { file: 7, path: path() },
            Op::Unlink { path: path() },
            Op::MakeDir { path: path() },
            Op::RemoveDir { path: path() },
            Op::FsyncDir { path: path() },
            Op::Sync,
            Op::Insert { database: path(), row: 9 },
            Op::End,
        ];
        ops.extend(How::ALL.map(|how| Op::Write { file: 7, how, at: 5, len: 6, version: 8 }));
        ops
    }

    #[test]
    fn marks_are_read_back() {
        for (number, next) in (1..).zip(some_ops()) {
            let mark = Mark { run: 5, stream: 3, number, next };
            assert_eq!(Mark::parse(&mark.to_bytes()), Ok(mark));
        }
    }

    #[test]
    fn other_bytes_are_no_marks() {
        for next in some_ops() {
            let bytes = Mark { run: 5, stream: 3, number: 1, next }.to_bytes();
            for at in 0..MARK_LEN {
                let mut other = bytes;
                other[at] ^= 0x41;
                assert!(Mark::parse(&other).is_err(), "byte {at}");
            }
            assert!(Mark::parse(&bytes[..MARK_LEN - 1]).is_err());
        }
        // With a sound checksum too.
        for kind in 0..=u8::MAX {
            let mut bytes = Mark { run: 5, stream: 3, number: 1, next: Op::End }.to_bytes();
            bytes[28..SUM_AT].fill(0xff);
            bytes[28] = kind;
            let sum = checksum(&bytes[..SUM_AT]);
            bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
            let is_plain = matches!(kind, 4 | 5 | 12 | 14);
            assert_eq!(Mark::parse(&bytes).is_ok(), is_plain, "kind {kind}");
        }
    }

    #[test]
    fn contents_depend_on_the_place_alone() {
        let (mut whole, mut part) = ([0; 1000], [0; 100]);
        fill(3, 1, 0, &mut whole);
        fill(3, 1, 333, &mut part);
        assert_eq!(part, whole[333..433]);
        let mut other = [1; 100];
        fill(3, 2, 333, &mut other);
        assert_ne!(part, other);
        fill(3, 0, 333, &mut other);
        assert_eq!(other, [0; 100]);
        assert_eq!(row_text(5).len(), 20 + 5 * 977);
        assert_ne!(row_text(5)[..20], row_text(6)[..20]);
    }
}
