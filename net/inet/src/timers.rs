//! Timers of connections: ordered maps of what is to happen when, served by one thread that sleeps until
//! the first.
//!
//! A timer is armed once and moves by itself: who wants it later changes his own deadline, and the timer
//! finds at its old instant that it has to wait on. So what is sent and acknowledged arms nothing.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arch::lock::{LockClass, SpinLock};
use sched::WaitQueue;

static CLASS: LockClass = LockClass::new("inet.timers", 541);

/// Something that is told when its time has come.
pub(crate) trait Expire: Send + Sync {
    /// The instant it was armed for has come; the next one, if there is one. In a thread, without locks.
    fn expire(&self, now_ns: u64) -> Option<u64>;
}

const PARTS: usize = 16;

type Part = SpinLock<BTreeMap<(u64, u64), Weak<dyn Expire>>>;

static WAITING: [Part; PARTS] = [const { SpinLock::new(&CLASS, BTreeMap::new()) }; PARTS];
/// The instant the thread sleeps until.
static NEXT_NS: AtomicU64 = AtomicU64::new(u64::MAX);
static THREAD: WaitQueue = WaitQueue::new();

/// Calls `target` at an instant of the monotonic clock, if it is still there.
pub(crate) fn arm(target: &Arc<dyn Expire>, at_ns: u64) {
    put(Arc::downgrade(target), at_ns);
}

fn put(target: Weak<dyn Expire>, at_ns: u64) {
    static IDS: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only uniqueness matters.
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    let Some(part) = WAITING.get(id as usize % PARTS) else { return };
    part.lock().insert((at_ns, id), target);
    start();
    if at_ns < NEXT_NS.load(Ordering::SeqCst) {
        NEXT_NS.fetch_min(at_ns, Ordering::SeqCst);
        THREAD.wake_one();
    }
}

/// Starts the thread, which cannot be done with a spinning lock held as [`arm`] can.
pub(crate) fn start() {
    static IS_STARTED: AtomicBool = AtomicBool::new(false);
    if IS_STARTED.load(Ordering::Relaxed) || IS_STARTED.swap(true, Ordering::SeqCst) {
        return;
    }
    sched::spawn_kernel("nettimer", || {
        loop {
            let now = arch::time::now_ns();
            NEXT_NS.store(u64::MAX, Ordering::SeqCst);
            let next = serve(now);
            let next = NEXT_NS.fetch_min(next, Ordering::SeqCst).min(next);
            let is_due = || (NEXT_NS.load(Ordering::SeqCst) < next).then_some(());
            if next == u64::MAX {
                THREAD.wait(is_due);
            } else {
                THREAD.wait_deadline(next, is_due);
            }
        }
    });
}

/// Calls everybody whose time has come; the next instant.
fn serve(now: u64) -> u64 {
    let mut next = u64::MAX;
    for part in &WAITING {
        loop {
            let due = {
                let mut part = part.lock();
                match part.first_entry() {
                    Some(first) if first.key().0 <= now => Some(first.remove()),
                    Some(first) => {
                        next = next.min(first.key().0);
                        None
                    }
                    None => None,
                }
            };
            let Some(target) = due else { break };
            if let Some(at) = target.upgrade().and_then(|target| target.expire(now)) {
                put(target, at.max(now + 1));
            }
        }
    }
    next
}
