//! Read-copy-update: readers only keep their processor from switching; what they may still see is
//! freed when every processor has switched or idled since.

pub use threads::rcu_arc::{RcuArc, RcuRef, RcuSlot};
pub use threads::rcu_later::Later;
pub use threads::rcu_read::{ReadGuard, read_lock};

use alloc::boxed::Box;
use alloc::vec::Vec;
use arch::cpu::CpuId;
use arch::lock::{IrqLock, LockClass};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static CLASS: LockClass = LockClass::new("sched.rcu", 780);

/// What waits for a grace period on one processor: a chain of chunks, newest first, so that no large
/// block of memory is ever needed where nobody can wait for one.
struct Pending {
    newest: Option<Box<Chunk>>,
    count: usize,
}

/// Two words each: a chunk has 2 KiB.
const CHUNK: usize = 126;

struct Chunk {
    later: Vec<Later>,
    older: Option<Box<Chunk>>,
}

impl Pending {
    /// Adds one; how many there are now.
    fn push(&mut self, later: Later) -> usize {
        self.count += 1;
        if let Some(chunk) = self.newest.as_mut().filter(|chunk| chunk.later.len() < CHUNK) {
            chunk.later.push(later);
            return self.count;
        }
        let mut chunk = Vec::with_capacity(CHUNK);
        chunk.push(later);
        let older = self.newest.take();
        self.newest = Some(Box::new(Chunk { later: chunk, older }));
        self.count
    }
}

arch::percpu! {
    static PENDING: PerCpu<IrqLock<Pending>> =
        IrqLock::new(&CLASS, Pending { newest: None, count: 0 });
}

/// How long the thread collects before it waits for a grace period: one for many, and not two
/// thread switches for each.
pub(crate) const COLLECT_NS: u64 = 5_000_000;
/// So many on one processor end the collecting early: they hold memory.
const MANY: usize = 512;
/// There is something, and the thread has been told.
static IS_TOLD: AtomicBool = AtomicBool::new(false);
/// No collecting: somebody waits, or there are [`MANY`].
static IS_URGENT: AtomicBool = AtomicBool::new(false);
/// Rounds of the thread that have begun, and that have ended.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);
static ENDING: crate::WaitQueue = crate::WaitQueue::new();

/// Lets go of something in a thread after a grace period.
pub fn call(later: Later) {
    let count = PENDING.this().lock().push(later);
    if count == MANY {
        hurry();
    } else if count == 1 && !IS_TOLD.swap(true, Ordering::SeqCst) {
        crate::work::wake_rcu();
    }
}

fn hurry() {
    IS_URGENT.store(true, Ordering::SeqCst);
    IS_TOLD.store(true, Ordering::SeqCst);
    crate::work::wake_rcu();
}

/// Waits for a grace period.
pub fn synchronize() {
    arch::lock::check::might_sleep();
    wait_for_readers();
}

/// One round: lets go of what is there; the RCU thread alone calls it.
pub(crate) fn process() {
    // Told from now on: what comes while the lists are taken is for the next round.
    IS_TOLD.store(false, Ordering::SeqCst);
    IS_URGENT.store(false, Ordering::SeqCst);
    BEGUN.fetch_add(1, Ordering::SeqCst);
    let due: Vec<Box<Chunk>> = arch::cpu::possible().iter().filter_map(take).collect();
    if !due.is_empty() {
        wait_for_readers();
        crate::Deferred::Rcu.count();
        due.into_iter().for_each(|newest| {
            // Turned round: the oldest first.
            let (mut newer, mut oldest) = (Some(newest), None);
            while let Some(mut chunk) = newer {
                newer = chunk.older.take();
                chunk.older = oldest;
                oldest = Some(chunk);
            }
            while let Some(chunk) = oldest {
                drop(chunk.later);
                oldest = chunk.older;
            }
        });
    }
    ENDED.fetch_add(1, Ordering::SeqCst);
    ENDING.wake_all();
}

fn take(cpu: CpuId) -> Option<Box<Chunk>> {
    let mut pending = PENDING.on(cpu).lock();
    pending.count = 0;
    pending.newest.take()
}

/// Whether the thread has been told that there is something.
pub(crate) fn has_pending() -> bool {
    IS_TOLD.load(Ordering::SeqCst)
}

/// Whether collecting is to end early.
pub(crate) fn is_urgent() -> bool {
    IS_URGENT.load(Ordering::SeqCst)
}

/// Waits until everything that was given to [`call`] before has gone.
pub fn barrier() {
    arch::lock::check::might_sleep();
    // The next round to begin takes it, if one under way has not.
    let round = BEGUN.load(Ordering::SeqCst) + 1;
    hurry();
    ENDING.wait(|| (ENDED.load(Ordering::SeqCst) >= round).then_some(()));
}

#[cfg(target_os = "none")]
fn wait_for_readers() {
    use arch::cpu::{CpuId, CpuSet};
    // Processors that idle now have no readers; the others must pass a switch.
    let before: Vec<(CpuId, u64)> = arch::cpu::online()
        .iter()
        .filter_map(|cpu| Some((cpu, threads::run::quiescent_count(cpu)?)))
        .collect();
    let is_behind = |&(cpu, count): &(CpuId, u64)| {
        threads::run::quiescent_count(cpu).is_some_and(|now| now == count)
    };
    let mut rounds = 0;
    loop {
        let late: CpuSet = before.iter().filter(|b| is_behind(b)).map(|b| b.0).collect();
        if late.is_empty() {
            return;
        }
        // The first millisecond most pass by themselves.
        if rounds == 1 {
            threads::run::hurry(&late);
        }
        rounds += 1;
        crate::timer::sleep_ns(1_000_000);
    }
}

#[cfg(not(target_os = "none"))]
fn wait_for_readers() {
    threads::rcu_read::wait_for_readers();
}
