//! Interrupt controllers, clocks and traps of the machine, and the order in which they come up.

pub mod apic;
pub mod clock;
pub mod init;
pub mod ioapic;
pub(crate) mod sample;
pub(crate) mod stop;
pub mod timer;
pub mod traps;
pub mod vectors;

pub use machine::x86::port;

machine::define_hooks! {
    early_print: crate::console::early_print,
    send: apic::send,
    secondary: crate::smp::secondary,
    exit_work: traps::exit_work,
    interrupt: traps::interrupt,
    exception: traps::exception,
    paranoid: traps::paranoid,
}
