//! The kernel thread that carries received bytes from device rings to terminals.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use arch::lock::{LockClass, SpinLock};
use sched::WaitQueue;

use crate::wait;

static SOURCES: LockClass = LockClass::new("tty.input_sources", 575);

/// How often sources without an interrupt are looked at.
const POLL_NS: u64 = 10_000_000;

/// A device with received bytes for a terminal.
pub trait InputSource: Send + Sync {
    /// Carries what has been received to the terminal. Called in a kernel thread.
    fn deliver(&self);

    /// Whether it has no interrupt and must be looked at again and again.
    fn must_be_polled(&self) -> bool {
        false
    }
}

/// A kernel thread that serves [`InputSource`]s.
pub struct InputWorker {
    sources: SpinLock<Vec<Arc<dyn InputSource>>>,
    is_pending: AtomicBool,
    queue: WaitQueue,
}

impl InputWorker {
    /// Starts the thread.
    pub fn start(name: &'static str) -> Arc<Self> {
        let worker = Arc::new(Self {
            sources: SpinLock::new(&SOURCES, Vec::new()),
            is_pending: AtomicBool::new(false),
            queue: WaitQueue::new(),
        });
        let thread = worker.clone();
        sched::spawn_kernel(name, move || thread.run());
        worker
    }

    /// Adds a device to serve.
    pub fn add(&self, source: Arc<dyn InputSource>) {
        self.sources.lock().push(source);
        self.kick();
    }

    /// Something has been received; in any context.
    pub fn kick(&self) {
        // Release: pairs with the swap in `run`.
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            self.queue.wake_one();
        }
    }

    fn run(&self) {
        loop {
            let must_poll = self.sources.lock().iter().any(|source| source.must_be_polled());
            let limit = must_poll.then_some(POLL_NS);
            let look = || self.is_pending.swap(false, Ordering::AcqRel).then_some(());
            // A kernel thread gets no signals.
            let _ = wait::until(&self.queue, limit, look);
            let sources = self.sources.lock().clone();
            for source in &sources {
                source.deliver();
            }
        }
    }
}
