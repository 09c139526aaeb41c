//! `ptrace(2)`: one thread that watches and changes another.
//!
//! A traced thread stops itself, at the places where it takes signals, enters and leaves system
//! calls, forks, execs and ends ([`stop`]). Before it sleeps it lays out its registers in its
//! [`Tracing`]; the tracer reads and changes that copy, never the thread's stack, and the thread
//! takes it over when it goes on ([`registers`]). So a request needs no more than the lock of the
//! state to find out that the thread stands still, and SIGKILL can end a stop at any time.
//!
//! The tracer's process keeps what it traces in its family ([`relation`]), where `wait(2)` finds
//! stops ([`news`]). A traced thread of another family that ends is first the tracer's to wait for,
//! then its parent's.
//!
//! Locks: the tree (600) and families (605) for who traces whom; then a process's signals (620);
//! the state (628) last of all but a thread's own signals (630).

mod news;
pub mod registers;
mod relation;
pub mod request;
mod stop;

use crate::task::Task;
use abi::ptrace::option;
use abi::signal::SigInfo;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use arch::lock::{IrqLock, LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sched::WaitQueue;

pub(crate) use news::Traces;
pub use registers::Registers;
pub(crate) use relation::{
    adopt_child, leader_replaced, process_ended, thread_ended, tracer_ended,
};
pub use relation::{attach, detach, seize, trace_me, tracer_of};
pub use stop::{Entry, step_trap, syscall_enter, syscall_exit};
pub(crate) use stop::{
    exec_stop, exit_stop, fork_event, fork_stop, group_stop, is_at_group_stop, seccomp_stop,
    signal_stop, take_trap, vfork_done_stop,
};

static STATE_CLASS: LockClass = LockClass::new("process.ptrace", 628);

/// Why a thread is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is about to take a signal.
    Signal,
    /// It enters a system call: number and arguments.
    SyscallEnter(u64, [u64; 6]),
    /// It leaves a system call.
    SyscallExit,
    /// An event, `PTRACE_EVENT_*`.
    Event,
    /// The event that a filter asked for: a system call is about to run.
    Seccomp,
    /// Its process is stopped.
    Group,
}

/// A stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) kind: Kind,
    /// What `wait(2)` reports: the signal, and the event from bit 8 on.
    pub(crate) code: i32,
    /// For `PTRACE_GETSIGINFO`; there is none for a group stop.
    pub(crate) info: Option<SigInfo>,
}

/// How a stopped thread goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// To the next signal or event.
    #[default]
    Continue,
    /// To the next system call, or the end of this one.
    Syscall,
    /// For one instruction.
    Step,
    /// To the next system call, which is not run.
    Emulate,
    /// For one instruction or to a system call, which is not run.
    EmulateStep,
}

impl Resume {
    fn steps(self) -> bool {
        matches!(self, Resume::Step | Resume::EmulateStep)
    }
    fn emulates(self) -> bool {
        matches!(self, Resume::Emulate | Resume::EmulateStep)
    }
}

#[derive(Default)]
pub(crate) struct State {
    /// The thread that traces.
    tracer: Option<Weak<Task>>,
    /// By `PTRACE_SEIZE`.
    is_seized: bool,
    /// `PTRACE_O_*`.
    options: u32,
    /// While it is stopped.
    stop: Option<Stop>,
    /// `wait(2)` has seen the stop.
    is_reported: bool,
    /// The stop is over: the signal to go on with, and how.
    resume: Option<(i32, Resume)>,
    /// How it went on from the last stop.
    mode: Resume,
    /// `PTRACE_GETEVENTMSG`.
    message: u64,
    /// `PTRACE_LISTEN`: stays in a group stop, but not the tracer's to command.
    is_listening: bool,
}

/// What a task has for being traced.
pub struct Tracing {
    state: IrqLock<State>,
    /// While it is stopped: its registers.
    registers: SpinLock<Option<Box<Registers>>>,
    /// A stopped thread sleeps here.
    resume: WaitQueue,
    /// Whether there is a tracer; looked at without the lock.
    is_traced: AtomicBool,
    /// It is to stop as soon as it can (`PTRACE_INTERRUPT`, the first stop of a new thread).
    trap: AtomicBool,
    /// The serial number of the group stop that it has already reported and was made to go on from.
    stop_done: AtomicU64,
    /// DR6: which breakpoints were hit.
    debug_status: AtomicU64,
}

impl Tracing {
    pub(crate) fn new() -> Tracing {
        Tracing {
            state: IrqLock::new(&STATE_CLASS, State::default()),
            registers: SpinLock::new(&crate::task::PRIVATE_CLASS, None),
            resume: WaitQueue::new(),
            is_traced: AtomicBool::new(false),
            trap: AtomicBool::new(false),
            stop_done: AtomicU64::new(0),
            debug_status: AtomicU64::new(0),
        }
    }

    /// DR6 as the tracer sees it.
    pub(crate) fn debug_status(&self) -> u64 {
        self.debug_status.load(Ordering::Relaxed)
    }

    /// Sets DR6 as the tracer sees it.
    pub(crate) fn set_debug_status(&self, status: u64) {
        self.debug_status.store(status, Ordering::Relaxed);
    }

    /// Whether somebody traces the task.
    #[inline]
    pub fn is_traced(&self) -> bool {
        // Relaxed: a hint; the lock decides.
        self.is_traced.load(Ordering::Relaxed)
    }

    /// Whether the task is to stop for its tracer as soon as it can.
    pub(crate) fn has_trap(&self) -> bool {
        self.trap.load(Ordering::Relaxed)
    }

    /// Whether the task has been through the group stop of this number.
    pub(crate) fn has_done_stop(&self, serial: u64) -> bool {
        self.stop_done.load(Ordering::Relaxed) == serial
    }

    /// Whether the task is stopped for its tracer.
    pub fn is_stopped(&self) -> bool {
        self.is_traced() && self.state.lock().stop.is_some()
    }

    /// Whether the tracer asked for this event or property.
    pub(crate) fn wants(&self, option: u32) -> bool {
        self.is_traced() && self.state.lock().options & option != 0
    }

    /// The stop that `wait(2)` has not seen; taken unless it is only looked at.
    pub(crate) fn take_report(&self, take: bool) -> Option<i32> {
        let mut state = self.state.lock();
        if state.is_reported || state.is_listening || state.resume.is_some() {
            return None;
        }
        let code = state.stop.as_ref()?.code;
        state.is_reported = take;
        Some(code)
    }

    /// Wakes a thread that listens: the group stop has begun anew or ended.
    pub(crate) fn poke_listener(&self) {
        if self.is_traced() {
            self.resume.wake_all();
        }
    }
}

/// The tracer of the task.
pub(crate) fn tracer(task: &Task) -> Option<Arc<Task>> {
    if !task.tracing.is_traced() {
        return None;
    }
    let weak = task.tracing.state.lock().tracer.clone()?;
    weak.upgrade()
}

/// Whether the signal may be dropped or made fatal without the task seeing it.
pub(crate) fn sees_all_signals(task: &Task) -> bool {
    task.tracing.is_traced()
}

/// Whether a set-user-id program may be run with its owner's rights: not when somebody watches who
/// could not do as much.
pub(crate) fn allows_privileges(task: &Task) -> bool {
    tracer(task).is_none_or(|tracer| tracer.capable(vfs::cred::Cap::SYS_PTRACE))
}

/// The option that asks for the event of a fork.
fn option_of(event: u32) -> u32 {
    match event {
        abi::ptrace::event::FORK => option::TRACEFORK,
        abi::ptrace::event::VFORK => option::TRACEVFORK,
        _ => option::TRACECLONE,
    }
}
