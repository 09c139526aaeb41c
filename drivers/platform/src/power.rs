//! The end of the machine's work: who is told before it goes off, and the power button.

use alloc::sync::Arc;

use arch::irq::{Trigger, request_gsi};
use spin::Once;

use crate::machine;

static ACTION: Once<fn()> = Once::new();
static PREPARATION: Once<fn(Notice)> = Once::new();

/// How much time there is before the machine goes off or is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Devices can be brought to rest; called in a thread.
    Orderly,
    /// Any context, and nothing can be relied on: only what is on its way is waited for.
    AtOnce,
}

/// Sets what is done before the machine goes off, is halted or is reset. Called once, by the
/// kernel image, which knows all devices.
pub fn set_preparation(prepare: fn(Notice)) {
    PREPARATION.call_once(|| prepare);
}

/// The machine is about to go off, to be halted or reset.
pub fn prepare(notice: Notice) {
    if let Some(prepare) = PREPARATION.get() {
        prepare(notice);
    }
}

/// Switches the machine off, in a thread. Comes back only when the machine cannot: at once, with
/// all devices at work, where that is known before.
pub fn power_off() {
    if machine::can_power_off() {
        prepare(Notice::Orderly);
        machine::power_off();
    }
    log::error!("the machine cannot be switched off");
}

/// Resets the machine at once, in any context.
pub(crate) fn reset_at_once() -> ! {
    prepare(Notice::AtOnce);
    machine::reset()
}

/// Sets what a press of the power button does, in a thread: usually to tell init.
pub fn set_button_action(action: fn()) {
    ACTION.call_once(|| action);
}

fn pressed() {
    log::info!("power button pressed");
    sched::work::queue(|| match ACTION.get() {
        Some(action) => action(),
        None => {
            vfs::sync_all();
            power_off();
        }
    });
}

/// Lets the power button interrupt, if there is one.
pub fn init() {
    let Some(gsi) = machine::enable_power_button() else { return };
    let handler = Arc::new(|| {
        if machine::take_power_button() {
            pressed();
        }
    });
    match request_gsi(gsi, Trigger::LevelLow, "acpi", handler) {
        Ok(_) => log::info!("ACPI: power button"),
        Err(error) => log::warn!("ACPI: no interrupt for the power button: {error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn devices_stay_at_work_where_there_is_no_way_off() {
        static IS_PREPARED: AtomicBool = AtomicBool::new(false);
        set_preparation(|_| IS_PREPARED.store(true, Ordering::Relaxed));
        power_off();
        assert!(!IS_PREPARED.load(Ordering::Relaxed));
        prepare(Notice::Orderly);
        assert!(IS_PREPARED.load(Ordering::Relaxed));
    }
}
