//! Magic system requests: keys that act on the whole machine.
//!
//! Layers above register what they can do ([`register`]); a break followed by a key on the console
//! line and writes to `/proc/sysrq-trigger` call [`key_pressed`] and [`trigger`].

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::sync::atomic::{AtomicU32, Ordering};

use arch::lock::{IrqLock, LockClass};

use crate::power;

static KEYS: LockClass = LockClass::new("platform.sysrq", 589);

/// Where an action runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once, perhaps in an interrupt.
    AtOnce,
    /// In a thread.
    InThread,
}

/// What a key does.
#[derive(Clone, Copy)]
pub struct Action {
    /// The line in the help: `sync(s)`.
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

/// `kernel.sysrq`: 1 allows everything, else a mask.
static MASK: AtomicU32 = AtomicU32::new(1);

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
pub fn allowed() -> u32 {
    MASK.load(Ordering::Relaxed)
}

/// Sets `kernel.sysrq`.
pub fn set_allowed(value: u32) {
    MASK.store(value, Ordering::Relaxed);
}

/// Gives a key an action, in place of what it had.
pub fn register(key: u8, action: Action) {
    ACTIONS.lock().insert(key, action);
}

/// Does what a key stands for: a write to `/proc/sysrq-trigger`.
pub fn trigger(key: u8) {
    run(key, u32::MAX);
}

/// A key on the console line, as far as `kernel.sysrq` allows. In any context.
pub fn key_pressed(key: u8) {
    let allowed = allowed();
    run(key, if allowed == 1 { u32::MAX } else { allowed });
}

fn run(key: u8, allowed: u32) {
    let action = ACTIONS.lock().get(&key).copied();
    let Some(action) = action else {
        log::info!("sysrq: HELP : {}", help());
        return;
    };
    if action.mask & allowed == 0 {
        log::info!("sysrq: This sysrq operation is disabled.");
        return;
    }
    log::info!("sysrq: {}", action.message);
    match action.when {
        When::AtOnce => (action.run)(key),
        When::InThread => sched::work::queue(move || (action.run)(key)),
    }
}

fn help() -> String {
    let actions = ACTIONS.lock();
    let mut text = String::new();
    let mut last = "";
    for action in actions.values() {
        if action.help != last {
            text.push_str(action.help);
            text.push(' ');
            last = action.help;
        }
    }
    text
}

/// Registers the keys this layer can serve: b, o, s, c and 0 to 9.
pub fn init() {
    let action = |help, message, mask, when, run| Action { help, message, mask, when, run };
    let boot = mask::BOOT;
    register(
        b'b',
        action("reboot(b)", "Resetting", boot, When::AtOnce, |_| power::reset_at_once()),
    );
    register(
        b'o',
        action("poweroff(o)", "Power Off", boot, When::InThread, |_| power::power_off()),
    );
    register(
        b's',
        action("sync(s)", "Emergency Sync", mask::SYNC, When::InThread, |_| {
            vfs::sync_all();
            log::info!("Emergency Sync complete");
        }),
    );
    register(
        b'c',
        action("crash(c)", "Trigger a crash", mask::DUMP, When::AtOnce, |_| {
            panic!("sysrq triggered crash")
        }),
    );
    for key in b'0'..=b'9' {
        let level = action("loglevel(0-9)", "Changing Loglevel", mask::LOG, When::AtOnce, |key| {
            klog::set_console_level(key.wrapping_sub(b'0'))
        });
        register(key, level);
    }
}
