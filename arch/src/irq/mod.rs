//! Interrupts: switching them off on this processor, and (on the machine) routing device
//! interrupts to handlers.

#[cfg(not(target_os = "none"))]
use crate::host::cpu as imp;
#[cfg(target_os = "none")]
use crate::x86::regs as imp;

use alloc::sync::Arc;
use core::marker::PhantomData;

#[cfg(not(target_os = "none"))]
pub use crate::host::irq::{allocate_msi, free_msi, request_gsi, set_affinity};
#[cfg(target_os = "none")]
pub use crate::x86::vectors::{allocate_msi, free_msi, request_gsi, set_affinity};

/// While it lives, interrupts are off on this processor.
#[must_use = "interrupts are restored when the guard is dropped"]
pub struct IrqGuard {
    were_enabled: bool,
    not_send: PhantomData<*mut ()>,
}

/// Switches interrupts off; the guard restores what was before.
#[inline(always)]
pub fn disable() -> IrqGuard {
    let were_enabled = imp::irq_save_disable();
    IrqGuard { were_enabled, not_send: PhantomData }
}

impl IrqGuard {
    /// Whether interrupts were on before.
    pub fn were_enabled(&self) -> bool {
        self.were_enabled
    }
}

impl Drop for IrqGuard {
    #[inline(always)]
    fn drop(&mut self) {
        if self.were_enabled {
            imp::irq_enable();
        }
    }
}

/// Whether interrupts are on.
#[inline(always)]
pub fn are_enabled() -> bool {
    imp::irq_are_enabled()
}

/// Switches interrupts on without a guard: start-up, idle and trap paths.
#[inline(always)]
pub fn enable() {
    imp::irq_enable();
}

/// Switches interrupts off without a guard: start-up, idle and trap paths.
#[inline(always)]
pub fn disable_unguarded() {
    imp::irq_save_disable();
}

/// Switches interrupts on and waits for one in one step: the idle loop, entered with them off.
#[inline(always)]
pub fn enable_and_halt() {
    imp::irq_enable_and_halt();
}

/// What a device interrupt calls, with interrupts off.
pub type Handler = Arc<dyn Fn() + Send + Sync>;

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

#[cfg(test)]
mod tests {
    #[test]
    fn guards_restore() {
        assert!(super::are_enabled());
        let outer = super::disable();
        let inner = super::disable();
        drop(inner);
        assert!(!super::are_enabled());
        drop(outer);
        assert!(super::are_enabled());
    }
}
