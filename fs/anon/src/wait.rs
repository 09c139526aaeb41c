//! Waiting, in this crate's terms.

use abi::{Errno, Result};
use sched::{WaitError, WaitQueue};

/// Waits until `condition` gives something; `ERESTARTSYS` at a signal.
pub(crate) fn wait_interruptible<R>(
    queue: &WaitQueue,
    condition: impl FnMut() -> Option<R>,
) -> Result<R> {
    queue.wait_interruptible(condition, None).map_err(interrupted)
}

pub(crate) fn interrupted(error: WaitError) -> Errno {
    match error {
        WaitError::Interrupted => Errno::ERESTARTSYS,
        WaitError::TimedOut => Errno::ETIMEDOUT,
    }
}
