//! Which clean pages to give up when memory is short.
//!
//! Two lists. Pages enter the inactive one; a page used twice moves to the active one. Reclaim takes
//! from the inactive list's old end: pages used since get another round (or become active when
//! mapped), clean unused ones are freed, dirty ones wake the flushers. When the active list is
//! longer than the inactive one its old end moves back. New pages wait in a per-CPU batch, so that
//! the lists' lock is taken once in fifteen insertions.
//!
//! The last of the cache is what the running programs consist of. To take a page of it that was used
//! just now only has it read again at once, and nobody gets on: while the cache is small, pages used
//! within [`RECENT`] stay, and an allocation that finds nothing else waits until some are older. When
//! that finds next to nothing for [`PATIENCE_NS`], somebody has to die.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arch::addr::Pfn;
use arch::lock::{IrqLock, LockClass};
use arch::percpu::PerCpuCell;
use arrayvec::ArrayVec;
use frames::{Page, PageRef, flag};

use crate::pages::Pages;
use crate::stats::{self, Counter};
use crate::{page, writeback};

static CLASS: LockClass = LockClass::new("pagecache.lru", 490);

const BATCH: usize = 15;
/// The unit of [`Page::used_at`]: 2^26 ns, 67 ms.
const TICK_SHIFT: u32 = 26;
/// Ticks after its last known use in which a page of a small cache is not taken: half a second.
const RECENT: u8 = 8;
/// The part of memory that is a small cache.
const SMALL: u64 = 16;

/// Pages were left alone because they are in use.
static IS_HOLDING_BACK: AtomicBool = AtomicBool::new(false);

/// How long reclaim looks at [`POOR`] pages of a small cache and more for each that it frees before
/// it gives up.
const PATIENCE_NS: u64 = 2_000_000_000;
const POOR: usize = 8;
/// Since when it has; 0: it has not.
static POOR_SINCE_NS: AtomicU64 = AtomicU64::new(0);

/// The time in ticks; comes round every 17 s.
fn tick() -> u8 {
    (arch::time::now_ns() >> TICK_SHIFT) as u8
}

/// Whether the last [`shrink`] left pages alone that time alone makes free to go.
pub(crate) fn is_holding_back() -> bool {
    IS_HOLDING_BACK.load(Ordering::Relaxed)
}

/// A doubly linked list of frame numbers in `Page::prev` and `Page::next`; newest first. All links are guarded
/// by the lock around [`Lists`].
struct List {
    head: u32,
    tail: u32,
    len: usize,
}

impl List {
    const fn new() -> List {
        List { head: 0, tail: 0, len: 0 }
    }

    fn page(raw: u32) -> &'static Page {
        frames::page(Pfn(u64::from(raw)))
    }

    fn push_front(&mut self, raw: u32) {
        let page = Self::page(raw);
        page.prev.store(0, Ordering::Relaxed);
        page.next.store(self.head, Ordering::Relaxed);
        match self.head {
            0 => self.tail = raw,
            head => Self::page(head).prev.store(raw, Ordering::Relaxed),
        }
        self.head = raw;
        self.len += 1;
    }

    fn unlink(&mut self, raw: u32) {
        let page = Self::page(raw);
        let (prev, next) = (page.prev.load(Ordering::Relaxed), page.next.load(Ordering::Relaxed));
        match prev {
            0 => self.head = next,
            prev => Self::page(prev).next.store(next, Ordering::Relaxed),
        }
        match next {
            0 => self.tail = prev,
            next => Self::page(next).prev.store(prev, Ordering::Relaxed),
        }
        self.len -= 1;
    }
}

/// Frame numbers link the lists; frame 0 is never handed out.
fn number(page: &Page) -> u32 {
    page.pfn().0 as u32
}

struct Lists {
    inactive: List,
    active: List,
}

impl Lists {
    fn list(&mut self, page: &Page) -> (&mut List, Counter) {
        if page.flags() & flag::ACTIVE != 0 {
            (&mut self.active, Counter::ActiveFile)
        } else {
            (&mut self.inactive, Counter::InactiveFile)
        }
    }

    fn enter(&mut self, page: &Page, raw: u32) {
        let (list, counter) = self.list(page);
        list.push_front(raw);
        page.set(flag::LRU);
        stats::add(counter, 1);
    }

    fn leave(&mut self, page: &Page, raw: u32) -> bool {
        if page.flags() & flag::LRU == 0 {
            return false;
        }
        let (list, counter) = self.list(page);
        list.unlink(raw);
        page.clear(flag::LRU);
        stats::add(counter, -1);
        true
    }
}

static LISTS: IrqLock<Lists> =
    IrqLock::new(&CLASS, Lists { inactive: List::new(), active: List::new() });

arch::percpu! {
    static PENDING: PerCpu<PerCpuCell<ArrayVec<PageRef, BATCH>>> = PerCpuCell::new(ArrayVec::new_const());
}

/// A page entered the cache.
pub(crate) fn add(page: PageRef) {
    page.set_used_at(tick().wrapping_sub(RECENT));
    let full = PENDING.with(|pending| {
        let full = if pending.is_full() { core::mem::take(pending) } else { ArrayVec::new() };
        pending.push(page);
        full
    });
    enter_all(full);
}

fn enter_all(pages: ArrayVec<PageRef, BATCH>) {
    if pages.is_empty() {
        return;
    }
    let mut lists = LISTS.lock();
    for page in &pages {
        // A page that has left the cache meanwhile stays out; `forget` takes the same lock.
        if page.flags() & flag::LRU == 0 && page.owner.load(Ordering::Acquire) != 0 {
            lists.enter(page, number(page));
        }
    }
    drop(lists);
    // The references go outside the lock: the last one frees its frame.
    drop(pages);
}

/// Puts this CPU's waiting pages on the lists.
pub(crate) fn drain() {
    let pages = PENDING.with(core::mem::take);
    enter_all(pages);
}

/// A page leaves the cache (its owner word is cleared already).
pub(crate) fn forget(page: &PageRef) {
    // Always with the lock: another CPU may be entering the page at this moment.
    LISTS.lock().leave(page, number(page));
    page.clear(flag::ACTIVE | flag::REFERENCED);
}

/// A page used more than once becomes active.
pub(crate) fn activate(page: &PageRef) {
    let mut lists = LISTS.lock();
    if page.flags() & flag::ACTIVE == 0 && lists.leave(page, number(page)) {
        page.set(flag::ACTIVE);
        page.clear(flag::REFERENCED);
        lists.enter(page, number(page));
        stats::add(Counter::Activated, 1);
    }
}

/// Frees up to `target` clean pages; how many it did. May sleep (maps are removed).
pub fn shrink(target: usize) -> usize {
    shrink_some(target, Mapped::UnlessUsed)
}

/// Whether pages that programs map are given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mapped {
    /// Those that have not been used of late.
    UnlessUsed,
    /// None: they are not even asked about, which takes long for one that hundreds map.
    Never,
}

fn shrink_some(target: usize, mapped: Mapped) -> usize {
    drain();
    let mut freed = 0;
    let mut dirty = 0;
    let mut held = 0;
    let mut scanned = 0;
    let len = {
        let lists = LISTS.lock();
        lists.active.len + lists.inactive.len
    };
    let holds_back = target != usize::MAX && (len as u64) < frames::total_pages() / SMALL;
    // What is found in use once stays so for this call when it holds back.
    let limit = if holds_back { len } else { 2 * len } + 64;
    let now = tick();
    while freed < target && scanned < limit {
        age();
        let batch = isolate();
        if batch.is_empty() {
            break;
        }
        scanned += batch.len();
        let mut kept: ArrayVec<(PageRef, Fate), 32> = ArrayVec::new();
        for page in batch {
            let fate = if holds_back && now.wrapping_sub(page.used_at()) < RECENT {
                Fate::HeldBack
            } else {
                try_free(&page, now, mapped)
            };
            freed += usize::from(fate == Fate::Freed);
            dirty += usize::from(fate == Fate::Dirty);
            held += usize::from(fate == Fate::HeldBack);
            if fate != Fate::Freed {
                kept.push((page, fate));
            }
        }
        put_back(&kept);
    }
    IS_HOLDING_BACK.store(freed < target && held > 0, Ordering::Relaxed);
    note_yield(holds_back && freed < scanned / POOR);
    stats::add(Counter::Scanned, scanned as i64);
    stats::add(Counter::Reclaimed, freed as i64);
    if freed < target && dirty > 0 {
        writeback::kick_all();
    }
    freed
}

/// Remembers since when reclaim has been poor.
fn note_yield(is_poor: bool) {
    // Relaxed: a time to compare with.
    if !is_poor {
        POOR_SINCE_NS.store(0, Ordering::Relaxed);
    } else if POOR_SINCE_NS.load(Ordering::Relaxed) == 0 {
        POOR_SINCE_NS.store(arch::time::now_ns(), Ordering::Relaxed);
    }
}

/// Moves old active pages back while the active list is the longer one.
fn age() {
    let mut lists = LISTS.lock();
    for _ in 0..32 {
        let raw = lists.active.tail;
        if raw == 0 || lists.active.len <= lists.inactive.len {
            return;
        }
        let page = List::page(raw);
        lists.leave(page, raw);
        page.clear(flag::ACTIVE);
        lists.enter(page, raw);
        stats::add(Counter::Deactivated, 1);
    }
}

/// Takes pages off the inactive list's old end.
fn isolate() -> ArrayVec<PageRef, 32> {
    let mut batch = ArrayVec::new();
    let mut lists = LISTS.lock();
    while !batch.is_full() {
        let raw = lists.inactive.tail;
        if raw == 0 {
            break;
        }
        let page = PageRef::try_new(List::page(raw));
        lists.leave(List::page(raw), raw);
        if let Some(page) = page {
            batch.push(page);
        }
    }
    batch
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Freed,
    Dirty,
    Used,
    UsedMapped,
    HeldBack,
    Busy,
}

fn try_free(page: &PageRef, now: u8, mapped: Mapped) -> Fate {
    if !page::try_lock(page) {
        return Fate::Busy;
    }
    let fate = free_locked(page, now, mapped);
    page::unlock(page);
    fate
}

fn free_locked(page: &PageRef, now: u8, give_up: Mapped) -> Fate {
    let owner = page.owner.load(Ordering::Acquire);
    if owner == 0 {
        // It left the cache by itself.
        return Fate::Freed;
    }
    if page.flags() & (flag::DIRTY | flag::WRITEBACK) != 0 {
        return Fate::Dirty;
    }
    // When the mapping ends just now, that takes the page out.
    let Some(pages) = Pages::of_owner(owner) else { return Fate::Busy };
    let index = page.index.load(Ordering::Relaxed);
    let mapped = page.map_count() != 0;
    if mapped && give_up == Mapped::Never {
        return Fate::Busy;
    }
    let young = mapped && pages.observers.test_and_clear_young(index);
    if page.clear(flag::REFERENCED) & flag::REFERENCED != 0 || young {
        page.set_used_at(now);
        return if mapped { Fate::UsedMapped } else { Fate::Used };
    }
    if mapped && !pages.observers.try_unmap(index) {
        return Fate::Busy;
    }
    if pages.remove_unused(index, page) { Fate::Freed } else { Fate::Busy }
}

fn put_back(pages: &[(PageRef, Fate)]) {
    if pages.is_empty() {
        return;
    }
    let mut lists = LISTS.lock();
    for (page, fate) in pages {
        if page.owner.load(Ordering::Acquire) == 0 || page.flags() & flag::LRU != 0 {
            continue;
        }
        if *fate == Fate::UsedMapped {
            page.set(flag::ACTIVE);
        }
        lists.enter(page, number(page));
    }
}

/// Drops every clean page that nobody maps: `echo 1 > /proc/sys/vm/drop_caches`. How many.
pub fn drop_caches() -> usize {
    let mut total = 0;
    for _ in 0..3 {
        let freed = shrink_some(usize::MAX, Mapped::Never);
        total += freed;
        if freed == 0 {
            break;
        }
    }
    total
}

/// The cache as one of those that give memory back.
pub(crate) struct Cache;

impl frames::Reclaim for Cache {
    fn reclaim(&self, pages: usize) -> usize {
        shrink(pages)
    }
    fn reclaimable(&self) -> u64 {
        let file = stats::sum(Counter::ActiveFile) + stats::sum(Counter::InactiveFile);
        file.saturating_sub(stats::sum(Counter::Dirty) + stats::sum(Counter::Writeback))
    }
    fn wait(&self) -> bool {
        crate::background::wait()
    }
    fn gives_up(&self) -> bool {
        let (since, now) = (POOR_SINCE_NS.load(Ordering::Relaxed), arch::time::now_ns());
        // One of those who ask at the same time gets the answer; the next after as long again.
        since != 0
            && now.saturating_sub(since) > PATIENCE_NS
            && POOR_SINCE_NS
                .compare_exchange(since, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}
