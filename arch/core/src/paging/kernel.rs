//! The kernel's half: one set of tables that every address space points to, and the area where
//! guard-paged stacks, device memory and other mappings of scattered frames go.
//!
//! | range | what |
//! | --- | --- |
//! | `0xffff_8880…` + slide | direct map |
//! | [`AREA_START`] 512 GiB | mappings made here |
//! | [`FRAME_TABLE`] 1 TiB | metadata of frames, if `frames` maps it |
//! | `0xffff_ffff_8000_0000` + slide | the image |
//! | `0xffff_ffff_ff60_0000` | the vsyscall page (emulated, never mapped) |

use super::walk::{self, Visit};
use super::{Level, MapError, NoMemory, Pte, PteFlags, entries, table_frames};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::lock::{IrqLock, LockClass};
use alloc::collections::BTreeMap;
use bootinfo::PHYS_END;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where the area for kernel mappings starts.
pub const AREA_START: VirtAddr = VirtAddr(0xffff_c900_0000_0000);
/// Where it ends.
pub const AREA_END: VirtAddr = VirtAddr(0xffff_c980_0000_0000);
/// A range kept free for the metadata of frames: 1 TiB.
pub const FRAME_TABLE: VirtAddr = VirtAddr(0xffff_ea00_0000_0000);

/// The root of the kernel's own tables; 0 before [`init`].
static ROOT: AtomicU64 = AtomicU64::new(0);
static CLASS: LockClass = LockClass::new("arch.kernel_area", 799);
static AREA: IrqLock<Area> = IrqLock::new(&CLASS, Area::new());

/// The free parts of the area, and what was allocated.
struct Area {
    /// Where nothing was ever allocated.
    fresh: u64,
    /// Freed ranges, start → length.
    free: BTreeMap<u64, u64>,
}

impl Area {
    const fn new() -> Area {
        Area { fresh: AREA_START.0, free: BTreeMap::new() }
    }

    fn take(&mut self, len: u64) -> Option<u64> {
        let fit = self.free.iter().find(|(_, size)| **size >= len).map(|(at, size)| (*at, *size));
        if let Some((at, size)) = fit {
            self.free.remove(&at);
            if size > len {
                self.free.insert(at + len, size - len);
            }
            return Some(at);
        }
        let at = self.fresh;
        let end = at.checked_add(len).filter(|end| *end <= AREA_END.0)?;
        self.fresh = end;
        Some(at)
    }

    fn give(&mut self, mut at: u64, mut len: u64) {
        if let Some((before, size)) = self.free.range(..at).next_back().map(|(a, s)| (*a, *s))
            && before + size == at
        {
            self.free.remove(&before);
            at = before;
            len += size;
        }
        if let Some(size) = self.free.remove(&(at + len)) {
            len += size;
        }
        self.free.insert(at, len);
    }
}

/// Takes over the tables at `root` (on the machine the boot tables) as the kernel's: from now on
/// new address spaces share their upper half. Makes the second-level tables of the ranges above,
/// so that the upper half of a root never changes again. Needs table frames.
pub fn init(root: PhysAddr) -> Result<(), NoMemory> {
    let frames = table_frames()?;
    // SAFETY: the caller passes a live root.
    let slots = unsafe { entries(root) };
    let fixed = [AREA_START, FRAME_TABLE, FRAME_TABLE + (1u64 << 39)];
    for at in fixed {
        let slot = &slots[(at.0 >> 39) as usize & 511];
        if slot.load(Ordering::Relaxed) == 0 {
            let table = Pte::table(frames.allocate()?, PteFlags::TABLE - PteFlags::USER);
            slot.store(table.0, Ordering::Release);
        }
    }
    ROOT.store(root.0, Ordering::Release);
    Ok(())
}

/// The kernel's root: what runs when no address space does. Zero before [`init`].
pub fn root() -> PhysAddr {
    PhysAddr(ROOT.load(Ordering::Acquire))
}

/// Takes the one-to-one map of the first memory, which starting processors came through, out of
/// the kernel's tables: from then on address 0 is nobody's. After the last processor has started.
pub fn forget_identity_map() {
    // SAFETY: kernel tables live for ever; the lower half of the kernel's root is used by nobody
    // but starting processors.
    unsafe { entries(root()) }.iter().take(256).for_each(|slot| slot.store(0, Ordering::Release));
    crate::tlb::flush_kernel_range(VirtAddr(0), 4 << 30);
}

/// Fills the upper half of a new root.
pub(super) fn copy_kernel_half(new: PhysAddr) {
    let from = root();
    if from.is_null() {
        return;
    }
    // SAFETY: both are live roots, the new one nobody else's yet.
    let (from, to) = unsafe { (entries(from), entries(new)) };
    for (from, to) in from.iter().zip(to).skip(256) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// What is mapped at a kernel address: the frame, flags and page size.
pub fn query(at: VirtAddr) -> Option<(PhysAddr, PteFlags)> {
    // SAFETY: kernel tables live for ever.
    let entry = unsafe { walk::lookup(root(), at) }?;
    let pte = entry.load();
    let inside = at.0 & (entry.level.size() as u64 - 1);
    pte.is_present().then(|| (pte.address() + inside, pte.flags()))
}

/// Reserves `len` bytes (whole pages) of the area, nothing mapped. `None` when it is used up.
pub fn reserve(len: usize) -> Option<VirtAddr> {
    AREA.lock().take(len as u64).map(VirtAddr)
}

/// Gives a reserved range back; nothing is mapped in it and the TLBs have forgotten it
/// ([`unmap`] sees to that).
pub fn unreserve(at: VirtAddr, len: usize) {
    AREA.lock().give(at.0, len as u64);
}

/// Maps one frame at a kernel address in the area.
pub fn map_page(at: VirtAddr, to: PhysAddr, flags: PteFlags) -> Result<(), MapError> {
    let table = PteFlags::TABLE - PteFlags::USER;
    // SAFETY: kernel tables live for ever.
    let entry = unsafe { walk::make(root(), at, Level::Page, table) }?;
    let pte = Pte::leaf(to, flags | PteFlags::PRESENT, Level::Page);
    entry.compare_exchange(Pte::NONE, pte).map_err(|_| MapError::Occupied)
}

/// Unmaps a range of the area on all processors; each frame that was mapped is passed to `gone`
/// after no processor can reach it any more.
pub fn unmap(at: VirtAddr, len: usize, mut gone: impl FnMut(PhysAddr)) {
    clear(at, len);
    crate::tlb::flush_kernel_range(at, len);
    take_cleared(at, len, &mut gone);
}

/// [`unmap`] for ranges of `len` bytes each: the processors are told once for all of them.
pub fn unmap_all(ranges: &[VirtAddr], len: usize, mut gone: impl FnMut(PhysAddr)) {
    ranges.iter().for_each(|at| clear(*at, len));
    let lowest = ranges.iter().min().copied().unwrap_or(VirtAddr::ZERO);
    let highest = ranges.iter().max().copied().unwrap_or(VirtAddr::ZERO);
    crate::tlb::flush_kernel_range(lowest, (highest.0 - lowest.0) as usize + len);
    ranges.iter().for_each(|at| take_cleared(*at, len, &mut gone));
}

/// Makes the entries of a range not present, keeping the frames in them.
fn clear(at: VirtAddr, len: usize) {
    let mut visit = |_: VirtAddr, entry: Visit<'_>| {
        if let Visit::Entry(entry) = entry {
            entry.update(|pte| Some(pte.with_flags(pte.flags() - PteFlags::PRESENT)));
        }
    };
    // SAFETY: kernel tables live for ever.
    unsafe { walk::range(root(), at, at + len, &mut visit) };
}

fn take_cleared(at: VirtAddr, len: usize, gone: &mut impl FnMut(PhysAddr)) {
    let mut visit = |_: VirtAddr, entry: Visit<'_>| {
        if let Visit::Entry(entry) = entry {
            gone(entry.swap(Pte::NONE).address());
        }
    };
    // SAFETY: kernel tables live for ever.
    unsafe { walk::range(root(), at, at + len, &mut visit) };
}

/// Maps physical memory of a device (or of the firmware) with the memory type in `flags`; the
/// address of `phys`. It stays mapped until [`iounmap`].
pub fn ioremap(phys: PhysAddr, len: usize, flags: PteFlags) -> Result<*mut u8, MapError> {
    let inside = phys.page_offset();
    if phys.checked_add(len as u64).is_none_or(|end| end.0 > PHYS_END) {
        return Err(MapError::NoMemory);
    }
    let len = (len + inside).next_multiple_of(PAGE_SIZE);
    let at = reserve(len + PAGE_SIZE).ok_or(MapError::NoMemory)?;
    let first = phys.page_down();
    for offset in (0..len).step_by(PAGE_SIZE) {
        if let Err(error) = map_page(at + offset, first + offset, PteFlags::KERNEL_DATA | flags) {
            unmap(at, offset, |_| ());
            unreserve(at, len + PAGE_SIZE);
            return Err(error);
        }
    }
    Ok((at + inside).as_mut_ptr())
}

/// Unmaps what [`ioremap`] mapped; `len` as then.
pub fn iounmap(at: *mut u8, len: usize) {
    let at = VirtAddr::from_ptr(at);
    let len = (len + at.page_offset()).next_multiple_of(PAGE_SIZE);
    unmap(at.page_down(), len, |_| ());
    unreserve(at.page_down(), len + PAGE_SIZE);
}
