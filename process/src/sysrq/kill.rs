//! Keys that end processes: all, or those that have the console's terminal.

use crate::group::ThreadGroup;
use crate::pid::PidNamespace;
use crate::signal;
use abi::signal::{SigInfo, Signal, si};
use alloc::sync::Arc;
use tty::Tty;

/// SIGTERM to all but init.
pub(super) fn all_term() {
    send_all(Signal::SIGTERM);
}

/// SIGKILL to all but init.
pub(super) fn all_kill() {
    send_all(Signal::SIGKILL);
}

/// All processes but init, in the order of their numbers.
fn all_but_init() -> impl Iterator<Item = Arc<ThreadGroup>> {
    let is_init = |group: &Arc<ThreadGroup>| group.pid().global() == 1;
    PidNamespace::initial().groups().into_iter().filter(move |group| !is_init(group))
}

fn send_all(signal: Signal) {
    for group in all_but_init() {
        // A standard signal is never refused.
        let _ = signal::send_to_group(&group, SigInfo::new(signal, si::KERNEL));
    }
}

/// The secure access key: nothing that has the console's terminal survives it, so that the next
/// who asks for a password there is who init starts.
pub(super) fn secure_console() {
    let Some(tty) = tty::console::terminal() else { return };
    for group in all_but_init() {
        if !holds(&group, &tty) {
            continue;
        }
        let _ = signal::send_to_group(&group, SigInfo::new(Signal::SIGKILL, si::KERNEL));
    }
}

/// Whether a process has the terminal, as its session's or open; says so.
fn holds(group: &ThreadGroup, tty: &Arc<Tty>) -> bool {
    let Some(task) = group.any_task() else { return false };
    let say = |how: core::fmt::Arguments<'_>| {
        let comm = task.comm();
        let name = comm.split(|byte| *byte == 0).next().unwrap_or_default().escape_ascii();
        log::warn!("SAK: killed process {} ({name}): by {how}", group.pid().global());
    };
    if group.terminal().is_some_and(|own| Arc::ptr_eq(&own, tty)) {
        say(format_args!("session"));
        return true;
    }
    let Some(files) = task.files() else { return false };
    let mut from = 0;
    while let Some((fd, file)) = files.next(from) {
        if tty::terminal_of(&file).is_some_and(|open| Arc::ptr_eq(&open, tty)) {
            say(format_args!("fd#{fd}"));
            return true;
        }
        let Some(next) = fd.checked_add(1) else { break };
        from = next;
    }
    false
}
