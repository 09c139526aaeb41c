//! Signals that files send: readiness (`O_ASYNC`), broken leases, changes of a directory.
//!
//! Who gets them is set per open file (`F_SETOWN`, `F_SETSIG`); how a signal reaches a process is
//! known to the layer above, which registers a sender at start.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::poll::*;
use arch::lock::{LockClass, Once, SpinLock};
use sched::{Listener, WaitQueue};

use crate::file::{File, SignalOwner};
use crate::poll::PollTable;
use crate::types::FileKind;

static QUEUES: LockClass = LockClass::new("vfs.async_queues", 286);

/// `si_code` values of these signals.
pub mod code {
    /// Input came.
    pub const POLL_IN: i32 = 1;
    /// There is room for output.
    pub const POLL_OUT: i32 = 2;
    /// Something happened to a lease or a directory.
    pub const POLL_MSG: i32 = 3;
    /// An error.
    pub const POLL_ERR: i32 = 4;
    /// Urgent input.
    pub const POLL_PRI: i32 = 5;
    /// The other side is gone.
    pub const POLL_HUP: i32 = 6;
}

/// What a signal says about a file.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    /// The descriptor it was set up with.
    pub fd: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_band`.
    pub band: i64,
}

type Sender = fn(&SignalOwner, &Notice);
static SENDER: Once<Sender> = Once::new();

/// Registers how owners are signalled.
pub fn set_sender(sender: Sender) {
    SENDER.call_once(|| sender);
}

/// Signals an owner.
pub(crate) fn send(owner: &SignalOwner, notice: &Notice) {
    if owner.id != 0
        && let Some(sender) = SENDER.get()
    {
        sender(owner, notice);
    }
}

/// Listens to the queues of a file with `O_ASYNC`.
pub(crate) struct AsyncWatch {
    file: Weak<File>,
    fd: AtomicU32,
    queues: SpinLock<Vec<(Arc<WaitQueue>, u64)>>,
}

const WANTED: u32 = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLPRI | POLLERR | POLLHUP;

impl AsyncWatch {
    fn start(file: &Arc<File>, fd: i32) -> Arc<AsyncWatch> {
        let watch = Arc::new(AsyncWatch {
            file: Arc::downgrade(file),
            fd: AtomicU32::new(fd as u32),
            queues: SpinLock::new(&QUEUES, Vec::new()),
        });
        let mut found = Vec::new();
        let mut add = |queue: &Arc<WaitQueue>| found.push(queue.clone());
        file.poll(Some(&mut PollTable::new(WANTED, &mut add)));
        for queue in found {
            let id = queue.add_listener(watch.clone(), u64::from(WANTED));
            watch.queues.lock().push((queue, id));
        }
        watch
    }

    fn stop(&self) {
        let queues = core::mem::take(&mut *self.queues.lock());
        for (queue, id) in queues {
            queue.remove_listener(id);
        }
    }
}

impl Drop for AsyncWatch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Listener for AsyncWatch {
    fn notify(&self, events: u32) {
        let Some(file) = self.file.upgrade() else { return };
        let Some(owner) = file.signal_owner() else { return };
        let code = match events {
            _ if events & POLLHUP != 0 => code::POLL_HUP,
            _ if events & POLLERR != 0 => code::POLL_ERR,
            _ if events & POLLPRI != 0 => code::POLL_PRI,
            _ if events & (POLLIN | POLLRDNORM) != 0 => code::POLL_IN,
            _ if events & (POLLOUT | POLLWRNORM) != 0 => code::POLL_OUT,
            // "Look yourself": input is what most wait for.
            _ => code::POLL_IN,
        };
        let fd = self.fd.load(Ordering::Relaxed) as i32;
        send(&owner, &Notice { fd, code, band: events.into() });
    }
}

/// `O_ASYNC` was switched on or off for descriptor `fd` of `file`.
pub fn set_async(file: &Arc<File>, fd: i32, on: bool) {
    if !on {
        let old = file.replace_async(None);
        drop(old);
        return;
    }
    // Terminals, fifos and sockets send signals (man 2 fcntl, F_SETOWN).
    let inode = file.inode();
    let suits = match inode.kind {
        FileKind::Fifo | FileKind::Socket => true,
        FileKind::CharDevice => matches!(inode.rdev.major(), 4 | 5 | 136..=143),
        _ => false,
    };
    let suits = suits || file.ops().sends_signals();
    if !suits || file.has_async() {
        return;
    }
    let watch = AsyncWatch::start(file, fd);
    let old = file.replace_async(Some(watch));
    drop(old);
}
