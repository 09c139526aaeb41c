//! File data that goes through the journal: all of it with `data=journal`, else that of files with the
//! flag (`chattr +j`).
//!
//! A write hands its pages to the running transaction before it returns, as blocks like those of
//! metadata, together with the map they changed: what a transaction has of a file is what programs
//! had written when it was taken. The pages are clean from then on, and since the blocks get to their
//! places only with a checkpoint, whoever reads a page that was dropped looks among the buffers first: a
//! block that is in the log and not in its place is always there.
//!
//! A file's length on the disk does not pass a write whose data is not in the transaction yet.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use arch::addr::PAGE_SIZE;
use frames::PageRef;
use pagecache::{Mapping, WriteRun};
use vfs::{FileKind, Inode};

use crate::commit::Handle;
use crate::data::{FileBacking, Piece};
use crate::node::{Node, flags};

/// Blocks of data in one operation at most.
const PART: u32 = 256;

impl Node {
    /// Whether the file's data is journaled.
    #[inline]
    pub(crate) fn logs_data(&self) -> bool {
        self.logs_data.load(Ordering::Relaxed)
    }

    /// Finds out anew whether it is; `raw_flags` are the inode's.
    pub(crate) fn set_logging(&self, kind: FileKind, raw_flags: u32) {
        let wanted = self.fs.journals_all_data() || raw_flags & flags::JOURNAL_DATA != 0;
        let logs = kind == FileKind::Regular && wanted && self.fs.journal.is_some();
        self.logs_data.store(logs, Ordering::Relaxed);
    }

    /// A write is about to begin: until [`Node::after_write`] the disk is not told of a length beyond
    /// what it is now. The inode is locked.
    pub(crate) fn before_write(&self, inode: &Inode) {
        if self.logs_data() {
            self.state.lock().held_size = Some(inode.size());
        }
    }

    /// Bytes `pos..end` were written to the cache, or nothing was. The inode is locked.
    pub(crate) fn after_write(&self, mapping: &Mapping, pos: u64, end: u64) {
        let last = end.saturating_sub(1).max(pos);
        if self.logs_data() {
            if end > pos {
                hand_over(mapping, pos, last);
            }
            self.state.lock().held_size = None;
        } else if end > pos && !self.fs.delays() {
            self.allocate_now(mapping, pos, last);
        }
    }

    /// The file was cut to `size` bytes: the zeros behind them are in the transaction before anything that
    /// makes it longer is.
    pub(crate) fn log_end(&self, mapping: &Mapping, size: u64) {
        if self.logs_data() && !size.is_multiple_of(PAGE_SIZE as u64) {
            hand_over(mapping, size, size);
        }
    }

    /// Blocks for bytes `pos..=last` at once (`nodelalloc`): unwritten, where the file can say so, until
    /// the data is there.
    fn allocate_now(&self, mapping: &Mapping, pos: u64, last: u64) {
        let size = self.fs.sb.block_size as u64;
        let block = |at: u64| (at / size).min(u64::from(u32::MAX)) as u32;
        let (first, end) = (block(pos), block(last).saturating_add(1));
        let state = self.state.lock();
        if state.delayed.range(first..end).next().is_none() {
            return;
        }
        let has_extents = state.flags & flags::EXTENTS != 0;
        drop(state);
        if !has_extents {
            return mapping.start_writeback(pos, last);
        }
        if let Err(error) = self.fulfil(first, end) {
            // The promise stands: the blocks are found when the data is written.
            log::debug!("ext4: inode {}: blocks stay delayed: {error}", self.ino);
        }
    }

    /// Whether a write-out that begins now has to wait for data that no transaction waits for.
    pub(crate) fn has_loose_writes(&self) -> bool {
        self.loose_writes.load(Ordering::Acquire) != 0
    }
}

/// Hands the dirty pages with bytes `pos..=last` to the running transaction.
fn hand_over(mapping: &Mapping, pos: u64, last: u64) {
    mapping.start_writeback(pos, last);
    if mapping.has_writeback_starting() {
        // Another may have taken some of them.
        mapping.wait_writeback(pos, last);
    }
}

impl FileBacking {
    /// Hands the pages of a run, up to block `end`, to the running transaction.
    pub(crate) fn log(&self, run: WriteRun, first: u32, end: u32) {
        let result = self.log_blocks(run.pages(), first, end);
        if let Err(error) = result {
            log::error!("ext4: inode {}: cannot journal: {error}; data lost", self.node.ino);
        }
        run.complete(result);
    }

    fn log_blocks(&self, pages: &[PageRef], first: u32, end: u32) -> Result<()> {
        let fs = &self.node.fs;
        // Readers look among the buffers from here on.
        fs.has_logged_data.store(true, Ordering::Release);
        let step = (fs.operation_limit() / 2).clamp(1, PART);
        let mut at = first;
        while at < end {
            let stop = at.saturating_add(step).min(end);
            let credits = self.node.map_credits() + (stop - at);
            fs.transact(credits, |handle| self.log_part(handle, pages, first, at..stop))?;
            at = stop;
        }
        Ok(())
    }

    /// Allocates what was promised for the blocks, and puts their data beside it. In an operation.
    fn log_part(
        &self,
        handle: &Handle<'_>,
        pages: &[PageRef],
        first: u32,
        blocks: Range<u32>,
    ) -> Result<()> {
        let (node, size) = (&self.node, self.block_size());
        let pieces = self.settle(blocks.start, blocks.end)?;
        let base = (blocks.start - first) as usize * size;
        for Piece { offset, len, physical } in pieces {
            for (number, at) in (base + offset..base + offset + len).step_by(size).enumerate() {
                let page = pages.get(at / PAGE_SIZE).ok_or(Errno::EIO)?;
                node.fs.buffers.put(physical + number as u64, |block| {
                    page.copy_out(at % PAGE_SIZE, block);
                });
            }
        }
        node.data_logged(handle.transaction);
        Ok(())
    }

    /// Whether the log may have older data of one of the blocks.
    pub(crate) fn has_logged(&self, pieces: &[Piece]) -> bool {
        let fs = &self.node.fs;
        let blocks = |piece: &Piece| {
            let count = (piece.len / self.block_size()) as u64;
            piece.physical..piece.physical + count
        };
        fs.has_logged_data.load(Ordering::Acquire)
            && pieces.iter().flat_map(blocks).any(|block| fs.buffers.known(block).is_some())
    }

    /// Takes from the pages' pieces those that are in memory because their places have older data.
    pub(crate) fn find_logged(&self, pages: &[PageRef], pieces: &mut Vec<Piece>) {
        if !self.node.fs.has_logged_data.load(Ordering::Acquire) {
            return;
        }
        let (size, buffers) = (self.block_size(), &self.node.fs.buffers);
        let mut rest = Vec::new();
        for piece in pieces.drain(..) {
            let mut open: Option<Piece> = None;
            for number in 0..piece.len / size {
                let at = piece.offset + number * size;
                let physical = piece.physical + number as u64;
                if let Some(buffer) = buffers.known(physical) {
                    rest.extend(open.take());
                    if let Some(page) = pages.get(at / PAGE_SIZE) {
                        buffer.read(|block| page.copy_in(at % PAGE_SIZE, block));
                    }
                    continue;
                }
                match &mut open {
                    Some(piece) => piece.len += size,
                    None => open = Some(Piece { offset: at, len: size, physical }),
                }
            }
            rest.extend(open);
        }
        *pieces = rest;
    }
}
