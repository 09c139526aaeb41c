//! The power button.

use alloc::sync::Arc;

use arch::irq::{Trigger, request_gsi};
use spin::Once;

use crate::machine;

static ACTION: Once<fn()> = Once::new();

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
            machine::power_off();
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
    match request_gsi(gsi, Trigger::LevelLow, handler) {
        Ok(_) => log::info!("ACPI: power button"),
        Err(error) => log::warn!("ACPI: no interrupt for the power button: {error:?}"),
    }
}
