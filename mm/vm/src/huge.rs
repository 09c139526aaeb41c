//! Transparent huge pages: 2 MiB of the process's own memory mapped by one entry.
//!
//! The first store into 2 MiB that lie in one private anonymous area, and for which not even a table is
//! there, maps them all if 2 MiB are free. What is done to a part of them maps them page by page
//! first: a huge entry lies in one area, and no other address space has its pages.

use crate::AddressSpace;
use crate::space::va;
use crate::vma::{Vma, flag};
use abi::Result;
use arch::addr::HUGE_SIZE;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use frames::{Counter, HugePage};

const HUGE: u64 = HUGE_SIZE as u64;

/// Who gets huge pages: `/sys/kernel/mm/transparent_hugepage/enabled`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugePages {
    /// Whoever has room for them.
    Always,
    /// Areas with `MADV_HUGEPAGE`.
    Madvise,
    /// Nobody.
    Never,
}

static WHO: AtomicU8 = AtomicU8::new(HugePages::Always as u8);

/// How often a store got 2 MiB, could not have them, and how often such were taken apart. Relaxed:
/// statistics.
static EVENTS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

fn note(event: usize) {
    if let Some(counter) = EVENTS.get(event) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl HugePages {
    /// All there are.
    pub const ALL: [HugePages; 3] = [HugePages::Always, HugePages::Madvise, HugePages::Never];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            HugePages::Always => "always",
            HugePages::Madvise => "madvise",
            HugePages::Never => "never",
        }
    }

    /// What is in force.
    pub fn now() -> HugePages {
        let now = WHO.load(Ordering::Relaxed);
        HugePages::ALL.into_iter().find(|who| *who as u8 == now).unwrap_or(HugePages::Never)
    }

    /// From now on; what is mapped stays.
    pub fn set(self) {
        WHO.store(self as u8, Ordering::Relaxed);
    }

    /// Stores that got 2 MiB, that could not have them, and 2 MiB that were taken apart: for
    /// `/proc/vmstat`.
    pub fn events() -> [u64; 3] {
        EVENTS.each_ref().map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// Whether an area with these flags may have huge pages. Stacks may not: most of one is never touched.
pub(crate) fn are_allowed(flags: u32) -> bool {
    let refused = flag::SHARED | flag::GROWS_DOWN | flag::THREAD_STACK | flag::NO_HUGE;
    flags & refused == 0
        && match HugePages::now() {
            HugePages::Always => true,
            HugePages::Madvise => flags & flag::HUGE != 0,
            HugePages::Never => false,
        }
}

impl AddressSpace {
    /// The 2 MiB around an address that an area may have at once.
    #[inline]
    fn huge_start(&self, vma: &Vma, at: u64) -> Option<u64> {
        let start = at & !(HUGE - 1);
        let is_inside = vma.file.is_none() && start >= vma.start && start + HUGE <= vma.end;
        (is_inside && are_allowed(vma.flags) && !self.is_thp_disabled()).then_some(start)
    }

    /// Maps the 2 MiB around an address, where there is no table, for a store; whether it did.
    #[cold]
    pub(crate) fn map_huge(&self, vma: &Vma, at: u64) -> bool {
        let Some(start) = self.huge_start(vma, at) else { return false };
        let Some(pages) = frames::alloc_huge() else {
            note(1);
            return false;
        };
        if self.table.install_huge(va(start), pages, vma.read_flags() | vma.own_flags()).is_err() {
            return false;
        }
        note(0);
        self.count_huge(1);
        true
    }

    /// A fault where 2 MiB are mapped, by an access that the area allows: they are the process's alone.
    pub(crate) fn touch_huge(&self, vma: &Vma, at: u64, write: bool) {
        if let Some((entry, seen, _)) = self.table.huge(va(at))
            && write
            && !seen.is_writable()
        {
            entry.set_rights(seen, vma.read_flags() | vma.own_flags());
        }
        self.table.context().flush_page_here(va(at));
    }

    /// Counts huge entries up or down; their pages too.
    pub(crate) fn count_huge(&self, entries: i64) {
        let pages = entries * HugePage::PAGES as i64;
        self.count(crate::space::PageSort::Anon, pages);
        Counter::AnonHuge.change(pages);
    }

    /// Maps page by page what is mapped as 2 MiB at an address, if it is. Holding `tables`.
    pub(crate) fn split_huge(&self, at: u64) -> Result<()> {
        if self.table.huge(va(at)).is_some() {
            self.table.split(va(at))?;
            note(2);
            Counter::AnonHuge.sub(HugePage::PAGES);
        }
        Ok(())
    }

    /// As [`split_huge`](Self::split_huge) for a place that is about to become the end of an area.
    pub(crate) fn split_at_edge(&self, at: u64) -> Result<()> {
        if at.is_multiple_of(HUGE) || self.table.huge(va(at)).is_none() {
            return Ok(());
        }
        let _tables = self.tables.lock();
        self.split_huge(at)
    }

    /// Splits what reaches over the ends of a range. Holding `tables`.
    pub(crate) fn split_edges(&self, start: u64, end: u64) {
        for edge in [start, end] {
            if !edge.is_multiple_of(HUGE) {
                self.insist(|| self.split_huge(edge));
            }
        }
    }
}
