//! Taking mappings away: pages out of tables, areas out of the map.

use crate::commit::{max_areas, uncommit};
use crate::space::{PageSort, va};
use crate::vma::{Areas, Changing, Vma};
use crate::{AddressSpace, flag};
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::addr::{HUGE_SIZE, PAGE_SIZE, USER_END};
use arch::paging::is_user_range;
use arch::tlb::Gather;
use core::sync::atomic::Ordering;
use frames::Mapped;
use mapped::{Found, Taken};

/// Checks a range of `munmap(2)` and its like: whole pages of the user half.
pub(crate) fn check_range(start: u64, len: u64) -> Result<u64> {
    let len = len.checked_add(PAGE_SIZE as u64 - 1).ok_or(Errno::EINVAL)? & !4095;
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    if !start.is_multiple_of(PAGE_SIZE as u64) || !is_user_range(va(start), va(end)) {
        return Err(Errno::EINVAL);
    }
    Ok(end)
}

/// The end of a range for calls to which what is not mapped is `ENOMEM`, wherever it lies.
pub(crate) fn span(start: u64, len: u64) -> Result<u64> {
    // As Linux has it, a length that wraps when rounded up is none.
    let whole = len.wrapping_add(PAGE_SIZE as u64 - 1) & !4095;
    if !start.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    start.checked_add(whole).ok_or(Errno::EINVAL)
}

/// Shared tables of a range that are told apart in one pass.
const SHARED_TABLES: usize = 128;

/// How often [`AddressSpace::reap`] tries, 2 ms apart.
const REAP_ATTEMPTS: u32 = 10;

/// The runs of last-level tables that areas reach into, in order: nothing is mapped elsewhere.
fn table_regions(areas: &Areas) -> Vec<(u64, u64)> {
    let huge = HUGE_SIZE as u64;
    let mut regions: Vec<(u64, u64)> = Vec::new();
    for vma in areas.map.values() {
        let (start, end) = (vma.start & !(huge - 1), vma.end.next_multiple_of(huge).min(USER_END));
        match regions.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => regions.push((start, end)),
        }
    }
    regions
}

impl AddressSpace {
    /// Gives this address space its own copy of the tables at the edges of a range, of pages each.
    fn unshare_edges(&self, start: u64, end: u64) {
        for edge in [start, end] {
            if edge % HUGE_SIZE as u64 != 0 {
                self.unshare_at(edge);
            }
        }
        self.split_edges(start, end);
    }

    /// Gives this address space its own copies of all tables of a range, of pages at its edges. Holding `tables`.
    pub(crate) fn unshare_range(&self, start: u64, end: u64) {
        // Listed on the stack: nothing large can be had while the tables are walked. One pass, as a rule.
        let mut from = start;
        loop {
            let mut shared = [0; SHARED_TABLES];
            let mut places = shared.iter_mut();
            let mut count = 0;
            self.table.walk(va(from), va(end), |at, visit| {
                if let Found::SharedTable = visit {
                    count += 1;
                    if let Some(place) = places.next() {
                        *place = at.0;
                    }
                }
            });
            shared.iter().take(count).for_each(|at| self.unshare_at(*at));
            if count <= SHARED_TABLES {
                break;
            }
            from = shared[SHARED_TABLES - 1] + HUGE_SIZE as u64;
        }
        self.split_edges(start, end);
    }

    /// As [`unshare_range`](Self::unshare_range) for the table of one address.
    pub(crate) fn unshare_at(&self, at: u64) {
        self.insist(|| self.try_unshare(at));
    }

    /// Does what must not fail. Without memory for a table it waits for reclaim and the OOM killer; the
    /// last resort is trying again.
    pub(crate) fn insist(&self, make: impl Fn() -> Result<()>) {
        while make().is_err() {
            log::warn!("vm: no memory for a page table");
            sched::yield_now();
        }
    }

    pub(crate) fn try_unshare(&self, at: u64) -> Result<()> {
        if self.table.is_shared(va(at)) {
            self.table.unshare(va(at))?;
        }
        Ok(())
    }

    /// Counts out what an entry mapped that was emptied and returns its references.
    #[inline]
    pub(crate) fn count_out(&self, taken: Taken) -> Option<Mapped> {
        let gone = taken.into_mapped()?;
        match &gone {
            Mapped::Page(page) => self.count(PageSort::of(page), -1),
            Mapped::Huge(_) => self.count_huge(-1),
        }
        gone.remove_mapping();
        Some(gone)
    }

    /// Unmaps all pages of a range. Areas are held exclusively, or the range belongs to an area
    /// whose pages may vanish (`MADV_DONTNEED`).
    pub(crate) fn zap(&self, start: u64, end: u64, whole_tables: bool) {
        let _tables = self.tables.lock();
        self.zap_locked(start, end, whole_tables);
    }

    /// Takes the private memory of a process that the OOM killer chose, without waiting for locks
    /// that its threads hold; whether it could. From now on its faults get no pages.
    pub fn reap(&self) -> bool {
        // Release: a fault that finds the areas' lock free after us sees it.
        self.is_doomed.store(true, Ordering::Release);
        for _ in 0..REAP_ATTEMPTS {
            if let (Some(areas), Some(_tables)) = (self.areas.try_read(), self.tables.try_lock()) {
                let mine = |vma: &&Vma| vma.is_private() && !vma.has(flag::LOCKED);
                for vma in areas.map.values().filter(mine) {
                    // Copying a shared table takes memory and frees none.
                    self.zap_own(vma.start, vma.end, false);
                }
                return true;
            }
            sched::timer::sleep_ns(2_000_000);
        }
        false
    }

    fn zap_locked(&self, start: u64, end: u64, whole_tables: bool) {
        if whole_tables {
            self.unshare_edges(start, end);
        } else {
            self.unshare_range(start, end);
        }
        self.zap_own(start, end, whole_tables);
    }

    /// Takes out what the space does not share with others.
    fn zap_own(&self, start: u64, end: u64, whole_tables: bool) {
        self.note_peak();
        let mut gather: Gather<'_, Mapped> = Gather::new(self.table.context().get_ref());
        self.table.walk(va(start), va(end), |at, visit| {
            let Found::Entry(entry) = visit else { return };
            let taken = entry.take();
            gather.page(at, entry.level());
            if let Some(page) = self.count_out(taken) {
                gather.defer(page);
            }
        });
        if whole_tables {
            self.table.detach(va(start), va(end), &mut gather, self.is_ending, |page| {
                self.count(PageSort::of(page), -1);
            });
        }
    }

    /// The end: no processor uses the tables any more.
    pub(crate) fn unmap_everything(&mut self) {
        self.is_ending = true;
        let areas = core::mem::take(&mut *self.areas.write());
        let mut committed = 0;
        for vma in areas.map.values() {
            self.unwatch(vma);
            if vma.has(flag::ACCOUNTED) {
                committed += vma.pages();
            }
        }
        uncommit(committed);
        for (start, end) in table_regions(&areas) {
            self.zap(start, end, true);
        }
        drop(areas);
        // What is left was mapped by tables that others use still.
        for kind in [PageSort::Anon, PageSort::File, PageSort::Shmem] {
            let left = self.counter(kind).load(Ordering::Relaxed);
            self.count(kind, -left);
        }
    }

    /// Splits the area across an address.
    pub(crate) fn split(&self, areas: &mut Areas, at: u64) -> Result<()> {
        // Mostly at a border already.
        let inside = if areas.map.contains_key(&at) { None } else { areas.find(at) };
        let Some(start) = inside.map(|vma| vma.start) else { return Ok(()) };
        if areas.map.len() >= max_areas() {
            return Err(Errno::ENOMEM);
        }
        self.split_at_edge(at)?;
        let Some(whole) = areas.map.remove(&start) else { return Ok(()) };
        let mut low = Vma { end: at, ..whole.clone() };
        let mut high = Vma { start: at, offset: whole.offset + (at - start), ..whole.clone() };
        self.watch(&mut low);
        self.watch(&mut high);
        self.unwatch(&whole);
        areas.map.insert(low.start, low);
        areas.map.insert(high.start, high);
        Ok(())
    }

    /// Merges the area that starts at an address with the next if they are alike.
    fn merge_next(&self, areas: &mut Areas, start: u64) -> bool {
        let Some(next) = areas.joins_next(start) else { return false };
        let (Some(low), Some(high)) = (areas.map.remove(&start), areas.map.remove(&next)) else {
            return false;
        };
        let mut whole = Vma { end: high.end, ..low.clone() };
        self.watch(&mut whole);
        self.unwatch(&low);
        self.unwatch(&high);
        areas.map.insert(start, whole);
        true
    }

    /// Merges what can be merged from the area before `start` to the one after `end`.
    pub(crate) fn merge(&self, areas: &mut Areas, start: u64, end: u64) {
        let mut at = areas.ending_at(start).map_or(start, |vma| vma.start);
        while at < end {
            if self.merge_next(areas, at) {
                continue;
            }
            let Some(vma) = areas.map.get(&at).or_else(|| areas.find_from(at)) else { return };
            // The next area, or the hole before it.
            at = if vma.start > at { vma.start } else { vma.end };
        }
    }

    /// Takes everything out of a range.
    pub(crate) fn remove_range(&self, areas: &mut Areas, start: u64, end: u64) -> Result<()> {
        if areas.is_free(start, end) {
            return Ok(());
        }
        self.split(areas, start)?;
        self.split(areas, end)?;
        let starts: Vec<u64> = areas.in_range(start, end).map(|vma| vma.start).collect();
        let mut gone = Vec::with_capacity(starts.len());
        for at in starts {
            if let Some(vma) = areas.remove(at) {
                if vma.has(flag::ACCOUNTED) {
                    uncommit(vma.pages());
                }
                gone.push(vma);
            }
        }
        self.zap_between(areas, start, end);
        // Only now: a truncation meanwhile must have found the pages.
        gone.iter().for_each(|vma| self.unwatch(vma));
        areas.gone.append(&mut gone);
        Ok(())
    }

    /// Zaps a range, and the tables that no neighbour uses.
    pub(crate) fn zap_between(&self, areas: &Areas, start: u64, end: u64) {
        let below = areas.map.range(..start).next_back().map_or(0, |(_, vma)| vma.end);
        let above = areas.map.range(end..).next().map_or(USER_END, |(_, vma)| vma.start);
        let huge = HUGE_SIZE as u64;
        let low = (start & !(huge - 1)).max(below);
        let high = end.next_multiple_of(huge).min(above);
        self.zap(
            if low.is_multiple_of(huge) { low } else { start },
            if high.is_multiple_of(huge) { high } else { end },
            true,
        );
    }

    /// `shmdt(2)`: takes away what is left of the segment attached at an address.
    pub fn detach(&self, addr: u64) -> Result<()> {
        if !addr.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::EINVAL);
        }
        let mut areas = Changing::new(&self.areas);
        let attached_here = |vma: &Vma| {
            vma.start.checked_sub(addr) == Some(vma.offset)
                && vma.file.as_ref().is_some_and(|file| file.source.is_segment())
        };
        let rest = areas.map.range(addr..).map(|(_, vma)| vma);
        let Some(first) = rest.clone().find(|vma| attached_here(vma)) else {
            return Err(Errno::EINVAL);
        };
        let end =
            first.file.as_ref().and_then(|file| file.mapping.as_ref()).map_or(0, |m| m.size());
        let file = first.file.clone();
        let same = |vma: &Vma| match (&vma.file, &file) {
            (Some(a), Some(b)) => alloc::sync::Arc::ptr_eq(a, b),
            _ => false,
        };
        let pieces: Vec<(u64, u64)> = rest
            .take_while(|vma| vma.start < addr.saturating_add(end))
            .filter(|vma| attached_here(vma) && same(vma))
            .map(|vma| (vma.start, vma.end))
            .collect();
        pieces.into_iter().try_for_each(|(start, end)| self.remove_range(&mut areas, start, end))
    }

    /// `munmap(2)`.
    pub fn munmap(&self, start: u64, len: u64) -> Result<()> {
        let end = check_range(start, len)?;
        if start == end {
            return Err(Errno::EINVAL);
        }
        self.remove_range(&mut Changing::new(&self.areas), start, end)
    }
}
