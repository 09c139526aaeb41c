//! The traced thread's side: stopping, and going on as the tracer said.

use super::{Kind, Registers, Resume, Stop};
use crate::group::ThreadGroup;
use crate::signal;
use crate::task::Task;
use abi::Errno;
use abi::process::clone;
use abi::ptrace::{event, option};
use abi::signal::{SIG_IGN, SigInfo, Signal, sa, si};
use arch::thread::flags;
use arch::trap::{RFLAGS_TF, TrapFrame};
use core::sync::atomic::Ordering;

const SIGTRAP: i32 = Signal::SIGTRAP.raw() as i32;
/// Marks stops at system calls, if the tracer wants that (`PTRACE_O_TRACESYSGOOD`).
const SYSGOOD: i32 = 0x80;

/// How a stop ended.
struct Outcome {
    /// The signal to go on with; 0 for none.
    signal: i32,
    /// The record of the stop, which the tracer may have changed.
    info: Option<SigInfo>,
}

/// What the wait of a stopped thread ended with.
enum Wake {
    Resumed(i32, Resume),
    /// It listened, and the group stop is over or the tracer wants it.
    Retrap,
}

/// Stops, tells the tracer, and sleeps until it says how to go on. `None` if there is no tracer any
/// more or the thread is to die.
fn stop(task: &Task, frame: &mut TrapFrame, what: Stop, message: Option<u64>) -> Option<Outcome> {
    let tracing = &task.tracing;
    let mut what = what;
    loop {
        *tracing.registers.lock() = Some(Registers::of_current(task, frame));
        let may_stop = {
            let mut state = tracing.state.lock();
            let may_stop = state.tracer.is_some() && !signal::fatal_pending(task);
            if may_stop {
                state.stop = Some(what);
                (state.is_reported, state.is_listening, state.resume) = (false, false, None);
                if let Some(message) = message {
                    state.message = message;
                }
            }
            may_stop
        };
        if !may_stop {
            drop(tracing.registers.lock().take());
            return None;
        }
        tell_tracer(task, what.code);
        let waited = {
            let _waits = crate::cgroup::Wait::new(task);
            tracing.resume.wait_killable(|| look(task))
        };
        let stopped = {
            let mut state = tracing.state.lock();
            state.is_listening = false;
            if let Ok(Wake::Resumed(_, mode)) = &waited {
                state.mode = *mode;
            }
            state.stop.take()
        };
        let registers = tracing.registers.lock().take();
        match waited {
            Ok(Wake::Resumed(signal, mode)) => {
                if let Some(registers) = registers {
                    registers.take_over(task, frame);
                }
                go_on(task, frame, mode);
                return Some(Outcome { signal, info: stopped.and_then(|stop| stop.info) });
            }
            Ok(Wake::Retrap) => {
                if let Some(registers) = registers {
                    registers.take_over(task, frame);
                }
                tracing.trap.store(false, Ordering::Relaxed);
                what = event_of(task, event::STOP, stop_signal(&task.group));
            }
            Err(_) => {
                go_on(task, frame, Resume::Continue);
                return None;
            }
        }
    }
}

/// Whether the stop is over.
fn look(task: &Task) -> Option<Wake> {
    let is_group_stopped = task.group.signals.lock().stop.is_some();
    let mut state = task.tracing.state.lock();
    if let Some((signal, mode)) = state.resume.take() {
        return Some(Wake::Resumed(signal, mode));
    }
    let called = !is_group_stopped || task.tracing.has_trap();
    (state.is_listening && called).then_some(Wake::Retrap)
}

/// A thread that nobody traces any more has no breakpoints.
fn drop_breakpoints(task: &Task) {
    if task.has_flag(flags::BREAKPOINTS) && !task.tracing.is_traced() {
        arch::thread::set_breakpoints([0; 5]);
        task.tracing.set_debug_status(0);
    }
}

/// Arranges for the next stop that the tracer wants.
fn go_on(task: &Task, frame: &mut TrapFrame, mode: Resume) {
    drop_breakpoints(task);
    if matches!(mode, Resume::Syscall | Resume::Emulate | Resume::EmulateStep) {
        task.set_flag(flags::PTRACE_SYSCALL);
    } else {
        task.clear_flag(flags::PTRACE_SYSCALL);
    }
    if mode.steps() {
        frame.rflags |= RFLAGS_TF;
        task.set_flag(flags::SINGLE_STEP);
    } else {
        if task.has_flag(flags::SINGLE_STEP) {
            frame.rflags &= !RFLAGS_TF;
        }
        task.clear_flag(flags::SINGLE_STEP);
    }
}

/// SIGCHLD for the tracer, unless it does not want it, and a wake-up of its `wait(2)`.
fn tell_tracer(task: &Task, code: i32) {
    let Some(tracer) = super::tracer(task) else { return };
    let group = &tracer.group;
    if let Some(traces) = &mut group.family.lock().traces {
        traces.news.add(super::relation::key(task));
    }
    let wants = tracer.sighand().is_some_and(|hand| {
        let action = hand.get(Signal::SIGCHLD);
        action.handler != SIG_IGN && action.flags & sa::NOCLDSTOP == 0
    });
    if wants {
        let _ = signal::send_to_group(group, child_info(task, group, si::CLD_TRAPPED, code & 0x7f));
    }
    group.child_wait.wake_all();
}

/// A SIGCHLD record about the thread for `group`.
pub(super) fn child_info(task: &Task, group: &ThreadGroup, code: i32, status: i32) -> SigInfo {
    let usage = crate::usage::Usage::of(task);
    let pid = task.pid().number_in(group.pid_ns());
    SigInfo::child(code, pid, task.creds().uid, status, usage.utime_ticks(), usage.stime_ticks())
}

/// The record of a stop that is no signal: `si_code` is the code.
fn trap_info(task: &Task, code: i32) -> SigInfo {
    let signal = Signal::new(code & 0x7f).unwrap_or(Signal::SIGTRAP);
    SigInfo::from_user(signal, code, task.tid(), task.creds().uid)
}

fn event_of(task: &Task, event: u32, signal: i32) -> Stop {
    let code = signal | (event << 8) as i32;
    Stop { kind: Kind::Event, code, info: Some(trap_info(task, code)) }
}

/// The signal that stopped the process, else SIGTRAP.
fn stop_signal(group: &ThreadGroup) -> i32 {
    group.signals.lock().stop.map_or(SIGTRAP, |stop| stop.signal.raw() as i32)
}

fn event_stop(task: &Task, frame: &mut TrapFrame, event: u32, message: u64) {
    let what = event_of(task, event, SIGTRAP);
    // A signal given at such a stop is dropped, as ptrace(2) says.
    let _ = stop(task, frame, what, Some(message));
}

/// The thread is about to take `signal`: what it is to take instead, if anything.
pub(crate) fn signal_stop(
    task: &Task,
    frame: &mut TrapFrame,
    signal: Signal,
    info: SigInfo,
) -> Option<(Signal, SigInfo)> {
    let what = Stop { kind: Kind::Signal, code: signal.raw() as i32, info: Some(info) };
    let Some(outcome) = stop(task, frame, what, None) else {
        return (!signal::fatal_pending(task)).then_some((signal, info));
    };
    let new = Signal::new(outcome.signal)?;
    let changed = outcome.info.unwrap_or(info);
    if changed.signo == outcome.signal {
        return Some((new, changed));
    }
    let (pid, uid) = super::tracer(task).map_or((0, 0), |tracer| {
        (tracer.group.pid().number_in(task.group.pid_ns()), tracer.creds().uid)
    });
    Some((new, SigInfo::from_user(new, si::USER, pid, uid)))
}

/// The thread takes part in a stop of its process, by `signal`, of this serial number.
pub(crate) fn group_stop(task: &Task, frame: &mut TrapFrame, signal: Signal, serial: u64) {
    let is_seized = task.tracing.state.lock().is_seized;
    task.tracing.trap.store(false, Ordering::Relaxed);
    let signal = signal.raw() as i32;
    let what = if is_seized {
        Stop { kind: Kind::Group, ..event_of(task, event::STOP, signal) }
    } else {
        Stop { kind: Kind::Group, code: signal, info: None }
    };
    task.tracing.stop_done.store(serial, Ordering::Relaxed);
    let _ = stop(task, frame, what, None);
    if !task.tracing.is_traced() {
        // Left by its tracer: back to the stop of its process, if that goes on.
        task.tracing.stop_done.store(0, Ordering::Relaxed);
    }
}

/// Whether the thread stands in its process's stop and its tracer may listen.
pub(crate) fn is_at_group_stop(stop: &Stop) -> bool {
    stop.kind == Kind::Group || stop.code >> 8 == event::STOP as i32
}

/// Stops if that was asked for (`PTRACE_INTERRUPT`, a new thread of a seized one).
pub(crate) fn take_trap(task: &Task, frame: &mut TrapFrame) {
    if task.tracing.trap.swap(false, Ordering::Relaxed) && task.tracing.is_traced() {
        let what = event_of(task, event::STOP, stop_signal(&task.group));
        let _ = stop(task, frame, what, None);
    }
}

/// What becomes of a system call that was stopped at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It runs, with the registers as they are now.
    Run,
    /// It does not run; the result is in place.
    Skip,
}

fn syscall_code(task: &Task) -> i32 {
    SIGTRAP | if task.tracing.wants(option::TRACESYSGOOD) { SYSGOOD } else { 0 }
}

/// A signal given at a stop at a system call is sent.
fn send_given(task: &Task, outcome: &Outcome) {
    if let Some(signal) = Signal::new(outcome.signal) {
        let info = SigInfo::from_user(signal, si::USER, task.group.tgid(), task.creds().uid);
        signal::send_to_task(task, info);
    }
}

/// The thread enters a system call that its tracer wants to see.
pub fn syscall_enter(task: &Task, frame: &mut TrapFrame) -> Entry {
    const MESSAGE: u64 = 1; // PTRACE_EVENTMSG_SYSCALL_ENTRY
    frame.rax = Errno::ENOSYS.as_return_value();
    let emulates = task.tracing.state.lock().mode.emulates();
    let code = syscall_code(task);
    let kind = Kind::SyscallEnter(frame.orig_rax, frame.args());
    let what = Stop { kind, code, info: Some(trap_info(task, code)) };
    match stop(task, frame, what, Some(MESSAGE)) {
        Some(outcome) => send_given(task, &outcome),
        None if signal::fatal_pending(task) => return Entry::Skip,
        None => {}
    }
    if emulates || !frame.is_syscall() { Entry::Skip } else { Entry::Run }
}

/// The thread leaves a system call that its tracer wants to see.
pub fn syscall_exit(task: &Task, frame: &mut TrapFrame) {
    const MESSAGE: u64 = 2; // PTRACE_EVENTMSG_SYSCALL_EXIT
    if task.tracing.state.lock().mode.emulates() {
        return;
    }
    let code = syscall_code(task);
    let what = Stop { kind: Kind::SyscallExit, code, info: Some(trap_info(task, code)) };
    if let Some(outcome) = stop(task, frame, what, Some(MESSAGE)) {
        send_given(task, &outcome);
    }
}

/// A filter leaves the system call to the tracer, with this number for it (seccomp(2),
/// `SECCOMP_RET_TRACE`). `None` if no tracer wants to know.
pub(crate) fn seccomp_stop(task: &Task, frame: &mut TrapFrame, data: u32) -> Option<Entry> {
    if !task.tracing.wants(option::TRACESECCOMP) {
        return None;
    }
    frame.rax = Errno::ENOSYS.as_return_value();
    let what = Stop { kind: Kind::Seccomp, ..event_of(task, event::SECCOMP, SIGTRAP) };
    // A signal given at such a stop is dropped, as ptrace(2) says.
    let outcome = stop(task, frame, what, Some(data.into()));
    if signal::fatal_pending(task) {
        return Some(Entry::Skip);
    }
    // Nobody has seen it if the tracer left before.
    outcome.map(|_| if frame.is_syscall() { Entry::Run } else { Entry::Skip })
}

/// A single step ended with a system call.
pub fn step_trap(task: &Task, frame: &TrapFrame) {
    signal::force(task, SigInfo::fault(Signal::SIGTRAP, si::TRAP_BRKPT, frame.rip));
}

/// The event that a fork is, and whether the tracer wants it.
pub(crate) fn fork_event(task: &Task, request: &crate::fork::Request) -> Option<u32> {
    if !task.tracing.is_traced() || request.flags & clone::UNTRACED != 0 {
        return None;
    }
    let event = if request.flags & clone::VFORK != 0 {
        event::VFORK
    } else if request.exit_signal == crate::fork::FORK_SIGNAL {
        event::FORK
    } else {
        event::CLONE
    };
    task.tracing.wants(super::option_of(event)).then_some(event)
}

/// The thread has made the child `pid`.
pub(crate) fn fork_stop(task: &Task, frame: &mut TrapFrame, event: u32, pid: &crate::pid::Pid) {
    let Some(tracer) = super::tracer(task) else { return };
    let number = pid.number_in(tracer.group.pid_ns());
    drop(tracer);
    event_stop(task, frame, event, number as u64);
}

/// The child of a `vfork(2)` has let go of the memory.
pub(crate) fn vfork_done_stop(task: &Task, frame: &mut TrapFrame, pid: &crate::pid::Pid) {
    if task.tracing.wants(option::TRACEVFORKDONE) {
        fork_stop(task, frame, event::VFORK_DONE, pid);
    }
}

/// The thread runs a new program; `old_tid` is the number it had before, as its tracer sees it.
pub(crate) fn exec_stop(task: &Task, frame: &mut TrapFrame, old_tid: i32) {
    if task.has_flag(flags::BREAKPOINTS) {
        arch::thread::set_breakpoints([0; 5]);
        task.tracing.set_debug_status(0);
    }
    if !task.tracing.is_traced() {
        return;
    }
    if task.tracing.wants(option::TRACEEXEC) {
        event_stop(task, frame, event::EXEC, old_tid as u64);
    } else if !task.tracing.state.lock().is_seized {
        let (pid, uid) = (task.group.tgid(), task.creds().uid);
        signal::send_to_task(task, SigInfo::from_user(Signal::SIGTRAP, si::USER, pid, uid));
    }
}

/// The thread begins to end with this status. Its registers can be looked at only.
pub(crate) fn exit_stop(task: &Task, status: i32) {
    if task.tracing.wants(option::TRACEEXIT) {
        let mut frame = arch::thread::current_user_registers();
        event_stop(task, &mut frame, event::EXIT, status as u32 as u64);
    }
}
