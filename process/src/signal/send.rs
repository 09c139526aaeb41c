//! Sending: who may, to whom, what it wakes.

use super::action::{Disposition, default_action, is_ignored};
use super::{GroupSignals, Record, Room, takes_signals};
use crate::group::ThreadGroup;
use crate::pid::Pid;
use crate::task::Task;
use abi::process::Resource;
use abi::signal::{SIG_DFL, SigInfo, SigSet, Signal, si};
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use arch::thread::flags;
use vfs::cred::{Cap, Creds};

/// To whom a signal goes.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Any thread of the process.
    Group(&'a ThreadGroup),
    /// This thread.
    Thread(&'a Task),
}

impl Target<'_> {
    fn group(&self) -> &ThreadGroup {
        match self {
            Target::Group(group) => group,
            Target::Thread(task) => &task.group,
        }
    }

    /// The thread whose handlers and user count.
    fn any_task(&self) -> Option<Arc<Task>> {
        match self {
            Target::Thread(task) => task.arc(),
            Target::Group(group) => group.any_task().or_else(|| group.leader()),
        }
    }
}

/// Whether the sender's credentials allow `signal` to a process (`kill(2)`).
pub fn may_signal(sender: &Task, target: &Task, signal: Option<Signal>) -> Result<()> {
    if Arc::ptr_eq(&sender.group, &target.group) {
        return Ok(());
    }
    let (from, to) = (sender.creds(), target.creds());
    if credentials_allow(&from, &to) {
        return Ok(());
    }
    if signal == Some(Signal::SIGCONT)
        && Arc::ptr_eq(&sender.group.session(), &target.group.session())
    {
        return Ok(());
    }
    Err(Errno::EPERM)
}

fn credentials_allow(from: &Creds, to: &Creds) -> bool {
    let same_ns = Arc::ptr_eq(&from.user_ns, &to.user_ns);
    (same_ns
        && (from.euid == to.suid
            || from.euid == to.uid
            || from.uid == to.suid
            || from.uid == to.uid))
        || from.ns_capable(&to.user_ns, Cap::KILL)
}

/// Sends a record to a process. `EAGAIN` when a real-time signal finds its user's queue full.
pub fn send_to_group(group: &ThreadGroup, info: SigInfo) -> Result<()> {
    send(Target::Group(group), info)
}

/// Sends a record to one thread; a full queue loses the record, not the signal.
pub fn send_to_task(task: &Task, info: SigInfo) {
    let _ = send(Target::Thread(task), info);
}

/// Sends a record to every member of a process group; whether there was one.
pub fn send_to_pgrp(pgrp: &Pid, info: SigInfo) -> bool {
    let mut any = false;
    for group in pgrp.members() {
        any = true;
        let _ = send_to_group(&group, info);
    }
    any
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Somebody will take it.
    Queued,
    /// It has no effect: ignored, or the same signal is pending already.
    Dropped,
}

/// Sends `info`.
pub fn send(target: Target<'_>, info: SigInfo) -> Result<()> {
    let Some(signal) = info.signal() else { return Err(Errno::EINVAL) };
    let Some(any) = target.any_task() else { return Ok(()) };
    // Charged and allocated before any lock; standard signals go over the limit rather than get
    // lost, as sigqueue(3) describes.
    let record = make_record(&any, signal, info);
    let must_queue = signal.is_realtime() && info.code != si::USER && info.code <= 0;
    let refused = record.is_none() && must_queue;
    send_record(target, &any, signal, Made { record, refused, from_kernel: info.code > 0 })
        .map(|_| ())
}

/// Sends `info` in a room that its sender keeps for it, so that no limit is in the way; what became
/// of it.
pub(crate) fn send_reserved(target: Target<'_>, info: SigInfo, room: &Arc<Room>) -> Sent {
    let (Some(signal), Some(any)) = (info.signal(), target.any_task()) else {
        return Sent::Dropped;
    };
    // The one before is still queued, and stands for this one too.
    let Some(record) = room.record(info) else { return Sent::Queued };
    let made = Made { record: Some(record), refused: false, from_kernel: info.code > 0 };
    send_record(target, &any, signal, made).unwrap_or(Sent::Dropped)
}

/// What is ready to be queued before any lock is taken.
struct Made {
    record: Option<Box<Record>>,
    /// There was no room for a record that must not get lost.
    refused: bool,
    from_kernel: bool,
}

fn send_record(target: Target<'_>, any: &Task, signal: Signal, made: Made) -> Result<Sent> {
    let group = target.group();
    let Made { record, refused, from_kernel } = made;
    let (sent, leftovers) = {
        let mut signals = group.signals.lock();
        if !takes_signals(any) && matches!(target, Target::Thread(_)) {
            return Ok(Sent::Dropped);
        }
        let flushed = prepare(group, &mut signals, signal);
        if drops(any, target, &signals, signal, from_kernel) {
            (Sent::Dropped, (flushed, record))
        } else if refused {
            return Err(Errno::EAGAIN);
        } else {
            let unused = enqueue(target, &mut signals, signal, record);
            complete(target, &mut signals, signal);
            let sent = if unused.is_some() { Sent::Dropped } else { Sent::Queued };
            (sent, (flushed, unused))
        }
    };
    drop(leftovers);
    // Readers of a signalfd(2); without the locks, for listeners take some of lower rank.
    group.signal_wait.notify(abi::poll::POLLIN);
    Ok(sent)
}

fn make_record(target: &Task, signal: Signal, info: SigInfo) -> Option<Box<Record>> {
    if signal == Signal::SIGKILL {
        return None;
    }
    let user = target.user()?;
    let over_limit_ok = !signal.is_realtime() && info.code >= 0;
    let limit = if over_limit_ok { u64::MAX } else { target.limit(Resource::Sigpending) };
    user.charge_signal(limit).then(|| Record::new(info, Some(user)))
}

type Leftovers = Option<Box<Record>>;

/// Stop signals cancel a pending SIGCONT and the reverse; SIGCONT resumes at once, whether or not
/// it is blocked or ignored.
fn prepare(group: &ThreadGroup, signals: &mut GroupSignals, signal: Signal) -> [Leftovers; 2] {
    if SigSet::STOP.contains(signal) {
        let shared = signals.pending.discard(SigSet::of(Signal::SIGCONT));
        let own = discard_in_threads(group, SigSet::of(Signal::SIGCONT));
        [shared, own]
    } else if signal == Signal::SIGCONT {
        let shared = signals.pending.discard(SigSet::STOP);
        let own = discard_in_threads(group, SigSet::STOP);
        super::stop::resume(group, signals);
        [shared, own]
    } else {
        [None, None]
    }
}

fn discard_in_threads(group: &ThreadGroup, set: SigSet) -> Leftovers {
    let mut all: Leftovers = None;
    group.for_each_task(|task| {
        if let Some(dropped) = task.signals.lock().pending.discard(set) {
            all = Some(Record::chain(dropped, all.take()));
        }
    });
    all
}

/// Whether the signal has no effect: ignored and not blocked by whom it is for, or aimed at
/// process 1 without a handler.
fn drops(
    any: &Task,
    target: Target<'_>,
    signals: &GroupSignals,
    signal: Signal,
    from_kernel: bool,
) -> bool {
    if signals.is_exiting() && signal != Signal::SIGKILL {
        return false;
    }
    let Some(hand) = any.sighand() else { return true };
    let action = hand.get(signal);
    let blocked = match target {
        Target::Thread(task) => task.blocked().contains(signal) || task.waits_for(signal),
        Target::Group(_) => any.blocked().contains(signal) || any.waits_for(signal),
    };
    let group = target.group();
    // What it blocks waits also for process 1, which may read it from a signalfd(2).
    if group.is_unkillable() && action.handler == SIG_DFL && !blocked {
        // Its own namespace cannot kill process 1; an ancestor can, with SIGKILL and SIGSTOP.
        let outside = crate::try_current()
            .is_none_or(|sender| !group.pid_ns().contains(sender.group.pid_ns()));
        let forced = signal == Signal::SIGKILL || signal == Signal::SIGSTOP;
        let is_global = group.pid_ns().level == 0;
        let reaches =
            is_fault(signal, from_kernel) || !is_global && (from_kernel || forced && outside);
        if !reaches {
            return true;
        }
    }
    let seen = signal != Signal::SIGKILL && crate::ptrace::sees_all_signals(any);
    !blocked && !seen && is_ignored(&action, signal)
}

fn is_fault(signal: Signal, from_kernel: bool) -> bool {
    from_kernel && SigSet::SYNCHRONOUS.contains(signal)
}

fn enqueue(
    target: Target<'_>,
    signals: &mut GroupSignals,
    signal: Signal,
    record: Leftovers,
) -> Leftovers {
    match target {
        Target::Group(_) => {
            if !signal.is_realtime() && signals.pending.set().contains(signal) {
                return record;
            }
            signals.pending.push(signal, record);
        }
        Target::Thread(task) => {
            let mut own = task.signals.lock();
            if !signal.is_realtime() && own.pending.set().contains(signal) {
                return record;
            }
            own.pending.push(signal, record);
        }
    }
    None
}

/// Whether `task` would take `signal` now.
fn wants(task: &Task, signal: Signal) -> bool {
    if !takes_signals(task) {
        return false;
    }
    if signal == Signal::SIGKILL {
        return true;
    }
    (!task.blocked().contains(signal) || task.waits_for(signal)) && !task.is_stopped()
}

/// Finds a thread for the signal and wakes it; a signal that will end the process wakes all.
fn complete(target: Target<'_>, signals: &mut GroupSignals, signal: Signal) {
    let chosen = match target {
        Target::Thread(task) => wants(task, signal).then(|| task.arc()).flatten(),
        Target::Group(group) => group.find_task(|task| wants(task, signal)),
    };
    let Some(chosen) = chosen else { return };
    let group = target.group();
    if is_fatal(&chosen, signals, signal) {
        signals.exit_code.get_or_insert(signal.raw() as i32);
        kill_threads(group, signals);
        return;
    }
    wake(&chosen, signal == Signal::SIGKILL);
}

/// Whether the signal ends the process at once, so that all its threads can be told now. With a
/// core dump the thread that takes the signal does it.
fn is_fatal(task: &Task, signals: &GroupSignals, signal: Signal) -> bool {
    if signals.is_exiting() || task.waits_for(signal) || task.blocked().contains(signal) {
        return signal == Signal::SIGKILL && !signals.is_exiting();
    }
    if signal == Signal::SIGKILL {
        return true;
    }
    if crate::ptrace::sees_all_signals(task) {
        return false;
    }
    let Some(hand) = task.sighand() else { return false };
    hand.get(signal).handler == SIG_DFL
        && default_action(signal) == Disposition::Terminate
        && !task.group.is_unkillable()
}

/// Gives every thread a SIGKILL of its own; the caller has set the exit code.
pub(crate) fn kill_threads(group: &ThreadGroup, signals: &mut GroupSignals) {
    signals.stop = None;
    group.for_each_task(|task| kill_thread(task));
    group.resume.wake_all();
}

/// Gives every thread of its process but `task` a SIGKILL of its own: it ends by itself, or goes on
/// alone.
pub(crate) fn kill_others(task: &Task, signals: &mut GroupSignals) {
    signals.stop = None;
    task.group.for_each_task(|other| {
        if !core::ptr::eq(&**other, task) {
            kill_thread(other);
        }
    });
    task.group.resume.wake_all();
}

fn kill_thread(task: &Task) {
    if takes_signals(task) {
        task.push_pending(Signal::SIGKILL, None);
        wake(task, true);
    }
}

/// Marks the thread and ends its sleep.
pub(crate) fn wake(task: &Task, kill: bool) {
    task.set_flag(flags::SIGPENDING);
    if let Some(thread) = task.thread() {
        if kill {
            thread.interrupt_kill();
        } else {
            thread.interrupt();
        }
    }
}

/// Offers signals of the process that `task` stopped taking to its other threads.
pub(crate) fn offer_to_others(task: &Task, set: SigSet) {
    let mut rest = set;
    task.group.for_each_task(|other| {
        if rest.is_empty() || core::ptr::eq(&**other, task) || !takes_signals(other) {
            return;
        }
        let takes = rest.minus(other.blocked());
        if !takes.is_empty() {
            rest = rest.minus(takes);
            wake(other, false);
        }
    });
}

/// Delivers a signal that the current thread caused itself and cannot escape: if it is blocked or
/// ignored, the default action replaces the handler (`signal(7)`, "synchronously generated").
pub fn force(task: &Task, info: SigInfo) {
    let Some(signal) = info.signal() else { return };
    let Some(hand) = task.sighand() else { return };
    let action = hand.get(signal);
    let blocked = task.blocked().contains(signal);
    if blocked || is_ignored(&action, signal) {
        hand.reset(signal);
        if blocked {
            let mut mask = task.blocked();
            mask.remove(signal);
            super::set_blocked(task, mask);
        }
    }
    if hand.get(signal).handler == SIG_DFL {
        // Even process 1 dies of its own faults.
        task.group.is_unkillable.store(false, core::sync::atomic::Ordering::Relaxed);
    }
    send_to_task(task, info);
}

/// [`force`] for a fault at `address`.
pub fn force_fault(task: &Task, signal: Signal, code: i32, address: u64) {
    force(task, SigInfo::fault(signal, code, address));
}

/// Interrupts every thread of the process (used by the freezer and exec).
pub fn interrupt_all(group: &ThreadGroup) {
    for task in group.tasks() {
        wake(&task, false);
    }
}
