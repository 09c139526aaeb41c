//! Which inodes have file locks, for `/proc/locks`.
//!
//! An inode is in the list while it has a lock. It enters and leaves under the lock of its own lists
//! (287), so that the list (288) always tells the truth.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use arch::lock::{LockClass, SpinLock};

use crate::inode::Inode;

static CLASS: LockClass = LockClass::new("vfs.locked_inodes", 288);

/// By address: an inode that has a lock lives.
static INODES: SpinLock<BTreeMap<usize, Weak<Inode>>> = SpinLock::new(&CLASS, BTreeMap::new());

fn key(inode: &Inode) -> usize {
    core::ptr::from_ref(inode).addr()
}

/// The inode got its first lock.
pub(crate) fn enter(inode: &Arc<Inode>) {
    INODES.lock().insert(key(inode), Arc::downgrade(inode));
}

/// The inode's last lock went.
pub(crate) fn leave(inode: &Inode) {
    INODES.lock().remove(&key(inode));
}

/// The inodes that have locks.
pub(crate) fn all() -> Vec<Arc<Inode>> {
    INODES.lock().values().filter_map(Weak::upgrade).collect()
}
