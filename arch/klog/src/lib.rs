#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

mod cmdline;
mod console;
mod level;
mod logger;
mod ring;
mod syslog;
mod writers;

pub use cmdline::{CommandLine, Parameter, parse as parse_command_line};
pub use console::{
    Console, ConsoleInfo, Early, MAX_CONSOLES, Replay, consoles, flush, register_console,
    unregister_console,
};
pub use level::{Level, console_level, levels, set_console_level, set_levels};
pub use logger::{emergency, init, panicking, print, set_append_hook, set_timestamps};
pub use ring::{DEV_KMSG_MAX, MESSAGE_MAX, Position, ReadError, Record, first_seq, next_seq, read};
pub use syslog::{Action, SyslogError, first_shown_seq, syslog, unread_bytes};
pub use writers::{DevKmsg, WRITE_MAX, Writer, dev_kmsg, set_dev_kmsg};

use core::sync::atomic::{AtomicI64, AtomicU32};

/// `kernel.dmesg_restrict`: 1 keeps the log from who may not administrate.
pub static DMESG_RESTRICT: AtomicU32 = AtomicU32::new(0);
/// `panic=` and `kernel.panic`: seconds from a panic until the machine is reset; 0 for never,
/// negative for at once.
pub static PANIC_TIMEOUT_S: AtomicI64 = AtomicI64::new(0);

/// Logs at `notice`, which the `log` facade lacks.
#[macro_export]
macro_rules! notice {
    ($($arg:tt)*) => { $crate::print($crate::Level::Notice, format_args!($($arg)*)) };
}

/// Logs at `crit`, which the `log` facade lacks.
#[macro_export]
macro_rules! crit {
    ($($arg:tt)*) => { $crate::print($crate::Level::Critical, format_args!($($arg)*)) };
}

/// Logs at `emerg`, which the `log` facade lacks.
#[macro_export]
macro_rules! emerg {
    ($($arg:tt)*) => { $crate::print($crate::Level::Emergency, format_args!($($arg)*)) };
}
