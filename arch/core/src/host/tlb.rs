//! The simulator has no translation caches; it counts flushes so that tests can look.

use crate::addr::VirtAddr;
use crate::paging::Level;
use crate::tlb::Context;
use std::sync::atomic::{AtomicU64, Ordering};

static FLUSHES: AtomicU64 = AtomicU64::new(0);

/// How many flushes there were.
pub fn flushes() -> u64 {
    FLUSHES.load(Ordering::Relaxed)
}

pub(crate) unsafe fn activate(context: &Context) {
    context.loaded.insert(crate::cpu::id());
}
pub(crate) fn is_active(context: &Context) -> bool {
    context.loaded.contains(crate::cpu::id())
}
pub(crate) fn retire(_context: &Context) {}
pub(crate) fn flush(context: &Context, _start: VirtAddr, _end: VirtAddr, _level: Level) {
    context.generation.fetch_add(1, Ordering::SeqCst);
    FLUSHES.fetch_add(1, Ordering::Relaxed);
}
pub(crate) fn flush_page_here(_at: VirtAddr) {}
pub(crate) fn enter_lazy() {}
pub(crate) fn flush_kernel(_start: VirtAddr, _end: VirtAddr) {
    FLUSHES.fetch_add(1, Ordering::Relaxed);
}
