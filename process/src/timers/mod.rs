//! The timers of a process: interval timers (`setitimer(2)`), POSIX timers (`timer_create(2)`) and
//! `RLIMIT_CPU`.
//!
//! Timers of clocks that always run are the scheduler's and fire in interrupts. What counts
//! processor time is looked at by the threads that use it: while a process has such a timer its
//! threads are *watched*, that is the tick comes at least every 4 ms while one runs and sends it
//! through [`check_cpu`] on its way to user space. A process that sleeps costs nothing.
//!
//! Locks: a process's tables (rank 596) before a timer's state (597, interrupts off); signals are
//! sent without either.

mod cpu;
mod interval;
mod posix;

pub use self::cpu::{limit_changed, watch};
pub use self::interval::{Which, get_interval, set_interval};
pub use self::posix::{Clock, Expiry, Notify, PosixTimer, Setting};

pub(crate) use self::cpu::{check_cpu, inherit, thread_ended};
pub(crate) use self::posix::delivered;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::AtomicBool;

static TABLE_CLASS: LockClass = LockClass::new("process.timers", 596);
static STATE_CLASS: LockClass = LockClass::new("process.timer", 597);

/// A second in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// The timers of a process.
pub struct Timers {
    real: spin::Once<Arc<interval::Real>>,
    cpu: SpinLock<cpu::Counted>,
    posix: SpinLock<Table>,
    /// Something counts processor time.
    counts_cpu: AtomicBool,
}

/// POSIX timers by number. Numbers go up and are used again only after all others.
#[derive(Default)]
struct Table {
    timers: BTreeMap<i32, Arc<PosixTimer>>,
    next: i32,
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Timers {
    /// No timers.
    pub const fn new() -> Timers {
        Timers {
            real: spin::Once::new(),
            cpu: SpinLock::new(&TABLE_CLASS, cpu::Counted::new()),
            posix: SpinLock::new(&TABLE_CLASS, Table { timers: BTreeMap::new(), next: 0 }),
            counts_cpu: AtomicBool::new(false),
        }
    }

    /// The process ends.
    pub(crate) fn cancel_all(&self) {
        if let Some(real) = self.real.get() {
            real.set(0, 0);
        }
        let gone = core::mem::replace(&mut *self.cpu.lock(), cpu::Counted::new());
        drop(gone);
        self.delete_posix();
    }

    /// The process starts another program: POSIX timers go, interval timers stay.
    pub(crate) fn exec(&self) {
        self.delete_posix();
    }

    fn delete_posix(&self) {
        let all = core::mem::take(&mut self.posix.lock().timers);
        all.values().for_each(|timer| timer.disarm());
    }
}
