//! Allocation of process numbers: cyclic, as Linux's `kernel.pid_max` describes, in a two-level
//! bitmap so that finding the next free number touches a few words however many are taken.

use abi::{Errno, Result};
use alloc::vec::Vec;

/// The highest `pid_max` that can be set (4 Mi, as on 64-bit Linux).
pub const PID_MAX_LIMIT: i32 = 4 * 1024 * 1024;
/// The lowest `pid_max` (`8 * BITS_PER_LONG` … as Linux: 301).
pub const PID_MAX_MIN: i32 = 301;
/// After the first wrap, numbers below this are left to daemons of early boot.
const RESERVED: i32 = 300;

/// Free numbers of one namespace.
pub struct Numbers {
    /// One bit per number; grows as needed.
    words: Vec<u64>,
    /// One bit per full word of `words`.
    full: Vec<u64>,
    /// The number handed out last.
    last: i32,
    used: usize,
}

impl Default for Numbers {
    fn default() -> Self {
        Self::new()
    }
}

impl Numbers {
    /// Every number from 1 is free.
    pub const fn new() -> Numbers {
        Numbers { words: Vec::new(), full: Vec::new(), last: 0, used: 0 }
    }

    /// How many are taken.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The number handed out last.
    pub fn last(&self) -> i32 {
        self.last
    }

    /// The first number from `from` on that is taken.
    pub fn next_taken(&self, from: i32) -> Option<i32> {
        let from = usize::try_from(from).ok()?;
        let mut mask = !0u64 << (from % 64);
        for (index, word) in self.words.iter().enumerate().skip(from / 64) {
            let taken = word & mask;
            if taken != 0 {
                return i32::try_from(index * 64 + taken.trailing_zeros() as usize).ok();
            }
            mask = !0;
        }
        None
    }

    /// Makes the next allocation start after `last` (`/proc/sys/kernel/ns_last_pid`).
    pub fn set_last(&mut self, last: i32) {
        self.last = last;
    }

    /// The next free number below `max`; `EAGAIN` when all are taken.
    pub fn allocate(&mut self, max: i32) -> Result<i32> {
        let start = self.last.saturating_add(1).max(1);
        let found = self.find(start, max).or_else(|| {
            let low = if self.last >= RESERVED || start >= max { RESERVED.min(max - 1) } else { 1 };
            self.find(low.max(1), start.min(max))
        });
        let nr = found.ok_or(Errno::EAGAIN)?;
        self.take(nr)?;
        self.last = nr;
        Ok(nr)
    }

    /// Takes exactly `nr` (for `clone3`'s `set_tid` and boot).
    pub fn take(&mut self, nr: i32) -> Result<()> {
        let index = usize::try_from(nr).map_err(|_| Errno::EINVAL)?;
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        if word >= self.words.len() {
            let more = word + 1 - self.words.len();
            self.words.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.words.resize(word + 1, 0);
            let summary = word / 64 + 1;
            if summary > self.full.len() {
                self.full.try_reserve(summary - self.full.len()).map_err(|_| Errno::ENOMEM)?;
                self.full.resize(summary, 0);
            }
        }
        let entry = self.words.get_mut(word).ok_or(Errno::ENOMEM)?;
        if *entry & bit != 0 {
            return Err(Errno::EEXIST);
        }
        *entry |= bit;
        if *entry == !0
            && let Some(summary) = self.full.get_mut(word / 64)
        {
            *summary |= 1 << (word % 64);
        }
        self.used += 1;
        Ok(())
    }

    /// Gives `nr` back.
    pub fn free(&mut self, nr: i32) {
        let Ok(index) = usize::try_from(nr) else { return };
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        let Some(entry) = self.words.get_mut(word) else { return };
        if *entry & bit == 0 {
            return;
        }
        *entry &= !bit;
        self.used -= 1;
        if let Some(summary) = self.full.get_mut(word / 64) {
            *summary &= !(1 << (word % 64));
        }
    }

    /// The first free number in `from..to`.
    fn find(&self, from: i32, to: i32) -> Option<i32> {
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        if from >= to {
            return None;
        }
        let mut word = from / 64;
        let mut mask = !0u64 << (from % 64);
        while word * 64 < to {
            let Some(&taken) = self.words.get(word) else {
                return i32::try_from(word * 64 + mask.trailing_zeros() as usize)
                    .ok()
                    .filter(|&n| (n as usize) < to);
            };
            let free = !taken & mask;
            if free != 0 {
                let nr = word * 64 + free.trailing_zeros() as usize;
                return i32::try_from(nr).ok().filter(|_| nr < to);
            }
            mask = !0;
            word = self.next_not_full(word + 1);
        }
        None
    }

    /// The first word from `word` that has a free bit.
    fn next_not_full(&self, word: usize) -> usize {
        let mut at = word / 64;
        let mut mask = !0u64 << (word % 64);
        while let Some(&full) = self.full.get(at) {
            let open = !full & mask;
            if open != 0 {
                return at * 64 + open.trailing_zeros() as usize;
            }
            mask = !0;
            at += 1;
        }
        (at * 64).max(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn is_cyclic_and_wraps_past_the_reserved() {
        let mut n = Numbers::new();
        for want in 1..=400 {
            assert_eq!(n.allocate(1000), Ok(want));
        }
        n.free(5);
        n.free(350);
        assert_eq!(n.allocate(1000), Ok(401));
        for want in 402..1000 {
            assert_eq!(n.allocate(1000), Ok(want));
        }
        assert_eq!(n.allocate(1000), Ok(350));
        assert_eq!(n.allocate(1000), Err(Errno::EAGAIN));
        n.free(999);
        assert_eq!(n.allocate(1000), Ok(999));
    }

    proptest! {
        #[test]
        fn never_hands_out_twice(frees in prop::collection::vec(any::<u16>(), 0..500)) {
            let mut n = Numbers::new();
            let mut held = BTreeSet::new();
            for f in frees {
                if let Ok(nr) = n.allocate(512) { prop_assert!(held.insert(nr)); }
                if let Ok(nr) = n.allocate(512) { prop_assert!(held.insert(nr)); }
                let victim = i32::from(f) % 512;
                if held.remove(&victim) { n.free(victim); }
                prop_assert_eq!(n.used(), held.len());
                let above = held.range(victim..).next().copied();
                prop_assert_eq!(n.next_taken(victim), above);
            }
        }
    }
}
