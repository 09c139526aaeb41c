//! Read-copy-update: readers only keep their processor from switching; what they may still see is
//! freed when every processor has switched or idled since.

#[path = "rcu_arc.rs"]
mod rcu_arc;

pub use rcu_arc::{RcuArc, RcuRef, RcuSlot};

use alloc::boxed::Box;
use alloc::vec::Vec;
use arch::lock::{IrqLock, LockClass};

static CLASS: LockClass = LockClass::new("sched.rcu", 780);

type Callback = Box<dyn FnOnce() + Send>;

static PENDING: IrqLock<Vec<Callback>> = IrqLock::new(&CLASS, Vec::new());

/// While it lives, nothing that was found is freed. It keeps preemption off: no sleeping.
#[must_use = "protection ends when the guard is dropped"]
pub struct ReadGuard {
    #[cfg(target_os = "none")]
    _preempt: arch::preempt::PreemptGuard,
    #[cfg(not(target_os = "none"))]
    _host: host::Reader,
}

/// Begins to read.
#[inline]
pub fn read_lock() -> ReadGuard {
    #[cfg(target_os = "none")]
    return ReadGuard { _preempt: arch::preempt::disable() };
    #[cfg(not(target_os = "none"))]
    ReadGuard { _host: host::Reader::new() }
}

/// Calls `callback` in a thread after a grace period.
pub fn call(callback: Callback) {
    let is_first = {
        let mut pending = PENDING.lock();
        pending.push(callback);
        pending.len() == 1
    };
    if is_first {
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
    let due = core::mem::take(&mut *PENDING.lock());
    if due.is_empty() {
        return;
    }
    wait_for_readers();
    for callback in due {
        callback();
    }
}

pub(crate) fn has_pending() -> bool {
    !PENDING.lock().is_empty()
}

#[cfg(target_os = "none")]
fn wait_for_readers() {
    use arch::cpu::{CpuId, CpuSet};
    // Processors that idle now have no readers; the others must pass a switch.
    let before: Vec<(CpuId, u64)> = arch::cpu::online()
        .iter()
        .filter_map(|cpu| Some((cpu, crate::run::quiescent_count(cpu)?)))
        .collect();
    let is_behind = |&(cpu, count): &(CpuId, u64)| {
        crate::run::quiescent_count(cpu).is_some_and(|now| now == count)
    };
    let mut rounds = 0;
    loop {
        let late: CpuSet = before.iter().filter(|b| is_behind(b)).map(|b| b.0).collect();
        if late.is_empty() {
            return;
        }
        // The first millisecond most pass by themselves.
        if rounds == 1 {
            crate::run::hurry(&late);
        }
        rounds += 1;
        crate::timer::sleep_ns(1_000_000);
    }
}

#[cfg(not(target_os = "none"))]
fn wait_for_readers() {
    host::wait();
}

#[cfg(not(target_os = "none"))]
mod host {
    use std::cell::Cell;
    use std::sync::{RwLock, RwLockReadGuard};

    static GATE: RwLock<()> = RwLock::new(());
    std::thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
    }

    /// Holds the gate open for reading; nests.
    pub(super) struct Reader(
        #[expect(dead_code, reason = "held for its drop")] Option<RwLockReadGuard<'static, ()>>,
    );

    impl Reader {
        pub(super) fn new() -> Reader {
            let depth = DEPTH.get();
            DEPTH.set(depth + 1);
            Reader((depth == 0).then(|| GATE.read().unwrap_or_else(|e| e.into_inner())))
        }
    }

    impl Drop for Reader {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }

    pub(super) fn wait() {
        drop(GATE.write().unwrap_or_else(|e| e.into_inner()));
    }
}
