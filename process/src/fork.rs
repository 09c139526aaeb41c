//! Birth: `clone(2)`, `clone3(2)`, `fork(2)`, `vfork(2)`.
//!
//! [`Request::check`] holds Linux's rules about which flags go together; [`spawn`] copies or shares
//! what they say, links the child into the family and starts it. Everything that can fail happens
//! before the child is visible, so a failure leaves nothing behind.

use crate::group::{FORKS, ThreadGroup, tree};
use crate::nsproxy::{self, NEW_ANY};
use crate::pid::{Pid, PidNamespace};
use crate::signal::SigHand;
use crate::task::{Parts, Task};
use crate::user::User;
use abi::process::{Resource, clone};
use abi::signal::{SS_DISABLE, Signal, StackT};
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::thread::fpu::FpuStart;
use arch::trap::TrapFrame;
use core::sync::atomic::{AtomicUsize, Ordering};
use sched::{Completion, Thread};
use vfs::cred::Cap;
use vm::AddressSpace;

/// `kernel.threads-max`.
static MAX_THREADS: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Sets how many threads there may be.
pub fn set_max_threads(max: usize) {
    MAX_THREADS.store(max, Ordering::Relaxed);
}

/// How many threads there may be.
pub fn max_threads() -> usize {
    MAX_THREADS.load(Ordering::Relaxed)
}

/// Sets `kernel.threads-max`, proc(5): `EINVAL` outside of 1..=`FUTEX_TID_MASK`.
pub fn change_max_threads(count: usize) -> Result<()> {
    if !(1..=0x3fff_ffff).contains(&count) {
        return Err(Errno::EINVAL);
    }
    MAX_THREADS.store(count, Ordering::Relaxed);
    Ok(())
}

/// What a caller of `clone` asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// `CLONE_*`, without the signal.
    pub flags: u64,
    /// Sent to the parent when the child ends; 0 for none.
    pub exit_signal: u32,
    /// The child's stack pointer; 0 keeps the parent's.
    pub stack: u64,
    /// Where to store the child's number in the parent.
    pub parent_tid: VirtAddr,
    /// Where to store the child's number in the child, and to clear it at its end.
    pub child_tid: VirtAddr,
    /// The child's FS base.
    pub tls: u64,
}

impl Request {
    /// The rules about flags (`clone(2)`, "EINVAL").
    pub fn check(&self, caller: &Caller) -> Result<()> {
        let has = |flags: u64| self.flags & flags != 0;
        let both = |a: u64, b: u64| self.flags & a != 0 && self.flags & b != 0;
        let wrong = both(clone::NEWNS, clone::FS)
            || both(clone::NEWUSER, clone::FS)
            || has(clone::THREAD) && !has(clone::SIGHAND)
            || has(clone::SIGHAND) && !has(clone::VM)
            || has(clone::PARENT) && caller.is_init
            || has(clone::THREAD) && (has(clone::NEWUSER | clone::NEWPID) || caller.changed_pid_ns)
            || both(clone::NEWPID, clone::PARENT)
            || both(clone::NEWIPC, clone::SYSVSEM)
            || both(clone::PIDFD, clone::DETACHED | clone::THREAD)
            || both(clone::SIGHAND, clone::CLEAR_SIGHAND);
        if wrong { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

/// What the rules need to know about the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// It is process 1 of its namespace.
    pub is_init: bool,
    /// It has unshared or entered another pid namespace for its children.
    pub changed_pid_ns: bool,
}

/// A child that exists but does not run yet.
pub struct Child {
    /// The child.
    pub task: Arc<Task>,
    /// Its number as the parent sees it.
    pub nr: i32,
    vfork: Option<Arc<Completion>>,
    /// What the parent's tracer wants to know.
    event: Option<u32>,
}

impl Child {
    /// Starts the child of `parent`, which runs; with `CLONE_VFORK` waits until the child has let
    /// go of the memory.
    pub fn start(self, parent: &Task, frame: &mut TrapFrame) -> i32 {
        let pid = self.task.pid();
        if let Some(thread) = self.task.thread() {
            thread.start_user(self.task.clone());
        }
        let vfork = self.vfork;
        drop(self.task);
        if let Some(event) = self.event {
            crate::ptrace::fork_stop(parent, frame, event, &pid);
        }
        if let Some(done) = vfork
            // Only SIGKILL ends the wait early.
            && wait_for_child(parent, &done)
        {
            crate::ptrace::vfork_done_stop(parent, frame, &pid);
        }
        self.nr
    }
}

fn wait_for_child(parent: &Task, done: &Completion) -> bool {
    let _waits = crate::cgroup::Wait::new(parent);
    done.wait_killable().is_ok()
}

/// Makes a child of `parent`, which runs and whose user registers are in `frame`.
pub fn spawn(parent: &Task, frame: &TrapFrame, request: &Request) -> Result<Child> {
    let flags = request.flags;
    let has = |flag: u64| flags & flag != 0;
    let group = &parent.group;
    let children_ns = children_ns(parent);
    request.check(&Caller {
        is_init: group.is_unkillable(),
        changed_pid_ns: !Arc::ptr_eq(&children_ns, group.pid_ns()),
    })?;
    // A signal first: a fork that it interrupts would be one fork too many.
    if parent.has_signal() {
        crate::signal::recalculate(parent);
        if parent.has_signal() {
            return Err(Errno::ERESTARTNOINTR);
        }
    }
    sched::relieve_reaper();
    let mut creds = parent.creds();
    if has(clone::NEWUSER) {
        nsproxy::check_not_chrooted(parent)?;
        creds = Arc::new(nsproxy::new_user_namespace(&creds)?);
    }
    let user = User::of(creds.uid);
    check_limits(parent, &user)?;
    if flags & NEW_ANY != 0 && !creds.ns_capable(&creds.user_ns, Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }

    let parent_mm = parent.mm().ok_or(Errno::EINVAL)?;
    let files = parent.files().ok_or(Errno::EINVAL)?;
    let files = if has(clone::FILES) { files } else { Arc::new(files.duplicate()?) };
    let fs = parent.fs().ok_or(Errno::EINVAL)?;
    let fs = if has(clone::FS) { fs } else { Arc::new(fs.duplicate()) };
    let sighand = parent.sighand().ok_or(Errno::EINVAL)?;
    let sighand = if has(clone::SIGHAND) { sighand } else { Arc::new(sighand.duplicate()) };
    if has(clone::CLEAR_SIGHAND) {
        sighand.reset_handlers();
    }
    let mut ns = parent.ns();
    if flags & (NEW_ANY & !clone::NEWPID) != 0 {
        let mounts = if has(clone::NEWNS) {
            Some(crate::copy_mounts(&ns.mounts, &fs, &creds)?)
        } else {
            None
        };
        ns = Arc::new(ns.copy(flags, &creds.user_ns, mounts, parent.cgroups.get())?);
    }
    let pid_ns = if has(clone::NEWPID) {
        PidNamespace::create(&children_ns, creds.user_ns.clone())?
    } else {
        children_ns
    };
    let mm = if has(clone::VM) { parent_mm } else { parent_mm.fork()? };
    let pid = Pid::allocate(&pid_ns)?;
    let undo = PidGuard(Some(pid.clone()));

    let new_group = if has(clone::THREAD) {
        group.clone()
    } else {
        ThreadGroup::new(pid.clone(), group.pgrp(), group.session(), group.limits.duplicate())
    };
    let task = Task::new(Parts {
        group: new_group,
        pid: pid.clone(),
        creds,
        user,
        mm: Some(mm.clone()),
        files,
        fs,
        sighand,
        ns,
    });
    let mut child_frame = *frame;
    child_frame.rax = 0;
    if parent.has_flag(arch::thread::flags::SINGLE_STEP) {
        child_frame.rflags &= !arch::trap::RFLAGS_TF;
    }
    if request.stack != 0 {
        child_frame.rsp = request.stack;
    }
    let thread = Thread::new_user(&parent.comm(), &child_frame, FpuStart::CopyCurrent)?;
    let own_fs_base = parent.thread().map_or(0, |t| t.arch().fs_base());
    let own_gs_base = parent.thread().map_or(0, |t| t.arch().gs_base());
    thread.arch().set_fs_base(if has(clone::SETTLS) { request.tls } else { own_fs_base });
    thread.arch().set_gs_base(own_gs_base);
    task.set_thread(thread);
    crate::bind_address_space(&task, &mm);
    inherit(parent, &task, request);
    let vfork = has(clone::VFORK).then(|| {
        let done = Arc::new(Completion::new());
        *task.vfork_done.lock() = Some(done.clone());
        done
    });
    let nr = pid.number_in(group.pid_ns());
    if has(clone::CHILD_SETTID) {
        store_child_tid(&mm, request.child_tid, pid.local(), has(clone::VM));
    }
    let event = crate::ptrace::fork_event(parent, request);
    link(parent, &task, &pid, request, event.is_some())?;
    undo.keep();
    if has(clone::PARENT_SETTID) {
        let _ = arch::user::write_val(request.parent_tid, &nr);
    }
    FORKS.fetch_add(1, Ordering::Relaxed);
    Ok(Child { task, nr, vfork, event })
}

/// The namespace the caller's children are born in.
fn children_ns(parent: &Task) -> Arc<PidNamespace> {
    let changed = parent.pid_ns_for_children.lock().clone();
    changed.unwrap_or_else(|| parent.group.pid_ns().clone())
}

fn check_limits(parent: &Task, user: &User) -> Result<()> {
    if crate::group::thread_count() >= max_threads() {
        return Err(Errno::EAGAIN);
    }
    let limit = parent.limit(Resource::Nproc);
    if user.tasks() as u64 >= limit
        && user.uid != 0
        && !parent.capable(Cap::SYS_RESOURCE)
        && !parent.capable(Cap::SYS_ADMIN)
    {
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

/// Gives a number back unless the child came to be.
struct PidGuard(Option<Arc<Pid>>);

impl PidGuard {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for PidGuard {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            pid.abandon();
        }
    }
}

fn store_child_tid(mm: &Arc<AddressSpace>, at: VirtAddr, tid: i32, shared: bool) {
    if shared {
        let _ = arch::user::write_val(at, &tid);
    } else {
        let _ = mm.write_remote(at, &tid.to_le_bytes());
    }
}

/// What a child takes over from the thread that made it.
fn inherit(parent: &Task, child: &Task, request: &Request) {
    let has = |flag: u64| request.flags & flag != 0;
    child.store_blocked(parent.blocked());
    // A thread with its own stack starts without the alternate one; vfork(2)'s child shares it.
    let altstack = if has(clone::VM) && !has(clone::VFORK) {
        StackT { sp: 0, flags: SS_DISABLE, pad: 0, size: 0 }
    } else {
        *parent.altstack.lock()
    };
    *child.altstack.lock() = altstack;
    if has(clone::CHILD_CLEARTID) {
        child.set_clear_child_tid(request.child_tid);
    }
    child.personality.store(parent.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    if let Some(thread) = parent.thread() {
        child.default_timer_slack_ns.store(thread.timer_slack_ns(), Ordering::Relaxed);
    }
    child.ioprio.store(parent.ioprio.load(Ordering::Relaxed), Ordering::Relaxed);
    crate::seccomp::inherit(parent, child);
    if !has(clone::VM) {
        crate::rseq::inherit(parent, child);
    }
    if has(clone::SYSVSEM) {
        crate::ipc::sem::share_undo(parent, child);
    }
    if parent.has_flag(arch::thread::flags::SYSCALL_TRACE) {
        child.set_flag(arch::thread::flags::SYSCALL_TRACE);
    }
    if !has(clone::THREAD) {
        let (from, to) = (&parent.group, &child.group);
        to.dumpable.store(from.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
        to.oom_score_adj.store(from.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
        to.oom_score_adj_min
            .store(from.oom_score_adj_min.load(Ordering::Relaxed), Ordering::Relaxed);
        to.coredump_filter.store(from.coredump_filter.load(Ordering::Relaxed), Ordering::Relaxed);
        to.loginuid.store(from.loginuid.load(Ordering::Relaxed), Ordering::Relaxed);
        to.exit_signal.store(request.exit_signal as i32, Ordering::Relaxed);
        to.has_subreaper_ancestor.store(
            from.has_subreaper_ancestor.load(Ordering::Relaxed)
                || from.is_subreaper.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        to.set_terminal(from.terminal());
        to.exe.set(from.exe.get());
        let layout = from.layout();
        to.update_layout(|own| *own = layout);
    }
}

/// Puts the child among its relatives; from here on others see it.
fn link(
    parent: &Task,
    child: &Arc<Task>,
    pid: &Arc<Pid>,
    request: &Request,
    is_watched: bool,
) -> Result<()> {
    let is_watched = is_watched || request.flags & clone::PTRACE != 0;
    let _tree = tree();
    let place = crate::cgroup::Entry::new(parent)?;
    let group = &parent.group;
    let signals = group.signals.lock();
    if signals.is_exiting() || signals.exec_by.is_some() {
        return Err(Errno::ERESTARTNOINTR);
    }
    if request.flags & clone::THREAD != 0 {
        pid.attach_task(child);
        group.add_thread(child, false);
        crate::timers::inherit(child);
        // A stop in progress takes the new thread along.
        if signals.stop.is_some() {
            child.set_flag(arch::thread::flags::SIGPENDING);
        }
        drop(signals);
        place.enter(child);
        crate::ptrace::adopt_child(parent, child, is_watched);
        return Ok(());
    }
    drop(signals);
    let own = &child.group;
    if !pid.namespace().has_init() {
        pid.namespace().set_init(own);
        own.is_unkillable.store(true, Ordering::Relaxed);
    }
    let (real_parent, thread) = if request.flags & clone::PARENT != 0 {
        own.exit_signal.store(group.exit_signal.load(Ordering::Relaxed), Ordering::Relaxed);
        let thread = group.kin.lock().parent_thread.clone();
        (group.parent().ok_or(Errno::EINVAL)?, thread)
    } else {
        (group.arc().ok_or(Errno::EINVAL)?, parent.weak())
    };
    own.set_parent(&real_parent, thread);
    own.add_thread(child, true);
    crate::timers::inherit(child);
    // setsid(2) or setpgid(2) may have come between the copy and now.
    let (pgrp, session) = (group.pgrp(), group.session());
    {
        let mut kin = own.kin.lock();
        kin.pgrp_key = pgrp.attach_member(own);
        kin.session_key = session.attach_session(own);
        kin.pgrp = pgrp;
        kin.session = session;
    }
    pid.attach_task(child);
    pid.attach_group(own);
    place.enter(child);
    real_parent.family.lock().children.add(own);
    crate::ptrace::adopt_child(parent, child, is_watched);
    Ok(())
}

/// Handlers for a process that starts without a parent to copy from.
pub(crate) fn fresh_handlers() -> Arc<SigHand> {
    Arc::new(SigHand::new())
}

/// `SIGCHLD`, the exit signal of `fork(2)`.
pub const FORK_SIGNAL: u32 = Signal::SIGCHLD.raw();

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: u64) -> Result<()> {
        Request { flags, ..Request::default() }.check(&Caller::default())
    }

    #[test]
    fn flags_that_exclude_each_other() {
        assert_eq!(check(clone::THREAD), Err(Errno::EINVAL));
        assert_eq!(check(clone::SIGHAND), Err(Errno::EINVAL));
        assert_eq!(check(clone::NEWNS | clone::FS), Err(Errno::EINVAL));
        assert_eq!(check(clone::NEWUSER | clone::FS), Err(Errno::EINVAL));
        assert_eq!(check(clone::PIDFD | clone::DETACHED), Err(Errno::EINVAL));
        let thread = clone::VM | clone::SIGHAND | clone::THREAD;
        assert_eq!(check(thread), Ok(()));
        assert_eq!(check(thread | clone::NEWPID), Err(Errno::EINVAL));
        let glibc = thread
            | clone::FS
            | clone::FILES
            | clone::SYSVSEM
            | clone::SETTLS
            | clone::PARENT_SETTID
            | clone::CHILD_CLEARTID;
        assert_eq!(check(glibc), Ok(()));
        let init = Caller { is_init: true, changed_pid_ns: false };
        let request = Request { flags: clone::PARENT, ..Request::default() };
        assert_eq!(request.check(&init), Err(Errno::EINVAL));
    }
}
