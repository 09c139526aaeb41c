//! The kernel's own symbols, for backtraces and `/proc/kallsyms`.
//!
//! `cargo xtask build` writes the table into the section `.ksyms` after linking; its layout is
//! described there (`tools/xtask/src/symbols.rs`). Names are front-coded in groups of sixteen, so
//! a look-up is one binary search and at most sixteen short copies. Nothing is allocated.

use core::fmt;

#[cfg(any(target_os = "none", test))]
const HEADER: usize = 16;
const GROUP: usize = 16;
const NAME_MAX: usize = 255;

/// A symbol's name, without its hash; spaces are underscores.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; NAME_MAX],
    len: usize,
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()).unwrap_or("?")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A symbol.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    /// Its address, where the kernel runs.
    pub address: u64,
    /// The distance to the next one.
    pub size: u64,
    /// The letter of nm(1).
    pub kind: u8,
    /// Its name.
    pub name: Name,
}

/// The parts of a table.
struct Table<'a> {
    count: usize,
    offsets: &'a [u8],
    groups: &'a [u8],
    kinds: &'a [u8],
    names: &'a [u8],
}

#[cfg(any(target_os = "none", test))]
impl<'a> Table<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Table<'a>> {
        let word = |index: usize| word_at(bytes, index * 4);
        if word(0)? != u32::from_le_bytes(*b"KSYM") {
            return None;
        }
        let count = word(1)? as usize;
        let names_len = word(2)? as usize;
        let rest = bytes.get(HEADER..)?;
        let (offsets, rest) = rest.split_at_checked(count.checked_mul(4)?)?;
        let (groups, rest) = rest.split_at_checked(count.div_ceil(GROUP) * 4)?;
        let (kinds, rest) = rest.split_at_checked(count)?;
        Some(Table { count, offsets, groups, kinds, names: rest.get(..names_len)? })
    }
}

impl Table<'_> {
    fn offset(&self, index: usize) -> Option<u32> {
        word_at(self.offsets, index * 4)
    }

    /// The last symbol at or below `offset`.
    fn find(&self, offset: u32) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = (low + high) / 2;
            if self.offset(middle)? <= offset { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1)
    }

    fn name(&self, index: usize) -> Option<Name> {
        let mut at = word_at(self.groups, index / GROUP * 4)? as usize;
        let mut name = Name { bytes: [0; NAME_MAX], len: 0 };
        for _ in 0..=index % GROUP {
            let (&shared, &more) = (self.names.get(at)?, self.names.get(at + 1)?);
            let (start, len) = (usize::from(shared), usize::from(more));
            let suffix = self.names.get(at + 2..at + 2 + len)?;
            name.bytes.get_mut(start..start + len)?.copy_from_slice(suffix);
            name.len = start + len;
            at += 2 + len;
        }
        Some(name)
    }

    fn symbol(&self, index: usize, base: u64) -> Option<Symbol> {
        let offset = self.offset(index)?;
        Some(Symbol {
            address: base + u64::from(offset),
            size: self.offset(index + 1).map_or(0, |next| u64::from(next.saturating_sub(offset))),
            kind: *self.kinds.get(index)?,
            name: self.name(index)?,
        })
    }
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(target_os = "none")]
fn image() -> (Option<Table<'static>>, u64, u64) {
    let range = machine::image::range();
    (Table::parse(machine::image::symbol_table()), range.start, range.end)
}

#[cfg(not(target_os = "none"))]
fn image() -> (Option<Table<'static>>, u64, u64) {
    (None, 0, 0)
}

/// How many symbols there are.
pub fn count() -> usize {
    image().0.map_or(0, |table| table.count)
}

/// A symbol by its number in order of addresses.
pub fn by_index(index: usize) -> Option<Symbol> {
    let (table, base, _) = image();
    table?.symbol(index, base)
}

/// The symbol that an address of the image lies in, and the distance from its start.
pub fn lookup(address: u64) -> Option<(Symbol, u64)> {
    let (table, base, end) = image();
    if !(base..end).contains(&address) {
        return None;
    }
    let table = table?;
    let offset = u32::try_from(address - base).ok()?;
    let symbol = table.symbol(table.find(offset)?, base)?;
    Some((symbol, address - symbol.address))
}

/// Prints an address as `name+0x12/0x340`, or bare when it has no name.
pub struct Symbolised(pub u64);

impl fmt::Display for Symbolised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match lookup(self.0) {
            Some((symbol, offset)) => {
                write!(f, "{}+{offset:#x}/{:#x}", symbol.name.as_str(), symbol.size)
            }
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let names = ["alpha::one", "alpha::two", "beta"];
        let mut text = Vec::new();
        text.extend([0, 10]);
        text.extend(b"alpha::one");
        text.extend([7, 3]);
        text.extend(b"two");
        text.extend([0, 4]);
        text.extend(b"beta");
        let mut bytes = b"KSYM".to_vec();
        for word in [names.len() as u32, text.len() as u32, 0, 0x10, 0x20, 0x40, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"tTd");
        bytes.extend(text);
        bytes
    }

    #[test]
    fn symbols_are_found_by_address() {
        let bytes = table();
        let table = Table::parse(&bytes).unwrap();
        assert_eq!(table.find(0xf), None);
        assert_eq!(table.find(0x10), Some(0));
        assert_eq!(table.find(0x3f), Some(1));
        assert_eq!(table.find(0x4000), Some(2));
        let symbol = table.symbol(1, 0x1000).unwrap();
        assert_eq!(
            (symbol.address, symbol.kind, symbol.name.as_str()),
            (0x1020, b'T', "alpha::two")
        );
    }

    #[test]
    fn damaged_tables_give_nothing() {
        let bytes = table();
        for len in 0..bytes.len() {
            if let Some(table) = Table::parse(&bytes[..len]) {
                for index in 0..5 {
                    let _ = table.symbol(index, 0);
                }
            }
        }
        assert!(Table::parse(b"nope").is_none());
    }
}
