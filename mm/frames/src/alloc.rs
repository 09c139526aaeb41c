//! Taking and giving frames: the fast path over the per-CPU stacks, the slow path over zones,
//! reclaim and the OOM hook.

use crate::percpu::{LISTS, pop_oldest};
use crate::stats::Counter;
use crate::{OutOfMemory, init, pressure};
use framemeta::{FrameBlock, FreeFrames, HugePage, MAX_ORDER, PageRef, kind};

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
    Ok(take_one(flags)?.into_page())
}

/// `2^order` adjacent frames, aligned to their size.
pub fn alloc(order: u8, flags: Flags) -> Result<FrameBlock, OutOfMemory> {
    if order == 0 {
        return Ok(take_one(flags)?.into_block());
    }
    if order > MAX_ORDER {
        return Err(OutOfMemory);
    }
    let mut block = take_block(order, flags)?;
    if flags.contains(Flags::ZERO) {
        block.clear();
    }
    Ok(block.into_block())
}

/// 2 MiB of zeroed anonymous memory, mapped once, if there is plenty: single pages do as well, and
/// nobody else is to run short.
pub fn alloc_huge() -> Option<HugePage> {
    if !pressure::is_comfortable(HugePage::PAGES) {
        return None;
    }
    let mut frames = init::take(HugePage::ORDER, false)?;
    Counter::Allocated.add(HugePage::PAGES);
    frames.clear();
    HugePage::new(frames, kind::ANON).map_err(give).ok()
}

#[inline]
fn take_one(flags: Flags) -> Result<FreeFrames, OutOfMemory> {
    if flags.contains(Flags::DMA32) {
        let mut frame = take_block(0, flags)?;
        if flags.contains(Flags::ZERO) {
            frame.clear();
        }
        return Ok(frame);
    }
    let taken = LISTS.with(|lists| {
        lists.allocated += 1;
        lists.free.pop()
    });
    let mut frame = match taken {
        Some(frame) => frame,
        None => refill(flags)?,
    };
    if flags.contains(Flags::ZERO) {
        frame.clear();
    } else {
        frame.check_poison();
    }
    Ok(frame)
}

/// Takes a batch from the zones: one frame for the caller, the others on the stack.
#[cold]
fn refill(flags: Flags) -> Result<FreeFrames, OutOfMemory> {
    let mut attempt = 0;
    loop {
        if pressure::may_take(flags, 1) {
            let mut batch = init::take_batch().into_iter();
            if let Some(own) = batch.next() {
                keep(batch);
                return Ok(own);
            }
        }
        pressure::relieve(flags, 0, &mut attempt)?;
    }
}

/// Puts single frames on the stack; those it has no room for go back to the zones.
fn keep(mut frames: impl Iterator<Item = FreeFrames>) {
    let left = LISTS.with(|lists| {
        frames.find_map(|frame| lists.free.try_push(frame).err().map(|full| full.element()))
    });
    left.into_iter().chain(frames).for_each(init::give);
}

/// Takes a block from the zones.
fn take_block(order: u8, flags: Flags) -> Result<FreeFrames, OutOfMemory> {
    let mut attempt = 0;
    loop {
        if pressure::may_take(flags, 1 << order) {
            let found = init::take(order, flags.contains(Flags::DMA32));
            if let Some(block) = found {
                Counter::Allocated.add(1 << order);
                return Ok(block);
            }
            // Frames on this processor's stack may be what a block lacks.
            if attempt == 0 {
                crate::drain_local();
                if let Some(block) = init::take(order, flags.contains(Flags::DMA32)) {
                    Counter::Allocated.add(1 << order);
                    return Ok(block);
                }
            }
        }
        pressure::relieve(flags, order, &mut attempt)?;
    }
}

/// Takes frames back whose last reference is gone.
#[inline]
fn give(frames: FreeFrames) {
    if frames.order() > 0 {
        Counter::Freed.add(1 << frames.order());
        return init::give(frames);
    }
    let left = LISTS.with(|lists| {
        lists.freed += 1;
        lists.free.try_push(frames).err()
    });
    if let Some(full) = left {
        overflow(full.element());
    }
}

framemeta::define_give!(give);

/// The stack is full: a batch goes back to the zones.
#[cold]
fn overflow(frame: FreeFrames) {
    let batch = LISTS.with(|lists| pop_oldest(&mut lists.free));
    init::give_batch(batch);
    keep(core::iter::once(frame));
}
