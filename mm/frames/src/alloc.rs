//! Taking and giving frames: the fast path over the per-CPU stacks, the slow path over zones,
//! reclaim and the OOM hook.

use crate::page::{Page, entry, flag, kind};
use crate::percpu::{LISTS, Lists};
use crate::stats::Counter;
use crate::{FrameBlock, MAX_ORDER, OutOfMemory, PageRef, init, pressure};
use arch::addr::{PAGE_SIZE, Pfn};
use core::sync::atomic::Ordering;

bitflags::bitflags! {
    /// What a caller needs and may do.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Flags: u32 {
        /// Zeroed memory.
        const ZERO = 1;
        /// Below 4 GiB.
        const DMA32 = 1 << 1;
        /// Fail rather than reclaim: the caller has something else to do.
        const NO_RECLAIM = 1 << 2;
        /// May dip into the reserve.
        const RESERVE = 1 << 3;
        /// Reclaim, but fail rather than call the OOM hook.
        const NO_OOM = 1 << 4;
    }
}

/// One frame as a page with one reference.
#[inline]
pub fn alloc_page(flags: Flags) -> Result<PageRef, OutOfMemory> {
    let pfn = take_one(flags)?;
    let page = entry(pfn);
    page.refs.store(1, Ordering::Relaxed);
    Ok(PageRef::from_owned(page))
}

/// `2^order` adjacent frames, aligned to their size.
pub fn alloc(order: u8, flags: Flags) -> Result<FrameBlock, OutOfMemory> {
    if order == 0 {
        let pfn = take_one(flags)?;
        entry(pfn).refs.store(1, Ordering::Relaxed);
        return Ok(FrameBlock::from_owned(pfn, 0));
    }
    if order > MAX_ORDER {
        return Err(OutOfMemory);
    }
    let pfn = take_block(order, flags)?;
    let head = entry(pfn);
    head.refs.store(1, Ordering::Relaxed);
    head.order.store(order, Ordering::Relaxed);
    if flags.contains(Flags::ZERO) {
        clear(pfn, order);
    }
    Ok(FrameBlock::from_owned(pfn, order))
}

#[inline]
fn take_one(flags: Flags) -> Result<Pfn, OutOfMemory> {
    if flags.contains(Flags::DMA32) {
        let pfn = take_block(0, flags)?;
        if flags.contains(Flags::ZERO) {
            clear(pfn, 0);
        }
        return Ok(pfn);
    }
    let zero = flags.contains(Flags::ZERO);
    let taken = LISTS.with(|lists| {
        lists.allocated += 1;
        if zero && let Some(pfn) = lists.zeroed.pop() {
            return Some((pfn, true));
        }
        lists.free.pop().map(|pfn| (pfn, false))
    });
    let (pfn, zeroed) = match taken {
        Some(taken) => taken,
        None => refill(flags)?,
    };
    if zero && !zeroed {
        clear(pfn, 0);
    } else {
        check_poison(pfn);
    }
    Ok(pfn)
}

/// Takes a batch from the zones: one frame for the caller, the others on the stack.
#[cold]
fn refill(flags: Flags) -> Result<(Pfn, bool), OutOfMemory> {
    let mut attempt = 0;
    loop {
        if pressure::may_take(flags, 1) {
            let mut batch = [Pfn(0); Lists::BATCH];
            let count = init::take_batch(&mut batch);
            if count > 0 {
                let mut rest = &batch[1..count];
                LISTS.with(|lists| {
                    while let Some((pfn, more)) = rest.split_first() {
                        if !lists.free.push(*pfn) {
                            break;
                        }
                        rest = more;
                    }
                });
                rest.iter().for_each(|pfn| init::give(*pfn, 0));
                return Ok((batch[0], false));
            }
        }
        // Frames that were zeroed ahead are better than nothing.
        if let Some(pfn) = LISTS.with(|lists| lists.zeroed.pop()) {
            return Ok((pfn, true));
        }
        pressure::relieve(flags, 0, &mut attempt)?;
    }
}

/// Takes a block from the zones.
fn take_block(order: u8, flags: Flags) -> Result<Pfn, OutOfMemory> {
    let mut attempt = 0;
    loop {
        if pressure::may_take(flags, 1 << order) {
            let found = init::take(order, flags.contains(Flags::DMA32));
            if let Some(pfn) = found {
                Counter::Allocated.add(1 << order);
                return Ok(pfn);
            }
            // Frames on this processor's stack may be what a block lacks.
            if attempt == 0 {
                crate::drain_local();
                if let Some(pfn) = init::take(order, flags.contains(Flags::DMA32)) {
                    Counter::Allocated.add(1 << order);
                    return Ok(pfn);
                }
            }
        }
        pressure::relieve(flags, order, &mut attempt)?;
    }
}

/// Takes back a page whose last reference is gone.
#[inline]
pub(crate) fn free_page(page: &Page) {
    let order = page.order();
    debug_assert_eq!(page.references(), 0);
    debug_assert!(page.flags() & (flag::BUDDY | flag::TAIL | flag::RESERVED) == 0, "{page:?}");
    if page.kind() != kind::NONE {
        page.set_kind(kind::NONE);
    }
    page.init_flags(0);
    if order == 0 {
        return give_one(page.pfn());
    }
    page.order.store(0, Ordering::Relaxed);
    let first = page.pfn();
    for step in 1..1u64 << order {
        let tail = entry(first + step);
        tail.init_flags(0);
        tail.order.store(0, Ordering::Relaxed);
        tail.refs.store(0, Ordering::Relaxed);
        tail.init_mappings(0);
    }
    page.init_mappings(0);
    poison(first, order);
    Counter::Freed.add(1 << order);
    init::give(first, order);
}

#[inline]
fn give_one(pfn: Pfn) {
    poison(pfn, 0);
    let kept = LISTS.with(|lists| {
        lists.freed += 1;
        lists.free.push(pfn)
    });
    if !kept {
        overflow(pfn);
    }
}

/// The stack is full: a batch goes back to the zones.
#[cold]
fn overflow(pfn: Pfn) {
    let mut batch = [Pfn(0); Lists::BATCH];
    let count = LISTS.with(|lists| lists.free.pop_oldest(&mut batch));
    init::give_batch(&batch[..count]);
    if !LISTS.with(|lists| lists.free.push(pfn)) {
        init::give(pfn, 0);
    }
}

/// Zeroes one free frame for later; for the idle loop. Whether there may be more to do.
pub fn zero_in_idle() -> bool {
    let Some(pfn) = LISTS.with(|lists| {
        if lists.zeroed.is_full() || lists.free.len() <= Lists::BATCH / 4 {
            None
        } else {
            lists.free.pop()
        }
    }) else {
        return refill_for_idle();
    };
    clear(pfn, 0);
    if !LISTS.with(|lists| lists.zeroed.push(pfn)) {
        init::give(pfn, 0);
    }
    true
}

fn refill_for_idle() -> bool {
    if LISTS.with(|lists| lists.zeroed.is_full()) || !pressure::is_comfortable() {
        return false;
    }
    let mut batch = [Pfn(0); Lists::BATCH];
    let count = init::take_batch(&mut batch);
    for pfn in &batch[..count] {
        if !LISTS.with(|lists| lists.free.push(*pfn)) {
            init::give(*pfn, 0);
        }
    }
    count > 0
}

#[inline]
pub(crate) fn clear(pfn: Pfn, order: u8) {
    // SAFETY: the frames were just taken from the allocator: nobody else uses them.
    unsafe { core::ptr::write_bytes(arch::phys::to_virt(pfn.phys()), 0, PAGE_SIZE << order) };
}

const POISON: u8 = 0xa5;

/// Debug builds fill free frames with a pattern ...
#[inline(always)]
fn poison(pfn: Pfn, order: u8) {
    if cfg!(debug_assertions) {
        // SAFETY: the frames are free and ours.
        unsafe {
            core::ptr::write_bytes(arch::phys::to_virt(pfn.phys()), POISON, PAGE_SIZE << order);
        }
    }
}

/// ... and look at its beginning when they are handed out: all poison, or never written.
#[inline(always)]
fn check_poison(pfn: Pfn) {
    if cfg!(debug_assertions) {
        // SAFETY: the frame is ours, and 64 bytes are inside it.
        let head = unsafe { core::slice::from_raw_parts(arch::phys::to_virt(pfn.phys()), 64) };
        let first = head.first().copied().unwrap_or(0);
        if first == POISON {
            assert!(head.iter().all(|byte| *byte == POISON), "frame {pfn:?} written while free");
        }
    }
}
