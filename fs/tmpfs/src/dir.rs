//! Directories: names to inodes, listed from the newest to the oldest.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use hashbrown::HashTable;
use vfs::Inode;
use vfs::dcache::hash_name;

/// The first cookie: smaller cursors mean `.` and `..`.
const FIRST: u64 = 3;
/// Where a listing goes on behind `..`.
pub(crate) const START: u64 = 2;

struct Slot {
    name: Box<[u8]>,
    inode: Arc<Inode>,
}

/// The entries of a directory. Each has a cookie, larger than those of older entries.
pub(crate) struct Directory {
    order: BTreeMap<u64, Slot>,
    index: HashTable<u64>,
    next: u64,
}

impl Directory {
    pub(crate) fn new() -> Directory {
        Directory { order: BTreeMap::new(), index: HashTable::new(), next: FIRST }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    fn cookie(&self, name: &[u8]) -> Option<u64> {
        let same = |cookie: &u64| self.order.get(cookie).is_some_and(|slot| *slot.name == *name);
        self.index.find(hash_name(name), same).copied()
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Arc<Inode>> {
        self.order.get(&self.cookie(name)?).map(|slot| &slot.inode)
    }

    /// Adds an entry; the name is absent.
    pub(crate) fn insert(&mut self, name: &[u8], inode: Arc<Inode>) {
        let cookie = self.next;
        self.next += 1;
        self.order.insert(cookie, Slot { name: name.into(), inode });
        let order = &self.order;
        self.index.insert_unique(hash_name(name), cookie, |cookie| {
            order.get(cookie).map_or(0, |slot| hash_name(&slot.name))
        });
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<Arc<Inode>> {
        let cookie = self.cookie(name)?;
        if let Ok(found) = self.index.find_entry(hash_name(name), |c| *c == cookie) {
            found.remove();
        }
        self.order.remove(&cookie).map(|slot| slot.inode)
    }

    /// Makes an existing name mean another inode.
    pub(crate) fn replace(&mut self, name: &[u8], inode: Arc<Inode>) -> Option<Arc<Inode>> {
        let cookie = self.cookie(name)?;
        let slot = self.order.get_mut(&cookie)?;
        Some(core::mem::replace(&mut slot.inode, inode))
    }

    /// The entries older than `cursor`, newest first: (cookie, name, inode).
    pub(crate) fn older(&self, cursor: u64) -> impl Iterator<Item = (u64, &[u8], &Arc<Inode>)> {
        let end = if cursor == START { u64::MAX } else { cursor };
        self.order.range(..end).rev().map(|(cookie, slot)| (*cookie, &*slot.name, &slot.inode))
    }
}
