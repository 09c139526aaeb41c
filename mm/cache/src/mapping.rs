//! [`Mapping`]: the cached pages of one file.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use arch::lock::{IrqLock, LockClass};
use frames::{PageRef, flag};
use sched::{RwLock, rcu};

use crate::errseq::{ErrorCursor, ErrorSequence};
use crate::io::{ReadRun, WriteRun};
use crate::page::{page_at, word};
use crate::stats::{self, Counter};
use crate::tree::{InsertError, Mark, Node, Tree, TreeWriter};
use crate::writeback::Flusher;
use crate::{page, reclaim};

static TREE: LockClass = LockClass::new("pagecache.tree", 480);
static OBSERVERS: LockClass = LockClass::new("pagecache.observers", 455);

/// The largest index a page can have: files end at 2^63 - 1 bytes.
pub const MAX_INDEX: u64 = (i64::MAX as u64) >> PAGE_SHIFT;

/// Where the pages of a mapping come from and go to: a file system or a block device.
pub trait Backing: Send + Sync {
    /// Fills the pages of `run` and ends it, now or later. Pages of holes are zeroed.
    fn read(&self, run: ReadRun);

    /// Writes the pages of `run` and ends it, now or later. Blocks nobody reserved are skipped: their
    /// bytes are zeros. Bytes behind the file's size need not be written.
    fn write(&self, run: WriteRun);

    /// Makes sure that the bytes `pos..pos + len` (within one page) can be written back later:
    /// reserves space. Called before the page becomes dirty.
    fn prepare_write(&self, mapping: &Mapping, pos: u64, len: usize) -> Result<()>;

    /// Blocks are smaller than pages: [`Backing::prepare_write`] is needed for dirty pages too.
    fn has_small_blocks(&self) -> bool {
        false
    }

    /// Who writes this mapping back in the background.
    fn flusher(&self) -> Option<Arc<Flusher>> {
        None
    }

    /// Pages in the largest read-ahead window of this device.
    fn read_ahead_pages(&self) -> u32 {
        crate::readahead::DEFAULT_MAX_PAGES
    }

    /// Counts as `Buffers:` instead of `Cached:`.
    fn is_device(&self) -> bool {
        false
    }
}

/// Somebody who maps pages of a file into address spaces. Called without page-cache spinlocks.
pub trait MapObserver: Send + Sync {
    /// Removes all translations of pages `first..=last`.
    fn unmap_range(&self, first: u64, last: u64);

    /// As [`unmap_range`](Self::unmap_range) for pages that are no longer in the file: private copies
    /// of them go as well.
    fn unmap_truncated(&self, first: u64, last: u64) {
        self.unmap_range(first, last);
    }

    /// Makes all translations of the page read-only; the next write faults and calls
    /// [`Mapping::make_writable`].
    fn write_protect(&self, index: u64);

    /// Removes all translations of the page for reclaim: without waiting for locks, and not if the
    /// page is locked in memory. Whether it did.
    fn try_unmap(&self, index: u64) -> bool {
        self.unmap_range(index, index);
        true
    }

    /// Whether the page was used through a translation since the last call. Does not wait.
    fn test_and_clear_young(&self, index: u64) -> bool {
        let _ = index;
        false
    }
}

/// Names a registered [`MapObserver`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObserverId(u64);

struct Observed {
    first: u64,
    last: u64,
    observer: Arc<dyn MapObserver>,
}

#[derive(Default)]
struct Observers {
    next: u64,
    list: BTreeMap<u64, Observed>,
}

/// The cached pages of one file, its size, its dirty state and its write errors.
pub struct Mapping {
    pub(crate) tree: Tree,
    /// Guards `tree` for writers.
    lock: IrqLock<()>,
    size: AtomicU64,
    backing: Option<Arc<dyn Backing>>,
    small_blocks: bool,
    me: Weak<Mapping>,
    errors: ErrorSequence,
    observers: RwLock<Observers>,
    observed: AtomicUsize,
    /// Somebody mapped it shared and writable at some time.
    mapped_writable: AtomicBool,
    /// Faults hold it shared from the look at the size until the translation is there; truncation
    /// and hole punching hold it exclusively.
    invalidate: RwLock<()>,
    pub(crate) dirty_pages: AtomicUsize,
    pub(crate) writeback_pages: AtomicUsize,
    /// When the first page now dirty became dirty (ns since boot).
    pub(crate) dirtied_ns: AtomicU64,
    /// Whether the flusher's list holds it.
    pub(crate) queued: AtomicBool,
    state: AtomicU32,
}

static INVALIDATE: LockClass = LockClass::new("pagecache.invalidate", 450);

impl Mapping {
    /// The mapping of a file with a backing, `size` bytes long.
    pub fn new(backing: Arc<dyn Backing>, size: u64) -> Arc<Mapping> {
        Self::build(Some(backing), size)
    }

    /// A mapping whose pages are the file: tmpfs, shared memory. They are never dropped.
    pub fn without_backing(size: u64) -> Arc<Mapping> {
        Self::build(None, size)
    }

    fn build(backing: Option<Arc<dyn Backing>>, size: u64) -> Arc<Mapping> {
        let small_blocks = backing.as_ref().is_some_and(|backing| backing.has_small_blocks());
        Arc::new_cyclic(|me| Mapping {
            tree: Tree::new(),
            lock: IrqLock::new(&TREE, ()),
            size: AtomicU64::new(size),
            backing,
            small_blocks,
            me: me.clone(),
            errors: ErrorSequence::new(),
            observers: RwLock::new(&OBSERVERS, Observers::default()),
            observed: AtomicUsize::new(0),
            mapped_writable: AtomicBool::new(false),
            invalidate: RwLock::new(&INVALIDATE, ()),
            dirty_pages: AtomicUsize::new(0),
            writeback_pages: AtomicUsize::new(0),
            dirtied_ns: AtomicU64::new(0),
            queued: AtomicBool::new(false),
            state: AtomicU32::new(0),
        })
    }

    /// The file's length in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        // Acquire: pairs with the Release in `set_size`: data up to the size is there.
        self.size.load(Ordering::Acquire)
    }

    /// Sets the length without touching pages; growing files do this after the data is there.
    /// [`Mapping::truncate`] is for everything else.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// The backing, if there is one.
    pub fn backing(&self) -> Option<&Arc<dyn Backing>> {
        self.backing.as_ref()
    }

    /// A strong handle to itself; `None` only while it is being dropped.
    pub fn handle(&self) -> Option<Arc<Mapping>> {
        self.me.upgrade()
    }

    pub(crate) fn has_small_blocks(&self) -> bool {
        self.small_blocks
    }

    /// Pages in the cache.
    pub fn cached_pages(&self) -> usize {
        self.tree.len()
    }

    /// Whether any page is dirty or being written.
    pub fn is_dirty(&self) -> bool {
        // Relaxed: callers that need certainty write back and wait.
        self.dirty_pages.load(Ordering::Relaxed) != 0
            || self.writeback_pages.load(Ordering::Relaxed) != 0
    }

    /// Notes a write-back failure for every open file to see.
    pub fn record_error(&self, error: Errno) {
        self.errors.record(error);
    }

    /// What a file opened now has seen of write errors.
    pub fn error_cursor(&self) -> ErrorCursor {
        self.errors.sample()
    }

    /// The write error since `cursor` was last checked, once.
    pub fn check_error(&self, cursor: &ErrorCursor) -> Result<()> {
        self.errors.check(cursor)
    }

    /// Runs `change` with the tree's lock.
    pub(crate) fn with_writer<R>(&self, change: impl FnOnce(&TreeWriter<'_>) -> R) -> R {
        // A removal frees at most one node per level.
        let retired = RefCell::new(arrayvec::ArrayVec::<Box<Node>, 12>::new());
        let retire = |node: Box<Node>| retired.borrow_mut().push(node);
        let result = {
            let _guard = self.lock.lock();
            change(&self.tree.writer(&retire))
        };
        for node in retired.into_inner() {
            rcu::call(Box::new(move || drop(node)));
        }
        result
    }

    /// The cached page at `index`, in whatever state. No lock is taken.
    #[inline]
    pub fn find(&self, index: u64) -> Option<PageRef> {
        let _rcu = rcu::read_lock();
        loop {
            let slot = self.tree.slot(index)?;
            let raw = slot.load(Ordering::Acquire);
            if raw == 0 {
                return None;
            }
            if raw & 1 == 0 {
                let page = PageRef::try_new(page_at(raw));
                // The reference was taken blindly: the page may have left the tree before.
                if let Some(page) = page
                    && slot.load(Ordering::Acquire) == raw
                {
                    return Some(page);
                }
            }
            arch::cpu::relax();
        }
    }

    /// Appends the cached pages from `index` on to `pages`, at most up to `end` and until the first
    /// gap or `pages` is full.
    pub fn find_run<const N: usize>(
        &self,
        index: u64,
        end: u64,
        pages: &mut arrayvec::ArrayVec<PageRef, N>,
    ) {
        let _rcu = rcu::read_lock();
        self.tree.run(index, end, |_, slot| {
            let raw = slot.load(Ordering::Acquire);
            if raw == 0 || raw & 1 != 0 || pages.is_full() {
                return false;
            }
            match PageRef::try_new(page_at(raw)) {
                Some(page) if slot.load(Ordering::Acquire) == raw => {
                    pages.push(page);
                    true
                }
                _ => false,
            }
        });
    }

    /// Enters `page` at `index` unless there is one already. The cache takes a reference.
    pub(crate) fn insert(&self, index: u64, page: &PageRef) -> core::result::Result<(), Occupied> {
        // Relaxed stores: published by the tree's Release store.
        page.owner.store(core::ptr::from_ref(self).expose_provenance() as u64, Ordering::Relaxed);
        page.index.store(index, Ordering::Relaxed);
        let raw = word(page.clone().into_raw());
        let mut spare = None;
        loop {
            match self.with_writer(|tree| tree.insert(index, raw, &mut spare)) {
                Ok(()) => break,
                Err(InsertError::NeedNode) => spare = Some(Node::new()),
                Err(InsertError::Occupied) => {
                    // SAFETY: the tree did not take it.
                    drop(unsafe { PageRef::from_raw(page_at(raw)) });
                    page.owner.store(0, Ordering::Relaxed);
                    return Err(Occupied);
                }
            }
        }
        stats::add(self.counter(), 1);
        if self.backing.is_some() {
            reclaim::add(page.clone());
        }
        Ok(())
    }

    pub(crate) fn counter(&self) -> Counter {
        match &self.backing {
            None => Counter::Shmem,
            Some(backing) if backing.is_device() => Counter::Buffers,
            Some(_) => Counter::FilePages,
        }
    }

    /// Takes `page`, which is locked and at `index`, out of the cache.
    pub(crate) fn remove(&self, index: u64, page: &PageRef) {
        let (raw, dirty) = self.with_writer(|tree| {
            let dirty = page.clear(flag::DIRTY) & flag::DIRTY != 0;
            page.owner.store(0, Ordering::Release);
            (tree.remove(index), dirty)
        });
        if dirty && self.backing.is_some() {
            self.dirty_pages.fetch_sub(1, Ordering::Relaxed);
            stats::add(Counter::Dirty, -1);
        }
        self.release(raw, page);
    }

    fn release(&self, raw: Option<usize>, page: &PageRef) {
        debug_assert!(raw.is_none_or(|raw| raw == word(page.page())));
        if let Some(raw) = raw {
            stats::add(self.counter(), -1);
            reclaim::forget(page);
            // SAFETY: the tree's reference, taken out just now.
            drop(unsafe { PageRef::from_raw(page_at(raw)) });
        }
    }

    /// Takes a clean page that nobody but the cache and the caller uses out of the cache; `page` is
    /// locked. Whether it worked.
    pub(crate) fn remove_unused(&self, index: u64, page: &PageRef) -> bool {
        let raw = self.with_writer(|tree| {
            if !page.freeze(2) {
                return None;
            }
            if page.flags() & (flag::DIRTY | flag::WRITEBACK) != 0 || page.map_count() != 0 {
                page.unfreeze(2);
                return None;
            }
            let raw = tree.remove(index);
            page.owner.store(0, Ordering::Release);
            page.unfreeze(2);
            raw
        });
        let removed = raw.is_some();
        self.release(raw, page);
        removed
    }

    /// Whether `page` still is this mapping's page at `index` (the page is locked or dirty).
    pub(crate) fn owns(&self, index: u64, page: &PageRef) -> bool {
        page.owner.load(Ordering::Acquire) == core::ptr::from_ref(self).addr() as u64
            && page.index.load(Ordering::Relaxed) == index
    }

    /// Registers who maps pages `first..=last`.
    pub fn add_observer(
        &self,
        first: u64,
        last: u64,
        observer: Arc<dyn MapObserver>,
    ) -> ObserverId {
        let mut observers = self.observers.write();
        let id = observers.next;
        observers.next += 1;
        observers.list.insert(id, Observed { first, last, observer });
        self.observed.fetch_add(1, Ordering::Release);
        ObserverId(id)
    }

    /// Ends a registration.
    pub fn remove_observer(&self, id: ObserverId) {
        let gone = self.observers.write().list.remove(&id.0);
        if gone.is_some() {
            self.observed.fetch_sub(1, Ordering::Release);
        }
        // Dropped outside the lock.
        drop(gone);
    }

    /// Whether anybody maps the file.
    pub fn is_mapped(&self) -> bool {
        self.observed.load(Ordering::Acquire) != 0
    }

    /// Tells that shared writable maps exist: bytes behind the end of the file may become non-zero.
    pub fn note_mapped_writable(&self) {
        self.mapped_writable.store(true, Ordering::Release);
    }

    pub(crate) fn was_mapped_writable(&self) -> bool {
        self.mapped_writable.load(Ordering::Acquire)
    }

    fn each_observer(&self, first: u64, last: u64, mut each: impl FnMut(&dyn MapObserver)) {
        if !self.is_mapped() {
            return;
        }
        let observers = self.observers.read();
        for observed in observers.list.values() {
            if observed.first <= last && first <= observed.last {
                each(&*observed.observer);
            }
        }
    }

    /// Removes all translations of pages `first..=last`.
    pub fn unmap(&self, first: u64, last: u64) {
        self.each_observer(first, last, |observer| observer.unmap_range(first, last));
    }

    /// Removes all translations of pages `first..=last` and of private copies of them.
    pub(crate) fn unmap_truncated(&self, first: u64, last: u64) {
        self.each_observer(first, last, |observer| observer.unmap_truncated(first, last));
    }

    pub(crate) fn write_protect(&self, index: u64) {
        self.each_observer(index, index, |observer| observer.write_protect(index));
    }

    /// Whether the page was used through a translation since the last call, for reclaim: in doubt
    /// it was. Does not wait: who registers an observer may be waiting for memory.
    pub(crate) fn test_and_clear_young(&self, index: u64) -> bool {
        let Some(observers) = self.observers.try_read() else { return true };
        let mut young = false;
        for observed in observers.list.values().filter(|o| o.first <= index && index <= o.last) {
            young |= observed.observer.test_and_clear_young(index);
        }
        young
    }

    /// Removes all translations of the page without waiting; whether all are gone.
    pub(crate) fn try_unmap(&self, index: u64) -> bool {
        let Some(observers) = self.observers.try_read() else { return false };
        let mut those = observers.list.values().filter(|o| o.first <= index && index <= o.last);
        those.all(|observed| observed.observer.try_unmap(index))
    }

    /// Held (shared) by a fault while it looks at the size, finds the page and installs the
    /// translation, so that truncation cannot slip in between.
    pub fn fault_guard(&self) -> impl Sized + '_ {
        self.invalidate.read()
    }

    /// Held (exclusively) by operations that take pages away; nests inside the inode's lock.
    pub fn invalidate_guard(&self) -> impl Sized + '_ {
        self.invalidate.write()
    }

    /// All cached pages in `first..=last`, in whatever state.
    pub(crate) fn pages_in(&self, first: u64, last: u64, limit: usize) -> Vec<(u64, PageRef)> {
        let mut pages = Vec::new();
        let _rcu = rcu::read_lock();
        let mut index = first;
        while pages.len() < limit
            && let Some((at, raw)) = self.tree.next(index)
            && at <= last
        {
            if raw & 1 == 0
                && let Some(page) = PageRef::try_new(page_at(raw))
                && self.owns(at, &page)
            {
                pages.push((at, page));
            }
            index = at + 1;
        }
        pages
    }

    /// The first offset at or after `pos` with (`true`) or without (`false`) a cached page: the data
    /// and holes of a mapping without backing.
    pub fn seek_cached(&self, pos: u64, cached: bool) -> Option<u64> {
        let _rcu = rcu::read_lock();
        let mut index = pos >> PAGE_SHIFT;
        if cached {
            let (at, _) = self.tree.next(index)?;
            return Some((at << PAGE_SHIFT).max(pos));
        }
        while self.tree.next(index).is_some_and(|(at, _)| at == index) {
            index += 1;
        }
        Some((index << PAGE_SHIFT).max(pos))
    }

    /// Flags for the owner's use (file systems): sets bits, returns the old ones.
    pub fn set_state(&self, bits: u32) -> u32 {
        self.state.fetch_or(bits, Ordering::AcqRel)
    }

    /// Clears owner's bits, returns the old ones.
    pub fn clear_state(&self, bits: u32) -> u32 {
        self.state.fetch_and(!bits, Ordering::AcqRel)
    }
}

/// Another page is there already.
#[derive(Debug)]
pub(crate) struct Occupied;

impl Drop for Mapping {
    fn drop(&mut self) {
        // Nobody has a handle: no reads, no write-back, no maps. Reclaim may still hold a page lock
        // for a moment; it reaches the mapping only through a locked page it finds owned.
        let mut index = 0;
        loop {
            let pages = self.pages_in(index, u64::MAX, 64);
            if pages.is_empty() {
                if self.tree.next(index).is_none() {
                    break;
                }
                arch::cpu::relax();
                continue;
            }
            for (at, page) in pages {
                while !page::try_lock(&page) {
                    arch::cpu::relax();
                }
                if self.owns(at, &page) {
                    self.remove(at, &page);
                }
                page::unlock(&page);
                index = at;
            }
        }
        debug_assert!(self.tree.next_marked(0, Mark::Writeback).is_none());
    }
}

impl core::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "mapping of {} bytes, {} pages", self.size(), self.cached_pages())
    }
}

/// Bytes from `pos` to the end of its page.
pub(crate) fn room_in_page(pos: u64) -> usize {
    PAGE_SIZE - (pos as usize & (PAGE_SIZE - 1))
}
