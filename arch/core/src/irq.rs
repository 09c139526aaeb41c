//! Interrupts: switching them off on this processor.

#[cfg(not(target_os = "none"))]
use crate::host::cpu as imp;
#[cfg(target_os = "none")]
use crate::x86::regs as imp;

use alloc::sync::Arc;
use core::marker::PhantomData;

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
