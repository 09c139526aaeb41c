//! Waiting for signals: `sigsuspend(2)`, `pause(2)`, `sigtimedwait(2)`, and the temporary masks of
//! `ppoll(2)` and its like.

use super::{Record, recalculate_locked, set_blocked};
use crate::task::Task;
use abi::signal::{SigInfo, SigSet};
use abi::{Errno, Result};
use alloc::boxed::Box;
use arch::thread::flags;
use core::sync::atomic::Ordering;
use sched::Deadline;

/// Installs a mask for the duration of one call; [`end_temporary`] or a signal's delivery puts the
/// old one back.
pub fn begin_temporary(task: &Task, mask: SigSet) {
    task.store_saved_mask(task.blocked());
    set_blocked(task, mask);
}

/// Ends [`begin_temporary`]: an interrupted call leaves the old mask to the signal frame.
pub fn end_temporary(task: &Task, interrupted: bool) {
    if interrupted {
        task.set_flag(flags::RESTORE_SIGMASK);
    } else {
        set_blocked(task, task.saved_mask());
    }
}

/// `rt_sigsuspend(2)`.
pub fn suspend(task: &Task, mask: SigSet) -> Errno {
    begin_temporary(task, mask);
    sleep(None);
    task.set_flag(flags::RESTORE_SIGMASK);
    Errno::ERESTARTNOHAND
}

/// `pause(2)`.
pub fn pause() -> Errno {
    sleep(None);
    Errno::ERESTARTNOHAND
}

/// Sleeps until a signal comes or the deadline passes.
fn sleep(deadline: Option<Deadline>) {
    let _ = sched::park_interruptible(|| None::<()>, deadline);
}

/// Takes a pending signal of `set`, the thread's own before the process's.
pub fn take(task: &Task, set: SigSet) -> Option<SigInfo> {
    let set = set.minus(SigSet::UNBLOCKABLE);
    let blocked = SigSet(!set.0);
    let taken: Option<(SigInfo, Option<Box<Record>>)> = {
        let mut signals = task.group.signals.lock();
        let own = task.signals.lock().pending.dequeue(blocked);
        let taken = own.or_else(|| signals.pending.dequeue(blocked));
        recalculate_locked(task, &signals);
        taken.map(|(_, info, record)| (info, record))
    };
    let (mut info, record) = taken?;
    drop(record);
    crate::timers::delivered(task, &mut info);
    Some(info)
}

/// `rt_sigtimedwait(2)`: takes a signal of `set`, waiting until `deadline` for one.
pub fn timed(task: &Task, set: SigSet, deadline: Option<Deadline>, poll: bool) -> Result<SigInfo> {
    if let Some(info) = take(task, set) {
        return Ok(info);
    }
    if poll {
        return Err(Errno::EAGAIN);
    }
    // While it waits the thread takes these signals in spite of the mask.
    let old = task.blocked();
    task.waited.store(set.minus(SigSet::UNBLOCKABLE).0, Ordering::SeqCst);
    set_blocked(task, old.minus(set));
    // A signal of the set may have come between the first look and now.
    let found = take(task, set);
    let found = found.or_else(|| {
        sleep(deadline);
        take(task, set)
    });
    task.waited.store(0, Ordering::SeqCst);
    set_blocked(task, old);
    match found {
        Some(info) => Ok(info),
        None if task.has_signal() => Err(Errno::EINTR),
        None => Err(Errno::EAGAIN),
    }
}
