//! What the disk may hold after its power was cut: everything up to the last flush, and of what came after it
//! any sectors of any writes.

use crate::log::{Bytes, Entry, Kind};

/// What a drive writes together or not at all.
const SECTOR: usize = 512;

/// A disk whose log is replayed to later and later moments.
pub struct Replay<'a, B: Bytes + ?Sized> {
    log: &'a B,
    entries: &'a [Entry],
    /// All before `flushed` is in it.
    durable: Vec<u8>,
    flushed: usize,
}

/// How much of what is not durable is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// All of it.
    Everything,
    /// Each sector with this chance in a hundred.
    Sectors(u64),
    /// Each write as a whole, with this chance in a hundred.
    Writes(u64),
}

impl<'a, B: Bytes + ?Sized> Replay<'a, B> {
    /// Before the first entry, when the disk held `base`.
    pub fn new(log: &'a B, entries: &'a [Entry], base: Vec<u8>) -> Replay<'a, B> {
        Replay { log, entries, durable: base, flushed: 0 }
    }

    /// What the disk holds if it lost its power after `moment` entries; moments do not go back. Later
    /// writes to a sector come after earlier ones, where both are kept.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub fn cut(
        &mut self,
        moment: usize,
        keep: Keep,
        random: &mut dyn FnMut(u64) -> u64,
    ) -> Result<Vec<u8>, String> {
        let last_flush = |entries: &[Entry]| entries.iter().rposition(|entry| entry.is_flush);
        let before = self.entries.get(self.flushed..moment).unwrap_or_default();
        // What the flush's own entry writes comes after it.
        if let Some(at) = last_flush(before) {
            for entry in &before[..at] {
                write(self.log, entry, &mut self.durable, &mut |_| true)?;
            }
            self.flushed += at;
        }
        let mut image = self.durable.clone();
        for entry in self.entries.get(self.flushed..moment).unwrap_or_default() {
            let is_whole = match keep {
                _ if entry.is_durable => true,
                Keep::Everything => true,
                Keep::Nothing => continue,
                Keep::Writes(chance) if random(100) < chance => true,
                Keep::Writes(_) => continue,
                Keep::Sectors(_) => false,
            };
            let mut keeps = |_: usize| match keep {
                Keep::Sectors(chance) if !is_whole => random(100) < chance,
                _ => true,
            };
            write(self.log, entry, &mut image, &mut keeps)?;
        }
        Ok(image)
    }
}

/// Writes those sectors of an entry that `keeps` names by their number.
fn write(
    log: &(impl Bytes + ?Sized),
    entry: &Entry,
    image: &mut [u8],
    keeps: &mut dyn FnMut(usize) -> bool,
) -> Result<(), String> {
    let mut bytes = vec![0; entry.len as usize];
    match entry.kind {
        Kind::Nothing => return Ok(()),
        // What was given up reads as anything; zeros are the likeliest.
        Kind::Discard => {}
        Kind::Write { data } if log.read(data, &mut bytes) => {}
        Kind::Write { data } => return Err(format!("the log cannot be read at {data}")),
    }
    let place = image.get_mut(entry.at as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
    let place = place.ok_or("the log is of a larger disk")?;
    for (number, (to, from)) in place.chunks_mut(SECTOR).zip(bytes.chunks(SECTOR)).enumerate() {
        if keeps(number) {
            to.copy_from_slice(from);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log whose data is one sector of each number, and what was done with them: the sector written
    /// (none: a flush) and whether it was durable itself.
    fn made(events: &[(Option<u64>, bool)]) -> (Vec<u8>, Vec<Entry>) {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        for (number, (sector, is_durable)) in events.iter().enumerate() {
            let data = bytes.len() as u64;
            bytes.extend([number as u8 + 1; SECTOR]);
            let kind = if sector.is_some() { Kind::Write { data } } else { Kind::Nothing };
            let (at, len) = (sector.unwrap_or(0) * 512, sector.map_or(0, |_| 512));
            let (is_flush, is_durable) = (sector.is_none(), *is_durable);
            entries.push(Entry { kind, at, len, is_flush, is_durable });
        }
        (bytes, entries)
    }

    fn heads(image: &[u8]) -> Vec<u8> {
        image.chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    const EVENTS: [(Option<u64>, bool); 7] = [
        (Some(0), false),
        (Some(1), false),
        (None, false),
        (Some(0), false),
        (Some(2), true),
        (Some(3), false),
        (Some(0), false),
    ];

    #[test]
    fn what_was_flushed_stays_and_the_rest_may_go() {
        let (bytes, entries) = made(&EVENTS);
        let cut = |moment, keep| {
            let mut replay = Replay::new(&bytes[..], &entries, vec![0; 4 * SECTOR]);
            heads(&replay.cut(moment, keep, &mut |_| 0).unwrap())
        };
        assert_eq!(cut(2, Keep::Nothing), [0, 0, 0, 0]);
        assert_eq!(cut(3, Keep::Nothing), [1, 2, 0, 0]);
        assert_eq!(cut(7, Keep::Nothing), [1, 2, 5, 0]);
        assert_eq!(cut(7, Keep::Everything), [7, 2, 5, 6]);
        assert_eq!(cut(6, Keep::Writes(1)), [4, 2, 5, 6]);
        assert_eq!(cut(6, Keep::Sectors(0)), [1, 2, 5, 0]);
    }

    #[test]
    fn moments_follow_one_another() {
        let (bytes, entries) = made(&EVENTS);
        let mut replay = Replay::new(&bytes[..], &entries, vec![0; 4 * SECTOR]);
        for moment in 0..=entries.len() {
            let mut alone = Replay::new(&bytes[..], &entries, vec![0; 4 * SECTOR]);
            for keep in [Keep::Nothing, Keep::Everything] {
                let both = [&mut replay, &mut alone].map(|one| one.cut(moment, keep, &mut |_| 0));
                assert_eq!(both[0], both[1]);
            }
        }
    }

    #[test]
    fn writes_are_torn_at_sectors() {
        let mut bytes = vec![1; SECTOR];
        bytes.extend([2; SECTOR]);
        let kind = Kind::Write { data: 0 };
        let entries = [Entry { kind, at: 0, len: 1024, is_flush: false, is_durable: false }];
        let mut replay = Replay::new(&bytes[..], &entries, vec![0; 1024]);
        let mut calls = 0;
        let mut second = |_| {
            calls += 1;
            if calls == 2 { 0 } else { 99 }
        };
        let image = replay.cut(1, Keep::Sectors(50), &mut second).unwrap();
        assert_eq!(heads(&image), [0, 2]);
    }
}
