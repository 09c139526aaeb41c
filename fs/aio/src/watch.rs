//! Waiting for a file to become ready without a thread that waits.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use arch::lock::{IrqLock, LockClass};
use sched::{Listener, WaitQueue};
use vfs::{File, PollTable};

use crate::pool;

static CLASS: LockClass = LockClass::new("aio.watch", 592);

/// Always told of.
const ALWAYS: u32 = abi::poll::POLLERR | abi::poll::POLLHUP;

/// What is called when the file is ready, with the events: those that were wanted if it was ready from the
/// beginning, else all there are. With none where the wait was cancelled.
pub type Ready = Box<dyn FnOnce(u32) + Send>;

/// A file that is waited for, once.
pub struct Watch {
    file: Arc<File>,
    wanted: u32,
    me: Weak<Watch>,
    inner: IrqLock<Inner>,
    /// A look at the file is on its way.
    is_looking: AtomicBool,
}

struct Inner {
    ready: Option<Ready>,
    queues: Vec<(Arc<WaitQueue>, u64)>,
}

impl Listener for Watch {
    fn notify(&self, events: u32) {
        if events != 0 && events & (self.wanted | ALWAYS) == 0 {
            return;
        }
        if self.is_looking.swap(true, Ordering::AcqRel) {
            return;
        }
        // A look takes the file's locks, which whoever tells may hold.
        let me = self.me.clone();
        pool::run(move || {
            if let Some(watch) = me.upgrade() {
                watch.look();
            }
        });
    }
}

impl Watch {
    /// Calls `ready` when the file has some of the events `wanted`, perhaps before this returns.
    pub fn begin(file: &Arc<File>, wanted: u32, ready: Ready) -> Arc<Watch> {
        let inner = Inner { ready: Some(ready), queues: Vec::new() };
        let watch = Arc::new_cyclic(|me| Watch {
            file: file.clone(),
            wanted,
            me: me.clone(),
            inner: IrqLock::new(&CLASS, inner),
            is_looking: AtomicBool::new(false),
        });
        let mut queues = Vec::new();
        let mut add = |queue: &Arc<WaitQueue>| {
            let listener: Arc<dyn Listener> = watch.clone();
            queues.push((queue.clone(), queue.add_listener(listener, 0)));
        };
        let events = file.poll(Some(&mut PollTable::new(wanted, &mut add)));
        // Told meanwhile, it may be over already.
        let is_over = {
            let mut inner = watch.inner.lock();
            if inner.ready.is_some() {
                inner.queues = core::mem::take(&mut queues);
            }
            inner.ready.is_none()
        };
        if is_over {
            leave(queues);
        }
        if events & (wanted | ALWAYS) != 0 {
            watch.fire(events & (wanted | ALWAYS));
        }
        watch
    }

    fn look(&self) {
        self.is_looking.store(false, Ordering::Release);
        let events = self.file.poll(None);
        if events & (self.wanted | ALWAYS) != 0 {
            self.fire(events);
        }
    }

    fn fire(&self, events: u32) {
        if let Some(ready) = self.end() {
            ready(events);
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether it is not over.
    pub fn is_waiting(&self) -> bool {
        self.inner.lock().ready.is_some()
    }

    /// Stops waiting; what was to be called, unless it was.
    pub fn cancel(&self) -> Option<Ready> {
        self.end()
    }

    fn end(&self) -> Option<Ready> {
        let mut inner = self.inner.lock();
        let ready = inner.ready.take();
        let queues = core::mem::take(&mut inner.queues);
        drop(inner);
        leave(queues);
        ready
    }
}

fn leave(queues: Vec<(Arc<WaitQueue>, u64)>) {
    for (queue, id) in queues {
        queue.remove_listener(id);
    }
}
