//! Reading through the cache: the hot path of `read(2)`, page look-up for faults, and read-ahead.

use alloc::vec;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use arch::uio::Sink;
use arrayvec::ArrayVec;
use frames::{PageRef, flag};

use crate::io::ReadRun;
use crate::mapping::{Mapping, room_in_page};
use crate::page;
use crate::readahead::{ReadAhead, Window};
use crate::stats::{self, Counter};

/// Pages looked up at a time by long reads.
const BATCH: usize = 16;

impl Mapping {
    /// Copies bytes from `pos` on to `sink`, up to the end of the file; how many. An error is
    /// returned only if nothing was copied.
    pub fn read(&self, mut pos: u64, sink: &mut Sink<'_>, ahead: &ReadAhead) -> Result<usize> {
        let mut done = 0;
        loop {
            let size = self.size();
            if pos >= size || sink.is_full() {
                return Ok(done);
            }
            let left = (size - pos).min(sink.remaining() as u64) as usize;
            let step = if left <= room_in_page(pos) {
                self.read_one(pos, left, left, sink, ahead)
            } else {
                self.read_batch(pos, left, sink, ahead)
            };
            match step {
                Ok(0) => return Ok(done),
                Ok(count) => {
                    done += count;
                    pos += count as u64;
                }
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }

    #[inline]
    fn read_one(
        &self,
        pos: u64,
        len: usize,
        wanted: usize,
        sink: &mut Sink<'_>,
        ahead: &ReadAhead,
    ) -> Result<usize> {
        let index = pos >> PAGE_SHIFT;
        let page = match self.find(index) {
            Some(page) if page.flags() & (flag::UPTODATE | flag::READAHEAD) == flag::UPTODATE => {
                page
            }
            // A hole of a file in memory: reading it must not give it a page.
            None if self.backing().is_none() => return Ok(sink.put_zeros(len)?),
            _ => {
                let pages = (wanted as u64).div_ceil(PAGE_SIZE as u64);
                match self.page_for_read(index, pages, Some(ahead))? {
                    Some(page) => page,
                    // Truncated while we waited: look at the size again.
                    None if pos >= self.size() => return Ok(0),
                    None => return self.read_one(pos, len, wanted, sink, ahead),
                }
            }
        };
        if ahead.touch(index) {
            mark_accessed(&page);
        }
        Ok(page.to_sink(pos as usize & (PAGE_SIZE - 1), len, sink)?)
    }

    fn read_batch(
        &self,
        mut pos: u64,
        mut left: usize,
        sink: &mut Sink<'_>,
        ahead: &ReadAhead,
    ) -> Result<usize> {
        let mut pages = ArrayVec::<PageRef, BATCH>::new();
        let end = (pos + left as u64).div_ceil(PAGE_SIZE as u64);
        self.find_run(pos >> PAGE_SHIFT, end, &mut pages);
        let mut done = 0;
        for page in &pages {
            if page.flags() & (flag::UPTODATE | flag::READAHEAD) != flag::UPTODATE {
                break;
            }
            if ahead.touch(pos >> PAGE_SHIFT) {
                mark_accessed(page);
            }
            let step = room_in_page(pos).min(left);
            match page.to_sink(pos as usize & (PAGE_SIZE - 1), step, sink) {
                Ok(count) => {
                    done += count;
                    pos += count as u64;
                    left -= count;
                    if count < step {
                        return Ok(done);
                    }
                }
                Err(_) if done > 0 => return Ok(done),
                Err(fault) => return Err(fault.into()),
            }
        }
        if done > 0 {
            return Ok(done);
        }
        // The first page is missing, being read, or carries the read-ahead marker.
        self.read_one(pos, left.min(room_in_page(pos)), left, sink, ahead)
    }

    /// The valid page at `index`, read in if need be; `wanted` pages from here on will be used.
    /// `None`: it was truncated meanwhile, or lies behind the end of the file.
    fn page_for_read(
        &self,
        index: u64,
        wanted: u64,
        ahead: Option<&ReadAhead>,
    ) -> Result<Option<PageRef>> {
        if let Some(page) = self.find(index) {
            if page.flags() & flag::READAHEAD != 0
                && page.clear(flag::READAHEAD) & flag::READAHEAD != 0
                && let Some(ahead) = ahead
                && let Some(window) = ahead.on_marker(index, wanted)
            {
                self.start_window(window);
            }
            if page.flags() & flag::UPTODATE != 0 {
                return Ok(Some(page));
            }
            if page.flags() & flag::LOCKED != 0 {
                page::wait_read(&page).or_else(|error| self.retry_read(index, &page, error))?;
                return Ok(self.owns(index, &page).then_some(page));
            }
            self.retry_read(index, &page, Errno::EIO)?;
            return Ok(self.owns(index, &page).then_some(page));
        }
        let window = match ahead {
            Some(ahead) => ahead.on_miss(index, wanted),
            None => Window { start: index, size: wanted.clamp(1, 512) as u32, marker: None },
        };
        self.start_window(window);
        match self.find(index) {
            None if self.backing().is_none() || index << PAGE_SHIFT < self.size() => {
                // No memory for read-ahead, perhaps: one page, with errors.
                self.get_page(index).map(Some)
            }
            None => Ok(None),
            Some(page) => {
                page::wait_read(&page)?;
                Ok(self.owns(index, &page).then_some(page))
            }
        }
    }

    /// A page that is there but not valid: its read failed (or was never started): read it alone.
    fn retry_read(&self, index: u64, page: &PageRef, error: Errno) -> Result<()> {
        page::lock(page);
        if page.flags() & flag::UPTODATE != 0 || !self.owns(index, page) {
            page::unlock(page);
            return Ok(());
        }
        let (Some(backing), Some(handle)) = (self.backing(), self.handle()) else {
            page::unlock(page);
            return Err(error);
        };
        page.clear(flag::ERROR);
        backing.read(ReadRun::new(handle, index, vec![page.clone()]));
        page::wait_read(page)
    }

    /// The valid page at `index`, for faults and file-system metadata: read in or, without a
    /// backing, made of zeros. The caller checks the size and whether the page is still owned.
    pub fn get_page(&self, index: u64) -> Result<PageRef> {
        loop {
            if let Some(page) = self.find(index) {
                if page.flags() & flag::UPTODATE != 0 {
                    return Ok(page);
                }
                if page.flags() & flag::LOCKED != 0 {
                    let _ = page::wait_read(&page);
                }
                if page.flags() & flag::UPTODATE == 0 {
                    self.retry_read(index, &page, Errno::EIO)?;
                }
                if self.owns(index, &page) {
                    return Ok(page);
                }
                continue;
            }
            if self.backing().is_none() {
                let page = frames::alloc_page(frames::Flags::ZERO)?;
                page.set(flag::UPTODATE | flag::UNEVICTABLE | flag::DIRTY);
                if self.insert(index, &page).is_ok() {
                    return Ok(page);
                }
                page.clear(flag::UPTODATE | flag::UNEVICTABLE | flag::DIRTY);
                continue;
            }
            let page = frames::alloc_page(frames::Flags::empty())?;
            page.set(flag::LOCKED);
            if self.insert(index, &page).is_err() {
                page.clear(flag::LOCKED);
                continue;
            }
            self.submit_read(index, vec![page.clone()]);
            page::wait_read(&page)?;
            if self.owns(index, &page) {
                return Ok(page);
            }
        }
    }

    /// The page of a fault at `index` through a file map, with read-ahead around it.
    pub fn get_page_for_fault(&self, index: u64, ahead: &ReadAhead) -> Result<PageRef> {
        if let Some(page) = self.find(index)
            && page.flags() & (flag::UPTODATE | flag::READAHEAD) == flag::UPTODATE
        {
            if ahead.touch(index) {
                mark_accessed(&page);
            }
            return Ok(page);
        }
        if self.backing().is_none() {
            return self.get_page(index);
        }
        let found = if self.find(index).is_none() {
            // Random by nature: read around the fault, not only ahead of it.
            let span = u64::from(ahead.max_pages().max(1));
            let start = index.saturating_sub(span / 4) & !3;
            let end = self.size().div_ceil(PAGE_SIZE as u64);
            let size = span.min(end.saturating_sub(start)).max(1);
            self.start_window(Window { start, size: size as u32, marker: Some(start + size / 2) });
            None
        } else {
            self.page_for_read(index, 1, Some(ahead))?
        };
        let page = match found {
            Some(page) => page,
            None => self.get_page(index)?,
        };
        if ahead.touch(index) {
            mark_accessed(&page);
        }
        Ok(page)
    }

    /// Starts reading `first..=last` without waiting: `readahead(2)`, `MADV_WILLNEED`,
    /// `POSIX_FADV_WILLNEED`.
    pub fn read_ahead(&self, first: u64, last: u64) {
        let mut start = first;
        while start <= last {
            let size = (last - start + 1).min(512);
            self.start_window(Window { start, size: size as u32, marker: None });
            start += size;
        }
    }

    /// Brings in the missing pages of the window, up to the end of the file, without waiting.
    fn start_window(&self, window: Window) {
        if self.backing().is_none() {
            return;
        }
        let end = self.size().div_ceil(PAGE_SIZE as u64).min(window.start + u64::from(window.size));
        let mut run: Vec<PageRef> = Vec::new();
        let mut index = window.start;
        while index < end {
            let fresh = if self.find(index).is_some() {
                None
            } else {
                let Ok(page) = frames::alloc_page(frames::Flags::empty()) else { break };
                let marker = if window.marker == Some(index) { flag::READAHEAD } else { 0 };
                page.set(flag::LOCKED | marker);
                if self.insert(index, &page).is_ok() {
                    Some(page)
                } else {
                    page.clear(flag::LOCKED | flag::READAHEAD);
                    None
                }
            };
            match fresh {
                Some(page) => {
                    if run.is_empty() {
                        run.reserve_exact((end - index) as usize);
                    }
                    run.push(page);
                }
                None if !run.is_empty() => {
                    let first = index - run.len() as u64;
                    self.submit_read(first, core::mem::take(&mut run));
                }
                None => {}
            }
            index += 1;
        }
        if !run.is_empty() {
            self.submit_read(index - run.len() as u64, run);
        }
    }

    fn submit_read(&self, first: u64, pages: Vec<PageRef>) {
        let (Some(backing), Some(handle)) = (self.backing(), self.handle()) else {
            for page in &pages {
                page::unlock(page);
            }
            return;
        };
        stats::add(Counter::ReadAhead, pages.len() as i64);
        backing.read(ReadRun::new(handle, first, pages));
    }

    /// Whether a page is valid in the cache.
    pub fn is_resident(&self, index: u64) -> bool {
        self.find(index).is_some_and(|page| page.flags() & flag::UPTODATE != 0)
    }

    /// Makes the bytes 1 that stand for pages from `first` on that are valid in the cache: `mincore(2)`.
    pub fn note_resident(&self, first: u64, bytes: &mut [u8]) {
        self.pages.for_each(first, first.saturating_add(bytes.len() as u64), |index, page| {
            if page.flags() & flag::UPTODATE != 0
                && let Some(byte) = bytes.get_mut((index - first) as usize)
            {
                *byte = 1;
            }
        });
    }
}

/// Tells reclaim that the page was used: once is noticed, twice makes it active.
#[inline]
pub fn mark_accessed(page: &PageRef) {
    let flags = page.flags();
    if flags & flag::REFERENCED == 0 {
        page.set(flag::REFERENCED);
    } else if flags & (flag::ACTIVE | flag::LRU) == flag::LRU {
        crate::reclaim::activate(page);
    }
}
