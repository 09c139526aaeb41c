//! POSIX timers: `timer_create(2)` and its companions.
//!
//! A timer whose signal is pending does not run. When the signal is taken, or turns out to have no
//! effect, the expiries that passed meanwhile are its overrun count and the next one is armed.

use super::interval::{REARM_NS, following};
use super::{STATE_CLASS, Timers, cpu};
use crate::group::ThreadGroup;
use crate::signal::Room;
use crate::signal::send::{Sent, Target, send_reserved};
use crate::task::Task;
use crate::user::User;
use abi::signal::{SigInfo, Signal, si};
use abi::{Errno, Result};
use alloc::collections::btree_map::Entry;
use alloc::sync::{Arc, Weak};
use arch::lock::IrqLock;
use sched::Listener;
use sched::timer::Timer;

/// What a timer follows.
#[derive(Clone)]
pub enum Clock {
    /// `CLOCK_REALTIME`.
    Realtime,
    /// `CLOCK_TAI`.
    Tai,
    /// `CLOCK_MONOTONIC`.
    Monotonic,
    /// `CLOCK_BOOTTIME`.
    Boottime,
    /// The time of a process; in user mode only if set.
    Process(Weak<ThreadGroup>, bool),
    /// The time of a thread; in user mode only if set.
    Thread(Weak<Task>, bool),
}

impl Clock {
    fn counts_cpu(&self) -> bool {
        matches!(self, Clock::Process(..) | Clock::Thread(..))
    }

    /// What a reading of the clock is on the time line that expiries are kept in.
    fn to_line(&self, at: u64) -> u64 {
        let now = match self {
            Clock::Realtime => sched::clock::realtime_ns(),
            Clock::Tai => sched::clock::tai_ns(),
            Clock::Boottime => sched::clock::boottime_ns(),
            _ => return at,
        };
        let line = arch::time::now_ns();
        if at >= now { line.saturating_add(at - now) } else { line.saturating_sub(now - at) }
    }

    #[inline]
    fn now(&self) -> Option<u64> {
        if self.counts_cpu() { cpu::clock_value(self) } else { Some(arch::time::now_ns()) }
    }

    /// The process that uses up the time.
    fn group(&self) -> Option<Arc<ThreadGroup>> {
        match self {
            Clock::Process(group, _) => group.upgrade(),
            Clock::Thread(task, _) => task.upgrade().map(|task| task.group.clone()),
            _ => None,
        }
    }
}

/// Who is told of an expiry.
#[derive(Clone)]
pub enum Notify {
    /// `SIGEV_NONE`.
    Nobody,
    /// `SIGEV_SIGNAL`.
    Process(Signal),
    /// `SIGEV_THREAD_ID`.
    Thread(Weak<Task>, Signal),
}

/// When a timer set by [`PosixTimer::set`] expires first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never: it is disarmed.
    Never,
    /// After so many nanoseconds.
    After(u64),
    /// When the clock reads so many nanoseconds.
    At(u64),
}

/// The interval and the time left, in nanoseconds.
pub type Setting = (u64, u64);

/// A POSIX timer.
pub struct PosixTimer {
    id: i32,
    clock: Clock,
    notify: Notify,
    value: u64,
    owner: Weak<ThreadGroup>,
    this: Weak<PosixTimer>,
    timer: Arc<Timer>,
    state: IrqLock<State>,
    listener: spin::Once<u64>,
    /// What it takes of its user's `RLIMIT_SIGPENDING`, for its signal.
    room: Arc<Room>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// The next expiry; 0 is none. Nanoseconds since boot, or of processor time.
    next: u64,
    interval: u64,
    /// The reading of the clock that `next` stands for, where the clock can be set.
    follows: Option<u64>,
    /// The signal of an expiry waits to be taken.
    is_pending: bool,
    overrun: i32,
}

impl PosixTimer {
    fn new(
        id: i32,
        owner: &Arc<ThreadGroup>,
        clock: Clock,
        notify: Notify,
        value: u64,
        room: Arc<Room>,
    ) -> Arc<PosixTimer> {
        let timer = Arc::new_cyclic(|this: &Weak<PosixTimer>| {
            let own = this.clone();
            PosixTimer {
                id,
                clock,
                notify,
                value,
                owner: Arc::downgrade(owner),
                this: this.clone(),
                timer: Timer::new(move |_| {
                    if let Some(timer) = own.upgrade() {
                        timer.expire();
                    }
                }),
                state: IrqLock::new(&STATE_CLASS, State::default()),
                listener: spin::Once::new(),
                room,
            }
        });
        if matches!(timer.clock, Clock::Realtime | Clock::Tai) {
            let listener: Arc<dyn Listener> = timer.clone();
            timer.listener.call_once(|| sched::clock::changed().add_listener(listener, 0));
        }
        timer
    }

    /// Stops it for good.
    pub(super) fn disarm(&self) {
        *self.state.lock() = State::default();
        self.timer.cancel();
        if let Some(group) = self.clock.group() {
            cpu::unfollow(&group, self);
        }
        if let Some(id) = self.listener.get() {
            sched::clock::changed().remove_listener(*id);
        }
    }

    /// Makes the expiry in the state come true.
    fn arm(&self, next: u64) {
        if matches!(self.notify, Notify::Nobody) {
            return;
        }
        if self.clock.counts_cpu() { self.follow() } else { self.timer.arm(next) }
    }

    /// The same by the clock of a process or thread.
    #[inline(never)]
    fn follow(&self) {
        if let (Some(group), Some(this)) = (self.clock.group(), self.this.upgrade()) {
            // The expiry by the clock: what `arm` is told may have been put off by the time since boot.
            let next = self.state.lock().next;
            cpu::follow(&group, &self.clock, next, this);
        }
    }

    /// Sends the signal, if it is time.
    pub(super) fn expire(&self) {
        let Some(now) = self.clock.now() else { return };
        {
            let mut state = self.state.lock();
            if state.next == 0 || state.is_pending {
                return;
            }
            if state.next > now {
                // Set anew while this expiry was on its way, perhaps over its arming.
                let next = state.next;
                drop(state);
                self.arm(next);
                return;
            }
            state.is_pending = true;
            if state.interval == 0 {
                state.next = 0;
            }
        }
        let info = |signal| SigInfo::timer(signal, self.id, 0, self.value);
        let sent = match &self.notify {
            Notify::Nobody => return,
            Notify::Process(signal) => {
                let Some(group) = self.owner.upgrade() else { return };
                send_reserved(Target::Group(&group), info(*signal), &self.room)
            }
            Notify::Thread(task, signal) => {
                let Some(task) = task.upgrade() else { return };
                send_reserved(Target::Thread(&task), info(*signal), &self.room)
            }
        };
        if sent != Sent::Queued {
            // Nobody will take it: the rest of the machine wants to run in between.
            self.go_on(arch::time::now_ns() + REARM_NS);
        }
    }

    /// The signal was taken: counts the expiries since and arms the next, not before `soonest` of
    /// the time since boot. The overrun count.
    fn go_on(&self, soonest: u64) -> i32 {
        let now = self.clock.now();
        let (next, overrun) = {
            let mut state = self.state.lock();
            if !state.is_pending {
                return state.overrun;
            }
            state.is_pending = false;
            state.overrun = 0;
            if let Some(now) = now.filter(|_| state.next != 0) {
                let next = following(state.next, state.interval, now);
                let ahead = next.saturating_sub(state.next);
                state.follows = state.follows.map(|at| at.saturating_add(ahead));
                let missed = (ahead / state.interval.max(1)).saturating_sub(1);
                state.overrun = i32::try_from(missed).unwrap_or(i32::MAX);
                state.next = next;
            }
            (state.next, state.overrun)
        };
        if next != 0 {
            self.arm(next.max(soonest));
        }
        overrun
    }

    /// `timer_gettime(2)`.
    pub fn get(&self) -> Setting {
        let state = *self.state.lock();
        let Some(now) = self.clock.now().filter(|_| state.next != 0) else {
            return (state.interval, 0);
        };
        let silent = matches!(self.notify, Notify::Nobody);
        let next = if state.next > now {
            state.next
        } else if state.interval != 0 && (silent || state.is_pending) {
            following(state.next, state.interval, now)
        } else if silent {
            return (0, 0);
        } else {
            now + 1
        };
        (state.interval, next - now)
    }

    /// `timer_settime(2)`; what was set before.
    pub fn set(&self, first: Expiry, interval: u64) -> Setting {
        let before = self.get();
        self.timer.cancel();
        let now = self.clock.now().unwrap_or(0);
        let (next, follows) = match first {
            Expiry::Never => (0, None),
            Expiry::After(ns) => (now.saturating_add(ns).max(1), None),
            Expiry::At(at) => (self.clock.to_line(at).max(1), Some(at)),
        };
        let follows = follows.filter(|_| matches!(self.clock, Clock::Realtime | Clock::Tai));
        let interval = if next == 0 { 0 } else { interval };
        *self.state.lock() = State { next, interval, follows, ..State::default() };
        if next != 0 {
            self.arm(next);
        } else if let Some(group) = self.clock.group() {
            cpu::unfollow(&group, self);
        }
        if self.clock.counts_cpu() && next != 0 && next <= now {
            self.expire();
        }
        before
    }

    /// `timer_getoverrun(2)`: of the expiry whose signal was taken last.
    pub fn overrun(&self) -> i32 {
        self.state.lock().overrun
    }
}

/// The real-time clock was set: absolute expiries move.
impl Listener for PosixTimer {
    fn notify(&self, _: u32) {
        let next = {
            let mut state = self.state.lock();
            let Some(at) = state.follows.filter(|_| state.next != 0) else { return };
            state.next = self.clock.to_line(at).max(1);
            if state.is_pending {
                return;
            }
            state.next
        };
        self.arm(next);
    }
}

/// The number to try after `id`.
fn following_id(id: i32) -> i32 {
    id.checked_add(1).unwrap_or(0)
}

impl Timers {
    /// Makes a timer for the process `owner`; its number. Without a value the signal carries that.
    /// It counts as a pending signal of `user`, who may have `limit`: else `EAGAIN`.
    pub fn create(
        &self,
        owner: &Arc<ThreadGroup>,
        clock: Clock,
        notify: Notify,
        value: Option<u64>,
        user: Arc<User>,
        limit: u64,
    ) -> Result<i32> {
        // timer_create(2): each is room for a signal.
        let room = Room::new(user, limit).ok_or(Errno::EAGAIN)?;
        let mut table = self.posix.lock();
        let first = table.next;
        let mut id = first;
        let place = loop {
            match table.timers.entry(id) {
                Entry::Vacant(place) => break place,
                Entry::Occupied(_) => id = following_id(id),
            }
            if id == first {
                return Err(Errno::EAGAIN);
            }
        };
        let value = value.unwrap_or(id as u64);
        place.insert(PosixTimer::new(id, owner, clock, notify, value, room));
        table.next = following_id(id);
        Ok(id)
    }

    /// The timer with a number; `EINVAL` if there is none.
    pub fn posix_timer(&self, id: i32) -> Result<Arc<PosixTimer>> {
        self.posix.lock().timers.get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// `timer_delete(2)`.
    pub fn delete(&self, id: i32) -> Result<()> {
        let timer = self.posix.lock().timers.remove(&id).ok_or(Errno::EINVAL)?;
        timer.disarm();
        Ok(())
    }
}

/// A signal was taken from a queue: a timer's gets its overrun count, and the timer goes on.
pub(crate) fn delivered(task: &Task, info: &mut SigInfo) {
    if info.code != si::TIMER {
        return;
    }
    if let Ok(timer) = task.group.timers.posix_timer(info.pid()) {
        info.set_overrun(timer.go_on(0));
    }
}
