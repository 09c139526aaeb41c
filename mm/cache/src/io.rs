//! Runs of pages on their way from or to a backing: owned by the I/O, ended exactly once.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use frames::{PageRef, flag};

use crate::mapping::Mapping;
use crate::page;
use crate::stats::{self, Counter};
use crate::tree::Mark;

/// Adjacent pages to be filled: locked, not up to date. Ending the run ([`ReadRun::complete`], or
/// dropping it, which fails it) unlocks them. Any context.
pub struct ReadRun {
    mapping: Arc<Mapping>,
    first: u64,
    pages: Vec<PageRef>,
}

impl ReadRun {
    pub(crate) fn new(mapping: Arc<Mapping>, first: u64, pages: Vec<PageRef>) -> ReadRun {
        ReadRun { mapping, first, pages }
    }

    /// Whose pages they are.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Index of the first page.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The pages, one index after the other.
    pub fn pages(&self) -> &[PageRef] {
        &self.pages
    }

    /// Keeps the first `count` pages and returns the rest as a run of its own.
    pub fn split_off(&mut self, count: usize) -> ReadRun {
        let rest = self.pages.split_off(count.min(self.pages.len()));
        ReadRun {
            mapping: self.mapping.clone(),
            first: self.first + self.pages.len() as u64,
            pages: rest,
        }
    }

    /// Ends the run: the pages are valid, or reading them failed.
    pub fn complete(mut self, result: Result<()>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<()>) {
        let size = self.mapping.size();
        for (index, page) in (self.first..).zip(self.pages.drain(..)) {
            if index == size >> PAGE_SHIFT && result.is_ok() {
                // Behind the end of the file there are zeros, whatever the device says.
                page.zero(size as usize & (PAGE_SIZE - 1)..PAGE_SIZE);
            }
            match result {
                Ok(()) => page.set(flag::UPTODATE),
                Err(_) => page.set(flag::ERROR),
            };
            page::unlock(&page);
        }
    }
}

impl Drop for ReadRun {
    fn drop(&mut self) {
        self.finish(Err(Errno::EIO));
    }
}

/// Adjacent pages to be written: under write-back, no longer dirty. Ending the run clears
/// write-back; a failure is noted in the mapping for `fsync`. Any context.
pub struct WriteRun {
    mapping: Arc<Mapping>,
    first: u64,
    pages: Vec<PageRef>,
    waits: bool,
}

impl WriteRun {
    pub(crate) fn new(
        mapping: Arc<Mapping>,
        first: u64,
        pages: Vec<PageRef>,
        waits: bool,
    ) -> WriteRun {
        WriteRun { mapping, first, pages, waits }
    }

    /// Whose pages they are.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Index of the first page.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The pages, one index after the other.
    pub fn pages(&self) -> &[PageRef] {
        &self.pages
    }

    /// Whether somebody sleeps until the run ends (`fsync`): a hint for the device's queue.
    pub fn is_sync(&self) -> bool {
        self.waits
    }

    /// Keeps the first `count` pages and returns the rest as a run of its own.
    pub fn split_off(&mut self, count: usize) -> WriteRun {
        let rest = self.pages.split_off(count.min(self.pages.len()));
        WriteRun {
            mapping: self.mapping.clone(),
            first: self.first + self.pages.len() as u64,
            pages: rest,
            waits: self.waits,
        }
    }

    /// Ends the run.
    pub fn complete(mut self, result: Result<()>) {
        self.finish(result);
    }

    /// Gives the pages back unwritten: they are dirty again (no space to allocate right now, say).
    pub fn redirty(mut self) {
        for (page, index) in self.pages.iter().zip(self.first..) {
            self.mapping.redirty(page, index);
        }
        let pages = core::mem::take(&mut self.pages);
        self.end(&pages, false);
    }

    fn finish(&mut self, result: Result<()>) {
        if self.pages.is_empty() {
            return;
        }
        if let Err(error) = result {
            self.mapping.record_error(error);
        }
        let pages = core::mem::take(&mut self.pages);
        self.end(&pages, true);
    }

    fn end(&self, pages: &[PageRef], written: bool) {
        self.mapping.with_writer(|tree| {
            for index in (self.first..).take(pages.len()) {
                tree.clear_mark(index, Mark::Writeback);
            }
        });
        let count = pages.len() as i64;
        stats::add(Counter::Writeback, -count);
        if written {
            stats::add(Counter::Written, count);
        }
        for page in pages {
            page::clear_and_wake(page, flag::WRITEBACK);
        }
        self.mapping.writeback_ended(pages.len());
    }
}

impl Drop for WriteRun {
    fn drop(&mut self) {
        self.finish(Err(Errno::EIO));
    }
}
