//! The way in: from the trap frame to the handler and back.

use crate::{table, tracer};
use abi::{Errno, Result};
use arch::thread::flags;
use arch::trap::TrapFrame;
use process::Task;

/// What every system-call function gets: who calls, and the caller's registers.
pub struct Cx<'a> {
    /// The calling task.
    pub task: &'a Task,
    /// Its user registers; the result goes into `rax` after the function returned.
    pub frame: &'a mut TrapFrame,
}

impl Cx<'_> {
    /// The directory that an `…at` call starts from: the working directory for `AT_FDCWD`, else
    /// the place of the open file.
    pub(crate) fn base(&self, context: &process::FsContext<'_>, dirfd: i32) -> Result<vfs::Path> {
        const AT_FDCWD: i32 = -100;
        if dirfd == AT_FDCWD {
            return Ok(context.paths.cwd.clone());
        }
        let file = self.task.files().ok_or(Errno::EBADF)?.get_any(dirfd)?;
        Ok(file.path.clone())
    }
}

/// The first of the errors that never leave the kernel.
const FIRST_INTERNAL: i32 = 512;

#[inline(always)]
fn finish(task: &Task, frame: &mut TrapFrame, result: Result<usize>) {
    frame.rax = match result {
        Ok(value) => value as u64,
        Err(errno) => {
            // An interrupted call is decided about on the way out, signal or not.
            if errno.raw() >= FIRST_INTERNAL {
                task.set_flag(flags::SIGPENDING);
            }
            errno.as_return_value()
        }
    };
}

#[inline(always)]
fn run(task: &Task, frame: &mut TrapFrame) {
    let result = match table::HANDLERS.get(frame.orig_rax as usize) {
        Some(handler) => handler(&mut Cx { task, frame }),
        None => Err(Errno::ENOSYS),
    };
    finish(task, frame, result);
}

/// Runs the system call that `frame` asks for (number in `orig_rax`); the result is in `rax`
/// when it returns. Registered as the trap handler of SYSCALL.
pub fn dispatch(frame: &mut TrapFrame) {
    let task = process::current();
    if arch::thread::current().has_flag(flags::SYSCALL_ENTRY_WORK) {
        return dispatch_watched(task, frame);
    }
    run(task, frame);
}

/// Somebody watches: seccomp, the tracer.
#[cold]
fn dispatch_watched(task: &Task, frame: &mut TrapFrame) {
    // A tracer sees the call first and its result last.
    let runs = !task.has_flag(flags::PTRACE_SYSCALL)
        || process::ptrace::syscall_enter(task, frame) == process::ptrace::Entry::Run;
    if runs {
        run_watched(task, frame);
    }
    if task.has_flag(flags::PTRACE_SYSCALL) {
        process::ptrace::syscall_exit(task, frame);
    } else if task.has_flag(flags::SINGLE_STEP) {
        process::ptrace::step_trap(task, frame);
    }
}

/// Filters and the kernel's own tracer.
fn run_watched(task: &Task, frame: &mut TrapFrame) {
    if task.has_flag(flags::SECCOMP)
        && let process::seccomp::Verdict::Skip(value) = process::seccomp::check(task, frame)
    {
        frame.rax = value;
        return;
    }
    if !task.has_flag(flags::SYSCALL_TRACE) {
        return run(task, frame);
    }
    let entered = tracer::enter(task, frame);
    run(task, frame);
    tracer::exit(task, frame, entered);
}
