//! Where messages come in: the backend of the `log` facade, and the panic path.

use crate::console::{flush, write_all_raw};
use crate::level::Level;
use crate::ring::{self, MESSAGE_MAX};
use arrayvec::ArrayString;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

struct Backend;

impl log::Log for Backend {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            print(record.level().into(), *record.args());
        }
    }

    fn flush(&self) {
        flush();
    }
}

static BACKEND: Backend = Backend;
static PANICKING: AtomicBool = AtomicBool::new(false);
static TIMESTAMPS: AtomicBool = AtomicBool::new(true);
static HOOK: spin::Once<fn()> = spin::Once::new();

/// Makes this the backend of the `log` facade and applies the words of the command line that
/// concern the log.
pub fn init(command_line: &str) {
    // A second call finds the backend installed; that is fine.
    let _ = log::set_logger(&BACKEND);
    log::set_max_level(log::LevelFilter::Debug);
    for word in command_line.split_ascii_whitespace() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        match (name, value) {
            ("printk.devkmsg", Some(value)) => crate::writers::apply_parameter(value),
            ("printk.time", Some(value)) => set_timestamps(matches!(value, "1" | "y" | "Y")),
            _ => {
                crate::level::apply_parameter(name, value);
            }
        }
    }
}

/// Has `hook` called after every message, wherever that comes from: it may only set something
/// off, and must not log.
pub fn set_append_hook(hook: fn()) {
    HOOK.call_once(|| hook);
}

pub(crate) fn ring_the_bell() {
    if let Some(hook) = HOOK.get() {
        hook();
    }
}

/// Whether lines on consoles begin with the time (`printk.time`).
pub fn set_timestamps(shown: bool) {
    TIMESTAMPS.store(shown, Ordering::Relaxed);
}

pub(crate) fn has_timestamps() -> bool {
    TIMESTAMPS.load(Ordering::Relaxed)
}

/// Writes `[    1.234567] `.
pub(crate) fn format_prefix(out: &mut impl Write, time_ns: u64) {
    let micros = time_ns / 1000;
    // The caller's buffer is large enough for any time.
    let _ = write!(out, "[{:5}.{:06}] ", micros / 1_000_000, micros % 1_000_000);
}

/// Text of at most one message; the rest is dropped.
struct Message(ArrayString<MESSAGE_MAX>);

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut room = self.0.remaining_capacity().min(text.len());
        while !text.is_char_boundary(room) {
            room -= 1;
        }
        let _ = self.0.try_push_str(text.get(..room).unwrap_or_default());
        Ok(())
    }
}

fn format(args: fmt::Arguments<'_>) -> Message {
    let mut message = Message(ArrayString::new());
    // Formatting into a buffer that cuts cannot fail; a `Display` that fails has said enough.
    let _ = message.write_fmt(args);
    message
}

/// Logs a message. Final line feeds are dropped.
pub fn print(level: Level, args: fmt::Arguments<'_>) {
    if PANICKING.load(Ordering::Relaxed) {
        return emergency(args);
    }
    let message = format(args);
    let text = message.0.trim_end_matches('\n');
    ring::append(level, 0, arch::time::now_ns(), text.as_bytes());
    flush();
    ring_the_bell();
}

/// Switches to the way of a dying machine: no waiting for locks, everything on the consoles.
pub fn panicking() {
    PANICKING.store(true, Ordering::SeqCst);
}

/// Logs a message without waiting for anybody.
pub fn emergency(args: fmt::Arguments<'_>) {
    let message = format(args);
    let text = message.0.trim_end_matches('\n');
    let now = arch::time::now_ns();
    ring::try_append(Level::Emergency, now, text.as_bytes());
    for line in text.split('\n') {
        let mut out = ArrayString::<{ MESSAGE_MAX + 40 }>::new();
        format_prefix(&mut out, now);
        // The buffer has room for the longest message.
        let _ = out.try_push_str(line);
        let _ = out.try_push('\n');
        write_all_raw(out.as_bytes());
    }
}
