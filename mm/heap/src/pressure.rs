//! Giving back, when memory is short, what is kept for speed.

use crate::stats::stats;
use core::sync::atomic::{AtomicU64, Ordering};

struct Shrinker;

/// How long magazines and caches are left alone after they were emptied: while memory stays short they
/// fill again at once, and emptying them asks every processor.
const PAUSE_NS: u64 = 1_000_000_000;
/// When they may be emptied again.
static NEXT_NS: AtomicU64 = AtomicU64::new(0);

fn held() -> u64 {
    let now = stats();
    now.slab + now.stacks
}

impl frames::Reclaim for Shrinker {
    fn reclaim(&self, _: usize) -> usize {
        let now = arch::time::now_ns();
        // Relaxed, here and below: twice in a pause does no harm.
        if now < NEXT_NS.load(Ordering::Relaxed) {
            return 0;
        }
        NEXT_NS.store(now + PAUSE_NS, Ordering::Relaxed);
        let before = held();
        crate::shrink();
        before.saturating_sub(held()) as usize
    }
    fn reclaimable(&self) -> u64 {
        0
    }
    /// It waits for other processors.
    fn needs_thread(&self) -> bool {
        true
    }
}

/// Offers what the heap keeps to the frame allocator. Once, at start-up.
pub fn register_shrinker() {
    frames::register_reclaim(&Shrinker);
}

#[cfg(test)]
pub(crate) fn reclaim() -> usize {
    frames::Reclaim::reclaim(&Shrinker, 1)
}
