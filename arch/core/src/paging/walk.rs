//! Going down the tree.

use super::{Entries, Level, MapError, Pte, PteFlags, entries, table_frames};
use crate::addr::{HUGE_SIZE, PAGE_SIZE, PhysAddr, VirtAddr};
use core::sync::atomic::{AtomicU64, Ordering};

/// A leaf entry in place.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    slot: &'a AtomicU64,
    /// Whether it stands for 4 KiB or 2 MiB.
    pub level: Level,
}

impl EntryRef<'_> {
    /// The entry now.
    #[inline]
    pub fn load(&self) -> Pte {
        Pte(self.slot.load(Ordering::Acquire))
    }
    /// Replaces the entry; for an entry that the processor cannot be changing (not present).
    #[inline]
    pub fn store(&self, pte: Pte) {
        self.slot.store(pte.0, Ordering::Release);
    }
    /// Replaces the entry; what it was, with the accessed and dirty bits the processor set.
    #[inline]
    pub fn swap(&self, pte: Pte) -> Pte {
        Pte(self.slot.swap(pte.0, Ordering::AcqRel))
    }
    /// Replaces the entry if it is `old`; else what it is.
    #[inline]
    pub fn compare_exchange(&self, old: Pte, new: Pte) -> Result<(), Pte> {
        self.slot
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Pte)
    }
    /// Changes the entry until no processor came between; whether it was changed.
    pub fn update(&self, mut change: impl FnMut(Pte) -> Option<Pte>) -> bool {
        let mut seen = self.load();
        loop {
            let Some(new) = change(seen).filter(|new| *new != seen) else { return false };
            match self.compare_exchange(seen, new) {
                Ok(()) => return true,
                Err(found) => seen = found,
            }
        }
    }
    /// Whether this is a directory's entry for a shared table.
    #[inline]
    pub fn is_shared_table(&self) -> bool {
        self.level == Level::Huge && is_shared(self.load())
    }
}

/// What a walk finds.
pub enum Visit<'a> {
    /// A leaf entry that is not zero: a page, or what the owner stored for an absent one.
    Entry(EntryRef<'a>),
    /// A shared table, in whole or in part; not walked into.
    SharedTable(EntryRef<'a>),
}

#[inline(always)]
const fn index(at: VirtAddr, shift: u32) -> usize {
    (at.0 >> shift) as usize & 511
}

#[inline(always)]
const fn is_table(pte: Pte) -> bool {
    pte.is_present() && !pte.is_huge()
}

pub(super) const fn is_shared(pte: Pte) -> bool {
    is_table(pte) && pte.0 & PteFlags::SHARED.bits() != 0
}

#[inline(always)]
unsafe fn child<'a>(table: &Entries, at: VirtAddr, shift: u32) -> Option<&'a Entries> {
    let pte = Pte(table[index(at, shift)].load(Ordering::Acquire));
    // SAFETY: a present entry of a live table points to a live table.
    is_table(pte).then(|| unsafe { entries(pte.address()) })
}

/// The leaf entry for an address, if the tables down to it exist: the directory's when that maps a
/// large page, else the last table's.
///
/// # Safety
/// `root` is a live root; its tables outlive the result.
#[inline]
pub(super) unsafe fn lookup<'a>(root: PhysAddr, at: VirtAddr) -> Option<EntryRef<'a>> {
    // SAFETY: the caller vouches for the tree.
    unsafe {
        let pdpt = child(entries(root), at, 39)?;
        let directory = child(pdpt, at, 30)?;
        let slot: &AtomicU64 = &directory[index(at, 21)];
        let pte = Pte(slot.load(Ordering::Acquire));
        if is_table(pte) {
            let table = entries(pte.address());
            return Some(EntryRef { slot: &table[index(at, 12)], level: Level::Page });
        }
        Some(EntryRef { slot, level: Level::Huge })
    }
}

/// The directory's slot for an address, or where the next table of the missing level starts.
///
/// # Safety
/// As for [`lookup`].
pub(super) unsafe fn directory_slot<'a>(
    root: PhysAddr,
    at: VirtAddr,
) -> Result<&'a AtomicU64, VirtAddr> {
    // SAFETY: the caller vouches for the tree.
    unsafe {
        let Some(pdpt) = child(entries(root), at, 39) else { return Err(next(at, 39)) };
        let Some(directory) = child(pdpt, at, 30) else { return Err(next(at, 30)) };
        let directory: &'a Entries = directory;
        Ok(&directory[index(at, 21)])
    }
}

/// The first address after the entry that covers `at`; the top of the address space saturates.
fn next(at: VirtAddr, shift: u32) -> VirtAddr {
    VirtAddr(
        (at.0 >> shift)
            .saturating_add(1)
            .checked_shl(shift)
            .map_or(u64::MAX, |next| if next < at.0 { u64::MAX } else { next }),
    )
}

/// The first slot in `from..end` that is not zero; `end` if there is none. Tables are mostly
/// empty, so a cache line is looked at as one.
#[inline]
pub(super) fn next_used(table: &Entries, mut from: usize, end: usize) -> usize {
    const LINE: usize = 8;
    while from < end {
        if from.is_multiple_of(LINE)
            && let Some(line) = table.get(from..from + LINE)
            && line.iter().fold(0, |all, slot| all | slot.load(Ordering::Relaxed)) == 0
        {
            from += LINE;
            continue;
        }
        if table.get(from).is_some_and(|slot| slot.load(Ordering::Relaxed) != 0) {
            return from;
        }
        from += 1;
    }
    end
}

/// Where the entry `slot` of the table starts that has `at` and whose entries cover `1 << shift`.
fn slot_start(at: VirtAddr, shift: u32, slot: usize) -> VirtAddr {
    let table = at.0 & !((512 << shift) - 1);
    VirtAddr(table.saturating_add((slot as u64) << shift))
}

/// The first directory slot that is not zero in `[at, end)`, and the address it starts at (`at`
/// itself if that is inside).
///
/// # Safety
/// As for [`lookup`].
#[inline]
pub(super) unsafe fn next_directory_slot<'a>(
    root: PhysAddr,
    mut at: VirtAddr,
    end: VirtAddr,
) -> Option<(VirtAddr, &'a AtomicU64)> {
    while at < end {
        let mut shift = 39;
        // SAFETY: the caller vouches for the tree.
        let mut table: &'a Entries = unsafe { entries(root) };
        loop {
            let wanted = index(at, shift);
            let used = next_used(table, wanted, 512);
            if used != wanted {
                at = slot_start(at, shift, used);
                break;
            }
            if shift == 21 {
                return Some((at, &table[wanted]));
            }
            // SAFETY: as above.
            match unsafe { child(table, at, shift) } {
                Some(below) => table = below,
                None => {
                    at = next(at, shift);
                    break;
                }
            }
            shift -= 9;
        }
    }
    None
}

/// Goes to the table below a slot, making it when there is none.
unsafe fn descend<'a>(slot: &AtomicU64, flags: PteFlags) -> Result<&'a Entries, MapError> {
    let mut pte = Pte(slot.load(Ordering::Acquire));
    if pte.is_none() {
        let frames = table_frames()?;
        let table = frames.allocate()?;
        let new = Pte::table(table, flags);
        match slot.compare_exchange(0, new.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => pte = new,
            Err(found) => {
                frames.release(table);
                pte = Pte(found);
            }
        }
    }
    if !is_table(pte) {
        return Err(MapError::Occupied);
    }
    // SAFETY: a present entry of a live table points to a live table.
    Ok(unsafe { entries(pte.address()) })
}

/// The last table's entry for an address, if that table is there and not shared: `Shared`, `Occupied`
/// by a large page, or nothing.
///
/// # Safety
/// As for [`lookup`].
#[inline]
pub(super) unsafe fn existing<'a>(
    root: PhysAddr,
    at: VirtAddr,
) -> Result<Option<EntryRef<'a>>, MapError> {
    // SAFETY: the caller vouches for the tree.
    unsafe {
        let Some(pdpt) = child(entries(root), at, 39) else { return Ok(None) };
        let Some(directory) = child(pdpt, at, 30) else { return Ok(None) };
        let pte = Pte(directory[index(at, 21)].load(Ordering::Acquire));
        if is_shared(pte) {
            return Err(MapError::Shared);
        }
        if is_table(pte) {
            let table: &'a Entries = entries(pte.address());
            return Ok(Some(EntryRef { slot: &table[index(at, 12)], level: Level::Page }));
        }
        if pte.is_none() { Ok(None) } else { Err(MapError::Occupied) }
    }
}

/// The leaf entry for an address at a level, tables made as needed.
///
/// # Safety
/// As for [`lookup`].
#[inline]
pub(super) unsafe fn make<'a>(
    root: PhysAddr,
    at: VirtAddr,
    level: Level,
    flags: PteFlags,
) -> Result<EntryRef<'a>, MapError> {
    // SAFETY: the caller vouches for the tree.
    unsafe {
        let pdpt = descend(&entries(root)[index(at, 39)], flags)?;
        let directory = descend(&pdpt[index(at, 30)], flags)?;
        let slot: &'a AtomicU64 = &directory[index(at, 21)];
        let pte = Pte(slot.load(Ordering::Acquire));
        if level == Level::Huge {
            return if is_table(pte) {
                Err(MapError::Occupied)
            } else {
                Ok(EntryRef { slot, level })
            };
        }
        if is_shared(pte) {
            return Err(MapError::Shared);
        }
        let table = descend(slot, flags)?;
        Ok(EntryRef { slot: &table[index(at, 12)], level })
    }
}

/// Visits what is not zero.
///
/// # Safety
/// As for [`lookup`].
pub(super) unsafe fn range<'a>(
    root: PhysAddr,
    start: VirtAddr,
    end: VirtAddr,
    visit: &mut impl FnMut(VirtAddr, Visit<'a>),
) {
    let mut at = start.page_down();
    // SAFETY: the caller vouches for the tree.
    while let Some((found, slot)) = unsafe { next_directory_slot(root, at, end) } {
        at = found;
        let stop = next(at, 21).min(end);
        let pte = Pte(slot.load(Ordering::Acquire));
        let entry = EntryRef { slot, level: Level::Huge };
        if is_shared(pte) {
            visit(at, Visit::SharedTable(entry));
        } else if is_table(pte) {
            // SAFETY: a present entry of a live table points to a live table.
            let table: &'a Entries = unsafe { entries(pte.address()) };
            let pages = ((stop.0 - at.0).div_ceil(PAGE_SIZE as u64)) as usize;
            let first = index(at, 12);
            let last = first + pages;
            let mut step = next_used(table, first, last);
            while let Some(slot) = table.get(step).filter(|_| step < last) {
                let entry = EntryRef { slot, level: Level::Page };
                visit(at + (step - first) * PAGE_SIZE, Visit::Entry(entry));
                step = next_used(table, step + 1, last);
            }
        } else if !pte.is_none() {
            visit(at.align_down(HUGE_SIZE as u64), Visit::Entry(entry));
        }
        at = stop;
    }
}

/// The slots of a last-level table from that of `at` on that lie before `end`.
fn slots_in(table: &Entries, at: VirtAddr, end: VirtAddr) -> &[AtomicU64] {
    let first = index(at, 12);
    let pages = (end.0.saturating_sub(at.0)).div_ceil(PAGE_SIZE as u64) as usize;
    table.get(first..(first + pages).min(512)).unwrap_or_default()
}

/// Shows every leaf entry that is not zero, those of shared tables too, which `visit` could not
/// change.
///
/// # Safety
/// As for [`lookup`].
pub(super) unsafe fn look(
    root: PhysAddr,
    start: VirtAddr,
    end: VirtAddr,
    see: &mut impl FnMut(VirtAddr, Pte, Level),
) {
    let mut at = start.page_down();
    // SAFETY: the caller vouches for the tree.
    while let Some((found, slot)) = unsafe { next_directory_slot(root, at, end) } {
        let stop = next(found, 21).min(end);
        let pte = Pte(slot.load(Ordering::Acquire));
        if is_table(pte) {
            // SAFETY: a present entry of a live table points to a live table.
            let table = unsafe { entries(pte.address()) };
            at = found;
            // As in `next_used`.
            for line in slots_in(table, found, stop).chunks(8) {
                if line.iter().fold(0, |all, slot| all | slot.load(Ordering::Relaxed)) != 0 {
                    for (step, slot) in line.iter().enumerate() {
                        let pte = Pte(slot.load(Ordering::Acquire));
                        if !pte.is_none() {
                            see(at + step * PAGE_SIZE, pte, Level::Page);
                        }
                    }
                }
                at += (line.len() * PAGE_SIZE) as u64;
            }
        } else if !pte.is_none() {
            see(found.align_down(HUGE_SIZE as u64), pte, Level::Huge);
        }
        at = stop;
    }
}

/// A last-level table's slots from that of `at` on, if there is a table that is not shared.
///
/// # Safety
/// As for [`lookup`].
pub(super) unsafe fn own_slots<'a>(root: PhysAddr, at: VirtAddr) -> Option<&'a [AtomicU64]> {
    // SAFETY: the caller vouches for the tree.
    let pte = Pte(unsafe { directory_slot(root, at) }.ok()?.load(Ordering::Acquire));
    if !is_table(pte) || is_shared(pte) {
        return None;
    }
    // SAFETY: a present entry of a live table points to a live table.
    unsafe { entries(pte.address()) }.get(index(at, 12)..)
}
