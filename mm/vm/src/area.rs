//! Areas: ranges of an address space with one protection and one source of pages.

use crate::MapSource;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use arch::paging::PteFlags;
use bitflags::bitflags;
use pagecache::{Mapping, ObserverId};

/// `PROT_READ`.
pub const PROT_READ: u32 = 1;
/// `PROT_WRITE`.
pub const PROT_WRITE: u32 = 2;
/// `PROT_EXEC`.
pub const PROT_EXEC: u32 = 4;

bitflags! {
    /// Properties of an area besides its protection.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct AreaFlags: u32 {
        /// Changes are seen by all who map the object.
        const SHARED = 1;
        /// Grows downwards on faults below it.
        const GROWS_DOWN = 2;
        /// Pages stay in memory.
        const LOCKED = 4;
        /// Not inherited by children.
        const DONT_FORK = 8;
        /// Reads as zeros in children.
        const WIPE_ON_FORK = 16;
        /// Left out of core dumps.
        const DONT_DUMP = 32;
        /// May not become writable: a shared map of a file opened for reading.
        const NO_WRITE = 64;
        /// Pages without metadata (vDSO, device memory).
        const SPECIAL = 128;
        /// The heap, for `/proc/PID/maps`.
        const HEAP = 256;
        /// The stack, for `/proc/PID/maps`.
        const STACK = 512;
        /// The vDSO, for `/proc/PID/maps`.
        const VDSO = 1024;
        /// No memory is set aside for it.
        const NO_RESERVE = 2048;
    }
}

/// One area.
#[derive(Clone)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// Other properties.
    pub flags: AreaFlags,
    /// The file, if one is mapped.
    pub source: Option<Arc<dyn MapSource>>,
    /// The page cache of the file or of the shared memory.
    pub mapping: Option<Arc<Mapping>>,
    /// Byte offset into the object at `start`.
    pub offset: u64,
    pub(crate) observer: Option<ObserverId>,
}

impl Area {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Never true: an area has a page.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether changes are shared.
    pub fn is_shared(&self) -> bool {
        self.flags.contains(AreaFlags::SHARED)
    }

    /// The page index in the object of an address inside.
    pub(crate) fn index_of(&self, at: u64) -> u64 {
        (self.offset + (at - self.start)) >> arch::PAGE_SHIFT
    }

    /// The entry flags of a page that may be read (and written if `writable`).
    pub(crate) fn pte_flags(&self, writable: bool) -> PteFlags {
        let mut flags = PteFlags::PRESENT | PteFlags::USER | PteFlags::ACCESSED;
        if writable {
            flags |= PteFlags::WRITE | PteFlags::DIRTY;
        }
        if self.prot & PROT_EXEC == 0 {
            flags |= PteFlags::NO_EXECUTE;
        }
        flags
    }

    /// The part of the area in `[start, end)`, which lies inside it.
    pub(crate) fn slice(&self, start: u64, end: u64) -> Area {
        Area {
            start,
            end,
            offset: self.offset + (start - self.start),
            observer: None,
            ..self.clone()
        }
    }

    fn continues(&self, next: &Area) -> bool {
        self.end == next.start
            && self.prot == next.prot
            && self.flags == next.flags
            && self.source.is_none()
            && next.source.is_none()
            && self.mapping.is_none()
            && next.mapping.is_none()
            && !self.flags.contains(AreaFlags::SPECIAL)
    }
}

/// The areas of an address space, by start.
#[derive(Default)]
pub(crate) struct Areas {
    pub(crate) map: BTreeMap<u64, Area>,
    pub(crate) brk_start: u64,
    pub(crate) brk: u64,
    pub(crate) lock_future: bool,
}

impl Areas {
    /// The area that contains `at`.
    pub(crate) fn find(&self, at: u64) -> Option<&Area> {
        self.map.range(..=at).next_back().map(|(_, a)| a).filter(|a| at < a.end)
    }

    /// The first area that ends after `at`.
    pub(crate) fn find_from(&self, at: u64) -> Option<&Area> {
        self.find(at).or_else(|| self.map.range(at..).next().map(|(_, a)| a))
    }

    /// The areas that overlap `[start, end)`, by their starts.
    pub(crate) fn overlapping(&self, start: u64, end: u64) -> alloc::vec::Vec<u64> {
        let first = self.find(start).map_or(start, |a| a.start);
        self.map.range(first..end).map(|(&s, _)| s).collect()
    }

    /// Puts an area in, joined to its neighbours where they are alike.
    pub(crate) fn insert(&mut self, mut area: Area) {
        let before = self.map.range(..area.start).next_back().map(|(&s, _)| s);
        if let Some(start) = before
            && self.map.get(&start).is_some_and(|b| b.continues(&area))
            && let Some(joined) = self.map.remove(&start)
        {
            area.start = joined.start;
            area.offset = joined.offset;
        }
        if self.map.get(&area.end).is_some_and(|next| area.continues(next))
            && let Some(next) = self.map.remove(&area.end)
        {
            area.end = next.end;
        }
        self.map.insert(area.start, area);
    }

    /// Cuts the area around `at` in two, if `at` is inside one.
    pub(crate) fn split(&mut self, at: u64) -> bool {
        let Some(area) = self.find(at) else { return false };
        if area.start == at {
            return false;
        }
        let (low, high) = (area.slice(area.start, at), area.slice(at, area.end));
        self.map.insert(low.start, low);
        self.map.insert(high.start, high);
        true
    }

    /// The highest gap of `len` bytes below `top`, keeping clear of stacks that grow into it.
    pub(crate) fn find_gap_below(&self, top: u64, len: u64, gap: u64, bottom: u64) -> Option<u64> {
        let mut end = top;
        for area in self.map.range(..top).rev().map(|(_, a)| a) {
            if area.end <= end && end - area.end >= len {
                return Some(end - len);
            }
            end = area.start.saturating_sub(if area.flags.contains(AreaFlags::GROWS_DOWN) {
                gap
            } else {
                0
            });
            if end < bottom {
                return None;
            }
        }
        (end >= bottom + len).then(|| end - len)
    }

    /// The lowest gap of `len` bytes from `bottom`.
    pub(crate) fn find_gap_above(&self, bottom: u64, len: u64, top: u64) -> Option<u64> {
        let mut start = bottom;
        while let Some(area) = self.find_from(start) {
            if area.start >= start && area.start - start >= len {
                break;
            }
            start = area.end;
        }
        (start.checked_add(len)? <= top).then_some(start)
    }

    /// Whether nothing lies in `[start, end)`.
    pub(crate) fn is_free(&self, start: u64, end: u64) -> bool {
        self.find_from(start).is_none_or(|a| a.start >= end)
    }

    /// Pages in all areas.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.map.values().map(Area::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64) -> Area {
        Area {
            start,
            end,
            prot: PROT_READ,
            flags: AreaFlags::empty(),
            source: None,
            mapping: None,
            offset: 0,
            observer: None,
        }
    }

    #[test]
    fn neighbours_join_and_split() {
        let mut areas = Areas::default();
        areas.insert(area(0x1000, 0x2000));
        areas.insert(area(0x3000, 0x4000));
        areas.insert(area(0x2000, 0x3000));
        assert_eq!(areas.map.len(), 1);
        assert!(areas.split(0x2000));
        assert_eq!(areas.map.len(), 2);
        assert_eq!(areas.find(0x1fff).map(|a| a.end), Some(0x2000));
        assert!(areas.find(0x4000).is_none());
        assert_eq!(areas.overlapping(0x1800, 0x2800), [0x1000, 0x2000]);
    }

    #[test]
    fn gaps_are_found_from_both_ends() {
        let mut areas = Areas::default();
        areas.insert(area(0x8000, 0x9000));
        assert_eq!(areas.find_gap_below(0x9000, 0x1000, 0, 0x1000), Some(0x7000));
        assert_eq!(areas.find_gap_below(0xa000, 0x1000, 0, 0x1000), Some(0x9000));
        assert_eq!(areas.find_gap_below(0xa000, 0x2000, 0, 0x1000), Some(0x6000));
        assert_eq!(areas.find_gap_below(0x9000, 0x8000, 0, 0x1000), None);
        assert_eq!(areas.find_gap_above(0x7000, 0x1000, 0x10000), Some(0x7000));
        assert_eq!(areas.find_gap_above(0x7800, 0x1000, 0x10000), Some(0x9000));
        assert!(areas.is_free(0x9000, 0xa000) && !areas.is_free(0x7000, 0x8001));
    }
}
