//! `fallocate(2)`: space without data, holes, and ranges that come or go.

use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::File;

use crate::commit::BLOCKS;
use crate::extents::Extent;
use crate::file::node;
use crate::node::{Node, flags};

const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const COLLAPSE_RANGE: u32 = 8;
const ZERO_RANGE: u32 = 0x10;
const INSERT_RANGE: u32 = 0x20;

impl Node {
    /// See the man page; modes that Linux knows and this does not give `EOPNOTSUPP`.
    pub(crate) fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let size = self.fs.sb.block_size as u64;
        // Without extents there is no way to say that a block is not written yet.
        if self.state.lock().flags & flags::EXTENTS == 0 && mode != PUNCH_HOLE | KEEP_SIZE {
            return Err(Errno::EOPNOTSUPP);
        }
        let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
        self.wait_direct();
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        if end > file.inode().sb().max_file_size {
            return Err(Errno::EFBIG);
        }
        let (first, last) = (offset.div_ceil(size) as u32, (end / size) as u32);
        match mode {
            0 | KEEP_SIZE => {
                self.preallocate((offset / size) as u32, end.div_ceil(size) as u32)?;
            }
            _ if mode == PUNCH_HOLE | KEEP_SIZE => {
                mapping.punch(offset, end)?;
                mapping.write_and_wait(offset, end)?;
                if first < last {
                    self.free_range(first, last)?;
                }
                return self.touched(file);
            }
            COLLAPSE_RANGE => return collapse(file, offset, len),
            INSERT_RANGE => return insert(file, offset, len),
            _ if mode & !KEEP_SIZE == ZERO_RANGE => {
                mapping.punch(offset, end)?;
                mapping.write_and_wait(offset, end)?;
                if first < last {
                    self.zero_range(first, last)?;
                }
                self.preallocate((offset / size) as u32, end.div_ceil(size) as u32)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        if mode & KEEP_SIZE == 0 && end > mapping.size() {
            mapping.truncate(end)?;
        }
        self.touched(file)
    }

    fn touched(&self, file: &File) -> Result<()> {
        let _handle = self.fs.begin(BLOCKS)?;
        file.inode().touch(vfs::Time::now());
        self.changed();
        Ok(())
    }

    /// Makes file blocks read as zeros without giving up their space. Their pages are gone.
    fn zero_range(&self, first: u32, end: u32) -> Result<()> {
        self.fs.transact(self.map_credits(), |_| {
            let mut state = self.state.lock();
            // One in the middle of another makes three, and one of full length two.
            self.prepare_map(&mut state, 4)?;
            let promised: Vec<u32> = state.delayed.range(first..end).copied().collect();
            for block in &promised {
                state.delayed.remove(block);
            }
            self.fs.alloc.unreserve(promised.len() as u64);
            let result = match state.map.mark_unwritten(first, end) {
                true => self.map_changed(&mut state),
                false => Ok(()),
            };
            drop(state);
            self.changed();
            result
        })
    }

    /// Allocates unwritten blocks where there are none, a run in each operation.
    pub(crate) fn preallocate(&self, first: u32, end: u32) -> Result<()> {
        let mut block = first;
        while block < end {
            block = self.fs.transact(self.map_credits(), |_| self.take_unwritten(block, end))?;
        }
        Ok(())
    }

    /// Turns promises for `first..end` into unwritten blocks.
    pub(crate) fn fulfil(&self, first: u32, end: u32) -> Result<()> {
        let mut block = first;
        while block < end {
            block = self.fs.transact(self.map_credits(), |_| self.fulfil_one(block, end))?;
        }
        Ok(())
    }

    /// The same for the first run of them; returns where to go on. In an operation.
    fn fulfil_one(&self, first: u32, end: u32) -> Result<u32> {
        let fs = &self.fs;
        let mut state = self.state.lock();
        let Some(block) = state.delayed.range(first..end).next().copied() else { return Ok(end) };
        let promised = state.delayed.range(block..end).zip(block..).take_while(|(a, b)| **a == *b);
        let want = (promised.count() as u32).min(32767);
        let goal = state.map.goal(block).unwrap_or(0);
        let (physical, len) = fs.alloc.take_blocks(&fs.sb, &fs.buffers, goal, want)?;
        self.add_extent(&mut state, Extent { logical: block, len, physical, unwritten: true })?;
        for taken in block..block + len {
            state.delayed.remove(&taken);
        }
        fs.alloc.unreserve(len.into());
        self.count_blocks(&state);
        drop(state);
        self.changed();
        Ok(block + len)
    }

    /// Allocates a run of unwritten blocks; returns where to go on. In an operation.
    fn take_unwritten(&self, first: u32, end: u32) -> Result<u32> {
        let fs = &self.fs;
        let mut state = self.state.lock();
        let mut block = first;
        while block < end {
            let stop = match state.map.find(block) {
                Ok(extent) => {
                    block = extent.end();
                    continue;
                }
                Err(next) => next.unwrap_or(end).min(end),
            };
            if state.delayed.contains(&block) {
                block += 1;
                continue;
            }
            let stop = state.delayed.range(block..stop).next().copied().unwrap_or(stop);
            let want = (stop - block).min(32767);
            if fs.alloc.available() <= u64::from(want) {
                return Err(Errno::ENOSPC);
            }
            let goal = state.map.goal(block).unwrap_or(0);
            let (physical, len) = fs.alloc.take_blocks(&fs.sb, &fs.buffers, goal, want)?;
            let extent = Extent { logical: block, len, physical, unwritten: true };
            self.add_extent(&mut state, extent)?;
            self.count_blocks(&state);
            drop(state);
            self.changed();
            return Ok(block + len);
        }
        Ok(block)
    }

    /// Changes the map and, to `size` bytes, the length in one operation.
    fn shift(
        &self,
        file: &File,
        size: u64,
        change: impl Fn(&mut crate::extents::BlockMap),
    ) -> Result<()> {
        let inode = file.inode();
        let mapping = inode.mapping().ok_or(Errno::EIO)?;
        self.fs.transact(self.map_credits(), |_| {
            let mut state = self.state.lock();
            self.prepare_map(&mut state, 1)?;
            change(&mut state.map);
            let result = self.map_changed(&mut state);
            mapping.set_size(size);
            // All that is left has blocks or is a hole.
            state.disk_size = size;
            drop(state);
            inode.touch(vfs::Time::now());
            self.changed();
            result
        })
    }
}

/// The first and the count of the blocks that a shifting `fallocate` names.
fn shifted(file: &File, offset: u64, len: u64) -> Result<(u32, u32)> {
    let size = node(file)?.fs.sb.block_size as u64;
    if !offset.is_multiple_of(size) || !len.is_multiple_of(size) {
        return Err(Errno::EINVAL);
    }
    let block = |bytes: u64| u32::try_from(bytes / size).map_err(|_| Errno::EFBIG);
    Ok((block(offset)?, block(len)?))
}

/// Writes out and drops the pages from `offset` on: their blocks are about to move.
fn settle(file: &File, offset: u64) -> Result<()> {
    let mapping = file.inode().mapping().ok_or(Errno::EIO)?;
    let start = offset & !4095;
    loop {
        mapping.write_and_wait(start, i64::MAX as u64)?;
        match mapping.invalidate(start >> 12, i64::MAX as u64 >> 12) {
            // A mapping of the file wrote to a page in between.
            Err(Errno::EBUSY) => {}
            outcome => return outcome,
        }
    }
}

/// `FALLOC_FL_COLLAPSE_RANGE`: takes a range out of the file.
fn collapse(file: &File, offset: u64, len: u64) -> Result<()> {
    let (first, count) = shifted(file, offset, len)?;
    let (inode, node) = (file.inode(), node(file)?);
    let mapping = inode.mapping().ok_or(Errno::EIO)?;
    // man 2 fallocate: a range that reaches the end is a truncation.
    if offset + len >= mapping.size() {
        return Err(Errno::EINVAL);
    }
    settle(file, offset)?;
    node.free_range(first, first + count)?;
    node.shift(file, mapping.size() - len, |map| map.close_gap(first, first + count))
}

/// `FALLOC_FL_INSERT_RANGE`: makes a hole, moving what is behind.
fn insert(file: &File, offset: u64, len: u64) -> Result<()> {
    let (first, count) = shifted(file, offset, len)?;
    let (inode, node) = (file.inode(), node(file)?);
    let mapping = inode.mapping().ok_or(Errno::EIO)?;
    let size = mapping.size();
    if offset >= size {
        return Err(Errno::EINVAL);
    }
    if size.saturating_add(len) > inode.sb().max_file_size {
        return Err(Errno::EFBIG);
    }
    settle(file, offset)?;
    let last = node.state.lock().map.extents.last().map_or(0, Extent::end);
    if last.checked_add(count).is_none() {
        return Err(Errno::EFBIG);
    }
    node.shift(file, size + len, |map| map.open_gap(first, count))
}
