//! The thread that frees memory ahead of need, and the wait for it.
//!
//! It runs when free memory falls below the low watermark, and frees up to the high one. It is the
//! only place where shrinkers run that may wait for locks of file systems.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arch::time::now_ns;
use sched::WaitQueue;

use crate::stats::{self, Counter};
use crate::{reclaim, writeback};

static WAKE: WaitQueue = WaitQueue::new();
static IS_ASKED: AtomicBool = AtomicBool::new(false);
/// Those who wait for the end of a round.
static WAITERS: WaitQueue = WaitQueue::new();
static ROUNDS: AtomicU64 = AtomicU64::new(0);
/// Frames freed by all rounds.
static FREED: AtomicU64 = AtomicU64::new(0);
/// How long an allocation waits for a round or for write-back before it looks again.
const PAUSE_NS: u64 = 100_000_000;
/// How long it waits for pages to be out of use.
const AGEING_NS: u64 = 20_000_000;

/// Starts the thread and has the frame allocator wake it.
pub(crate) fn start() {
    sched::spawn_kernel("kswapd0", || {
        loop {
            WAKE.wait(|| IS_ASKED.swap(false, Ordering::AcqRel).then_some(()));
            let freed = frames::reclaim_in_background();
            FREED.fetch_add(freed as u64, Ordering::Relaxed);
            ROUNDS.fetch_add(1, Ordering::Release);
            WAITERS.wake_all();
        }
    });
    frames::set_background_hook(ask);
}

fn ask() {
    if !IS_ASKED.swap(true, Ordering::AcqRel) {
        WAKE.wake_one();
    }
}

/// Waits for a round of the thread, then for write-back if there is any; whether trying again may
/// find memory. Whoever waits may hold locks that the thread or the flushers need: it waits for a
/// bounded time only.
pub(crate) fn wait() -> bool {
    let freed = FREED.load(Ordering::Relaxed);
    let written = stats::sum(Counter::Written);
    let round = ROUNDS.load(Ordering::Acquire);
    ask();
    WAITERS.wait_deadline(now_ns() + PAUSE_NS, || {
        (ROUNDS.load(Ordering::Acquire) != round).then_some(())
    });
    if FREED.load(Ordering::Relaxed) != freed {
        return true;
    }
    if reclaim::is_holding_back() {
        sched::timer::sleep_ns(AGEING_NS);
        return true;
    }
    if stats::sum(Counter::Dirty) + stats::sum(Counter::Writeback) == 0 {
        return false;
    }
    writeback::kick_all();
    writeback::wait_written(written, PAUSE_NS);
    true
}
