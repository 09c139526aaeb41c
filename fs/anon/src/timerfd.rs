//! `timerfd_create(2)`.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt::{self, Write};

use abi::poll::{POLLIN, POLLRDNORM};
use abi::{Errno, Result};
use arch::lock::{IrqLock, LockClass};
use arch::uio::Sink;
use sched::WaitQueue;
use sched::timer::Timer;
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
    /// Next expiry on the monotonic clock; 0 is disarmed.
    next: u64,
    interval: u64,
    /// Expiries not yet read.
    expired: u64,
}

struct Shared {
    state: IrqLock<State>,
    queue: Arc<WaitQueue>,
}

struct TimerFd {
    clock: Clock,
    shared: Arc<Shared>,
    timer: Arc<Timer>,
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        self.timer.cancel();
    }
}

/// `timerfd_create(2)`.
pub fn create(ctx: &Context<'_>, clock: Clock, status: u32) -> Result<Arc<File>> {
    let shared = Arc::new(Shared {
        state: IrqLock::new(&STATE, State::default()),
        queue: Arc::new(WaitQueue::new()),
    });
    let fired = shared.clone();
    let timer = Timer::new(move |timer| {
        let next = {
            let mut state = fired.state.lock();
            if state.next == 0 {
                return;
            }
            state.expired += 1;
            state.next = if state.interval == 0 { 0 } else { state.next + state.interval };
            // Expiries that were missed are counted at once.
            let now = arch::time::now_ns();
            if state.next != 0 && state.next <= now {
                let missed = (now - state.next) / state.interval + 1;
                state.expired += missed;
                state.next += missed * state.interval;
            }
            state.next
        };
        fired.queue.notify(POLLIN | POLLRDNORM);
        if next != 0 {
            timer.arm(next);
        }
    });
    let ops = Arc::new(TimerFd { clock, shared, timer });
    anon_file(ctx, "[timerfd]", ops, abi::fcntl::O_RDWR | status)
}

/// Remaining time and interval, in nanoseconds; both 0 when disarmed.
pub type Setting = (u64, u64);

fn timer_of(file: &File) -> Result<&TimerFd> {
    file.private::<TimerFd>().ok_or(Errno::EINVAL)
}

/// `timerfd_gettime(2)`.
pub fn get(file: &File) -> Result<Setting> {
    let state = *timer_of(file)?.shared.state.lock();
    Ok(setting(&state))
}

fn setting(state: &State) -> Setting {
    if state.next == 0 {
        return (0, state.interval);
    }
    (state.next.saturating_sub(arch::time::now_ns()).max(1), state.interval)
}

/// `timerfd_settime(2)`; `value` is relative, or a time of the clock if `absolute`.
pub fn set(file: &File, value: u64, interval: u64, absolute: bool) -> Result<Setting> {
    let timer = timer_of(file)?;
    timer.timer.cancel();
    let now = arch::time::now_ns();
    let next = match (value, absolute) {
        (0, _) => 0,
        (value, false) => now.saturating_add(value),
        (value, true) => now.saturating_add(value.saturating_sub(timer.clock.now())).max(1),
    };
    let old = {
        let mut state = timer.shared.state.lock();
        let old = setting(&state);
        *state = State { next, interval, expired: 0 };
        old
    };
    if next != 0 {
        timer.timer.arm(next);
    }
    Ok(old)
}

impl FileOps for TimerFd {
    fn read_at(&self, file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let take = || {
            let mut state = self.shared.state.lock();
            let count = core::mem::take(&mut state.expired);
            (count != 0).then_some(count)
        };
        let count = match take() {
            Some(count) => count,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_interruptible(&self.shared.queue, take)?,
        };
        sink.put_all(&count.to_ne_bytes())?;
        Ok(8)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.shared.queue);
        if self.shared.state.lock().expired != 0 { POLLIN | POLLRDNORM } else { 0 }
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
