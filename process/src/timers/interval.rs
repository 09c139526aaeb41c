//! `setitimer(2)`.

use super::{STATE_CLASS, cpu};
use crate::group::ThreadGroup;
use abi::signal::{SigInfo, Signal, si};
use alloc::sync::{Arc, Weak};
use arch::lock::IrqLock;
use sched::timer::Timer;

/// Which of a process's three interval timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `ITIMER_REAL`: time of the wall, SIGALRM.
    Real,
    /// `ITIMER_VIRTUAL`: time in user mode, SIGVTALRM.
    Virtual,
    /// `ITIMER_PROF`: time in user and kernel mode, SIGPROF.
    Prof,
}

/// The soonest that an expiry follows another that nobody has answered, in nanoseconds.
pub(super) const REARM_NS: u64 = 50_000;

/// `ITIMER_REAL`.
pub(super) struct Real {
    timer: Arc<Timer>,
    state: IrqLock<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Nanoseconds since boot; 0 is disarmed.
    next: u64,
    period: u64,
}

impl State {
    /// The period and the time left, as [`get_interval`] tells them.
    fn shown(self, now: u64) -> (u64, u64) {
        let left = self.next.saturating_sub(now);
        (self.period, if self.next == 0 { 0 } else { left.max(1000) })
    }
}

/// The first of the instants `next + n * period` after `now`.
pub(super) fn following(next: u64, period: u64, now: u64) -> u64 {
    if period == 0 {
        return 0;
    }
    let periods = now.saturating_sub(next) / period + 1;
    next.saturating_add(periods.saturating_mul(period))
}

impl Real {
    fn new(group: Weak<ThreadGroup>) -> Arc<Real> {
        Arc::new_cyclic(|this: &Weak<Real>| {
            let this = this.clone();
            let timer = Timer::new(move |timer| {
                let (Some(real), Some(group)) = (this.upgrade(), group.upgrade()) else { return };
                let next = {
                    let mut state = real.state.lock();
                    let now = arch::time::now_ns();
                    if state.next == 0 {
                        return;
                    }
                    if state.next > now {
                        // Set anew while this expiry was on its way, perhaps over its arming.
                        let next = state.next;
                        drop(state);
                        timer.arm(next);
                        return;
                    }
                    state.next = following(state.next, state.period, now);
                    // The rest of the machine wants to run too, however short the period is.
                    if state.next == 0 { 0 } else { state.next.max(now + REARM_NS) }
                };
                let info = SigInfo::new(Signal::SIGALRM, si::KERNEL);
                let _ = crate::signal::send_to_group(&group, info);
                if next != 0 {
                    timer.arm(next);
                }
            });
            Real { timer, state: IrqLock::new(&STATE_CLASS, State::default()) }
        })
    }

    fn get(&self) -> (u64, u64) {
        let state = *self.state.lock();
        state.shown(arch::time::now_ns())
    }

    /// Sets it; what was set before.
    pub(super) fn set(&self, period: u64, first: u64) -> (u64, u64) {
        let now = arch::time::now_ns();
        let next = if first == 0 { 0 } else { now.saturating_add(first) };
        let new = State { next, period: if first == 0 { 0 } else { period } };
        let before = core::mem::replace(&mut *self.state.lock(), new);
        // After the state: an expiry on its way finds that it is not time.
        if next != 0 {
            self.timer.arm_by(next);
        } else {
            self.timer.cancel();
        }
        before.shown(now)
    }
}

/// The period and the time left in nanoseconds, 0 for a timer that is not armed.
pub fn get_interval(group: &ThreadGroup, which: Which) -> (u64, u64) {
    match which {
        Which::Real => group.timers.real.get().map_or((0, 0), |real| real.get()),
        Which::Virtual | Which::Prof => cpu::get_interval(group, which),
    }
}

/// Arms a timer to expire after `first` nanoseconds and then every `period`, or disarms it when
/// `first` is 0. What was set before, as from [`get_interval`].
pub fn set_interval(group: &ThreadGroup, which: Which, period: u64, first: u64) -> (u64, u64) {
    if which != Which::Real {
        let before = cpu::get_interval(group, which);
        cpu::set_interval(group, which, period, first);
        return before;
    }
    let owner = || group.arc().map(|group| Arc::downgrade(&group)).unwrap_or_default();
    group.timers.real.call_once(|| Real::new(owner())).set(period, first)
}

#[cfg(test)]
mod tests {
    use super::following;

    #[test]
    fn missed_periods_are_skipped() {
        assert_eq!(following(100, 0, 150), 0);
        assert_eq!(following(100, 10, 100), 110);
        assert_eq!(following(100, 10, 109), 110);
        assert_eq!(following(100, 10, 135), 140);
    }
}
