//! [`Mapping`]: the cached pages of one file.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use arch::lock::LockClass;
use frames::{PageRef, flag};
use sched::RwLock;

use crate::errseq::{ErrorCursor, ErrorSequence};
use crate::io::{ReadRun, WriteRun};
use crate::observe::{MapObserver, ObserverId};
use crate::pages::{Occupied, Pages};
use crate::stats::{self, Counter};
use crate::tree::{Mark, TreeWriter};
use crate::writeback::Flusher;
use crate::{page, reclaim};

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

    /// What has to live while pages are dirty or on their way to the device: the file, which is to be
    /// found again with these pages rather than read from the device.
    fn owner(&self) -> Option<Owner> {
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

/// A counted reference to what a mapping belongs to.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// The cached pages of one file, its size, its dirty state and its write errors.
pub struct Mapping {
    pub(crate) pages: Arc<Pages>,
    size: AtomicU64,
    backing: Option<Arc<dyn Backing>>,
    small_blocks: bool,
    me: Weak<Mapping>,
    errors: ErrorSequence,
    /// Somebody mapped it shared and writable at some time.
    mapped_writable: AtomicBool,
    /// Pages were made dirty without space for them: they may lie in holes.
    unreserved: AtomicBool,
    /// Faults hold it shared from the look at the size until the translation is there; truncation
    /// and hole punching hold it exclusively.
    invalidate: RwLock<()>,
    pub(crate) dirty_pages: AtomicUsize,
    pub(crate) writeback_pages: AtomicUsize,
    /// Those who take dirty pages for write-back just now.
    pub(crate) starting: AtomicUsize,
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
        let counter = match &backing {
            None => Counter::Shmem,
            Some(backing) if backing.is_device() => Counter::Buffers,
            Some(_) => Counter::FilePages,
        };
        Arc::new_cyclic(|me| Mapping {
            pages: Arc::new(Pages::new(counter, backing.is_some())),
            size: AtomicU64::new(size),
            backing,
            small_blocks,
            me: me.clone(),
            errors: ErrorSequence::new(),
            mapped_writable: AtomicBool::new(false),
            unreserved: AtomicBool::new(false),
            invalidate: RwLock::new(&INVALIDATE, ()),
            dirty_pages: AtomicUsize::new(0),
            writeback_pages: AtomicUsize::new(0),
            starting: AtomicUsize::new(0),
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

    /// Whether its pages have a place on a device.
    pub fn is_stored(&self) -> bool {
        self.backing.is_some()
    }

    /// A strong handle to itself; `None` only while it is being dropped.
    pub fn handle(&self) -> Option<Arc<Mapping>> {
        self.me.upgrade()
    }

    /// Pages in the cache.
    pub fn cached_pages(&self) -> usize {
        self.pages.len()
    }

    /// Whether any page is dirty or being written.
    pub fn is_dirty(&self) -> bool {
        // Acquire: pairs with who takes pages for write-back, or ends it.
        self.dirty_pages.load(Ordering::Acquire) != 0
            || self.writeback_pages.load(Ordering::Acquire) != 0
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
        self.pages.with_writer(change)
    }

    /// The cached page at `index`, in whatever state. No lock is taken.
    #[inline]
    pub fn find(&self, index: u64) -> Option<PageRef> {
        self.pages.find(index)
    }

    /// Appends the cached pages from `index` on to `pages`, at most up to `end` and until the first
    /// gap or `pages` is full.
    pub fn find_run<const N: usize>(
        &self,
        index: u64,
        end: u64,
        pages: &mut arrayvec::ArrayVec<PageRef, N>,
    ) {
        self.pages.find_run(index, end, pages);
    }

    /// Enters `page` at `index` unless there is one already. The cache takes a reference.
    /// Whether all pages that hold bytes `pos..end` are there and valid.
    pub fn has_valid(&self, pos: u64, end: u64) -> bool {
        let pages = pos >> PAGE_SHIFT..end.div_ceil(1 << PAGE_SHIFT);
        let is_valid = |index| {
            let valid = |page: PageRef| page.flags() & flag::UPTODATE != 0;
            self.find(index).is_some_and(valid)
        };
        pos >= end || pages.into_iter().all(is_valid)
    }

    pub(crate) fn insert(&self, index: u64, page: &PageRef) -> core::result::Result<(), Occupied> {
        Pages::insert(&self.pages, index, page)?;
        if self.backing.is_some() {
            reclaim::add(page.clone());
        }
        Ok(())
    }

    /// Takes `page`, which is locked and at `index`, out of the cache.
    pub(crate) fn remove(&self, index: u64, page: &PageRef) {
        if self.pages.remove(index, page) && self.backing.is_some() {
            self.dirty_pages.fetch_sub(1, Ordering::Relaxed);
            stats::add(Counter::Dirty, -1);
        }
    }

    /// Takes a clean page that nobody but the cache and the caller uses out of the cache; `page` is
    /// locked. Whether it worked.
    pub(crate) fn remove_unused(&self, index: u64, page: &PageRef) -> bool {
        self.pages.remove_unused(index, page)
    }

    /// Whether `page` still is this mapping's page at `index` (the page is locked or dirty).
    pub(crate) fn owns(&self, index: u64, page: &PageRef) -> bool {
        self.pages.owns(index, page)
    }

    /// All cached pages in `first..=last`, in whatever state.
    pub(crate) fn pages_in(&self, first: u64, last: u64, limit: usize) -> Vec<(u64, PageRef)> {
        self.pages.pages_in(first, last, limit)
    }

    /// Registers who maps pages `first..=last`.
    pub fn add_observer(
        &self,
        first: u64,
        last: u64,
        observer: Arc<dyn MapObserver>,
    ) -> ObserverId {
        self.pages.observers.add(first, last, observer)
    }

    /// Ends a registration.
    pub fn remove_observer(&self, id: ObserverId) {
        self.pages.observers.remove(id);
    }

    /// Whether anybody maps the file.
    pub fn is_mapped(&self) -> bool {
        self.pages.observers.are_there()
    }

    /// Tells that shared writable maps exist: bytes behind the end of the file may become non-zero.
    pub fn note_mapped_writable(&self) {
        self.mapped_writable.store(true, Ordering::Release);
    }

    pub(crate) fn was_mapped_writable(&self) -> bool {
        self.mapped_writable.load(Ordering::Acquire)
    }

    /// Notes that `page` was changed where no space is needed: holes stay holes, write-back skips
    /// blocks nobody reserved. From then on writers reserve space for dirty pages too.
    pub(crate) fn set_dirty_unreserved(&self, page: &PageRef, index: u64) {
        // Before the page is dirty: who finds it so looks here.
        self.unreserved.store(true, Ordering::SeqCst);
        self.set_dirty(page, index);
    }

    /// Whether a dirty page may lack the space to be written to.
    pub(crate) fn may_be_unreserved(&self) -> bool {
        self.small_blocks || self.unreserved.load(Ordering::SeqCst)
    }

    /// Removes all translations of pages `first..=last`.
    pub fn unmap(&self, first: u64, last: u64) {
        self.pages.observers.each(first, last, |observer| observer.unmap_range(first, last));
    }

    /// Removes all translations of pages `first..=last` and of private copies of them.
    pub(crate) fn unmap_truncated(&self, first: u64, last: u64) {
        self.pages.observers.each(first, last, |observer| observer.unmap_truncated(first, last));
    }

    pub(crate) fn write_protect(&self, index: u64) {
        self.pages.observers.each(index, index, |observer| observer.write_protect(index));
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

    /// The first offset at or after `pos` with (`true`) or without (`false`) a cached page: the data
    /// and holes of a mapping without backing.
    pub fn seek_cached(&self, pos: u64, cached: bool) -> Option<u64> {
        let mut index = pos >> PAGE_SHIFT;
        if cached {
            return Some((self.pages.next(index)? << PAGE_SHIFT).max(pos));
        }
        while self.pages.next(index) == Some(index) {
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

impl Drop for Mapping {
    fn drop(&mut self) {
        // Nobody has a handle: no reads, no write-back, no maps. Reclaim may still hold a page lock
        // for a moment.
        let mut index = 0;
        loop {
            let pages = self.pages_in(index, u64::MAX, 64);
            if pages.is_empty() {
                if self.pages.next(index).is_none() {
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
        debug_assert!(self.with_writer(|tree| tree.next_marked(0, Mark::Writeback).is_none()));
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
