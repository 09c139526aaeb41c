//! How often work ran that an event left to be done right after it: the counterparts here of what
//! Linux calls soft interrupts.

use arch::cpu::CpuId;
use core::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Deferred {
    /// Timers whose time had come were called.
    Timer,
    /// A processor without work looked for some at the others.
    Balance,
    /// Callbacks were called after a grace period.
    Rcu,
}

arch::percpu! {
    static COUNTS: PerCpu<[AtomicU64; 3]> = [const { AtomicU64::new(0) }; 3];
}

impl Deferred {
    /// Counts it on this processor.
    #[inline]
    pub fn count(self) {
        COUNTS.this()[self as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often a processor did it.
    pub fn count_on(self, cpu: CpuId) -> u64 {
        COUNTS.on(cpu)[self as usize].load(Ordering::Relaxed)
    }
}
