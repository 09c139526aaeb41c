//! `reboot(2)`.

use crate::signal;
use crate::task::Task;
use abi::signal::Signal;
use abi::{Errno, Result};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;

/// What the machine can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reset.
    Restart,
    /// Stop the processors.
    Halt,
    /// Cut the power.
    PowerOff,
}

static HOOK: Once<fn(Action)> = Once::new();
static CTRL_ALT_DEL_RESETS: AtomicBool = AtomicBool::new(true);

/// Registers how the machine is reset, halted and switched off; called once by the kernel image.
pub fn set_hook(hook: fn(Action)) {
    HOOK.call_once(|| hook);
}

/// Whether Ctrl-Alt-Del resets at once; otherwise process 1 gets SIGINT.
pub fn ctrl_alt_del_resets() -> bool {
    CTRL_ALT_DEL_RESETS.load(Ordering::Relaxed)
}

/// `reboot(2)`, after the checks of privilege and magic numbers.
pub fn reboot(task: &Task, command: u32) -> Result<usize> {
    let ns = task.group.pid_ns();
    if ns.level != 0 {
        return reboot_namespace(task, command);
    }
    let action = match command {
        0x0123_4567 => Action::Restart,
        // RESTART2 carries a word for the firmware, which gets none here.
        0xa1b2_c3d4 => Action::Restart,
        0xcdef_0123 => Action::Halt,
        0x4321_fedc => Action::PowerOff,
        0x89ab_cdef => {
            CTRL_ALT_DEL_RESETS.store(true, Ordering::Relaxed);
            return Ok(0);
        }
        0 => {
            CTRL_ALT_DEL_RESETS.store(false, Ordering::Relaxed);
            return Ok(0);
        }
        // SW_SUSPEND, KEXEC: neither is there.
        _ => return Err(Errno::EINVAL),
    };
    let text = match action {
        Action::Restart => "Restarting system",
        Action::Halt => "System halted",
        Action::PowerOff => "Power down",
    };
    log::warn!("reboot: {text}");
    if let Some(hook) = HOOK.get() {
        hook(action);
    }
    if action == Action::Restart { Ok(0) } else { crate::exit::exit_group(task, 0) }
}

/// In a pid namespace `reboot` ends process 1 of it, by a signal that tells the parent which.
fn reboot_namespace(task: &Task, command: u32) -> Result<usize> {
    let signal = match command {
        0x0123_4567 | 0xa1b2_c3d4 => Signal::SIGHUP,
        0xcdef_0123 | 0x4321_fedc => Signal::SIGINT,
        _ => return Err(Errno::EINVAL),
    };
    let ns = task.group.pid_ns();
    if let Some(init) = ns.init() {
        init.is_unkillable.store(false, Ordering::Relaxed);
        let mut signals = init.signals.lock();
        signals.exit_code.get_or_insert(signal.raw() as i32);
        signal::send::kill_threads(&init, &mut signals);
    }
    crate::exit::exit_group(task, 0)
}
