//! What `reboot(2)` does to the machine once the process layer has decided, and what is done first.

use platform::power::Notice;
use process::power::Action;

/// Does not come back. A machine that cannot be switched off is halted: man 2 reboot,
/// `LINUX_REBOOT_CMD_POWER_OFF`, "the system is stopped, and all power is removed […], if possible".
pub(crate) fn act(action: Action) {
    if action == Action::PowerOff {
        platform::power::power_off();
    }
    prepare(Notice::Orderly);
    stop_others();
    match action {
        Action::Restart => arch::power::reset(),
        Action::Halt | Action::PowerOff => arch::power::halt(),
    }
}

/// Brings devices to rest, as far as there is time, and has the serial ports send what they hold:
/// what a program was told to be written must not vanish with the power.
pub(crate) fn prepare(notice: Notice) {
    if notice == Notice::Orderly {
        pci::shut_down();
    }
    tty::serial::drain();
}

/// The other processors must not go on with a machine that is half reset.
fn stop_others() {
    arch::irq::disable_unguarded();
    arch::ipi::stop_others(|_, _| {});
}
