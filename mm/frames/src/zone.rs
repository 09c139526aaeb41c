//! The buddy allocator of one zone.

use arch::addr::Pfn;
use arrayvec::ArrayVec;
use core::sync::atomic::Ordering;
use framemeta::{CHUNK, FreeFrames, FreshRange, MAX_ORDER, Page, entry};

const ORDERS: usize = MAX_ORDER as usize + 1;
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
    fresh: ArrayVec<FreshRange, MAX_FRESH>,
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
            fresh: ArrayVec::new_const(),
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
        self.fresh.iter().any(|range| range.start() <= pfn.0 && pfn.0 < range.end())
    }

    /// Adds an untouched range; whether there was room for it.
    pub(crate) fn add_fresh(&mut self, range: FreshRange) -> bool {
        let frames = range.len();
        if self.fresh.try_push(range).is_err() {
            return false;
        }
        self.fresh_frames += frames;
        true
    }

    /// Takes all untouched ranges out.
    pub(crate) fn take_fresh(&mut self) -> ArrayVec<FreshRange, MAX_FRESH> {
        self.fresh_frames = 0;
        self.fresh.take()
    }

    /// Takes a block of `2^order` frames.
    pub(crate) fn take(&mut self, order: u8) -> Option<FreeFrames> {
        loop {
            let candidates = self.occupied >> order;
            if candidates != 0 {
                let found = order + candidates.trailing_zeros() as u8;
                let mut block = self.pop(found)?;
                while block.order() > order
                    && let Some(upper) = block.halve()
                {
                    self.push(upper);
                }
                return Some(block);
            }
            self.carve()?;
        }
    }

    /// Puts a block back, merging it with its buddies.
    pub(crate) fn give(&mut self, mut block: FreeFrames) {
        while block.order() < MAX_ORDER {
            // Inside one chunk: its metadata was initialised with the chunk's.
            let buddy = entry(Pfn(block.first().0 ^ (1 << block.order())));
            let Some(other) = self.unlink(buddy, block.order()) else { break };
            match block.join(other) {
                Ok(whole) => block = whole,
                Err((own, other)) => {
                    self.push(other);
                    block = own;
                    break;
                }
            }
        }
        self.push(block);
    }

    fn push(&mut self, block: FreeFrames) {
        let order = block.order();
        let page = block.put_away();
        let number = page.pfn().0 as u32;
        let head = self.heads[order as usize];
        page.next.store(head, Ordering::Relaxed);
        page.prev.store(NIL, Ordering::Relaxed);
        if head != NIL {
            entry(Pfn(u64::from(head))).prev.store(number, Ordering::Relaxed);
        }
        self.heads[order as usize] = number;
        self.blocks[order as usize] += 1;
        self.occupied |= 1 << order;
        self.free += 1 << order;
    }

    fn pop(&mut self, order: u8) -> Option<FreeFrames> {
        let head = self.heads[order as usize];
        if head == NIL {
            return None;
        }
        self.unlink(entry(Pfn(u64::from(head))), order)
    }

    /// Takes the free block of this order that an entry heads out of its list, if it does.
    fn unlink(&mut self, page: &Page, order: u8) -> Option<FreeFrames> {
        let block = FreeFrames::take_back(page, order)?;
        let next = page.next.load(Ordering::Relaxed);
        let prev = page.prev.load(Ordering::Relaxed);
        if prev == NIL {
            self.heads[order as usize] = next;
        } else {
            entry(Pfn(u64::from(prev))).next.store(next, Ordering::Relaxed);
        }
        if next != NIL {
            entry(Pfn(u64::from(next))).prev.store(prev, Ordering::Relaxed);
        }
        self.blocks[order as usize] -= 1;
        if self.blocks[order as usize] == 0 {
            self.occupied &= !(1 << order);
        }
        self.free -= 1 << order;
        Some(block)
    }

    /// Moves the next block of an untouched range to the lists.
    fn carve(&mut self) -> Option<()> {
        let range = self.fresh.last_mut()?;
        let block = range.carve()?;
        if range.is_empty() {
            self.fresh.pop();
        }
        self.fresh_frames -= 1 << block.order();
        self.push(block);
        Some(())
    }
}
