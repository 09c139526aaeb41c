//! The simulated machine of host tests: memory is an anonymous arena, processors are threads.

pub(crate) mod ipi;
pub mod irq;
pub(crate) mod time;

pub use machine::host::*;
