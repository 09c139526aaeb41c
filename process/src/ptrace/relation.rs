//! Who traces whom: beginning, ending, and what is left when one of the two ends.

use super::stop::child_info;
use super::tracer;
use crate::exit;
use crate::group::{ThreadGroup, tree};
use crate::signal::{self, send};
use crate::task::{Life, Task, may_inspect};
use crate::usage::Usage;
use crate::wait::Report;
use abi::ptrace::option;
use abi::signal::{SigInfo, Signal, si};
use abi::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::thread::flags;
use core::sync::atomic::Ordering;
use vfs::cred::{Cap, Creds};

/// A traced thread that has ended; its process has not, or it was not its last thread.
pub(crate) struct ThreadExit {
    pub(crate) pid: Arc<crate::pid::Pid>,
    pub(crate) pgrp: Arc<crate::pid::Pid>,
    pub(crate) tracer: Weak<Task>,
    pub(crate) report: Report,
}

/// Under which a tracer keeps the thread.
pub(super) fn key(task: &Task) -> u64 {
    task.thread().map_or(0, |thread| thread.id)
}

/// Makes `tracer` trace `target`. The tree is locked.
fn link(tracer: &Task, target: &Arc<Task>, is_seized: bool, options: u32) -> Result<()> {
    if target.life() != Life::Alive {
        return Err(Errno::EPERM);
    }
    {
        let mut state = target.tracing.state.lock();
        if state.tracer.is_some() {
            return Err(Errno::EPERM);
        }
        state.tracer = Some(tracer.weak());
        (state.is_seized, state.options, state.message) = (is_seized, options, 0);
        target.tracing.is_traced.store(true, Ordering::Relaxed);
    }
    let mut family = tracer.group.family.lock();
    family.traces.get_or_insert_default().threads.insert(key(target), target.clone());
    Ok(())
}

/// Ends the tracing of `target`, which goes on with `signal`. The tree is locked; what is returned
/// is to be dropped without it.
fn unlink(target: &Task, signal: i32) -> Option<Arc<Task>> {
    let tracing = &target.tracing;
    let owner = {
        let mut state = tracing.state.lock();
        let owner = state.tracer.take();
        (state.is_seized, state.options, state.is_listening) = (false, 0, false);
        if state.stop.is_some() && state.resume.is_none() {
            state.resume = Some((signal, super::Resume::Continue));
        }
        tracing.is_traced.store(false, Ordering::Relaxed);
        owner
    };
    tracing.trap.store(false, Ordering::Relaxed);
    tracing.stop_done.store(0, Ordering::Relaxed);
    target.clear_flag(flags::PTRACE_SYSCALL);
    // A stop of its process holds it again.
    target.set_flag(flags::SIGPENDING);
    tracing.resume.wake_all();
    let group = owner?.upgrade()?.group.clone();
    let mut family = group.family.lock();
    let traces = family.traces.as_mut()?;
    traces.news.remove(key(target));
    traces.threads.remove(&key(target))
}

/// [`link`] if `caller` has the right, with no `execve(2)` of the target between the two.
fn take_on(caller: &Task, target: &Arc<Task>, is_seized: bool, options: u32) -> Result<()> {
    if Arc::ptr_eq(&caller.group, &target.group) {
        return Err(Errno::EPERM);
    }
    let _program = target.group.program_lock.lock()?;
    may_inspect(caller, target)?;
    let _tree = tree();
    link(caller, target, is_seized, options)
}

/// `PTRACE_ATTACH`: `EPERM` without the right, or if it is traced already.
pub fn attach(caller: &Task, target: &Arc<Task>) -> Result<()> {
    take_on(caller, target, false, 0)?;
    signal::send_to_task(target, SigInfo::new(Signal::SIGSTOP, si::KERNEL));
    // Where it stands in a stop of its process, it is to stop for the tracer instead.
    target.group.resume.wake_all();
    Ok(())
}

/// `PTRACE_SEIZE` with these options.
pub fn seize(caller: &Task, target: &Arc<Task>, options: u64) -> Result<()> {
    let options = u32::try_from(options).map_err(|_| Errno::EIO)?;
    if options & !option::MASK != 0 {
        return Err(Errno::EIO);
    }
    take_on(caller, target, true, options)?;
    target.group.resume.wake_all();
    Ok(())
}

/// Whether `tracer` may be asked to trace `child`: it must be able to do what the child can, or
/// have `CAP_SYS_PTRACE` where the child lives.
fn may_be_tracer(tracer: &Creds, child: &Creds) -> bool {
    let covers =
        Arc::ptr_eq(&tracer.user_ns, &child.user_ns) && child.permitted.is_subset(tracer.permitted);
    covers || tracer.ns_capable(&child.user_ns, Cap::SYS_PTRACE)
}

/// `PTRACE_TRACEME`: the thread that made this process traces the caller. `EPERM` if it is traced
/// already, or for a tracer that could not do as much as the caller can.
pub fn trace_me(task: &Task) -> Result<()> {
    let this = task.arc().ok_or(Errno::ESRCH)?;
    let _program = task.group.program_lock.lock()?;
    let _tree = tree();
    let (thread, parent) = {
        let kin = task.group.kin.lock();
        (kin.parent_thread.upgrade(), kin.parent.upgrade())
    };
    let alive = |task: &Arc<Task>| task.life() == Life::Alive;
    let tracer = thread.filter(alive).or_else(|| parent.and_then(|group| group.any_task()));
    let tracer = tracer.ok_or(Errno::EPERM)?;
    if !may_be_tracer(&tracer.creds(), &task.creds()) {
        return Err(Errno::EPERM);
    }
    link(&tracer, &this, false, 0)
}

/// `PTRACE_DETACH`: the caller has checked that it is stopped.
pub fn detach(target: &Task, signal: i32) {
    let gone = {
        let _tree = tree();
        unlink(target, signal)
    };
    drop(gone);
}

/// A child of a traced thread: traced as well if the event of the fork was asked for. The tree is
/// locked and the child does not run yet.
pub(crate) fn adopt_child(parent: &Task, child: &Arc<Task>, is_wanted: bool) {
    if !is_wanted {
        return;
    }
    let Some(tracer) = tracer(parent) else { return };
    let (is_seized, options) = {
        let state = parent.tracing.state.lock();
        (state.is_seized, state.options)
    };
    if link(&tracer, child, is_seized, options).is_err() {
        return;
    }
    if is_seized {
        child.tracing.trap.store(true, Ordering::Relaxed);
    } else {
        child.push_pending(Signal::SIGSTOP, None);
    }
    child.set_flag(flags::SIGPENDING);
}

/// The process that traces the task, and its number there; for `/proc/PID/status`.
pub fn tracer_of(task: &Task) -> Option<Arc<Task>> {
    tracer(task)
}

/// What a tracer that ended leaves behind.
#[derive(Default)]
pub(crate) struct Left {
    /// Ended processes that their parents can wait for now.
    pub(crate) zombies: Vec<Arc<ThreadGroup>>,
    /// Traced threads, to be dropped without locks; those to be killed.
    pub(crate) freed: Vec<Arc<Task>>,
    pub(crate) killed: Vec<Arc<Task>>,
    /// Ended threads that nobody waits for any more, to be dropped without locks too.
    exits: VecDeque<ThreadExit>,
}

/// The thread ends: what it traced goes on, or dies if it said so. The tree is locked.
pub(crate) fn tracer_ended(task: &Task) -> Left {
    let mut left = Left::default();
    let mine = |weak: &Weak<Task>| core::ptr::eq(weak.as_ptr(), task);
    let traced: Vec<Arc<Task>> = {
        let mut family = task.group.family.lock();
        let Some(traces) = family.traces.as_mut().filter(|traces| !traces.is_empty()) else {
            return left;
        };
        let (own, others) =
            core::mem::take(&mut traces.exits).into_iter().partition(|e| mine(&e.tracer));
        (left.exits, traces.exits) = (own, others);
        let gone: Vec<u64> = traces
            .zombies
            .iter()
            .filter(|(_, (_, tracer))| mine(tracer))
            .map(|(birth, _)| *birth)
            .collect();
        left.zombies
            .extend(gone.iter().filter_map(|birth| traces.zombies.remove(birth)).map(|z| z.0));
        traces.threads.values().cloned().collect()
    };
    for target in traced {
        let (is_mine, kills) = {
            let state = target.tracing.state.lock();
            (state.tracer.as_ref().is_some_and(mine), state.options & option::EXITKILL != 0)
        };
        if is_mine {
            left.freed.extend(unlink(&target, 0));
            if kills {
                left.killed.push(target);
                continue;
            }
        }
        left.freed.push(target);
    }
    left
}

/// A traced thread that does not lead its process ends: the tracer can wait for it. The tree is
/// locked. Returns whom to tell what.
pub(crate) fn thread_ended(task: &Task) -> Option<(Arc<ThreadGroup>, SigInfo, Option<Arc<Task>>)> {
    let tracer = tracer(task)?;
    let group = tracer.group.clone();
    let gone = unlink(task, 0);
    let status = {
        let shared = task.group.signals.lock().exit_code;
        shared.unwrap_or_else(|| task.exit_code.load(Ordering::Relaxed))
    };
    let (code, value) = exit::decode_status(status);
    let report = Report {
        pid: task.pid().number_in(group.pid_ns()),
        uid: tracer.creds().user_ns.uid_in(task.creds().uid),
        status,
        code,
        value,
        usage: Usage::of(task),
    };
    let exit =
        ThreadExit { pid: task.pid(), pgrp: task.group.pgrp(), tracer: tracer.weak(), report };
    group.family.lock().traces.get_or_insert_default().exits.push_back(exit);
    Some((group.clone(), child_info(task, &group, code, value), gone))
}

/// Another thread becomes the leader in the place of `old`, in `execve(2)`: it is traced no longer
/// and nobody waits for it. The tree is locked. Returns the tracer, who is to look again.
pub(crate) fn leader_replaced(old: &Task) -> Option<Arc<ThreadGroup>> {
    let tracer = tracer(old)?;
    // The caller has the thread: this is not the last reference.
    unlink(old, 0);
    Some(tracer.group.clone())
}

/// A process whose leader is traced has ended. If the tracer is not the parent, the tracer can wait
/// for it first: returns whom to tell what. The tree is locked; `freed` is to be dropped without it.
pub(crate) fn process_ended(
    group: &Arc<ThreadGroup>,
    leader: &Task,
    parent: &Arc<ThreadGroup>,
    freed: &mut Vec<Arc<Task>>,
) -> Option<(Arc<ThreadGroup>, SigInfo)> {
    let tracer = tracer(leader)?;
    freed.extend(unlink(leader, 0));
    if Arc::ptr_eq(&tracer.group, parent) {
        return None;
    }
    let watcher = tracer.group.clone();
    group.kin.lock().is_held = true;
    let entry = (group.clone(), tracer.weak());
    let mut family = watcher.family.lock();
    family.traces.get_or_insert_default().zombies.insert(group.birth, entry);
    drop(family);
    let (code, value) = exit::decode_status(exit::exit_status(group, leader));
    let info = child_info(leader, &watcher, code, value);
    Some((watcher, info))
}

/// Interrupts the thread so that it stops soon.
pub(super) fn interrupt(target: &Task) {
    target.tracing.trap.store(true, Ordering::Relaxed);
    {
        let _signals = target.group.signals.lock();
        send::wake(target, false);
    }
    target.tracing.poke_listener();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::creds::{initial_user_ns, setresuid};
    use vfs::cred::CapSet;

    #[test]
    fn tracer_can_do_what_its_child_can() {
        let root = Creds::root(initial_user_ns().clone());
        let user = setresuid(&root, [1000; 3]).expect("root may");
        assert!(may_be_tracer(&user, &user));
        assert!(may_be_tracer(&root, &user));
        assert!(!may_be_tracer(&user, &root));
        let mut tracer = user;
        (tracer.permitted, tracer.effective) =
            (CapSet::EMPTY.with(Cap::SYS_PTRACE), CapSet::EMPTY.with(Cap::SYS_PTRACE));
        assert!(may_be_tracer(&tracer, &root));
    }
}
