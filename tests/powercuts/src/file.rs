//! What may be in a file after a power cut.

use std::collections::BTreeMap;

use guest::marks::{self, UNIT};

/// How the file system was mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `data=ordered` and `data=journal`: what is in a file was written to it.
    Strict,
    /// `data=writeback`: bytes that were new and not durable may be anything.
    Writeback,
}

/// A unit of a file. Version 0 is zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Unit {
    /// The version that is durable.
    durable: u32,
    /// How many of its bytes are: behind them there was no file yet.
    filled: u64,
    /// Versions after it that may have got to the disk, in the order of their writing.
    pending: Vec<u32>,
    /// How many of its bytes have been written.
    reach: u64,
}

/// A file as one stream of operations knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    units: BTreeMap<u64, Unit>,
    /// The length is between these.
    shortest: u64,
    longest: u64,
    /// The length for the programs.
    size: u64,
}

impl File {
    /// Bytes were or are being written.
    pub fn write(&mut self, at: u64, len: u64, version: u32) {
        for unit in units(at, len) {
            let own = self.units.entry(unit).or_default();
            own.pending.push(version);
            own.reach = own.reach.max((at + len - unit * UNIT).min(UNIT));
        }
        self.size = self.size.max(at + len);
        self.longest = self.longest.max(self.size);
    }

    /// The file was or is being shortened.
    pub fn truncate(&mut self, size: u64) {
        for (_, unit) in self.units.range_mut(size / UNIT..) {
            unit.pending.push(0);
        }
        self.size = size;
        self.shortest = self.shortest.min(size);
        self.longest = self.longest.max(size);
    }

    /// These bytes as they are now are durable.
    pub fn make_range_durable(&mut self, at: u64, len: u64) {
        for unit in units(at, len) {
            self.units.entry(unit).or_default().settle();
        }
        self.shortest = self.shortest.max(at + len);
    }

    /// All of it is durable as it is now.
    pub fn make_durable(&mut self) {
        self.units.values_mut().for_each(Unit::settle);
        self.units.retain(|_, unit| unit.durable != 0);
        (self.shortest, self.longest) = (self.size, self.size);
    }

    /// Whether a file of this number may be found with these contents.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self, number: u32, found: &[u8], mode: Mode) -> Result<(), String> {
        let size = found.len() as u64;
        if size < self.shortest || size > self.longest {
            let (from, to) = (self.shortest, self.longest);
            return Err(format!("it has {size} bytes instead of {from} to {to}"));
        }
        for unit in units(0, size) {
            self.check_unit(number, unit, found, mode)?;
        }
        Ok(())
    }

    /// The same of a file of which others have written other units.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check_part(&self, number: u32, found: &[u8], mode: Mode) -> Result<(), String> {
        let size = found.len() as u64;
        if size < self.shortest {
            return Err(format!("it has {size} bytes, {} at least", self.shortest));
        }
        for unit in self.units.keys().filter(|unit| **unit * UNIT < size) {
            self.check_unit(number, *unit, found, mode)?;
        }
        Ok(())
    }

    fn check_unit(&self, number: u32, unit: u64, found: &[u8], mode: Mode) -> Result<(), String> {
        let start = unit * UNIT;
        let bytes = found.get(start as usize..).unwrap_or_default();
        let bytes = bytes.get(..UNIT as usize).unwrap_or(bytes);
        let hole = Unit::default();
        let known = self.units.get(&unit).unwrap_or(&hole);
        let versions = || std::iter::once(known.durable).chain(known.pending.iter().copied());
        let is_new =
            known.pending.contains(&0) || (known.durable == 0 && !known.pending.is_empty());
        if mode == Mode::Writeback && is_new {
            return Ok(());
        }
        let mut expected = [0; UNIT as usize];
        let mut wrong = start;
        for version in versions() {
            marks::fill(number, version, start, &mut expected);
            let mut places = (start..).zip(bytes.iter().zip(&expected));
            let misfit = places.find(|(place, (byte, wanted))| {
                // What lies past the durable end may not have come, and be zeros.
                let is_past = *place >= self.shortest || *place - start >= known.filled;
                byte != wanted && !(is_past && (**byte == 0 || mode == Mode::Writeback))
            });
            match misfit {
                Some((place, _)) => wrong = wrong.max(place),
                None => return Ok(()),
            }
        }
        let wanted: Vec<String> = versions().map(|version| version.to_string()).collect();
        let wanted = wanted.join(" or ");
        Err(format!(
            "bytes from {start} on are not of version {wanted} from {wrong} on, but {} (of {} bytes, {} durable)",
            what(number, start, bytes),
            found.len(),
            self.shortest
        ))
    }
}

impl Unit {
    fn settle(&mut self) {
        self.durable = self.pending.last().copied().unwrap_or(self.durable);
        self.filled = self.reach;
        self.pending.clear();
    }
}

/// A guess what bytes are.
fn what(number: u32, start: u64, bytes: &[u8]) -> String {
    let mut expected = [0; UNIT as usize];
    for version in 0..1000 {
        marks::fill(number, version, start, &mut expected);
        if expected.starts_with(bytes) {
            return format!("of version {version}");
        }
    }
    let shown: String = bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("something else: {shown}…")
}

fn units(at: u64, len: u64) -> std::ops::Range<u64> {
    at / UNIT..(at + len).div_ceil(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(version: u32, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        marks::fill(5, version, at, &mut bytes);
        bytes
    }

    fn fits(file: &File, found: &[u8]) -> bool {
        file.check(5, found, Mode::Strict).is_ok()
    }

    #[test]
    fn a_log_has_its_durable_part_and_maybe_more() {
        let mut log = File::default();
        log.write(0, 700, 1);
        assert!(fits(&log, &[]) && fits(&log, &[0; 700]) && fits(&log, &contents(1, 0, 700)));
        assert!(!fits(&log, &[0; 701]) && !fits(&log, &contents(2, 0, 700)));
        log.make_durable();
        assert!(!fits(&log, &[]) && !fits(&log, &[0; 700]) && fits(&log, &contents(1, 0, 700)));
        log.write(700, 600, 1);
        let whole = contents(1, 0, 1300);
        let mut zeros = whole.clone();
        zeros[700..].fill(0);
        assert!(fits(&log, &whole) && fits(&log, &zeros) && fits(&log, &whole[..900]));
        assert!(!fits(&log, &whole[..699]));
        zeros[800] = 1;
        assert!(!fits(&log, &zeros) && log.check(5, &zeros, Mode::Writeback).is_ok());
        zeros[699] ^= 1;
        assert!(log.check(5, &zeros, Mode::Writeback).is_err());
    }

    #[test]
    fn units_have_a_version_each() {
        let mut file = File::default();
        file.write(0, 1024, 1);
        file.make_durable();
        file.write(512, 512, 2);
        file.write(512, 512, 3);
        for version in 1..=3 {
            let found = [contents(1, 0, 512), contents(version, 512, 512)].concat();
            assert!(fits(&file, &found) && file.check(5, &found, Mode::Writeback).is_ok());
        }
        let torn = [contents(1, 0, 512), contents(2, 512, 256), contents(3, 768, 256)].concat();
        assert!(!fits(&file, &torn) && file.check(5, &torn, Mode::Writeback).is_err());
        file.make_range_durable(512, 512);
        assert!(!fits(&file, &[contents(1, 0, 512), contents(2, 512, 512)].concat()));
        assert!(fits(&file, &[contents(1, 0, 512), contents(3, 512, 512)].concat()));
    }

    #[test]
    fn a_synced_range_says_nothing_of_others() {
        let mut file = File::default();
        file.write(0, 512, 1);
        file.write(1024, 512, 2);
        file.make_range_durable(1024, 512);
        let end = contents(2, 1024, 512);
        let hole = [0; 512].to_vec();
        assert!(fits(&file, &[contents(1, 0, 512), hole.clone(), end.clone()].concat()));
        assert!(fits(&file, &[hole.clone(), hole.clone(), end.clone()].concat()));
        assert!(!fits(&file, &[contents(3, 0, 512), hole.clone(), end].concat()));
        assert!(!fits(&file, &[contents(1, 0, 512), hole].concat()));
    }

    #[test]
    fn what_was_appended_unsynced_may_be_missing_below_a_synced_end() {
        let mut log = File::default();
        log.write(0, 300, 1);
        log.make_durable();
        log.write(300, 800, 1);
        log.write(1100, 500, 1);
        log.make_range_durable(1100, 500);
        let whole = contents(1, 0, 1600);
        let mut gap = whole.clone();
        gap[300..1024].fill(0);
        assert!(fits(&log, &whole) && fits(&log, &gap));
        gap[299] ^= 1;
        assert!(!fits(&log, &gap));
        gap = whole.clone();
        gap[1100..].fill(0);
        assert!(!fits(&log, &gap));
    }

    #[test]
    fn a_cut_may_have_happened() {
        let mut file = File::default();
        file.write(0, 1536, 1);
        file.make_durable();
        file.truncate(512);
        file.write(1024, 512, 2);
        let first = contents(1, 0, 512);
        let cut = [first.clone(), vec![0; 512], contents(2, 1024, 512)].concat();
        for found in [&first, &contents(1, 0, 1536), &cut] {
            assert!(fits(&file, found));
        }
        file.make_durable();
        assert!(fits(&file, &cut) && !fits(&file, &first) && !fits(&file, &contents(1, 0, 1536)));
    }

    #[test]
    fn parts_of_a_common_file_are_judged_alone() {
        let mut part = File::default();
        part.write(512, 512, 1);
        let other = [vec![9; 512], contents(1, 512, 512), vec![9; 512]].concat();
        assert!(part.check_part(5, &other, Mode::Strict).is_ok());
        assert!(part.check_part(5, &[9; 512], Mode::Strict).is_ok());
        part.make_range_durable(512, 512);
        assert!(part.check_part(5, &other, Mode::Strict).is_ok());
        assert!(part.check_part(5, &[9; 512], Mode::Strict).is_err());
        assert!(part.check_part(5, &[9; 1536], Mode::Strict).is_err());
    }
}
