//! The buddy allocator of one zone.

use crate::MAX_ORDER;
use crate::page::{Page, entry, flag, table};
use arch::addr::Pfn;
use core::sync::atomic::Ordering;

const ORDERS: usize = MAX_ORDER as usize + 1;
/// Frames in the largest block.
pub(crate) const CHUNK: u64 = 1 << MAX_ORDER;
/// The end of a list.
const NIL: u32 = u32::MAX;
/// Untouched ranges a zone can have.
pub(crate) const MAX_FRESH: usize = 64;

/// Frames of a zone: the free lists, and the ranges nothing was ever taken from.
pub(crate) struct Zone {
    heads: [u32; ORDERS],
    blocks: [u32; ORDERS],
    /// Orders with a block, as bits.
    occupied: u32,
    /// Frames in the lists.
    free: u64,
    fresh: [(u64, u64); MAX_FRESH],
    fresh_count: usize,
    /// Frames in the fresh ranges.
    fresh_frames: u64,
}

impl Zone {
    pub(crate) const fn new() -> Zone {
        Zone {
            heads: [NIL; ORDERS],
            blocks: [0; ORDERS],
            occupied: 0,
            free: 0,
            fresh: [(0, 0); MAX_FRESH],
            fresh_count: 0,
            fresh_frames: 0,
        }
    }

    /// Free blocks of each order; the fresh ranges count as largest blocks.
    pub(crate) fn block_counts(&self) -> [u64; ORDERS] {
        let mut counts = self.blocks.map(u64::from);
        counts[MAX_ORDER as usize] += self.fresh_frames / CHUNK;
        counts
    }

    /// Whether a frame is in a range nothing was taken from.
    pub(crate) fn is_fresh(&self, pfn: Pfn) -> bool {
        self.fresh.iter().take(self.fresh_count).any(|(s, e)| *s <= pfn.0 && pfn.0 < *e)
    }

    /// Adds an untouched range; whether there was room for it.
    pub(crate) fn add_fresh(&mut self, start: u64, end: u64) -> bool {
        let Some(slot) = self.fresh.get_mut(self.fresh_count) else { return false };
        *slot = (start, end);
        self.fresh_count += 1;
        self.fresh_frames += end - start;
        true
    }

    /// Takes a block of `2^order` frames.
    pub(crate) fn take(&mut self, order: u8) -> Option<Pfn> {
        loop {
            let candidates = self.occupied >> order;
            if candidates != 0 {
                let found = order + candidates.trailing_zeros() as u8;
                let pfn = self.pop(found)?;
                self.split(pfn, found, order);
                return Some(pfn);
            }
            self.carve()?;
        }
    }

    /// Puts a block back, merging it with its buddies.
    pub(crate) fn give(&mut self, pfn: Pfn, order: u8) {
        let (mut at, mut order) = (pfn.0, order);
        while order < MAX_ORDER {
            let buddy = at ^ (1 << order);
            // Inside one chunk: its metadata was initialised with the chunk's.
            let other = entry(Pfn(buddy));
            if other.flags() & flag::BUDDY == 0 || other.order() != order {
                break;
            }
            self.unlink(other, order);
            at &= !(1 << order);
            order += 1;
        }
        self.push(Pfn(at), order);
    }

    fn split(&mut self, pfn: Pfn, from: u8, to: u8) {
        let mut order = from;
        while order > to {
            order -= 1;
            self.push(pfn + (1 << order), order);
        }
    }

    fn push(&mut self, pfn: Pfn, order: u8) {
        let block = entry(pfn);
        let head = self.heads[order as usize];
        block.next.store(head, Ordering::Relaxed);
        block.prev.store(NIL, Ordering::Relaxed);
        block.order.store(order, Ordering::Relaxed);
        block.init_flags(flag::BUDDY);
        if head != NIL {
            entry(Pfn(u64::from(head))).prev.store(pfn.0 as u32, Ordering::Relaxed);
        }
        self.heads[order as usize] = pfn.0 as u32;
        self.blocks[order as usize] += 1;
        self.occupied |= 1 << order;
        self.free += 1 << order;
    }

    fn pop(&mut self, order: u8) -> Option<Pfn> {
        let head = self.heads[order as usize];
        if head == NIL {
            return None;
        }
        let pfn = Pfn(u64::from(head));
        self.unlink(entry(pfn), order);
        Some(pfn)
    }

    fn unlink(&mut self, block: &Page, order: u8) {
        let next = block.next.load(Ordering::Relaxed);
        let prev = block.prev.load(Ordering::Relaxed);
        if prev == NIL {
            self.heads[order as usize] = next;
        } else {
            entry(Pfn(u64::from(prev))).next.store(next, Ordering::Relaxed);
        }
        if next != NIL {
            entry(Pfn(u64::from(next))).prev.store(prev, Ordering::Relaxed);
        }
        block.init_flags(0);
        block.order.store(0, Ordering::Relaxed);
        self.blocks[order as usize] -= 1;
        if self.blocks[order as usize] == 0 {
            self.occupied &= !(1 << order);
        }
        self.free -= 1 << order;
    }

    /// Moves the next block of an untouched range to the lists.
    fn carve(&mut self) -> Option<()> {
        let index = self.fresh_count.checked_sub(1)?;
        let (start, end) = self.fresh[index];
        let alignment = start.trailing_zeros().min(u32::from(MAX_ORDER));
        let fit = (end - start).ilog2().min(alignment) as u8;
        let size = 1u64 << fit;
        if fit == MAX_ORDER {
            // A whole chunk: nothing touched its metadata yet. Chunks in parts were cleared by
            // `init`.
            clear_chunk(start);
        }
        self.fresh[index].0 += size;
        self.fresh_frames -= size;
        if start + size == end {
            self.fresh_count -= 1;
        }
        self.push(Pfn(start), fit);
        Some(())
    }
}

/// Makes the metadata of a chunk's frames "free, in no list".
pub(crate) fn clear_chunk(first: u64) {
    let entries = table().wrapping_add(first as usize);
    // SAFETY: the table has room for whole chunks; nobody uses the frames or their entries yet.
    unsafe { core::ptr::write_bytes(entries, 0, CHUNK as usize) };
}
