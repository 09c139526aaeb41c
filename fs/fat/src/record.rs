//! Directory records of 32 bytes: files, and the parts of long names before them (FAT specification
//! 1.03, "FAT 32 Byte Directory Entry Structure" and "FAT Long Directory Entries").

use alloc::vec::Vec;

use crate::bytes::{put, put16, u8_at, u16_at};
use crate::time::Stamp;

/// Bytes of a record.
pub(crate) const RECORD: usize = 32;
/// A short name as it is stored: eight bytes, three bytes of extension, filled up with blanks.
pub(crate) type Raw = [u8; 11];

/// Attributes.
pub(crate) mod attr {
    pub(crate) const READ_ONLY: u8 = 1;
    pub(crate) const HIDDEN: u8 = 2;
    pub(crate) const SYSTEM: u8 = 4;
    pub(crate) const VOLUME: u8 = 8;
    pub(crate) const DIRECTORY: u8 = 16;
    pub(crate) const ARCHIVE: u8 = 32;
    /// A part of a long name.
    pub(crate) const LONG: u8 = READ_ONLY | HIDDEN | SYSTEM | VOLUME;
    pub(crate) const LONG_MASK: u8 = LONG | DIRECTORY | ARCHIVE;
}

/// The base of the name is in lower case.
pub(crate) const LOWER_BASE: u8 = 8;
/// The extension is in lower case.
pub(crate) const LOWER_EXTENSION: u8 = 16;

/// The first byte of a record that is free.
pub(crate) const DELETED: u8 = 0xe5;
/// Stands for [`DELETED`] as the first byte of a name.
const KANJI: u8 = 5;
/// Units of a long name in one record, and where they are.
const PER_PART: usize = 13;
const PLACES: [usize; PER_PART] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// The last part of a name, which comes first.
const LAST_PART: u8 = 0x40;

/// What a record says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Record {
    pub(crate) raw: Raw,
    pub(crate) attr: u8,
    pub(crate) case: u8,
    pub(crate) born: Stamp,
    /// The date alone.
    pub(crate) accessed: u16,
    pub(crate) modified: Stamp,
    /// The first cluster; 0: none.
    pub(crate) cluster: u32,
    pub(crate) size: u32,
}

impl Record {
    pub(crate) fn parse(bytes: &[u8; RECORD]) -> Record {
        let mut raw = [0; 11];
        raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        if let Some(first) = raw.first_mut()
            && *first == KANJI
        {
            *first = DELETED;
        }
        Record {
            raw,
            attr: u8_at(bytes, 11),
            case: u8_at(bytes, 12),
            born: Stamp {
                centis: u8_at(bytes, 13),
                time: u16_at(bytes, 14),
                date: u16_at(bytes, 16),
            },
            accessed: u16_at(bytes, 18),
            modified: Stamp { time: u16_at(bytes, 22), date: u16_at(bytes, 24), centis: 0 },
            cluster: u32::from(u16_at(bytes, 20)) << 16 | u32::from(u16_at(bytes, 26)),
            size: crate::bytes::u32_at(bytes, 28),
        }
    }

    pub(crate) fn bytes(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        put(&mut bytes, 0, &self.raw);
        if let Some(first) = bytes.first_mut()
            && *first == DELETED
        {
            *first = KANJI;
        }
        put(&mut bytes, 11, &[self.attr, self.case, self.born.centis]);
        put16(&mut bytes, 14, self.born.time);
        put16(&mut bytes, 16, self.born.date);
        put16(&mut bytes, 18, self.accessed);
        put16(&mut bytes, 20, (self.cluster >> 16) as u16);
        put16(&mut bytes, 22, self.modified.time);
        put16(&mut bytes, 24, self.modified.date);
        put16(&mut bytes, 26, self.cluster as u16);
        crate::bytes::put32(&mut bytes, 28, self.size);
        bytes
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.attr & attr::DIRECTORY != 0
    }
}

/// Whether a record is a part of a long name.
pub(crate) fn is_long(bytes: &[u8; RECORD]) -> bool {
    u8_at(bytes, 11) & attr::LONG_MASK == attr::LONG
}

/// The sum of a short name that the parts of its long name carry.
pub(crate) fn checksum(raw: &Raw) -> u8 {
    let mut raw = *raw;
    if let Some(first) = raw.first_mut()
        && *first == DELETED
    {
        *first = KANJI;
    }
    raw.iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// The parts of a long name, in the order of the disk.
pub(crate) fn parts(units: &[u16], raw: &Raw) -> Vec<[u8; RECORD]> {
    let sum = checksum(raw);
    let count = units.len().div_ceil(PER_PART);
    let part = |(number, chunk): (usize, &[u16])| {
        let mut bytes = [0; RECORD];
        let last = if number + 1 == count { LAST_PART } else { 0 };
        put(&mut bytes, 0, &[(number + 1) as u8 | last]);
        put(&mut bytes, 11, &[attr::LONG, 0, sum]);
        // A zero ends a name that does not fill its part; ones follow.
        let filled = chunk.iter().copied().chain([0]).chain(core::iter::repeat(0xffff));
        for (place, unit) in PLACES.iter().zip(filled) {
            put16(&mut bytes, *place, unit);
        }
        bytes
    };
    let mut parts: Vec<_> = units.chunks(PER_PART).enumerate().map(part).collect();
    parts.reverse();
    parts
}

/// Puts a long name together from its parts as they come.
#[derive(Default)]
pub(crate) struct Assembly {
    /// By part, the last first.
    units: Vec<[u16; PER_PART]>,
    sum: u8,
    /// The number of the part that came last; 0 before the first.
    at: u8,
}

impl Assembly {
    /// The next record of the directory, which is a part of a long name.
    pub(crate) fn add(&mut self, bytes: &[u8; RECORD]) {
        let number = u8_at(bytes, 0);
        let sum = u8_at(bytes, 13);
        if number & LAST_PART != 0 {
            self.units.clear();
            (self.sum, self.at) = (sum, number & !LAST_PART);
        } else {
            let follows = self.at > 1 && number == self.at - 1 && sum == self.sum;
            if !follows {
                return self.forget();
            }
            self.at = number;
        }
        // 255 units fit into 20 parts.
        if self.at == 0 || self.at > 20 {
            return self.forget();
        }
        self.units.push(PLACES.map(|place| u16_at(bytes, place)));
    }

    /// What came before belongs to nothing.
    pub(crate) fn forget(&mut self) {
        self.units.clear();
        self.at = 0;
    }

    /// How many parts came in order until now.
    pub(crate) fn count(&self) -> u32 {
        self.units.len() as u32
    }

    /// The name, if it is whole and belongs to the file whose record this is.
    pub(crate) fn finish(&mut self, raw: &Raw) -> Option<Vec<u16>> {
        let is_whole = self.at == 1 && checksum(raw) == self.sum;
        let parts = core::mem::take(&mut self.units);
        self.at = 0;
        if !is_whole {
            return None;
        }
        let mut units: Vec<u16> = parts.into_iter().rev().flatten().collect();
        let len = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
        units.truncate(len);
        (1..=255).contains(&len).then_some(units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_come_back() {
        let raw = *b"LONGNA~1TXT";
        for len in [1, 12, 13, 14, 26, 255] {
            let units: Vec<u16> = (0..len).map(|n| 0x4e00 + n).collect();
            let mut assembly = Assembly::default();
            let parts = parts(&units, &raw);
            assert_eq!(parts.len(), usize::from(len).div_ceil(13));
            for part in &parts {
                assert!(is_long(part));
                assembly.add(part);
            }
            assert_eq!(assembly.finish(&raw), Some(units.clone()));
            for part in &parts {
                assembly.add(part);
            }
            assert_eq!(assembly.finish(b"OTHER   TXT"), None);
            parts.iter().skip(1).for_each(|part| assembly.add(part));
            assert_eq!(assembly.finish(&raw), None);
        }
    }

    #[test]
    fn records_come_back() {
        let record = Record {
            raw: *b"\xe5BC     DEF",
            attr: attr::ARCHIVE,
            case: LOWER_BASE,
            born: Stamp { date: 1, time: 2, centis: 3 },
            accessed: 4,
            modified: Stamp { date: 5, time: 6, centis: 0 },
            cluster: 0x1234_5678,
            size: 0x9abc_def0,
        };
        assert_eq!(Record::parse(&record.bytes()), record);
        assert_eq!(record.bytes()[0], 5);
    }
}
