//! Directory records (ECMA-119 9.1), names and dates.

use alloc::string::String;
use alloc::vec::Vec;

use vfs::Time;

/// The shortest record: 33 bytes and a name of one.
const MIN_LEN: usize = 34;

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// A number that is stored in both byte orders (ECMA-119 7.2.3, 7.3.3): the little-endian half.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([u8_at(bytes, at), u8_at(bytes, at.saturating_add(1))])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at.saturating_add(2))) << 16
}

/// A directory record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    bytes: &'a [u8],
    name_len: usize,
}

/// Flags of a record (ECMA-119 9.1.6).
const HIDDEN: u8 = 1;
const DIRECTORY: u8 = 2;
const ASSOCIATED: u8 = 4;
const CONTINUES: u8 = 0x80;

impl<'a> Record<'a> {
    /// The record at the start of `bytes`, which end with its block; `None` if it does not fit.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Record<'a>> {
        let len = usize::from(*bytes.first()?);
        let bytes = bytes.get(..len).filter(|_| len >= MIN_LEN)?;
        let name_len = usize::from(u8_at(bytes, 32));
        (name_len > 0 && 33 + name_len <= len).then_some(Record { bytes, name_len })
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The first block of its contents, behind the extended attributes.
    pub(crate) fn extent(&self) -> u64 {
        u64::from(u32_at(self.bytes, 2)) + u64::from(u8_at(self.bytes, 1))
    }

    /// Bytes of its contents.
    pub(crate) fn size(&self) -> u32 {
        u32_at(self.bytes, 10)
    }

    pub(crate) fn date(&self) -> Time {
        date(self.bytes.get(18..25).unwrap_or(&[]))
    }

    pub(crate) fn is_dir(&self) -> bool {
        u8_at(self.bytes, 25) & DIRECTORY != 0
    }

    pub(crate) fn is_hidden(&self) -> bool {
        u8_at(self.bytes, 25) & HIDDEN != 0
    }

    pub(crate) fn is_associated(&self) -> bool {
        u8_at(self.bytes, 25) & ASSOCIATED != 0
    }

    /// More of the file is in the next record.
    pub(crate) fn continues(&self) -> bool {
        u8_at(self.bytes, 25) & CONTINUES != 0
    }

    /// Whether the file is stored in pieces with gaps.
    pub(crate) fn is_interleaved(&self) -> bool {
        u8_at(self.bytes, 26) != 0 || u8_at(self.bytes, 27) != 0
    }

    /// The name as it is stored.
    pub(crate) fn name(&self) -> &'a [u8] {
        self.bytes.get(33..33 + self.name_len).unwrap_or(&[])
    }

    /// `.` or `..` (ECMA-119 6.8.2.2).
    pub(crate) fn is_self(&self) -> bool {
        self.name() == [0]
    }

    pub(crate) fn is_parent(&self) -> bool {
        self.name() == [1]
    }

    /// The system use area, behind the name and its padding.
    pub(crate) fn system_use(&self) -> &'a [u8] {
        let start = 33 + self.name_len;
        self.bytes.get(start + (self.name_len & 1 ^ 1)..).unwrap_or(&[])
    }
}

/// How plain names are shown: mount(8), `map=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NameMap {
    /// As they are stored.
    Off,
    /// In lower case, without the version.
    Normal,
}

/// A plain name as programs see it.
pub(crate) fn plain_name(stored: &[u8], map: NameMap) -> Vec<u8> {
    if map == NameMap::Off {
        return stored.to_vec();
    }
    let name = stored.strip_suffix(b";1").unwrap_or(stored);
    // A dot that only says that there is no extension.
    let name = name.strip_suffix(b".").unwrap_or(name);
    let shown = |&byte: &u8| match byte {
        b';' | b'/' => b'.',
        _ => byte.to_ascii_lowercase(),
    };
    name.iter().map(shown).collect()
}

/// A Joliet name: UCS-2, big-endian.
pub(crate) fn joliet_name(stored: &[u8]) -> Vec<u8> {
    let units = stored.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let shown = |c: core::result::Result<char, _>| match c.unwrap_or('?') {
        '/' | '\0' => '_',
        c => c,
    };
    let name: String = char::decode_utf16(units).map(shown).collect();
    let name = name.strip_suffix(";1").unwrap_or(&name);
    name.as_bytes().to_vec()
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // March is the first month: the day that comes and goes is the last of the year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn seconds(date: [i64; 6], quarters: u8) -> i64 {
    let [year, month, day, hour, minute, second] = date;
    let days = days(year, month.clamp(1, 12), day.clamp(1, 31));
    // Quarters of an hour east of Greenwich, -48 to 52 (ECMA-119 9.1.5).
    let quarters = i64::from(quarters as i8);
    let quarters = if (-52..=52).contains(&quarters) { quarters } else { 0 };
    days * 86_400 + hour * 3600 + minute * 60 + second - quarters * 900
}

/// A date of seven bytes (ECMA-119 9.1.5).
pub(crate) fn date(bytes: &[u8]) -> Time {
    let byte = |at: usize| i64::from(u8_at(bytes, at));
    let parts = [1900 + byte(0), byte(1), byte(2), byte(3), byte(4), byte(5)];
    if parts[1] == 0 {
        return Time::new(0, 0);
    }
    Time::new(seconds(parts, u8_at(bytes, 6)), 0)
}

/// A date of seventeen bytes: digits (ECMA-119 8.4.26.1).
pub(crate) fn long_date(bytes: &[u8]) -> Time {
    let number = |from: usize, to: usize| {
        let digits = bytes.get(from..to).unwrap_or(&[]);
        digits.iter().fold(0_i64, |n, d| n * 10 + i64::from(d.wrapping_sub(b'0').min(9)))
    };
    let parts =
        [number(0, 4), number(4, 6), number(6, 8), number(8, 10), number(10, 12), number(12, 14)];
    if parts[1] == 0 {
        return Time::new(0, 0);
    }
    Time::new(seconds(parts, u8_at(bytes, 16)), number(14, 16) as u32 * 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_seconds() {
        assert_eq!(date(&[70, 1, 1, 0, 0, 0, 0]).sec, 0);
        assert_eq!(date(&[126, 11, 27, 13, 0, 0, 0]).sec, 1_795_784_400);
        assert_eq!(date(&[126, 11, 27, 14, 0, 0, 4]).sec, 1_795_784_400);
        assert_eq!(date(&[100, 3, 1, 0, 0, 0, 0]).sec, 951_868_800);
        assert_eq!(date(&[0; 7]).sec, 0);
        let time = long_date(b"2026112713000025\0");
        assert_eq!((time.sec, time.nsec), (1_795_784_400, 250_000_000));
    }

    #[test]
    fn names_are_shown() {
        assert_eq!(plain_name(b"README.TXT;1", NameMap::Normal), b"readme.txt");
        assert_eq!(plain_name(b"README.;1", NameMap::Normal), b"readme");
        assert_eq!(plain_name(b"README.;2", NameMap::Normal), b"readme..2");
        assert_eq!(plain_name(b"README.;1", NameMap::Off), b"README.;1");
        assert_eq!(joliet_name(b"\0a\x20\xac\0.\0c\0;\x001"), "a€.c".as_bytes());
    }

    #[test]
    fn records_that_do_not_fit_are_none() {
        assert!(Record::parse(&[]).is_none() && Record::parse(&[34; 33]).is_none());
        let mut bytes = [0; 40];
        (bytes[0], bytes[32]) = (34, 2);
        assert!(Record::parse(&bytes).is_none());
        bytes[32] = 1;
        assert!(Record::parse(&bytes).is_some_and(|record| record.system_use().is_empty()));
    }
}
