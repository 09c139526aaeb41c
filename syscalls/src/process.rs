//! Birth, death and kinship: clone, execve, exit, wait, ids, groups and sessions.

use crate::Cx;
use abi::process::{CloneArgs, clone, wait as w};
use abi::signal::Signal;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use process::exec::{self, Program, args};
use process::fork::{self, Request};
use process::wait::{self, Report, Target};
use vfs::{OpenHow, Walk};

crate::syscalls! {
    39 getpid => sys_getpid();
    56 clone => sys_clone(flags: CloneFlags, stack: Hex, parent_tid: Hex, child_tid: Hex, tls: Hex);
    57 fork => sys_fork();
    58 vfork => sys_vfork();
    59 execve => sys_execve(path: Path, argv: Strings, envp: Hex);
    60 exit => sys_exit(status: Dec);
    61 wait4 => sys_wait4(pid: Dec, status: Hex, options: Hex, rusage: Hex);
    109 setpgid => sys_setpgid(pid: Dec, pgid: Dec);
    110 getppid => sys_getppid();
    111 getpgrp => sys_getpgrp();
    112 setsid => sys_setsid();
    121 getpgid => sys_getpgid(pid: Dec);
    124 getsid => sys_getsid(pid: Dec);
    186 gettid => sys_gettid();
    218 set_tid_address => sys_set_tid_address(address: Hex);
    231 exit_group => sys_exit_group(status: Dec);
    247 waitid => sys_waitid(kind: Dec, id: Dec, info: Hex, options: Hex, rusage: Hex);
    322 execveat => sys_execveat(dirfd: At, path: Path, argv: Strings, envp: Hex, flags: Hex);
    434 pidfd_open => sys_pidfd_open(pid: Dec, flags: Hex);
    438 pidfd_getfd => sys_pidfd_getfd(pidfd: Fd, fd: Fd, flags: Hex);
    435 clone3 => sys_clone3(args: Hex, size: Dec);
}

fn sys_getpid(cx: &mut Cx<'_>) -> Result<usize> {
    Ok(cx.task.group.tgid() as usize)
}

fn sys_gettid(cx: &mut Cx<'_>) -> Result<usize> {
    Ok(cx.task.tid() as usize)
}

fn sys_getppid(cx: &mut Cx<'_>) -> Result<usize> {
    Ok(cx.task.group.ppid() as usize)
}

fn sys_getpgrp(cx: &mut Cx<'_>) -> Result<usize> {
    let group = &cx.task.group;
    Ok(group.pgrp().number_in(group.pid_ns()) as usize)
}

fn sys_setpgid(cx: &mut Cx<'_>, pid: i32, pgid: i32) -> Result<usize> {
    process::jobs::setpgid(cx.task, pid, pgid)?;
    Ok(0)
}

fn sys_setsid(cx: &mut Cx<'_>) -> Result<usize> {
    Ok(process::jobs::setsid(cx.task)? as usize)
}

fn group_of(cx: &Cx<'_>, pid: i32) -> Result<Arc<process::ThreadGroup>> {
    if pid == 0 {
        return Ok(cx.task.group.clone());
    }
    let task = cx.task.group.pid_ns().task(pid).ok_or(Errno::ESRCH)?;
    Ok(task.group.clone())
}

fn sys_getpgid(cx: &mut Cx<'_>, pid: i32) -> Result<usize> {
    Ok(group_of(cx, pid)?.pgrp().number_in(cx.task.group.pid_ns()) as usize)
}

fn sys_getsid(cx: &mut Cx<'_>, pid: i32) -> Result<usize> {
    Ok(group_of(cx, pid)?.session().number_in(cx.task.group.pid_ns()) as usize)
}

fn sys_set_tid_address(cx: &mut Cx<'_>, address: VirtAddr) -> Result<usize> {
    cx.task.set_clear_child_tid(address);
    Ok(cx.task.tid() as usize)
}

fn sys_exit(cx: &mut Cx<'_>, status: i32) -> Result<usize> {
    let _ = &cx.task;
    process::exit::exit_thread((status & 0xff) << 8)
}

fn sys_exit_group(cx: &mut Cx<'_>, status: i32) -> Result<usize> {
    process::exit::exit_group(cx.task, (status & 0xff) << 8)
}

fn sys_fork(cx: &mut Cx<'_>) -> Result<usize> {
    let request = Request { exit_signal: fork::FORK_SIGNAL, ..Request::default() };
    Ok(fork::spawn(cx.task, cx.frame, &request)?.start(cx.task, cx.frame) as usize)
}

fn sys_vfork(cx: &mut Cx<'_>) -> Result<usize> {
    let request = Request {
        flags: clone::VM | clone::VFORK,
        exit_signal: fork::FORK_SIGNAL,
        ..Request::default()
    };
    Ok(fork::spawn(cx.task, cx.frame, &request)?.start(cx.task, cx.frame) as usize)
}

/// `clone(2)`.
fn sys_clone(
    cx: &mut Cx<'_>,
    flags: u64,
    stack: u64,
    parent_tid: VirtAddr,
    child_tid: VirtAddr,
    tls: u64,
) -> Result<usize> {
    // The upper half of the register is ignored, as the argument is an int to user space.
    let flags = flags & 0xffff_ffff;
    if flags & clone::PIDFD != 0 && flags & (clone::DETACHED | clone::PARENT_SETTID) != 0 {
        return Err(Errno::EINVAL);
    }
    let request = Request {
        flags: flags & !clone::CSIGNAL,
        exit_signal: (flags & clone::CSIGNAL) as u32,
        stack,
        parent_tid,
        child_tid,
        tls,
    };
    spawn(cx, &request, parent_tid)
}

/// Makes the child and, with `CLONE_PIDFD`, a descriptor for it.
fn spawn(cx: &mut Cx<'_>, request: &Request, pidfd_at: VirtAddr) -> Result<usize> {
    let wants_fd = request.flags & clone::PIDFD != 0;
    let reserved = if wants_fd {
        let files = cx.task.files().ok_or(Errno::EBADF)?;
        let limit = cx.task.limit(abi::process::Resource::Nofile);
        let fd = files.reserve(0, limit, vfs::fdtable::CloseOnExec::Yes)?;
        if let Err(fault) = user::write_val(pidfd_at, &(fd as i32)) {
            files.cancel(fd);
            return Err(fault.into());
        }
        Some((files, fd))
    } else {
        None
    };
    let child = match fork::spawn(cx.task, cx.frame, request) {
        Ok(child) => child,
        Err(error) => {
            if let Some((files, fd)) = reserved {
                files.cancel(fd);
            }
            return Err(error);
        }
    };
    if let Some((files, fd)) = reserved {
        match crate::pidfd::open(cx.task, child.task.pid()) {
            Ok(file) => files.install(fd, file),
            Err(_) => files.cancel(fd),
        }
    }
    Ok(child.start(cx.task, cx.frame) as usize)
}

/// `clone3(2)`; the structure may be larger than we know if the rest is zero.
fn sys_clone3(cx: &mut Cx<'_>, from: VirtAddr, size: usize) -> Result<usize> {
    let args: CloneArgs = crate::misc::read_sized(from, size, 64)?;
    let known = 0xffff_ffff | clone::CLEAR_SIGHAND;
    let wrong = args.flags & !known != 0
        || args.flags & (clone::DETACHED | clone::CSIGNAL) != 0
        || args.exit_signal > u64::from(abi::signal::NSIG)
        || args.flags & (clone::THREAD | clone::PARENT) != 0 && args.exit_signal != 0
        || (args.stack == 0) != (args.stack_size == 0);
    if wrong {
        return Err(Errno::EINVAL);
    }
    if args.stack != 0 && !user::range_ok(VirtAddr(args.stack), args.stack_size as usize) {
        return Err(Errno::EINVAL);
    }
    let request = Request {
        flags: args.flags,
        exit_signal: args.exit_signal as u32,
        stack: args.stack.wrapping_add(args.stack_size),
        parent_tid: VirtAddr(args.parent_tid),
        child_tid: VirtAddr(args.child_tid),
        tls: args.tls,
    };
    spawn(cx, &request, VirtAddr(args.pidfd))
}

/// `execve(2)`.
fn sys_execve(cx: &mut Cx<'_>, path: VirtAddr, argv: VirtAddr, envp: VirtAddr) -> Result<usize> {
    execute(cx, AT_FDCWD, path, argv, envp, 0)
}

const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;

/// `execveat(2)`.
fn sys_execveat(
    cx: &mut Cx<'_>,
    dirfd: i32,
    path: VirtAddr,
    argv: VirtAddr,
    envp: VirtAddr,
    flags: u32,
) -> Result<usize> {
    execute(cx, dirfd, path, argv, envp, flags)
}

fn execute(
    cx: &mut Cx<'_>,
    dirfd: i32,
    path: VirtAddr,
    argv: VirtAddr,
    envp: VirtAddr,
    flags: u32,
) -> Result<usize> {
    let name = crate::misc::read_path(path, flags & AT_EMPTY_PATH != 0)?;
    let mut room = args::room_of(cx.task);
    // What cannot be read comes before what cannot be run.
    let argv = args::Strings::from_user(argv, &mut room)?;
    let envp = args::Strings::from_user(envp, &mut room)?;
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let context = cx.task.vfs_context();
    let base = if name.first() == Some(&b'/') {
        context.paths.cwd.clone()
    } else {
        cx.base(&context, dirfd)?
    };
    let mut how = OpenHow::execute();
    if flags & AT_EMPTY_PATH != 0 {
        how.walk |= Walk::EMPTY;
    }
    if flags & AT_SYMLINK_NOFOLLOW != 0 {
        how.flags |= abi::fcntl::O_NOFOLLOW;
    }
    let file = vfs::open(&context.get(), &base, &name, &how)?;
    drop(base);
    drop(context);
    let filename = if dirfd == AT_FDCWD || name.first() == Some(&b'/') {
        name
    } else {
        let mut full = alloc::format!("/dev/fd/{dirfd}").into_bytes();
        if !name.is_empty() {
            full.push(b'/');
            full.extend_from_slice(&name);
        }
        full
    };
    let taken = filename.len() as u64 + 1;
    if taken > room {
        return Err(Errno::E2BIG);
    }
    exec::exec(cx.task, cx.frame, Program { file, filename, argv, envp })?;
    Ok(0)
}

/// `wait4(2)`.
fn sys_wait4(
    cx: &mut Cx<'_>,
    pid: i32,
    status: VirtAddr,
    options: u32,
    rusage: VirtAddr,
) -> Result<usize> {
    let known = w::WNOHANG | w::WUNTRACED | w::WCONTINUED | w::WNOTHREAD | w::WCLONE | w::WALL;
    if options & !known != 0 {
        return Err(Errno::EINVAL);
    }
    if pid == i32::MIN {
        return Err(Errno::ESRCH);
    }
    let group = &cx.task.group;
    let find = |nr: i32| group.pid_ns().find(nr).ok_or(Errno::ECHILD);
    let target = match pid {
        -1 => Target::Any,
        0 => Target::Group(group.pgrp()),
        _ if pid < 0 => Target::Group(find(-pid)?),
        _ => Target::Process(find(pid)?),
    };
    let request = wait::Request { target, options: options | w::WEXITED };
    let Some(report) = wait::wait(cx.task, &request)? else { return Ok(0) };
    if !status.is_null() {
        user::write_val(status, &report.status)?;
    }
    write_usage(rusage, Some(&report))?;
    Ok(report.pid as usize)
}

fn write_usage(at: VirtAddr, report: Option<&Report>) -> Result<()> {
    if let (false, Some(report)) = (at.is_null(), report) {
        user::write_val(at, &report.usage.to_rusage())?;
    }
    Ok(())
}

/// `waitid(2)`. Of `info` the fields that mean something are written, as zeroes if there is no news
/// and also if the call fails.
fn sys_waitid(
    cx: &mut Cx<'_>,
    kind: i32,
    id: i32,
    info: VirtAddr,
    options: u32,
    rusage: VirtAddr,
) -> Result<usize> {
    let outcome = wait_for(cx, kind, id, options);
    let report = outcome.as_ref().ok().and_then(Option::as_ref);
    write_usage(rusage, report)?;
    if !info.is_null() {
        let signo = if report.is_some() { Signal::SIGCHLD.raw() as i32 } else { 0 };
        let (code, pid, uid, value) =
            report.map_or((0, 0, 0, 0), |r| (r.code, r.pid, r.uid as i32, r.value));
        user::write_val(info, &[signo, 0, code])?;
        user::write_val(info.wrapping_add(16), &[pid, uid, value])?;
    }
    outcome.map(|_| 0)
}

fn wait_for(cx: &Cx<'_>, kind: i32, id: i32, options: u32) -> Result<Option<Report>> {
    let known = w::WNOHANG
        | w::WNOWAIT
        | w::WEXITED
        | w::WSTOPPED
        | w::WCONTINUED
        | w::WNOTHREAD
        | w::WCLONE
        | w::WALL;
    if options & !known != 0 || options & (w::WEXITED | w::WSTOPPED | w::WCONTINUED) == 0 {
        return Err(Errno::EINVAL);
    }
    let group = &cx.task.group;
    let find = |nr: i32| group.pid_ns().find(nr).ok_or(Errno::ECHILD);
    let target = match kind {
        w::P_ALL => Target::Any,
        w::P_PID if id > 0 => Target::Process(find(id)?),
        w::P_PGID if id == 0 => Target::Group(group.pgrp()),
        w::P_PGID if id > 0 => Target::Group(find(id)?),
        w::P_PIDFD if id >= 0 => Target::Process(crate::pidfd::pid_of(cx.task, id)?),
        _ => return Err(Errno::EINVAL),
    };
    wait::wait(cx.task, &wait::Request { target, options })
}

/// `pidfd_getfd(2)` of Linux 5.6.
fn sys_pidfd_getfd(cx: &mut Cx<'_>, pidfd: i32, fd: i32, flags: u32) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let group = crate::pidfd::pid_of(cx.task, pidfd)?.group().ok_or(Errno::ESRCH)?;
    let target = group.leader().ok_or(Errno::ESRCH)?;
    let file = process::task::inspect(cx.task, &target, || {
        target.files().ok_or(Errno::ESRCH)?.get_any(fd)
    })??;
    crate::fsctx::install(cx, file, vfs::CloseOnExec::Yes)
}

/// `pidfd_open(2)`.
fn sys_pidfd_open(cx: &mut Cx<'_>, pid: i32, flags: u32) -> Result<usize> {
    if flags != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let pid = cx.task.group.pid_ns().find(pid).ok_or(Errno::ESRCH)?;
    if pid.group().is_none() {
        return Err(Errno::EINVAL);
    }
    let file = crate::pidfd::open(cx.task, pid)?;
    let files = cx.task.files().ok_or(Errno::EBADF)?;
    let limit = cx.task.limit(abi::process::Resource::Nofile);
    Ok(files.add(file, 0, limit, vfs::fdtable::CloseOnExec::Yes)? as usize)
}
