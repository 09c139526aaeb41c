//! Numbers for `/proc/slabinfo` and `/proc/meminfo`.

use crate::slab::{self, CLASSES};
use frames::Counter;

/// The heap's totals in frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Slabs and large blocks.
    pub slab: u64,
    /// Mapped allocations.
    pub vmalloc: u64,
    /// Kernel stacks.
    pub stacks: u64,
}

/// One size class.
#[derive(Clone, Copy, Debug)]
pub struct ClassStats {
    /// Bytes per object.
    pub size: usize,
    /// Objects in use, or in a processor's magazine.
    pub active: usize,
    /// All objects.
    pub total: usize,
    /// Objects per slab.
    pub per_slab: usize,
    /// Slabs.
    pub slabs: usize,
}

/// The totals.
pub fn stats() -> Stats {
    Stats {
        slab: Counter::SlabUnreclaimable.get() + Counter::SlabReclaimable.get(),
        vmalloc: Counter::Vmalloc.get(),
        stacks: Counter::KernelStacks.get(),
    }
}

/// Every size class, smallest first.
pub fn for_each_class(mut emit: impl FnMut(ClassStats)) {
    for class in 0..CLASSES {
        let (slabs, active, size, per_slab) = slab::class_stats(class);
        emit(ClassStats { size, active, total: slabs * per_slab, per_slab, slabs });
    }
}
