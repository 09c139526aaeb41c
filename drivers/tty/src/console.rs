//! `/dev/console`: the terminal that the command line chose.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};

use crate::Tty;
use crate::control::is_admin;
use crate::file;

static CHOICE: LockClass = LockClass::new("tty.console", 559);

/// One `console=` word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The device: `ttyS0`, `tty0`, `hvc0`.
    pub name: String,
    /// What follows the comma: `115200n8`.
    pub options: String,
}

static CHOICES: SpinLock<Vec<Choice>> = SpinLock::new(&CHOICE, Vec::new());
static REDIRECTED: SpinLock<Option<Arc<Tty>>> = SpinLock::new(&CHOICE, None);

/// Notes a `console=` word of the command line. The last one that exists becomes `/dev/console`.
pub fn choose(word: &str) {
    let (name, options) = word.split_once(',').unwrap_or((word, ""));
    if name.is_empty() || name == "null" {
        return;
    }
    let choice = Choice { name: name.into(), options: options.into() };
    let mut choices = CHOICES.lock();
    choices.retain(|known| known.name != choice.name);
    choices.push(choice);
}

/// The `console=` words, in order.
pub fn choices() -> Vec<Choice> {
    CHOICES.lock().clone()
}

/// The options given to a console, if it was chosen.
pub fn options_of(name: &str) -> Option<String> {
    CHOICES.lock().iter().find(|choice| choice.name == name).map(|choice| choice.options.clone())
}

/// The terminal behind `/dev/console`: the last chosen one that exists; without a choice, the
/// first serial port, or any console there is.
pub fn terminal() -> Option<Arc<Tty>> {
    if let Some(tty) = REDIRECTED.lock().clone() {
        return Some(tty);
    }
    let chosen = choices();
    let chosen = chosen.iter().rev().find_map(|choice| file::find_by_name(&choice.name));
    chosen
        .or_else(|| file::find_by_name("ttyS0"))
        .or_else(|| file::find_by_name("hvc0"))
        .or_else(|| file::all().into_iter().next())
}

/// The terminals that are consoles, `/dev/console` last: `/sys/class/tty/console/active`, by which
/// systemd knows where to let people log in.
pub(crate) fn active() -> String {
    let chosen = choices();
    let chosen = chosen.iter().filter(|choice| file::find_by_name(&choice.name).is_some());
    let names: Vec<&str> = chosen.map(|choice| choice.name.as_str()).collect();
    match (names.is_empty(), terminal()) {
        (true, Some(tty)) => tty.name().into(),
        _ => names.join(" "),
    }
}

/// Waits, at most a second, until the chosen terminal is there: a hypervisor tells of its consoles
/// when it likes.
pub fn wait_for_chosen() {
    let Some(choice) = choices().pop().filter(|choice| choice.name.starts_with("hvc")) else {
        return;
    };
    for _ in 0..200 {
        if file::find_by_name(&choice.name).is_some() {
            return;
        }
        sched::timer::sleep_ns(5_000_000);
    }
    log::warn!("console {}: there is no such device", choice.name);
}

/// `TIOCCONS`: what is written to `/dev/console` goes to `tty`; on the console itself it ends
/// that.
pub(crate) fn redirect(tty: &Arc<Tty>) -> Result<()> {
    if !is_admin() {
        return Err(Errno::EPERM);
    }
    let mut redirected = REDIRECTED.lock();
    let is_console = file::find_by_name(tty.name()).is_some();
    if is_console {
        *redirected = None;
        return Ok(());
    }
    if redirected.is_some() {
        return Err(Errno::EBUSY);
    }
    *redirected = Some(tty.clone());
    Ok(())
}
