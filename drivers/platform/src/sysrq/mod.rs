//! Magic system requests: keys that act on the whole machine.
//!
//! Layers above register what they can do ([`register`]); a break followed by a key on the console
//! line and writes to `/proc/sysrq-trigger` call [`key_pressed`] and [`trigger`]. A key must work
//! when little else does: from the press to the action nothing is allocated, and what cannot be
//! done in an interrupt is done by threads that wait for nothing else.

mod lane;
mod machine;
mod processors;

use alloc::collections::BTreeMap;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use arch::lock::{IrqLock, LockClass};

pub use processors::show_registers;

use lane::Lane;

static KEYS: LockClass = LockClass::new("platform.sysrq", 589);

/// Where an action runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once, perhaps in an interrupt that came between anything: it takes no lock but such as
    /// keep interrupts off.
    AtOnce,
    /// In a thread: that of the writer, or one that is there for such keys. It does not wait for
    /// devices.
    Soon,
    /// In a thread that may have to wait for disks.
    Disks,
}

/// What a key does.
#[derive(Clone, Copy)]
pub struct Action {
    /// The word in the help: `sync(s)`.
    pub help: &'static str,
    /// What is logged when it happens: `Emergency Sync`.
    pub message: &'static str,
    /// The bit in `kernel.sysrq` that allows it from the keyboard.
    pub mask: u32,
    /// Where it runs.
    pub when: When,
    /// What is called, with the key.
    pub run: fn(u8),
}

static ACTIONS: IrqLock<BTreeMap<u8, Action>> = IrqLock::new(&KEYS, BTreeMap::new());
static SOON: Lane = Lane::new();
static DISKS: Lane = Lane::new();

/// `kernel.sysrq`: 1 allows everything, else a mask.
static MASK: AtomicI32 = AtomicI32::new(1);
/// `sysrq_always_enabled` of the command line: the mask is not asked.
static IS_ALWAYS_ALLOWED: AtomicBool = AtomicBool::new(false);

/// Bits of `kernel.sysrq`.
pub mod mask {
    /// The level of messages on the console.
    pub const LOG: u32 = 0x2;
    /// The keyboard (SAK, raw mode).
    pub const KEYBOARD: u32 = 0x4;
    /// Dumps of tasks, memory and registers.
    pub const DUMP: u32 = 0x8;
    /// Sync.
    pub const SYNC: u32 = 0x10;
    /// Remount read-only.
    pub const REMOUNT: u32 = 0x20;
    /// Signals to processes.
    pub const SIGNAL: u32 = 0x40;
    /// Reboot and power off.
    pub const BOOT: u32 = 0x80;
    /// Priorities of real-time tasks.
    pub const NICE: u32 = 0x100;
}

/// The value of `kernel.sysrq`.
pub fn allowed() -> i32 {
    MASK.load(Ordering::Relaxed)
}

/// Sets `kernel.sysrq`.
pub fn set_allowed(value: i32) {
    MASK.store(value, Ordering::Relaxed);
}

/// Gives a key an action, in place of what it had.
pub fn register(key: u8, action: Action) {
    ACTIONS.lock().insert(key, action);
}

/// Does what a key stands for, allowed or not: a write to `/proc/sysrq-trigger`. In a thread.
pub fn trigger(key: u8) {
    let Some(action) = announce(key, u32::MAX) else { return };
    match action.when {
        When::AtOnce | When::Soon => (action.run)(key),
        When::Disks => DISKS.push(key),
    }
}

/// A key on the console line, as far as `kernel.sysrq` allows. In any context.
pub fn key_pressed(key: u8) {
    let allowed = allowed();
    let is_all = allowed == 1 || IS_ALWAYS_ALLOWED.load(Ordering::Relaxed);
    let mask = if is_all { u32::MAX } else { allowed.cast_unsigned() };
    let Some(action) = announce(key, mask) else { return };
    match action.when {
        When::AtOnce => (action.run)(key),
        When::Soon => SOON.push(key),
        When::Disks => DISKS.push(key),
    }
}

/// Says what is going to happen, on the consoles too, whatever their level is; the action, if
/// there is one and it may be done.
fn announce(key: u8, allowed: u32) -> Option<Action> {
    let action = ACTIONS.lock().get(&key).copied();
    let level = klog::console_level();
    if level < VERBOSE {
        klog::set_console_level(VERBOSE);
    }
    let permitted = action.filter(|action| action.mask & allowed != 0);
    match (&permitted, &action) {
        (Some(action), _) => log::info!("sysrq: {}", action.message),
        (None, Some(_)) => log::info!("sysrq: This sysrq operation is disabled."),
        (None, None) => log::info!("sysrq: HELP : {Help}"),
    }
    if level < VERBOSE {
        klog::set_console_level(level);
    }
    permitted
}

/// The level at which consoles show what is announced.
const VERBOSE: i32 = 7;

/// Runs what a lane was given.
fn perform(key: u8) {
    let action = ACTIONS.lock().get(&key).copied();
    if let Some(action) = action {
        (action.run)(key);
    }
}

/// The words of all keys, each with a space after it.
struct Help;

impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actions = ACTIONS.lock();
        let mut last = "";
        for action in actions.values() {
            if action.help != last {
                write!(f, "{} ", action.help)?;
                last = action.help;
            }
        }
        Ok(())
    }
}

/// A thread's name: NUL-padded bytes that programs choose.
struct Name<'a>(&'a [u8]);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        write!(f, "{}", bytes.escape_ascii())
    }
}

/// Starts the threads and registers the keys this layer can serve: b c l o p q s u and 0 to 9.
/// `is_always_allowed`: `sysrq_always_enabled` is on the command line.
pub fn init(is_always_allowed: bool) {
    IS_ALWAYS_ALLOWED.store(is_always_allowed, Ordering::Relaxed);
    if is_always_allowed {
        log::info!("sysrq: sysrq always enabled.");
    }
    SOON.start("sysrq");
    DISKS.start("sysrq_disks");
    machine::init();
    processors::init();
}
