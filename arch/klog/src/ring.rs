//! The ring of messages.
//!
//! Records lie one after another in a fixed buffer, a header and the text, wrapping byte-wise. The
//! newest overwrite the oldest. Every record has a sequence number that never repeats; readers
//! remember the number of the next record they want and a hint where it lies, so a read costs no
//! search. One interrupt-safe lock covers the ring; it is held for one copy of a message.

use crate::level::Level;
use arch::lock::{IrqLock, LockClass};
use arrayvec::ArrayVec;

/// The longest message; longer ones are cut, as on Linux.
pub const MESSAGE_MAX: usize = 991;
/// Room that one formatted `/dev/kmsg` record needs at most (every byte escaped, and the prefix).
pub const DEV_KMSG_MAX: usize = MESSAGE_MAX * 4 + 64;

const RING_LEN: usize = 256 << 10;
const HEADER_LEN: usize = 16;

static CLASS: LockClass = LockClass::new("klog.ring", 990);
static RING: IrqLock<Ring> = IrqLock::new(&CLASS, Ring::new());

/// One message, as read back.
#[derive(Clone)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// Its level.
    pub level: Level,
    /// Who wrote it: 0 the kernel, else what a program gave.
    pub facility: u16,
    text: ArrayVec<u8, MESSAGE_MAX>,
}

impl Record {
    /// The text, without the final line feed. Programs may have written any bytes.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The number that syslog and `/dev/kmsg` show: facility and level.
    pub fn priority(&self) -> u32 {
        u32::from(self.facility) << 3 | self.level as u32
    }
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    /// The record it reads next.
    pub seq: u64,
    offset: u64,
}

impl Position {
    /// At the record with this number; found by a walk on first use.
    pub const fn at(seq: u64) -> Position {
        Position { seq, offset: u64::MAX }
    }
}

/// Why nothing was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// There is no newer record yet.
    Empty,
    /// The record was overwritten; the position was moved to the oldest one.
    Overwritten,
}

/// The order of the fields is known to the helpers for gdb.
#[repr(C)]
struct Ring {
    /// Total bytes ever written; the next record goes here, modulo the length.
    head: u64,
    /// Position of the oldest record, in the same count.
    tail: u64,
    first_seq: u64,
    next_seq: u64,
    bytes: [u8; RING_LEN],
}

struct Header {
    len: usize,
    facility: u16,
    level: u8,
    time_ns: u64,
}

impl Ring {
    const fn new() -> Ring {
        Ring { bytes: [0; RING_LEN], head: 0, tail: 0, first_seq: 0, next_seq: 0 }
    }

    fn put(&mut self, at: u64, data: &[u8]) {
        let start = at as usize % RING_LEN;
        let first = data.len().min(RING_LEN - start);
        let (now, wrapped) = data.split_at(first);
        self.bytes[start..start + first].copy_from_slice(now);
        self.bytes[..wrapped.len()].copy_from_slice(wrapped);
    }

    fn get(&self, at: u64, out: &mut [u8]) {
        let start = at as usize % RING_LEN;
        let first = out.len().min(RING_LEN - start);
        let (now, wrapped) = out.split_at_mut(first);
        now.copy_from_slice(&self.bytes[start..start + first]);
        wrapped.copy_from_slice(&self.bytes[..wrapped.len()]);
    }

    fn header(&self, at: u64) -> Header {
        let mut raw = [0; HEADER_LEN];
        self.get(at, &mut raw);
        let [l0, l1, f0, f1, level, _, _, _, time @ ..] = raw;
        Header {
            len: usize::from(u16::from_le_bytes([l0, l1])).min(MESSAGE_MAX),
            facility: u16::from_le_bytes([f0, f1]),
            level,
            time_ns: u64::from_le_bytes(time),
        }
    }

    fn append(&mut self, level: Level, facility: u16, time_ns: u64, text: &[u8]) -> u64 {
        let text = text.get(..MESSAGE_MAX).unwrap_or(text);
        let size = (HEADER_LEN + text.len()) as u64;
        while self.head + size - self.tail > RING_LEN as u64 {
            self.tail += (HEADER_LEN + self.header(self.tail).len) as u64;
            self.first_seq += 1;
        }
        let [l0, l1] = (text.len() as u16).to_le_bytes();
        let [f0, f1] = facility.to_le_bytes();
        let mut raw = [l0, l1, f0, f1, level as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        raw[8..].copy_from_slice(&time_ns.to_le_bytes());
        self.put(self.head, &raw);
        self.put(self.head + HEADER_LEN as u64, text);
        self.head += size;
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// Brings the hint of a position up to date.
    fn settle(&self, position: &mut Position) -> Result<(), ReadError> {
        if position.seq < self.first_seq {
            *position = Position { seq: self.first_seq, offset: self.tail };
            return Err(ReadError::Overwritten);
        }
        if position.seq >= self.next_seq {
            position.offset = if position.seq == self.next_seq { self.head } else { u64::MAX };
            return Err(ReadError::Empty);
        }
        if position.offset < self.tail || position.offset >= self.head {
            let mut at = self.tail;
            for _ in self.first_seq..position.seq {
                at += (HEADER_LEN + self.header(at).len) as u64;
            }
            position.offset = at;
        }
        Ok(())
    }

    fn read(&self, position: &mut Position) -> Result<Record, ReadError> {
        self.settle(position)?;
        let header = self.header(position.offset);
        let mut text = [0; MESSAGE_MAX];
        let slice = text.get_mut(..header.len).unwrap_or_default();
        self.get(position.offset + HEADER_LEN as u64, slice);
        let record = Record {
            seq: position.seq,
            time_ns: header.time_ns,
            level: Level::from_priority(u32::from(header.level)),
            facility: header.facility,
            text: slice.iter().copied().collect(),
        };
        position.seq += 1;
        position.offset += (HEADER_LEN + header.len) as u64;
        Ok(record)
    }
}

/// Adds a record; answers its number.
pub(crate) fn append(level: Level, facility: u16, time_ns: u64, text: &[u8]) -> u64 {
    RING.lock().append(level, facility, time_ns, text)
}

/// Adds a record unless somebody (perhaps this processor) is at it: for a dying machine.
pub(crate) fn try_append(level: Level, time_ns: u64, text: &[u8]) -> bool {
    match RING.try_lock() {
        Some(mut ring) => {
            ring.append(level, 0, time_ns, text);
            true
        }
        None => false,
    }
}

/// Reads the record at `position` and moves on to the next.
pub fn read(position: &mut Position) -> Result<Record, ReadError> {
    RING.lock().read(position)
}

/// The number of the oldest record kept.
pub fn first_seq() -> u64 {
    RING.lock().first_seq
}

/// The number the next record will get.
pub fn next_seq() -> u64 {
    RING.lock().next_seq
}

/// The size of the ring in bytes.
pub(crate) const fn capacity() -> usize {
    RING_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_records_give_way_and_readers_notice() {
        let mut ring = Box::new(Ring::new());
        let mut reader = Position::at(0);
        ring.append(Level::Info, 0, 5, b"first");
        assert_eq!(ring.read(&mut reader).map(|r| r.text().to_vec()), Ok(b"first".to_vec()));
        assert_eq!(ring.read(&mut reader).map(|r| r.seq), Err(ReadError::Empty));
        for index in 0..2000u64 {
            ring.append(Level::Info, 3, index, &[b'x'; 700]);
        }
        assert_eq!(ring.read(&mut reader).map(|r| r.seq), Err(ReadError::Overwritten));
        let mut seen = 0;
        let mut last = None;
        while let Ok(record) = ring.read(&mut reader) {
            assert_eq!(record.text(), &[b'x'; 700]);
            assert_eq!(record.time_ns, record.seq - 1);
            assert_eq!(record.facility, 3);
            assert!(last.is_none_or(|last| record.seq == last + 1));
            last = Some(record.seq);
            seen += 1;
        }
        assert_eq!(last, Some(2000));
        assert!(seen > 300, "{seen}");
    }

    #[test]
    fn positions_without_a_hint_are_found() {
        let mut ring = Box::new(Ring::new());
        for text in ["a", "bb", "", "dddd"] {
            ring.append(Level::Error, 0, 0, text.as_bytes());
        }
        let mut reader = Position::at(3);
        assert_eq!(ring.read(&mut reader).map(|r| r.text().to_vec()), Ok(b"dddd".to_vec()));
        let mut future = Position::at(99);
        assert_eq!(ring.read(&mut future).map(|r| r.seq), Err(ReadError::Empty));
    }

    #[test]
    fn long_messages_are_cut() {
        let mut ring = Box::new(Ring::new());
        ring.append(Level::Info, 0, 0, &[b'y'; 5000]);
        let mut reader = Position::default();
        assert_eq!(ring.read(&mut reader).map(|r| r.text().len()), Ok(MESSAGE_MAX));
    }
}
