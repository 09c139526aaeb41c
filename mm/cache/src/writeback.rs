//! Write-back: who writes dirty pages, when, and who has to wait for it.
//!
//! Every device has a [`Flusher`] with a kernel thread. A mapping joins its flusher's list when its
//! first page becomes dirty. The thread wakes every `writeback_interval` and writes mappings that
//! have been dirty for `dirty_expire`; above the background threshold it writes everything. A
//! writer that finds the machine above the dirty limit waits for write-back to make progress.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Result;
use arch::addr::PAGE_SHIFT;
use arch::lock::{IrqLock, LockClass, SpinLock};
use arch::time::now_ns;
use frames::{PageRef, flag};
use sched::WaitQueue;

use crate::io::WriteRun;
use crate::mapping::{MAX_INDEX, Mapping, Owner};
use crate::page;
use crate::stats::{self, Counter};
use crate::tree::Mark;

static LIST: LockClass = LockClass::new("pagecache.flusher", 470);
// Also taken by who reclaims memory for page tables (`vm.tables`).
static FLUSHERS: LockClass = LockClass::new("pagecache.flushers", 467);

/// Pages of one run at most (2 MiB).
const RUN_PAGES: usize = 512;

/// The knobs of `/proc/sys/vm`.
#[derive(Debug)]
pub struct Tunables {
    /// `dirty_ratio`, percent of available memory.
    pub dirty_ratio: AtomicU64,
    /// `dirty_background_ratio`.
    pub background_ratio: AtomicU64,
    /// `dirty_bytes`; 0: the ratio counts.
    pub dirty_bytes: AtomicU64,
    /// `dirty_background_bytes`; 0: the ratio counts.
    pub background_bytes: AtomicU64,
    /// `dirty_expire_centisecs`.
    pub expire_centisecs: AtomicU64,
    /// `dirty_writeback_centisecs`; 0: no periodic write-back.
    pub interval_centisecs: AtomicU64,
}

/// Their values.
pub static TUNABLES: Tunables = Tunables {
    dirty_ratio: AtomicU64::new(20),
    background_ratio: AtomicU64::new(10),
    dirty_bytes: AtomicU64::new(0),
    background_bytes: AtomicU64::new(0),
    expire_centisecs: AtomicU64::new(3000),
    interval_centisecs: AtomicU64::new(500),
};

/// Writers that wait for write-back, and where.
static THROTTLED: WaitQueue = WaitQueue::new();

/// The background and hard limit on dirty pages, in pages.
pub fn dirty_limits() -> (u64, u64) {
    // What could hold file data: free frames and the cache.
    let available = frames::stats().free + stats::sum(Counter::FilePages);
    let limit = |bytes: &AtomicU64, ratio: &AtomicU64| match bytes.load(Ordering::Relaxed) {
        0 => available * ratio.load(Ordering::Relaxed) / 100,
        bytes => bytes >> PAGE_SHIFT,
    };
    let hard = limit(&TUNABLES.dirty_bytes, &TUNABLES.dirty_ratio).max(64);
    let background = limit(&TUNABLES.background_bytes, &TUNABLES.background_ratio);
    (background.min(hard / 2).max(16), hard)
}

/// The calling writer made `dirtied` pages of `mapping` dirty: starts write-back or waits for it.
pub(crate) fn balance(mapping: &Mapping, dirtied: usize) {
    let _ = dirtied;
    let Some(flusher) = mapping.backing().and_then(|backing| backing.flusher()) else { return };
    let (background, hard) = dirty_limits();
    if stats::sum(Counter::Dirty) + stats::sum(Counter::Writeback) <= background {
        return;
    }
    flusher.kick();
    // Who writes on behalf of write-back is slowed down, but does not wait for what waits for it.
    let most = if frames::is_reclaimer() { 1 } else { 50 };
    let mut rounds = 0;
    while stats::sum(Counter::Dirty) + stats::sum(Counter::Writeback) > hard && rounds < most {
        wait_written(stats::sum(Counter::Written), 100_000_000);
        flusher.kick();
        rounds += 1;
    }
}

/// Waits until more pages are written than `seen`, at most so long.
pub(crate) fn wait_written(seen: u64, limit_ns: u64) {
    let deadline = now_ns() + limit_ns;
    THROTTLED.wait_deadline(deadline, || (stats::sum(Counter::Written) != seen).then_some(()));
}

/// How a range is written back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// What is easy to get.
    Background,
    /// Everything that was dirty when it began.
    Sync,
}

impl Mapping {
    pub(crate) fn note_dirty(&self) {
        if self.dirty_pages.fetch_add(1, Ordering::AcqRel) == 0 {
            self.dirtied_ns.store(now_ns(), Ordering::Relaxed);
        }
        if !self.queued.load(Ordering::Relaxed) && !self.queued.swap(true, Ordering::AcqRel) {
            let backing = self.backing();
            match (backing.and_then(|backing| backing.flusher()), self.handle()) {
                (Some(flusher), Some(mapping)) => {
                    let _owner = backing.and_then(|backing| backing.owner());
                    flusher.list.lock().push_back(Queued { mapping, _owner });
                }
                _ => self.queued.store(false, Ordering::Release),
            }
        }
    }

    /// Whether there is a page that the device does not have.
    fn is_on_its_way(&self) -> bool {
        self.dirty_pages.load(Ordering::Acquire) != 0
            || self.writeback_pages.load(Ordering::Acquire) != 0
    }

    pub(crate) fn writeback_ended(&self, pages: usize) {
        self.writeback_pages.fetch_sub(pages, Ordering::AcqRel);
        THROTTLED.wake_all();
    }

    /// Starts writing the dirty pages that hold bytes `start..=end`, without waiting for the device.
    pub fn start_writeback(&self, start: u64, end: u64) {
        self.writeback(start >> PAGE_SHIFT, end >> PAGE_SHIFT, Mode::Sync, usize::MAX);
    }

    /// Waits for write-back of the bytes `start..=end` that is under way.
    pub fn wait_writeback(&self, start: u64, end: u64) {
        let (mut index, last) = (start >> PAGE_SHIFT, end >> PAGE_SHIFT);
        while self.writeback_pages.load(Ordering::Acquire) != 0 {
            let found = self.with_writer(|tree| {
                let (at, page) = tree.next_marked(index, Mark::Writeback)?;
                PageRef::try_new(page).map(|page| (at, page))
            });
            let Some((at, page)) = found else { return };
            if at > last {
                return;
            }
            page::wait_writeback(&page);
            let Some(next) = at.checked_add(1) else { return };
            index = next;
        }
    }

    /// Writes the bytes `start..=end` and waits until the device has them. Errors are found with
    /// [`Mapping::check_error`].
    pub fn write_and_wait(&self, start: u64, end: u64) -> Result<()> {
        if self.dirty_pages.load(Ordering::Acquire) != 0 {
            self.start_writeback(start, end);
        }
        self.wait_writeback(start, end);
        Ok(())
    }

    /// Everything: `fsync(2)`'s data part.
    pub fn sync(&self) -> Result<()> {
        self.write_and_wait(0, i64::MAX as u64)
    }

    /// Whether somebody is about to hand pages that are not dirty any more to the backing: those that the
    /// caller did not find dirty may be among them, and the backing knows nothing of them yet.
    pub fn has_writeback_starting(&self) -> bool {
        // Acquire: who found a page clean because another took it sees that one's count, or what came of it.
        self.starting.load(Ordering::Acquire) != 0
    }

    /// Writes dirty pages in `first..=last`; returns how many were started.
    pub(crate) fn writeback(&self, first: u64, last: u64, mode: Mode, budget: usize) -> usize {
        let Some(backing) = self.backing() else { return 0 };
        // Before a page is taken, until the backing has had the last.
        self.starting.fetch_add(1, Ordering::AcqRel);
        let started = self.writeback_counted(&**backing, first, last, mode, budget);
        self.starting.fetch_sub(1, Ordering::AcqRel);
        started
    }

    fn writeback_counted(
        &self,
        backing: &dyn crate::Backing,
        first: u64,
        last: u64,
        mode: Mode,
        budget: usize,
    ) -> usize {
        let last = last.min(MAX_INDEX);
        let mark = match mode {
            Mode::Background => Mark::Dirty,
            Mode::Sync => {
                // A busy writer cannot keep us here for ever: only what is dirty now counts.
                self.with_writer(|tree| tree.copy_marks(first, last, Mark::Dirty, Mark::ToWrite));
                Mark::ToWrite
            }
        };
        let mut index = first;
        let mut started = 0;
        while started < budget {
            let candidates = self.marked_run(index, last, mark);
            let Some((run_first, last_page)) =
                candidates.first().map(|c| c.0).zip(candidates.last().map(|c| c.0))
            else {
                break;
            };
            let mut pages = Vec::with_capacity(candidates.len());
            let mut pages_first = run_first;
            for (at, page) in candidates {
                if self.take_for_writeback(at, &page, mode) {
                    if pages.is_empty() {
                        pages_first = at;
                    }
                    pages.push(page);
                    continue;
                }
                started += self.submit_run(backing, pages_first, &mut pages, mode);
            }
            started += self.submit_run(backing, pages_first, &mut pages, mode);
            let Some(next) = last_page.checked_add(1) else { break };
            index = next;
        }
        started
    }

    fn submit_run(
        &self,
        backing: &dyn crate::Backing,
        first: u64,
        pages: &mut Vec<PageRef>,
        mode: Mode,
    ) -> usize {
        let Some(handle) = self.handle().filter(|_| !pages.is_empty()) else { return 0 };
        let pages = core::mem::take(pages);
        let count = pages.len();
        backing.write(WriteRun::new(handle, first, pages, mode == Mode::Sync));
        count
    }

    /// The next adjacent pages with `mark` from `index` on.
    fn marked_run(&self, index: u64, last: u64, mark: Mark) -> Vec<(u64, PageRef)> {
        let mut pages = Vec::with_capacity(32);
        // The vector may grow under the lock: its room is made before, in steps.
        loop {
            let room = pages.capacity();
            let full = self.with_writer(|tree| {
                let mut next = index;
                while let Some((at, page)) = tree.next_marked(next, mark) {
                    if at > last || (!pages.is_empty() && at != next) {
                        return false;
                    }
                    if pages.len() == room {
                        return true;
                    }
                    if let Some(page) = PageRef::try_new(page) {
                        pages.push((at, page));
                    }
                    next = at + 1;
                }
                false
            });
            if !full || room >= RUN_PAGES {
                return pages;
            }
            pages = Vec::with_capacity((room * 4).min(RUN_PAGES));
        }
    }

    /// Turns a dirty page into one under write-back; whether it did.
    fn take_for_writeback(&self, index: u64, page: &PageRef, mode: Mode) -> bool {
        if mode == Mode::Background {
            if page.flags() & flag::WRITEBACK != 0 || !page::try_lock(page) {
                return false;
            }
        } else {
            loop {
                page::lock(page);
                if page.flags() & flag::WRITEBACK == 0 {
                    break;
                }
                page::unlock(page);
                page::wait_writeback(page);
            }
        }
        let wanted =
            self.owns(index, page) && page.flags() & (flag::DIRTY | flag::WRITEBACK) == flag::DIRTY;
        if wanted && page.map_count() != 0 {
            // From here on a write through a map faults and waits for the page lock.
            self.write_protect(index);
        }
        let taken = self.with_writer(|tree| {
            tree.clear_mark(index, Mark::ToWrite);
            if !wanted || page.clear(flag::DIRTY) & flag::DIRTY == 0 {
                return false;
            }
            page.set(flag::WRITEBACK);
            tree.clear_mark(index, Mark::Dirty);
            tree.set_mark(index, Mark::Writeback);
            // Counted with the mark, so that who waits misses neither.
            self.writeback_pages.fetch_add(1, Ordering::AcqRel);
            self.dirty_pages.fetch_sub(1, Ordering::AcqRel);
            true
        });
        if taken {
            stats::add(Counter::Dirty, -1);
            stats::add(Counter::Writeback, 1);
        }
        page::unlock(page);
        taken
    }
}

/// Metadata that a flusher writes now and then together with the data.
pub trait Periodic: Send + Sync {
    /// Writes what has been dirty since before `older_than_ns` (ns since boot), without waiting.
    fn write_old(&self, older_than_ns: u64);

    /// Wants to be asked at least this often, whatever the interval of write-back is.
    fn interval_ns(&self) -> u64 {
        u64::MAX
    }
}

/// A mapping that has, or had a moment ago, pages that the device does not have. With it its owner
/// lives.
#[derive(Clone)]
struct Queued {
    mapping: Arc<Mapping>,
    _owner: Option<Owner>,
}

/// Writes dirty mappings of one device in the background.
pub struct Flusher {
    name: String,
    list: IrqLock<VecDeque<Queued>>,
    periodic: SpinLock<Vec<Weak<dyn Periodic>>>,
    wake: WaitQueue,
    kicked: AtomicBool,
    stopped: AtomicBool,
}

static ALL: SpinLock<Vec<Weak<Flusher>>> = SpinLock::new(&FLUSHERS, Vec::new());
static PERIODIC: LockClass = LockClass::new("pagecache.periodic", 465);

impl Flusher {
    /// A flusher with its thread; `name` names the device. The thread ends with the last handle.
    pub fn new(name: &str) -> Arc<Flusher> {
        let flusher = Arc::new(Flusher {
            name: String::from(name),
            list: IrqLock::new(&LIST, VecDeque::new()),
            periodic: SpinLock::new(&PERIODIC, Vec::new()),
            wake: WaitQueue::new(),
            kicked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        {
            let mut all = ALL.lock();
            all.retain(|known| known.strong_count() > 0);
            all.push(Arc::downgrade(&flusher));
        }
        let thread = flusher.clone();
        sched::spawn_kernel(&alloc::format!("flush-{name}"), move || thread.run());
        flusher
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds metadata to write periodically.
    pub fn add_periodic(&self, periodic: Weak<dyn Periodic>) {
        let mut list = self.periodic.lock();
        list.retain(|known| known.strong_count() > 0);
        list.push(periodic);
    }

    /// Starts background write-back now.
    pub fn kick(&self) {
        if !self.kicked.swap(true, Ordering::AcqRel) {
            self.wake.wake_all();
        }
    }

    /// Ends the thread (the device goes away).
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.wake_all();
    }

    fn run(&self) {
        while !self.stopped.load(Ordering::Acquire) {
            let interval = TUNABLES.interval_centisecs.load(Ordering::Relaxed);
            let pause = if interval == 0 { 3_600_000_000_000 } else { interval * 10_000_000 };
            let pause = pause.min(self.shortest_interval_ns());
            let due = || {
                let due = self.kicked.swap(false, Ordering::AcqRel)
                    || self.stopped.load(Ordering::Acquire);
                due.then_some(())
            };
            self.wake.wait_deadline(now_ns() + pause, due);
            // What it needs to write pages is well spent: they can be freed afterwards.
            frames::as_reclaimer(|| self.pass());
        }
    }

    fn shortest_interval_ns(&self) -> u64 {
        let periodic = self.periodic.lock();
        let intervals = periodic.iter().filter_map(Weak::upgrade).map(|one| one.interval_ns());
        intervals.min().unwrap_or(u64::MAX)
    }

    fn pass(&self) {
        let expire = TUNABLES.expire_centisecs.load(Ordering::Relaxed) * 10_000_000;
        let old = now_ns().saturating_sub(expire);
        let over_background =
            || stats::sum(Counter::Dirty) + stats::sum(Counter::Writeback) > dirty_limits().0;
        self.each_queued(|mapping| {
            let expired = mapping.dirtied_ns.load(Ordering::Relaxed) <= old;
            if expired || over_background() {
                mapping.writeback(0, MAX_INDEX, Mode::Background, 1 << 14);
                mapping.dirtied_ns.store(now_ns(), Ordering::Relaxed);
            }
        });
        let periodic: Vec<_> = self.periodic.lock().iter().filter_map(Weak::upgrade).collect();
        for metadata in periodic {
            metadata.write_old(old);
        }
    }

    /// Takes each mapping out of the list for `act`; those whose pages the device has stay out.
    fn each_queued(&self, act: impl Fn(&Mapping)) {
        let count = self.list.lock().len();
        for _ in 0..count {
            let Some(queued) = self.list.lock().pop_front() else { break };
            act(&queued.mapping);
            self.requeue(queued);
        }
    }

    fn requeue(&self, queued: Queued) {
        let mapping = &queued.mapping;
        if mapping.is_on_its_way() {
            self.list.lock().push_back(queued);
            return;
        }
        mapping.queued.store(false, Ordering::Release);
        // A page that became dirty just now saw `queued` set and left the queueing to us.
        if mapping.is_on_its_way() && !mapping.queued.swap(true, Ordering::AcqRel) {
            self.list.lock().push_back(queued);
        }
    }

    /// Starts writing every dirty mapping of this device, and waits for them if told to.
    pub fn write_all(&self, wait: Wait) {
        let all: Vec<_> = self.list.lock().iter().cloned().collect();
        for queued in &all {
            queued.mapping.start_writeback(0, i64::MAX as u64);
        }
        if wait == Wait::ForDevice {
            for queued in &all {
                queued.mapping.wait_writeback(0, i64::MAX as u64);
            }
            // Files that nobody uses need not live on to the next pass.
            self.each_queued(|_| ());
        }
    }
}

/// Whether to wait for the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Until the data is there.
    ForDevice,
    /// Not at all.
    No,
}

/// Writes all dirty pages of all devices: the first part of `sync(2)`.
pub fn sync_all(wait: Wait) {
    let all: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    for flusher in &all {
        flusher.write_all(Wait::No);
    }
    if wait == Wait::ForDevice {
        for flusher in &all {
            flusher.write_all(wait);
        }
    }
}

/// Wakes all flushers: memory is short and the pages at hand are dirty.
pub(crate) fn kick_all() {
    let all: Box<[_]> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    for flusher in &*all {
        flusher.kick();
    }
}
