//! Mounts: file systems attached to the tree, per mount namespace.
//!
//! The shape of all trees ([`tree::Tree`]: parents, children, peer groups) is under one sleeping
//! lock, taken by `mount`, `umount` and namespace creation only. Path walk reads the RCU hash of
//! [`table`] (mount and dentry to the mount on top of it) and each mount's [`Attachment`].

mod config;
mod detached;
mod emergency;
mod info;
mod locked;
mod ops;
mod propagate;
pub(crate) mod table;
mod tree;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::mount::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use sched::WaitQueue;
use sched::rcu::RcuArc;

use crate::cred::UserNamespace;
use crate::dentry::Dentry;
use crate::path::Path;
use crate::superblock::SuperBlock;

pub use config::FsConfig;
pub use detached::clone_tree;
pub use emergency::make_all_read_only;
pub use info::{MountLine, mount_lines, write_mountinfo, write_mounts, write_mountstats};
pub use ops::{
    MountArgs, bind, change_propagation, clone_namespace, may_mount as check_may_mount, mount,
    mount_super, move_mount, pivot_root, remount, umount,
};
pub(crate) use tree::{detach_at, is_local_mountpoint};

/// The `MS_*` flags that belong to a mount, not to the file system.
pub const MOUNT_FLAGS: u64 =
    MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME;

/// Where a mount is attached.
pub(crate) struct Attachment {
    pub(crate) parent: Arc<Mount>,
    pub(crate) mountpoint: Arc<Dentry>,
}

/// A file system, or part of one, attached somewhere.
pub struct Mount {
    /// Number shown in `mountinfo`; unique.
    pub id: u64,
    /// The file system.
    pub sb: Arc<SuperBlock>,
    /// The dentry that appears at the mount point.
    pub root: Arc<Dentry>,
    /// What `/proc/mounts` shows as the source.
    pub source: Box<[u8]>,
    flags: AtomicU64,
    /// Writers, with the sign bit set while read-only.
    writers: AtomicU32,
    /// Those of them that are files open for writing, not changes on their way.
    lasting: AtomicU32,
    pub(crate) at: RcuArc<Attachment>,
    /// `MNT_EXPIRE` has seen it unused.
    pub(crate) expiring: AtomicBool,
    /// Whether this mount still counts in the super block.
    active: AtomicBool,
}

const READ_ONLY: u32 = 1 << 31;

impl Mount {
    /// A mount of `root` that is attached nowhere. Counts in the super block.
    pub(crate) fn new(
        sb: &Arc<SuperBlock>,
        root: Arc<Dentry>,
        source: &[u8],
        flags: u64,
    ) -> Arc<Mount> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        sb.activate();
        Arc::new(Mount {
            // Relaxed: only uniqueness matters.
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            sb: sb.clone(),
            root,
            source: source.into(),
            flags: AtomicU64::new(flags & MOUNT_FLAGS),
            writers: AtomicU32::new(if flags & MS_RDONLY != 0 { READ_ONLY } else { 0 }),
            lasting: AtomicU32::new(0),
            at: RcuArc::empty(),
            expiring: AtomicBool::new(false),
            active: AtomicBool::new(true),
        })
    }

    /// A mount of an internal file system that no path leads to (pipes, sockets, memory files).
    pub fn internal(sb: &Arc<SuperBlock>) -> Result<Arc<Mount>> {
        Ok(Mount::new(sb, sb.root()?, sb.fs_type.as_bytes(), 0))
    }

    /// `MS_*` flags of the mount.
    #[inline]
    pub fn flags(&self) -> u64 {
        // Relaxed: a lone word.
        self.flags.load(Ordering::Relaxed)
    }

    /// Whether any of the `MS_*` flags is set.
    #[inline]
    pub fn has(&self, flags: u64) -> bool {
        self.flags() & flags != 0
    }

    /// Replaces the flags; `EBUSY` if this makes a mount read-only that is being written.
    pub(crate) fn set_flags(&self, flags: u64) -> Result<()> {
        if flags & MS_RDONLY != 0 {
            let changed =
                self.writers.compare_exchange(0, READ_ONLY, Ordering::AcqRel, Ordering::Acquire);
            if let Err(now) = changed
                && now & READ_ONLY == 0
            {
                return Err(Errno::EBUSY);
            }
        } else {
            self.writers.fetch_and(!READ_ONLY, Ordering::AcqRel);
        }
        self.flags.store(flags & MOUNT_FLAGS, Ordering::Relaxed);
        Ok(())
    }

    /// Whether somebody holds the mount writable.
    pub(crate) fn is_written(&self) -> bool {
        self.writers.load(Ordering::Acquire) & !READ_ONLY != 0
    }

    /// Whether somebody who has asked for the right to write is about to change something. Files that
    /// are only open for it do not count. For who has made the file system read-only: no more begin.
    fn is_changing(&self) -> bool {
        // In this order: a writer that comes to last is counted in the first look.
        let writers = self.writers.load(Ordering::SeqCst) & !READ_ONLY;
        writers > self.lasting.load(Ordering::SeqCst)
    }

    /// Holds the mount writable while the result lives; `EROFS` if it is read-only.
    #[inline]
    pub fn want_write(self: &Arc<Self>) -> Result<MountWriter> {
        self.writers
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |n| {
                (n & READ_ONLY == 0).then_some(n + 1)
            })
            .map_err(|_| Errno::EROFS)?;
        let writer = MountWriter { mount: self.clone(), is_lasting: false };
        // Only now: who forbids it counts the writers after.
        if self.sb.is_read_only() {
            return Err(Errno::EROFS);
        }
        Ok(writer)
    }

    /// Whether writing is forbidden, here or in the file system.
    pub fn is_read_only(&self) -> bool {
        self.has(MS_RDONLY) || self.sb.is_read_only()
    }

    /// The mount point this mount is attached to, as a path; `None` at the root of a tree.
    pub fn mountpoint(&self) -> Option<Path> {
        let at = self.at.get()?;
        Some(Path { mount: at.parent.clone(), dentry: at.mountpoint.clone() })
    }

    /// Stops counting in the super block, which is put away if this was the last mount. Sleeps.
    pub(crate) fn finish(&self) {
        if self.active.swap(false, Ordering::AcqRel) {
            self.sb.deactivate();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.active.swap(false, Ordering::AcqRel) {
            // The last reference may go in a place that must not sleep.
            let sb = self.sb.clone();
            sched::work::queue(move || sb.deactivate());
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mount({} {})", self.id, self.sb.fs_type)
    }
}

/// Holds a mount writable.
#[derive(Debug)]
pub struct MountWriter {
    mount: Arc<Mount>,
    is_lasting: bool,
}

impl MountWriter {
    /// For a file that stays open for writing.
    pub(crate) fn lasting(mut self) -> MountWriter {
        self.mount.lasting.fetch_add(1, Ordering::SeqCst);
        self.is_lasting = true;
        self
    }
}

impl Drop for MountWriter {
    fn drop(&mut self) {
        // In this order: nobody else is taken for the one that lasts.
        if self.is_lasting {
            self.mount.lasting.fetch_sub(1, Ordering::SeqCst);
        }
        self.mount.writers.fetch_sub(1, Ordering::SeqCst);
    }
}

static NS_ROOT: LockClass = LockClass::new("vfs.mount_ns", 279);

/// A mount namespace: one tree.
pub struct MountNamespace {
    /// Inode number in `/proc/PID/ns/mnt`.
    pub id: u64,
    /// The user namespace it belongs to.
    pub user_ns: Arc<UserNamespace>,
    root: SpinLock<Option<Arc<Mount>>>,
    events: AtomicU64,
    queue: Arc<WaitQueue>,
}

impl MountNamespace {
    /// The number of the machine's own, the last of those that the namespaces of the machine have: new
    /// ones of every kind come after it.
    pub const INITIAL: u64 = 0xf000_0000;

    /// An empty namespace.
    pub(crate) fn new(id: u64, user_ns: Arc<UserNamespace>) -> Arc<MountNamespace> {
        Arc::new(MountNamespace {
            id,
            user_ns,
            root: SpinLock::new(&NS_ROOT, None),
            events: AtomicU64::new(0),
            queue: Arc::new(WaitQueue::new()),
        })
    }

    /// A namespace whose root is a mount of `sb`.
    pub fn with_root(
        id: u64,
        user_ns: Arc<UserNamespace>,
        sb: &Arc<SuperBlock>,
        source: &[u8],
        flags: u64,
    ) -> Result<Arc<MountNamespace>> {
        let ns = MountNamespace::new(id, user_ns);
        let mount = Mount::new(sb, sb.root()?, source, flags);
        tree::adopt_root(&ns, &mount);
        ns.set_root(mount);
        Ok(ns)
    }

    /// The mount at the bottom of the tree.
    pub fn root_mount(&self) -> Option<Arc<Mount>> {
        self.root.lock().clone()
    }

    /// The root directory of the namespace, seen through what is mounted on it.
    pub fn root_path(&self) -> Result<Path> {
        let mount = self.root_mount().ok_or(Errno::ENOENT)?;
        let dentry = mount.root.clone();
        Ok(table::top(Path { mount, dentry }))
    }

    pub(crate) fn set_root(&self, mount: Arc<Mount>) {
        *self.root.lock() = Some(mount);
    }

    /// A number that changes with the mount table, for polls of `/proc/PID/mounts`.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }

    /// Notified when the mount table changes.
    pub fn queue(&self) -> &Arc<WaitQueue> {
        &self.queue
    }

    pub(crate) fn changed(&self) {
        self.events.fetch_add(1, Ordering::AcqRel);
        self.queue.notify(crate::poll::POLLERR | crate::poll::POLLPRI);
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        if let Some(root) = self.root.lock().take() {
            // Unmounting sleeps; the namespace may go anywhere.
            let id = self.id;
            sched::work::queue(move || tree::dissolve(id, root));
        }
    }
}

impl fmt::Debug for MountNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MountNamespace({})", self.id)
    }
}
