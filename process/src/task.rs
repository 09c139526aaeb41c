//! [`Task`]: one thread of a program, and what belongs to it alone.
//!
//! What several threads share lies in [`ThreadGroup`](crate::group::ThreadGroup) or in an `Arc`
//! that the task points to: address space, descriptors, directories, handlers, namespaces. Those
//! pointers are changed by their owner only (or before it runs, or after it is gone) and read by
//! anybody, so they are cells: reading one takes a reference.

use crate::cell::{ArcCell, IrqArcCell, SharedCell};
use crate::context::FsContext;
use crate::group::ThreadGroup;
use crate::nsproxy::NsProxy;
use crate::pid::Pid;
use crate::seccomp::Filters;
use crate::signal::{Pending, Record, SigHand};
use crate::user::User;
use abi::process::Resource;
use abi::signal::{SigSet, StackT};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use arch::addr::VirtAddr;
use arch::lock::{IrqLock, LockClass, SpinLock};
use arch::thread::flags;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use sched::{Completion, Thread};
use spin::Once;
use vfs::context::FsState;
use vfs::cred::{Cap, Creds};
use vfs::fdtable::FdTable;
use vm::AddressSpace;

pub(crate) static SIGNALS_CLASS: LockClass = LockClass::new("process.task_signals", 630);
/// Of what interrupt handlers that send signals read.
static IDENTITY_CLASS: LockClass = LockClass::new("process.task_identity", 644);
pub(crate) static PRIVATE_CLASS: LockClass = LockClass::new("process.task_private", 645);

/// How a system call that a signal interrupted goes on when no handler ran
/// (`restart_syscall(2)`).
pub type Restart = Box<dyn FnOnce(&Task) -> abi::Result<usize> + Send>;

/// Signal state of one thread that others may touch.
pub struct TaskSignals {
    /// Sent to this thread in particular.
    pub pending: Pending,
}

/// Where the thread stands between birth and reaping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Life {
    /// Runs or sleeps.
    Alive = 0,
    /// Is on its way out: takes no more signals.
    Exiting = 1,
    /// Has ended and waits for its parent.
    Zombie = 2,
    /// Is reaped.
    Dead = 3,
}

/// One thread of a program.
pub struct Task {
    this: Weak<Task>,
    thread: Once<Arc<Thread>>,
    /// The process.
    pub group: Arc<ThreadGroup>,
    /// Its number; replaced when a thread takes over as leader in `execve(2)`.
    pid: IrqLock<Arc<Pid>>,
    /// The number in its own namespace, cached for `gettid(2)`.
    tid: AtomicI32,
    /// Its key among the threads of the group.
    pub(crate) thread_key: AtomicU64,
    life: AtomicU32,

    creds: ArcCell<Creds>,
    pub(crate) mm: ArcCell<AddressSpace>,
    pub(crate) files: SharedCell<FdTable>,
    pub(crate) fs: SharedCell<FsState>,
    pub(crate) sighand: IrqArcCell<SigHand>,
    pub(crate) ns: ArcCell<NsProxy>,
    pub(crate) user: IrqLock<Option<Arc<User>>>,
    /// The namespace new children's pids come from (`unshare(CLONE_NEWPID)`).
    pub(crate) pid_ns_for_children: SpinLock<Option<Arc<crate::pid::PidNamespace>>>,

    pub(crate) signals: IrqLock<TaskSignals>,
    /// Blocked signals. Written by the thread itself, read by senders.
    blocked: AtomicU64,
    /// The mask to go back to after `sigsuspend(2)` and the like.
    saved_mask: AtomicU64,
    /// What `sigwait(3)` waits for, in spite of the mask.
    pub(crate) waited: AtomicU64,
    pub(crate) altstack: SpinLock<StackT>,
    pub(crate) restart: SpinLock<Option<Restart>>,
    /// Vector, error code and address of the last exception (`sigcontext`).
    pub(crate) last_trap: [AtomicU64; 3],

    /// `CLONE_CHILD_CLEARTID`, `set_tid_address(2)`.
    pub(crate) clear_child_tid: AtomicU64,
    /// Head of the robust list.
    pub(crate) robust_list: AtomicU64,
    /// Its restartable sequences.
    pub(crate) rseq: crate::rseq::Registration,
    pub(crate) vfork_done: SpinLock<Option<Arc<Completion>>>,
    pub(crate) pi: crate::futex::PiState,
    /// What it has for being traced.
    pub tracing: crate::ptrace::Tracing,

    /// `PR_SET_PDEATHSIG`.
    pub(crate) parent_death_signal: AtomicI32,
    pub(crate) no_new_privs: AtomicBool,
    /// The control groups it is in, unless all are roots. Changes with the tree locked.
    pub(crate) cgroups: ArcCell<crate::cgroup::Set>,
    /// Its key among their members.
    pub(crate) cgroup_key: AtomicU64,
    /// What it had used when it came there.
    pub(crate) before: crate::cgroup::Before,
    /// Whether it is frozen with them.
    pub(crate) standing: crate::cgroup::Standing,
    /// Seccomp filters; `SECCOMP` in the flags says whether there are any.
    pub(crate) seccomp: ArcCell<Filters>,
    pub(crate) seccomp_mode: AtomicU32,
    /// `personality(2)`.
    pub personality: AtomicU32,
    /// The timer slack in nanoseconds to which `PR_SET_TIMERSLACK` with 0 goes back; the slack is the thread's.
    pub default_timer_slack_ns: AtomicU64,
    /// `ioprio_set(2)`.
    pub ioprio: AtomicU32,
    pub(crate) exit_code: AtomicI32,
    /// Semaphore undo entries (System V).
    pub(crate) sem_undo: SpinLock<Option<Arc<ipc::sem::UndoList>>>,
    /// The thread takes part in a group stop and has reported it.
    pub(crate) is_stopped: AtomicBool,
    /// The serial number of the group stop that counts on this thread to stand still.
    pub(crate) owed_stop: AtomicU64,
    pub(crate) faults_minor: AtomicU64,
    pub(crate) faults_major: AtomicU64,
    /// Bytes and calls of reads and writes (`/proc/PID/io`).
    pub io: IoCounters,
    /// Nanoseconds since boot at birth.
    pub start_time_ns: u64,
}

/// `/proc/PID/io`.
#[derive(Default)]
#[expect(missing_docs, reason = "proc(5) describes them")]
pub struct IoCounters {
    pub read_bytes: AtomicU64,
    pub written_bytes: AtomicU64,
    pub read_calls: AtomicU64,
    pub write_calls: AtomicU64,
}

/// What a new task starts with; see [`Task::new`].
pub(crate) struct Parts {
    pub(crate) group: Arc<ThreadGroup>,
    pub(crate) pid: Arc<Pid>,
    pub(crate) creds: Arc<Creds>,
    pub(crate) user: Arc<User>,
    pub(crate) mm: Option<Arc<AddressSpace>>,
    pub(crate) files: Arc<FdTable>,
    pub(crate) fs: Arc<FsState>,
    pub(crate) sighand: Arc<SigHand>,
    pub(crate) ns: Arc<NsProxy>,
}

impl Task {
    pub(crate) fn new(parts: Parts) -> Arc<Task> {
        let tid = parts.pid.local();
        parts.user.add_task();
        Arc::new_cyclic(|this| Task {
            this: this.clone(),
            thread: Once::new(),
            group: parts.group,
            pid: IrqLock::new(&IDENTITY_CLASS, parts.pid),
            tid: AtomicI32::new(tid),
            // No key before it is among the threads.
            thread_key: AtomicU64::new(u64::MAX),
            life: AtomicU32::new(Life::Alive as u32),
            creds: ArcCell::new(Some(parts.creds)),
            mm: ArcCell::new(parts.mm),
            files: SharedCell::new(parts.files),
            fs: SharedCell::new(parts.fs),
            sighand: IrqArcCell::new(Some(parts.sighand)),
            ns: ArcCell::new(Some(parts.ns)),
            user: IrqLock::new(&IDENTITY_CLASS, Some(parts.user)),
            pid_ns_for_children: SpinLock::new(&PRIVATE_CLASS, None),
            signals: IrqLock::new(&SIGNALS_CLASS, TaskSignals { pending: Pending::new() }),
            blocked: AtomicU64::new(0),
            saved_mask: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            altstack: SpinLock::new(
                &PRIVATE_CLASS,
                StackT { sp: 0, flags: abi::signal::SS_DISABLE, pad: 0, size: 0 },
            ),
            restart: SpinLock::new(&PRIVATE_CLASS, None),
            last_trap: [const { AtomicU64::new(0) }; 3],
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            rseq: crate::rseq::Registration::default(),
            vfork_done: SpinLock::new(&PRIVATE_CLASS, None),
            pi: crate::futex::PiState::new(),
            tracing: crate::ptrace::Tracing::new(),
            parent_death_signal: AtomicI32::new(0),
            no_new_privs: AtomicBool::new(false),
            cgroups: ArcCell::new(None),
            cgroup_key: AtomicU64::new(0),
            before: crate::cgroup::Before::default(),
            standing: crate::cgroup::Standing::new(),
            seccomp: ArcCell::new(None),
            seccomp_mode: AtomicU32::new(0),
            personality: AtomicU32::new(0),
            default_timer_slack_ns: AtomicU64::new(50_000),
            ioprio: AtomicU32::new(0),
            exit_code: AtomicI32::new(0),
            sem_undo: SpinLock::new(&PRIVATE_CLASS, None),
            is_stopped: AtomicBool::new(false),
            owed_stop: AtomicU64::new(0),
            faults_minor: AtomicU64::new(0),
            faults_major: AtomicU64::new(0),
            io: IoCounters::default(),
            start_time_ns: sched::clock::boottime_ns(),
        })
    }

    /// A counted reference to this task.
    pub fn arc(&self) -> Option<Arc<Task>> {
        self.this.upgrade()
    }

    /// A weak reference to this task.
    pub fn weak(&self) -> Weak<Task> {
        self.this.clone()
    }

    pub(crate) fn set_thread(&self, thread: Arc<Thread>) {
        thread.set_number(self.global_tid());
        self.thread.call_once(|| thread);
    }

    /// The scheduler's side of this thread; `None` only while it is being born.
    pub fn thread(&self) -> Option<&Arc<Thread>> {
        self.thread.get()
    }

    /// The thread's number object.
    pub fn pid(&self) -> Arc<Pid> {
        self.pid.lock().clone()
    }

    pub(crate) fn replace_pid(&self, pid: Arc<Pid>) -> Arc<Pid> {
        self.tid.store(pid.local(), Ordering::Relaxed);
        if let Some(thread) = self.thread() {
            thread.set_number(pid.global());
        }
        core::mem::replace(&mut *self.pid.lock(), pid)
    }

    /// `gettid(2)`: the number in the task's own pid namespace.
    #[inline]
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// The number in the outermost pid namespace: what the kernel log and the tracer show.
    pub fn global_tid(&self) -> i32 {
        self.pid.lock().global()
    }

    /// Whether it is the thread-group leader.
    pub fn is_leader(&self) -> bool {
        self.group.leader_is(self)
    }

    /// Whether it is the running task.
    pub fn is_current(&self) -> bool {
        crate::try_current().is_some_and(|t| core::ptr::eq(t, self))
    }

    /// Where it stands between birth and reaping.
    pub fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Alive,
            1 => Life::Exiting,
            2 => Life::Zombie,
            _ => Life::Dead,
        }
    }

    pub(crate) fn set_life(&self, life: Life) {
        self.life.store(life as u32, Ordering::Release);
    }

    /// Whether any of the work flags (`arch::thread::flags`) is set.
    #[inline]
    pub fn has_flag(&self, mask: u32) -> bool {
        self.thread.get().is_some_and(|t| t.arch().has_flag(mask))
    }

    /// Sets work flags.
    pub fn set_flag(&self, mask: u32) {
        if let Some(thread) = self.thread.get() {
            thread.arch().set_flag(mask);
        }
    }

    /// Clears work flags.
    pub fn clear_flag(&self, mask: u32) {
        if let Some(thread) = self.thread.get() {
            thread.arch().clear_flag(mask);
        }
    }

    /// Whether a signal is pending (or somebody asked to look).
    #[inline]
    pub fn has_signal(&self) -> bool {
        self.has_flag(flags::SIGPENDING)
    }

    /// The address space; `None` after exit.
    #[inline]
    pub fn mm(&self) -> Option<Arc<AddressSpace>> {
        self.mm.get()
    }

    /// The descriptor table; `EBADF`-like emptiness after exit.
    #[inline]
    pub fn files(&self) -> Option<Arc<FdTable>> {
        self.files.get()
    }

    /// Root, working directory and umask.
    #[inline]
    pub fn fs(&self) -> Option<Arc<FsState>> {
        self.fs.get()
    }

    /// The credentials.
    #[inline]
    pub fn creds(&self) -> Arc<Creds> {
        self.creds.get().unwrap_or_else(|| crate::creds::initial_creds().clone())
    }

    /// Installs new credentials; only the task itself does that, or its maker.
    pub(crate) fn set_creds(&self, creds: Arc<Creds>) {
        self.creds.set(Some(creds));
    }

    /// The namespaces.
    pub fn ns(&self) -> Arc<NsProxy> {
        self.ns.get().unwrap_or_else(|| crate::nsproxy::initial().clone())
    }

    /// The handlers.
    pub(crate) fn sighand(&self) -> Option<Arc<SigHand>> {
        self.sighand.get()
    }

    /// The account of the real user.
    pub fn user(&self) -> Option<Arc<User>> {
        self.user.lock().clone()
    }

    /// Everything that file operations need to know about this task.
    pub fn vfs_context(&self) -> FsContext<'_> {
        let fs = self.fs();
        let paths = fs.as_ref().and_then(|f| f.paths());
        FsContext {
            creds: self.creds(),
            paths: paths.unwrap_or_else(crate::nsproxy::detached_paths),
            umask: fs.map_or(0o22, |f| f.umask()),
            mounts: self.ns().mounts.clone(),
            caller: self,
        }
    }

    /// A soft limit.
    #[inline]
    pub fn limit(&self, resource: Resource) -> u64 {
        self.group.limits.soft(resource)
    }

    /// The signals the thread blocks.
    #[inline]
    pub fn blocked(&self) -> SigSet {
        SigSet(self.blocked.load(Ordering::Relaxed))
    }

    pub(crate) fn store_blocked(&self, set: SigSet) {
        self.blocked.store(set.minus(SigSet::UNBLOCKABLE).0, Ordering::Relaxed);
    }

    pub(crate) fn saved_mask(&self) -> SigSet {
        SigSet(self.saved_mask.load(Ordering::Relaxed))
    }

    pub(crate) fn store_saved_mask(&self, set: SigSet) {
        self.saved_mask.store(set.0, Ordering::Relaxed);
    }

    /// Arranges what `restart_syscall(2)` does if the call ends with `ERESTART_RESTARTBLOCK`, and
    /// returns that error for the caller to pass on.
    pub fn restart_with(
        &self,
        how: impl FnOnce(&Task) -> abi::Result<usize> + Send + 'static,
    ) -> abi::Errno {
        let old = self.restart.lock().replace(Box::new(how));
        drop(old);
        abi::Errno::ERESTART_RESTARTBLOCK
    }

    /// What `restart_syscall(2)` is to do, once.
    pub fn take_restart(&self) -> Option<Restart> {
        self.restart.lock().take()
    }

    /// `PR_SET_NO_NEW_PRIVS`.
    pub fn no_new_privs(&self) -> bool {
        self.no_new_privs.load(Ordering::Relaxed)
    }

    /// `PR_SET_NO_NEW_PRIVS`; there is no way back.
    pub fn set_no_new_privs(&self) {
        self.no_new_privs.store(true, Ordering::Relaxed);
    }

    /// `PR_GET_PDEATHSIG`.
    pub fn parent_death_signal(&self) -> i32 {
        self.parent_death_signal.load(Ordering::Relaxed)
    }

    /// `PR_SET_PDEATHSIG`: sent when the thread that made this process ends.
    pub fn set_parent_death_signal(&self, signal: Option<abi::signal::Signal>) {
        let raw = signal.map_or(0, |s| s.raw() as i32);
        self.parent_death_signal.store(raw, Ordering::Relaxed);
        if let (true, Some(parent)) = (raw != 0, self.group.parent()) {
            parent.has_death_signals.store(true, Ordering::Relaxed);
        }
    }

    /// The seccomp mode.
    pub fn seccomp_mode(&self) -> u32 {
        self.seccomp_mode.load(Ordering::Relaxed)
    }

    /// The address that `CLONE_CHILD_CLEARTID` or `set_tid_address(2)` named.
    pub fn clear_child_tid(&self) -> VirtAddr {
        VirtAddr(self.clear_child_tid.load(Ordering::Relaxed))
    }

    /// The head of the robust list.
    pub fn robust_list(&self) -> VirtAddr {
        VirtAddr(self.robust_list.load(Ordering::Relaxed))
    }

    /// `set_robust_list(2)`.
    pub fn set_robust_list(&self, head: VirtAddr) {
        self.robust_list.store(head.0, Ordering::Relaxed);
    }

    /// Whether the task has `cap` over the whole machine.
    pub fn capable(&self, cap: Cap) -> bool {
        self.creds().capable(cap)
    }

    /// The name, at most 15 bytes.
    pub fn comm(&self) -> [u8; 16] {
        self.thread.get().map_or([0; 16], |t| t.name())
    }

    /// What it does, as the third field of `/proc/PID/stat` says: one of `RSDTtZX`.
    pub fn state_letter(&self) -> char {
        match self.life() {
            Life::Zombie => 'Z',
            Life::Dead => 'X',
            _ if self.standing.is_frozen_at_once() => 'D',
            _ if self.tracing.is_stopped() => 't',
            _ if self.is_stopped() => 'T',
            _ => self.thread().map_or('X', |thread| thread.state_letter()),
        }
    }

    /// Sets the name.
    pub fn set_comm(&self, name: &[u8]) {
        if let Some(thread) = self.thread.get() {
            thread.set_name(name);
        }
    }

    /// Minor and major page faults so far.
    pub fn faults(&self) -> (u64, u64) {
        (self.faults_minor.load(Ordering::Relaxed), self.faults_major.load(Ordering::Relaxed))
    }

    /// The signals the program ignores and those it catches, for `/proc/PID/status`.
    pub fn dispositions(&self) -> (SigSet, SigSet) {
        let (mut ignored, mut caught) = (0, 0);
        if let Some(hand) = self.sighand() {
            for number in 1..=64u32 {
                let Some(signal) = abi::signal::Signal::new(number as _) else { continue };
                match hand.get(signal).handler {
                    0 => {}
                    1 => ignored |= 1u64 << (number - 1),
                    _ => caught |= 1u64 << (number - 1),
                }
            }
        }
        (SigSet(ignored), SigSet(caught))
    }

    /// Signals pending for this thread alone.
    pub fn pending(&self) -> SigSet {
        self.signals.lock().pending.set()
    }

    /// Whether the thread stands still because its process is stopped.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// `CLONE_CHILD_CLEARTID`'s address.
    pub fn set_clear_child_tid(&self, address: VirtAddr) {
        self.clear_child_tid.store(address.0, Ordering::Relaxed);
    }

    /// Whether `sigwait(3)` is waiting for `signal` in this thread.
    pub(crate) fn waits_for(&self, signal: abi::signal::Signal) -> bool {
        SigSet(self.waited.load(Ordering::Relaxed)).contains(signal)
    }

    pub(crate) fn push_pending(&self, signal: abi::signal::Signal, record: Option<Box<Record>>) {
        self.signals.lock().pending.push(signal, record);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(user) = self.user.lock().take() {
            user.remove_task();
        }
    }
}

/// Whether `caller` may look inside `target` (`ptrace(2)`, "Ptrace access mode checking", with real
/// ids).
pub fn may_inspect(caller: &Task, target: &Task) -> abi::Result<()> {
    if Arc::ptr_eq(&caller.group, &target.group) {
        return Ok(());
    }
    let (mine, theirs) = (caller.creds(), target.creds());
    let same = [theirs.euid, theirs.suid, theirs.uid].iter().all(|&id| id == mine.uid)
        && [theirs.egid, theirs.sgid, theirs.gid].iter().all(|&id| id == mine.gid);
    let privileged = mine.ns_capable(&theirs.user_ns, Cap::SYS_PTRACE);
    if !privileged && (!same || target.group.dumpable.load(Ordering::Relaxed) != 1) {
        return Err(abi::Errno::EPERM);
    }
    if theirs.permitted.is_subset(mine.permitted) || privileged {
        Ok(())
    } else {
        Err(abi::Errno::EPERM)
    }
}

/// Takes hold of something inside `target` for `caller`: `EPERM` without the right.
///
/// First it is taken, then the right is asked for: `execve(2)` changes the credentials before
/// anything of the new program can be reached, so what is got hold of with the right to look at the
/// old program is never part of the new one.
pub fn inspect<R>(caller: &Task, target: &Task, take: impl FnOnce() -> R) -> abi::Result<R> {
    let taken = take();
    may_inspect(caller, target).map(|()| taken)
}

/// A number that is equal for two tasks exactly when they share the resource `kind` of `kcmp(2)`.
pub fn resource_id(task: &Task, kind: i32, index: i32) -> abi::Result<usize> {
    fn id<T: ?Sized>(arc: Option<Arc<T>>) -> usize {
        arc.map_or(0, |a| Arc::as_ptr(&a).cast::<()>() as usize)
    }
    Ok(match kind {
        0 => {
            let files = task.files().ok_or(abi::Errno::EBADF)?;
            id(Some(files.get_any(index)?))
        }
        1 => id(task.mm()),
        2 => id(task.files()),
        3 => id(task.fs()),
        4 => id(task.sighand()),
        6 => id(task.sem_undo.lock().clone()),
        _ => return Err(abi::Errno::EINVAL),
    })
}
