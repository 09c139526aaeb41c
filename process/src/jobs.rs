//! Sessions, process groups and terminals: `setsid(2)`, `setpgid(2)`, and what terminals ask of the
//! process layer ([`tty::JobControl`]).

use crate::group::{ThreadGroup, tree};
use crate::pid::Pid;
use crate::signal::{self, stop};
use crate::task::Task;
use abi::signal::{SigInfo, Signal, si};
use abi::{Errno, Result};
use alloc::sync::Arc;
use core::mem::replace;
use core::sync::atomic::Ordering;
use tty::{Caller, JobControl, PidRef, Tty};

/// `setsid(2)`: a new session with a new process group, without a terminal.
pub fn setsid(task: &Task) -> Result<i32> {
    let group = &task.group;
    {
        let _tree = tree();
        let pid = group.pid();
        if pid.is_process_group() || group.is_session_leader() {
            return Err(Errno::EPERM);
        }
        move_to(group, pid, Some(pid))?;
    }
    group.set_terminal(None);
    Ok(group.tgid())
}

/// Moves a process to another process group and session. The tree is locked.
fn move_to(group: &ThreadGroup, pgrp: &Arc<Pid>, session: Option<&Arc<Pid>>) -> Result<()> {
    let this = group.arc().ok_or(Errno::ESRCH)?;
    let (mut old_pgrp, mut old_session) = (None, None);
    // The new ones are joined before the old ones are left, so that no number is freed between.
    {
        let mut kin = group.kin.lock();
        if !Arc::ptr_eq(&kin.pgrp, pgrp) {
            let key = replace(&mut kin.pgrp_key, pgrp.attach_member(&this));
            old_pgrp = Some((replace(&mut kin.pgrp, pgrp.clone()), key));
        }
        if let Some(session) = session.filter(|session| !Arc::ptr_eq(&kin.session, session)) {
            let key = replace(&mut kin.session_key, session.attach_session(&this));
            old_session = Some((replace(&mut kin.session, session.clone()), key));
        }
    }
    if let Some((pgrp, key)) = old_pgrp {
        pgrp.detach_member(key);
    }
    if let Some((session, key)) = old_session {
        session.detach_session(key);
    }
    Ok(())
}

/// `setpgid(2)`.
pub fn setpgid(task: &Task, pid: i32, pgid: i32) -> Result<()> {
    let ns = task.group.pid_ns();
    let pid = if pid == 0 { task.group.tgid() } else { pid };
    let pgid = if pgid == 0 { pid } else { pgid };
    if pgid < 0 {
        return Err(Errno::EINVAL);
    }
    let target = ns.task(pid).ok_or(Errno::ESRCH)?;
    let _tree = tree();
    if !target.is_leader() {
        return Err(Errno::EINVAL);
    }
    let group = &target.group;
    let is_child = group.parent().is_some_and(|p| Arc::ptr_eq(&p, &task.group));
    if is_child {
        if !Arc::ptr_eq(&group.session(), &task.group.session()) {
            return Err(Errno::EPERM);
        }
        if group.has_execed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    } else if !Arc::ptr_eq(group, &task.group) {
        return Err(Errno::ESRCH);
    }
    if group.is_session_leader() {
        return Err(Errno::EPERM);
    }
    let pgrp = if pgid == pid {
        group.pid().clone()
    } else {
        let pgrp = ns.find(pgid).ok_or(Errno::EPERM)?;
        let same_session = pgrp
            .first_member()
            .is_some_and(|member| Arc::ptr_eq(&member.session(), &task.group.session()));
        if !same_session {
            return Err(Errno::EPERM);
        }
        pgrp
    };
    if Arc::ptr_eq(&group.pgrp(), &pgrp) {
        return Ok(());
    }
    move_to(group, &pgrp, None)
}

/// The process leads its session and ends: the terminal is free again.
pub(crate) fn session_exit(group: &ThreadGroup) {
    if group.is_session_leader()
        && let Some(tty) = group.terminal()
    {
        tty.session_leader_exited(&PidRef::new(group.session()));
    }
    let foreground = group.old_foreground.lock().take();
    if let Some(pgrp) = foreground {
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            signal::send_to_pgrp(&pgrp, SigInfo::new(signal, si::KERNEL));
        }
    }
    group.set_terminal(None);
}

/// The process layer as terminals see it.
pub struct Jobs;

fn current_group() -> Option<&'static ThreadGroup> {
    crate::try_current().map(|task| &*task.group)
}

/// The number in a namespace of a session or group that a terminal keeps.
pub fn number_of(pid: &PidRef, ns: &Arc<crate::pid::PidNamespace>) -> Option<i32> {
    pid_of(pid).map(|pid| pid.number_in(ns)).filter(|number| *number != 0)
}

fn pid_of(pid: &PidRef) -> Option<Arc<Pid>> {
    pid.downcast::<Pid>()
}

fn info(signal: i32) -> Option<SigInfo> {
    Signal::new(signal).map(|signal| SigInfo::new(signal, si::KERNEL))
}

impl JobControl for Jobs {
    fn caller(&self) -> Option<Caller> {
        let group = current_group()?;
        Some(Caller {
            session: PidRef::new(group.session()),
            group: PidRef::new(group.pgrp()),
            is_leader: group.is_session_leader(),
            is_orphaned: stop::is_orphaned(group),
        })
    }

    fn controlling_tty(&self) -> Option<Arc<Tty>> {
        current_group()?.terminal()
    }

    fn set_controlling_tty(&self, session: &PidRef, tty: Option<Arc<Tty>>) {
        let Some(session) = pid_of(session) else { return };
        match &tty {
            // A new terminal is the leader's; who is born later inherits it.
            Some(_) => {
                for member in session.session_members() {
                    if member.terminal().is_none() {
                        member.set_terminal(tty.clone());
                    }
                }
            }
            None => {
                for member in session.session_members() {
                    member.set_terminal(None);
                }
            }
        }
    }

    fn drop_controlling_tty(&self) {
        if let Some(group) = current_group() {
            group.set_terminal(None);
        }
    }

    fn is_ignored(&self, signal: i32) -> bool {
        let Some(task) = crate::try_current() else { return false };
        let Some(signal) = Signal::new(signal) else { return false };
        let hand = task.sighand();
        task.blocked().contains(signal)
            || hand.is_some_and(|h| h.get(signal).handler == abi::signal::SIG_IGN)
    }

    fn signal_group(&self, group: &PidRef, signal: i32) {
        if let (Some(pgrp), Some(info)) = (pid_of(group), info(signal)) {
            signal::send_to_pgrp(&pgrp, info);
        }
    }

    fn hung_up(&self, session: &PidRef, foreground: Option<PidRef>) {
        let Some(session) = pid_of(session) else { return };
        let leader = session.group();
        for member in session.session_members() {
            member.set_terminal(None);
        }
        if let Some(leader) = leader {
            *leader.old_foreground.lock() = foreground.as_ref().and_then(pid_of);
            for signal in [Signal::SIGHUP, Signal::SIGCONT] {
                let _ = signal::send_to_group(&leader, SigInfo::new(signal, si::KERNEL));
            }
        }
    }

    fn number(&self, pid: &PidRef) -> i32 {
        match (pid_of(pid), current_group()) {
            (Some(pid), Some(group)) => pid.number_in(group.pid_ns()),
            _ => 0,
        }
    }

    fn find_group(&self, number: i32) -> Option<(PidRef, PidRef)> {
        let pgrp = current_group()?.pid_ns().find(number)?;
        let session = pgrp.first_member()?.session();
        Some((PidRef::new(pgrp), PidRef::new(session)))
    }

    fn is_capable(&self, capability: u32) -> bool {
        crate::try_current().is_none_or(|task| {
            let creds = task.creds();
            creds.user_ns.is_initial() && creds.effective.0 & 1 << capability != 0
        })
    }
}
