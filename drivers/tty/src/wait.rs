//! Waits, in one place: what the scheduler's wait queues mean for a terminal.

use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use sched::{Deadline, WaitError, WaitQueue};

/// Waits until `look` finds something, at most for `limit_ns`. `None`: the time is over.
///
/// # Errors
/// `ERESTARTSYS` when a signal interrupts the wait.
pub(crate) fn until<R>(
    queue: &WaitQueue,
    limit_ns: Option<u64>,
    look: impl FnMut() -> Option<R>,
) -> Result<Option<R>> {
    let deadline = limit_ns.map(Deadline::after_ns);
    match queue.wait_interruptible(look, deadline) {
        Ok(found) => Ok(Some(found)),
        Err(WaitError::TimedOut) => Ok(None),
        Err(WaitError::Interrupted) => Err(Errno::ERESTARTSYS),
    }
}

/// Sleeps.
pub(crate) fn pause(ns: u64) {
    if ns > 0 {
        sched::timer::sleep_ns(ns);
    }
}

/// A right that one thread at a time has, and that a signal can end the wait for.
pub(crate) struct Turn {
    is_taken: AtomicBool,
    queue: WaitQueue,
}

impl Turn {
    pub(crate) const fn new() -> Self {
        Self { is_taken: AtomicBool::new(false), queue: WaitQueue::new() }
    }

    /// Takes the turn if nobody has it.
    pub(crate) fn try_take(&self) -> Option<TurnGuard<'_>> {
        // Acquire: pairs with the release when the guard is dropped.
        let was_taken = self.is_taken.swap(true, Ordering::Acquire);
        // Made only when the turn is ours: a guard gives it up when it is dropped.
        if was_taken { None } else { Some(TurnGuard(self)) }
    }

    /// Waits for the turn.
    ///
    /// # Errors
    /// `ERESTARTSYS` when a signal interrupts the wait.
    pub(crate) fn take(&self) -> Result<TurnGuard<'_>> {
        let found = until(&self.queue, None, || self.try_take())?;
        found.ok_or(Errno::ERESTARTSYS)
    }
}

/// The turn, until dropped.
pub(crate) struct TurnGuard<'a>(&'a Turn);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Release);
        self.0.queue.wake_one();
    }
}
