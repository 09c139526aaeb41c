//! The consoles that messages are printed on.
//!
//! Whoever logs tries to become the printer; if somebody prints already, that one sees the new
//! message before it stops. So messages come out in order, once, and nobody waits for a slow
//! serial line but the one who prints. Consoles keep their own positions in the ring: one that
//! registers late can be given everything said so far.

use crate::level::reaches_console;
use crate::logger::{format_prefix, has_timestamps};
use crate::ring::{self, Position, ReadError};
use arch::lock::{LockClass, SpinLock};
use arrayvec::{ArrayString, ArrayVec};

/// The most consoles at once.
pub const MAX_CONSOLES: usize = 8;

/// Something messages are printed on. `write` may be called with interrupts off, in an interrupt,
/// or in a panic, and must neither sleep nor log.
pub trait Console: Sync {
    /// The device's name without number: `ttyS`, `hvc`.
    fn name(&self) -> &str;
    /// The device's number.
    fn index(&self) -> u32;
    /// Prints bytes; a line feed means carriage return and line feed.
    fn write(&self, bytes: &[u8]);
    /// Whether `/dev/console` can be this device, and its number (major, minor).
    fn device(&self) -> Option<(u32, u32)> {
        None
    }
    /// Whether this is the early console, which goes when a real one comes.
    fn is_boot(&self) -> bool {
        false
    }
}

/// What a new console prints of the messages before it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay {
    /// All that the ring has; but if it takes over from the early console, what that has not printed.
    All,
    /// None.
    Nothing,
}

/// The early serial port as a console.
pub struct Early;

impl Console for Early {
    fn name(&self) -> &str {
        "earlyser"
    }
    fn index(&self) -> u32 {
        0
    }
    fn write(&self, bytes: &[u8]) {
        arch::console::early_write(bytes);
    }
    fn is_boot(&self) -> bool {
        true
    }
}

/// A line of `/proc/consoles`.
#[derive(Clone, Debug)]
pub struct ConsoleInfo {
    /// Name and number: `ttyS0`.
    pub name: ArrayString<24>,
    /// The device's number (major, minor).
    pub device: Option<(u32, u32)>,
    /// Whether it is the early console.
    pub is_boot: bool,
    /// Whether it is the one behind `/dev/console`.
    pub is_preferred: bool,
}

struct Slot {
    console: &'static dyn Console,
    position: Position,
}

struct Consoles {
    slots: ArrayVec<Slot, MAX_CONSOLES>,
}

static CLASS: LockClass = LockClass::new("klog.consoles", 980);
static CONSOLES: SpinLock<Consoles> =
    SpinLock::new(&CLASS, Consoles { slots: ArrayVec::new_const() });

/// Adds a console; the last one added is the preferred one. A real console that replays takes the
/// early one's place. Does nothing when the list is full.
pub fn register_console(console: &'static dyn Console, replay: Replay) {
    {
        let mut consoles = CONSOLES.lock();
        let mut position = match replay {
            Replay::All => Position::at(ring::first_seq()),
            Replay::Nothing => Position::at(ring::next_seq()),
        };
        let early = consoles.slots.iter().position(|slot| slot.console.is_boot());
        if let Some(at) = early.filter(|_| replay == Replay::All && !console.is_boot()) {
            position = consoles.slots.remove(at).position;
        }
        // A ninth console stays silent; nothing depends on it.
        let _ = consoles.slots.try_push(Slot { console, position });
    }
    flush();
}

/// Takes a console out.
pub fn unregister_console(console: &'static dyn Console) {
    let same = |slot: &Slot| {
        slot.console.name() == console.name() && slot.console.index() == console.index()
    };
    CONSOLES.lock().slots.retain(|slot| !same(slot));
}

/// The consoles, the preferred one first.
pub fn consoles() -> ArrayVec<ConsoleInfo, MAX_CONSOLES> {
    use core::fmt::Write;
    let consoles = CONSOLES.lock();
    let count = consoles.slots.len();
    consoles
        .slots
        .iter()
        .enumerate()
        .rev()
        .map(|(at, slot)| {
            let mut name = ArrayString::new();
            // A name that does not fit is cut.
            let _ = write!(name, "{}{}", slot.console.name(), slot.console.index());
            ConsoleInfo {
                name,
                device: slot.console.device(),
                is_boot: slot.console.is_boot(),
                is_preferred: at + 1 == count,
            }
        })
        .collect()
}

/// Prints what has not been printed, unless somebody does already.
pub fn flush() {
    loop {
        let Some(mut consoles) = CONSOLES.try_lock() else { return };
        consoles.print_all();
        let behind = consoles.is_behind();
        drop(consoles);
        // A message that came between the last look and the release is this loop's to print.
        if !behind && !has_unprinted() {
            return;
        }
    }
}

fn has_unprinted() -> bool {
    CONSOLES.try_lock().is_some_and(|consoles| consoles.is_behind())
}

/// Prints raw text on every console, in a panic, taking no for an answer: if the list is locked
/// the early console is used.
pub(crate) fn write_all_raw(text: &[u8]) {
    match CONSOLES.try_lock() {
        Some(consoles) if !consoles.slots.is_empty() => {
            consoles.slots.iter().for_each(|slot| slot.console.write(text));
        }
        _ => arch::console::early_write(text),
    }
}

impl Consoles {
    fn is_behind(&self) -> bool {
        let next = ring::next_seq();
        self.slots.iter().any(|slot| slot.position.seq < next)
    }

    fn print_all(&mut self) {
        for slot in &mut self.slots {
            loop {
                match ring::read(&mut slot.position) {
                    Ok(record) if reaches_console(record.level) => {
                        print_record(slot.console, &record);
                    }
                    Ok(_) => {}
                    Err(ReadError::Overwritten) => {
                        slot.console.write(b"** messages dropped **\n");
                    }
                    Err(ReadError::Empty) => break,
                }
            }
        }
    }
}

/// Prints the lines of a record, each with the time in front.
fn print_record(console: &dyn Console, record: &ring::Record) {
    let mut prefix = ArrayString::<32>::new();
    if has_timestamps() {
        format_prefix(&mut prefix, record.time_ns);
    }
    for line in record.text().split(|byte| *byte == b'\n') {
        let mut out = ArrayVec::<u8, { ring::MESSAGE_MAX + 40 }>::new();
        let parts = prefix.as_bytes().iter().chain(line).chain(b"\n");
        out.extend(parts.copied().take(ring::MESSAGE_MAX + 40));
        console.write(&out);
    }
}
