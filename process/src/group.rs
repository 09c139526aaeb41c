//! [`ThreadGroup`]: a process, that is what its threads share, and its place in the family tree.
//!
//! The tree (parents, children, process groups, sessions) changes under one global lock,
//! [`tree`]; each process's part of it lies in its own `family` lock, taken after the global one,
//! so that no function needs more than the tree lock to see a consistent picture, and reading one
//! process's part needs its lock only. A child's `kin` may be taken while its parent's `family` is
//! held, not the other way round.
//!
//! Locks: tree (rank 600) → family (605) → threads (610) → signals (620, interrupts off).

use crate::children::Children;
use crate::limits::Limits;
use crate::pid::{Pid, PidNamespace};
use crate::ptrace::Traces;
use crate::roll::Roll;
use crate::signal::GroupSignals;
use crate::task::{Life, Task};
use crate::usage::Usage;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{IrqLock, LockClass, SpinLock, SpinLockGuard};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use sched::WaitQueue;
use tty::Tty;

static TREE_CLASS: LockClass = LockClass::new("process.tree", 600);
static FAMILY_CLASS: LockClass = LockClass::new("process.family", 605);
static KIN_CLASS: LockClass = LockClass::new("process.kin", 607);
static THREADS_CLASS: LockClass = LockClass::new("process.threads", 622);
static SIGNALS_CLASS: LockClass = LockClass::new("process.group_signals", 620);
static TERMINAL_CLASS: LockClass = LockClass::new("process.terminal", 646);

static TREE: SpinLock<()> = SpinLock::new(&TREE_CLASS, ());

/// Holds the family tree still.
pub(crate) fn tree() -> SpinLockGuard<'static, ()> {
    TREE.lock()
}

static NEXT_BIRTH: AtomicU64 = AtomicU64::new(1);
/// Processes ever made, for `/proc/stat`.
pub(crate) static FORKS: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Tasks ever made (`processes` in `/proc/stat`).
pub fn fork_count() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Threads that exist now.
pub fn thread_count() -> usize {
    THREADS.load(Ordering::Relaxed)
}

/// A process's children and what it traces.
#[derive(Default)]
pub(crate) struct Family {
    pub(crate) children: Children,
    /// Made when a thread of this process first traces another.
    pub(crate) traces: Option<Box<Traces>>,
}

/// What a process belongs to.
pub(crate) struct Kin {
    pub(crate) parent: Weak<ThreadGroup>,
    /// The thread that made this process (`__WNOTHREAD`, parent-death signals).
    pub(crate) parent_thread: Weak<Task>,
    /// Its key among the parent's children.
    pub(crate) child_key: u64,
    pub(crate) pgrp: Arc<Pid>,
    /// Its key among the members of the process group.
    pub(crate) pgrp_key: u64,
    pub(crate) session: Arc<Pid>,
    /// Its key among the members of the session.
    pub(crate) session_key: u64,
    /// Set while the process is a zombie that its parent has been told about.
    pub(crate) is_zombie: bool,
    /// A zombie that its tracer, not its parent, may wait for.
    pub(crate) is_held: bool,
    /// It has ended, its parent has been told, and nobody has waited for it yet.
    pub(crate) is_waitable: bool,
}

pub(crate) struct Threads {
    /// Usage of those that are gone. It changes together with `live`, so that no look at both
    /// finds a thread twice or not at all: the time of a process never goes back.
    dead: Usage,
    /// The leader's key in `live`.
    leader: u64,
    live: Roll<Arc<Task>>,
}

/// A process.
pub struct ThreadGroup {
    this: Weak<ThreadGroup>,
    /// Its place in the order of births; never reused.
    pub birth: u64,
    pid: Arc<Pid>,
    tgid: i32,
    /// The parent's number in this process's pid namespace, cached for `getppid(2)`.
    ppid: AtomicI32,
    pub(crate) family: SpinLock<Family>,
    pub(crate) kin: SpinLock<Kin>,
    pub(crate) threads: IrqLock<Threads>,
    /// Threads that have not begun to exit.
    pub(crate) live_count: AtomicUsize,
    pub(crate) signals: IrqLock<GroupSignals>,
    /// Woken when a child changes state, and for `wait(2)` on exit of siblings' children.
    pub(crate) child_wait: WaitQueue,
    /// Woken when a signal arrives that no thread takes at once (`signalfd(2)`).
    pub signal_wait: Arc<WaitQueue>,
    /// Stopped threads sleep here; also `execve(2)` waiting for the other threads to go.
    pub(crate) resume: WaitQueue,
    /// Resource limits.
    pub limits: Limits,
    /// Usage of children that were waited for, with theirs.
    pub(crate) usage_of_children: SpinLock<Usage>,
    pub(crate) exit_signal: AtomicI32,
    pub(crate) terminal: SpinLock<Option<Arc<Tty>>>,
    /// The group that was in the foreground when the terminal was hung up; told at this leader's
    /// exit.
    pub(crate) old_foreground: SpinLock<Option<Arc<Pid>>>,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub(crate) is_subreaper: AtomicBool,
    pub(crate) has_subreaper_ancestor: AtomicBool,
    pub(crate) has_death_signals: AtomicBool,
    /// Has called `execve(2)` since its birth (`setpgid(2)`).
    pub(crate) has_execed: AtomicBool,
    /// 0: not, 1: yes, 2: for root only.
    pub dumpable: AtomicU32,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: AtomicI32,
    /// The lowest `oom_score_adj` that an unprivileged process may set.
    pub oom_score_adj_min: AtomicI32,
    pub(crate) is_unkillable: AtomicBool,
    /// Timers of the process.
    pub timers: crate::timers::Timers,
    pub(crate) exe: crate::cell::ArcCell<crate::exec::Executable>,
    /// Held while the program and its credentials change.
    pub(crate) program_lock: crate::exec::ProgramLock,
    pub(crate) args: SpinLock<MemoryLayout>,
    pub(crate) coredump_filter: AtomicU32,
    /// While core is dumped: what the other threads left.
    pub(crate) dump: SpinLock<Option<Vec<crate::coredump::Registers>>>,
    /// `/proc/PID/loginuid`.
    pub loginuid: AtomicU32,
    /// Nanoseconds since boot at birth.
    pub start_time_ns: u64,
}

/// Where `execve(2)` put things, for `/proc/PID/cmdline`, `environ`, `stat` and `prctl(2)`.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "prctl(2), PR_SET_MM, describes them")]
pub struct MemoryLayout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub auxv: Vec<u64>,
}

impl ThreadGroup {
    pub(crate) fn new(
        pid: Arc<Pid>,
        pgrp: Arc<Pid>,
        session: Arc<Pid>,
        limits: Limits,
    ) -> Arc<ThreadGroup> {
        let tgid = pid.local();
        Arc::new_cyclic(|this| ThreadGroup {
            this: this.clone(),
            birth: NEXT_BIRTH.fetch_add(1, Ordering::Relaxed),
            pid,
            tgid,
            ppid: AtomicI32::new(0),
            family: SpinLock::new(&FAMILY_CLASS, Family::default()),
            kin: SpinLock::new(
                &KIN_CLASS,
                Kin {
                    parent: Weak::new(),
                    parent_thread: Weak::new(),
                    child_key: 0,
                    pgrp,
                    pgrp_key: 0,
                    session,
                    session_key: 0,
                    is_zombie: false,
                    is_held: false,
                    is_waitable: false,
                },
            ),
            threads: IrqLock::new(
                &THREADS_CLASS,
                Threads { dead: Usage::default(), leader: 0, live: Roll::new() },
            ),
            live_count: AtomicUsize::new(0),
            signals: IrqLock::new(&SIGNALS_CLASS, GroupSignals::new()),
            child_wait: WaitQueue::new(),
            signal_wait: Arc::new(WaitQueue::new()),
            resume: WaitQueue::new(),
            limits,
            usage_of_children: SpinLock::new(&crate::task::PRIVATE_CLASS, Usage::default()),
            exit_signal: AtomicI32::new(17),
            terminal: SpinLock::new(&TERMINAL_CLASS, None),
            old_foreground: SpinLock::new(&TERMINAL_CLASS, None),
            is_subreaper: AtomicBool::new(false),
            has_subreaper_ancestor: AtomicBool::new(false),
            has_death_signals: AtomicBool::new(false),
            has_execed: AtomicBool::new(false),
            dumpable: AtomicU32::new(1),
            oom_score_adj: AtomicI32::new(0),
            oom_score_adj_min: AtomicI32::new(0),
            is_unkillable: AtomicBool::new(false),
            timers: crate::timers::Timers::new(),
            exe: crate::cell::ArcCell::new(None),
            program_lock: crate::exec::ProgramLock::new(),
            args: SpinLock::new(&crate::task::PRIVATE_CLASS, MemoryLayout::default()),
            coredump_filter: AtomicU32::new(0x33),
            dump: SpinLock::new(&crate::task::PRIVATE_CLASS, None),
            loginuid: AtomicU32::new(u32::MAX),
            start_time_ns: sched::clock::boottime_ns(),
        })
    }

    /// A counted reference.
    pub fn arc(&self) -> Option<Arc<ThreadGroup>> {
        self.this.upgrade()
    }

    /// The process's number object.
    pub fn pid(&self) -> &Arc<Pid> {
        &self.pid
    }

    /// `getpid(2)`: the number in the process's own pid namespace.
    #[inline]
    pub fn tgid(&self) -> i32 {
        self.tgid
    }

    /// `getppid(2)`.
    #[inline]
    pub fn ppid(&self) -> i32 {
        self.ppid.load(Ordering::Relaxed)
    }

    /// The pid namespace it lives in.
    pub fn pid_ns(&self) -> &Arc<PidNamespace> {
        self.pid.namespace()
    }

    /// The parent process.
    pub fn parent(&self) -> Option<Arc<ThreadGroup>> {
        self.kin.lock().parent.upgrade()
    }

    /// Makes `parent` the parent; the caller holds the tree lock (or the process is unborn).
    pub(crate) fn set_parent(&self, parent: &Arc<ThreadGroup>, thread: Weak<Task>) {
        let mut kin = self.kin.lock();
        kin.parent = Arc::downgrade(parent);
        kin.parent_thread = thread;
        self.ppid.store(parent.pid.number_in(self.pid_ns()), Ordering::Relaxed);
    }

    /// The process group.
    pub fn pgrp(&self) -> Arc<Pid> {
        self.kin.lock().pgrp.clone()
    }

    /// The session.
    pub fn session(&self) -> Arc<Pid> {
        self.kin.lock().session.clone()
    }

    /// Whether it leads its session.
    pub fn is_session_leader(&self) -> bool {
        Arc::ptr_eq(&self.kin.lock().session, &self.pid)
    }

    /// The child processes, in the order in which they came to this one.
    pub fn children(&self) -> Vec<Arc<ThreadGroup>> {
        self.family.lock().children.iter().cloned().collect()
    }

    /// The controlling terminal.
    pub fn terminal(&self) -> Option<Arc<Tty>> {
        self.terminal.lock().clone()
    }

    /// Replaces the controlling terminal.
    pub fn set_terminal(&self, terminal: Option<Arc<Tty>>) {
        let old = core::mem::replace(&mut *self.terminal.lock(), terminal);
        drop(old);
    }

    /// The leader; it stays until the process is reaped, even after it has exited.
    pub fn leader(&self) -> Option<Arc<Task>> {
        let threads = self.threads.lock();
        threads.live.get(threads.leader).cloned()
    }

    pub(crate) fn leader_is(&self, task: &Task) -> bool {
        self.threads.lock().leader == task.thread_key.load(Ordering::Relaxed)
    }

    /// Every thread that is not reaped, oldest first.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        loop {
            // Room is made before the lock is taken: it keeps interrupts off.
            let wanted = self.threads.lock().live.len();
            let mut tasks = Vec::with_capacity(wanted + 4);
            let threads = self.threads.lock();
            if threads.live.len() <= tasks.capacity() {
                tasks.extend(threads.live.iter().cloned());
                return tasks;
            }
        }
    }

    /// Calls `act` for every thread that is not reaped, with the thread list locked: `act` must be
    /// short and may take no lock of a lower rank than a thread's signals.
    pub(crate) fn for_each_task(&self, mut act: impl FnMut(&Arc<Task>)) {
        self.threads.lock().live.each(|task| act(task));
    }

    /// The first thread that satisfies `test`, the leader before the others.
    pub(crate) fn find_task(&self, test: impl Fn(&Task) -> bool) -> Option<Arc<Task>> {
        let threads = self.threads.lock();
        if let Some(leader) = threads.live.get(threads.leader)
            && test(leader)
        {
            return Some(leader.clone());
        }
        threads.live.iter().find(|t| test(t)).cloned()
    }

    /// How many threads there are.
    pub fn thread_count(&self) -> usize {
        self.threads.lock().live.len()
    }

    /// Whether it has one thread only.
    pub fn is_single_threaded(&self) -> bool {
        self.live_count.load(Ordering::Acquire) == 1
    }

    /// Any thread that still runs; the leader if it does.
    pub fn any_task(&self) -> Option<Arc<Task>> {
        let threads = self.threads.lock();
        if let Some(leader) = threads.live.get(threads.leader)
            && leader.life() == Life::Alive
        {
            return Some(leader.clone());
        }
        threads.live.iter().find(|t| t.life() == Life::Alive).cloned()
    }

    pub(crate) fn add_thread(&self, task: &Arc<Task>, is_leader: bool) {
        let mut threads = self.threads.lock();
        let key = threads.live.join(task.clone());
        task.thread_key.store(key, Ordering::Relaxed);
        if is_leader {
            threads.leader = key;
        }
        self.live_count.fetch_add(1, Ordering::AcqRel);
        THREADS.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_leader(&self, task: &Arc<Task>) {
        self.threads.lock().leader = task.thread_key.load(Ordering::Relaxed);
    }

    /// Takes a thread that has ended off the list; what it used stays with the process.
    pub(crate) fn remove_thread(&self, task: &Task) -> Option<Arc<Task>> {
        let key = task.thread_key.load(Ordering::Relaxed);
        let mut threads = self.threads.lock();
        let removed = threads.live.leave(key)?;
        threads.dead.add(&Usage::of(&removed));
        THREADS.fetch_sub(1, Ordering::Relaxed);
        drop(threads);
        crate::cgroup::gone(&removed);
        Some(removed)
    }

    /// Takes the leader, the last one, off the list; `used` is what the process has used, if that is
    /// known.
    pub(crate) fn remove_leader(&self, used: Option<Usage>) -> Option<Arc<Task>> {
        let mut threads = self.threads.lock();
        let leader = threads.leader;
        let removed = threads.live.leave(leader)?;
        match used {
            Some(used) => threads.dead = used,
            None => threads.dead.add(&Usage::of(&removed)),
        }
        THREADS.fetch_sub(1, Ordering::Relaxed);
        drop(threads);
        crate::cgroup::gone(&removed);
        Some(removed)
    }

    /// Remembers how large an address space was that the process is about to lose.
    pub(crate) fn keep_peak(&self, mm: &vm::AddressSpace) {
        let dead = &mut self.threads.lock().dead;
        dead.max_rss_kib = dead.max_rss_kib.max(mm.max_rss_kib());
    }

    /// Whether process 1 of its namespace, which signals without a handler do not touch.
    pub fn is_unkillable(&self) -> bool {
        self.is_unkillable.load(Ordering::Relaxed)
    }

    /// `PR_GET_CHILD_SUBREAPER`.
    pub fn is_subreaper(&self) -> bool {
        self.is_subreaper.load(Ordering::Relaxed)
    }

    /// `PR_SET_CHILD_SUBREAPER`: orphaned descendants become children of this process.
    pub fn set_subreaper(&self, on: bool) {
        self.is_subreaper.store(on, Ordering::Relaxed);
        if !on {
            return;
        }
        let _tree = tree();
        let mut below = self.children();
        while let Some(group) = below.pop() {
            group.has_subreaper_ancestor.store(true, Ordering::Relaxed);
            below.extend(group.children());
        }
    }

    /// The program file.
    pub fn exe(&self) -> Option<Arc<vfs::file::File>> {
        self.exe.get().map(|exe| exe.file().clone())
    }

    /// Where `execve(2)` put code, data, arguments.
    pub fn layout(&self) -> MemoryLayout {
        self.args.lock().clone()
    }

    /// Changes the layout (`PR_SET_MM`).
    pub fn update_layout(&self, change: impl FnOnce(&mut MemoryLayout)) {
        change(&mut self.args.lock());
    }

    /// `/proc/PID/coredump_filter`.
    pub fn coredump_filter(&self) -> u32 {
        self.coredump_filter.load(Ordering::Relaxed)
    }

    /// Sets `/proc/PID/coredump_filter`.
    pub fn set_coredump_filter(&self, filter: u32) {
        self.coredump_filter.store(filter & 0x1ff, Ordering::Relaxed);
    }

    /// Whether all its threads have ended.
    pub fn is_zombie(&self) -> bool {
        self.kin.lock().is_zombie
    }

    /// Whether it has ended and another thread of the parent, whose family is locked, is about to
    /// reap it.
    pub(crate) fn is_claimed(&self) -> bool {
        let kin = self.kin.lock();
        kin.is_zombie && !kin.is_held && !kin.is_waitable
    }

    /// Usage of all threads, dead and alive.
    pub fn usage(&self) -> Usage {
        let mut sum = self.sum_of_threads();
        sum.max_rss_kib = sum.max_rss_kib.max(self.max_rss_kib());
        sum
    }

    /// Time of all threads, dead and alive, in user and in kernel mode.
    pub fn cpu_time(&self) -> (u64, u64) {
        let sum = self.sum_of_threads();
        (sum.utime_ns, sum.stime_ns)
    }

    fn sum_of_threads(&self) -> Usage {
        let threads = self.threads.lock();
        let mut sum = threads.dead;
        threads.live.each(|task| sum.add(&Usage::of(task)));
        sum
    }

    /// How long all threads, dead and alive, have run.
    pub fn run_ns(&self) -> u64 {
        let threads = self.threads.lock();
        let mut sum = threads.dead.utime_ns + threads.dead.stime_ns;
        threads.live.each(|task| sum += task.thread().map_or(0, |thread| thread.run_ns()));
        sum
    }

    /// Usage of the children that were waited for.
    pub fn children_usage(&self) -> Usage {
        *self.usage_of_children.lock()
    }

    fn max_rss_kib(&self) -> u64 {
        self.any_task().and_then(|t| t.mm()).map_or(0, |mm| mm.max_rss_kib())
    }
}
