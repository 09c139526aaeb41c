//! The per-CPU stacks in front of the zones.

use crate::init;
use arch::percpu::PerCpuCell;
use arrayvec::ArrayVec;
use framemeta::FreeFrames;

/// Frames on their way between a stack and the zones.
pub(crate) type Batch = ArrayVec<FreeFrames, { Lists::BATCH }>;

/// Takes the frames that were pushed first, the coldest.
pub(crate) fn pop_oldest<const N: usize>(stack: &mut ArrayVec<FreeFrames, N>) -> Batch {
    let count = stack.len().min(Lists::BATCH);
    stack.drain(..count).collect()
}

/// What a processor keeps.
pub(crate) struct Lists {
    /// Single frames.
    pub(crate) free: ArrayVec<FreeFrames, 256>,
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
}

impl Lists {
    /// How many frames go between stack and zones at once.
    pub(crate) const BATCH: usize = 64;
}

arch::percpu! {
    pub(crate) static LISTS: PerCpu<PerCpuCell<Lists>> = PerCpuCell::new(Lists {
        free: ArrayVec::new_const(),
        allocated: 0,
        freed: 0,
    });
}

/// Gives the frames of this processor's stacks back to the zones: under pressure, and before a
/// processor goes away.
pub fn drain_local() {
    loop {
        let batch = LISTS.with(|lists| pop_oldest(&mut lists.free));
        if batch.is_empty() {
            return;
        }
        init::give_batch(batch);
    }
}

/// As [`drain_local`] on every processor. Interrupts on; not for hot paths.
pub fn drain_all() {
    arch::ipi::call_on_all(|_| drain_local(), 0);
}
