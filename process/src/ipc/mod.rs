//! Inter-process communication: System V objects and POSIX message queues, per IPC namespace.

pub mod sem;

use alloc::sync::Arc;
use vfs::cred::UserNamespace;

/// An IPC namespace.
pub struct IpcNamespace {
    /// Inode number in `/proc/PID/ns/ipc`.
    pub id: u64,
    /// Who may act on it.
    pub user_ns: Arc<UserNamespace>,
}

impl IpcNamespace {
    /// A namespace without objects.
    pub fn new(id: u64, user_ns: Arc<UserNamespace>) -> IpcNamespace {
        IpcNamespace { id, user_ns }
    }
}
