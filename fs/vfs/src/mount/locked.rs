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

    /// Refuses a copy that would show what a locked mount covers: of one mount alone (`EINVAL`), or
    /// with all below where unbindable ones are left out (`EPERM`).
    pub(super) fn check_revealing(&self, from: &Path, recursive: bool) -> Result<()> {
        let is_below = |id: &u64| {
            let point = self.nodes.get(id).and_then(|node| node.mountpoint.as_ref());
            point.is_some_and(|point| point.is_within(&from.dentry))
        };
        let mut copied = self.node(from.mount.id)?.children.iter().filter(|id| is_below(id));
        let is_locked = |id: &u64| self.nodes.get(id).is_some_and(|node| node.locked);
        if !recursive {
            return if copied.any(is_locked) { Err(Errno::EINVAL) } else { Ok(()) };
        }
        let is_left_out =
            |id: &u64| self.nodes.get(id).is_some_and(|node| node.locked && node.unbindable);
        let reveals = copied.any(|id| self.subtree(*id).iter().any(is_left_out));
        if reveals { Err(Errno::EPERM) } else { Ok(()) }
    }
}
