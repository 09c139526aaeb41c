//! `timerfd_create(2)`.
//!
//! A timer with expiries that nobody has read does not run: reading counts those that passed meanwhile
//! and arms the next. However short its interval, it takes no more time than its readers.

use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::fmt::{self, Write};

use abi::poll::{POLLIN, POLLRDNORM};
use abi::{Errno, Result};
use arch::lock::{IrqLock, LockClass, Once};
use arch::uio::Sink;
use sched::timer::Timer;
use sched::{Listener, WaitQueue};
use vfs::{Context, File, FileOps, PollTable};

use crate::inode::anon_file;
use crate::wait::wait_interruptible;

static STATE: LockClass = LockClass::new("anon.timerfd", 565);

/// The clock a timer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// `CLOCK_REALTIME`.
    Realtime,
    /// `CLOCK_MONOTONIC`.
    Monotonic,
    /// `CLOCK_BOOTTIME`.
    Boottime,
}

impl Clock {
    /// The clock's time in nanoseconds.
    pub fn now(self) -> u64 {
        match self {
            Clock::Realtime => sched::clock::realtime_ns(),
            Clock::Monotonic => sched::clock::monotonic_ns(),
            Clock::Boottime => sched::clock::boottime_ns(),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Next expiry on the monotonic clock, passed perhaps if expiries wait to be read; 0 is disarmed.
    next: u64,
    interval: u64,
    /// Expiries not yet read, without those since the first of them was noticed.
    expired: u64,
    /// The time of the clock that `next` stands for, where the clock can be set.
    follows: Option<u64>,
    /// `TFD_TIMER_CANCEL_ON_SET`.
    cancel_on_set: bool,
    /// The clock was set since.
    cancelled: bool,
}

impl State {
    /// Counts the expiries up to `now` and finds the next.
    fn expire(&mut self, now: u64) {
        let mut count = 1;
        // Expiries that were missed are counted at once.
        let missed = now.saturating_sub(self.next).checked_div(self.interval);
        if let Some(missed) = missed {
            count += missed;
            let ahead = count.saturating_mul(self.interval);
            self.next = self.next.saturating_add(ahead);
            self.follows = self.follows.map(|at| at.saturating_add(ahead));
        } else {
            self.next = 0;
        }
        self.expired = self.expired.saturating_add(count);
    }

    /// What there is to read, if anything; the timer runs on.
    fn take(&mut self, now: u64) -> Option<u64> {
        if self.expired == 0 {
            return None;
        }
        if self.next != 0 && self.next <= now {
            self.expire(now);
        }
        Some(core::mem::take(&mut self.expired))
    }

    /// Time to the next expiry; 0 if there is none.
    fn left(&self, now: u64) -> u64 {
        if self.next == 0 {
            return 0;
        }
        match now.checked_sub(self.next) {
            None => self.next - now,
            Some(late) => late.checked_rem(self.interval).map_or(1, |part| self.interval - part),
        }
    }
}

struct Shared {
    state: IrqLock<State>,
    queue: Arc<WaitQueue>,
    timer: Once<Weak<Timer>>,
}

impl Shared {
    fn fired(&self, timer: &Timer) {
        {
            let mut state = self.state.lock();
            if state.next == 0 || state.expired != 0 {
                return;
            }
            let now = arch::time::now_ns();
            if state.next > now {
                // Set anew, or moved with its clock, since it fired.
                timer.arm(state.next);
                return;
            }
            state.expire(now);
        }
        self.queue.notify(POLLIN | POLLRDNORM);
    }
}

/// The real-time clock was set.
impl Listener for Shared {
    fn notify(&self, _: u32) {
        let cancelled = {
            let mut state = self.state.lock();
            state.cancelled |= state.cancel_on_set;
            if let Some(at) = state.follows.filter(|_| state.next != 0) {
                let left = at.saturating_sub(sched::clock::realtime_ns());
                state.next = arch::time::now_ns().saturating_add(left).max(1);
                if state.expired == 0
                    && let Some(timer) = self.timer.get().and_then(Weak::upgrade)
                {
                    timer.arm(state.next);
                }
            }
            state.cancelled
        };
        if cancelled {
            self.queue.notify(POLLIN | POLLRDNORM);
        }
    }
}

struct TimerFd {
    clock: Clock,
    shared: Arc<Shared>,
    timer: Arc<Timer>,
    listener: Option<u64>,
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        if let Some(id) = self.listener {
            sched::clock::changed().remove_listener(id);
        }
        self.timer.cancel();
    }
}

/// `timerfd_create(2)`.
pub fn create(ctx: &Context<'_>, clock: Clock, status: u32) -> Result<Arc<File>> {
    let shared = Arc::new(Shared {
        state: IrqLock::new(&STATE, State::default()),
        queue: Arc::new(WaitQueue::new()),
        timer: Once::new(),
    });
    let fired = shared.clone();
    let timer = Timer::new(move |timer| fired.fired(timer));
    shared.timer.call_once(|| Arc::downgrade(&timer));
    let listener =
        (clock == Clock::Realtime).then(|| sched::clock::changed().add_listener(shared.clone(), 0));
    let ops = Arc::new(TimerFd { clock, shared, timer, listener });
    anon_file(ctx, "[timerfd]", ops, abi::fcntl::O_RDWR | status)
}

/// Remaining time and interval, in nanoseconds; both 0 when disarmed.
pub type Setting = (u64, u64);

/// What a value given to [`set`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Time from now.
    In,
    /// A time of the clock.
    At,
    /// As `At`; reads fail once the clock is set (`TFD_TIMER_CANCEL_ON_SET`).
    AtUnlessSet,
}

fn timer_of(file: &File) -> Result<&TimerFd> {
    file.private::<TimerFd>().ok_or(Errno::EINVAL)
}

/// `timerfd_gettime(2)`.
pub fn get(file: &File) -> Result<Setting> {
    let state = *timer_of(file)?.shared.state.lock();
    Ok(setting(&state))
}

fn setting(state: &State) -> Setting {
    (state.left(arch::time::now_ns()), state.interval)
}

/// `timerfd_settime(2)`; what was set before.
pub fn set(file: &File, value: u64, interval: u64, start: Start) -> Result<Setting> {
    let timer = timer_of(file)?;
    let now = arch::time::now_ns();
    let next = match (value, start) {
        (0, _) => 0,
        (value, Start::In) => now.saturating_add(value),
        (value, _) => now.saturating_add(value.saturating_sub(timer.clock.now())).max(1),
    };
    let is_settable = timer.clock == Clock::Realtime && start != Start::In;
    // Whoever changes the state arms the timer with it: the last one to do so is the last to arm it.
    let mut state = timer.shared.state.lock();
    let old = setting(&state);
    *state = State {
        next,
        interval,
        follows: is_settable.then_some(value),
        cancel_on_set: is_settable && start == Start::AtUnlessSet,
        ..State::default()
    };
    if next != 0 {
        timer.timer.arm_by(next);
    } else {
        timer.timer.cancel();
    }
    Ok(old)
}

impl TimerFd {
    /// Takes the expiries; `ECANCELED` once after the clock was set.
    fn take(&self) -> Option<Result<u64>> {
        let mut state = self.shared.state.lock();
        if core::mem::take(&mut state.cancelled) {
            return Some(Err(Errno::ECANCELED));
        }
        let count = state.take(arch::time::now_ns())?;
        if state.next != 0 {
            self.timer.arm(state.next);
        }
        Some(Ok(count))
    }
}

impl FileOps for TimerFd {
    fn read_at(&self, file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let count = match self.take() {
            Some(count) => count?,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_interruptible(&self.shared.queue, || self.take())??,
        };
        sink.put_all(&count.to_ne_bytes())?;
        Ok(8)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.shared.queue);
        let state = *self.shared.state.lock();
        if state.expired != 0 || state.cancelled { POLLIN | POLLRDNORM } else { 0 }
    }

    fn fdinfo(&self, _file: &File, out: &mut dyn Write) -> fmt::Result {
        let state = *self.shared.state.lock();
        let (left, interval) = setting(&state);
        writeln!(out, "ticks: {}", state.expired)?;
        writeln!(out, "it_value: ({}, {})", left / 1_000_000_000, left % 1_000_000_000)?;
        writeln!(out, "it_interval: ({}, {})", interval / 1_000_000_000, interval % 1_000_000_000)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn expiries_that_nobody_reads_are_counted_by_the_reader() {
        let mut state = State { next: 100, interval: 10, ..State::default() };
        assert_eq!(state.take(500), None);
        state.expire(104);
        assert_eq!((state.next, state.expired), (110, 1));
        assert_eq!((state.left(104), state.left(110), state.left(137)), (6, 10, 3));
        assert_eq!(state.take(137), Some(4));
        assert_eq!((state.next, state.expired), (140, 0));
        state.expire(140);
        assert_eq!(state.take(141), Some(1));
        assert_eq!(state.next, 150);
    }

    #[test]
    fn one_expiry_ends_a_timer_without_interval() {
        let mut state = State { next: 100, ..State::default() };
        assert_eq!((state.left(40), state.left(100), state.left(130)), (60, 1, 1));
        state.expire(130);
        assert_eq!((state.take(500), state.next, state.left(500)), (Some(1), 0, 0));
    }
}
