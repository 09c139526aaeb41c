//! `seccomp(2)`: strict mode and filters.
//!
//! Filters form a list that only grows and is shared with children; a task's newest filter runs
//! first and the strictest answer of all wins. The `SECCOMP` flag of the thread sends its system
//! calls here; without it they cost nothing.

pub mod bpf;

use crate::ptrace::Entry;
use crate::task::Task;
use abi::signal::{SigInfo, Signal};
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::thread::flags;
use arch::trap::TrapFrame;
use bpf::{Data, Program};
use core::sync::atomic::Ordering;

/// `SECCOMP_MODE_STRICT`.
pub const MODE_STRICT: u32 = 1;
/// `SECCOMP_MODE_FILTER`.
pub const MODE_FILTER: u32 = 2;
/// `SECCOMP_FILTER_FLAG_TSYNC`.
pub const FLAG_TSYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_LOG`.
pub const FLAG_LOG: u32 = 2;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
pub const FLAG_SPEC_ALLOW: u32 = 4;

/// `SECCOMP_RET_*`.
pub mod ret {
    #![expect(missing_docs, reason = "seccomp(2) describes them")]
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    pub const ACTION: u32 = 0xffff_0000;
    pub const DATA: u32 = 0xffff;
}

/// `AUDIT_ARCH_X86_64`.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// All programs of a task together may have this many instructions.
const MAX_PATH: usize = 1 << 15;

/// A filter and those before it.
pub struct Filters {
    program: Program,
    previous: Option<Arc<Filters>>,
    /// Instructions in all, with four per program as Linux counts.
    total: usize,
}

impl Filters {
    fn run(&self, data: &Data) -> u32 {
        let mut strictest = ret::ALLOW;
        let mut at = Some(self);
        while let Some(filter) = at {
            let answer = filter.program.run(data);
            // Actions compare as signed numbers: KILL_PROCESS is the lowest.
            if ((answer & ret::ACTION) as i32) < ((strictest & ret::ACTION) as i32) {
                strictest = answer;
            }
            at = filter.previous.as_deref();
        }
        strictest
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        let mut next = self.previous.take();
        while let Some(filter) = next.and_then(Arc::into_inner) {
            let mut filter = filter;
            next = filter.previous.take();
        }
    }
}

/// What to do with a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Run it.
    Allow,
    /// Do not; leave this in `rax`.
    Skip(u64),
}

/// Decides about the call in `frame`.
pub fn check(task: &Task, frame: &mut TrapFrame) -> Verdict {
    match task.seccomp_mode.load(Ordering::Relaxed) {
        MODE_STRICT => match frame.orig_rax {
            // read, write, exit, rt_sigreturn
            0 | 1 | 60 | 15 => Verdict::Allow,
            _ => crate::exit::exit_group(task, Signal::SIGKILL.raw() as i32),
        },
        MODE_FILTER => filter(task, frame),
        _ => Verdict::Allow,
    }
}

fn filter(task: &Task, frame: &mut TrapFrame) -> Verdict {
    let Some(answer) = ask(task, frame) else { return Verdict::Allow };
    if answer & ret::ACTION != ret::TRACE {
        return judge(task, frame, answer);
    }
    match crate::ptrace::seccomp_stop(task, frame, answer & ret::DATA) {
        None => Verdict::Skip(Errno::ENOSYS.as_return_value()),
        Some(Entry::Skip) => Verdict::Skip(frame.rax),
        // The tracer may have made it another call, which it must not run past the filters; what
        // they leave to the tracer it has seen.
        Some(Entry::Run) => match ask(task, frame) {
            Some(again) if again & ret::ACTION != ret::TRACE => judge(task, frame, again),
            _ => Verdict::Allow,
        },
    }
}

/// The filters' answer, if there are any.
fn ask(task: &Task, frame: &TrapFrame) -> Option<u32> {
    let data = Data {
        nr: frame.orig_rax as u32,
        arch: AUDIT_ARCH_X86_64,
        ip: frame.rip,
        args: frame.args(),
    };
    Some(task.seccomp.get()?.run(&data))
}

/// Does what the filters' answer says, other than to ask a tracer.
fn judge(task: &Task, frame: &TrapFrame, answer: u32) -> Verdict {
    let errno = (answer & ret::DATA).min(4095);
    match answer & ret::ACTION {
        ret::ALLOW | ret::LOG => Verdict::Allow,
        ret::ERRNO => Verdict::Skip((-i64::from(errno)) as u64),
        ret::TRAP => {
            crate::signal::force(task, told(frame, errno));
            Verdict::Skip(frame.orig_rax)
        }
        ret::KILL_THREAD if !task.group.is_single_threaded() => {
            crate::exit::exit_thread(Signal::SIGSYS.raw() as i32)
        }
        _ => {
            let info = told(frame, errno);
            crate::signal::deliver::end_with_core(task, frame, Signal::SIGSYS, &info);
            Verdict::Skip(frame.orig_rax)
        }
    }
}

/// The signal of a refused call.
fn told(frame: &TrapFrame, errno: u32) -> SigInfo {
    SigInfo::seccomp(frame.rip, frame.orig_rax as i32, AUDIT_ARCH_X86_64, errno as i32)
}

/// `SECCOMP_SET_MODE_STRICT`.
pub fn set_strict(task: &Task) -> Result<()> {
    match task.seccomp_mode.load(Ordering::Relaxed) {
        0 | MODE_STRICT => {
            task.seccomp_mode.store(MODE_STRICT, Ordering::Relaxed);
            task.set_flag(flags::SECCOMP);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `SECCOMP_SET_MODE_FILTER`.
pub fn add_filter(task: &Task, program: Program, set_flags: u32) -> Result<()> {
    if set_flags & !(FLAG_TSYNC | FLAG_LOG | FLAG_SPEC_ALLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let creds = task.creds();
    if !task.no_new_privs() && !creds.ns_capable(&creds.user_ns, vfs::cred::Cap::SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    if task.seccomp_mode.load(Ordering::Relaxed) == MODE_STRICT {
        return Err(Errno::EINVAL);
    }
    let previous = task.seccomp.get();
    let total = program.len() + 4 + previous.as_ref().map_or(0, |p| p.total);
    if total > MAX_PATH {
        return Err(Errno::ENOMEM);
    }
    let filters = Arc::new(Filters { program, previous, total });
    if set_flags & FLAG_TSYNC != 0 {
        // A thread that is about to run a set-user-id program must not come by a filter which it
        // could not have if it were told before.
        let _program = task.group.program_lock.lock()?;
        for other in task.group.tasks() {
            if !core::ptr::eq(&*other, task) {
                install(&other, filters.clone());
                if task.no_new_privs() {
                    other.no_new_privs.store(true, Ordering::Relaxed);
                }
            }
        }
    }
    install(task, filters);
    Ok(())
}

fn install(task: &Task, filters: Arc<Filters>) {
    task.seccomp.set(Some(filters));
    task.seccomp_mode.store(MODE_FILTER, Ordering::Relaxed);
    task.set_flag(flags::SECCOMP);
}

/// A child inherits mode and filters.
pub(crate) fn inherit(parent: &Task, child: &Task) {
    let mode = parent.seccomp_mode.load(Ordering::Relaxed);
    if mode != 0 {
        child.seccomp.set(parent.seccomp.get());
        child.seccomp_mode.store(mode, Ordering::Relaxed);
        child.set_flag(flags::SECCOMP);
    }
    if parent.no_new_privs() {
        child.no_new_privs.store(true, Ordering::Relaxed);
    }
}
