//! Read-copy-update: readers only keep their processor from switching; what they may still see is
//! freed when every processor has switched or idled since.

pub use threads::rcu_arc::{RcuArc, RcuRef, RcuSlot};
pub use threads::rcu_read::{ReadGuard, read_lock};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{IrqLock, LockClass};
use core::sync::atomic::{AtomicBool, Ordering};

static CLASS: LockClass = LockClass::new("sched.rcu", 780);

type Callback = Box<dyn FnOnce() + Send>;

/// What waits for a grace period: a chain of chunks, newest first, so that no large block of memory
/// is ever needed where nobody can wait for one.
struct Pending {
    newest: Option<Box<Chunk>>,
    count: usize,
}

const CHUNK: usize = 30;

struct Chunk {
    callbacks: Vec<Callback>,
    older: Option<Box<Chunk>>,
}

impl Pending {
    /// Adds one; how many there are now.
    fn push(&mut self, callback: Callback) -> usize {
        self.count += 1;
        if let Some(chunk) = self.newest.as_mut().filter(|chunk| chunk.callbacks.len() < CHUNK) {
            chunk.callbacks.push(callback);
            return self.count;
        }
        let mut callbacks = Vec::with_capacity(CHUNK);
        callbacks.push(callback);
        let older = self.newest.take();
        self.newest = Some(Box::new(Chunk { callbacks, older }));
        self.count
    }
}

static PENDING: IrqLock<Pending> = IrqLock::new(&CLASS, Pending { newest: None, count: 0 });

/// How long the thread collects before it waits for a grace period: one for many callbacks, and
/// not two thread switches for each.
pub(crate) const COLLECT_NS: u64 = 5_000_000;
/// Callbacks that end the collecting early: they hold memory.
const MANY: usize = 512;
/// Somebody waits for the callbacks: no collecting.
static IS_AWAITED: AtomicBool = AtomicBool::new(false);

/// Calls `callback` in a thread after a grace period.
pub fn call(callback: Callback) {
    let count = PENDING.lock().push(callback);
    if count == 1 || count == MANY {
        crate::work::wake_rcu();
    }
}

/// Waits for a grace period.
pub fn synchronize() {
    arch::lock::check::might_sleep();
    wait_for_readers();
}

/// Runs what is due; the RCU thread calls it when there is something.
pub(crate) fn process() {
    let mut due = {
        let mut pending = PENDING.lock();
        pending.count = 0;
        pending.newest.take()
    };
    if due.is_none() {
        return;
    }
    wait_for_readers();
    // Turned round: the oldest first.
    let mut oldest = None;
    while let Some(mut chunk) = due {
        due = chunk.older.take();
        chunk.older = oldest;
        oldest = Some(chunk);
    }
    while let Some(chunk) = oldest {
        chunk.callbacks.into_iter().for_each(|callback| callback());
        oldest = chunk.older;
    }
}

pub(crate) fn has_pending() -> bool {
    PENDING.lock().newest.is_some()
}

/// Whether collecting is to end early.
pub(crate) fn has_many() -> bool {
    IS_AWAITED.swap(false, Ordering::SeqCst) || PENDING.lock().count >= MANY
}

/// Waits until every callback that was registered before has run.
pub fn barrier() {
    arch::lock::check::might_sleep();
    let done = Arc::new(crate::Completion::new());
    let signal = done.clone();
    // Callbacks run in the order they came.
    call(Box::new(move || signal.complete()));
    IS_AWAITED.store(true, Ordering::SeqCst);
    crate::work::wake_rcu();
    done.wait();
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
