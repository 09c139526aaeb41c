//! What waits for one file to be read.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::poll::{POLLIN, POLLRDNORM};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use netdevice::Frame;
use sched::WaitQueue;

static RING: LockClass = LockClass::new("tun.ring", 544);

/// The queue of a file.
pub(crate) struct Queue {
    ring: SpinLock<VecDeque<Frame>>,
    /// Frames in the ring: read without its lock.
    waiting: AtomicUsize,
    /// Whether it is taken out of service (`IFF_DETACH_QUEUE`).
    pub(crate) is_disabled: AtomicBool,
    /// Told of frames that come, of the interface that goes up or down, and of its end.
    pub(crate) changed: Arc<WaitQueue>,
}

impl Queue {
    pub(crate) fn new() -> Arc<Queue> {
        Arc::new(Queue {
            ring: SpinLock::new(&RING, VecDeque::new()),
            waiting: AtomicUsize::new(0),
            is_disabled: AtomicBool::new(false),
            changed: Arc::new(WaitQueue::new()),
        })
    }

    /// Appends a frame. `ENOBUFS` if there are `most` already, or no memory.
    pub(crate) fn push(&self, frame: Frame, most: usize) -> Result<()> {
        {
            let mut ring = self.ring.lock();
            if ring.len() >= most || ring.try_reserve(1).is_err() {
                return Err(Errno::ENOBUFS);
            }
            ring.push_back(frame);
            // Pairs with the look of who waits, which comes after it is in the wait queue.
            self.waiting.store(ring.len(), Ordering::SeqCst);
        }
        self.changed.wake_one();
        self.changed.tell(POLLIN | POLLRDNORM);
        Ok(())
    }

    /// Takes the first frame.
    pub(crate) fn pop(&self) -> Option<Frame> {
        if self.is_empty() {
            return None;
        }
        let mut ring = self.ring.lock();
        let first = ring.pop_front();
        self.waiting.store(ring.len(), Ordering::SeqCst);
        first
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// Forgets what waits.
    pub(crate) fn clear(&self) {
        let gone = {
            let mut ring = self.ring.lock();
            self.waiting.store(0, Ordering::SeqCst);
            core::mem::take(&mut *ring)
        };
        drop(gone);
    }
}
