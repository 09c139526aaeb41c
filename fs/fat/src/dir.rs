//! A directory's records, read once while its inode lives: found by any spelling of a name, listed in
//! the order of the disk, with the holes where new ones fit.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::uio::Source;
use pagecache::Mapping;

use crate::data::{peek, poke};
use crate::names::Rules;
use crate::record::{Assembly, DELETED, RECORD, Raw, Record, attr, is_long};

/// Most records of a directory: `FAT_MAX_DIR_ENTRIES` of `linux/msdos_fs.h`.
const MAX_RECORDS: u32 = 65_536;
/// Bytes of those.
pub(crate) const MAX_LEN: u32 = MAX_RECORDS * RECORD as u32;
/// Most records of an entry: 20 parts of a long name, and the file's own.
const MAX_ENTRY: u32 = 21;
/// The records that a subdirectory begins with.
pub(crate) const DOT: &Raw = b".          ";
pub(crate) const DOT_DOT: &Raw = b"..         ";

/// A name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Its records: those of the long name and the file's own, which is the last.
    pub(crate) count: u32,
    pub(crate) ino: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) raw: Raw,
    case: u8,
    attr: u8,
}

impl Entry {
    pub(crate) fn is_dir(&self) -> bool {
        self.attr & attr::DIRECTORY != 0
    }

    /// What all spellings of its names have in common.
    fn keys(&self, rules: &Rules) -> [Option<Vec<u8>>; 2] {
        let (raw, case, attr) = (self.raw, self.case, self.attr);
        let short = rules.show_short(&Record { raw, case, attr, ..Record::default() });
        [rules.key(&self.name), rules.key(&short)]
    }
}

/// The names of a directory, by the number of their first record.
#[derive(Default)]
pub(crate) struct Listing {
    entries: BTreeMap<u32, Entry>,
    /// By what all spellings have in common, of long and of short names.
    keys: BTreeMap<Vec<u8>, u32>,
    shorts: BTreeMap<Raw, u32>,
    /// Runs of free records before `end`: the first, and how many.
    holes: BTreeMap<u32, u32>,
    /// The same by how many, [`MAX_ENTRY`] for more, and the first.
    holes_by_len: BTreeSet<(u32, u32)>,
    /// From here on no record was ever used.
    end: u32,
    subdirs: u32,
}

fn entry(record: &Record, count: u32, name: Vec<u8>, ino: u64) -> Entry {
    Entry { count, ino, name, raw: record.raw, case: record.case, attr: record.attr }
}

/// Where the record of an entry that begins with record `first` is, in bytes.
pub(crate) fn place(first: u32, count: u32) -> u64 {
    u64::from(first + count - 1) * RECORD as u64
}

fn at(record: u32) -> u64 {
    u64::from(record) * RECORD as u64
}

impl Listing {
    /// Reads a directory; `number` gives numbers to the files in it.
    pub(crate) fn read(
        mapping: &Mapping,
        rules: &Rules,
        mut number: impl FnMut() -> u64,
    ) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut assembly = Assembly::default();
        let total = (mapping.size() / RECORD as u64).min(MAX_RECORDS.into()) as u32;
        while listing.end < total {
            let at_record = listing.end;
            let mut bytes = [0; RECORD];
            peek(mapping, at(at_record), &mut bytes)?;
            match bytes[0] {
                0 => break,
                DELETED => {
                    assembly.forget();
                    listing.add_hole(at_record, 1);
                }
                _ if is_long(&bytes) => {
                    if rules.has_long_names() {
                        assembly.add(&bytes);
                    }
                }
                _ => listing.note(
                    at_record,
                    &Record::parse(&bytes),
                    &mut assembly,
                    rules,
                    &mut number,
                ),
            }
            listing.end += 1;
        }
        Ok(listing)
    }

    /// Takes up a record that is no part of a long name.
    fn note(
        &mut self,
        at_record: u32,
        record: &Record,
        assembly: &mut Assembly,
        rules: &Rules,
        number: &mut impl FnMut() -> u64,
    ) {
        let parts = assembly.count();
        let long = assembly.finish(&record.raw).and_then(|units| rules.show_long(&units));
        if record.attr & attr::VOLUME != 0 || [DOT, DOT_DOT].contains(&&record.raw) {
            return;
        }
        let parts = if long.is_some() { parts } else { 0 };
        let name = long.unwrap_or_else(|| rules.show_short(record));
        if name.is_empty() {
            return;
        }
        self.enter(at_record - parts, entry(record, parts + 1, name, number()), rules);
    }

    /// Makes an entry known. Of two with the same name, which only damage makes, the first counts.
    fn enter(&mut self, first: u32, entry: Entry, rules: &Rules) {
        for key in entry.keys(rules).into_iter().flatten() {
            self.keys.entry(key).or_insert(first);
        }
        self.shorts.entry(entry.raw).or_insert(first);
        self.subdirs += u32::from(entry.is_dir());
        self.entries.insert(first, entry);
    }

    /// How many subdirectories there are.
    pub(crate) fn subdirs(&self) -> u32 {
        self.subdirs
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry that a name means, and its first record.
    pub(crate) fn find(&self, name: &[u8], rules: &Rules) -> Option<(u32, &Entry)> {
        let first = *self.keys.get(&rules.key(name)?)?;
        Some((first, self.entries.get(&first)?))
    }

    /// The name that a name is shown as, and that means the file shown so: where damage gives two files
    /// one name, that of the first.
    pub(crate) fn spelling(&self, name: &[u8], rules: &Rules) -> Option<&[u8]> {
        let (mut first, mut entry) = self.find(name, rules)?;
        loop {
            let (other, next) = self.find(&entry.name, rules)?;
            // Each step leads to a name that was there before.
            if other >= first {
                return Some(&entry.name);
            }
            (first, entry) = (other, next);
        }
    }

    /// The first entry at or behind a record.
    pub(crate) fn next(&self, from: u32) -> Option<(u32, &Entry)> {
        self.entries.range(from..).next().map(|(first, entry)| (*first, entry))
    }

    /// Whether a short name is in use.
    pub(crate) fn has_short(&self, raw: &Raw) -> bool {
        self.shorts.contains_key(raw)
    }

    /// Writes the records of a new entry, of which `record` is the last; returns the first's number.
    /// `ENOSPC` if the directory cannot grow. The directory is locked exclusively.
    pub(crate) fn add(
        &mut self,
        mapping: &Mapping,
        mut records: Vec<[u8; RECORD]>,
        record: &Record,
        (name, ino): (Vec<u8>, u64),
        rules: &Rules,
        cluster: u32,
    ) -> Result<u32> {
        records.push(record.bytes());
        let count = records.len() as u32;
        let first = match self.take_hole(count) {
            Some(first) => first,
            None => self.take_end(mapping, count, cluster)?,
        };
        poke(mapping, at(first), &records.concat())?;
        self.enter(first, entry(record, count, name, ino), rules);
        Ok(first)
    }

    /// Frees the records of an entry. The directory is locked exclusively.
    pub(crate) fn remove(&mut self, mapping: &Mapping, first: u32, rules: &Rules) -> Result<()> {
        let count = self.entries.get(&first).ok_or(Errno::ENOENT)?.count;
        for record in first..first + count {
            poke(mapping, at(record), &[DELETED])?;
        }
        if let Some(entry) = self.entries.remove(&first) {
            self.subdirs -= u32::from(entry.is_dir());
            for key in entry.keys(rules).into_iter().flatten() {
                if self.keys.get(&key) == Some(&first) {
                    self.keys.remove(&key);
                }
            }
            if self.shorts.get(&entry.raw) == Some(&first) {
                self.shorts.remove(&entry.raw);
            }
        }
        self.add_hole(first, count);
        Ok(())
    }

    /// Lets an entry mean another file of the same kind.
    pub(crate) fn set_number(&mut self, first: u32, ino: u64) {
        if let Some(entry) = self.entries.get_mut(&first) {
            entry.ino = ino;
        }
    }

    fn put_hole(&mut self, first: u32, len: u32) {
        self.holes.insert(first, len);
        self.holes_by_len.insert((len.min(MAX_ENTRY), first));
    }

    fn drop_hole(&mut self, first: u32) -> Option<u32> {
        let len = self.holes.remove(&first)?;
        self.holes_by_len.remove(&(len.min(MAX_ENTRY), first));
        Some(len)
    }

    fn add_hole(&mut self, first: u32, count: u32) {
        let (mut first, mut count) = (first, count);
        if let Some((before, len)) = self.holes.range(..first).next_back().map(|(b, l)| (*b, *l))
            && before + len == first
        {
            self.drop_hole(before);
            (first, count) = (before, len + count);
        }
        if let Some(len) = self.drop_hole(first + count) {
            count += len;
        }
        self.put_hole(first, count);
    }

    /// Takes records of the first hole that has so many.
    fn take_hole(&mut self, count: u32) -> Option<u32> {
        let of_len = |len: u32| {
            let mut same = self.holes_by_len.range((len, 0)..=(len, u32::MAX));
            same.next().map(|(_, first)| *first)
        };
        let first = (count.min(MAX_ENTRY)..=MAX_ENTRY).filter_map(of_len).min()?;
        let len = self.drop_hole(first)?;
        if len > count {
            self.put_hole(first + count, len - count);
        }
        Some(first)
    }

    /// Takes records that were never used, for which the directory grows if it must.
    fn take_end(&mut self, mapping: &Mapping, count: u32, cluster: u32) -> Result<u32> {
        let (first, end) = (self.end, self.end + count);
        if end > MAX_RECORDS {
            return Err(Errno::ENOSPC);
        }
        while mapping.size() < at(end) {
            let zeros = vec![0; cluster as usize];
            let size = mapping.size();
            if mapping.write(size, &mut Source::kernel(&zeros))? < zeros.len() {
                return Err(Errno::ENOSPC);
            }
        }
        // Nothing is said of what is behind the record that ends a directory.
        let mut next = [0; RECORD];
        if at(end) < mapping.size() {
            peek(mapping, at(end), &mut next)?;
            if next != [0; RECORD] {
                poke(mapping, at(end), &[0; RECORD])?;
            }
        }
        self.end = end;
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hole_with_room_is_taken() {
        let mut listing = Listing::default();
        for (first, count) in [(0, 1), (10, 3), (20, 40), (70, 2)] {
            listing.add_hole(first, count);
        }
        assert_eq!(listing.take_hole(2), Some(10));
        assert_eq!(listing.take_hole(21), Some(20));
        assert_eq!(listing.take_hole(1), Some(0));
        assert_eq!(listing.take_hole(1), Some(12));
        listing.add_hole(13, 7);
        assert_eq!(listing.take_hole(19), Some(41));
        assert_eq!(listing.take_hole(8), None);
        // Neighbours become one.
        listing.add_hole(20, 21);
        assert_eq!(listing.take_hole(21), Some(13));
        assert_eq!(listing.take_hole(7), Some(34));
        assert_eq!(listing.take_hole(2), Some(70));
        assert_eq!(listing.take_hole(1), None);
    }
}
