//! Translation caches: which processor may hold entries of which address space, and how they are
//! made to forget them.
//!
//! Every address space has a [`Context`]. Its generation counts the flushes asked for; every
//! processor remembers up to which generation each of its cached address spaces (one per PCID) is
//! clean, and flushes when it comes back to one that is behind. So a flush interrupts only the
//! processors that have the address space loaded and are not lazy (in a kernel thread); the others
//! catch up by themselves.

#[cfg(not(target_os = "none"))]
use crate::host::tlb as imp;
#[cfg(target_os = "none")]
use crate::x86::tlb as imp;

use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::cpu::AtomicCpuSet;
use crate::paging::Level;
use core::marker::PhantomPinned;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};

/// More pages than this are flushed by forgetting everything: beyond it single invalidations cost
/// more than refilling.
pub const FULL_FLUSH_PAGES: u64 = 33;
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

    /// As [`flush_range`](Self::flush_range) where all that changed are entries of this level.
    #[inline]
    pub fn flush_level(&self, start: VirtAddr, end: VirtAddr, level: Level) {
        if start < end {
            imp::flush(self, start, end, level);
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
