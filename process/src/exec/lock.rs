//! [`ProgramLock`]: while a process changes its program, nobody becomes its tracer.
//!
//! `execve(2)` decides early whether a set-user-id bit counts, which it does not for a program that
//! is traced, and gives the process the new credentials late. Whoever was allowed to trace the old
//! program must not find itself the tracer of the new one: the lock is held from before that
//! decision until the credentials are in place, by a tracer while it checks its right and links
//! itself, and by whoever else changes what that decision rests on.
//!
//! It has no rank: it is held while the other threads are brought to their end, and one of them may
//! stand still for a tracer that waits for this very lock. So waiting for it ends with SIGKILL, and
//! what is done under it by others than `execve(2)` is short. Who only looks at a process does
//! without ([`crate::task::inspect`]).

use abi::{Errno, Result};
use core::sync::atomic::{AtomicBool, Ordering};
use sched::WaitQueue;

/// See the [module](self).
pub(crate) struct ProgramLock {
    is_held: AtomicBool,
    queue: WaitQueue,
}

/// Holds a [`ProgramLock`].
#[must_use = "the lock is released when the guard is dropped"]
pub(crate) struct ProgramGuard<'a>(&'a ProgramLock);

impl ProgramLock {
    pub(crate) const fn new() -> ProgramLock {
        ProgramLock { is_held: AtomicBool::new(false), queue: WaitQueue::new() }
    }

    /// Waits for the lock; `EINTR`, which nobody will see, if the caller is to die.
    pub(crate) fn lock(&self) -> Result<ProgramGuard<'_>> {
        let taken = self.queue.wait_killable(|| {
            // Acquire: pairs with the release when the guard is dropped.
            (!self.is_held.swap(true, Ordering::Acquire)).then_some(())
        });
        taken.map(|()| ProgramGuard(self)).map_err(|_| Errno::EINTR)
    }
}

impl Drop for ProgramGuard<'_> {
    fn drop(&mut self) {
        self.0.is_held.store(false, Ordering::Release);
        // All: the first may be on its way to die.
        self.0.queue.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_holds_and_releases() {
        let lock = ProgramLock::new();
        let guard = lock.lock().expect("free");
        assert!(lock.is_held.load(Ordering::Relaxed));
        drop(guard);
        assert!(!lock.is_held.load(Ordering::Relaxed));
        drop(lock.lock().expect("free again"));
    }
}
