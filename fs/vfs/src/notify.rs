//! Change notification: the hooks that inotify listens to.
//!
//! While there is no watch anywhere a hook costs one load. An event is told to the watches of the
//! inode and, with the name, to those of its directory.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arch::lock::{LockClass, SpinLock};

use crate::dentry::Dentry;
use crate::file::{File, FileMode};
use crate::inode::Inode;
use crate::types::InodeFlags;

pub use abi::inotify::*;

static WATCHES: LockClass = LockClass::new("vfs.watches", 288);
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// One event at one watch.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// `IN_*`.
    pub mask: u32,
    /// Joins the two halves of a rename.
    pub cookie: u32,
    /// The name, where the watched inode is the directory.
    pub name: Option<&'a [u8]>,
    /// Whether the entry's file has been unlinked (`IN_EXCL_UNLINK`).
    pub unlinked: bool,
}

/// Someone who watches an inode.
pub trait Watch: Send + Sync {
    /// An event happened. Called under a spin lock: must not sleep.
    fn event(&self, event: &Event<'_>);
}

/// The watches of an inode.
pub struct WatchList(SpinLock<Vec<Arc<dyn Watch>>>);

impl Default for WatchList {
    fn default() -> Self {
        WatchList(SpinLock::new(&WATCHES, Vec::new()))
    }
}

/// Adds a watch to an inode.
pub fn add_watch(inode: &Inode, watch: Arc<dyn Watch>) {
    inode.extra().watches.0.lock().push(watch);
    inode.set_flags(InodeFlags::WATCHED);
    ACTIVE.fetch_add(1, Ordering::AcqRel);
}

/// Removes a watch from an inode.
pub fn remove_watch(inode: &Inode, watch: &Arc<dyn Watch>) {
    let Some(extra) = inode.existing_extra() else { return };
    let mut list = extra.watches.0.lock();
    let before = list.len();
    list.retain(|known| !Arc::ptr_eq(known, watch));
    ACTIVE.fetch_sub(before - list.len(), Ordering::AcqRel);
    if list.is_empty() {
        inode.clear_flags(InodeFlags::WATCHED);
    }
}

/// A number that joins the two halves of a rename.
pub fn next_cookie() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[inline]
fn idle() -> bool {
    // Relaxed: a watch added at this very moment may miss the event, as it may come after it.
    ACTIVE.load(Ordering::Relaxed) == 0
}

fn tell(inode: &Inode, event: &Event<'_>) {
    if !inode.has(InodeFlags::WATCHED) {
        return;
    }
    if let Some(extra) = inode.existing_extra() {
        // The list is short; events must not sleep.
        for watch in extra.watches.0.lock().iter() {
            watch.event(event);
        }
    }
}

fn dir_bit(inode: &Inode) -> u32 {
    if inode.is_dir() { IN_ISDIR } else { 0 }
}

/// Something happened to the entry `name` of `dir`.
pub fn in_directory(dir: &Inode, name: &[u8], mask: u32, cookie: u32, child: Option<&Inode>) {
    if !idle() {
        let mask = mask | child.map_or(0, dir_bit);
        tell(dir, &Event { mask, cookie, name: Some(name), unlinked: false });
    }
}

/// Something happened to the inode itself.
pub fn to_inode(inode: &Inode, mask: u32) {
    if !idle() {
        tell(inode, &Event { mask: mask | dir_bit(inode), cookie: 0, name: None, unlinked: false });
    }
}

/// The inode has another name now. Not marked as a directory's event even if it is one.
pub fn moved_self(inode: &Inode) {
    if !idle() {
        tell(inode, &Event { mask: IN_MOVE_SELF, cookie: 0, name: None, unlinked: false });
    }
}

/// Something happened to the file that `dentry` names: tells its directory and itself.
#[inline]
pub fn to_dentry(dentry: &Dentry, mask: u32) {
    if !idle() {
        tell_dentry(dentry, mask);
    }
}

#[cold]
fn tell_dentry(dentry: &Dentry, mask: u32) {
    let Some(inode) = dentry.inode() else { return };
    let mask = mask | dir_bit(&inode);
    if let Some(dir) = dentry.parent().and_then(|parent| parent.inode()) {
        let unlinked = dentry.is_deleted();
        dentry.with_name(|name| {
            tell(&dir, &Event { mask, cookie: 0, name: Some(name), unlinked });
        });
    }
    tell(&inode, &Event { mask, cookie: 0, name: None, unlinked: false });
}

/// Something was done through an open file.
#[inline]
pub fn to_file(file: &File, mask: u32) {
    if !idle() && !file.mode().intersects(FileMode::QUIET | FileMode::PATH) {
        tell_dentry(&file.path.dentry, mask);
    }
}

/// The last reference to an open file is gone.
#[inline]
pub(crate) fn closed(file: &File) {
    if !idle() {
        let mask = if file.can_write() { IN_CLOSE_WRITE } else { IN_CLOSE_NOWRITE };
        tell_dentry(&file.path.dentry, mask);
    }
}

/// The inode is gone: its watches end.
pub(crate) fn inode_deleted(inode: &Inode) {
    if idle() {
        return;
    }
    tell(inode, &Event { mask: IN_DELETE_SELF, cookie: 0, name: None, unlinked: false });
    tell(inode, &Event { mask: IN_IGNORED, cookie: 0, name: None, unlinked: false });
    if let Some(extra) = inode.existing_extra() {
        let ended = core::mem::take(&mut *extra.watches.0.lock());
        ACTIVE.fetch_sub(ended.len(), Ordering::AcqRel);
        inode.clear_flags(InodeFlags::WATCHED);
    }
}
