//! Signals.

use crate::Cx;
use abi::signal::{SigAction, SigInfo, SigSet, Signal, StackT, si};
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use process::signal::{self, frame, wait};
use process::{Task, ThreadGroup};

crate::syscalls! {
    13 rt_sigaction => sys_rt_sigaction(signal: Sig, new: Hex, old: Hex, size: Dec);
    14 rt_sigprocmask => sys_rt_sigprocmask(how: Dec, set: Hex, old: Hex, size: Dec);
    15 rt_sigreturn => sys_rt_sigreturn();
    34 pause => sys_pause();
    62 kill => sys_kill(pid: Dec, signal: Sig);
    127 rt_sigpending => sys_rt_sigpending(set: Hex, size: Dec);
    128 rt_sigtimedwait => sys_rt_sigtimedwait(set: Hex, info: Hex, timeout: Timespec, size: Dec);
    129 rt_sigqueueinfo => sys_rt_sigqueueinfo(pid: Dec, signal: Sig, info: Hex);
    130 rt_sigsuspend => sys_rt_sigsuspend(set: Hex, size: Dec);
    131 sigaltstack => sys_sigaltstack(new: Hex, old: Hex);
    200 tkill => sys_tkill(tid: Dec, signal: Sig);
    219 restart_syscall => sys_restart_syscall();
    234 tgkill => sys_tgkill(tgid: Dec, tid: Dec, signal: Sig);
    297 rt_tgsigqueueinfo => sys_rt_tgsigqueueinfo(tgid: Dec, tid: Dec, signal: Sig, info: Hex);
    424 pidfd_send_signal => sys_pidfd_send_signal(fd: Fd, signal: Sig, info: Hex, flags: Hex);
}

fn check_size(size: usize) -> Result<()> {
    if size == size_of::<SigSet>() { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `sigaction(2)`.
fn sys_rt_sigaction(
    cx: &mut Cx<'_>,
    signal: i32,
    new: VirtAddr,
    old: VirtAddr,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let new: Option<SigAction> = if new.is_null() { None } else { Some(user::read_val(new)?) };
    let signal = Signal::new(signal).ok_or(Errno::EINVAL)?;
    let previous = signal::replace_action(cx.task, signal, new)?;
    if !old.is_null() {
        user::write_val(old, &previous)?;
    }
    Ok(0)
}

/// `sigprocmask(2)`.
fn sys_rt_sigprocmask(
    cx: &mut Cx<'_>,
    how: i32,
    set: VirtAddr,
    old: VirtAddr,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let before = cx.task.blocked();
    if !set.is_null() {
        let set: SigSet = user::read_val(set)?;
        let mask = match how {
            0 => before.union(set),
            1 => before.minus(set),
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        signal::set_blocked(cx.task, mask);
    }
    if !old.is_null() {
        user::write_val(old, &before)?;
    }
    Ok(0)
}

fn sys_rt_sigreturn(cx: &mut Cx<'_>) -> Result<usize> {
    Ok(frame::sigreturn(cx.task, cx.frame)? as usize)
}

fn sys_pause(_: &mut Cx<'_>) -> Result<usize> {
    Err(wait::pause())
}

fn sys_rt_sigpending(cx: &mut Cx<'_>, set: VirtAddr, size: usize) -> Result<usize> {
    if size > size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let pending = signal::all_pending(cx.task).intersection(cx.task.blocked());
    let bytes = pending.0.to_le_bytes();
    user::copy_to_user(set, bytes.get(..size).unwrap_or(&bytes))?;
    Ok(0)
}

/// `sigtimedwait(2)`.
fn sys_rt_sigtimedwait(
    cx: &mut Cx<'_>,
    set: VirtAddr,
    info: VirtAddr,
    timeout: VirtAddr,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let set: SigSet = user::read_val(set)?;
    let limit = crate::time::read_timeout(timeout)?;
    let poll = limit == Some(0);
    let deadline = limit.map(sched::Deadline::after_ns);
    let found = wait::timed(cx.task, set, deadline, poll)?;
    if !info.is_null() {
        user::write_val(info, &found)?;
    }
    Ok(found.signo as usize)
}

fn sys_rt_sigsuspend(cx: &mut Cx<'_>, set: VirtAddr, size: usize) -> Result<usize> {
    check_size(size)?;
    let set: SigSet = user::read_val(set)?;
    Err(wait::suspend(cx.task, set))
}

fn sys_sigaltstack(cx: &mut Cx<'_>, new: VirtAddr, old: VirtAddr) -> Result<usize> {
    let sp = cx.frame.rsp;
    let new: Option<StackT> = if new.is_null() { None } else { Some(user::read_val(new)?) };
    let before = frame::shown_altstack(cx.task, sp);
    if let Some(new) = new {
        frame::set_altstack(cx.task, new, sp)?;
    }
    if !old.is_null() {
        user::write_val(old, &before)?;
    }
    Ok(0)
}

fn sys_restart_syscall(cx: &mut Cx<'_>) -> Result<usize> {
    match cx.task.take_restart() {
        Some(how) => how(cx.task),
        None => Err(Errno::EINTR),
    }
}

/// The signal in a register; 0 asks for the permission check only.
fn signal_or_probe(raw: i32) -> Result<Option<Signal>> {
    if raw == 0 { Ok(None) } else { Signal::new(raw).map(Some).ok_or(Errno::EINVAL) }
}

/// `si_pid` and `si_uid` of what `cx` sends, as `target` sees them.
fn from_me(cx: &Cx<'_>, target: &ThreadGroup, signal: Signal, code: i32) -> SigInfo {
    let pid = cx.task.group.pid().number_in(target.pid_ns());
    let uid = cx.task.creds().uid;
    let seen = target.any_task().map_or(uid, |t| t.creds().user_ns.uid_in(uid));
    SigInfo::from_user(signal, code, pid, seen)
}

fn send_to_group(cx: &Cx<'_>, group: &ThreadGroup, signal: Option<Signal>) -> Result<()> {
    let Some(task) = group.any_task().or_else(|| group.leader()) else {
        return Err(Errno::ESRCH);
    };
    signal::may_signal(cx.task, &task, signal)?;
    match signal {
        Some(signal) => signal::send_to_group(group, from_me(cx, group, signal, si::USER)),
        None => Ok(()),
    }
}

/// `kill(2)`.
fn sys_kill(cx: &mut Cx<'_>, pid: i32, signal: i32) -> Result<usize> {
    let signal = signal_or_probe(signal);
    let ns = cx.task.group.pid_ns();
    match pid {
        _ if pid > 0 => {
            let group = ns.task(pid).ok_or(Errno::ESRCH)?.group.clone();
            send_to_group(cx, &group, signal?)?;
        }
        -1 => kill_all(cx, signal)?,
        i32::MIN => return Err(Errno::ESRCH),
        _ => {
            let pgrp =
                if pid == 0 { cx.task.group.pgrp() } else { ns.find(-pid).ok_or(Errno::ESRCH)? };
            kill_group(cx, &pgrp.members(), signal?)?;
        }
    }
    Ok(0)
}

/// One success is success; else the last error, and `ESRCH` for nobody.
fn kill_group(cx: &Cx<'_>, members: &[Arc<ThreadGroup>], signal: Option<Signal>) -> Result<()> {
    let mut outcome = Err(Errno::ESRCH);
    for member in members {
        match send_to_group(cx, member, signal) {
            Ok(()) => outcome = Ok(()),
            Err(error) if outcome.is_err() => outcome = Err(error),
            Err(_) => {}
        }
    }
    outcome
}

/// Everybody but process 1 and the caller.
fn kill_all(cx: &Cx<'_>, signal: Result<Option<Signal>>) -> Result<()> {
    let ns = cx.task.group.pid_ns();
    let mut found = false;
    let mut outcome = Ok(());
    for group in ns.groups() {
        if group.pid().number_in(ns) <= 1 || Arc::ptr_eq(&group, &cx.task.group) {
            continue;
        }
        match send_to_group(cx, &group, signal?) {
            Err(Errno::EPERM) => {}
            Err(error) => outcome = Err(error),
            Ok(()) => {}
        }
        found = true;
    }
    if found { outcome } else { Err(Errno::ESRCH) }
}

fn find_thread(cx: &Cx<'_>, tgid: i32, tid: i32) -> Result<Arc<Task>> {
    let ns = cx.task.group.pid_ns();
    let task = ns.task(tid).ok_or(Errno::ESRCH)?;
    if tgid > 0 && task.group.pid().number_in(ns) != tgid {
        return Err(Errno::ESRCH);
    }
    Ok(task)
}

fn send_to_thread(cx: &Cx<'_>, tgid: i32, tid: i32, signal: i32) -> Result<usize> {
    let task = find_thread(cx, tgid, tid)?;
    let signal = signal_or_probe(signal)?;
    signal::may_signal(cx.task, &task, signal)?;
    if let Some(signal) = signal {
        let info = from_me(cx, &task.group, signal, si::TKILL);
        let sent = signal::send::send(signal::Target::Thread(&task), info);
        // A full queue does not fail tkill: the signal is pending without its record.
        if sent == Err(Errno::EAGAIN) {
            return Err(Errno::EAGAIN);
        }
    }
    Ok(0)
}

fn sys_tkill(cx: &mut Cx<'_>, tid: i32, signal: i32) -> Result<usize> {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    send_to_thread(cx, 0, tid, signal)
}

fn sys_tgkill(cx: &mut Cx<'_>, tgid: i32, tid: i32, signal: i32) -> Result<usize> {
    if tgid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    send_to_thread(cx, tgid, tid, signal)
}

/// Reads a record from the caller.
fn read_info(from: VirtAddr, signal: i32) -> Result<SigInfo> {
    Ok(SigInfo { signo: signal, ..user::read_val(from)? })
}

/// Codes that only the kernel and `kill(2)` use may be sent to oneself only.
fn check_code(info: &SigInfo, to_self: bool) -> Result<()> {
    let is_kernels = info.code >= 0 || info.code == si::TKILL;
    if is_kernels && !to_self { Err(Errno::EPERM) } else { Ok(()) }
}

/// `rt_sigqueueinfo(2)`.
fn sys_rt_sigqueueinfo(cx: &mut Cx<'_>, pid: i32, raw: i32, info: VirtAddr) -> Result<usize> {
    let info = read_info(info, raw)?;
    check_code(&info, pid == cx.task.group.tgid())?;
    let group = cx.task.group.pid_ns().task(pid).ok_or(Errno::ESRCH)?.group.clone();
    let signal = signal_or_probe(raw)?;
    let target = group.any_task().or_else(|| group.leader()).ok_or(Errno::ESRCH)?;
    signal::may_signal(cx.task, &target, signal)?;
    if signal.is_some() {
        signal::send_to_group(&group, info)?;
    }
    Ok(0)
}

/// `rt_tgsigqueueinfo(2)`.
fn sys_rt_tgsigqueueinfo(
    cx: &mut Cx<'_>,
    tgid: i32,
    tid: i32,
    raw: i32,
    info: VirtAddr,
) -> Result<usize> {
    let info = read_info(info, raw)?;
    if tgid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    check_code(&info, tid == cx.task.tid())?;
    let task = find_thread(cx, tgid, tid)?;
    let signal = signal_or_probe(raw)?;
    signal::may_signal(cx.task, &task, signal)?;
    if signal.is_some() {
        signal::send::send(signal::Target::Thread(&task), info)?;
    }
    Ok(0)
}

/// `pidfd_send_signal(2)`.
fn sys_pidfd_send_signal(
    cx: &mut Cx<'_>,
    fd: i32,
    raw: i32,
    info: VirtAddr,
    flags: u32,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let pid = crate::pidfd::signalled(cx.task, fd)?;
    if pid.number_in(cx.task.group.pid_ns()) == 0 {
        return Err(Errno::EINVAL);
    }
    let group = pid.group().ok_or(Errno::ESRCH)?;
    let signal = signal_or_probe(raw)?;
    if info.is_null() {
        send_to_group(cx, &group, signal)?;
        return Ok(0);
    }
    let to_self = Arc::ptr_eq(&group, &cx.task.group);
    let record: SigInfo = user::read_val(info)?;
    if record.signo != raw {
        return Err(Errno::EINVAL);
    }
    let record = read_info(info, raw)?;
    check_code(&record, to_self)?;
    let target = group.any_task().or_else(|| group.leader()).ok_or(Errno::ESRCH)?;
    signal::may_signal(cx.task, &target, signal)?;
    if signal.is_some() {
        signal::send_to_group(&group, record)?;
    }
    Ok(0)
}
