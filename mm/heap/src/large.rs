//! Allocations past the slabs: blocks of frames, and mapped scattered frames past those.

use arch::addr::{PAGE_SIZE, VirtAddr};
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
            let Ok(block) = frames::alloc(order, flags) else { return core::ptr::null_mut() };
            block.page().set_kind(kind::LARGE);
            let at = block.as_ptr();
            block.into_raw();
            Counter::SlabUnreclaimable.add(1 << order);
            at
        }
        Footprint::Mapped(pages) if layout.align() <= PAGE_SIZE => {
            map_pages(pages, flags).map_or(core::ptr::null_mut(), VirtAddr::as_mut_ptr)
        }
        Footprint::Mapped(_) => core::ptr::null_mut(),
    }
}

/// # Safety
/// `alloc` gave `ptr` for this layout and it was not freed since.
pub(crate) unsafe fn free(ptr: *mut u8, layout: Layout) {
    match footprint(layout) {
        Footprint::Block(order) => {
            Counter::SlabUnreclaimable.sub(1 << order);
            let pfn = arch::phys::to_phys(ptr).pfn();
            // SAFETY: `alloc` gave the block away with this order.
            drop(unsafe { FrameBlock::from_raw(pfn, order) });
        }
        Footprint::Mapped(pages) => unmap_pages(VirtAddr::from_ptr(ptr), pages),
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
            release(at, index);
            kernel::unreserve(at, (pages + 1) * PAGE_SIZE);
            return None;
        }
    }
    Counter::Vmalloc.add(pages as u64);
    Some(at)
}

fn unmap_pages(at: VirtAddr, pages: usize) {
    Counter::Vmalloc.sub(pages as u64);
    release(at, pages);
    kernel::unreserve(at, (pages + 1) * PAGE_SIZE);
}

/// Unmaps and frees the frames of a range.
pub(crate) fn release(at: VirtAddr, pages: usize) {
    kernel::unmap(at, pages * PAGE_SIZE, |frame| {
        // SAFETY: `map_pages` left the reference when it mapped the frame here.
        drop(unsafe { PageRef::from_raw(frames::page(frame.pfn())) });
    });
}
