//! Programs that write to the log: `/dev/kmsg`, and how much of it is taken (`printk.devkmsg`).

use crate::level::{Level, default_level};
use crate::ring::{self, MESSAGE_MAX};
use abi::Errno;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// The longest write that is taken, its priority included.
pub const WRITE_MAX: usize = MESSAGE_MAX + 1;
/// A writer may log so many messages …
const BURST: u32 = 10;
/// … in this time.
const INTERVAL_NS: u64 = 5_000_000_000;

/// Facility of messages that name none.
const USER_FACILITY: u32 = 1;

/// What becomes of what programs write: `kernel.printk_devkmsg`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DevKmsg {
    /// Some of it is logged: so many messages of each open file in a time.
    RateLimit = 0,
    /// All is logged.
    On = 1,
    /// None is.
    Off = 2,
}

impl DevKmsg {
    const ALL: [DevKmsg; 3] = [DevKmsg::RateLimit, DevKmsg::On, DevKmsg::Off];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            DevKmsg::RateLimit => "ratelimit",
            DevKmsg::On => "on",
            DevKmsg::Off => "off",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<DevKmsg> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

static POLICY: AtomicU8 = AtomicU8::new(DevKmsg::RateLimit as u8);
static IS_FIXED: AtomicBool = AtomicBool::new(false);

/// What becomes of what programs write.
pub fn dev_kmsg() -> DevKmsg {
    // Relaxed, here and below: lone words.
    let now = POLICY.load(Ordering::Relaxed);
    DevKmsg::ALL.into_iter().find(|policy| *policy as u8 == now).unwrap_or(DevKmsg::On)
}

/// Sets it; `EINVAL` if the command line has done so for good.
pub fn set_dev_kmsg(policy: DevKmsg) -> Result<(), Errno> {
    if IS_FIXED.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL);
    }
    POLICY.store(policy as u8, Ordering::Relaxed);
    Ok(())
}

/// `printk.devkmsg=` of the command line; `on` and `off` are for good.
pub(crate) fn apply_parameter(value: &str) {
    if let Some(policy) = DevKmsg::from_name(value) {
        POLICY.store(policy as u8, Ordering::Relaxed);
        IS_FIXED.store(policy != DevKmsg::RateLimit, Ordering::Relaxed);
    }
}

static CLASS: LockClass = LockClass::new("klog.writer", 969);

struct Quota {
    since_ns: u64,
    taken: u32,
    dropped: u64,
}

/// One open file that writes to the log.
pub struct Writer(SpinLock<Quota>);

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// One that has written nothing yet.
    pub const fn new() -> Writer {
        Writer(SpinLock::new(&CLASS, Quota { since_ns: 0, taken: 0, dropped: 0 }))
    }

    /// What a write does: an optional `<priority>`, then the message, which may be dropped.
    ///
    /// # Errors
    /// `EINVAL` for one that is too long.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.len() > WRITE_MAX {
            return Err(Errno::EINVAL);
        }
        let is_taken = match dev_kmsg() {
            DevKmsg::On => true,
            DevKmsg::Off => false,
            DevKmsg::RateLimit => self.0.lock().take(arch::time::now_ns()),
        };
        if is_taken {
            log(bytes);
        }
        Ok(())
    }

    /// How many messages were dropped; to be said when the file is closed.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

impl Quota {
    fn take(&mut self, now_ns: u64) -> bool {
        if self.taken == 0 || now_ns.saturating_sub(self.since_ns) > INTERVAL_NS {
            self.since_ns = now_ns;
            self.taken = 0;
        }
        if self.taken >= BURST {
            self.dropped += 1;
            return false;
        }
        self.taken += 1;
        true
    }
}

fn log(bytes: &[u8]) {
    let (priority, text) = split_priority(bytes);
    // As Linux has it, for whom the message is a string.
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let level = Level::from_priority(priority);
    // Eight bits, as Linux keeps.
    let facility = u16::from((priority >> 3) as u8);
    ring::append(level, facility, arch::time::now_ns(), text);
    crate::console::flush();
    crate::logger::ring_the_bell();
}

/// The priority, which is the user's without one or with the kernel's, and the rest.
fn split_priority(bytes: &[u8]) -> (u32, &[u8]) {
    let default = (USER_FACILITY << 3 | default_level() as u32, bytes);
    let [b'<', rest @ ..] = bytes else { return default };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if rest.get(digits) != Some(&b'>') {
        return default;
    }
    let number = rest
        .iter()
        .take(digits)
        .fold(0u32, |number, digit| number.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')));
    let facility = if number >> 3 == 0 { USER_FACILITY } else { number >> 3 };
    (facility << 3 | number & 7, rest.get(digits + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_cut_off() {
        let plain = 8 | default_level() as u32;
        for (bytes, priority, text) in [
            (&b"text"[..], plain, &b"text"[..]),
            (b"<3>kernel's", 11, b"kernel's"),
            (b"<191>high", 191, b"high"),
            (b"<99999>more", 99999, b"more"),
            (b"<-1>neg", plain, b"<-1>neg"),
            (b"<5", plain, b"<5"),
            (b"<>x", 8, b"x"),
            (b"< 5>x", plain, b"< 5>x"),
            (b"<5>", 13, b""),
        ] {
            assert_eq!(split_priority(bytes), (priority, text));
        }
    }

    #[test]
    fn a_quota_comes_back_with_time() {
        let mut quota = Quota { since_ns: 0, taken: 0, dropped: 0 };
        let start = 77_000_000_000;
        let taken = (0..15).filter(|n| quota.take(start + n)).count();
        assert_eq!((taken, quota.dropped), (BURST as usize, 5));
        assert!(!quota.take(start + INTERVAL_NS));
        assert!(quota.take(start + INTERVAL_NS + 1));
    }
}
