//! The eight levels of syslog, and which of them reach the consoles.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// How severe a message is; lower is worse, as in syslog(3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// The system is unusable.
    Emergency = 0,
    /// Action must be taken at once.
    Alert = 1,
    /// Critical conditions.
    Critical = 2,
    /// Errors.
    Error = 3,
    /// Warnings.
    Warning = 4,
    /// Normal but significant.
    Notice = 5,
    /// Informational.
    Info = 6,
    /// For debugging.
    Debug = 7,
}

impl Level {
    /// From the low three bits of a syslog priority.
    pub const fn from_priority(priority: u32) -> Level {
        match priority & 7 {
            0 => Level::Emergency,
            1 => Level::Alert,
            2 => Level::Critical,
            3 => Level::Error,
            4 => Level::Warning,
            5 => Level::Notice,
            6 => Level::Info,
            _ => Level::Debug,
        }
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Level {
        match level {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warning,
            log::Level::Info => Level::Info,
            log::Level::Debug | log::Level::Trace => Level::Debug,
        }
    }
}

/// Linux's defaults: messages below this number reach the consoles …
pub(crate) const CONSOLE_DEFAULT: u8 = 7;
/// … `quiet` makes it this, `debug` that.
const CONSOLE_QUIET: u8 = 4;
const CONSOLE_DEBUG: u8 = 10;

static CONSOLE: AtomicU8 = AtomicU8::new(CONSOLE_DEFAULT);
static DEFAULT: AtomicU8 = AtomicU8::new(Level::Warning as u8);
static MINIMUM: AtomicU8 = AtomicU8::new(1);
static IGNORED: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

/// Messages of a level below this number reach the consoles (first number of
/// `/proc/sys/kernel/printk`).
pub fn console_level() -> u8 {
    CONSOLE.load(Relaxed)
}

/// Changes [`console_level`]; not below the minimum.
pub fn set_console_level(level: u8) {
    CONSOLE.store(level.max(MINIMUM.load(Relaxed)), Relaxed);
}

/// The level of messages that carry none (second number of `/proc/sys/kernel/printk`).
pub fn default_level() -> u8 {
    DEFAULT.load(Relaxed)
}

/// Changes [`default_level`].
pub fn set_default_level(level: u8) {
    DEFAULT.store(level.min(7), Relaxed);
}

/// Changes the least value of the console level (third number of `/proc/sys/kernel/printk`).
pub fn set_minimum_level(level: u8) {
    MINIMUM.store(level, Relaxed);
}

/// The least value of the console level.
pub(crate) fn minimum_level() -> u8 {
    MINIMUM.load(Relaxed)
}

/// Whether a message of this level reaches the consoles.
pub(crate) fn reaches_console(level: Level) -> bool {
    (level as u8) < CONSOLE.load(Relaxed) || IGNORED.load(Relaxed)
}

/// Applies `quiet`, `debug`, `loglevel=`, `ignore_loglevel` of the kernel's command line.
pub(crate) fn apply_parameter(name: &str, value: Option<&str>) -> bool {
    match (name, value) {
        ("quiet", None) => set_console_level(CONSOLE_QUIET),
        ("debug", None) => set_console_level(CONSOLE_DEBUG),
        ("ignore_loglevel", None) => IGNORED.store(true, Relaxed),
        ("loglevel", Some(value)) => {
            if let Ok(level) = value.parse() {
                set_console_level(level);
            }
        }
        _ => return false,
    }
    true
}
