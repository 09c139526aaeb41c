//! Waiting, as sockets do it: with the time-outs of socket(7).

use abi::{Errno, Result};
use sched::{Deadline, WaitError, WaitQueue};

/// How long a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all (`O_NONBLOCK`, `MSG_DONTWAIT`).
    None,
    /// Until this instant (`SO_RCVTIMEO`, `SO_SNDTIMEO`).
    Until(Deadline),
    /// For ever.
    Endless,
}

/// The value of an option that has no time-out.
pub const NO_TIMEOUT: u64 = u64::MAX;

impl Patience {
    /// Of a call that must not wait, or waits as long as an option of `timeout_ns` says.
    #[inline]
    pub fn new(nonblocking: bool, timeout_ns: u64) -> Patience {
        match timeout_ns {
            _ if nonblocking => Patience::None,
            NO_TIMEOUT => Patience::Endless,
            0 => Patience::None,
            ns => Patience::Until(Deadline::after_ns(ns)),
        }
    }

    /// Whether a call may wait at all.
    #[inline]
    pub fn may_wait(self) -> bool {
        self != Patience::None
    }

    /// The error of a call that a signal interrupted: one with a time-out is not started again.
    pub fn interrupted(self) -> Errno {
        if self == Patience::Endless { Errno::ERESTARTSYS } else { Errno::EINTR }
    }

    /// Waits until `condition` gives something. `EAGAIN` when patience ends, `ERESTARTSYS` or `EINTR`
    /// at a signal.
    #[inline]
    pub fn wait<R>(self, queue: &WaitQueue, mut condition: impl FnMut() -> Option<R>) -> Result<R> {
        let deadline = match self {
            Patience::None => return condition().ok_or(Errno::EAGAIN),
            Patience::Until(deadline) => Some(deadline),
            Patience::Endless => None,
        };
        queue.wait_interruptible(condition, deadline).map_err(|error| match error {
            WaitError::TimedOut => Errno::EAGAIN,
            WaitError::Interrupted => self.interrupted(),
        })
    }
}
