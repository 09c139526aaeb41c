//! Sleeping without a queue: for a thread that is known to whoever ends its wait.
//!
//! Who ends it changes what the condition looks at, then calls [`Thread::unpark`], holding nothing that the
//! thread needs next: an interrupt to another processor takes longer than it takes the thread to get there.

use crate::run::{self, current, schedule};
use crate::thread::{Thread, state};
use crate::wait::{Deadline, Limit, WaitError};
use core::sync::atomic::{Ordering, fence};

/// Sleeps until `condition` gives something, a signal is pending, or the deadline passes.
#[inline(always)]
pub fn park_interruptible<R>(
    mut condition: impl FnMut() -> Option<R>,
    deadline: Option<Deadline>,
) -> Result<R, WaitError> {
    arch::lock::check::might_sleep();
    let thread = current();
    let mut limit = Limit::new(deadline);
    let outcome = loop {
        thread.state.store(state::INTERRUPTIBLE, Ordering::SeqCst);
        // Pairs with the fence in `unpark`: one of the two sees what the other wrote.
        fence(Ordering::SeqCst);
        if let Some(result) = condition() {
            break Ok(result);
        }
        if let Err(error) = limit.check(thread, state::INTERRUPTIBLE) {
            break Err(error);
        }
        schedule();
    };
    thread.state.store(state::RUNNING, Ordering::SeqCst);
    outcome
}

impl Thread {
    /// Ends the thread's sleep, if it is interruptible. It may be another one than was meant: each looks whether
    /// what it waits for has come.
    pub fn unpark(&self) {
        // Pairs with the fence in `park_interruptible`.
        fence(Ordering::SeqCst);
        run::wake(self, state::INTERRUPTIBLE);
    }
}
