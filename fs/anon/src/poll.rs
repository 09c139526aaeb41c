//! Waiting for several files at once: `poll(2)` and `select(2)`.
//!
//! The first look registers nothing. Only if nothing is ready does the caller become a listener of
//! the files' queues, look again, and sleep.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use sched::{Deadline, Listener, WaitError, WaitQueue};
use vfs::{File, PollTable};

pub use abi::poll::*;

/// One file to wait for.
pub struct Wanted {
    /// The file; `None` is never ready (and reports nothing).
    pub file: Option<Arc<File>>,
    /// The events asked for; errors and hang-ups are always reported.
    pub events: u32,
    /// What is ready.
    pub ready: u32,
}

struct Waiter {
    happened: AtomicBool,
    queue: WaitQueue,
}

impl Listener for Waiter {
    fn notify(&self, _events: u32) {
        self.happened.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
}

/// The queues a caller listens to; left when dropped.
struct Registrations(Vec<(Arc<WaitQueue>, u64)>);

impl Drop for Registrations {
    fn drop(&mut self) {
        for (queue, id) in &self.0 {
            queue.remove_listener(*id);
        }
    }
}

fn look(list: &mut [Wanted]) -> usize {
    let mut count = 0;
    for item in list {
        let Some(file) = &item.file else {
            count += usize::from(item.ready != 0);
            continue;
        };
        item.ready = file.poll(None) & (item.events | POLLERR | POLLHUP);
        count += usize::from(item.ready != 0);
    }
    count
}

/// Waits until a file is ready or the deadline passes; how many are ready. `EINTR` at a signal.
pub fn wait(list: &mut [Wanted], deadline: Option<Deadline>, now: bool) -> Result<usize> {
    let count = look(list);
    if count > 0 || now {
        return Ok(count);
    }
    let waiter = Arc::new(Waiter { happened: AtomicBool::new(false), queue: WaitQueue::new() });
    let mut registered = Registrations(Vec::with_capacity(list.len()));
    for item in list.iter() {
        let Some(file) = &item.file else { continue };
        let mut add = |queue: &Arc<WaitQueue>| {
            let id = queue.add_listener(waiter.clone(), u64::from(item.events));
            registered.0.push((queue.clone(), id));
        };
        file.poll(Some(&mut PollTable::new(item.events | POLLERR | POLLHUP, &mut add)));
    }
    loop {
        let count = look(list);
        if count > 0 {
            return Ok(count);
        }
        let happened = || waiter.happened.swap(false, Ordering::SeqCst).then_some(());
        match waiter.queue.wait_interruptible(happened, deadline) {
            Ok(()) => {}
            Err(WaitError::TimedOut) => return Ok(look(list)),
            Err(WaitError::Interrupted) => return Err(Errno::EINTR),
        }
    }
}
