//! The hash of attached mounts: (mount, dentry) to the mount on top. Read under RCU; only dentries
//! flagged as mount points are looked up. Changed under the tree lock.

use alloc::sync::Arc;

use arch::lock::Once;
use sched::rcu::{RcuArc, RcuRef, ReadGuard};

use super::{Attachment, Mount};
use crate::dentry::{Dentry, MOUNTPOINT};
use crate::path::Path;

const BUCKETS: usize = 4096;

struct Entry {
    parent: u64,
    dentry: usize,
    child: Arc<Mount>,
    next: RcuArc<Entry>,
}

fn heads() -> &'static [RcuArc<Entry>] {
    static HEADS: Once<alloc::vec::Vec<RcuArc<Entry>>> = Once::new();
    HEADS.call_once(|| (0..BUCKETS).map(|_| RcuArc::empty()).collect())
}

fn address(dentry: &Dentry) -> usize {
    core::ptr::from_ref(dentry).addr()
}

fn head(parent: u64, dentry: usize) -> &'static RcuArc<Entry> {
    let hash = (parent ^ (dentry as u64).rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    &heads()[(hash >> 52) as usize % BUCKETS]
}

/// The mount on top of `dentry` as seen through `mount`; ask only for flagged dentries.
#[inline]
pub(crate) fn child<'g>(
    guard: &'g ReadGuard,
    mount: &Mount,
    dentry: &Dentry,
) -> Option<&'g Arc<Mount>> {
    let key = address(dentry);
    let mut at = head(mount.id, key).load(guard);
    while let Some(entry) = at {
        let entry = entry.get();
        if entry.parent == mount.id && entry.dentry == key {
            return Some(&entry.child);
        }
        at = entry.next.load(guard);
    }
    None
}

/// The attachment of `mount`, under RCU.
#[inline]
pub(crate) fn attachment<'g>(
    guard: &'g ReadGuard,
    mount: &'g Mount,
) -> Option<RcuRef<'g, Attachment>> {
    mount.at.load(guard)
}

/// Goes up through everything mounted on `path`.
pub(crate) fn top(mut path: Path) -> Path {
    while path.dentry.has(MOUNTPOINT) {
        let next = {
            let guard = sched::rcu::read_lock();
            match child(&guard, &path.mount, &path.dentry) {
                Some(mount) => mount.clone(),
                None => return path,
            }
        };
        path = Path { dentry: next.root.clone(), mount: next };
    }
    path
}

/// Enters `child` on `dentry` of `parent`; the tree is locked.
pub(super) fn attach(parent: &Arc<Mount>, dentry: &Arc<Dentry>, child: &Arc<Mount>) {
    child.at.set(Some(Arc::new(Attachment { parent: parent.clone(), mountpoint: dentry.clone() })));
    let key = address(dentry);
    let head = head(parent.id, key);
    let entry = Arc::new(Entry {
        parent: parent.id,
        dentry: key,
        child: child.clone(),
        next: RcuArc::new(head.get()),
    });
    head.set(Some(entry));
    dentry.mark_mountpoint();
}

/// Takes `child` out; the tree is locked.
pub(super) fn detach(parent: u64, dentry: &Arc<Dentry>, child: &Arc<Mount>) {
    let guard = sched::rcu::read_lock();
    let mut link = head(parent, address(dentry));
    while let Some(at) = link.load(&guard) {
        let entry = at.get();
        if entry.child.id == child.id {
            link.set(entry.next.get());
            break;
        }
        link = &entry.next;
    }
    child.at.set(None);
}
