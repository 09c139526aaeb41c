//! Character sets: of programs (`iocharset=`, `utf8`), and of short names (`codepage=`).

use alloc::string::String;
use alloc::vec::Vec;

use abi::{Errno, Result};
use oem_cp::code_table::{DECODING_TABLE_CP_MAP, ENCODING_TABLE_CP_MAP};
use oem_cp::code_table_type::TableType;

/// How programs write names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Charset {
    Ascii,
    Utf8,
    /// ISO 8859-1.
    Latin1,
    /// A code page.
    Oem(CodePage),
}

/// A code page of one byte for each character, the lower half of which is ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CodePage(u16);

impl CodePage {
    /// The code page of this number, if it is known.
    pub(crate) fn new(number: u16) -> Option<CodePage> {
        ENCODING_TABLE_CP_MAP.contains_key(&number).then_some(CodePage(number))
    }

    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// The character of a byte.
    pub(crate) fn decode(self, byte: u8) -> Option<char> {
        let Some(high) = byte.checked_sub(0x80) else { return Some(char::from(byte)) };
        let at = usize::from(high);
        match DECODING_TABLE_CP_MAP.get(&self.0)? {
            TableType::Complete(table) => table.get(at).copied(),
            TableType::Incomplete(table) => table.get(at).copied().flatten(),
        }
    }

    /// The byte of a character.
    pub(crate) fn encode(self, c: char) -> Option<u8> {
        if c.is_ascii() {
            return Some(c as u8);
        }
        ENCODING_TABLE_CP_MAP.get(&self.0)?.get(&c).copied()
    }
}

impl Charset {
    /// The character set of a name as mount(8) gives it.
    pub(crate) fn named(name: &str) -> Option<Charset> {
        Some(match name {
            "ascii" | "us-ascii" => Charset::Ascii,
            "utf8" => Charset::Utf8,
            "iso8859-1" => Charset::Latin1,
            _ => Charset::Oem(CodePage::new(name.strip_prefix("cp")?.parse().ok()?)?),
        })
    }

    /// A name as UTF-16; `EINVAL` for what is none in this set.
    pub(crate) fn units_of(self, name: &[u8]) -> Result<Vec<u16>> {
        if self == Charset::Utf8 {
            let text = core::str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
            return Ok(text.encode_utf16().collect());
        }
        name.iter().map(|&byte| self.unit(byte).ok_or(Errno::EINVAL)).collect()
    }

    fn unit(self, byte: u8) -> Option<u16> {
        match self {
            Charset::Oem(page) => Some(page.decode(byte)? as u16),
            Charset::Latin1 => Some(byte.into()),
            _ => byte.is_ascii().then_some(byte.into()),
        }
    }

    /// UTF-16 as a name; what the set has not becomes `?`, or with `escapes` a colon and four digits.
    pub(crate) fn show_units(self, units: &[u16], escapes: bool) -> Vec<u8> {
        let decoded = char::decode_utf16(units.iter().copied());
        if self == Charset::Utf8 {
            let text: String = decoded.map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
            return text.into_bytes();
        }
        let mut name = Vec::with_capacity(units.len());
        for &unit in units {
            let c = char::from_u32(unit.into());
            match c.and_then(|c| self.byte(c)) {
                Some(byte) => name.push(byte),
                None if escapes => name.extend(alloc::format!(":{unit:04x}").bytes()),
                None => name.push(b'?'),
            }
        }
        name
    }

    fn byte(self, c: char) -> Option<u8> {
        match self {
            Charset::Oem(page) => page.encode(c),
            Charset::Latin1 => u8::try_from(u32::from(c)).ok(),
            _ => c.is_ascii().then_some(c as u8),
        }
    }

    /// A byte without its case, for names that are found in any.
    pub(crate) fn fold(self, byte: u8) -> u8 {
        let is_single = matches!(self, Charset::Latin1 | Charset::Oem(_));
        if byte.is_ascii() || !is_single {
            return byte.to_ascii_lowercase();
        }
        let c = self.unit(byte).and_then(|unit| char::from_u32(unit.into()));
        c.map(lower).and_then(|c| self.byte(c)).unwrap_or(byte)
    }
}

/// The one character that is the lower case of `c`.
pub(crate) fn lower(c: char) -> char {
    single(c, c.to_lowercase())
}

/// The one character that is the upper case of `c`.
pub(crate) fn upper(c: char) -> char {
    single(c, c.to_uppercase())
}

fn single(c: char, mut mapped: impl Iterator<Item = char>) -> char {
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let page = CodePage::new(437).unwrap();
        for set in [Charset::Ascii, Charset::Utf8, Charset::Latin1, Charset::Oem(page)] {
            let units = set.units_of(b"Plain name.txt").unwrap();
            assert_eq!(set.show_units(&units, false), b"Plain name.txt");
        }
        let units = Charset::Utf8.units_of("naïve €😀".as_bytes()).unwrap();
        assert_eq!(Charset::Utf8.show_units(&units, false), "naïve €😀".as_bytes());
        assert_eq!(Charset::Ascii.show_units(&units, false), b"na?ve ???");
        assert_eq!(Charset::Ascii.show_units(&units[..3], true), b"na:00ef");
        assert_eq!(Charset::Utf8.units_of(b"\xff").err(), Some(Errno::EINVAL));
        assert_eq!(page.encode('ü'), Some(0x81));
        assert_eq!(page.decode(0x81), Some('ü'));
        assert_eq!(Charset::Oem(page).fold(0x9a), 0x81);
        assert_eq!(CodePage::new(932), None);
    }
}
