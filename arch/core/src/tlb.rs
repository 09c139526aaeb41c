//! Translation caches: which processor may hold entries of which address space, and how they are
//! made to forget them.
//!
//! Every address space has a [`Context`]. Its generation counts the flushes asked for; every
//! processor remembers up to which generation each of its cached address spaces (one per PCID) is
//! clean, and flushes when it comes back to one that is behind. So a flush interrupts only the
//! processors that have the address space loaded and are not lazy (in a kernel thread); the others
//! catch up by themselves.
//!
//! A [`Gather`] collects what an operation unmaps, flushes once, and only then drops what was
//! unmapped.

#[cfg(not(target_os = "none"))]
use crate::host::tlb as imp;
#[cfg(target_os = "none")]
use crate::x86::tlb as imp;

use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::cpu::AtomicCpuSet;
use crate::paging::{Level, table_frames};
use alloc::vec::Vec;
use core::marker::PhantomPinned;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};

/// More pages than this are flushed by forgetting everything: beyond it single invalidations cost
/// more than refilling.
pub const FULL_FLUSH_PAGES: u64 = 33;
/// What a [`Gather`] collects before it flushes by itself.
const BATCH: usize = 512;

/// The identity of an address space towards the translation caches.
pub struct Context {
    /// Never reused.
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no caches there"))]
    pub(crate) id: u64,
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no caches there"))]
    pub(crate) root: PhysAddr,
    pub(crate) generation: AtomicU64,
    /// The processors that have it loaded, lazily or not.
    pub(crate) loaded: AtomicCpuSet,
    /// Processors remember where it is.
    _stays: PhantomPinned,
}

impl Context {
    /// The context of the address space with this root.
    ///
    /// # Safety
    /// The tables live until the context is dropped.
    pub unsafe fn new(root: PhysAddr) -> Context {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Context {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            root,
            generation: AtomicU64::new(1),
            loaded: AtomicCpuSet::new(),
            _stays: PhantomPinned,
        }
    }

    /// Loads the address space on this processor, with preemption off: at a switch to a thread
    /// that uses it. Costs nothing when it is loaded already.
    #[inline]
    pub fn activate(self: Pin<&Self>) {
        // SAFETY: the context is pinned: it stays where it is until it is dropped, which takes it off
        // every processor; and until then the tables live, as who made it vouched.
        unsafe { imp::activate(&self) };
    }

    /// Whether the address space is loaded on this processor.
    pub fn is_active(&self) -> bool {
        imp::is_active(self)
    }

    /// Takes the address space off every processor that still has it lazily loaded; before its
    /// tables are freed. Interrupts on.
    pub fn retire(&self) {
        imp::retire(self);
    }

    /// Makes every processor forget `[start, end)` of the address space.
    pub fn flush_range(&self, start: VirtAddr, end: VirtAddr) {
        if start < end {
            imp::flush(self, start, end, Level::Page);
        }
    }

    /// Makes every processor forget one page.
    #[inline]
    pub fn flush_page(&self, at: VirtAddr) {
        imp::flush(self, at.page_down(), at.page_down() + PAGE_SIZE, Level::Page);
    }

    /// Makes every processor forget the whole address space.
    pub fn flush_all(&self) {
        imp::flush(self, VirtAddr(0), VirtAddr(crate::addr::USER_END), Level::Page);
    }

    /// Makes this processor alone forget one page: enough when rights were only added and another
    /// processor's stale entry faults once more.
    #[inline]
    pub fn flush_page_here(&self, at: VirtAddr) {
        imp::flush_page_here(at);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.retire();
    }
}

/// Says that this processor runs a kernel thread now: the address space stays loaded, but flushes
/// need not interrupt. With preemption off, at the switch.
#[inline]
pub fn enter_lazy() {
    imp::enter_lazy();
}

/// Makes every processor forget a range of kernel addresses. Interrupts on.
pub fn flush_kernel_range(start: VirtAddr, len: usize) {
    imp::flush_kernel(start, start + len);
}

/// Collects what is unmapped from one address space; on [`flush`](Self::flush) (or drop) the
/// processors forget it, then the collected things are dropped.
pub struct Gather<'a, T> {
    context: &'a Context,
    start: VirtAddr,
    end: VirtAddr,
    level: Level,
    deferred: Vec<T>,
    tables: Vec<PhysAddr>,
}

impl<'a, T> Gather<'a, T> {
    /// Nothing collected.
    pub const fn new(context: &'a Context) -> Self {
        Gather {
            context,
            start: VirtAddr(u64::MAX),
            end: VirtAddr(0),
            level: Level::Huge,
            deferred: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// Notes that the entry for a page was changed.
    #[inline]
    pub fn page(&mut self, at: VirtAddr, level: Level) {
        self.start = self.start.min(at);
        self.end = self.end.max(at + level.size());
        if level == Level::Page {
            self.level = level;
        }
    }

    /// Keeps something until after the flush: the page that was unmapped.
    pub fn defer(&mut self, thing: T) {
        if self.deferred.len() >= BATCH || self.deferred.try_reserve(1).is_err() {
            self.flush();
            if self.deferred.capacity() == 0 {
                // No memory to collect anything: what was noted is flushed, drop it now.
                drop(thing);
                return;
            }
        }
        self.deferred.push(thing);
    }

    /// Keeps a table that was taken out of the tree at `at` until after the flush.
    pub fn table(&mut self, at: VirtAddr, table: PhysAddr) {
        self.page(at, Level::Page);
        if self.tables.try_reserve(1).is_err() {
            self.flush();
            release(table);
            return;
        }
        self.tables.push(table);
    }

    /// Flushes what was noted and drops what was kept.
    pub fn flush(&mut self) {
        if self.start < self.end {
            imp::flush(self.context, self.start, self.end, self.level);
            self.start = VirtAddr(u64::MAX);
            self.end = VirtAddr(0);
            self.level = Level::Huge;
        }
        self.deferred.clear();
        self.tables.drain(..).for_each(release);
    }
}

fn release(table: PhysAddr) {
    if let Ok(frames) = table_frames() {
        frames.release(table);
    }
}

impl<T> Drop for Gather<'_, T> {
    fn drop(&mut self) {
        self.flush();
    }
}
