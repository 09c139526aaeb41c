//! Allocations past the slabs: blocks of frames, and mapped scattered frames past those.

use arch::addr::{PAGE_SIZE, VirtAddr};
use arch::lock::{IrqLock, LockClass};
use arch::paging::{PteFlags, kernel};
use core::alloc::Layout;
use frames::{Counter, Flags, FrameBlock, MAX_ORDER, PageRef, kind};

/// What an allocation takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Footprint {
    /// A block of frames.
    Block(u8),
    /// So many mapped pages.
    Mapped(usize),
}

pub(crate) fn footprint(layout: Layout) -> Footprint {
    let bytes = layout.size().max(layout.align()).max(PAGE_SIZE);
    let pages = bytes.div_ceil(PAGE_SIZE);
    let order = pages.next_power_of_two().trailing_zeros();
    if order <= u32::from(MAX_ORDER) {
        Footprint::Block(order as u8)
    } else {
        Footprint::Mapped(pages)
    }
}

pub(crate) fn alloc(layout: Layout, zeroed: bool) -> *mut u8 {
    let flags = if zeroed { Flags::ZERO } else { Flags::empty() };
    match footprint(layout) {
        Footprint::Block(order) => {
            if let Some(block) = block_for(order, flags) {
                block.page().set_kind(kind::LARGE);
                let at = block.as_ptr();
                block.into_raw();
                Counter::SlabUnreclaimable.add(1 << order);
                return at;
            }
            mapped(1 << order, layout, flags)
        }
        Footprint::Mapped(pages) => mapped(pages, layout, flags),
    }
}

/// A block of frames. Where memory is scattered there may be none although memory is free: past
/// two frames nobody is made to wait for one.
fn block_for(order: u8, flags: Flags) -> Option<FrameBlock> {
    if order <= 1 {
        return crate::slab::frames_for(order, flags);
    }
    frames::alloc(order, flags | Flags::NO_OOM).ok()
}

/// Scattered frames instead of a block. Whoever must not wait gets them too, out of the reserve: no processor
/// need be told of what is mapped where nothing was.
fn mapped(pages: usize, layout: Layout, flags: Flags) -> *mut u8 {
    if layout.align() > PAGE_SIZE || !CAN_MAP {
        return core::ptr::null_mut();
    }
    if arch::preempt::is_enabled() {
        release_postponed();
    }
    map_pages(pages, flags).map_or(core::ptr::null_mut(), VirtAddr::as_mut_ptr)
}

/// The simulated machine has no kernel area.
const CAN_MAP: bool = cfg!(target_os = "none");

fn is_mapped(ptr: *const u8) -> bool {
    let at = VirtAddr::from_ptr(ptr);
    CAN_MAP && (kernel::AREA_START..kernel::AREA_END).contains(&at)
}

/// # Safety
/// `alloc` gave `ptr` for this layout and it was not freed since.
pub(crate) unsafe fn free(ptr: *mut u8, layout: Layout) {
    let pages = match footprint(layout) {
        Footprint::Block(order) if !is_mapped(ptr) => {
            Counter::SlabUnreclaimable.sub(1 << order);
            let pfn = arch::phys::to_phys(ptr).pfn();
            // SAFETY: `alloc` gave the block away with this order.
            drop(unsafe { FrameBlock::from_raw(pfn, order) });
            return;
        }
        Footprint::Block(order) => 1 << order,
        Footprint::Mapped(pages) => pages,
    };
    if arch::preempt::is_enabled() {
        unmap_pages(VirtAddr::from_ptr(ptr), pages);
        return release_postponed();
    }
    // SAFETY: the caller gives the memory up; it is mapped, page-aligned and at least a page long.
    unsafe { postpone(ptr, pages) };
}

/// Leaves mapped memory to somebody who can tell the processors to forget it.
///
/// # Safety
/// At `ptr` so many pages are mapped, an unmapped one that is reserved with them follows, and nobody else uses them.
unsafe fn postpone(ptr: *mut u8, pages: usize) {
    let mut first = POSTPONED.lock();
    // SAFETY: the caller gives a page or more up.
    unsafe { ptr.cast::<Postponed>().write(Postponed { next: *first, pages }) };
    *first = ptr as usize;
}

static CLASS: LockClass = LockClass::new("heap.postponed", 805);
/// Mapped memory that was freed where processors could not be told to forget it.
static POSTPONED: IrqLock<usize> = IrqLock::new(&CLASS, 0);

/// What freed memory says of itself meanwhile.
struct Postponed {
    next: usize,
    pages: usize,
}

/// Unmaps what had to wait. Preemption on.
fn release_postponed() {
    if *POSTPONED.lock() == 0 {
        return;
    }
    let mut at = core::mem::take(&mut *POSTPONED.lock());
    while at != 0 {
        // SAFETY: `free` wrote it there, and took the memory out of everybody else's hands.
        let Postponed { next, pages } = unsafe { (at as *const Postponed).read() };
        unmap_pages(VirtAddr(at as u64), pages);
        at = next;
    }
}

/// Maps new frames at adjacent kernel addresses, an unmapped page behind them.
fn map_pages(pages: usize, flags: Flags) -> Option<VirtAddr> {
    let at = kernel::reserve((pages + 1) * PAGE_SIZE)?;
    for index in 0..pages {
        let mapped = frames::alloc_page(flags).ok().and_then(|page| {
            let to = page.phys();
            kernel::map_page(at + index * PAGE_SIZE, to, PteFlags::KERNEL_DATA).ok()?;
            page.into_raw();
            Some(())
        });
        if mapped.is_none() {
            give_up(at, index, pages);
            return None;
        }
    }
    Counter::Vmalloc.add(pages as u64);
    Some(at)
}

/// Takes back a mapping of `pages` of which only the first `mapped` are there.
fn give_up(at: VirtAddr, mapped: usize, pages: usize) {
    if mapped == 0 {
        return kernel::unreserve(at, (pages + 1) * PAGE_SIZE);
    }
    kernel::unreserve(at + (mapped + 1) * PAGE_SIZE, (pages - mapped) * PAGE_SIZE);
    Counter::Vmalloc.add(mapped as u64);
    if arch::preempt::is_enabled() {
        unmap_pages(at, mapped);
    } else {
        // SAFETY: these pages were mapped just now for nobody but the caller; the next one is reserved and unmapped.
        unsafe { postpone(at.as_mut_ptr(), mapped) };
    }
}

fn unmap_pages(at: VirtAddr, pages: usize) {
    Counter::Vmalloc.sub(pages as u64);
    release(at, pages);
    kernel::unreserve(at, (pages + 1) * PAGE_SIZE);
}

/// Unmaps and frees the frames of a range.
pub(crate) fn release(at: VirtAddr, pages: usize) {
    release_all(&[at], pages);
}

/// Unmaps and frees the frames of ranges of so many pages each; the processors are interrupted once.
pub(crate) fn release_all(ranges: &[VirtAddr], pages: usize) {
    kernel::unmap_all(ranges, pages * PAGE_SIZE, |frame| {
        // SAFETY: who mapped the frame here (`map_pages`, a stack's `make`) left the reference.
        drop(unsafe { PageRef::from_raw(frames::page(frame.pfn())) });
    });
}
