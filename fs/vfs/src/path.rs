//! A place in the tree: a dentry as seen through a mount.

use alloc::sync::Arc;

use abi::{Errno, Result};

use crate::dentry::Dentry;
use crate::inode::Inode;
use crate::mount::Mount;

/// A dentry as seen through a mount.
#[derive(Clone, Debug)]
pub struct Path {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The dentry; within the mount's file system.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// The inode; `ENOENT` for a name that does not exist.
    pub fn inode(&self) -> Result<Arc<Inode>> {
        self.dentry.inode().ok_or(Errno::ENOENT)
    }

    /// Whether both are the same place.
    pub fn is(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.dentry, &other.dentry) && Arc::ptr_eq(&self.mount, &other.mount)
    }

    /// Whether this is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, &self.mount.root)
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        self.is(other)
    }
}

impl Eq for Path {}
