//! What `reboot(2)` does to the machine once the process layer has decided.

use process::power::Action;

/// Comes back only from a `PowerOff` that the machine cannot do.
pub(crate) fn act(action: Action) {
    match action {
        Action::PowerOff => arch::power::power_off(),
        Action::Restart => {
            stop_others();
            arch::power::reset()
        }
        Action::Halt => {
            stop_others();
            arch::power::halt()
        }
    }
}

/// The other processors must not go on with a machine that is half reset.
fn stop_others() {
    arch::irq::disable_unguarded();
    arch::ipi::stop_others(|_, _| {});
}
