//! Timeouts: by the clock, and by a number of completions.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use arch::lock::{IrqLock, LockClass};
use sched::timer::Timer;

use crate::pending::Wait;
use crate::request::Request;
use crate::rings::Uring;

static CLASS: LockClass = LockClass::new("uring.timeout", 584);

/// A request that time ends.
pub(crate) struct Timeout {
    ring: Arc<Uring>,
    waiting: IrqLock<Waiting<Request>>,
    timer: Arc<Timer>,
    user_data: u64,
    number: u64,
    /// The completions that end it.
    count: u64,
    /// What it ends when its time has come: a link that took too long.
    target: Option<Target>,
    /// Its time having passed counts as success.
    is_success: bool,
}

/// A request that is limited: what the program calls it, and its number.
pub(crate) struct Target {
    user_data: AtomicU64,
    number: u64,
}

impl Target {
    pub(crate) fn new(user_data: u64, number: u64) -> Target {
        Target { user_data: AtomicU64::new(user_data), number }
    }
}

/// What waits, and until when. Both are under one lock, so that a time that came while the timeout was moved
/// does not end it, and one that has ended cannot be moved.
struct Waiting<T> {
    what: Option<T>,
    until_ns: u64,
}

impl<T> Waiting<T> {
    /// What waited, if its time has come.
    fn expire(&mut self, now_ns: u64) -> Option<T> {
        if now_ns < self.until_ns { None } else { self.what.take() }
    }

    /// It waits until another instant; whether it had not ended.
    fn move_to(&mut self, until_ns: u64) -> bool {
        self.until_ns = until_ns;
        self.what.is_some()
    }
}

/// When one ends.
pub(crate) struct When {
    /// The instant, in ns of the monotonic clock.
    pub(crate) at_ns: u64,
    /// After so many completions more; 0: they do not matter.
    pub(crate) completions: u64,
    /// `IORING_TIMEOUT_ETIME_SUCCESS`.
    pub(crate) is_success: bool,
}

impl Timeout {
    /// Starts one; `target` is the request that it ends then.
    pub(crate) fn begin(request: Request, when: &When, target: Option<Target>) -> Arc<Timeout> {
        let (ring, env) = (request.ring.clone(), request.env.clone());
        let (user_data, number) = (request.user_data, ring.pending.number());
        let count = match when.completions {
            0 => 0,
            more => ring.completed().saturating_add(more),
        };
        let timeout = Arc::new_cyclic(|me: &alloc::sync::Weak<Timeout>| {
            let me = me.clone();
            let fire = move |_: &Arc<Timer>| {
                if let Some(timeout) = me.upgrade() {
                    timeout.expire();
                    aio::pool::let_go(timeout);
                }
            };
            Timeout {
                ring: ring.clone(),
                waiting: IrqLock::new(
                    &CLASS,
                    Waiting { what: Some(request), until_ns: when.at_ns },
                ),
                timer: Timer::new(fire),
                user_data,
                number,
                count,
                target,
                is_success: when.is_success,
            }
        });
        ring.pending.add(user_data, number, Wait::Time(timeout.clone()), &env.who);
        if count != 0 {
            ring.pending.count(count, number, timeout.clone());
            // It may have been enough meanwhile.
            ring.pending.completed(ring.completed());
        }
        timeout.timer.arm(when.at_ns);
        if ring.is_closed.load(Ordering::Acquire) {
            timeout.cancel();
        }
        timeout
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting.lock().what.is_none()
    }

    /// Whether it limits another request.
    pub(crate) fn is_limit(&self) -> bool {
        self.target.is_some()
    }

    /// The program calls what it limits something else.
    pub(crate) fn rename_target(&self, user_data: u64) {
        if let Some(target) = &self.target {
            target.user_data.store(user_data, Ordering::Release);
        }
    }

    /// It ends at another instant; whether it had not ended.
    pub(crate) fn move_to(&self, at_ns: u64) -> bool {
        let mut waiting = self.waiting.lock();
        let moved = waiting.move_to(at_ns);
        if moved {
            // Under the lock: of two that move it the last has both.
            self.timer.arm(at_ns);
        }
        moved
    }

    fn expire(&self) {
        // Taken first: what it ends would end it as one that was not needed.
        let mut waiting = self.waiting.lock();
        let Some(request) = waiting.expire(arch::time::now_ns()) else {
            // It was moved, or this processor's clock is behind that of the one whose timer went off.
            if waiting.what.is_some() {
                self.timer.arm(waiting.until_ns);
            }
            return;
        };
        drop(waiting);
        if let Some(Target { user_data, number }) = &self.target
            && let Some(wait) = self.ring.pending.get(user_data.load(Ordering::Acquire), *number)
        {
            wait.cancel();
        }
        self.settle(request, -Errno::ETIME.raw(), self.is_success);
    }

    /// There were as many completions as it waited for.
    pub(crate) fn reached(&self) {
        self.end(0, true);
    }

    /// Ends it early; whether it had not ended.
    pub(crate) fn cancel(&self) -> bool {
        self.end(-Errno::ECANCELED.raw(), false)
    }

    fn end(&self, res: i32, is_success: bool) -> bool {
        let Some(request) = self.waiting.lock().what.take() else { return false };
        self.timer.cancel();
        self.settle(request, res, is_success);
        true
    }

    fn settle(&self, request: Request, res: i32, is_success: bool) {
        self.ring.pending.remove(self.user_data, self.number);
        if self.count != 0 {
            self.ring.pending.forget_count(self.count, self.number);
        }
        request.complete_as(res, is_success);
        // Behind its completion: who waits finds that, if there is one.
        if res != -Errno::ECANCELED.raw() && self.target.is_none() {
            self.ring.timed_out.fetch_add(1, Ordering::AcqRel);
            self.ring.changed.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_was_moved_does_not_end_it() {
        let mut waiting = Waiting { what: Some(1), until_ns: 100 };
        assert!(waiting.move_to(200));
        // The timer had fired for the old time.
        assert_eq!(waiting.expire(150), None);
        assert_eq!(waiting.expire(200), Some(1));
    }

    #[test]
    fn one_that_has_ended_cannot_be_moved() {
        let mut waiting = Waiting { what: Some(1), until_ns: 100 };
        assert_eq!(waiting.expire(100), Some(1));
        assert!(!waiting.move_to(200));
        assert_eq!(waiting.expire(300), None);
    }
}
