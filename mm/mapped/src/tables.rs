//! The tables of one address space.

use crate::slot::{Slot, Taken, owned_page};
use alloc::boxed::Box;
use arch::addr::{HUGE_SIZE, PAGE_SIZE, PhysAddr, VirtAddr};
use arch::paging::{Level, MapError, NoMemory, PageTable, Pte, PteFlags, Visit, give_up};
use arch::tlb::{Context, Gather};
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use frames::{HugePage, Mapped, Page, kind, page};

/// User page tables and what translation caches know them by.
pub struct Tables {
    /// Dropped, and so retired, before the tables.
    context: Pin<Box<Context>>,
    table: PageTable,
}

/// What a walk finds.
pub enum Found<'a> {
    /// A leaf entry that is not zero.
    Entry(Slot<'a>),
    /// A table shared with other address spaces; not walked into.
    SharedTable,
}

/// The entries of a table that nobody changes any more, or that are only read.
fn entries(table: PhysAddr) -> &'static [AtomicU64; 512] {
    // SAFETY: tables are page-aligned frames in the direct map; the caller, which took the table out
    // of its tree, holds a reference to it while it looks, and entries are atomic words.
    unsafe { &*arch::phys::to_virt(table).cast::<[AtomicU64; 512]>() }
}

impl Tables {
    /// Empty tables.
    pub fn new() -> Result<Tables, NoMemory> {
        let table = PageTable::new()?;
        // SAFETY: the context goes with or before the tables (the order of the fields).
        let context = Box::pin(unsafe { Context::new(table.root()) });
        Ok(Tables { context, table })
    }

    /// What translation caches know the tables by.
    #[inline]
    pub fn context(&self) -> Pin<&Context> {
        self.context.as_ref()
    }

    /// The entry for an address, tables made as needed.
    #[inline]
    pub fn entry(&self, at: VirtAddr) -> Result<Slot<'_>, MapError> {
        self.table.entry(at, Level::Page).map(Slot::new)
    }

    /// The entry for an address if its last-level table exists; `None` where that, or 2 MiB at once,
    /// may be put.
    #[inline]
    pub fn existing(&self, at: VirtAddr) -> Result<Option<Slot<'_>>, MapError> {
        Ok(self.table.existing(at)?.map(Slot::new))
    }

    /// The entry for an address, if its tables exist.
    #[inline]
    pub fn lookup(&self, at: VirtAddr) -> Option<Slot<'_>> {
        self.table.lookup(at).filter(|entry| entry.level == Level::Page).map(Slot::new)
    }

    /// The physical address and flags of what is mapped at an address.
    pub fn query(&self, at: VirtAddr) -> Option<(PhysAddr, PteFlags)> {
        self.table.query(at).map(|(at, flags, _)| (at, flags))
    }

    /// The entry that maps 2 MiB around an address, and the page of the address as it was seen there.
    pub fn huge(&self, at: VirtAddr) -> Option<(Slot<'_>, Pte, &'static Page)> {
        let entry = self.table.lookup(at).filter(|entry| entry.level == Level::Huge)?;
        let seen = entry.load();
        let inside = at.0 & (HUGE_SIZE - 1) as u64;
        (seen.is_present() && seen.is_huge())
            .then(|| (Slot::new(entry), seen, page((seen.address() + inside).pfn())))
    }

    /// Maps 2 MiB at once where not even a table is. Else they come back.
    pub fn install_huge(
        &self,
        at: VirtAddr,
        pages: HugePage,
        flags: PteFlags,
    ) -> Result<(), HugePage> {
        let Ok(entry) = self.table.entry(at, Level::Huge) else { return Err(pages) };
        let new = Pte::leaf(pages.first().phys(), flags - PteFlags::SOFT0, Level::Huge);
        if entry.compare_exchange(Pte::NONE, new).is_err() {
            return Err(pages);
        }
        // The entry has the references now.
        pages.into_raw();
        Ok(())
    }

    /// Maps page by page what is mapped as 2 MiB at an address, if it is. Who may change entries there
    /// under a lock is kept out by the caller.
    pub fn split(&self, at: VirtAddr) -> Result<(), NoMemory> {
        let start = at.align_down(HUGE_SIZE as u64);
        while self.huge(start).is_some() {
            match self.table.split(start) {
                Err(MapError::NoMemory) => return Err(NoMemory),
                // The processor set a bit meanwhile.
                Err(_) => {}
                // The same frames and rights, but no processor may see both ways at once.
                Ok(()) => self.context.flush_page(start),
            }
        }
        Ok(())
    }

    /// Visits what is not empty in `[start, end)`, in order.
    pub fn walk<'a>(
        &'a self,
        start: VirtAddr,
        end: VirtAddr,
        mut visit: impl FnMut(VirtAddr, Found<'a>),
    ) {
        self.table.walk(start, end, |at, found| match found {
            Visit::Entry(entry) => visit(at, Found::Entry(Slot::new(entry))),
            Visit::SharedTable(_) => visit(at, Found::SharedTable),
        });
    }

    /// Shows what is not empty in `[start, end)`, in order, entries of shared tables too.
    pub fn look(&self, start: VirtAddr, end: VirtAddr, see: impl FnMut(VirtAddr, Pte, Level)) {
        self.table.look(start, end, see);
    }

    /// Moves what the pages of a table map to another table, where nothing is mapped; see [`PageTable::move_entries`].
    pub fn move_entries(&self, from: VirtAddr, to: VirtAddr, pages: usize) -> bool {
        self.table.move_entries(from, to, pages)
    }

    /// Exchanges what two places of 2 MiB have, with everything in it; see [`PageTable::exchange`].
    pub fn exchange(&self, one: VirtAddr, other: VirtAddr) -> bool {
        self.table.exchange(one, other)
    }

    /// Makes the directory for an address, so that [`exchange`](Self::exchange) can use it.
    pub fn make_directory(&self, at: VirtAddr) -> Result<(), NoMemory> {
        match self.table.entry(at, Level::Huge) {
            Err(MapError::NoMemory) => Err(NoMemory),
            _ => Ok(()),
        }
    }

    /// Changes the rights of the pages in a range: `set`, then not `clear`. Its tables are this
    /// address space's own. The caller flushes; whether anything was changed.
    pub fn protect(&self, start: VirtAddr, end: VirtAddr, set: PteFlags, clear: PteFlags) -> bool {
        self.table.protect(start, end, set - PteFlags::SOFT0, clear - PteFlags::SOFT0)
    }

    /// Lets `child` use the last-level table at `at` (aligned to 2 MiB) too; see
    /// [`PageTable::share`].
    pub fn share(&self, child: &Tables, at: VirtAddr) -> Result<bool, MapError> {
        self.table.share(&child.table, at)
    }

    /// Where in `[at, end)` the first 2 MiB are that have anything.
    pub fn next_used(&self, at: VirtAddr, end: VirtAddr) -> Option<VirtAddr> {
        self.table.next_used(at, end)
    }

    /// Whether the table for an address is shared.
    pub fn is_shared(&self, at: VirtAddr) -> bool {
        self.table.is_shared(at)
    }

    /// How many address spaces use the table for an address.
    pub fn sharers(&self, at: VirtAddr) -> u32 {
        self.table.shared_table(at).map_or(1, |table| page(table.pfn()).references())
    }

    /// Gives this address space a last-level table of its own at `at` in place of a shared one.
    /// Anonymous pages, which both have then, lose the right to write.
    pub fn unshare(&self, at: VirtAddr) -> Result<(), NoMemory> {
        let old = self.table.unshare(at, |_, pte| {
            let Some(frame) = owned_page(pte) else { return pte };
            // The copy's own reference and count.
            frame.get(1);
            frame.add_mapping();
            if frame.kind() == kind::ANON {
                pte.with_flags(pte.flags() - PteFlags::WRITE)
            } else {
                pte
            }
        })?;
        let start = at.align_down(HUGE_SIZE as u64);
        self.context.flush_range(start, start + HUGE_SIZE);
        if let Some(table) = old {
            // The other users counted themselves out; the original's own references are left.
            give_up(table, |pte| {
                if let Some(page) = Taken::new(pte).into_page() {
                    page.remove_mapping();
                }
            });
        }
        Ok(())
    }

    /// Takes the last-level tables that lie wholly in a range out of the tree; their entries are
    /// empty, or the table is shared. Pages of those whose last user this was go to the gather.
    /// `lost` is told each page this address space maps no more; when it `is_ending`, not those that
    /// others map by the same table still.
    pub fn detach(
        &self,
        start: VirtAddr,
        end: VirtAddr,
        gather: &mut Gather<'_, Mapped>,
        is_ending: bool,
        mut lost: impl FnMut(&Page),
    ) {
        self.table.detach_tables(start, end, |at, table| {
            release(at, table, gather, is_ending, &mut lost);
        });
    }
}

/// Releases a table taken out of the tree; its pages too if this was its last user.
fn release(
    at: VirtAddr,
    table: PhysAddr,
    gather: &mut Gather<'_, Mapped>,
    is_ending: bool,
    lost: &mut impl FnMut(&Page),
) {
    let frame = page(table.pfn());
    let was_shared = !is_ending && frame.references() > 1;
    if was_shared {
        let seen = |slot: &AtomicU64| owned_page(Pte(slot.load(Ordering::Relaxed)));
        entries(table).iter().filter_map(seen).for_each(&mut *lost);
    }
    // What processors keep of it are translations of small pages, from its first to its last.
    gather.page(at, Level::Page);
    gather.page(at + (HUGE_SIZE - PAGE_SIZE), Level::Page);
    if frame.references() > 1 {
        // Once our use is given up, others may free what the table maps.
        gather.flush();
    }
    if !frame.put() {
        return;
    }
    frame.unfreeze(1);
    // Mostly empty, like any table: a cache line is looked at as one.
    let lines = entries(table).as_chunks::<8>().0.iter();
    let used = |line: &&[AtomicU64; 8]| {
        line.iter().fold(0, |all, slot| all | slot.load(Ordering::Relaxed)) != 0
    };
    for slot in lines.filter(used).flatten() {
        let pte = Pte(slot.load(Ordering::Relaxed));
        if pte.is_none() {
            continue;
        }
        slot.store(0, Ordering::Relaxed);
        if let Some(page) = Taken::new(pte).into_page() {
            if !was_shared {
                lost(&page);
            }
            page.remove_mapping();
            gather.defer(page.into());
        }
    }
    gather.table(at, table);
}
