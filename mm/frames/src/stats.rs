//! Counters for `/proc/meminfo`, `/proc/vmstat`, `/proc/buddyinfo` and `/proc/zoneinfo`.

use crate::percpu::LISTS;
use crate::{init, pressure};
use core::sync::atomic::{AtomicI64, Ordering};
use framemeta::MAX_ORDER;

/// Things counted in frames, system-wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Frames ever taken as blocks.
    Allocated,
    /// Frames ever given back as blocks.
    Freed,
    /// Page tables.
    Tables,
    /// Slabs that could be shrunk.
    SlabReclaimable,
    /// Other slabs.
    SlabUnreclaimable,
    /// Kernel stacks.
    KernelStacks,
    /// Frames behind `vmalloc`-like mappings.
    Vmalloc,
    /// Anonymous memory mapped in address spaces.
    Anon,
    /// Anonymous memory in large pages.
    AnonHuge,
    /// File pages mapped in address spaces.
    FileMapped,
    /// Shared memory and tmpfs.
    Shmem,
    /// Locked in memory.
    Mlocked,
}

const COUNTERS: usize = Counter::Mlocked as usize + 1;

#[repr(align(64))]
struct Line(AtomicI64);

static TOTALS: [Line; COUNTERS] = [const { Line(AtomicI64::new(0)) }; COUNTERS];

impl Counter {
    /// Counts up.
    #[inline]
    pub fn add(self, frames: u64) {
        TOTALS[self as usize].0.fetch_add(frames as i64, Ordering::Relaxed);
    }
    /// Counts down.
    #[inline]
    pub fn sub(self, frames: u64) {
        TOTALS[self as usize].0.fetch_sub(frames as i64, Ordering::Relaxed);
    }
    /// Changes by a signed number.
    #[inline]
    pub fn change(self, frames: i64) {
        TOTALS[self as usize].0.fetch_add(frames, Ordering::Relaxed);
    }
    /// The number now.
    pub fn get(self) -> u64 {
        TOTALS[self as usize].0.load(Ordering::Relaxed).max(0) as u64
    }
}

/// System-wide numbers in frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// All usable frames.
    pub total: u64,
    /// Frames nobody uses.
    pub free: u64,
    /// Frames a program could get without swapping.
    pub available: u64,
    /// Frames allocated since boot.
    pub allocated_ever: u64,
    /// Frames freed since boot.
    pub freed_ever: u64,
    /// Page tables.
    pub tables: u64,
}

/// One node's numbers in frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeStats {
    /// All usable frames.
    pub total: u64,
    /// Frames nobody uses, without those on per-CPU stacks.
    pub free: u64,
}

/// The frames on the per-CPU stacks, and the counts of single frames. Read without stopping the
/// other processors: the numbers are from about now.
fn per_cpu() -> (u64, u64, u64) {
    let mut sums = (0, 0, 0);
    let online = arch::cpu::online();
    for cpu in arch::cpu::each_possible().filter(|cpu| online.contains(*cpu)) {
        let (free, allocated, freed) =
            LISTS.on(cpu).peek(|lists| (lists.free.len() as u64, lists.allocated, lists.freed));
        sums = (sums.0 + free, sums.1 + allocated, sums.2 + freed);
    }
    sums
}

/// Frames nobody uses, as in [`Stats::free`].
pub fn free() -> u64 {
    init::available() + per_cpu().0
}

/// The system's numbers.
pub fn stats() -> Stats {
    let (cached, allocated, freed) = per_cpu();
    let free = init::available() + cached;
    let low = pressure::watermarks().low;
    Stats {
        total: init::total_pages(),
        free,
        available: (free + pressure::reclaimable()).saturating_sub(low),
        allocated_ever: allocated + Counter::Allocated.get(),
        freed_ever: freed + Counter::Freed.get(),
        tables: Counter::Tables.get(),
    }
}

/// A node's numbers, or `None` for a node that has no memory.
pub fn node_stats(node: usize) -> Option<NodeStats> {
    init::node_totals(node).map(|(total, free)| NodeStats { total, free })
}

/// Name, total frames and free blocks per order of each zone that has memory, for
/// `/proc/buddyinfo`.
pub fn zone_info(mut emit: impl FnMut(usize, &'static str, u64, &[u64; MAX_ORDER as usize + 1])) {
    init::for_each_zone(|node, name, total, counts| emit(node, name, total, counts));
}
