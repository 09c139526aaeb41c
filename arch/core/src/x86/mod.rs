//! The machine itself: registers, descriptor tables, entries, the switch, interrupts between
//! processors.

pub mod apic;
pub mod cpu;
pub(crate) mod debug;
pub mod descriptors;
pub(crate) mod entry;
pub mod extable;
pub(crate) mod fpu;
pub mod handlers;
pub mod ipi;
pub mod kvmclock;
pub mod local;
pub mod port;
pub mod regs;
pub mod start;
pub(crate) mod switch;
pub(crate) mod tlb;
pub mod trampoline;
pub(crate) mod usercopy;
