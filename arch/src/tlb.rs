//! Translation caches, and collecting what is to be dropped once they have forgotten it.
//!
//! A [`Gather`] collects what an operation unmaps, flushes once, and only then drops what was
//! unmapped.

pub use machine::tlb::*;

use crate::addr::{PhysAddr, VirtAddr};
use crate::paging::{Level, release_table};
use alloc::vec::Vec;

/// What a [`Gather`] collects before it flushes by itself.
const BATCH: usize = 512;

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
            release_table(table);
            return;
        }
        self.tables.push(table);
    }

    /// Flushes what was noted and drops what was kept.
    pub fn flush(&mut self) {
        if self.start < self.end {
            self.context.flush_level(self.start, self.end, self.level);
            self.start = VirtAddr(u64::MAX);
            self.end = VirtAddr(0);
            self.level = Level::Huge;
        }
        self.deferred.clear();
        self.tables.drain(..).for_each(release_table);
    }
}

impl<T> Drop for Gather<'_, T> {
    fn drop(&mut self) {
        self.flush();
    }
}
