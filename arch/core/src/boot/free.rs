//! The memory that nobody uses yet, handed out once.

use arrayvec::ArrayVec;
use bootinfo::PhysRange;
use core::sync::atomic::{AtomicBool, Ordering};

/// More ranges than this are not worth their metadata.
const MAX_RANGES: usize = 64;

/// All memory that nobody uses, in ascending ranges that lie in the direct map. There is one value
/// of this type: whoever has it owns that memory.
pub struct FreeMemory(ArrayVec<PhysRange, MAX_RANGES>);

impl FreeMemory {
    /// The ranges as they come; `None` the second time.
    pub(crate) fn take(ranges: impl Iterator<Item = PhysRange>) -> Option<FreeMemory> {
        static IS_TAKEN: AtomicBool = AtomicBool::new(false);
        if IS_TAKEN.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(FreeMemory(ranges.take(MAX_RANGES).collect()))
    }

    /// The ranges.
    pub fn ranges(&self) -> &[PhysRange] {
        &self.0
    }
}

/// What the boot loader left free.
#[cfg(target_os = "none")]
pub fn take_free_memory() -> Option<FreeMemory> {
    FreeMemory::take(super::info().usable())
}
