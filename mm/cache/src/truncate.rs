//! Taking pages away: truncation, hole punching, invalidation.

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use frames::{PageRef, flag};

use crate::mapping::{MAX_INDEX, Mapping};
use crate::page;

impl Mapping {
    /// Changes the file's length: shrinking drops the pages behind it and zeroes the rest of the
    /// last one; growing makes the new part zeros. The caller holds the inode's lock and, when it
    /// frees blocks afterwards, does so after this returns.
    pub fn truncate(&self, new_size: u64) -> Result<()> {
        let old = self.size();
        if new_size >= old {
            self.zero_tail(new_size)?;
            self.set_size(new_size);
            return Ok(());
        }
        let _guard = self.invalidate_guard();
        let offset = new_size as usize & (PAGE_SIZE - 1);
        if offset != 0 {
            // Before the size moves: behind the new end the page could not be read any more.
            self.zero_partial(new_size >> PAGE_SHIFT, offset, PAGE_SIZE)?;
        }
        self.set_size(new_size);
        let first = new_size.div_ceil(PAGE_SIZE as u64);
        self.unmap_truncated(first, MAX_INDEX);
        self.drop_pages(first, MAX_INDEX);
        Ok(())
    }

    /// Makes the bytes `start..end` zeros by dropping whole pages and zeroing parts of others; the
    /// caller frees the blocks afterwards. The caller holds the inode's lock.
    pub fn punch(&self, start: u64, end: u64) -> Result<()> {
        let _guard = self.invalidate_guard();
        let first = start.div_ceil(PAGE_SIZE as u64);
        let last_end = end >> PAGE_SHIFT;
        let (head, tail) = (start as usize & (PAGE_SIZE - 1), end as usize & (PAGE_SIZE - 1));
        if start >> PAGE_SHIFT == end >> PAGE_SHIFT {
            return self.zero_partial(start >> PAGE_SHIFT, head, tail);
        }
        if head != 0 {
            self.zero_partial(start >> PAGE_SHIFT, head, PAGE_SIZE)?;
        }
        if tail != 0 && last_end << PAGE_SHIFT < self.size() {
            self.zero_partial(last_end, 0, tail)?;
        }
        if first < last_end {
            self.unmap(first, last_end - 1);
            self.drop_pages(first, last_end - 1);
        }
        Ok(())
    }

    fn zero_partial(&self, index: u64, from: usize, to: usize) -> Result<()> {
        if from >= to || index << PAGE_SHIFT >= self.size() {
            return Ok(());
        }
        if self.backing().is_none() && self.find(index).is_none() {
            return Ok(());
        }
        let page = self.get_page(index)?;
        page.zero(from..to);
        self.set_dirty_unreserved(&page, index);
        Ok(())
    }

    /// Drops all pages in `first..=last`, dirty or not, waiting for I/O on them.
    pub(crate) fn drop_pages(&self, first: u64, last: u64) {
        let mut index = first;
        loop {
            let pages = self.pages_in(index, last, 64);
            let Some(&(end, _)) = pages.last() else { return };
            for (at, page) in &pages {
                self.drop_page(*at, page);
            }
            let Some(next) = end.checked_add(1) else { return };
            index = next;
        }
    }

    fn drop_page(&self, index: u64, page: &PageRef) {
        page::lock(page);
        page::wait_writeback(page);
        if self.owns(index, page) {
            if page.map_count() != 0 {
                self.unmap(index, index);
            }
            self.remove(index, page);
        }
        page::unlock(page);
    }

    /// Drops the clean, unused pages in `first..=last`: `drop_caches`, `POSIX_FADV_DONTNEED`. How
    /// many were dropped.
    pub fn drop_clean(&self, first: u64, last: u64) -> usize {
        if self.backing().is_none() {
            return 0;
        }
        crate::reclaim::drain();
        let mut dropped = 0;
        let mut index = first;
        loop {
            let pages = self.pages_in(index, last, 64);
            let Some(&(end, _)) = pages.last() else { return dropped };
            for (at, page) in &pages {
                if page.flags() & (flag::DIRTY | flag::WRITEBACK) != 0 || !page::try_lock(page) {
                    continue;
                }
                if self.owns(*at, page) && page.map_count() == 0 && self.remove_unused(*at, page) {
                    dropped += 1;
                }
                page::unlock(page);
            }
            let Some(next) = end.checked_add(1) else { return dropped };
            index = next;
        }
    }

    /// Before direct I/O on bytes `start..end`: writes dirty pages out; for a write also drops the
    /// pages, so that later reads see the device. `EBUSY`: pages are pinned; fall back to the cache.
    pub fn prepare_direct(&self, start: u64, end: u64, is_write: bool) -> Result<()> {
        if self.cached_pages() == 0 || start >= end {
            return Ok(());
        }
        self.write_and_wait(start, end - 1)?;
        if !is_write {
            return Ok(());
        }
        self.invalidate(start >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT)
    }

    /// Drops all clean pages in `first..=last`, unmapping them; `EBUSY` if some are dirty again.
    pub fn invalidate(&self, first: u64, last: u64) -> Result<()> {
        let _guard = self.invalidate_guard();
        self.unmap(first, last);
        let mut index = first;
        loop {
            let pages = self.pages_in(index, last, 64);
            let Some(&(end, _)) = pages.last() else { return Ok(()) };
            for (at, page) in &pages {
                page::lock(page);
                page::wait_writeback(page);
                let busy = self.owns(*at, page) && page.flags() & flag::DIRTY != 0;
                if !busy && self.owns(*at, page) {
                    self.remove(*at, page);
                }
                page::unlock(page);
                if busy {
                    return Err(Errno::EBUSY);
                }
            }
            let Some(next) = end.checked_add(1) else { return Ok(()) };
            index = next;
        }
    }
}
