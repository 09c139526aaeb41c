//! The machine itself: registers, descriptor tables, entries, interrupt controllers, clocks.

pub mod clock;
pub mod entry;
pub mod fpu;
pub mod ipi;
pub mod local;
pub mod regs;
pub mod switch;
pub mod timer;
pub mod tlb;
pub mod usercopy;
pub mod vectors;
