//! The numbers of `/proc/diskstats` and `/sys/block/*/stat`.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arch::time::now_ns;

use crate::bio::Op;

#[derive(Default)]
struct Kind {
    ios: AtomicU64,
    merges: AtomicU64,
    sectors: AtomicU64,
    ns: AtomicU64,
}

/// Counters of one disk or partition.
#[derive(Default)]
pub struct Stats {
    kinds: [Kind; 4],
    in_flight: AtomicI64,
    busy_ns: AtomicU64,
    busy_since: AtomicU64,
}

/// One kind of operation as `/proc/diskstats` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindStats {
    /// Operations completed.
    pub ios: u64,
    /// Operations merged into others.
    pub merges: u64,
    /// 512-byte sectors moved.
    pub sectors: u64,
    /// Milliseconds spent.
    pub ms: u64,
}

/// All numbers of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Reads.
    pub read: KindStats,
    /// Writes.
    pub write: KindStats,
    /// Discards.
    pub discard: KindStats,
    /// Flushes.
    pub flush: KindStats,
    /// Operations under way.
    pub in_flight: u64,
    /// Milliseconds with at least one operation under way.
    pub busy_ms: u64,
}

fn kind(op: Op) -> usize {
    match op {
        Op::Read => 0,
        Op::Write | Op::WriteZeroes => 1,
        Op::Discard => 2,
        Op::Flush => 3,
    }
}

// All orderings are relaxed: statistics.
impl Stats {
    pub(crate) fn started(&self) {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.busy_since.store(now_ns(), Ordering::Relaxed);
        }
    }

    pub(crate) fn unstarted(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn merged(&self, op: Op) {
        self.kinds[kind(op)].merges.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn completed(&self, op: Op, sectors: u64, bios: usize, ns: u64) {
        let counters = &self.kinds[kind(op)];
        counters.ios.fetch_add(1, Ordering::Relaxed);
        counters.sectors.fetch_add(sectors, Ordering::Relaxed);
        counters.ns.fetch_add(ns, Ordering::Relaxed);
        let _ = bios;
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            let since = self.busy_since.load(Ordering::Relaxed);
            self.busy_ns.fetch_add(now_ns().saturating_sub(since), Ordering::Relaxed);
        }
        match op {
            Op::Read => {
                pagecache::stats::add(pagecache::stats::Counter::PgPgIn, (sectors / 2) as i64);
            }
            Op::Write => {
                pagecache::stats::add(pagecache::stats::Counter::PgPgOut, (sectors / 2) as i64);
            }
            _ => {}
        }
    }

    /// The numbers now.
    pub fn snapshot(&self) -> StatsSnapshot {
        let read = |index: usize| KindStats {
            ios: self.kinds[index].ios.load(Ordering::Relaxed),
            merges: self.kinds[index].merges.load(Ordering::Relaxed),
            sectors: self.kinds[index].sectors.load(Ordering::Relaxed),
            ms: self.kinds[index].ns.load(Ordering::Relaxed) / 1_000_000,
        };
        StatsSnapshot {
            read: read(0),
            write: read(1),
            discard: read(2),
            flush: read(3),
            in_flight: self.in_flight.load(Ordering::Relaxed).max(0) as u64,
            busy_ms: self.busy_ns.load(Ordering::Relaxed) / 1_000_000,
        }
    }
}
