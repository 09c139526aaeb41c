//! The address space itself: its tables, its areas, its counters.

use crate::vma::Areas;
use abi::Result;
use alloc::sync::{Arc, Weak};
use arch::addr::VirtAddr;
use arch::lock::{LockClass, Once};
use arch::tlb::Context;
use core::any::Any;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use frames::Counter;
use mapped::Tables;
use sched::{Mutex, RwLock};

static AREAS: LockClass = LockClass::new("vm.areas", 410);
static TABLES: LockClass = LockClass::new("vm.tables", 465);

/// The memory of a process.
pub struct AddressSpace {
    pub(crate) table: Tables,
    /// Faults hold it shared; whatever changes areas exclusively.
    pub(crate) areas: RwLock<Areas>,
    /// Held while tables are shared, copied or taken out, and by observers.
    pub(crate) tables: Mutex<()>,
    pub(crate) me: Weak<AddressSpace>,
    pub(crate) mmap_base: u64,
    pub(crate) brk: Mutex<Brk>,
    pub(crate) anon: AtomicI64,
    pub(crate) file: AtomicI64,
    pub(crate) shmem: AtomicI64,
    pub(crate) peak_rss: AtomicU64,
    pub(crate) peak_total: AtomicU64,
    /// It is being taken down: what shared tables map is counted out in one sum at the end.
    pub(crate) is_ending: bool,
    thp_disabled: AtomicBool,
    /// The OOM killer takes its pages: none are given any more.
    pub(crate) is_doomed: AtomicBool,
    /// What other parts of the kernel keep for it as long as it is.
    attached: Once<Arc<dyn Any + Send + Sync>>,
}

/// The heap of `brk(2)`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Brk {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

static BRK: LockClass = LockClass::new("vm.brk", 405);

/// Numbers of an address space, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Mapped anonymous pages.
    pub anon: u64,
    /// Mapped file pages.
    pub file: u64,
    /// Mapped shared-memory pages.
    pub shmem: u64,
    /// The most that was ever mapped.
    pub peak_rss: u64,
    /// All areas.
    pub total: u64,
    /// The most there ever was.
    pub peak_total: u64,
    /// Private writable areas.
    pub data: u64,
    /// Stacks.
    pub stack: u64,
    /// Executable file areas.
    pub code: u64,
    /// Locked areas.
    pub locked: u64,
    /// Where the heap starts.
    pub brk_start: u64,
    /// Where it ends.
    pub brk_end: u64,
}

impl Stats {
    fn add_areas(&mut self, areas: &Areas) {
        for vma in areas.map.values() {
            if vma.has(crate::flag::GROWS_DOWN) {
                self.stack += vma.pages();
            } else if vma.file.is_some() && vma.prot & crate::prot::EXEC != 0 {
                self.code += vma.pages();
            }
        }
        (self.total, self.data, self.locked) =
            (areas.total_pages, areas.data_pages, areas.locked_pages);
        self.peak_total = self.peak_total.max(self.total);
    }

    fn add_heap(&mut self, brk: Brk) {
        (self.brk_start, self.brk_end) = (brk.start, brk.end);
    }

    /// Mapped pages.
    pub fn rss_pages(&self) -> u64 {
        self.anon + self.file + self.shmem
    }
    /// The most that was ever mapped, in KiB.
    pub fn max_rss_kib(&self) -> u64 {
        self.peak_rss.max(self.rss_pages()) * 4
    }
}

impl AddressSpace {
    /// An empty address space; mappings go below `mmap_base`.
    pub fn new(mmap_base: u64) -> Result<Arc<AddressSpace>> {
        let table = Tables::new()?;
        Ok(Arc::new_cyclic(|me| AddressSpace {
            table,
            areas: RwLock::new(&AREAS, Areas::default()),
            tables: Mutex::new(&TABLES, ()),
            me: me.clone(),
            mmap_base,
            brk: Mutex::new(&BRK, Brk::default()),
            anon: AtomicI64::new(0),
            file: AtomicI64::new(0),
            shmem: AtomicI64::new(0),
            peak_rss: AtomicU64::new(0),
            peak_total: AtomicU64::new(0),
            is_ending: false,
            thp_disabled: AtomicBool::new(false),
            is_doomed: AtomicBool::new(false),
            attached: Once::new(),
        }))
    }

    /// What is attached to it, made by `make` when somebody first asks: it lives as long as the
    /// address space. There is one kind of thing.
    pub fn attachment<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        let make = || Arc::new(make()) as Arc<dyn Any + Send + Sync>;
        self.attached.call_once(make).clone().downcast().ok()
    }

    /// The same, if there is one.
    pub fn attached<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.attached.get()?.clone().downcast().ok()
    }

    /// Where mappings are put: below this address.
    pub fn mmap_base(&self) -> u64 {
        self.mmap_base
    }
    /// Sets where the heap starts, for a new program.
    pub fn set_brk_start(&self, at: u64) {
        let at = (at + 4095) & !4095;
        *self.brk.lock() = Brk { start: at, end: at };
    }
    /// `PR_SET_THP_DISABLE`.
    pub fn set_thp_disabled(&self, disabled: bool) {
        self.thp_disabled.store(disabled, Ordering::Relaxed);
    }
    /// `PR_GET_THP_DISABLE`.
    pub fn is_thp_disabled(&self) -> bool {
        self.thp_disabled.load(Ordering::Relaxed)
    }

    /// Mapped pages now.
    pub fn rss_pages(&self) -> u64 {
        let sum: i64 =
            [&self.anon, &self.file, &self.shmem].iter().map(|c| c.load(Ordering::Relaxed)).sum();
        sum.max(0) as u64
    }

    /// The most that was ever mapped, in KiB.
    pub fn max_rss_kib(&self) -> u64 {
        self.note_peak();
        self.peak_rss.load(Ordering::Relaxed) * 4
    }

    pub(crate) fn note_peak(&self) {
        self.peak_rss.fetch_max(self.rss_pages(), Ordering::Relaxed);
    }

    /// The numbers now.
    pub fn stats(&self) -> Stats {
        let mut stats = self.mapped();
        stats.add_areas(&self.areas.read());
        stats.add_heap(*self.brk.lock());
        stats
    }

    /// The numbers now as far as they can be had without waiting: for the OOM killer, who must not
    /// wait for those that wait for memory.
    pub fn stats_if_free(&self) -> Stats {
        let mut stats = self.mapped();
        if let Some(areas) = self.areas.try_read() {
            stats.add_areas(&areas);
        }
        if let Some(brk) = self.brk.try_lock() {
            stats.add_heap(*brk);
        }
        stats
    }

    fn mapped(&self) -> Stats {
        self.note_peak();
        let count = |counter: &AtomicI64| counter.load(Ordering::Relaxed).max(0) as u64;
        Stats {
            anon: count(&self.anon),
            file: count(&self.file),
            shmem: count(&self.shmem),
            peak_rss: self.peak_rss.load(Ordering::Relaxed),
            peak_total: self.peak_total.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }

    /// Counts mapped pages up or down.
    pub(crate) fn count(&self, kind: PageSort, pages: i64) {
        let global = match kind {
            PageSort::Anon => Counter::Anon,
            PageSort::File | PageSort::Shmem => Counter::FileMapped,
        };
        self.counter(kind).fetch_add(pages, Ordering::Relaxed);
        global.change(pages);
    }

    pub(crate) fn counter(&self, kind: PageSort) -> &AtomicI64 {
        match kind {
            PageSort::Anon => &self.anon,
            PageSort::File => &self.file,
            PageSort::Shmem => &self.shmem,
        }
    }
}

/// What a mapped page counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageSort {
    Anon,
    File,
    Shmem,
}

impl PageSort {
    pub(crate) fn of(page: &frames::Page) -> PageSort {
        if page.kind() == frames::kind::ANON {
            PageSort::Anon
        } else if page.has(frames::flag::UNEVICTABLE) {
            PageSort::Shmem
        } else {
            PageSort::File
        }
    }
}

impl sched::Space for AddressSpace {
    #[inline]
    fn context(&self) -> Pin<&Context> {
        self.table.context()
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.table.context().retire();
        self.unmap_everything();
    }
}

/// A user address as the tables want it.
#[inline]
pub(crate) fn va(at: u64) -> VirtAddr {
    VirtAddr(at)
}
