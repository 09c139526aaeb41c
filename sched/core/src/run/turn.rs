//! Who runs where, told without a lock: for those who would rather wait a moment than sleep.

use super::WAKE_COST;
use crate::thread::Thread;
use arch::cpu::CpuId;
use core::sync::atomic::{AtomicU64, Ordering};

arch::percpu! {
    /// The [`Turn`] of the thread that runs.
    static RUNS: PerCpu<AtomicU64> = AtomicU64::new(0);
}

/// A thread's being on a processor: what was one is a sign only, of a thread that may be gone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn(u64);

/// Bits of a processor's number; kernel addresses differ in the other ones.
const CPU_BITS: u32 = 16;

/// What sleeping is taken to cost at least, also while no idle processor was woken yet.
const SHORTEST_NS: u64 = 2_000;

impl Turn {
    /// Of the calling thread. It may be moved to another processor meanwhile, and get another's: a sign only.
    #[inline(always)]
    pub(crate) fn current() -> Turn {
        Turn(RUNS.this().load(Ordering::Relaxed))
    }

    /// From [`raw`](Self::raw).
    pub(crate) fn from_raw(raw: u64) -> Turn {
        Turn(raw)
    }

    /// As a number, to be stored.
    #[inline(always)]
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// Whether it goes on: the thread has run on that processor since, or runs there again.
    pub(crate) fn goes_on(self) -> bool {
        let cpu = CpuId::from_raw((self.0 & ((1 << CPU_BITS) - 1)) as u32);
        self.0 != 0
            && cpu.index() < arch::cpu::possible_count()
            && RUNS.on(cpu).load(Ordering::Relaxed) == self.0
    }
}

/// The processor goes on with that thread.
#[inline(always)]
pub(super) fn begin(thread: &Thread) {
    let address = core::ptr::from_ref(thread).addr() as u64;
    let turn = address << CPU_BITS | u64::from(arch::cpu::id().as_u32());
    RUNS.this().store(turn, Ordering::Relaxed);
}

/// How long it is worth waiting for what a running thread is about to do: as long as sleeping costs.
pub(crate) fn patience_ns() -> u64 {
    WAKE_COST.ns().max(SHORTEST_NS)
}
