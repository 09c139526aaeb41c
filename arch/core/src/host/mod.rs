//! The simulated machine of host tests: memory is an anonymous arena, processors are threads.

pub mod cpu;
pub mod thread;
pub mod tlb;
pub mod user;

pub use cpu::{in_interrupt, set_cpu};
pub use user::UserBuffer;

use crate::boot::{FreeMemory, PhysRange};
use std::sync::OnceLock;

/// Makes physical memory as [`init_memory`] does and hands it out; `None` the second time.
pub fn take_memory(bytes: usize) -> Option<FreeMemory> {
    let len = init_memory(bytes) as u64;
    FreeMemory::take(core::iter::once(PhysRange::new(0, len)))
}

static ARENA: OnceLock<usize> = OnceLock::new();

/// Makes physical memory: `0..bytes`, zeroed, mapped on first touch. The first call decides; the
/// size that is there is returned. Tests of one process share it.
pub fn init_memory(bytes: usize) -> usize {
    *ARENA.get_or_init(|| {
        let bytes = bytes.next_multiple_of(crate::addr::HUGE_SIZE);
        let layout = std::alloc::Layout::from_size_align(bytes, crate::addr::HUGE_SIZE)
            .unwrap_or_else(|error| panic!("arena of {bytes} bytes: {error}"));
        // SAFETY: the size is not zero: it is rounded up to 2 MiB (a zero request panics below).
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!start.is_null(), "no memory for an arena of {bytes} bytes");
        crate::phys::set_base(start as u64);
        bytes
    })
}
