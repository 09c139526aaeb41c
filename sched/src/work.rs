//! Work done later, in threads: [`queue`] for anything, and the scheduler's own chores.

use crate::WaitQueue;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use arch::lock::{IrqLock, LockClass};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use threads::policy::Params;
use threads::run;

static CLASS: LockClass = LockClass::new("sched.work", 690);

type Job = Box<dyn FnOnce() + Send>;

static JOBS: IrqLock<VecDeque<Job>> = IrqLock::new(&CLASS, VecDeque::new());
static JOB_QUEUE: WaitQueue = WaitQueue::new();
static RCU_QUEUE: WaitQueue = WaitQueue::new();
static REAPER_QUEUE: WaitQueue = WaitQueue::new();
static IDLE_WORKERS: AtomicUsize = AtomicUsize::new(0);
static WORKERS: AtomicUsize = AtomicUsize::new(0);
static IS_STARTED: AtomicBool = AtomicBool::new(false);

/// More workers than this never run at once.
const MAX_WORKERS: usize = 32;

/// Runs `job` in a thread soon. From interrupts too.
pub fn queue(job: impl FnOnce() + Send + 'static) {
    #[cfg(not(target_os = "none"))]
    init();
    JOBS.lock().push_back(Box::new(job));
    JOB_QUEUE.wake_one();
}

/// Starts the threads; once threads can be made.
pub fn init() {
    if IS_STARTED.swap(true, Ordering::SeqCst) {
        return;
    }
    add_worker();
    spawn_chore("rcu", || {
        loop {
            RCU_QUEUE.wait(|| crate::rcu::has_pending().then_some(()));
            let end = arch::time::now_ns().saturating_add(crate::rcu::COLLECT_NS);
            RCU_QUEUE.wait_deadline(end, || crate::rcu::is_urgent().then_some(()));
            crate::rcu::process();
        }
    });
    spawn_chore("reaper", || {
        loop {
            REAPER_QUEUE.wait(|| run::has_dead().then_some(()));
            run::reap();
        }
    });
}

/// A thread that gives memory back: the more threads there are, the more often it must run.
fn spawn_chore(name: &str, chore: impl FnOnce() + Send + 'static) {
    run::spawn_kernel(name, chore).set_params(Params { nice: -20, ..Params::default() });
}

pub(crate) fn wake_rcu() {
    #[cfg(not(target_os = "none"))]
    init();
    RCU_QUEUE.wake_one();
}

#[cfg(target_os = "none")]
pub(crate) fn wake_reaper() {
    REAPER_QUEUE.wake_one();
}

fn add_worker() {
    WORKERS.fetch_add(1, Ordering::Relaxed);
    run::spawn_kernel("kworker", worker);
}

fn worker() {
    loop {
        IDLE_WORKERS.fetch_add(1, Ordering::SeqCst);
        let job = JOB_QUEUE.wait(|| JOBS.lock().pop_front());
        // The last idle worker makes another before it may sleep in a job.
        if IDLE_WORKERS.fetch_sub(1, Ordering::SeqCst) == 1
            && WORKERS.load(Ordering::Relaxed) < MAX_WORKERS
        {
            add_worker();
        }
        job();
    }
}
