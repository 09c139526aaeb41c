//! Interrupts: switching them off on this processor, and routing device interrupts to handlers.

pub use machine::irq::*;

#[cfg(not(target_os = "none"))]
pub use crate::host::irq::{allocate_msi, free_msi, in_use, request_gsi, served_on, set_affinity};
#[cfg(target_os = "none")]
pub use crate::x86::vectors::{
    allocate_msi, free_msi, in_use, request_gsi, served_on, set_affinity,
};
pub use machine::irq_count::{Counted, count_on};

use crate::cpu::CpuId;
use alloc::string::String;

/// How an interrupt line signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Edge, high active: ISA.
    EdgeHigh,
    /// Edge, low active.
    EdgeLow,
    /// Level, low active: PCI lines.
    LevelLow,
    /// Level, high active.
    LevelHigh,
    /// As the firmware's tables say for this line, or ISA's default.
    Firmware,
}

/// A message-signalled interrupt: the device writes `data` to `address`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiVector {
    /// The address to program.
    pub address: u64,
    /// The data to program.
    pub data: u32,
    /// The processor it goes to.
    pub cpu: CpuId,
    /// Its number in `/proc/interrupts`.
    pub irq: u32,
}

/// Whose message an interrupt is, for `/proc/interrupts`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsiSource {
    /// The device, and the part of it that the message is for.
    pub name: String,
    /// Tells the message from those of other devices.
    pub number: u32,
}

/// What sends a device interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chip {
    /// A line of an I/O APIC.
    IoApic,
    /// The device itself, by a message.
    PciMsi,
}

/// A device interrupt in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InUse {
    /// Its number.
    pub irq: u32,
    /// The processor it goes to.
    pub cpu: CpuId,
    /// How often it was served.
    pub count: u64,
    /// What sends it.
    pub chip: Chip,
    /// Its number there.
    pub number: u32,
    /// Whether it lasts until its cause is gone.
    pub is_level: bool,
    /// The devices.
    pub names: String,
}

/// How long a processor has served interrupts, in nanoseconds.
#[inline]
pub fn time_ns(cpu: CpuId) -> u64 {
    crate::time::cycles_to_ns(machine::irq_count::cycles_on(cpu))
}

/// Why an interrupt could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IrqError {
    /// No interrupt controller serves this line.
    NoSuchLine,
    /// All vectors of all processors are in use.
    NoVectors,
}

impl From<IrqError> for abi::Errno {
    fn from(error: IrqError) -> abi::Errno {
        match error {
            IrqError::NoSuchLine => abi::Errno::EINVAL,
            IrqError::NoVectors => abi::Errno::ENOSPC,
        }
    }
}
