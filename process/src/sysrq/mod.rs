//! Magic system requests that concern processes and memory: e f i k m n t w.
//!
//! All run in threads, for the locks of the process tree are not for interrupts. None waits for what
//! a program or a device does.

mod kill;
mod memory;
mod tasks;

pub(crate) use memory::show as show_memory;

use platform::sysrq::{Action, When, mask, register};

/// Registers the keys.
pub fn init() {
    let key = |key: u8, help, message, mask, run: fn(u8)| {
        register(key, Action { help, message, mask, when: When::Soon, run });
    };
    let (dump, signal) = (mask::DUMP, mask::SIGNAL);
    key(b'e', "terminate-all-tasks(e)", "Terminate All Tasks", signal, |_| kill::all_term());
    key(b'f', "memory-full-oom-kill(f)", "Manual OOM execution", signal, |_| {
        crate::oom::kill_one()
    });
    key(b'i', "kill-all-tasks(i)", "Kill All Tasks", signal, |_| kill::all_kill());
    key(b'k', "sak(k)", "SAK", mask::KEYBOARD, |_| kill::secure_console());
    key(b'm', "show-memory-usage(m)", "Show Memory", dump, |_| memory::show());
    key(b'n', "nice-all-RT-tasks(n)", "Nice All RT Tasks", mask::NICE, |_| tasks::unset_realtime());
    key(b't', "show-task-states(t)", "Show State", dump, |_| tasks::show_all());
    key(b'w', "show-blocked-tasks(w)", "Show Blocked State", dump, |_| tasks::show_blocked());
}
