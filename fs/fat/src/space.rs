//! Which clusters are free. A stretch of the FAT is read the first time it is asked for, and remembered
//! as bits: no allocation looks at an entry that another has looked at.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::Result;

use crate::boot::FIRST_CLUSTER;

/// Clusters in a chunk: 4 KiB of bits.
const CHUNK: u32 = 1 << 15;
const WORDS: usize = CHUNK as usize / 64;

/// A chunk that was read: a bit is set where the cluster is free.
struct Chunk {
    bits: Box<[u64; WORDS]>,
    free: u32,
}

/// A run of clusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) first: u32,
    pub(crate) len: u32,
}

/// The free clusters, as far as they are known.
pub(crate) struct Space {
    chunks: Vec<Option<Chunk>>,
    /// The number behind the last cluster's.
    end: u32,
    /// Where to look first when nothing else is wanted.
    hint: u32,
}

impl Chunk {
    /// The first free cluster at or behind `from`, as a place in the chunk.
    fn next_free(&self, from: u32) -> Option<u32> {
        let mut at = from as usize / 64;
        let mut mask = u64::MAX << (from % 64);
        while let Some(word) = self.bits.get(at) {
            let found = word & mask;
            if found != 0 {
                return Some(at as u32 * 64 + found.trailing_zeros());
            }
            (at, mask) = (at + 1, u64::MAX);
        }
        None
    }

    fn is_free(&self, at: u32) -> bool {
        self.bits.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 != 0)
    }

    fn set(&mut self, at: u32, is_free: bool) {
        let Some(word) = self.bits.get_mut(at as usize / 64) else { return };
        let bit = 1 << (at % 64);
        if is_free == (*word & bit != 0) {
            return;
        }
        *word ^= bit;
        self.free = if is_free { self.free + 1 } else { self.free - 1 };
    }
}

impl Space {
    /// Nothing is known; `end` is the number behind the last cluster's, `last` the cluster that was taken
    /// last, if somebody knows.
    pub(crate) fn new(end: u32, last: u32) -> Space {
        let count = end.saturating_sub(FIRST_CLUSTER).div_ceil(CHUNK);
        let last = if (FIRST_CLUSTER..end).contains(&last) { last } else { FIRST_CLUSTER };
        let mut space = Space { chunks: (0..count).map(|_| None).collect(), end, hint: 0 };
        space.taken(last);
        space
    }

    /// The cluster before the one where the next search begins: in general the last that was taken.
    pub(crate) fn last(&self) -> u32 {
        self.hint.saturating_sub(1).max(FIRST_CLUSTER)
    }

    /// The next search begins behind `last`.
    fn taken(&mut self, last: u32) {
        self.hint = if last + 1 < self.end { last + 1 } else { FIRST_CLUSTER };
    }

    /// A chunk, which is read by `is_free` if it is not known.
    fn chunk(
        &mut self,
        at: usize,
        is_free: &mut dyn FnMut(u32) -> Result<bool>,
    ) -> Result<Option<&mut Chunk>> {
        let (end, first) = (self.end, FIRST_CLUSTER + at as u32 * CHUNK);
        let Some(place) = self.chunks.get_mut(at) else { return Ok(None) };
        if place.is_none() {
            let mut chunk = Chunk { bits: Box::new([0; WORDS]), free: 0 };
            for cluster in first..end.min(first.saturating_add(CHUNK)) {
                if is_free(cluster)? {
                    chunk.set(cluster - first, true);
                }
            }
            *place = Some(chunk);
        }
        Ok(place.as_mut())
    }

    /// Takes free clusters that follow each other: `want` at most, from `goal` on if that is given, else
    /// from where the last search ended; `None` if nothing is free.
    pub(crate) fn take(
        &mut self,
        goal: Option<u32>,
        want: u32,
        is_free: &mut dyn FnMut(u32) -> Result<bool>,
    ) -> Result<Option<Run>> {
        let start = goal.filter(|goal| (FIRST_CLUSTER..self.end).contains(goal));
        let start = start.unwrap_or(self.hint) - FIRST_CLUSTER;
        let (count, first) = (self.chunks.len(), (start / CHUNK) as usize);
        // The chunk that the search begins in comes once more in the end, from its start.
        for step in 0..=count {
            let at = (first + step) % count.max(1);
            let from = if step == 0 { start % CHUNK } else { 0 };
            let Some(chunk) = self.chunk(at, is_free)? else { break };
            if chunk.free == 0 {
                continue;
            }
            let Some(found) = chunk.next_free(from) else { continue };
            let mut len = 0;
            while len < want && chunk.is_free(found + len) {
                chunk.set(found + len, false);
                len += 1;
            }
            let run = Run { first: FIRST_CLUSTER + at as u32 * CHUNK + found, len };
            self.taken(run.first + len - 1);
            return Ok(Some(run));
        }
        Ok(None)
    }

    /// Notes that a cluster is free.
    pub(crate) fn give(&mut self, cluster: u32) {
        let index = cluster.saturating_sub(FIRST_CLUSTER);
        let at = (index / CHUNK) as usize;
        if let Some(Some(chunk)) = self.chunks.get_mut(at) {
            chunk.set(index % CHUNK, true);
        }
    }

    /// How many are free: reads what is not known.
    pub(crate) fn count(&mut self, is_free: &mut dyn FnMut(u32) -> Result<bool>) -> Result<u32> {
        let mut total = 0;
        for at in 0..self.chunks.len() {
            total += self.chunk(at, is_free)?.map_or(0, |chunk| chunk.free);
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_found_and_read_once() {
        let end = FIRST_CLUSTER + 100_000;
        let mut space = Space::new(end, 0);
        let mut reads = 0;
        let mut is_free = |cluster: u32| {
            reads += 1;
            Ok(!cluster.is_multiple_of(10))
        };
        let run = space.take(Some(40_000), 100, &mut is_free).unwrap().unwrap();
        assert_eq!(run, Run { first: 40_001, len: 9 });
        let run = space.take(None, 3, &mut is_free).unwrap().unwrap();
        assert_eq!(run, Run { first: 40_011, len: 3 });
        assert_eq!(space.count(&mut is_free).unwrap(), 90_000 - 12);
        let mut taken = 12;
        while let Some(run) = space.take(None, u32::MAX, &mut is_free).unwrap() {
            taken += run.len;
        }
        assert_eq!(taken, 90_000);
        space.give(77_777);
        let run = space.take(None, 5, &mut is_free).unwrap().unwrap();
        assert_eq!(run, Run { first: 77_777, len: 1 });
        assert_eq!(Space::new(FIRST_CLUSTER, 5).take(None, 1, &mut is_free), Ok(None));
        assert_eq!(reads, 100_000);
    }
}
