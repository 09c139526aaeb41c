//! Counters for `/proc/meminfo` and `/proc/vmstat`: per-CPU, summed when read.

use core::sync::atomic::{AtomicI64, Ordering};

use arch::cpu;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Counter {
    /// Pages in the cache of files (tmpfs included).
    FilePages,
    /// Pages of mappings without backing (tmpfs, shared memory).
    Shmem,
    /// Dirty pages.
    Dirty,
    /// Pages under write-back.
    Writeback,
    /// Pages on the active list.
    ActiveFile,
    /// Pages on the inactive list.
    InactiveFile,
    /// Pages ever dirtied.
    Dirtied,
    /// Pages ever written.
    Written,
    /// KiB read from devices.
    PgPgIn,
    /// KiB written to devices.
    PgPgOut,
    /// Pages looked at by reclaim.
    Scanned,
    /// Pages freed by reclaim.
    Reclaimed,
    /// Pages moved to the active list.
    Activated,
    /// Pages moved back to the inactive list.
    Deactivated,
    /// Read-ahead pages requested.
    ReadAhead,
    /// Pages of block devices (`Buffers:`).
    Buffers,
}
const COUNT: usize = Counter::Buffers as usize + 1;

arch::percpu! {
    static COUNTERS: PerCpu<[AtomicI64; COUNT]> = [const { AtomicI64::new(0) }; COUNT];
}

/// Adds `delta` to `counter`.
#[inline]
pub fn add(counter: Counter, delta: i64) {
    // Relaxed: a statistic. A thread that moves between the two steps counts on another CPU.
    COUNTERS.this()[counter as usize].fetch_add(delta, Ordering::Relaxed);
}

/// The sum over all CPUs; never negative.
pub fn sum(counter: Counter) -> u64 {
    let total: i64 = cpu::each_possible()
        .map(|cpu| COUNTERS.on(cpu)[counter as usize].load(Ordering::Relaxed))
        .sum();
    total.max(0) as u64
}
