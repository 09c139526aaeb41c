//! Dentries: names in the tree, and what they mean.
//!
//! A [`Dentry`] is the stable object (open files, working directories and mounts refer to it); its
//! current name and parent are an immutable [`Entry`] that is replaced by a rename. Readers reach
//! both under RCU without a lock.
//!
//! Invariants: an entry in the hash table has its `dentry` set; a dentry that is hashed and
//! positive counts one user of its inode ([`crate::inode`]); a positive dentry's inode changes only
//! to "none"; directories have one dentry.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use sched::rcu::{RcuArc, RcuRef, ReadGuard};

use crate::inode::{Inode, drop_user};
use crate::superblock::SuperBlock;

const SHORT: usize = 30;

/// A file name; short ones live in the entry itself.
#[derive(Clone)]
pub(crate) enum Name {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl Name {
    pub(crate) fn new(name: &[u8]) -> Name {
        if name.len() <= SHORT {
            let mut bytes = [0; SHORT];
            bytes[..name.len()].copy_from_slice(name);
            Name::Short(name.len() as u8, bytes)
        } else {
            Name::Long(name.into())
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Name::Short(len, bytes) => &bytes[..usize::from(*len)],
            Name::Long(bytes) => bytes,
        }
    }
}

/// Where a dentry is: immutable but for the links of the hash table.
pub(crate) struct Entry {
    /// Hash of parent and name: see [`crate::dcache`].
    pub(crate) hash: u64,
    /// `None` at the root of a file system and for files without a name.
    pub(crate) parent: Option<Arc<Dentry>>,
    pub(crate) name: Name,
    /// Set while the entry is in the hash table.
    pub(crate) dentry: RcuArc<Dentry>,
    pub(crate) next: RcuArc<Entry>,
}

impl Entry {
    pub(crate) fn new(hash: u64, parent: Option<Arc<Dentry>>, name: &[u8]) -> Arc<Entry> {
        Arc::new(Entry {
            hash,
            parent,
            name: Name::new(name),
            dentry: RcuArc::empty(),
            next: RcuArc::empty(),
        })
    }

    /// Whether this is `name` in `parent`.
    #[inline]
    pub(crate) fn is(&self, hash: u64, parent: &Dentry, name: &[u8]) -> bool {
        self.hash == hash
            && self.parent.as_ref().is_some_and(|p| core::ptr::eq(Arc::as_ptr(p), parent))
            && crate::dcache::same_name(self.name.bytes(), name)
    }
}

impl Drop for Entry {
    /// Gives the directories above back in a loop: a tree may be deeper than a kernel stack.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some(mut dentry) = above.and_then(Arc::into_inner) {
            let entry = dentry.entry.take().and_then(Arc::into_inner);
            above = entry.and_then(|mut entry| entry.parent.take());
        }
    }
}

/// The shrinker has chosen it: look it up again.
pub(crate) const DEAD: u32 = 1;
/// In the hash table.
pub(crate) const HASHED: u32 = 2;
/// Something is mounted here, in some namespace.
pub(crate) const MOUNTPOINT: u32 = 4;
/// Looked up since the shrinker last passed.
pub(crate) const REFERENCED: u32 = 8;
/// Counts a user of its inode.
pub(crate) const HOLDS_USER: u32 = 16;
/// Has been removed: paths show ` (deleted)`.
pub(crate) const DELETED: u32 = 32;
/// The root of a file system.
pub(crate) const ROOT: u32 = 64;

/// A name in the tree of one file system: see the module documentation.
pub struct Dentry {
    pub(crate) flags: AtomicU32,
    pub(crate) entry: RcuArc<Entry>,
    pub(crate) inode: RcuArc<Inode>,
    /// Address of the super block, as an identity only.
    pub(crate) sb: usize,
}

impl Dentry {
    pub(crate) fn with(
        entry: Arc<Entry>,
        inode: Option<Arc<Inode>>,
        sb: usize,
        flags: u32,
    ) -> Dentry {
        Dentry {
            flags: AtomicU32::new(flags),
            entry: RcuArc::new(Some(entry)),
            inode: RcuArc::new(inode),
            sb,
        }
    }

    /// The root of a file system.
    pub(crate) fn new_root(inode: Arc<Inode>) -> Arc<Dentry> {
        inode.add_user();
        let sb = sb_id(inode.sb());
        Arc::new(Dentry::with(Entry::new(0, None, b"/"), Some(inode), sb, ROOT | HOLDS_USER))
    }

    /// A dentry that no directory knows: for pipes, sockets, memory files, `O_TMPFILE`. Paths
    /// show it as `name`.
    pub fn new_disconnected(inode: Arc<Inode>, name: &[u8]) -> Arc<Dentry> {
        let sb = sb_id(inode.sb());
        Arc::new(Dentry::with(Entry::new(0, None, name), Some(inode), sb, 0))
    }

    /// Drops the root at unmount.
    pub(crate) fn kill(&self) {
        if self.clear(HOLDS_USER) & HOLDS_USER != 0
            && let Some(inode) = self.inode()
        {
            drop_user(&inode);
        }
    }

    /// The inode, or `None` for a name that does not exist.
    pub fn inode(&self) -> Option<Arc<Inode>> {
        self.inode.get()
    }

    /// The inode without counting a reference.
    #[inline]
    pub fn inode_rcu<'g>(&'g self, guard: &'g ReadGuard) -> Option<RcuRef<'g, Inode>> {
        self.inode.load(guard)
    }

    /// Whether the name exists.
    pub fn is_positive(&self) -> bool {
        self.inode.is_some()
    }

    /// The directory this name is in; `None` at a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        let guard = sched::rcu::read_lock();
        self.entry.load(&guard)?.get().parent.clone()
    }

    /// Calls `f` with the name as it is now.
    pub fn with_name<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        let guard = sched::rcu::read_lock();
        match self.entry.load(&guard) {
            Some(entry) => f(entry.name.bytes()),
            None => f(b""),
        }
    }

    /// Whether this is the root of its file system.
    pub fn is_root(&self) -> bool {
        self.has(ROOT)
    }

    /// Whether the name has been removed while someone used it.
    pub fn is_deleted(&self) -> bool {
        self.has(DELETED)
    }

    /// Whether this is `other` or lies below it.
    pub fn is_within(self: &Arc<Self>, other: &Arc<Dentry>) -> bool {
        let mut at = self.clone();
        loop {
            if Arc::ptr_eq(&at, other) {
                return true;
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    #[inline]
    pub(crate) fn has(&self, flag: u32) -> bool {
        // Acquire: pairs with the AcqRel of set and clear.
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    pub(crate) fn set(&self, flags: u32) -> u32 {
        self.flags.fetch_or(flags, Ordering::SeqCst)
    }

    pub(crate) fn clear(&self, flags: u32) -> u32 {
        self.flags.fetch_and(!flags, Ordering::SeqCst)
    }

    pub(crate) fn mark_mountpoint(&self) {
        self.set(MOUNTPOINT);
    }

    pub(crate) fn unmark_mountpoint(&self) {
        self.clear(MOUNTPOINT);
    }
}

/// The identity of a super block, for comparisons.
pub(crate) fn sb_id(sb: &Arc<SuperBlock>) -> usize {
    Arc::as_ptr(sb).addr()
}

impl fmt::Debug for Dentry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_name(|name| write!(f, "Dentry({})", name.escape_ascii()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_tree_is_dropped_on_a_small_stack() {
        let mut deepest = None;
        for _ in 0..100_000 {
            let entry = Entry::new(0, deepest.take(), b"d");
            deepest = Some(Arc::new(Dentry::with(entry, None, 0, 0)));
        }
        let dropping = std::thread::Builder::new().stack_size(32 << 10).spawn(|| drop(deepest));
        assert!(dropping.is_ok_and(|thread| thread.join().is_ok()));
    }
}
