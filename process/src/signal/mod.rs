//! Signals: queues, masks, handlers, sending, stopping, delivery and the user-space frame.
//!
//! State: [`GroupSignals`] per process (shared queue, group exit, group stop), [`Pending`] per
//! thread, [`SigHand`] (the handlers; shared by `CLONE_SIGHAND`). Senders take the process's lock
//! (rank 620), then the handlers' (625), then a thread's (630); all with interrupts off, because
//! timers and terminals send from interrupts. Nobody sleeps or allocates under them: records are
//! made before.
//!
//! A thread learns of a signal through its `SIGPENDING` flag: it interrupts sleeps and makes the
//! return to user space call [`deliver::exit_to_user`].

pub mod action;
pub mod deliver;
pub mod files;
pub mod frame;
pub mod queue;
pub mod send;
pub mod stop;
pub mod wait;

pub use self::action::SigHand;
pub use self::queue::{Pending, Record, Room, next_signal};
pub use self::send::{
    Target, force, force_fault, interrupt_all, may_signal, send_to_group, send_to_pgrp,
    send_to_task,
};

use crate::task::{Life, Task};
use abi::signal::{SigSet, Signal};
use arch::thread::flags;
use core::sync::atomic::{AtomicU64, Ordering};

/// Signal state that the threads of a process share.
pub struct GroupSignals {
    /// Sent to the process.
    pub pending: Pending,
    /// Set once: every thread is to end with this status.
    pub exit_code: Option<i32>,
    /// The group is stopping or stopped by this signal.
    pub stop: Option<StopState>,
    /// A stop or continuation that `wait(2)` has not seen.
    pub event: Option<Event>,
    /// A thread is replacing the process's program and ends the others.
    pub exec_by: Option<u64>,
    /// Counts arrivals of SIGCONT: a stop that was decided before one is off.
    pub continues: u64,
    /// SIGCONT arrived: the parent is to be told by the next thread that returns to user space.
    pub report_continue: bool,
}

/// A stop in progress or complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopState {
    /// What stopped it.
    pub signal: Signal,
    /// Threads that have still to stop: each knows that it owes this stop.
    pub waiting_for: usize,
    /// The parent has been told.
    pub is_told: bool,
    /// Tells this stop from others of the process.
    pub serial: u64,
}

/// What `waitpid(2)` can report besides exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Stopped by the signal.
    Stopped(Signal),
    /// Continued.
    Continued,
}

impl StopState {
    /// A thread that this stop may have counted on stands still or ends; `owed` is what the thread
    /// knows of that. Whether it was waited for.
    pub(crate) fn settle(&mut self, owed: &AtomicU64) -> bool {
        // Relaxed: changed under the lock of the signals only.
        let was_owed = owed.swap(0, Ordering::Relaxed) == self.serial;
        if was_owed {
            self.waiting_for = self.waiting_for.saturating_sub(1);
        }
        was_owed
    }

    /// Whether everybody stands still and the parent has not been told so; now it is to be.
    pub(crate) fn tell_if_complete(&mut self) -> bool {
        let tells = self.waiting_for == 0 && !self.is_told;
        self.is_told |= tells;
        tells
    }
}

impl Default for GroupSignals {
    fn default() -> Self {
        Self::new()
    }
}

impl GroupSignals {
    /// Nothing has happened yet.
    pub const fn new() -> GroupSignals {
        GroupSignals {
            pending: Pending::new(),
            exit_code: None,
            stop: None,
            event: None,
            exec_by: None,
            continues: 0,
            report_continue: false,
        }
    }

    /// Whether the process is ending.
    pub fn is_exiting(&self) -> bool {
        self.exit_code.is_some()
    }
}

/// Sets or clears the current thread's `SIGPENDING` flag by what is pending now.
pub(crate) fn recalculate(task: &Task) {
    let signals = task.group.signals.lock();
    recalculate_locked(task, &signals);
}

pub(crate) fn recalculate_locked(task: &Task, signals: &GroupSignals) {
    let own = task.signals.lock().pending.set();
    let pending = own.union(signals.pending.set()).minus(task.blocked());
    let tracing = &task.tracing;
    let must_stop = !task.is_stopped()
        && signals.stop.is_some_and(|stop| !tracing.has_done_stop(stop.serial))
        || tracing.has_trap()
        || task.standing.is_wanted();
    if !pending.is_empty() || must_stop || signals.is_exiting() || signals.report_continue {
        task.set_flag(flags::SIGPENDING);
    } else {
        task.clear_flag(flags::SIGPENDING);
    }
}

/// Replaces the current thread's mask. Signals of the process that this thread no longer takes
/// are offered to its other threads.
pub fn set_blocked(task: &Task, set: SigSet) {
    let set = set.minus(SigSet::UNBLOCKABLE);
    let old = task.blocked();
    if old == set {
        return;
    }
    let signals = task.group.signals.lock();
    task.store_blocked(set);
    let newly = signals.pending.set().intersection(set.minus(old));
    if !newly.is_empty() {
        send::offer_to_others(task, newly);
    }
    recalculate_locked(task, &signals);
}

/// Whether SIGKILL is on its way to this thread: a killable sleep ends.
pub fn fatal_pending(task: &Task) -> bool {
    task.has_signal() && task.signals.lock().pending.set().contains(Signal::SIGKILL)
}

/// Everything pending for the thread: its own and the process's.
pub fn all_pending(task: &Task) -> SigSet {
    let shared = task.group.signals.lock().pending.set();
    shared.union(task.pending())
}

/// Whether the thread still takes signals.
pub(crate) fn takes_signals(task: &Task) -> bool {
    task.life() == Life::Alive
}

/// `sigaction(2)`: replaces and returns the action of `signal`; a signal that becomes ignored is no
/// longer pending.
pub fn replace_action(
    task: &Task,
    signal: Signal,
    new: Option<abi::signal::SigAction>,
) -> abi::Result<abi::signal::SigAction> {
    let hand = task.sighand().ok_or(abi::Errno::ESRCH)?;
    let Some(mut new) = new else { return Ok(hand.get(signal)) };
    if SigSet::UNBLOCKABLE.contains(signal) {
        return Err(abi::Errno::EINVAL);
    }
    new.mask = new.mask.minus(SigSet::UNBLOCKABLE);
    if action::is_ignored(&new, signal) {
        return Ok(ignore(task, &hand, signal, new));
    }
    while !hand.try_swap(signal, &mut new) {
        hand.prepare(signal);
    }
    Ok(new)
}

/// Installs an action by which `signal` vanishes, and drops what is pending of it. Senders ask for the action with
/// the process's signals locked: none adds one afterwards.
fn ignore(
    task: &Task,
    hand: &SigHand,
    signal: Signal,
    mut action: abi::signal::SigAction,
) -> abi::signal::SigAction {
    let dropped;
    let mut from_threads = None;
    loop {
        let mut signals = task.group.signals.lock();
        if !hand.try_swap(signal, &mut action) {
            drop(signals);
            hand.prepare(signal);
            continue;
        }
        let set = SigSet::of(signal);
        dropped = signals.pending.discard(set);
        task.group.for_each_task(|t| {
            if let Some(record) = t.signals.lock().pending.discard(set) {
                from_threads = Some(Record::chain(record, from_threads.take()));
            }
        });
        break;
    }
    drop((dropped, from_threads));
    action
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_counts_once_towards_a_stop() {
        let mut stop =
            StopState { signal: Signal::SIGSTOP, waiting_for: 2, is_told: false, serial: 7 };
        let (first, second, newborn) = (AtomicU64::new(7), AtomicU64::new(7), AtomicU64::new(0));
        assert!(stop.settle(&first));
        // It comes back, having been left by its tracer; another was born meanwhile.
        assert!(!stop.settle(&first));
        assert!(!stop.settle(&newborn));
        assert!(!stop.tell_if_complete());
        assert!(stop.settle(&second));
        assert!(stop.tell_if_complete());
        assert!(!stop.settle(&second));
        assert!(!stop.tell_if_complete(), "the parent is told once");
    }

    #[test]
    fn what_is_owed_to_an_earlier_stop_does_not_count() {
        let mut stop =
            StopState { signal: Signal::SIGSTOP, waiting_for: 1, is_told: false, serial: 8 };
        assert!(!stop.settle(&AtomicU64::new(7)));
        assert_eq!(stop.waiting_for, 1);
    }
}
