//! Death: of one thread, of a process, and what it leaves to its relatives.
//!
//! A thread gives up what it holds (robust futexes, address space, descriptors), then takes its
//! place among the dead under the tree lock. The last thread of a process makes it a zombie and
//! tells the parent, or, when the parent does not care, buries it at once.

use crate::group::{ThreadGroup, tree};
use crate::signal::{self, stop};
use crate::task::{Life, Task};
use crate::usage::Usage;
use abi::poll::{POLLIN, POLLRDNORM};
use abi::signal::{SIG_IGN, SigInfo, Signal, sa, si};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use core::sync::atomic::Ordering;

/// Ends the process of the running task with the wait status `code`.
pub fn exit_group(task: &Task, code: i32) -> ! {
    let code = {
        let mut signals = task.group.signals.lock();
        match signals.exit_code {
            Some(first) => first,
            None => {
                signals.exit_code = Some(code);
                if !task.group.is_single_threaded() {
                    signal::send::kill_others(task, &mut signals);
                }
                code
            }
        }
    };
    exit_thread(code)
}

/// Ends the running thread with the wait status `code`.
pub fn exit_thread(code: i32) -> ! {
    if let Some(task) = crate::try_current() {
        leave(task, code);
    }
    sched::exit()
}

fn leave(task: &Task, code: i32) {
    crate::ptrace::exit_stop(task, code);
    task.exit_code.store(code, Ordering::Relaxed);
    {
        let signals = task.group.signals.lock();
        task.set_life(Life::Exiting);
        // What was meant for the process and this thread would have taken goes to another.
        let shared = signals.pending.set().minus(task.blocked());
        // Where all end nobody takes it, and to ask each thread for each would take for ever.
        if !shared.is_empty() && !signals.is_exiting() {
            signal::send::offer_to_others(task, shared);
        }
    }
    stop::thread_left(task);
    let is_last = task.group.live_count.fetch_sub(1, Ordering::AcqRel) == 1;
    if is_last {
        check_init(task, code);
        task.group.timers.cancel_all();
    } else {
        crate::timers::thread_ended(task);
    }
    crate::futex::thread_exit(task);
    if let Some(mm) = task.mm().filter(|_| is_last) {
        task.group.keep_peak(&mm);
    }
    release_memory(task);
    crate::ipc::sem::thread_exit(task);
    if is_last {
        crate::ipc::process_exit(task);
    }
    task.files.set(None);
    task.fs.set(None);
    if is_last {
        crate::jobs::session_exit(&task.group);
        task.group.exe.set(None);
    }
    let ns = task.ns();
    if is_last && task.group.pid_ns().init().is_some_and(|i| core::ptr::eq(&*i, &*task.group)) {
        end_namespace(task);
    }
    drop(ns);
    task.ns.set(None);
    task.seccomp.set(None);
    bury_thread(task);
}

/// The first process must not end.
fn check_init(task: &Task, code: i32) {
    if task.group.pid_ns().level == 0 && task.group.tgid() == 1 {
        panic!("Attempted to kill init! exitcode=0x{code:08x}");
    }
}

/// Gives up the address space: `CLONE_CHILD_CLEARTID`, the parent of a `vfork(2)`.
pub(crate) fn release_memory(task: &Task) {
    let address = task.clear_child_tid.swap(0, Ordering::Relaxed);
    if let Some(mm) = task.mm() {
        if address != 0 && crate::mm_is_shared(&mm, 2) {
            let at = VirtAddr(address);
            let _ = arch::user::store_u32(at, 0);
            let _ = crate::futex::wake(task, at, crate::futex::Scope::Shared, 1, u32::MAX);
        }
        crate::set_address_space(task, None);
        drop(mm);
    }
    complete_vfork(task);
}

/// Lets the parent of a `vfork(2)` go on.
pub(crate) fn complete_vfork(task: &Task) {
    let done = task.vfork_done.lock().take();
    if let Some(done) = done {
        done.complete();
    }
}

/// Process 1 of a namespace ends: everything in it dies with it, and is waited for.
fn end_namespace(task: &Task) {
    let ns = task.group.pid_ns().clone();
    ns.mark_dead();
    for group in ns.groups() {
        if !Arc::ptr_eq(&group, &task.group) {
            let _ = signal::send_to_group(&group, SigInfo::new(Signal::SIGKILL, si::KERNEL));
        }
    }
    let all = crate::wait::Request {
        target: crate::wait::Target::Any,
        options: abi::process::wait::WEXITED | abi::process::wait::WALL,
    };
    loop {
        task.clear_flag(arch::thread::flags::SIGPENDING);
        match crate::wait::wait(task, &all) {
            Ok(Some(_)) => {}
            Err(abi::Errno::ECHILD) | Ok(None) => break,
            Err(_) => {}
        }
    }
}

/// What has to be done after the tree lock is released.
#[derive(Default)]
struct After {
    notify: Vec<(Arc<ThreadGroup>, SigInfo)>,
    wake: Vec<Arc<ThreadGroup>>,
    reap: Vec<Arc<ThreadGroup>>,
    hangup: Vec<Arc<crate::pid::Pid>>,
    /// Threads that were traced, to be dropped without the lock.
    freed: Vec<Arc<Task>>,
}

impl After {
    fn run(self) {
        for (group, info) in self.notify {
            let _ = signal::send_to_group(&group, info);
        }
        for pgrp in self.hangup {
            signal::send_to_pgrp(&pgrp, SigInfo::new(Signal::SIGHUP, si::KERNEL));
            signal::send_to_pgrp(&pgrp, SigInfo::new(Signal::SIGCONT, si::KERNEL));
        }
        for parent in self.wake {
            parent.child_wait.wake_all();
        }
        for group in self.reap {
            release(&group, None);
        }
        drop(self.freed);
    }
}

/// Takes the thread out of its process; the last one ends the process.
fn bury_thread(task: &Task) {
    let group = &task.group;
    let mut after = After::default();
    death_signals(task);
    let mut left;
    let mut has_ended = false;
    let removed = {
        let _tree = tree();
        left = crate::ptrace::tracer_ended(task);
        for zombie in core::mem::take(&mut left.zombies) {
            hand_over(&zombie, &mut after);
        }
        crate::cgroup::ended(task);
        let is_leader = task.is_leader();
        let removed = if is_leader {
            task.set_life(Life::Zombie);
            None
        } else {
            task.set_life(Life::Dead);
            if let Some((tracer, info, freed)) = crate::ptrace::thread_ended(task) {
                after.notify.push((tracer.clone(), info));
                after.wake.push(tracer);
                left.freed.extend(freed);
            }
            task.pid().detach_task();
            group.remove_thread(task)
        };
        let leader = group.leader();
        let is_complete =
            group.thread_count() == 1 && leader.as_ref().is_some_and(|l| l.life() == Life::Zombie);
        if is_complete && let Some(leader) = leader {
            end_process(group, &leader, &mut after);
            has_ended = true;
        }
        removed
    };
    // A thread in execve(2) waits for the others to be gone.
    group.resume.wake_all();
    if has_ended {
        // Listeners have locks that the tree's must not be held with.
        group.pid().exited.notify(POLLIN | POLLRDNORM);
    }
    after.run();
    for killed in &left.killed {
        signal::send_to_task(killed, SigInfo::new(Signal::SIGKILL, si::KERNEL));
    }
    drop(left);
    drop(removed);
}

/// The tracer of a process that has ended is done with it: now its parent may wait for it. The tree
/// is locked.
fn hand_over(group: &Arc<ThreadGroup>, after: &mut After) {
    let parent = {
        let mut kin = group.kin.lock();
        kin.is_held = false;
        kin.parent.upgrade()
    };
    if let (Some(parent), Some(leader)) = (parent, group.leader()) {
        announce(group, &leader, &parent, after);
    }
}

/// [`hand_over`] by the tracer itself, which has waited for the process.
pub(crate) fn hand_over_to_parent(group: &Arc<ThreadGroup>) {
    let mut after = After::default();
    {
        let _tree = tree();
        hand_over(group, &mut after);
    }
    after.run();
}

/// `PR_SET_PDEATHSIG`: children of this thread that want to know.
fn death_signals(task: &Task) {
    if !task.group.has_death_signals.load(Ordering::Relaxed) {
        return;
    }
    for child in task.group.children() {
        let is_mine = core::ptr::eq(child.kin.lock().parent_thread.as_ptr(), task);
        if !is_mine {
            continue;
        }
        for thread in child.tasks() {
            let signal = thread.parent_death_signal.load(Ordering::Relaxed);
            if let Some(signal) = Signal::new(signal) {
                signal::send_to_task(&thread, SigInfo::from_user(signal, si::USER, 0, 0));
            }
        }
    }
}

/// All threads of `group` have ended. The tree is locked.
fn end_process(group: &Arc<ThreadGroup>, leader: &Task, after: &mut After) {
    adopt_children(group, after);
    let (pgrp, parent) = {
        let mut kin = group.kin.lock();
        kin.is_zombie = true;
        (kin.pgrp.clone(), kin.parent.upgrade())
    };
    let Some(parent) = parent else {
        // The kernel itself started it, and does not wait.
        after.reap.push(group.clone());
        return;
    };
    // Its group may have lost its last link to the rest of the session.
    if !Arc::ptr_eq(&parent.pgrp(), &pgrp)
        && Arc::ptr_eq(&parent.session(), &group.session())
        && stop::is_orphaned_locked(&pgrp, Some(group))
        && stop::has_stopped_member(&pgrp)
    {
        after.hangup.push(pgrp);
    }
    let watcher = crate::ptrace::process_ended(group, leader, &parent, &mut after.freed);
    if let Some((tracer, info)) = watcher {
        after.notify.push((tracer.clone(), info));
        after.wake.push(tracer);
        return;
    }
    announce(group, leader, &parent, after);
}

/// Tells `parent` that `group` has ended, or reaps it if the parent ignores its children.
fn announce(group: &Arc<ThreadGroup>, leader: &Task, parent: &Arc<ThreadGroup>, after: &mut After) {
    let exit_signal = Signal::new(group.exit_signal.load(Ordering::Relaxed));
    let hand = parent.any_task().or_else(|| parent.leader()).and_then(|t| t.sighand());
    let action = hand.map(|h| h.get(Signal::SIGCHLD)).unwrap_or_default();
    let ignores = action.handler == SIG_IGN;
    let auto_reap =
        exit_signal == Some(Signal::SIGCHLD) && (ignores || action.flags & sa::NOCLDWAIT != 0);
    let status = exit_status(group, leader);
    if let Some(signal) = exit_signal
        && !(signal == Signal::SIGCHLD && ignores)
    {
        let (code, value) = decode_status(status);
        let mut info = stop::child_info(group, parent, code, value);
        info.signo = signal.raw() as i32;
        after.notify.push((parent.clone(), info));
    }
    if auto_reap {
        after.reap.push(group.clone());
    } else {
        parent.family.lock().children.announce(group);
    }
    after.wake.push(parent.clone());
}

/// The wait status of a process that has ended.
pub(crate) fn exit_status(group: &ThreadGroup, leader: &Task) -> i32 {
    let shared = group.signals.lock().exit_code;
    shared.unwrap_or_else(|| leader.exit_code.load(Ordering::Relaxed))
}

/// `si_code` and `si_status` for a wait status.
pub(crate) fn decode_status(status: i32) -> (i32, i32) {
    match status & 0x7f {
        0 => (si::CLD_EXITED, (status >> 8) & 0xff),
        signal if status & 0x80 != 0 => (si::CLD_DUMPED, signal),
        signal => (si::CLD_KILLED, signal),
    }
}

/// Finds who takes the children of `group`: the nearest living subreaper, else process 1.
fn find_reaper(group: &Arc<ThreadGroup>) -> Option<Arc<ThreadGroup>> {
    let init = group.pid_ns().init();
    if group.has_subreaper_ancestor.load(Ordering::Relaxed) {
        let mut at = group.parent();
        while let Some(ancestor) = at {
            if init.as_ref().is_some_and(|i| Arc::ptr_eq(i, &ancestor)) {
                break;
            }
            if !Arc::ptr_eq(ancestor.pid_ns(), group.pid_ns()) {
                break;
            }
            if ancestor.is_subreaper.load(Ordering::Relaxed) && ancestor.any_task().is_some() {
                return Some(ancestor);
            }
            at = ancestor.parent();
        }
    }
    match init {
        Some(init) if !Arc::ptr_eq(&init, group) => Some(init),
        // Process 1 of a namespace itself ends: its parent's reaper takes what is left.
        _ => crate::pid::PidNamespace::initial().init().filter(|i| !Arc::ptr_eq(i, group)),
    }
}

/// Gives the children of `group` to another parent. The tree is locked.
fn adopt_children(group: &Arc<ThreadGroup>, after: &mut After) {
    let children = {
        let mut family = group.family.lock();
        if family.children.is_empty() {
            return;
        }
        family.children.take()
    };
    let Some(reaper) = find_reaper(group) else { return };
    let thread = reaper.any_task().map_or_else(alloc::sync::Weak::new, |t| t.weak());
    let own_pgrp = group.pgrp();
    let own_session = group.session();
    for child in children {
        child.set_parent(&reaper, thread.clone());
        child.exit_signal.store(Signal::SIGCHLD.raw() as i32, Ordering::Relaxed);
        let has_ended = child.kin.lock().is_waitable;
        reaper.family.lock().children.add(&child);
        if has_ended {
            if let Some(leader) = child.leader() {
                announce(&child, &leader, &reaper, after);
            }
            continue;
        }
        let pgrp = child.pgrp();
        if !Arc::ptr_eq(&pgrp, &own_pgrp)
            && Arc::ptr_eq(&child.session(), &own_session)
            && stop::is_orphaned_locked(&pgrp, None)
            && stop::has_stopped_member(&pgrp)
            && !after.hangup.iter().any(|p| Arc::ptr_eq(p, &pgrp))
        {
            after.hangup.push(pgrp);
        }
    }
}

/// Removes an ended process from all tables: its number is free afterwards. `used` is what it has
/// used, if that is known.
pub(crate) fn release(group: &Arc<ThreadGroup>, used: Option<Usage>) {
    let gone = {
        let _tree = tree();
        let parent = group.parent();
        let child = parent.as_ref().and_then(|it| it.family.lock().children.remove(group));
        {
            let kin = group.kin.lock();
            kin.pgrp.detach_member(kin.pgrp_key);
            kin.session.detach_session(kin.session_key);
        }
        let leader = group.remove_leader(used);
        if let Some(leader) = &leader {
            leader.set_life(Life::Dead);
        }
        group.pid().detach_process();
        (leader, child, parent)
    };
    drop(gone);
}

/// Signals every other thread of the process to end and waits until the running task is alone: the
/// first step past the point of no return of `execve(2)`. The running task is the leader, by
/// number too, when this returns. Fails if the process is ending anyway.
pub(crate) fn become_alone(task: &Task) -> abi::Result<()> {
    let group = &task.group;
    let key = task.thread_key.load(Ordering::Relaxed);
    {
        let mut signals = group.signals.lock();
        if signals.is_exiting() || signals.exec_by.is_some() {
            return Err(abi::Errno::EAGAIN);
        }
        if group.is_single_threaded() && group.thread_count() == 1 {
            return Ok(());
        }
        signals.exec_by = Some(key);
        signal::send::kill_others(task, &mut signals);
    }
    // The old leader stays as a zombie thread; everybody else disappears.
    let is_leader = task.is_leader();
    let wanted = if is_leader { 1 } else { 2 };
    group.resume.wait(|| {
        let gone = group.thread_count() <= wanted
            && (is_leader || group.leader().is_none_or(|l| l.life() == Life::Zombie));
        (gone || group.signals.lock().is_exiting()).then_some(())
    });
    if group.signals.lock().is_exiting() {
        group.signals.lock().exec_by = None;
        return Err(abi::Errno::EAGAIN);
    }
    if !is_leader {
        take_over(task);
    }
    group.signals.lock().exec_by = None;
    Ok(())
}

/// Makes the running task the leader: it takes over the process's number and its own is freed.
fn take_over(task: &Task) {
    let group = &task.group;
    let (removed, untraced) = {
        let _tree = tree();
        let Some(old) = group.leader() else { return };
        // Its tracer sees it vanish: ptrace(2), "execve(2) under ptrace".
        let untraced = crate::ptrace::leader_replaced(&old);
        let own = task.pid();
        let process = group.pid().clone();
        if let Some(this) = task.arc() {
            process.attach_task(&this);
            group.set_leader(&this);
        }
        task.replace_pid(process);
        own.detach_task();
        old.set_life(Life::Dead);
        old.replace_pid(own);
        (group.remove_thread(&old), untraced)
    };
    if let Some(tracer) = untraced {
        tracer.child_wait.wake_all();
    }
    drop(removed);
}
