//! The log of a disk's writes, in the format of device mapper's `log-writes` target, which QEMU's
//! `blklogwrites` driver writes too.
//!
//! All numbers are little-endian, all places sectors of the log. The first sector is the super block: a magic
//! number, the format's version (64 bits each), the count of entries (64) and the bytes of a sector (32).
//! Then comes entry after entry: a sector with the place on the disk, the count of sectors, flags and the bytes
//! of data in the sector itself (64 bits each; the last only in a mark), and after it the data, unless the
//! entry is a discard. An entry is written when its operation has been done, and before whoever asked for it
//! is told.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// Sectors that a log may have.
const SECTOR_SIZES: std::ops::RangeInclusive<u32> = 512..=65536;

/// Bytes to read at places.
pub trait Bytes {
    /// How many there are.
    fn total(&self) -> u64;
    /// Fills `buffer` from `at` on; whether that could be done.
    fn read(&self, at: u64, buffer: &mut [u8]) -> bool;
}

impl Bytes for File {
    fn total(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> bool {
        self.read_exact_at(buffer, at).is_ok()
    }
}

impl Bytes for [u8] {
    fn total(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> bool {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..));
        let found = from.and_then(|from| from.get(..buffer.len()));
        if let Some(found) = found {
            buffer.copy_from_slice(found);
        }
        found.is_some()
    }
}

/// What the disk did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wrote; the data is at this place of the log, in bytes.
    Write {
        /// Where the data is.
        data: u64,
    },
    /// Forgot what was there, which reads as anything.
    Discard,
    /// Nothing.
    Nothing,
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was done.
    pub kind: Kind,
    /// The first byte on the disk.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
    /// All entries before this one had become durable before what it does itself was begun.
    pub is_flush: bool,
    /// What it does is durable itself.
    pub is_durable: bool,
}

/// A log that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Log {
    /// Its entries.
    pub entries: Vec<Entry>,
    /// Whether there are fewer of them than the super block says: whoever wrote it was stopped.
    pub is_cut_off: bool,
}

/// Why bytes are no log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLog(String);

impl fmt::Display for BadLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log of writes: {}", self.0)
    }
}

impl std::error::Error for BadLog {}

fn number(sector: &[u8], index: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&sector[index * 8..][..8]);
    u64::from_le_bytes(bytes)
}

impl Log {
    /// Reads the entries of a log of a disk of `disk_len` bytes.
    ///
    /// # Errors
    ///
    /// When it is none, or of another disk.
    pub fn read(bytes: &(impl Bytes + ?Sized), disk_len: u64) -> Result<Log, BadLog> {
        let bad = |why: String| Err(BadLog(why));
        let mut head = [0; 32];
        if !bytes.read(0, &mut head) {
            return bad("no super block".into());
        }
        let (magic, version, count) = (number(&head, 0), number(&head, 1), number(&head, 2));
        let unit = number(&head, 3) as u32;
        if magic != MAGIC || version != VERSION {
            return bad(format!("magic number {magic:x}, version {version}"));
        }
        if !unit.is_power_of_two() || !SECTOR_SIZES.contains(&unit) {
            return bad(format!("sectors of {unit} bytes"));
        }
        let unit = u64::from(unit);
        // Each entry has a sector of its own.
        let most = bytes.total() / unit;
        let mut entries = Vec::with_capacity(count.min(most) as usize);
        let mut place = unit;
        for index in 0..count {
            let mut head = [0; 32];
            if place + unit > bytes.total() || !bytes.read(place, &mut head) {
                return Ok(Log { entries, is_cut_off: true });
            }
            let (sector, sectors, flags) = (number(&head, 0), number(&head, 1), number(&head, 2));
            if flags & !(FLUSH | FUA | DISCARD | MARK) != 0 {
                return bad(format!("entry {index} has flags {flags:x}"));
            }
            place += unit;
            let span = sector.checked_mul(unit).zip(sectors.checked_mul(unit));
            let inside =
                |(at, len): &(u64, u64)| at.checked_add(*len).is_some_and(|end| end <= disk_len);
            let Some((at, len)) = span.filter(inside) else {
                return bad(format!("entry {index}: {sectors} sectors at {sector}, past the disk"));
            };
            let kind = match (flags & DISCARD != 0, len) {
                (true, 1..) => Kind::Discard,
                (false, 1..) => Kind::Write { data: place },
                (_, 0) => Kind::Nothing,
            };
            if let Kind::Write { .. } = kind {
                place += len;
                if place > bytes.total() {
                    return Ok(Log { entries, is_cut_off: true });
                }
            }
            let (is_flush, is_durable) = (flags & FLUSH != 0, flags & FUA != 0);
            entries.push(Entry { kind, at, len, is_flush, is_durable });
        }
        Ok(Log { entries, is_cut_off: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 1 << 20;

    /// A log with sectors of this size and these entries: place, count, flags.
    fn made(unit: usize, entries: &[(u64, u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; unit];
        for (index, number) in
            [MAGIC, VERSION, entries.len() as u64, unit as u64].iter().enumerate()
        {
            bytes[index * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        for (number, &(sector, sectors, flags)) in entries.iter().enumerate() {
            let start = bytes.len();
            bytes.resize(start + unit, 0);
            for (index, number) in [sector, sectors, flags, 0].iter().enumerate() {
                bytes[start + index * 8..][..8].copy_from_slice(&number.to_le_bytes());
            }
            if flags & DISCARD == 0 {
                bytes.resize(bytes.len() + sectors as usize * unit, number as u8 + 1);
            }
        }
        bytes
    }

    fn sound() -> Vec<u8> {
        made(
            512,
            &[(8, 2, 0), (0, 0, FLUSH), (100, 50, DISCARD), (9, 1, FLUSH | FUA), (0, 0, MARK)],
        )
    }

    #[test]
    fn entries_are_found_with_their_data() {
        for unit in [512, 4096] {
            let unit = unit as u64;
            let entries = [(8, 2, 0), (0, 0, FLUSH), (10, 5, DISCARD), (9, 1, FLUSH | FUA)];
            let bytes = made(unit as usize, &entries);
            let log = Log::read(&bytes[..], DISK).unwrap();
            assert!(!log.is_cut_off);
            let plain =
                Entry { kind: Kind::Nothing, at: 0, len: 0, is_flush: false, is_durable: false };
            let write = |data| Kind::Write { data };
            let expected = [
                Entry { kind: write(2 * unit), at: 8 * unit, len: 2 * unit, ..plain },
                Entry { is_flush: true, ..plain },
                Entry { kind: Kind::Discard, at: 10 * unit, len: 5 * unit, ..plain },
                Entry {
                    kind: write(7 * unit),
                    at: 9 * unit,
                    len: unit,
                    is_flush: true,
                    is_durable: true,
                },
            ];
            assert_eq!(log.entries, expected);
            assert_eq!((bytes[2 * unit as usize], bytes[7 * unit as usize]), (1, 4));
        }
    }

    #[test]
    fn logs_that_end_early_are_read_as_far_as_they_go() {
        let bytes = sound();
        for len in 512..bytes.len() {
            let log = Log::read(&bytes[..len], DISK).unwrap();
            assert!(log.is_cut_off && log.entries.len() < 5, "{len}");
        }
        assert!(Log::read(&bytes[..20], DISK).is_err());
        // A count that nothing could hold.
        let mut many = bytes;
        many[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        let log = Log::read(&many[..], DISK).unwrap();
        assert!(log.is_cut_off && log.entries.len() == 5);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let wrong = |at: usize, value: u64| {
            let mut bytes = sound();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            Log::read(&bytes[..], DISK).is_err()
        };
        assert!(wrong(0, MAGIC + 1) && wrong(8, 2));
        assert!(wrong(24, 0) && wrong(24, 513) && wrong(24, 256) && wrong(24, 1 << 20));
        // Flags, and places past the disk or past all numbers.
        assert!(wrong(512 + 16, 16) && wrong(512 + 16, u64::MAX));
        assert!(
            wrong(512, DISK / 512 - 1) && wrong(512, u64::MAX) && wrong(512 + 8, u64::MAX / 512)
        );
        assert!(!wrong(512, DISK / 512 - 2));
    }

    #[test]
    fn random_damage_is_survived() {
        let mut random = 1u64;
        for _ in 0..20_000 {
            let mut bytes = sound();
            for _ in 0..3 {
                random = guest::marks::mix(random);
                let at = random as usize % bytes.len().min(700);
                bytes[at] = (random >> 32) as u8;
            }
            if let Ok(log) = Log::read(&bytes[..], DISK) {
                for entry in log.entries {
                    assert!(entry.at + entry.len <= DISK);
                    if let Kind::Write { data } = entry.kind {
                        assert!(data + entry.len <= bytes.len() as u64);
                    }
                }
            }
        }
    }
}
