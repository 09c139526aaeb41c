//! Fixed facts of the layout.

/// What must stay free below a stack: `stack_guard_gap`.
pub(crate) const STACK_GAP: u64 = 256 << 12;
/// The lowest address that may be mapped: `vm.mmap_min_addr`.
pub(crate) const MIN_ADDRESS: u64 = 65536;
