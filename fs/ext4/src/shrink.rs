//! Clean metadata blocks go when memory is short: they can be read again.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arch::lock::{LockClass, SpinLock};

use crate::buffer::Shards;

static CLASS: LockClass = LockClass::new("ext4.all_buffers", 457);
/// The buffers of every mounted file system.
static ALL: SpinLock<Vec<Weak<Shards>>> = SpinLock::new(&CLASS, Vec::new());
/// The shard that is looked at next.
static HAND: AtomicUsize = AtomicUsize::new(0);

struct Shrinker;

impl frames::Reclaim for Shrinker {
    fn reclaim(&self, pages: usize) -> usize {
        let all: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
        let mut freed = 0;
        for shards in &all {
            for _ in 0..shards.len() {
                if freed >= pages {
                    return freed;
                }
                // Relaxed: any shard will do.
                let index = HAND.fetch_add(1, Ordering::Relaxed) % shards.len();
                let Some(shard) = shards.get(index) else { continue };
                freed += shard.lock().sweep();
            }
        }
        freed
    }
    fn reclaimable(&self) -> u64 {
        0
    }
    /// Its locks are taken before those of who may be allocating.
    fn needs_thread(&self) -> bool {
        true
    }
}

/// Offers the buffers of a file system to the frame allocator.
pub(crate) fn register(shards: &Arc<Shards>) {
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    if !IS_REGISTERED.swap(true, Ordering::AcqRel) {
        frames::register_reclaim(&Shrinker);
    }
    let mut all = ALL.lock();
    all.retain(|known| known.strong_count() > 0);
    all.push(Arc::downgrade(shards));
}
