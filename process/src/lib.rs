#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cell;
pub mod cgroup;
mod children;
pub mod context;
pub mod coredump;
pub mod creds;
pub mod exec;
pub mod exit;
pub mod fork;
pub mod futex;
pub mod group;
mod helper;
pub mod ipc;
pub mod jobs;
pub mod limits;
mod memory;
pub mod namespaces;
mod net;
pub mod nsfs;
pub mod nsproxy;
pub mod oom;
pub mod pid;
pub mod power;
pub mod ptrace;
pub mod random;
mod roll;
pub mod rseq;
pub mod seccomp;
pub mod signal;
mod start;
pub mod sysrq;
pub mod task;
pub mod timers;
pub mod trap;
mod umip;
pub mod usage;
pub mod user;
pub mod userns;
pub mod wait;

pub use context::FsContext;
pub use group::ThreadGroup;
pub use start::{Init, spawn_init};
pub use task::Task;

pub(crate) use memory::{
    bind_address_space, copy_mounts, cpu_features, mm_is_shared, set_address_space,
};

use alloc::sync::Arc;
use arch::lock::{LockClass, SpinLock};
use spin::Once;

/// The running task; `None` in a kernel thread and before there are threads.
#[inline]
pub fn try_current() -> Option<&'static Task> {
    sched::try_current()?.private()?.downcast_ref::<Task>()
}

/// The running task.
///
/// # Panics
/// In a kernel thread.
#[inline]
pub fn current() -> &'static Task {
    match try_current() {
        Some(task) => task,
        None => panic!("a kernel thread has no task"),
    }
}

pub(crate) fn random_bytes(out: &mut [u8]) {
    random::fill(out);
}

pub(crate) fn random_u64() -> u64 {
    random::next_u64()
}

/// Called when a task has become another program: the tracer decides by its new name.
static EXEC_HOOK: Once<fn(&Task)> = Once::new();

/// Registers the tracer's hook.
pub fn set_exec_hook(hook: fn(&Task)) {
    EXEC_HOOK.call_once(|| hook);
}

pub(crate) fn trace_hook(task: &Task) {
    if let Some(hook) = EXEC_HOOK.get() {
        hook(task);
    }
}

type Work = alloc::boxed::Box<dyn FnOnce() + Send>;

static WORK_CLASS: LockClass = LockClass::new("process.task_work", 649);
static WORK: SpinLock<alloc::vec::Vec<(alloc::sync::Weak<Task>, Work)>> =
    SpinLock::new(&WORK_CLASS, alloc::vec::Vec::new());

/// Runs `work` in `task` before it next returns to user space.
pub fn add_task_work(task: &Arc<Task>, work: Work) {
    WORK.lock().push((Arc::downgrade(task), work));
    task.set_flag(arch::thread::flags::NOTIFY_RESUME);
    if let Some(thread) = task.thread() {
        thread.kick();
    }
}

pub(crate) fn run_task_work(task: &Task) {
    loop {
        let next = {
            let mut all = WORK.lock();
            let at = all.iter().position(|(t, _)| core::ptr::eq(t.as_ptr(), task));
            at.map(|at| all.swap_remove(at))
        };
        let Some((_, work)) = next else { return };
        work();
    }
}

/// What memory there is, in bytes.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "sysinfo(2) describes them")]
pub struct MemoryTotals {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub shared_bytes: u64,
    pub buffer_bytes: u64,
}

/// What memory there is.
pub fn memory_totals() -> MemoryTotals {
    use pagecache::stats::{Counter, sum};
    let bytes = |pages: u64| pages * arch::PAGE_SIZE as u64;
    MemoryTotals {
        total_bytes: bytes(frames::total_pages()),
        free_bytes: bytes(frames::free()),
        shared_bytes: bytes(sum(Counter::Shmem)),
        buffer_bytes: bytes(sum(Counter::Buffers)),
    }
}
