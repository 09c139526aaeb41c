//! Counts and events that threads wait for: [`Semaphore`], [`Completion`].

use crate::{WaitError, WaitQueue};
use core::sync::atomic::{AtomicU32, Ordering};

/// A count that can be taken from while it is positive.
pub struct Semaphore {
    count: AtomicU32,
    queue: WaitQueue,
}

impl Semaphore {
    /// A semaphore with this count.
    pub const fn new(count: u32) -> Semaphore {
        Semaphore { count: AtomicU32::new(count), queue: WaitQueue::new() }
    }

    /// Waits for one and takes it.
    pub fn acquire(&self) {
        self.queue.wait(|| self.try_acquire().then_some(()));
    }

    /// Takes one if there is one.
    pub fn try_acquire(&self) -> bool {
        self.count.fetch_update(Ordering::Acquire, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    }

    /// Gives one back.
    pub fn release(&self) {
        self.count.fetch_add(1, Ordering::Release);
        self.queue.wake_one();
    }
}

/// Something that happens once.
pub struct Completion {
    done: AtomicU32,
    queue: WaitQueue,
}

impl Default for Completion {
    fn default() -> Self {
        Self::new()
    }
}

impl Completion {
    /// It has not happened.
    pub const fn new() -> Completion {
        Completion { done: AtomicU32::new(0), queue: WaitQueue::new() }
    }

    /// It has happened: everybody goes on.
    pub fn complete(&self) {
        self.done.store(1, Ordering::SeqCst);
        self.queue.wake_all();
    }

    /// Whether it has happened.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst) != 0
    }

    /// Waits for it.
    pub fn wait(&self) {
        self.queue.wait(|| self.is_done().then_some(()));
    }

    /// Waits for it or until the thread is to die.
    pub fn wait_killable(&self) -> Result<(), WaitError> {
        self.queue.wait_killable(|| self.is_done().then_some(()))
    }
}
