//! Timers of a process: what dies with it, what `execve(2)` ends, and what a delivered signal
//! re-arms. The calls are in the time family of `syscalls`.

use crate::task::Task;
use abi::signal::SigInfo;
use alloc::boxed::Box;
use alloc::sync::Arc;
use spin::Once;

/// What the owner of timers does for the process layer.
pub trait TimerSet: Send + Sync {
    /// The process ends.
    fn cancel_all(&self);
    /// The process starts another program: POSIX timers go, interval timers stay.
    fn exec(&self);
    /// A timer's signal was taken: fills in the overrun count and re-arms the timer.
    fn delivered(&self, info: &SigInfo);
    /// Access to the implementation.
    fn as_any(&self) -> &(dyn core::any::Any + Send + Sync);
}

/// The timers of a process, made when the first one is.
pub struct Timers {
    set: Once<Box<dyn TimerSet>>,
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Timers {
    /// No timers.
    pub const fn new() -> Timers {
        Timers { set: Once::new() }
    }

    /// The timers, made by `make` if there are none yet.
    pub fn get_or_create(&self, make: impl FnOnce() -> Box<dyn TimerSet>) -> &dyn TimerSet {
        &**self.set.call_once(make)
    }

    /// The timers, if there are any.
    pub fn get(&self) -> Option<&dyn TimerSet> {
        self.set.get().map(|set| &**set)
    }

    pub(crate) fn cancel_all(&self) {
        if let Some(set) = self.get() {
            set.cancel_all();
        }
    }

    pub(crate) fn exec(&self) {
        if let Some(set) = self.get() {
            set.exec();
        }
    }
}

/// A signal was taken from a queue.
pub(crate) fn delivered(task: &Task, info: &SigInfo) {
    if info.code == abi::signal::si::TIMER
        && let Some(set) = task.group.timers.get()
    {
        set.delivered(info);
    }
}

/// Sends a timer's signal to a process; from interrupts too.
pub fn expire(group: &Arc<crate::ThreadGroup>, info: SigInfo) {
    let _ = crate::signal::send_to_group(group, info);
}
