//! Job control: stopping all threads of a process, continuing them, telling the parent.

use super::{Event, GroupSignals, StopState, send};
use crate::group::{ThreadGroup, tree};
use crate::task::Task;
use crate::usage::Usage;
use abi::signal::{SIG_IGN, SigInfo, Signal, sa, si};
use alloc::sync::Arc;
use arch::trap::TrapFrame;
use core::sync::atomic::{AtomicU64, Ordering};

/// Whether no member of the process's group has a parent in the same session but another group:
/// nobody would continue it, so terminal stop signals are ignored (`setpgid(2)`, POSIX).
pub fn is_orphaned(group: &ThreadGroup) -> bool {
    let _tree = tree();
    is_orphaned_locked(&group.pgrp(), None)
}

/// [`is_orphaned`] for a process group, as if `leaving` were no member; the tree is locked.
pub(crate) fn is_orphaned_locked(
    pgrp: &Arc<crate::pid::Pid>,
    leaving: Option<&ThreadGroup>,
) -> bool {
    !pgrp.members().iter().any(|member| {
        if leaving.is_some_and(|l| core::ptr::eq(l, &**member)) || member.is_zombie() {
            return false;
        }
        let Some(parent) = member.parent() else { return false };
        !Arc::ptr_eq(&parent.pgrp(), pgrp)
            && Arc::ptr_eq(&parent.session(), &member.session())
            && !is_init(&parent)
    })
}

fn is_init(group: &ThreadGroup) -> bool {
    group.pid_ns().init().is_some_and(|init| core::ptr::eq(&*init, group))
}

/// Whether some member of the process group is stopped; the tree is locked.
pub(crate) fn has_stopped_member(pgrp: &crate::pid::Pid) -> bool {
    pgrp.members().iter().any(|m| m.signals.lock().stop.is_some())
}

/// Starts a stop of the whole process by `signal`; the current thread took the signal.
pub(crate) fn begin(task: &Task, signals: &mut GroupSignals, signal: Signal) {
    if signals.stop.is_some() || signals.is_exiting() {
        return;
    }
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    // Relaxed: only uniqueness matters.
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut count = 0;
    task.group.for_each_task(|other| {
        if super::takes_signals(other) && !other.is_stopped() {
            count += 1;
            other.owed_stop.store(serial, Ordering::Relaxed);
            if !core::ptr::eq(&**other, task) {
                send::wake(other, false);
            }
        }
    });
    signals.stop = Some(StopState { signal, waiting_for: count, is_told: false, serial });
}

/// Stands still until the process is continued or killed. The last thread to arrive tells the
/// parent. A traced thread stops for its tracer instead, which decides how it goes on. Called
/// without locks.
pub(crate) fn participate(task: &Task, user: &mut TrapFrame) {
    let group = &task.group;
    // A parent that traces hears of the stop as the tracer.
    let is_parents = crate::ptrace::tracer_of(task)
        .is_some_and(|tracer| group.parent().is_some_and(|p| Arc::ptr_eq(&p, &tracer.group)));
    let (complete, signal, serial) = {
        let mut signals = group.signals.lock();
        let Some(stop) = signals.stop.as_mut() else { return };
        task.is_stopped.store(true, Ordering::Relaxed);
        stop.settle(&task.owed_stop);
        let (complete, signal) = (!is_parents && stop.tell_if_complete(), stop.signal);
        let serial = stop.serial;
        if complete {
            signals.event = Some(Event::Stopped(signal));
        }
        (complete, signal, serial)
    };
    if complete {
        notify_parent(group, si::CLD_STOPPED, signal.raw() as i32);
    }
    let tracing = &task.tracing;
    if !tracing.is_traced() {
        let _waits = crate::cgroup::Wait::new(task);
        group.resume.wait(|| {
            let signals = group.signals.lock();
            let goes_on =
                signals.stop.is_none() || signals.is_exiting() || signals.exec_by.is_some();
            (goes_on || tracing.is_traced()).then_some(())
        });
    }
    let is_on = group.signals.lock().stop.is_some_and(|stop| stop.serial == serial);
    if tracing.is_traced() && is_on {
        crate::ptrace::group_stop(task, user, signal, serial);
    }
    task.is_stopped.store(false, Ordering::Relaxed);
}

/// A thread that ends while its process is stopping is one less to wait for.
pub(crate) fn thread_left(task: &Task) {
    let complete = {
        let mut signals = task.group.signals.lock();
        match signals.stop.as_mut() {
            Some(stop) => {
                let was_owed = stop.settle(&task.owed_stop);
                let (done, signal) = (was_owed && stop.tell_if_complete(), stop.signal);
                if done {
                    signals.event = Some(Event::Stopped(signal));
                }
                done.then_some(signal)
            }
            None => None,
        }
    };
    if let Some(signal) = complete {
        notify_parent(&task.group, si::CLD_STOPPED, signal.raw() as i32);
    }
}

/// SIGCONT or SIGKILL: ends a stop. The signals are locked.
pub(crate) fn resume(group: &ThreadGroup, signals: &mut GroupSignals) {
    signals.continues += 1;
    if let Some(stop) = signals.stop.take() {
        let was_complete = stop.waiting_for == 0;
        signals.event = was_complete.then_some(Event::Continued);
        signals.report_continue = was_complete;
        group.for_each_task(|task| {
            if super::takes_signals(task) {
                task.set_flag(arch::thread::flags::SIGPENDING);
            }
            task.tracing.poke_listener();
        });
        group.resume.wake_all();
    }
}

/// Tells the parent about a stop or continuation: SIGCHLD unless it does not want it, and a wake-up
/// for its `wait(2)`.
pub(crate) fn notify_parent(group: &Arc<ThreadGroup>, code: i32, status: i32) {
    let parent = {
        let _tree = tree();
        let Some(parent) = group.parent() else { return };
        parent.family.lock().children.change(group);
        parent
    };
    let wants = parent.any_task().and_then(|t| t.sighand()).is_some_and(|hand| {
        let action = hand.get(Signal::SIGCHLD);
        action.handler != SIG_IGN && action.flags & sa::NOCLDSTOP == 0
    });
    if wants {
        let _ = super::send_to_group(&parent, child_info(group, &parent, code, status));
    }
    parent.child_wait.wake_all();
}

/// The SIGCHLD record for `parent` about `group`.
pub(crate) fn child_info(
    group: &ThreadGroup,
    parent: &ThreadGroup,
    code: i32,
    status: i32,
) -> SigInfo {
    let usage: Usage = group.usage();
    let leader = group.leader();
    let uid = leader.map_or(0, |l| l.creds().uid);
    let pid = group.pid().number_in(parent.pid_ns());
    SigInfo::child(code, pid, uid, status, usage.utime_ticks(), usage.stime_ticks())
}
