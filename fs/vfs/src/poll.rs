//! Readiness: how `poll`, `select` and `epoll` ask a file and hear of changes.

use alloc::sync::Arc;

use sched::WaitQueue;

pub use abi::poll::*;

/// Always ready to read and write, like a regular file.
pub const ALWAYS_READY: u32 = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;

/// Collects the wait queues that announce changes of a file's readiness. [`crate::FileOps::poll`]
/// adds its queues *before* it looks at its state, so that no change is lost.
pub struct PollTable<'a> {
    add: &'a mut dyn FnMut(&Arc<WaitQueue>),
    /// The events the caller wants; a hint.
    pub wanted: u32,
}

impl<'a> PollTable<'a> {
    /// A table that passes each queue to `add`.
    pub fn new(wanted: u32, add: &'a mut dyn FnMut(&Arc<WaitQueue>)) -> PollTable<'a> {
        PollTable { add, wanted }
    }

    /// Announces that `queue` is notified when the file's readiness changes.
    pub fn add(&mut self, queue: &Arc<WaitQueue>) {
        (self.add)(queue);
    }
}

impl core::fmt::Debug for PollTable<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("PollTable")
    }
}

/// Shorthand for the end of most `poll` functions: adds the queue if a table is given.
pub fn poll_wait(table: Option<&mut PollTable<'_>>, queue: &Arc<WaitQueue>) {
    if let Some(table) = table {
        table.add(queue);
    }
}
