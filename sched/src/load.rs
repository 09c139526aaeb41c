//! The load average: how many threads run or are ready, smoothed over 1, 5 and 15 minutes.

use crate::timer::Timer;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

/// Bits after the point, as `sysinfo(2)` has them.
const SHIFT: u32 = 16;
/// Every so often the average is brought up to date.
const PERIOD_NS: u64 = 5_000_000_000;
/// `exp(-5 s / 1, 5, 15 min)` with 11 bits after the point.
const DECAY: [u64; 3] = [1884, 2014, 2037];

static AVERAGES: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static TIMER: Once<Arc<Timer>> = Once::new();

/// Begins to count; once threads run.
pub fn init() {
    let timer = TIMER.call_once(|| {
        Timer::new(|timer| {
            step(u64::from(threads::run::nr_running()));
            timer.arm(arch::time::now_ns() + PERIOD_NS);
        })
    });
    timer.arm(arch::time::now_ns() + PERIOD_NS);
}

fn step(active: u64) {
    for (average, decay) in AVERAGES.iter().zip(DECAY) {
        let old = average.load(Ordering::Relaxed);
        let new = (old * decay + (active << SHIFT) * (2048 - decay)) / 2048;
        average.store(new, Ordering::Relaxed);
    }
}

/// The averages over 1, 5 and 15 minutes, with 16 bits after the point.
pub fn loadavg() -> [u64; 3] {
    [0, 1, 2].map(|i: usize| AVERAGES.get(i).map_or(0, |a| a.load(Ordering::Relaxed)))
}
