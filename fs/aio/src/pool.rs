//! Threads for what has to wait: reads that miss the cache, syncs, whatever a file cannot do by itself.
//!
//! They are made as jobs come and end when there are none for a while, so that jobs that wait for ever do
//! not keep others from running.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use arch::lock::{IrqLock, LockClass};
use arch::time::now_ns;
use sched::WaitQueue;

static CLASS: LockClass = LockClass::new("aio.jobs", 594);

type Job = Box<dyn FnOnce() + Send>;

struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job and have none: one that takes a job is not among them from that moment,
    /// else what comes next would count on it and wait as long as its job does.
    idle: usize,
    threads: usize,
}

static QUEUE: IrqLock<Queue> =
    IrqLock::new(&CLASS, Queue { jobs: VecDeque::new(), idle: 0, threads: 0 });
static WAITING: WaitQueue = WaitQueue::new();
/// Threads that are to be made: where that is not possible, another makes them.
static WANTED: AtomicUsize = AtomicUsize::new(0);

/// A thread without a job for so long ends.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Threads at most: jobs beyond wait.
const MOST: usize = 1024;

/// Runs `job` in a thread soon. Any context.
pub fn run(job: impl FnOnce() + Send + 'static) {
    let needs_thread = {
        let mut queue = QUEUE.lock();
        queue.jobs.push_back(Box::new(job));
        let needs = queue.jobs.len() > queue.idle && queue.threads < MOST;
        queue.threads += usize::from(needs);
        needs
    };
    if needs_thread {
        WANTED.fetch_add(1, Ordering::AcqRel);
        // Making a thread may wait for memory, which the caller may not.
        sched::work::queue(make_threads);
    }
    WAITING.wake_one();
}

/// Gives up a reference in any context: if it is the last, what it is of ends in a thread, as that may take
/// locks and sleep.
pub fn let_go<T: Send + Sync + 'static>(held: Arc<T>) {
    if let Some(last) = Arc::into_inner(held) {
        run(move || drop(last));
    }
}

fn make_threads() {
    let wanted = WANTED.swap(0, Ordering::AcqRel);
    for _ in 0..wanted {
        sched::spawn_kernel("aio-worker", work);
    }
}

fn work() {
    loop {
        let deadline = now_ns() + PATIENCE_NS;
        QUEUE.lock().idle += 1;
        // One may also have come when the wait had ended.
        let Some(job) = WAITING.wait_deadline(deadline, take).or_else(take_or_end) else { return };
        job();
    }
}

/// The next job for a thread that is idle, and then is not any more.
fn take() -> Option<Job> {
    QUEUE.lock().take()
}

/// The same; without a job the thread ends.
fn take_or_end() -> Option<Job> {
    let mut queue = QUEUE.lock();
    let job = queue.take();
    if job.is_none() {
        queue.idle -= 1;
        queue.threads -= 1;
    }
    job
}

impl Queue {
    fn take(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.idle -= 1;
        Some(job)
    }
}
