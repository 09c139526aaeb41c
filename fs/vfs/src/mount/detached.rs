//! Mount trees that are attached nowhere: what `open_tree(OPEN_TREE_CLONE)` and `fsmount(2)` return.
//!
//! A detached tree is in a namespace of its own that no task is in and that has the number
//! [`namespace_of`] its root, until `move_mount(2)` attaches it. The descriptor it was made for owns
//! it: closed before that, the tree is dissolved.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use abi::fcntl::O_PATH;
use abi::{Errno, Result};

use super::ops::may_mount;
use super::propagate::{Copy, Depth};
use super::tree::{self, Tree};
use super::{Mount, MountNamespace};
use crate::context::Context;
use crate::file::{File, FileInit, FileMode, FileOps};
use crate::path::Path;

/// The number of the namespace of a detached tree with this root; no task's namespace has it.
pub(super) fn namespace_of(root: u64) -> u64 {
    1 << 63 | root
}

impl Tree {
    /// Whether `mount` is the root of a detached tree.
    pub(super) fn is_detached_root(&self, mount: &Mount) -> bool {
        self.nodes.get(&mount.id).is_some_and(|n| n.ns == namespace_of(mount.id))
    }
}

/// Owns the tree at the root of the file's mount, as long as nobody attached it.
struct Owner;

impl FileOps for Owner {
    fn release(&self, file: &File) {
        let mount = &file.path.mount;
        let gone = {
            let mut tree = tree::lock();
            if tree.is_detached_root(mount) { tree.discard(mount.id) } else { Vec::new() }
        };
        tree::finish(gone);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An `O_PATH` file at the root of a detached tree, which owns it.
fn owner(ctx: &Context<'_>, mount: Arc<Mount>) -> Result<Arc<File>> {
    let path = Path { dentry: mount.root.clone(), mount };
    let inode = path.inode()?;
    let creds = ctx.creds.clone();
    let mode = FileMode::PATH;
    Ok(File::new(FileInit { ops: Arc::new(Owner), inode, path, creds, flags: O_PATH, mode }))
}

/// `open_tree(OPEN_TREE_CLONE)`: a copy of the mount at `from`, of all below it if `recursive`, as
/// seen from there. `EPERM` without the right to mount, `EINVAL` if `from` is in no mount of the
/// caller's namespace or in an unbindable one.
pub fn clone_tree(ctx: &Context<'_>, from: &Path, recursive: bool) -> Result<Arc<File>> {
    may_mount(ctx)?;
    crate::filecount::check(ctx.creds)?;
    let mount = {
        let mut tree = tree::lock();
        if tree.in_ns(&from.mount, ctx.mounts)?.unbindable {
            return Err(Errno::EINVAL);
        }
        tree.check_revealing(from, recursive)?;
        let depth = if recursive { Depth::Bindable } else { Depth::One };
        let copy = tree.copy_tree(from.mount.id, &from.dentry, depth, Copy::Peer)?;
        for id in tree.subtree(copy) {
            tree.node_mut(id)?.ns = namespace_of(copy);
        }
        tree.node(copy)?.mount.clone()
    };
    owner(ctx, mount)
}

/// Makes a mount that is in no tree yet a detached tree of its own.
pub(super) fn detached(ctx: &Context<'_>, mount: Arc<Mount>) -> Result<Arc<File>> {
    crate::filecount::check(ctx.creds)?;
    tree::lock().add(&mount, namespace_of(mount.id));
    owner(ctx, mount)
}

/// Whether `path` is the root of a mount in this namespace; `EINVAL` if not.
pub(super) fn check_mounted(path: &Path, ns: &MountNamespace) -> Result<()> {
    tree::lock().in_ns(&path.mount, ns)?;
    if path.is_mount_root() { Ok(()) } else { Err(Errno::EINVAL) }
}
