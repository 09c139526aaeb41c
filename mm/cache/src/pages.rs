//! The pages of one mapping, and how a page finds them again.
//!
//! A page in the cache carries the number of its [`Pages`] (`Page::owner`). Reclaim, which comes from
//! the page, looks the number up among those that have pages it may take; what it finds it shares,
//! without keeping the mapping itself (whose end may have to wait for devices) alive.

use crate::observe::Observers;
use crate::owners;
use crate::reclaim;
use crate::stats::{self, Counter};
use crate::tree::{InsertError, Node, Tree, TreeWriter};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{IrqLock, LockClass};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use frames::{Page, PageRef, flag};
use sched::rcu;
use slots::Held;

static TREE: LockClass = LockClass::new("pagecache.tree", 480);

/// The cached pages of a file and who maps them.
pub(crate) struct Pages {
    /// Never 0, never reused.
    number: u64,
    tree: Tree,
    /// Guards `tree` for writers.
    lock: IrqLock<()>,
    counter: Counter,
    /// Reclaim may take pages: they have a backing.
    is_reclaimable: bool,
    is_registered: AtomicBool,
    pub(crate) observers: Observers,
}

/// Another page is there already.
#[derive(Debug)]
pub(crate) struct Occupied;

impl Pages {
    pub(crate) fn new(counter: Counter, is_reclaimable: bool) -> Pages {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Pages {
            // Relaxed: only unique.
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            tree: Tree::new(),
            lock: IrqLock::new(&TREE, ()),
            counter,
            is_reclaimable,
            is_registered: AtomicBool::new(false),
            observers: Observers::new(),
        }
    }

    /// The pages that a number found in `Page::owner` stands for; `None` when they are going away.
    pub(crate) fn of_owner(number: u64) -> Option<Arc<Pages>> {
        owners::find(number)
    }

    #[cfg(test)]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn register(self: &Arc<Self>) {
        // Relaxed, twice: only one of those who find it unset puts the pages in.
        if self.is_reclaimable
            && !self.is_registered.load(Ordering::Relaxed)
            && !self.is_registered.swap(true, Ordering::Relaxed)
        {
            owners::insert(self.number, Arc::downgrade(self));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }

    /// Runs `change` with the tree's lock.
    pub(crate) fn with_writer<R>(&self, change: impl FnOnce(&TreeWriter<'_>) -> R) -> R {
        let (result, cut) = {
            let _guard = self.lock.lock();
            let writer = self.tree.writer();
            (change(&writer), writer.finish())
        };
        // Without the lock: RCU takes memory to remember them.
        drop(cut);
        result
    }

    /// The cached page at `index`, in whatever state. No lock is taken.
    #[inline]
    pub(crate) fn find(&self, index: u64) -> Option<PageRef> {
        let guard = rcu::read_lock();
        loop {
            let slot = self.tree.slot(index, &guard)?;
            match slot.load(&guard) {
                Held::Empty => return None,
                Held::Page(page) => {
                    // The reference was taken blindly: the page may have left the tree before.
                    if let Some(page) = PageRef::try_new(page)
                        && slot.is_page(page.page())
                    {
                        return Some(page);
                    }
                }
                Held::Node(_) => {}
            }
            arch::cpu::relax();
        }
    }

    pub(crate) fn find_run<const N: usize>(
        &self,
        index: u64,
        end: u64,
        pages: &mut ArrayVec<PageRef, N>,
    ) {
        let guard = rcu::read_lock();
        self.tree.run(index, end, &guard, |_, slot| {
            let Held::Page(page) = slot.load(&guard) else { return false };
            if pages.is_full() {
                return false;
            }
            match PageRef::try_new(page) {
                Some(page) if slot.is_page(page.page()) => {
                    pages.push(page);
                    true
                }
                _ => false,
            }
        });
    }

    /// Calls `see` for the pages cached in `first..end`. They are not kept: what it is shown may be gone
    /// already. It must not sleep.
    pub(crate) fn for_each(&self, first: u64, end: u64, mut see: impl FnMut(u64, &Page)) {
        let guard = rcu::read_lock();
        let mut index = first;
        while let Some((at, _)) = self.tree.next(index, &guard).filter(|(at, _)| *at < end) {
            index = at + 1;
            self.tree.run(at, end, &guard, |now, slot| {
                index = now + 1;
                if let Held::Page(page) = slot.load(&guard) {
                    see(now, page);
                }
                true
            });
        }
    }

    /// The index of the first cached page at or after an index.
    pub(crate) fn next(&self, index: u64) -> Option<u64> {
        Some(self.tree.next(index, &rcu::read_lock())?.0)
    }

    /// All cached pages in `first..=last`, in whatever state.
    pub(crate) fn pages_in(&self, first: u64, last: u64, limit: usize) -> Vec<(u64, PageRef)> {
        if self.len() == 0 {
            return Vec::new();
        }
        // Before the guard: under it no allocation can wait for memory.
        let mut pages = Vec::with_capacity(limit);
        let guard = rcu::read_lock();
        let mut index = first;
        while pages.len() < limit
            && let Some((at, page)) = self.tree.next(index, &guard)
            && at <= last
        {
            if let Some(page) = PageRef::try_new(page)
                && self.owns(at, &page)
            {
                pages.push((at, page));
            }
            index = at + 1;
        }
        pages
    }

    /// Enters `page` at `index` unless there is one already. The cache takes a reference.
    pub(crate) fn insert(self: &Arc<Self>, index: u64, page: &PageRef) -> Result<(), Occupied> {
        self.register();
        // Relaxed stores: published by the tree's Release store.
        page.owner.store(self.number, Ordering::Relaxed);
        page.index.store(index, Ordering::Relaxed);
        let mut own = page.clone();
        let mut spare = None;
        loop {
            match self.with_writer(|tree| tree.insert(index, own, &mut spare)) {
                Ok(()) => break,
                Err(InsertError::NeedNode(back)) => own = back,
                Err(InsertError::Occupied) => {
                    page.owner.store(0, Ordering::Relaxed);
                    return Err(Occupied);
                }
            }
            spare = Some(Node::new());
        }
        stats::add(self.counter, 1);
        Ok(())
    }

    /// Takes `page`, which is locked and at `index`, out of the cache; whether it was dirty.
    pub(crate) fn remove(&self, index: u64, page: &PageRef) -> bool {
        let (removed, dirty) = self.with_writer(|tree| {
            let dirty = page.clear(flag::DIRTY) & flag::DIRTY != 0;
            page.owner.store(0, Ordering::Release);
            (tree.remove(index), dirty)
        });
        self.release(removed, page);
        dirty
    }

    /// Gives up the tree's reference to a page taken out just now.
    fn release(&self, removed: Option<PageRef>, page: &PageRef) -> bool {
        debug_assert!(removed.as_ref().is_none_or(|removed| removed.is_same(page)));
        if removed.is_none() {
            return false;
        }
        stats::add(self.counter, -1);
        reclaim::forget(page);
        true
    }

    /// Takes a clean page that nobody but the cache and the caller uses out of the cache; `page` is
    /// locked. Whether it worked.
    pub(crate) fn remove_unused(&self, index: u64, page: &PageRef) -> bool {
        let removed = self.with_writer(|tree| {
            if !page.freeze(2) {
                return None;
            }
            if page.flags() & (flag::DIRTY | flag::WRITEBACK) != 0 || page.map_count() != 0 {
                page.unfreeze(2);
                return None;
            }
            let removed = tree.remove(index);
            page.owner.store(0, Ordering::Release);
            page.unfreeze(2);
            removed
        });
        self.release(removed, page)
    }

    /// Whether `page` still is the page at `index` here (the page is locked or dirty).
    pub(crate) fn owns(&self, index: u64, page: &PageRef) -> bool {
        page.owner.load(Ordering::Acquire) == self.number
            && page.index.load(Ordering::Relaxed) == index
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if *self.is_registered.get_mut() {
            owners::remove(self.number);
        }
    }
}
