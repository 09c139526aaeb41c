//! The eight levels of syslog, and which of them reach the consoles.

use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

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
const CONSOLE_DEFAULT: i32 = 7;
/// … `quiet` makes it this, `debug` that.
const CONSOLE_QUIET: i32 = 4;
const CONSOLE_DEBUG: i32 = 10;

static CONSOLE: AtomicI32 = AtomicI32::new(CONSOLE_DEFAULT);
static DEFAULT: AtomicI32 = AtomicI32::new(Level::Warning as i32);
static LEAST: AtomicI32 = AtomicI32::new(1);
static FIRST: AtomicI32 = AtomicI32::new(CONSOLE_DEFAULT);
/// In the order of `/proc/sys/kernel/printk`, which takes any numbers.
static LEVELS: [&AtomicI32; 4] = [&CONSOLE, &DEFAULT, &LEAST, &FIRST];
static IGNORED: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

/// Messages of a level below this number reach the consoles.
pub fn console_level() -> i32 {
    CONSOLE.load(Relaxed)
}

/// Changes [`console_level`]; not below the least one.
pub fn set_console_level(level: i32) {
    CONSOLE.store(level.max(LEAST.load(Relaxed)), Relaxed);
}

/// The level of messages that carry none.
pub(crate) fn default_level() -> Level {
    Level::from_priority(DEFAULT.load(Relaxed).cast_unsigned())
}

/// The least value of the console level that syslog(2) sets.
pub(crate) fn least_level() -> i32 {
    LEAST.load(Relaxed)
}

/// The numbers of `/proc/sys/kernel/printk`, proc(5): the console's level, that of messages without
/// one, the least that the console is given, and its default.
pub fn levels() -> [i32; 4] {
    LEVELS.map(|level| level.load(Relaxed))
}

/// Changes as many of [`levels`] as there are values.
pub fn set_levels(values: &[i32]) {
    for (level, value) in LEVELS.into_iter().zip(values) {
        level.store(*value, Relaxed);
    }
}

/// Whether a message of this level reaches the consoles.
pub(crate) fn reaches_console(level: Level) -> bool {
    (level as i32) < CONSOLE.load(Relaxed) || IGNORED.load(Relaxed)
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
