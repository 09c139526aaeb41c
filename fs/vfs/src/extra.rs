//! The state that few inodes have: locks and watches. Made at first use.

use alloc::sync::Arc;
use core::any::Any;

use arch::lock::Once;

use crate::acl::Acls;
use crate::lease::Leases;
use crate::locks::LockState;
use crate::notify::WatchList;

/// Locks, watches, and what a fifo or socket inode carries.
#[derive(Default)]
pub struct InodeExtra {
    /// Record locks and `flock` locks.
    pub locks: LockState,
    /// inotify watches.
    pub watches: WatchList,
    /// Leases.
    pub leases: Leases,
    /// Access control lists.
    pub acls: Acls,
    /// The pipe of a fifo, the address of a bound socket.
    pub special: Once<Arc<dyn Any + Send + Sync>>,
}
