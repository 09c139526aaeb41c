//! `eventfd(2)`.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::poll::*;
use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use sched::WaitQueue;
use vfs::{Context, File, FileOps, PollTable};

use crate::inode::anon_file;
use crate::wait::wait_interruptible;

/// `EFD_SEMAPHORE`.
pub const EFD_SEMAPHORE: u32 = 1;
/// The largest value.
const MAX: u64 = u64::MAX - 1;

struct EventFd {
    count: AtomicU64,
    semaphore: bool,
    readable: Arc<WaitQueue>,
    writable: Arc<WaitQueue>,
}

/// `eventfd2(2)`; `flags` are `O_NONBLOCK` and `EFD_SEMAPHORE`.
pub fn create(ctx: &Context<'_>, initial: u32, flags: u32) -> Result<Arc<File>> {
    let ops = Arc::new(EventFd {
        count: AtomicU64::new(u64::from(initial)),
        semaphore: flags & EFD_SEMAPHORE != 0,
        readable: Arc::new(WaitQueue::new()),
        writable: Arc::new(WaitQueue::new()),
    });
    let status = flags & abi::fcntl::O_NONBLOCK;
    anon_file(ctx, "[eventfd]", ops, abi::fcntl::O_RDWR | status)
}

/// Whether a file is an event counter.
pub fn is_one(file: &File) -> bool {
    file.private::<EventFd>().is_some()
}

/// Adds to the counter of an event file, as much as it takes, without waiting. Any context.
pub fn signal(file: &File, value: u64) {
    let Some(event) = file.private::<EventFd>() else { return };
    let add = |count: u64| Some(count.saturating_add(value).min(MAX));
    // It always has a result.
    let _ = event.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
    event.readable.notify_one(POLLIN | POLLRDNORM);
}

impl EventFd {
    fn take(&self) -> Option<u64> {
        let step = |n: u64| if self.semaphore { 1 } else { n };
        // SeqCst: a waker that saw no waiter must have been seen.
        let old = self
            .count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n != 0).then(|| n - step(n)));
        old.ok().map(step)
    }

    /// Waits to [`take`](Self::take). One reader is woken for each write: he wakes the next if he leaves
    /// something.
    fn take_waiting(&self) -> Result<u64> {
        let value = wait_interruptible(&self.readable, || self.take())?;
        if self.count.load(Ordering::SeqCst) > 0 {
            self.readable.wake_one();
        }
        Ok(value)
    }

    fn add(&self, value: u64) -> Option<()> {
        self.count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                n.checked_add(value).filter(|sum| *sum <= MAX)
            })
            .ok()
            .map(|_| ())
    }
}

impl FileOps for EventFd {
    fn read_at(&self, file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = match self.take() {
            Some(value) => value,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self.take_waiting()?,
        };
        // All: room for one may be too little for another.
        self.writable.notify(POLLOUT | POLLWRNORM);
        sink.put_all(&value.to_ne_bytes())?;
        Ok(8)
    }

    fn write_at(&self, file: &File, _pos: u64, source: &mut Source<'_>) -> Result<usize> {
        if source.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        source.take_all(&mut bytes)?;
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        match self.add(value) {
            Some(()) => {}
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => wait_interruptible(&self.writable, || self.add(value))?,
        }
        self.readable.notify_one(POLLIN | POLLRDNORM);
        Ok(8)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        if let Some(table) = table {
            table.add(&self.readable);
            table.add(&self.writable);
        }
        let count = self.count.load(Ordering::SeqCst);
        let mut events = 0;
        if count > 0 {
            events |= POLLIN | POLLRDNORM;
        }
        if count < MAX {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }

    fn fdinfo(&self, _file: &File, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "eventfd-count: {:16x}", self.count.load(Ordering::Relaxed))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
