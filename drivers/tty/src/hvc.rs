//! Terminals of hypervisors' consoles: `hvc0` and on.

use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use vfs::DeviceNumber;

use crate::termios::INITIAL;
use crate::{Driver, Tty, TtyKind, file};

/// Major number of these consoles; `hvc0` has minor number 0.
pub const MAJOR: u32 = 229;
/// How many there can be: what a minor number of eight bits names.
const MINORS: u32 = 256;

/// How many bytes of input a console keeps beyond the line discipline's.
const BACKLOG: usize = 4096;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Serves the numbers of these consoles.
///
/// # Errors
/// `EBUSY` when somebody else does.
pub fn init() -> Result<()> {
    vfs::dev::register_char(DeviceNumber::new(MAJOR, 0), MINORS, "hvc", Arc::new(file::Opener))
}

/// Makes the terminal of a console and its number among them.
///
/// # Errors
/// `ENOMEM`; `ENODEV` when there are too many.
pub fn add(driver: Arc<dyn Driver>) -> Result<(u32, Arc<Tty>)> {
    let next = |n: u32| (n < MINORS).then_some(n + 1);
    let line =
        NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_err(|_| Errno::ENODEV)?;
    let dev = DeviceNumber::new(MAJOR, line);
    let tty = Tty::new(format!("hvc{line}"), dev, TtyKind::Console, INITIAL, BACKLOG, driver)?;
    file::register(&tty);
    Ok((line, tty))
}
