//! Areas: what a range of addresses is.

use crate::source::MapSource;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::addr::PAGE_SIZE;
use arch::paging::PteFlags;
use core::ops::{Deref, DerefMut};
use pagecache::{Mapping, ObserverId, ReadAhead};
use sched::{RwLock, RwLockWriteGuard};

/// `PROT_*` of `mmap(2)`.
pub mod prot {
    /// `PROT_READ`.
    pub const READ: u32 = 1;
    /// `PROT_WRITE`.
    pub const WRITE: u32 = 2;
    /// `PROT_EXEC`.
    pub const EXEC: u32 = 4;
}

/// What an area is, beside its protection.
pub mod flag {
    /// `MAP_SHARED`.
    pub const SHARED: u32 = 1;
    /// `MAP_GROWSDOWN`: a stack.
    pub const GROWS_DOWN: u32 = 1 << 1;
    /// `mlock(2)`.
    pub const LOCKED: u32 = 1 << 2;
    /// `MAP_NORESERVE`.
    pub const NO_RESERVE: u32 = 1 << 3;
    /// `MADV_DONTFORK`.
    pub const DONT_FORK: u32 = 1 << 4;
    /// `MADV_WIPEONFORK`.
    pub const WIPE_ON_FORK: u32 = 1 << 5;
    /// `MADV_DONTDUMP`.
    pub const DONT_DUMP: u32 = 1 << 6;
    /// `mprotect` may not add write permission.
    pub const NEVER_WRITE: u32 = 1 << 7;
    /// Counts against the commit limit.
    pub const ACCOUNTED: u32 = 1 << 8;
    /// `MADV_HUGEPAGE`.
    pub const HUGE: u32 = 1 << 9;
    /// `MADV_NOHUGEPAGE`.
    pub const NO_HUGE: u32 = 1 << 10;
    /// `MADV_SEQUENTIAL`.
    pub const SEQUENTIAL: u32 = 1 << 11;
    /// `MADV_RANDOM`.
    pub const RANDOM: u32 = 1 << 12;
    /// The heap of `brk(2)`.
    pub const HEAP: u32 = 1 << 13;
    /// The vDSO's code.
    pub const VDSO: u32 = 1 << 14;
    /// The vDSO's data.
    pub const VVAR: u32 = 1 << 15;
    /// `MAP_STACK`.
    pub const THREAD_STACK: u32 = 1 << 16;
}

/// The file of an area; shared by the areas split from it.
pub(crate) struct FileMap {
    pub(crate) source: Arc<dyn MapSource>,
    pub(crate) mapping: Option<Arc<Mapping>>,
    pub(crate) ahead: ReadAhead,
}

/// An area of an address space.
#[derive(Clone)]
pub struct Vma {
    /// The first address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// See [`flag`].
    pub flags: u32,
    /// Where in the file `start` is, in bytes.
    pub offset: u64,
    pub(crate) file: Option<Arc<FileMap>>,
    pub(crate) observer: Option<ObserverId>,
}

impl Vma {
    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }
    /// Never.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
    /// The number of pages.
    pub fn pages(&self) -> u64 {
        self.len() / PAGE_SIZE as u64
    }
    /// Whether all of `flags` are set.
    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
    /// Whether writes are the process's own.
    #[inline]
    pub fn is_private(&self) -> bool {
        !self.has(flag::SHARED)
    }
    /// Whether no file is behind it.
    #[inline]
    pub fn is_anonymous(&self) -> bool {
        self.file.is_none()
    }
    /// The pages that it adds to each of [`Areas::sums`].
    fn shares(&self) -> [u64; 3] {
        let is_data =
            self.is_private() && self.prot & prot::WRITE != 0 && !self.has(flag::GROWS_DOWN);
        let pages = self.pages();
        let share = |counts: bool| if counts { pages } else { 0 };
        [pages, share(is_data), share(self.has(flag::LOCKED))]
    }
    /// The file's page for an address.
    #[inline]
    pub(crate) fn index_of(&self, at: u64) -> u64 {
        (at - self.start + self.offset) >> 12
    }
    /// The cache of the file that the area shares.
    pub(crate) fn shared_mapping(&self) -> Option<&Arc<Mapping>> {
        self.file.as_ref().filter(|_| !self.is_private())?.mapping.as_ref()
    }
    /// What a range has of that file: the cache, and which bytes.
    pub(crate) fn shared_part(&self, start: u64, end: u64) -> Option<(Arc<Mapping>, u64, u64)> {
        let mapping = self.shared_mapping()?;
        let offset = |at: u64| at - self.start + self.offset;
        Some((mapping.clone(), offset(self.start.max(start)), offset(self.end.min(end))))
    }
    /// The rights of a mapped page, without the right to write. In an area without rights, where only
    /// a debugger puts pages, it is hidden.
    #[inline]
    pub(crate) fn read_flags(&self) -> PteFlags {
        let there = if self.prot == 0 { PteFlags::HIDDEN } else { PteFlags::PRESENT };
        let base = there | PteFlags::USER | PteFlags::ACCESSED;
        if self.prot & prot::EXEC != 0 { base } else { base | PteFlags::NO_EXECUTE }
    }
    /// How a written page of the process's own is mapped, beside the flags for reading.
    #[inline]
    pub(crate) fn own_flags(&self) -> PteFlags {
        if self.prot & prot::WRITE != 0 {
            PteFlags::WRITE | PteFlags::DIRTY
        } else {
            PteFlags::DIRTY
        }
    }
    /// Whether `next` continues this area.
    fn joins(&self, next: &Vma) -> bool {
        let same_file = match (&self.file, &next.file) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let same = Arc::ptr_eq(a, b);
                same && self.offset + self.len() == next.offset
            }
            _ => false,
        };
        self.end == next.start
            && self.prot == next.prot
            && self.flags == next.flags
            && same_file
            && self.flags & (flag::GROWS_DOWN | flag::VDSO | flag::VVAR) == 0
    }
}

/// The areas of an address space by start address.
#[derive(Default)]
pub(crate) struct Areas {
    pub(crate) map: BTreeMap<u64, Vma>,
    /// Pages in all areas.
    pub(crate) total_pages: u64,
    /// Pages in private writable areas.
    pub(crate) data_pages: u64,
    /// Pages in locked areas.
    pub(crate) locked_pages: u64,
    /// Where the search for room starts: all holes above are smaller than `skipped`.
    scan_from: u64,
    skipped: u64,
    /// `MCL_FUTURE`.
    pub(crate) lock_future: bool,
    /// What was removed under the lock and ends after it: see [`Changing`].
    pub(crate) gone: Vec<Vma>,
}

/// The areas locked for a change. What the change removed is dropped after the lock: it may hold the
/// last reference to a deleted file, whose end takes locks of its file system and waits for its disk.
pub(crate) struct Changing<'a>(Option<RwLockWriteGuard<'a, Areas>>);

impl<'a> Changing<'a> {
    pub(crate) fn new(areas: &'a RwLock<Areas>) -> Changing<'a> {
        Changing(Some(areas.write()))
    }
}

impl Deref for Changing<'_> {
    type Target = Areas;

    fn deref(&self) -> &Areas {
        match &self.0 {
            Some(areas) => areas,
            None => unreachable!("only drop takes it"),
        }
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Areas {
        match &mut self.0 {
            Some(areas) => areas,
            None => unreachable!("only drop takes it"),
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let gone = core::mem::take(&mut self.gone);
        self.0 = None;
        drop(gone);
    }
}

impl Areas {
    /// The area at an address.
    #[inline]
    pub(crate) fn find(&self, at: u64) -> Option<&Vma> {
        self.map.range(..=at).next_back().map(|(_, vma)| vma).filter(|vma| at < vma.end)
    }
    /// The first area that ends after an address.
    pub(crate) fn find_from(&self, at: u64) -> Option<&Vma> {
        self.find(at).or_else(|| self.map.range(at..).next().map(|(_, vma)| vma))
    }
    /// The areas that touch a range.
    pub(crate) fn in_range(&self, start: u64, end: u64) -> impl Iterator<Item = &Vma> {
        let from = self.find(start).map_or(start, |vma| vma.start);
        self.map.range(from..end.max(from)).map(|(_, vma)| vma)
    }
    /// The parts of a range that areas cover.
    pub(crate) fn parts(&self, start: u64, end: u64) -> alloc::vec::Vec<(u64, u64)> {
        self.in_range(start, end).map(|vma| (vma.start.max(start), vma.end.min(end))).collect()
    }
    /// Whether areas cover all of a range.
    pub(crate) fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for vma in self.in_range(start, end) {
            if vma.start > at {
                return false;
            }
            at = vma.end;
        }
        at >= end
    }
    pub(crate) fn is_free(&self, start: u64, end: u64) -> bool {
        self.in_range(start, end).next().is_none()
    }

    /// Whether something that ends at `end` leaves the stack above it its guard gap.
    pub(crate) fn leaves_gap(&self, end: u64) -> bool {
        let above = self.map.range(end..).next().map(|(_, vma)| vma);
        above.is_none_or(|vma| {
            !vma.has(flag::GROWS_DOWN) || vma.start - end >= crate::layout::STACK_GAP
        })
    }

    /// The sums over areas.
    fn sums(&mut self) -> [&mut u64; 3] {
        [&mut self.total_pages, &mut self.data_pages, &mut self.locked_pages]
    }
    /// Changes the rights or flags of the area that starts at an address; its end, and what `change`
    /// said. `None`: no area starts there.
    pub(crate) fn change<R>(
        &mut self,
        start: u64,
        change: impl FnOnce(&mut Vma) -> R,
    ) -> Option<(u64, R)> {
        let vma = self.map.get_mut(&start)?;
        let before = vma.shares();
        let result = change(vma);
        let (after, end) = (vma.shares(), vma.end);
        for (sum, (before, after)) in self.sums().into_iter().zip(before.into_iter().zip(after)) {
            *sum = sum.saturating_sub(before) + after;
        }
        Some((end, result))
    }
    /// Adds an area where nothing is.
    pub(crate) fn insert(&mut self, vma: Vma) {
        for (sum, share) in self.sums().into_iter().zip(vma.shares()) {
            *sum += share;
        }
        self.map.insert(vma.start, vma);
    }
    /// Takes an area out.
    pub(crate) fn remove(&mut self, start: u64) -> Option<Vma> {
        let vma = self.map.remove(&start)?;
        for (sum, share) in self.sums().into_iter().zip(vma.shares()) {
            *sum = sum.saturating_sub(share);
        }
        if vma.end > self.scan_from {
            self.scan_from = vma.end;
            self.skipped = 0;
        }
        Some(vma)
    }
    /// Whether an area could be merged with what follows it.
    pub(crate) fn joins_next(&self, start: u64) -> Option<u64> {
        let vma = self.map.get(&start)?;
        let next = self.map.get(&vma.end)?;
        vma.joins(next).then_some(next.start)
    }
    /// The area that ends at an address.
    pub(crate) fn ending_at(&self, at: u64) -> Option<&Vma> {
        self.map.range(..at).next_back().map(|(_, vma)| vma).filter(|vma| vma.end == at)
    }

    /// Room for `len` bytes below `top`, as high as possible.
    pub(crate) fn find_room(&mut self, len: u64, top: u64, low: u64) -> Option<u64> {
        let cached = self.scan_from != 0 && self.scan_from <= top && len > self.skipped;
        let mut end = if cached { self.scan_from } else { top };
        let mut largest = if cached { self.skipped } else { 0 };
        // An area may reach across the place where the search starts.
        if let Some(vma) = self.find(end.saturating_sub(1)) {
            end = vma.start;
        }
        let mut found = None;
        for vma in self.map.range(..end).rev().map(|(_, vma)| vma) {
            let hole = end.saturating_sub(vma.end);
            if hole >= len {
                found = Some(end - len);
                break;
            }
            largest = largest.max(hole);
            let guard = if vma.has(flag::GROWS_DOWN) { crate::layout::STACK_GAP } else { 0 };
            end = vma.start.saturating_sub(guard);
        }
        let at = found.or_else(|| (end >= low + len).then(|| end - len)).filter(|at| *at >= low)?;
        self.scan_from = at;
        self.skipped = largest;
        Some(at)
    }

    /// Room in `[low, top)`, without touching what the ordinary search remembers.
    pub(crate) fn find_room_in(&mut self, len: u64, top: u64, low: u64) -> Option<u64> {
        let saved = (self.scan_from, self.skipped);
        (self.scan_from, self.skipped) = (0, 0);
        let found = self.find_room(len, top, low);
        (self.scan_from, self.skipped) = saved;
        found
    }
}
