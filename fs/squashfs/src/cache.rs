//! Decompressed blocks that were used last: a fixed number of them.

use alloc::sync::Arc;
use alloc::vec::Vec;

use arch::lock::{LockClass, SpinLock};

static CACHE: LockClass = LockClass::new("squashfs.cache", 458);

/// A decompressed block.
pub(crate) struct Block {
    pub(crate) bytes: Vec<u8>,
    /// Where on the device the next one begins.
    pub(crate) next: u64,
}

struct Slot {
    /// Where on the device the block begins.
    place: u64,
    used: u64,
    block: Arc<Block>,
}

struct Slots {
    slots: Vec<Slot>,
    /// Counts uses.
    clock: u64,
}

/// Blocks by their place.
pub(crate) struct Cache {
    slots: SpinLock<Slots>,
    most: usize,
}

impl Cache {
    /// Room for so many blocks.
    pub(crate) fn new(most: usize) -> Cache {
        let slots = Slots { slots: Vec::with_capacity(most), clock: 0 };
        Cache { slots: SpinLock::new(&CACHE, slots), most }
    }

    /// A block that is at hand.
    pub(crate) fn get(&self, place: u64) -> Option<Arc<Block>> {
        let mut slots = self.slots.lock();
        slots.clock += 1;
        let clock = slots.clock;
        let slot = slots.slots.iter_mut().find(|slot| slot.place == place)?;
        slot.used = clock;
        Some(slot.block.clone())
    }

    /// Keeps a block, for which the one that was not used for longest goes.
    pub(crate) fn put(&self, place: u64, block: &Arc<Block>) {
        let block = block.clone();
        let mut slots = self.slots.lock();
        slots.clock += 1;
        let new = Slot { place, used: slots.clock, block };
        let is_full = slots.slots.len() >= self.most;
        let same = slots.slots.iter_mut().find(|slot| slot.place == place);
        let gone = match same {
            // Another thread was faster.
            Some(slot) => Some(core::mem::replace(slot, new)),
            None if is_full => {
                let oldest = slots.slots.iter_mut().min_by_key(|slot| slot.used);
                oldest.map(|slot| core::mem::replace(slot, new))
            }
            None => {
                slots.slots.push(new);
                None
            }
        };
        // Freed without the lock.
        drop(slots);
        drop(gone);
    }
}
