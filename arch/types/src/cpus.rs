//! Processor numbers and sets of them.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// The most processors this kernel runs on.
pub const MAX_CPUS: usize = 256;
const WORDS: usize = MAX_CPUS / 64;

/// The number of a processor, dense from 0 (the one that booted).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct CpuId(u32);

impl CpuId {
    /// The processor that booted.
    pub const BOOT: CpuId = CpuId(0);

    /// Wraps a number; `None` when it is not below [`MAX_CPUS`].
    pub const fn new(number: usize) -> Option<CpuId> {
        if number < MAX_CPUS { Some(CpuId(number as u32)) } else { None }
    }
    /// Wraps a number that came from this module, reduced into range.
    pub const fn from_index(number: usize) -> CpuId {
        CpuId((number % MAX_CPUS) as u32)
    }
    /// Wraps a number that is one already: this processor's own, as the machine keeps it.
    #[inline(always)]
    pub const fn from_raw(number: u32) -> CpuId {
        CpuId(number)
    }
    /// The number as an index below [`MAX_CPUS`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of processors.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct CpuSet {
    words: [u64; WORDS],
}

impl CpuSet {
    /// No processor.
    pub const EMPTY: CpuSet = CpuSet { words: [0; WORDS] };
    /// Every possible number.
    pub const ALL: CpuSet = CpuSet { words: [u64::MAX; WORDS] };

    /// The empty set.
    pub const fn new() -> CpuSet {
        CpuSet::EMPTY
    }
    /// The set of one.
    pub const fn single(cpu: CpuId) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        set.words[cpu.index() / 64] = 1 << (cpu.index() % 64);
        set
    }
    /// The processors `0..count`.
    pub fn first_n(count: usize) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        for number in 0..count.min(MAX_CPUS) {
            set.insert(CpuId(number as u32));
        }
        set
    }
    /// Adds a processor.
    pub const fn insert(&mut self, cpu: CpuId) {
        self.words[cpu.index() / 64] |= 1 << (cpu.index() % 64);
    }
    /// Takes a processor out.
    pub const fn remove(&mut self, cpu: CpuId) {
        self.words[cpu.index() / 64] &= !(1 << (cpu.index() % 64));
    }
    /// Whether the processor is in the set.
    pub const fn contains(&self, cpu: CpuId) -> bool {
        self.words[cpu.index() / 64] & (1 << (cpu.index() % 64)) != 0
    }
    /// Whether the set is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
    /// How many processors are in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
    /// The lowest processor.
    pub fn first(&self) -> Option<CpuId> {
        self.next_from(0)
    }
    /// The lowest processor numbered `start` or above.
    #[inline]
    pub fn next_from(&self, start: usize) -> Option<CpuId> {
        if start >= MAX_CPUS {
            return None;
        }
        let mut index = start / 64;
        let mut word = self.words[index] & (u64::MAX << (start % 64));
        loop {
            if word != 0 {
                return Some(CpuId((index * 64) as u32 + word.trailing_zeros()));
            }
            index += 1;
            if index == WORDS {
                return None;
            }
            word = self.words[index];
        }
    }
    /// The processors in ascending order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + use<> {
        let set = *self;
        let mut next = 0;
        core::iter::from_fn(move || {
            let cpu = set.next_from(next)?;
            next = cpu.index() + 1;
            Some(cpu)
        })
    }
    /// Both.
    #[inline]
    pub fn and(&self, other: &CpuSet) -> CpuSet {
        CpuSet { words: core::array::from_fn(|i| self.words[i] & other.words[i]) }
    }
    /// Either.
    #[inline]
    pub fn or(&self, other: &CpuSet) -> CpuSet {
        CpuSet { words: core::array::from_fn(|i| self.words[i] | other.words[i]) }
    }
    /// In this one but not in the other.
    #[inline]
    pub fn minus(&self, other: &CpuSet) -> CpuSet {
        CpuSet { words: core::array::from_fn(|i| self.words[i] & !other.words[i]) }
    }
    /// Whether every member is in `other`.
    pub fn is_subset(&self, other: &CpuSet) -> bool {
        self.minus(other).is_empty()
    }
    /// The bits, 64 processors a word, as `sched_getaffinity(2)` lays them out.
    pub const fn as_words(&self) -> &[u64; WORDS] {
        &self.words
    }
    /// A set from its bits.
    pub const fn from_words(words: [u64; WORDS]) -> CpuSet {
        CpuSet { words }
    }
}

/// The list form of `/sys` and `/proc` files: `0-3,8`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = 0;
        let mut separator = "";
        while let Some(start) = self.next_from(next) {
            let mut end = start.index();
            while end + 1 < MAX_CPUS && self.contains(CpuId(end as u32 + 1)) {
                end += 1;
            }
            write!(f, "{separator}{start}")?;
            if end > start.index() {
                write!(f, "-{end}")?;
            }
            separator = ",";
            next = end + 1;
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({self})")
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(iter: I) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        iter.into_iter().for_each(|cpu| set.insert(cpu));
        set
    }
}

/// A set of processors that several of them change at once.
#[derive(Default)]
pub struct AtomicCpuSet {
    words: [AtomicU64; WORDS],
}

impl AtomicCpuSet {
    /// The empty set.
    pub const fn new() -> AtomicCpuSet {
        AtomicCpuSet { words: [const { AtomicU64::new(0) }; WORDS] }
    }
    /// Adds a processor; orders like a full barrier.
    #[inline]
    pub fn insert(&self, cpu: CpuId) {
        self.words[cpu.index() / 64].fetch_or(1 << (cpu.index() % 64), Ordering::SeqCst);
    }
    /// Takes a processor out; orders like a full barrier.
    #[inline]
    pub fn remove(&self, cpu: CpuId) {
        self.words[cpu.index() / 64].fetch_and(!(1 << (cpu.index() % 64)), Ordering::SeqCst);
    }
    /// Whether the processor is in the set.
    #[inline]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.words[cpu.index() / 64].load(Ordering::SeqCst) & (1 << (cpu.index() % 64)) != 0
    }
    /// A copy, each word read once.
    #[inline]
    pub fn load(&self) -> CpuSet {
        CpuSet { words: core::array::from_fn(|i| self.words[i].load(Ordering::SeqCst)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_print_as_lists() {
        let mut set = CpuSet::first_n(4);
        set.insert(CpuId(8));
        set.insert(CpuId(255));
        assert_eq!(set.to_string(), "0-3,8,255");
        assert_eq!(set.len(), 6);
        assert_eq!(CpuSet::ALL.to_string(), "0-255");
        assert_eq!(CpuSet::EMPTY.to_string(), "");
    }

    #[test]
    fn sets_iterate_in_order() {
        let set: CpuSet = [200, 3, 64, 63].into_iter().map(CpuId::from_index).collect();
        let numbers: Vec<_> = set.iter().map(CpuId::index).collect();
        assert_eq!(numbers, [3, 63, 64, 200]);
        assert_eq!(set.next_from(201), None);
    }
}
