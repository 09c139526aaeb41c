//! Direct I/O: transfers between the device and a program's memory, past the cache.
//!
//! A transfer is started while the inode is locked, shared for a read and exclusively for a write, and
//! ends on its own. Whoever takes blocks from the file waits, with the lock held exclusively, until none
//! is under way ([`Node::wait_direct`]). Writes go to blocks that the file has; those that are not
//! written yet say so when the data is there, which takes an operation and so a thread. What needs more
//! (holes, growth, parts of unwritten blocks, journaled data) is left to the cache.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::{Errno, Result};
use block::{Bio, Op, SECTOR_SHIFT};
use pagecache::Mapping;
use sched::IoWait;
use vfs::{DirectIo, Direction, File, PagePiece};

use crate::data::Loose;
use crate::node::Node;

/// A transfer under way.
struct Transfer {
    left: AtomicUsize,
    failed: AtomicBool,
    end: spin::Mutex<Option<End>>,
}

/// What comes when all of it has ended.
struct End {
    node: Arc<Node>,
    len: usize,
    done: Box<dyn FnOnce(Result<usize>) + Send>,
    /// Blocks that are written from then on.
    unwritten: Option<(u32, u32)>,
    /// The bytes `first..end`, if it writes: the cache may have read them meanwhile.
    written: Option<(u64, u64)>,
    loose: Option<Loose>,
}

impl End {
    fn run(self, result: Result<()>) {
        let mapping = self.node.me.upgrade().and_then(|inode| inode.mapping().cloned());
        let is_cached = mapping.is_some_and(|mapping| mapping.cached_pages() != 0);
        if result.is_ok() && (self.unwritten.is_some() || self.written.is_some() && is_cached) {
            // Takes locks.
            return sched::work::queue(move || {
                let result = self.settle();
                self.tell(result);
            });
        }
        self.tell(result);
    }

    /// Says in the file that blocks are written, and drops what the cache has of them.
    fn settle(&self) -> Result<()> {
        if let Some((first, end)) = self.unwritten {
            self.node.mark_written(first, end)?;
        }
        let inode = self.node.me.upgrade().ok_or(Errno::EIO)?;
        if let (Some((first, end)), Some(mapping)) = (self.written, inode.mapping()) {
            drop_read(mapping, first, end);
        }
        Ok(())
    }

    fn tell(self, result: Result<()>) {
        let End { node, len, done, loose, .. } = self;
        drop(loose);
        node.direct_ended();
        // Before whoever waits may close the file, and this would be the last one to hold it.
        drop(node);
        done(result.map(|()| len));
    }
}

/// Drops what the cache read of bytes `first..end` while they were written: pages that are mapped too, and
/// those that are just being read. Not what programs have written since.
fn drop_read(mapping: &Mapping, first: u64, end: u64) {
    let (first, last) = (first >> 12, end.saturating_sub(1) >> 12);
    if mapping.invalidate(first, last).is_err() {
        mapping.drop_clean(first, last);
    }
}

impl Transfer {
    fn part_done(&self, result: Result<()>) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        // AcqRel: the last part sees the others' failures.
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let end = self.end.lock().take();
        if let Some(end) = end {
            let failed = self.failed.load(Ordering::Relaxed);
            end.run(if failed { Err(Errno::EIO) } else { Ok(()) });
        }
    }
}

/// A stretch of a transfer: its length, and its first byte on the device; `None` in a hole.
struct Stretch {
    len: u64,
    at: Option<u64>,
}

/// Hands out memory in the order of a file's bytes.
struct Memory<'a> {
    pieces: &'a [PagePiece],
    index: usize,
    used: u32,
}

impl Memory<'_> {
    /// The next piece of at most `limit` bytes.
    fn next(&mut self, limit: u64) -> Option<PagePiece> {
        let piece = self.pieces.get(self.index)?;
        let len = u64::from(piece.len - self.used).min(limit) as u32;
        let part = PagePiece { page: piece.page.clone(), offset: piece.offset + self.used, len };
        self.used += len;
        if self.used == piece.len {
            (self.index, self.used) = (self.index + 1, 0);
        }
        Some(part)
    }
}

impl Node {
    /// Waits until no direct transfer is under way. The inode is locked exclusively: none begins.
    pub(crate) fn wait_direct(&self) {
        if self.direct.load(Ordering::Acquire) == 0 {
            return;
        }
        let _waiting = IoWait::begin();
        let is_over = || (self.direct.load(Ordering::Acquire) == 0).then_some(());
        self.fs.direct_ended.wait(is_over);
    }

    fn direct_ended(&self) {
        if self.direct.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.fs.direct_ended.wake_all();
        }
    }

    /// Says that unwritten blocks among `first..end` have data.
    fn mark_written(&self, first: u32, end: u32) -> Result<()> {
        self.fs.transact(self.map_credits(), |_| {
            let mut state = self.state.lock();
            if !state.map.has_unwritten(first, end) {
                return Ok(());
            }
            self.prepare_map(&mut state, 2)?;
            let result = match state.map.mark_written(first, end) {
                true => self.map_changed(&mut state),
                false => Ok(()),
            };
            drop(state);
            self.changed();
            result
        })
    }

    /// Where bytes `pos..end` are, and whether some of their blocks are unwritten; `None` if a write has
    /// to go another way.
    fn stretches(&self, pos: u64, end: u64, direction: Direction) -> Option<(Vec<Stretch>, bool)> {
        let size = self.fs.sb.block_size as u64;
        let state = self.state.lock();
        let (mut list, mut has_unwritten, mut at) = (Vec::new(), false, pos);
        while at < end {
            let block = u32::try_from(at / size).ok()?;
            let (stop, place) = match state.map.find(block) {
                Ok(extent) => {
                    let start = extent.physical + u64::from(block - extent.logical);
                    let readable = !extent.unwritten || direction == Direction::Write;
                    has_unwritten |= extent.unwritten;
                    (extent.end(), readable.then_some(start * size + at % size))
                }
                Err(_) if direction == Direction::Write => return None,
                Err(next) => (next.unwrap_or(u32::MAX), None),
            };
            let stop = (u64::from(stop) * size).min(end);
            if stop <= at {
                // Behind the last block that a file can have.
                return None;
            }
            list.push(Stretch { len: stop - at, at: place });
            at = stop;
        }
        let is_whole = pos.is_multiple_of(size) && end.is_multiple_of(size);
        if has_unwritten && direction == Direction::Write && !is_whole {
            return None;
        }
        Some((list, has_unwritten))
    }
}

/// See [`vfs::FileOps::start_direct`].
pub(crate) fn start(file: &File, io: DirectIo) -> core::result::Result<(), DirectIo> {
    let inode = file.inode();
    let (Ok(node), Some(mapping)) = (crate::file::node(file), inode.mapping()) else {
        return Err(io);
    };
    let fs = &node.fs;
    let unit = u64::from(fs.device.block_size().max(512));
    if !io.is_aligned(unit) {
        (io.done)(Err(Errno::EINVAL));
        return Ok(());
    }
    let size = inode.size();
    let is_write = io.direction == Direction::Write;
    let wanted = io.pos.saturating_add(io.len() as u64);
    if !is_write && io.pos >= size {
        (io.done)(Ok(0));
        return Ok(());
    }
    let end = wanted.min(size.next_multiple_of(unit));
    let Some(me) = node.strong() else { return Err(io) };
    if node.logs_data()
        || fs.has_logged_data.load(Ordering::Acquire)
        || fs.sealed.load(Ordering::Relaxed)
    {
        return Err(io);
    }
    // What the cache has of these bytes comes first, and is not to be read any more after a write.
    if mapping.prepare_direct(io.pos, end, is_write).is_err() {
        return Err(io);
    }
    let Some((stretches, has_unwritten)) = node.stretches(io.pos, end, io.direction) else {
        return Err(io);
    };
    let DirectIo { pos, pieces, done, .. } = io;
    node.direct.fetch_add(1, Ordering::AcqRel);
    let block = |at: u64| (at / fs.sb.block_size as u64) as u32;
    let transfer = Arc::new(Transfer {
        left: AtomicUsize::new(1),
        failed: AtomicBool::new(false),
        end: spin::Mutex::new(Some(End {
            len: (end.min(size.max(if is_write { end } else { 0 })) - pos) as usize,
            done,
            unwritten: (is_write && has_unwritten).then(|| (block(pos), block(end))),
            written: is_write.then_some((pos, end)),
            loose: is_write.then(|| Loose::new(&me)),
            node: me,
        })),
    });
    let mut memory = Memory { pieces: &pieces, index: 0, used: 0 };
    for stretch in stretches {
        submit(fs, &transfer, io.direction, &stretch, &mut memory);
    }
    transfer.part_done(Ok(()));
    Ok(())
}

/// Starts one stretch, or fills it with zeros.
fn submit(
    fs: &crate::fs::Ext4,
    transfer: &Arc<Transfer>,
    direction: Direction,
    stretch: &Stretch,
    memory: &mut Memory<'_>,
) {
    let op = if direction == Direction::Read { Op::Read } else { Op::Write };
    let mut left = stretch.len;
    let mut bio = stretch.at.map(|at| {
        transfer.left.fetch_add(1, Ordering::Relaxed);
        let told = transfer.clone();
        let bio = Bio::new(op, at >> SECTOR_SHIFT, move |result| told.part_done(result));
        bio.with_flags(block::BioFlags::SYNC)
    });
    while left > 0 {
        let Some(part) = memory.next(left) else { break };
        left -= u64::from(part.len);
        match &mut bio {
            Some(bio) => bio.push(part.page, part.offset, part.len),
            None => {
                let from = part.offset as usize;
                part.page.zero(from..from + part.len as usize);
            }
        }
    }
    if let Some(bio) = bio {
        fs.device.submit(bio);
    }
}
