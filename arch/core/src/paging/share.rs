//! Sharing last-level tables between address spaces: fork without copying entries.

use super::walk;
use super::{EntryRef, Level, MapError, NoMemory, PageTable, Pte, PteFlags, entries, table_frames};
use crate::addr::{HUGE_SIZE, PhysAddr, VirtAddr};
use core::sync::atomic::Ordering;

impl PageTable {
    /// Lets `child` use the last-level table at `at` (aligned to 2 MiB) too: both see it read-only
    /// through their directories. Whether there was a table to share; a large page or nothing is
    /// left to the caller. The caller flushes this address space, which loses write rights.
    pub fn share(&self, child: &PageTable, at: VirtAddr) -> Result<bool, MapError> {
        // SAFETY: both trees live.
        let Ok(slot) = (unsafe { walk::directory_slot(self.root, at) }) else { return Ok(false) };
        let pte = Pte(slot.load(Ordering::Acquire));
        if !pte.is_present() || pte.is_huge() {
            return Ok(false);
        }
        let to = child.entry(at, Level::Huge)?;
        let shared = pte.with_flags((pte.flags() | PteFlags::SHARED) - PteFlags::WRITE);
        table_frames()?.share(pte.address());
        to.compare_exchange(Pte::NONE, shared).map_err(|_| {
            if let Ok(frames) = table_frames() {
                frames.release(pte.address());
            }
            MapError::Occupied
        })?;
        slot.store(shared.0, Ordering::Release);
        Ok(true)
    }

    /// Where in `[at, end)` the first 2 MiB are that have a table or a huge page: `at` itself, or
    /// the start of such. What is empty costs nothing, however large it is.
    pub fn next_used(&self, at: VirtAddr, end: VirtAddr) -> Option<VirtAddr> {
        // SAFETY: the tree lives.
        unsafe { walk::next_directory_slot(self.root, at, end) }
            .map(|(found, _)| found)
            .filter(|found| *found < end)
    }

    /// Whether the table for an address is shared.
    pub fn is_shared(&self, at: VirtAddr) -> bool {
        self.shared_table(at).is_some()
    }

    /// The table for an address, if it is shared.
    pub fn shared_table(&self, at: VirtAddr) -> Option<PhysAddr> {
        // SAFETY: the tree lives.
        let slot = unsafe { walk::directory_slot(self.root, at) }.ok()?;
        let entry = Pte(slot.load(Ordering::Acquire));
        walk::is_shared(entry).then(|| entry.address())
    }

    /// Gives this address space a table of its own at `at` in place of a shared one. When it is
    /// the last user, the table simply becomes its own. Otherwise every entry that is not zero is
    /// passed to `copy`, which counts the new mapping and says what both sides' entry is from now
    /// on (for example without the right to write); the copy gets that, and so does the original.
    /// The caller holds the lock under which vm changes this address space, flushes the 2 MiB
    /// range afterwards, and then passes the table that was given up, if any, to [`give_up`].
    pub fn unshare(
        &self,
        at: VirtAddr,
        mut copy: impl FnMut(VirtAddr, Pte) -> Pte,
    ) -> Result<Option<PhysAddr>, NoMemory> {
        let at = at.align_down(HUGE_SIZE as u64);
        // SAFETY: the tree lives.
        let Ok(slot) = (unsafe { walk::directory_slot(self.root, at) }) else { return Ok(None) };
        let pte = Pte(slot.load(Ordering::Acquire));
        if !walk::is_shared(pte) {
            return Ok(None);
        }
        let frames = table_frames()?;
        let flags = (pte.flags() - PteFlags::SHARED) | PteFlags::WRITE;
        if frames.references(pte.address()) == 1 {
            slot.store(pte.with_flags(flags).0, Ordering::Release);
            return Ok(None);
        }
        let table = frames.allocate()?;
        // SAFETY: the old table is kept alive by our reference, the new one is ours.
        let (from, to) = unsafe { (entries(pte.address()), entries(table)) };
        for (index, (from, to)) in from.iter().zip(to).enumerate() {
            let seen = Pte(from.load(Ordering::Acquire));
            if !seen.is_none() {
                let page = at + index * crate::addr::PAGE_SIZE;
                let kept = copy(page, seen);
                // The processor may set the accessed bit meanwhile; dirty it cannot, the
                // directory forbids writing.
                EntryRefOf(from).replace(seen, kept);
                to.store(kept.0, Ordering::Relaxed);
            }
        }
        slot.store(Pte::table(table, flags).0, Ordering::Release);
        Ok(Some(pte.address()))
    }
}

/// Gives up a use of a shared table. If all other users copied it or left at the same time, nobody
/// has it any more, and each of its entries is passed to `gone`.
pub fn give_up(table: PhysAddr, mut gone: impl FnMut(Pte)) {
    let Ok(frames) = table_frames() else { return };
    if frames.release_shared(table) {
        return;
    }
    // SAFETY: ours was the last reference, and it is still there.
    for entry in unsafe { entries(table) } {
        let pte = Pte(entry.swap(0, Ordering::AcqRel));
        if !pte.is_none() {
            gone(pte);
        }
    }
    frames.release(table);
}

/// A slot whose rights are being reduced.
struct EntryRefOf<'a>(&'a core::sync::atomic::AtomicU64);

impl EntryRefOf<'_> {
    fn replace(&self, seen: Pte, kept: Pte) {
        let (mut seen, lost) = (seen, seen.flags() - kept.flags());
        // The processor may set the accessed bit meanwhile; another user of the table that copies
        // it too takes away the same rights.
        while seen.flags().intersects(lost) {
            let new = seen.with_flags(seen.flags() - lost);
            match self.0.compare_exchange(seen.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(found) => seen = Pte(found),
            }
        }
    }
}

impl EntryRef<'_> {
    /// The table below a directory's entry, if it is one.
    pub fn table(&self) -> Option<crate::addr::PhysAddr> {
        let pte = self.load();
        (self.level == Level::Huge && pte.is_present() && !pte.is_huge()).then(|| pte.address())
    }
}
