//! The machine itself: registers, descriptor tables, entries, interrupt controllers, clocks.

pub mod apic;
pub mod clock;
pub mod cpu;
pub(crate) mod descriptors;
pub mod entry;
pub(crate) mod extable;
pub mod fpu;
pub mod init;
pub mod ioapic;
pub mod ipi;
pub mod local;
pub mod regs;
pub mod switch;
pub mod timer;
pub mod tlb;
pub mod traps;
pub mod usercopy;
pub mod vectors;
