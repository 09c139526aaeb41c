//! Interrupts: switching them off on this processor, and routing device interrupts to handlers.

pub use machine::irq::*;

#[cfg(not(target_os = "none"))]
pub use crate::host::irq::{allocate_msi, free_msi, request_gsi, set_affinity};
#[cfg(target_os = "none")]
pub use crate::x86::vectors::{allocate_msi, free_msi, request_gsi, set_affinity};

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
    pub cpu: crate::cpu::CpuId,
    /// Its number in `/proc/interrupts`.
    pub irq: u32,
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
