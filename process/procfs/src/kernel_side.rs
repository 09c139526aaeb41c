//! `/proc/PID/syscall` and `/proc/PID/stack`, proc(5): what a thread does in the kernel.

use crate::pid::View;
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::backtrace::{Backtrace, Trace};
use arch::symbols::Symbolised;
use arch::trap::TrapFrame;
use process::Task;
use process::task::Life;
use vfs::cred::Cap;

/// Where a thread is.
enum Place {
    /// In user mode, or on its way through the kernel: it may be anywhere by now.
    Running,
    /// It waits, having entered the kernel with these registers.
    Waiting(TrapFrame),
    /// It has no stack any more.
    Gone,
}

fn place_of(task: &Task) -> Place {
    if task.is_current() {
        return Place::Waiting(arch::thread::current_user_registers());
    }
    if matches!(task.life(), Life::Zombie | Life::Dead) {
        return Place::Gone;
    }
    let Some(thread) = task.thread() else { return Place::Gone };
    if thread.state_letter() == 'R' {
        return Place::Running;
    }
    match thread.at_rest().and_then(|rest| rest.user) {
        Some(registers) => Place::Waiting(registers),
        None => Place::Running,
    }
}

/// Takes hold of something inside the task if the caller may trace it; these files say `EPERM`.
fn inspect<R>(task: &Task, take: impl FnOnce() -> R) -> Result<R> {
    match process::try_current() {
        Some(caller) => process::task::inspect(caller, task, take),
        None => Ok(take()),
    }
}

/// `/proc/PID/syscall`: number, arguments, stack pointer and program counter of the system call
/// that the thread waits in; -1 and the last two if it waits in another exception.
pub(crate) fn syscall(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let place = inspect(&view.task, || place_of(&view.task))?;
    match place {
        Place::Running => out.extend_from_slice(b"running\n"),
        Place::Gone => out.extend_from_slice(b"-1 0x0 0x0\n"),
        Place::Waiting(registers) => describe(&registers, out),
    }
    Ok(())
}

fn describe(f: &TrapFrame, out: &mut Vec<u8>) {
    if f.is_syscall() {
        put!(out, "{}", f.orig_rax);
        for argument in f.args() {
            put!(out, " {argument:#x}");
        }
    } else {
        out.extend_from_slice(b"-1");
    }
    put!(out, " {:#x} {:#x}\n", f.rsp, f.rip);
}

/// `/proc/PID/stack`: the functions that the thread waits in, innermost first, if who opened the file
/// may administrate the machine.
pub(crate) fn stack(view: &View, out: &mut Vec<u8>) -> Result<()> {
    let task = &view.task;
    if view.opener.as_ref().is_some_and(|opener| !opener.capable(Cap::SYS_ADMIN)) {
        return Err(Errno::EACCES);
    }
    let trace = inspect(task, || {
        if task.is_current() {
            return Trace::from(Backtrace::on_own_stack());
        }
        if matches!(task.life(), Life::Zombie | Life::Dead) {
            return Trace::default();
        }
        task.thread()
            .and_then(|thread| thread.at_rest())
            .map_or_else(Trace::default, |rest| rest.trace)
    })?;
    for address in trace.addresses() {
        put!(out, "[<0>] {}\n", Symbolised(*address));
    }
    Ok(())
}
