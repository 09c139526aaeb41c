//! What a less privileged mount namespace cannot undo: mounts that came to it as one unit stay
//! together, and their flags stay as they were (`mount_namespaces(7)`, "Restrictions on mount
//! namespaces").

use alloc::sync::Arc;

use abi::mount::*;
use abi::{Errno, Result};

use super::ops::ATIME_FLAGS;
use super::tree::Tree;
use crate::path::Path;

/// The flags that lock when they are set; the access time's mode locks whatever it is.
const RESTRICTIONS: u64 = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;

impl Tree {
    /// The tree `root` has come from a more privileged namespace: what is below its root is locked to
    /// it, and so are all flags.
    pub(super) fn lock_below(&mut self, root: u64) -> Result<()> {
        for id in self.subtree(root) {
            let node = self.node_mut(id)?;
            node.locked = id != root;
            node.locked_flags |= (node.mount.flags() & RESTRICTIONS) | ATIME_FLAGS;
        }
        Ok(())
    }

    /// Whether two mounts are in namespaces of the same user namespace.
    pub(super) fn have_same_owner(&self, one: u64, other: u64) -> bool {
        let owner = |id: u64| {
            let ns = self.nodes.get(&id)?.ns;
            Some(self.spaces.get(&ns)?.upgrade()?.user_ns.clone())
        };
        match (owner(one), owner(other)) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one, &other),
            _ => true,
        }
    }

    /// Refuses (`EINVAL`) a copy of one mount alone that would show what a locked mount covers.
    pub(super) fn check_revealing(&self, from: &Path, recursive: bool) -> Result<()> {
        let covers = |id: &u64| {
            self.nodes.get(id).is_some_and(|node| {
                node.locked
                    && node.mountpoint.as_ref().is_some_and(|point| point.is_within(&from.dentry))
            })
        };
        if !recursive && self.node(from.mount.id)?.children.iter().any(covers) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}
