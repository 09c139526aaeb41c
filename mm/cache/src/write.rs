//! Writing through the cache.
//!
//! The caller (the file system) holds the inode's lock exclusively, so that writers, truncation and
//! hole punching exclude each other. User memory is never touched with a page locked: a page that
//! is not valid yet is filled before anybody can find it, and a valid page needs no lock.

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use arch::uio::Source;
use frames::{PageRef, flag};

use crate::mapping::{Mapping, room_in_page};
use crate::page;
use crate::stats::{self, Counter};
use crate::tree::Mark;
use crate::writeback;

impl Mapping {
    /// Copies bytes from `source` to the file from `pos` on, growing it; how many. An error is
    /// returned only if nothing was copied. Checks of limits are the caller's.
    pub fn write(&self, mut pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let mut done = 0;
        let mut dirtied = 0;
        let mut outcome = Ok(());
        if pos > self.size() {
            self.zero_tail(pos)?;
        }
        while !source.is_empty() {
            let len = room_in_page(pos).min(source.remaining());
            match self.write_in_page(pos, len, source, &mut dirtied) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    pos += count as u64;
                    if count < len && source.is_user() {
                        // A part of the source is not there: the next round says which error.
                        continue;
                    }
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            if dirtied >= 32 {
                writeback::balance(self, core::mem::take(&mut dirtied));
            }
        }
        if dirtied > 0 {
            writeback::balance(self, dirtied);
        }
        if done > 0 { Ok(done) } else { outcome.map(|()| 0) }
    }

    fn write_in_page(
        &self,
        pos: u64,
        len: usize,
        source: &mut Source<'_>,
        dirtied: &mut usize,
    ) -> Result<usize> {
        let index = pos >> PAGE_SHIFT;
        let offset = pos as usize & (PAGE_SIZE - 1);
        let size = self.size();
        let page = match self.find(index) {
            Some(page) if page.flags() & flag::UPTODATE != 0 => page,
            Some(_) => self.get_page(index)?,
            None => {
                let page_start = pos - offset as u64;
                let fresh = offset == 0 && len == PAGE_SIZE;
                if self.backing().is_none() || fresh || page_start >= size {
                    return self.write_new_page(pos, offset, len, fresh, source, dirtied);
                }
                self.get_page(index)?
            }
        };
        self.reserve(&page, pos, len)?;
        let end = pos + len as u64;
        if end > size && self.was_mapped_writable() {
            let from = (size.max(pos - offset as u64) as usize & (PAGE_SIZE - 1)).min(offset);
            if size > pos - offset as u64 {
                page.zero(from..PAGE_SIZE);
            }
        }
        let count = page.from_source(offset, len, source)?;
        self.grow(pos + count as u64);
        *dirtied += usize::from(self.set_dirty(&page, index));
        crate::read::mark_accessed(&page);
        Ok(count)
    }

    /// A page nobody can find yet: filled first, entered then.
    fn write_new_page(
        &self,
        pos: u64,
        offset: usize,
        len: usize,
        whole: bool,
        source: &mut Source<'_>,
        dirtied: &mut usize,
    ) -> Result<usize> {
        let index = pos >> PAGE_SHIFT;
        let page = if whole {
            frames::alloc_page(frames::Flags::empty())?
        } else {
            frames::alloc_page(frames::Flags::ZERO)?
        };
        if let Some(backing) = self.backing() {
            backing.prepare_write(self, pos, len)?;
        }
        let mut count = page.from_source(offset, len, source)?;
        if whole && count < len {
            // The rest of the page would come from the file: let the slow path sort it out.
            source.revert(count);
            if self.find(index).is_none() && (index << PAGE_SHIFT) < self.size() {
                let page = self.get_page(index)?;
                count = page.from_source(offset, count, source)?;
                *dirtied += usize::from(self.set_dirty(&page, index));
                return Ok(count);
            }
            count = page.from_source(offset, count, source)?;
            page.zero(offset + count..PAGE_SIZE);
        }
        let kept = if self.backing().is_none() {
            flag::UPTODATE | flag::UNEVICTABLE | flag::DIRTY
        } else {
            flag::UPTODATE
        };
        page.set(kept);
        if self.insert(index, &page).is_err() {
            // A reader or a fault was faster: write into its page.
            page.clear(kept);
            source.revert(count);
            let page = self.get_page(index)?;
            let count = page.from_source(offset, count, source)?;
            self.grow(pos + count as u64);
            *dirtied += usize::from(self.set_dirty(&page, index));
            return Ok(count);
        }
        self.grow(pos + count as u64);
        *dirtied += usize::from(self.set_dirty(&page, index));
        Ok(count)
    }

    fn reserve(&self, page: &PageRef, pos: u64, len: usize) -> Result<()> {
        match self.backing() {
            Some(backing) if page.flags() & flag::DIRTY == 0 || self.may_be_unreserved() => {
                backing.prepare_write(self, pos, len)
            }
            _ => Ok(()),
        }
    }

    fn grow(&self, end: u64) {
        // The inode's lock makes this the only writer of the size. The size moves before the page
        // becomes dirty: write-back looks at the size after it has taken the dirty flag.
        if end > self.size() {
            self.set_size(end);
        }
    }

    /// The file is about to grow beyond the page its end is in: what lies between its end and the
    /// end of that page becomes readable and must be zeros.
    pub(crate) fn zero_tail(&self, new_size: u64) -> Result<()> {
        let size = self.size();
        let offset = size as usize & (PAGE_SIZE - 1);
        if offset == 0 || new_size <= size {
            return Ok(());
        }
        let index = size >> PAGE_SHIFT;
        let page = match self.find(index) {
            Some(page) if page.flags() & flag::UPTODATE != 0 && !self.was_mapped_writable() => {
                return Ok(());
            }
            Some(page) if page.flags() & flag::UPTODATE != 0 => page,
            None if self.backing().is_none() => return Ok(()),
            // Reading zeroes what is behind the end.
            _ => self.get_page(index)?,
        };
        page.zero(offset..PAGE_SIZE);
        self.set_dirty_unreserved(&page, index);
        Ok(())
    }

    /// Notes that the page was changed; the space for it is reserved. Whether it was clean before.
    #[inline]
    pub fn set_dirty(&self, page: &PageRef, index: u64) -> bool {
        if page.flags() & flag::DIRTY != 0 {
            return false;
        }
        self.set_dirty_slow(page, index)
    }

    fn set_dirty_slow(&self, page: &PageRef, index: u64) -> bool {
        if self.backing().is_none() {
            page.set(flag::DIRTY);
            return false;
        }
        let fresh = self.with_writer(|tree| {
            if !self.owns(index, page) || page.set(flag::DIRTY) & flag::DIRTY != 0 {
                return false;
            }
            tree.set_mark(index, Mark::Dirty);
            true
        });
        if fresh {
            stats::add(Counter::Dirty, 1);
            stats::add(Counter::Dirtied, 1);
            self.note_dirty();
        }
        fresh
    }

    /// Pages came back from write-back unwritten.
    pub(crate) fn redirty(&self, page: &PageRef, index: u64) {
        self.set_dirty(page, index);
    }

    /// A write fault on a shared map of page `index`: reserves space, marks the page dirty and
    /// returns it. The caller holds [`Mapping::fault_guard`] and then makes its translation
    /// writable.
    pub fn make_writable(&self, index: u64) -> Result<PageRef> {
        self.note_mapped_writable();
        let page = self.get_page(index)?;
        page::lock(&page);
        let size = self.size();
        let start = index << PAGE_SHIFT;
        if !self.owns(index, &page) || start >= size {
            page::unlock(&page);
            return Err(Errno::EFAULT);
        }
        let len = (size - start).min(PAGE_SIZE as u64) as usize;
        let reserved = self.reserve(&page, start, len);
        if reserved.is_ok() {
            self.set_dirty(&page, index);
        }
        page::unlock(&page);
        reserved?;
        writeback::balance(self, 1);
        Ok(page)
    }
}
