//! Four-level page tables.
//!
//! A [`PageTable`] is a root and what hangs from it. Entries are atomic words: tables are installed
//! with compare-and-exchange, so that several processors may fault in one address space at once;
//! who may change a leaf entry is the owner's (`vm`) business. Everything walks through the direct
//! map, so the same code runs on the host.
//!
//! A last-level table may be *shared* by several page tables after a fork ([`PageTable::share`]):
//! its directory entry is read-only and carries [`PteFlags::SHARED`], the table's reference count
//! is kept by the [`TableFrames`]. Nothing changes a shared table; [`PageTable::unshare`] gives an
//! address space its own copy first.

pub mod kernel;
mod share;
mod walk;

pub use archtypes::pte::{Level, Pte, PteFlags};
pub use share::give_up;
pub use walk::{EntryRef, Visit};

use crate::addr::{HUGE_SIZE, PAGE_SIZE, PhysAddr, USER_END, VirtAddr};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// No frame for a page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

impl From<NoMemory> for abi::Errno {
    fn from(_: NoMemory) -> abi::Errno {
        abi::Errno::ENOMEM
    }
}

/// Where frames for tables come from, and how many address spaces use each.
pub trait TableFrames: Sync {
    /// A zeroed frame with one reference.
    fn allocate(&self) -> Result<PhysAddr, NoMemory>;
    /// One more reference.
    fn share(&self, table: PhysAddr);
    /// One reference less; the last one frees the frame. Whether it was the last.
    fn release(&self, table: PhysAddr) -> bool;
    /// One reference less, unless it is the last: then it stays, and the table is the caller's
    /// alone. Whether it was given up.
    fn release_shared(&self, table: PhysAddr) -> bool;
    /// The number of references.
    fn references(&self, table: PhysAddr) -> u32;
}

static FRAMES: AtomicPtr<&'static dyn TableFrames> = AtomicPtr::new(core::ptr::null_mut());

/// Registers where table frames come from; once. The reference to the reference must be static
/// too: `static F: &dyn TableFrames = &…; set_table_frames(&F)`.
pub fn set_table_frames(frames: &'static &'static dyn TableFrames) {
    FRAMES.store(core::ptr::from_ref(frames).cast_mut(), Ordering::Release);
}

/// The registered source of table frames.
pub(crate) fn table_frames() -> Result<&'static dyn TableFrames, NoMemory> {
    // SAFETY: only `set_table_frames` stores here, a reference to a static.
    unsafe { FRAMES.load(Ordering::Acquire).as_ref() }.copied().ok_or(NoMemory)
}

/// Gives up a use of a table that was taken out of its tree.
pub fn release_table(table: PhysAddr) {
    if let Ok(frames) = table_frames() {
        frames.release(table);
    }
}

/// The entries of a table page.
pub(crate) type Entries = [AtomicU64; 512];

/// The entries of the table at a physical address.
///
/// # Safety
/// It is a live table.
pub(crate) unsafe fn entries<'a>(table: PhysAddr) -> &'a Entries {
    // SAFETY: the caller vouches; tables are page-aligned and in the direct map.
    unsafe { &*crate::phys::to_virt(table).cast::<Entries>() }
}

/// The tables of one address space. Dropping it frees its user tables; what they map is the
/// owner's to release before.
#[derive(Debug)]
pub struct PageTable {
    root: PhysAddr,
}

/// Why a mapping could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No frame for a table, or no addresses for what is to be mapped.
    NoMemory,
    /// Something is mapped there.
    Occupied,
    /// The table there is shared: [`PageTable::unshare`] first.
    Shared,
}

impl From<NoMemory> for MapError {
    fn from(_: NoMemory) -> MapError {
        MapError::NoMemory
    }
}

impl PageTable {
    /// Empty user tables beside the kernel's half.
    pub fn new() -> Result<PageTable, NoMemory> {
        let root = table_frames()?.allocate()?;
        kernel::copy_kernel_half(root);
        Ok(PageTable { root })
    }

    /// The physical address of the root.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// What is mapped at an address, and the entry that says so.
    #[inline]
    pub fn lookup(&self, at: VirtAddr) -> Option<EntryRef<'_>> {
        // SAFETY: the tables live as long as `self`; kernel tables for ever.
        unsafe { walk::lookup(self.root, at) }
    }

    /// The physical address and flags of what is mapped at an address.
    pub fn query(&self, at: VirtAddr) -> Option<(PhysAddr, PteFlags, Level)> {
        let entry = self.lookup(at)?;
        let pte = entry.load();
        let inside = at.0 & (entry.level.size() as u64 - 1);
        pte.is_present().then(|| (pte.address() + inside, pte.flags(), entry.level))
    }

    /// The leaf entry for an address at a level, tables made as needed. `Occupied` when a page of
    /// another size is there.
    #[inline]
    pub fn entry(&self, at: VirtAddr, level: Level) -> Result<EntryRef<'_>, MapError> {
        // SAFETY: as in `lookup`.
        unsafe { walk::make(self.root, at, level, PteFlags::TABLE) }
    }

    /// The last level's entry for an address if its table is there; `None` where that, or a large page,
    /// may be put. `Occupied` when a large page is there, `Shared` when the table is.
    #[inline]
    pub fn existing(&self, at: VirtAddr) -> Result<Option<EntryRef<'_>>, MapError> {
        // SAFETY: as in `lookup`.
        unsafe { walk::existing(self.root, at) }
    }

    /// Maps a page; the address is aligned to its size.
    pub fn map(
        &self,
        at: VirtAddr,
        to: PhysAddr,
        level: Level,
        flags: PteFlags,
    ) -> Result<(), MapError> {
        let entry = self.entry(at, level)?;
        let pte = Pte::leaf(to, flags, level);
        entry.compare_exchange(Pte::NONE, pte).map_err(|_| MapError::Occupied)
    }

    /// Unmaps the page at an address; what the entry was. The caller flushes.
    pub fn unmap(&self, at: VirtAddr) -> Option<(Pte, Level)> {
        let entry = self.lookup(at)?;
        if entry.is_shared_table() {
            return None;
        }
        let old = entry.swap(Pte::NONE);
        (!old.is_none()).then_some((old, entry.level))
    }

    /// Changes the rights of the pages in a range, leaving frames and software bits: `set` and
    /// then not `clear`. Shared tables in the range are given copies by the caller before. The
    /// caller flushes; whether anything was changed.
    pub fn protect(&self, start: VirtAddr, end: VirtAddr, set: PteFlags, clear: PteFlags) -> bool {
        let mut changed = false;
        self.walk(start, end, |_, entry| {
            if let Visit::Entry(entry) = entry {
                changed |= entry.update(|pte| {
                    pte.is_present().then(|| pte.with_flags((pte.flags() | set) - clear))
                });
            }
        });
        changed
    }

    /// Visits every entry that is not zero in `[start, end)`, in order: leaves of both sizes, and
    /// shared tables as one. Empty tables cost one look.
    pub fn walk<'a>(
        &'a self,
        start: VirtAddr,
        end: VirtAddr,
        mut visit: impl FnMut(VirtAddr, Visit<'a>),
    ) {
        // SAFETY: as in `lookup`.
        unsafe { walk::range(self.root, start, end, &mut visit) };
    }

    /// Shows every leaf entry that is not zero in `[start, end)`, in order, those of shared tables
    /// too. Empty tables cost one look.
    pub fn look(&self, start: VirtAddr, end: VirtAddr, mut see: impl FnMut(VirtAddr, Pte, Level)) {
        // SAFETY: as in `lookup`.
        unsafe { walk::look(self.root, start, end, &mut see) };
    }

    /// Moves the entries of so many pages from `from` on to `to` on, where nothing is, each side inside
    /// one table that is not shared. Those for which there is no place stay; whether none did. The
    /// caller keeps others from both sides and flushes.
    pub fn move_entries(&self, from: VirtAddr, to: VirtAddr, pages: usize) -> bool {
        // SAFETY: as in `lookup`.
        let sides = unsafe { (walk::own_slots(self.root, from), walk::own_slots(self.root, to)) };
        let (Some(from), Some(to)) = sides else { return false };
        let mut all = true;
        for (from, to) in from.iter().zip(to).take(pages) {
            if from.load(Ordering::Relaxed) == 0 {
                continue;
            }
            if to.load(Ordering::Relaxed) != 0 {
                all = false;
                continue;
            }
            // The processor may set bits until it is gone. Release: as for any entry.
            to.store(from.swap(0, Ordering::AcqRel), Ordering::Release);
        }
        all
    }

    /// Exchanges what two places of 2 MiB, aligned to it, have: a table, shared or not, a large page,
    /// or nothing. Whether it could: there are directories for both. The caller keeps others from both
    /// sides and flushes both.
    pub fn exchange(&self, one: VirtAddr, other: VirtAddr) -> bool {
        // SAFETY: as in `lookup`.
        let slots = unsafe {
            (walk::directory_slot(self.root, one), walk::directory_slot(self.root, other))
        };
        let (Ok(one), Ok(other)) = slots else { return false };
        // The processor may set bits until they are gone.
        let (of_one, of_other) = (one.swap(0, Ordering::AcqRel), other.swap(0, Ordering::AcqRel));
        one.store(of_other, Ordering::Release);
        other.store(of_one, Ordering::Release);
        true
    }

    /// Makes the mapping at `at` (aligned to 2 MiB) of a large page one of small pages with the
    /// same rights. The caller flushes.
    pub fn split(&self, at: VirtAddr) -> Result<(), MapError> {
        let Some(entry) = self.lookup(at) else { return Ok(()) };
        let old = entry.load();
        if entry.level != Level::Huge || !old.is_present() || !old.is_huge() {
            return Ok(());
        }
        let table = table_frames()?.allocate()?;
        // SAFETY: the frame is new and ours.
        let slots = unsafe { entries(table) };
        for (index, slot) in slots.iter().enumerate() {
            let page = Pte::leaf(
                old.address() + index * PAGE_SIZE,
                old.flags() - PteFlags::HUGE,
                Level::Page,
            );
            slot.store(page.0, Ordering::Relaxed);
        }
        if entry.compare_exchange(old, Pte::table(table, PteFlags::TABLE)).is_err() {
            table_frames()?.release(table);
            return Err(MapError::Occupied);
        }
        Ok(())
    }

    /// Takes the last-level tables that lie wholly in `[start, end)` out of the tree and passes
    /// each to `gone`, which releases it after the flush. Their entries must be zero, or the table
    /// shared.
    pub fn detach_tables(
        &self,
        start: VirtAddr,
        end: VirtAddr,
        mut gone: impl FnMut(VirtAddr, PhysAddr),
    ) {
        let mut at = start.align_up(HUGE_SIZE as u64);
        let end = end.align_down(HUGE_SIZE as u64);
        // SAFETY: as in `lookup`.
        while let Some((found, slot)) = unsafe { walk::next_directory_slot(self.root, at, end) } {
            if found >= end {
                return;
            }
            let pte = Pte(slot.load(Ordering::Acquire));
            if pte.is_present() && !pte.is_huge() {
                slot.store(0, Ordering::Release);
                gone(found, pte.address());
            }
            at = found + HUGE_SIZE;
        }
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        let Ok(frames) = table_frames() else { return };
        // SAFETY: the owner is done with the tables: no processor has them loaded. Only the user
        // half is the page table's own.
        unsafe {
            for pdpt in children(self.root, 256) {
                for directory in children(pdpt, 512) {
                    for table in children(directory, 512) {
                        frames.release(table);
                    }
                    frames.release(directory);
                }
                frames.release(pdpt);
            }
        }
        frames.release(self.root);
    }
}

/// The tables that a table points to.
///
/// # Safety
/// `table` is a live table above the last level.
unsafe fn children<'a>(table: PhysAddr, count: usize) -> impl Iterator<Item = PhysAddr> + 'a {
    // SAFETY: the caller vouches.
    let slots = unsafe { entries(table) };
    let mut next = 0;
    core::iter::from_fn(move || {
        while next < count {
            let used = walk::next_used(slots, next, count);
            next = used + 1;
            let pte = Pte(slots.get(used).filter(|_| used < count)?.load(Ordering::Relaxed));
            if pte.is_present() && !pte.is_huge() {
                return Some(pte.address());
            }
        }
        None
    })
}

/// Whether a user range is well-formed: below the end of the user half.
pub fn is_user_range(start: VirtAddr, end: VirtAddr) -> bool {
    start.0 <= end.0 && end.0 <= USER_END
}
