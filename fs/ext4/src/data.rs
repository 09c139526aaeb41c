//! File data: between pages and blocks. Space is promised when a page becomes dirty and allocated,
//! in long runs, when it is written back. The transaction that hands blocks to a file waits for their
//! data, so that a crash does not show what was in them before.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use block::{Bio, BioFlags, Op, SECTOR_SHIFT};
use pagecache::{Backing, Flusher, Mapping, Owner, ReadRun, WriteRun};

use crate::commit::{Handle, Ordered};
use crate::extents::Extent;
use crate::indirect;
use crate::node::{Node, State, flags};

/// The backing of a regular file.
pub(crate) struct FileBacking {
    pub(crate) node: Arc<Node>,
}

/// A transfer of several bios that ends as one.
struct Joint<R> {
    left: AtomicUsize,
    failed: AtomicUsize,
    run: spin::Mutex<Option<(R, Hold)>>,
    end: fn(R, Result<()>),
}

impl<R> Joint<R> {
    fn part_done(&self, result: Result<()>) {
        if let Err(error) = result {
            self.failed.store(error.raw() as usize, Ordering::Relaxed);
        }
        // AcqRel: the last part sees the others' errors.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let run = self.run.lock().take();
            if let Some((run, hold)) = run {
                let outcome = match self.failed.load(Ordering::Relaxed) {
                    0 => Ok(()),
                    error => Err(Errno::from_raw(error as i32)),
                };
                if let (Err(_), Hold::Ordered(ordered)) = (outcome, &hold) {
                    ordered.failed();
                }
                // Before the pages say that they are written: what then has to be flushed is known.
                drop(hold);
                (self.end)(run, outcome);
            }
        }
    }
}

/// Who waits for a transfer besides those who wait for its pages.
enum Hold {
    /// Nobody, for a read.
    Nobody,
    /// A transaction.
    Ordered(Ordered),
    /// No transaction: `fsync` looks after it itself.
    Loose { _write: Loose },
}

/// A write under way that no transaction waits for.
pub(crate) struct Loose(Arc<Node>);

impl Loose {
    pub(crate) fn new(node: &Arc<Node>) -> Loose {
        node.loose_writes.fetch_add(1, Ordering::AcqRel);
        Loose(node.clone())
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        if let Some(journal) = &self.0.fs.journal {
            self.0.flush_needed.fetch_max(journal.flushes.next(), Ordering::AcqRel);
        }
        self.0.loose_writes.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where the pieces of a run are written, and who waits for that.
type Placed = (Vec<Piece>, Option<Ordered>);

/// A piece of a transfer: `len` bytes at `offset` from the run's start, at a device block.
pub(crate) struct Piece {
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) physical: u64,
}

impl FileBacking {
    pub(crate) fn new(node: Arc<Node>) -> FileBacking {
        FileBacking { node }
    }

    pub(crate) fn block_size(&self) -> usize {
        self.node.fs.sb.block_size
    }

    /// Starts bios for the pieces (one bio per device-contiguous stretch) and ends the run after
    /// the last.
    fn submit<R: Send + 'static>(
        &self,
        op: Op,
        flags: BioFlags,
        (run, hold): (R, Hold),
        pages: &[frames::PageRef],
        pieces: &[Piece],
        end: fn(R, Result<()>),
    ) {
        let device = &self.node.fs.device;
        let joint = Arc::new(Joint {
            left: AtomicUsize::new(1),
            failed: AtomicUsize::new(0),
            run: spin::Mutex::new(Some((run, hold))),
            end,
        });
        let mut at = 0;
        while let Some(first) = pieces.get(at) {
            joint.left.fetch_add(1, Ordering::Relaxed);
            let part = joint.clone();
            let sector = (first.physical * self.block_size() as u64) >> SECTOR_SHIFT;
            let mut bio = Bio::new(op, sector, move |result| part.part_done(result));
            bio.flags |= flags;
            let mut next = sector;
            while let Some(piece) = pieces.get(at) {
                if (piece.physical * self.block_size() as u64) >> SECTOR_SHIFT != next {
                    break;
                }
                let mut offset = piece.offset;
                let stop = piece.offset + piece.len;
                while offset < stop {
                    let in_page = offset % PAGE_SIZE;
                    let len = (PAGE_SIZE - in_page).min(stop - offset);
                    if let Some(page) = pages.get(offset / PAGE_SIZE) {
                        bio.push(page.clone(), in_page as u32, len as u32);
                    }
                    offset += len;
                }
                next += (piece.len >> SECTOR_SHIFT) as u64;
                at += 1;
            }
            device.submit(bio);
        }
        joint.part_done(Ok(()));
    }

    /// Where the file blocks `first..end` go: allocates what was promised for them.
    fn place(&self, first: u32, end: u32) -> Result<Placed> {
        let node = &self.node;
        {
            let state = node.state.lock();
            let is_settled = state.delayed.range(first..end).next().is_none()
                && !state.map.has_unwritten(first, end);
            if is_settled {
                return Ok((self.pieces(&state, first, end), None));
            }
        }
        let credits = node.map_credits();
        node.fs.transact(credits, |handle| self.place_anew(handle, first, end))
    }

    /// The same for blocks that change hands. In an operation.
    fn place_anew(&self, handle: &Handle<'_>, first: u32, end: u32) -> Result<Placed> {
        let pieces = self.settle(first, end)?;
        Ok((pieces, self.node.fs.order(handle)))
    }

    /// Gives `first..end` the blocks they were promised, and says that those have data. In an
    /// operation.
    pub(crate) fn settle(&self, first: u32, end: u32) -> Result<Vec<Piece>> {
        let node = &self.node;
        let mut state = node.state.lock();
        let mut taken = Vec::new();
        let mut result = self.allocate(&mut state, first, end, &mut taken);
        if result.is_ok() && state.map.has_unwritten(first, end) {
            result = node.prepare_map(&mut state, 2);
        }
        if result.is_err() {
            self.give_back(&mut state, &taken)?;
        } else if state.map.mark_written(first, end) {
            result = node.map_changed(&mut state);
        }
        node.count_blocks(&state);
        let pieces = self.pieces(&state, first, end);
        if let Some(inode) = node.me.upgrade() {
            // The length that goes with them: at the commit the file may be about to be cut.
            node.length_for_disk(&mut state, inode.size());
        }
        drop(state);
        node.changed();
        result.map(|()| pieces)
    }

    /// Undoes [`FileBacking::allocate`]: blocks without data are not to be committed.
    fn give_back(&self, state: &mut State, taken: &[Extent]) -> Result<()> {
        let fs = &self.node.fs;
        for extent in taken {
            state.map.remove(extent.logical, extent.end());
            state.delayed.extend(extent.logical..extent.end());
            fs.alloc.renew(extent.len.into());
            let len = extent.len.into();
            fs.alloc.give_blocks(&fs.sb, &fs.buffers, extent.physical, len)?;
        }
        self.node.map_changed(state)
    }

    /// The parts of `first..end` that have blocks.
    fn pieces(&self, state: &State, first: u32, end: u32) -> Vec<Piece> {
        let size = self.block_size();
        let mut pieces = Vec::new();
        let mut block = first;
        while block < end {
            match state.map.find(block) {
                Ok(extent) => {
                    let len = extent.end().min(end) - block;
                    pieces.push(Piece {
                        offset: (block - first) as usize * size,
                        len: len as usize * size,
                        physical: extent.physical + u64::from(block - extent.logical),
                    });
                    block += len;
                }
                Err(next) => block = next.unwrap_or(end).min(end),
            }
        }
        pieces
    }

    /// Allocates what was promised for `first..end`, and adds it to `taken`. In an operation.
    fn allocate(
        &self,
        state: &mut State,
        first: u32,
        end: u32,
        taken: &mut Vec<Extent>,
    ) -> Result<()> {
        let fs = &self.node.fs;
        let group = (self.node.ino - 1) / fs.sb.inodes_per_group;
        loop {
            let Some(start) = state.delayed.range(first..end).next().copied() else {
                return Ok(());
            };
            let mut stop = start;
            while stop < end && state.delayed.contains(&stop) {
                stop += 1;
            }
            let goal = state.map.goal(start).unwrap_or_else(|| fs.sb.group_start(group));
            let want = (stop - start).min(32767);
            let (physical, len) = fs.alloc.take_blocks(&fs.sb, &fs.buffers, goal, want)?;
            let extent = Extent { logical: start, len, physical, unwritten: false };
            self.node.add_extent(state, extent)?;
            for block in start..start + len {
                state.delayed.remove(&block);
            }
            fs.alloc.unreserve(len.into());
            taken.push(extent);
        }
    }
}

impl Backing for FileBacking {
    fn read(&self, run: ReadRun) {
        let size = self.block_size();
        let per_page = PAGE_SIZE / size;
        let pages: Vec<_> = run.pages().to_vec();
        let Ok(first) = u32::try_from(run.first() * per_page as u64) else {
            for page in &pages {
                page.zero(0..PAGE_SIZE);
            }
            return run.complete(Ok(()));
        };
        let total = (pages.len() * per_page) as u32;
        let mut pieces: Vec<Piece> = Vec::new();
        let state = self.node.state.lock();
        let mut block = first;
        let end = first.saturating_add(total);
        while block < end {
            let (len, physical) = match state.map.find(block) {
                Ok(extent) => {
                    let len = extent.end().min(end) - block;
                    let at = extent.physical + u64::from(block - extent.logical);
                    (len, (!extent.unwritten).then_some(at))
                }
                Err(next) => (next.unwrap_or(end).min(end) - block, None),
            };
            let (offset, bytes) = ((block - first) as usize * size, len as usize * size);
            match physical {
                Some(physical) => pieces.push(Piece { offset, len: bytes, physical }),
                None => zero(&pages, offset, bytes),
            }
            block += len;
        }
        drop(state);
        self.find_logged(&pages, &mut pieces);
        if pieces.is_empty() {
            return run.complete(Ok(()));
        }
        let run = (run, Hold::Nobody);
        self.submit(Op::Read, BioFlags::empty(), run, &pages, &pieces, ReadRun::complete);
    }

    fn write(&self, run: WriteRun) {
        let size = self.block_size();
        let per_page = PAGE_SIZE / size;
        let pages: Vec<_> = run.pages().to_vec();
        let length = run.mapping().size().div_ceil(size as u64);
        let first = (run.first() * per_page as u64).min(u64::from(u32::MAX)) as u32;
        let end = (u64::from(first) + (pages.len() * per_page) as u64).min(length) as u32;
        // The file was cut while its pages waited to be written: there is nothing to write any more.
        if end <= first {
            return run.complete(Ok(()));
        }
        if self.node.logs_data() {
            return self.log(run, first, end);
        }
        let (pieces, ordered) = match self.place(first, end) {
            Ok(placed) => placed,
            Err(error) => {
                log::error!("ext4: inode {}: cannot allocate: {error}; data lost", self.node.ino);
                return run.complete(Err(error));
            }
        };
        // What the log has of a file that used to be journaled must not come after this.
        if self.has_logged(&pieces) {
            return self.log(run, first, end);
        }
        let flags = if run.is_sync() { BioFlags::SYNC } else { BioFlags::empty() };
        if pieces.is_empty() {
            return run.complete(Ok(()));
        }
        let hold =
            ordered.map_or_else(|| Hold::Loose { _write: Loose::new(&self.node) }, Hold::Ordered);
        self.submit(Op::Write, flags, (run, hold), &pages, &pieces, WriteRun::complete);
    }

    fn prepare_write(&self, _mapping: &Mapping, pos: u64, len: usize) -> Result<()> {
        // A write to a shared map gets no further than here.
        if self.node.fs.sealed.load(Ordering::Relaxed) {
            return Err(Errno::EROFS);
        }
        let size = self.block_size() as u64;
        let first = u32::try_from(pos / size).map_err(|_| Errno::EFBIG)?;
        let last = u32::try_from((pos + len.max(1) as u64 - 1) / size).map_err(|_| Errno::EFBIG)?;
        if last == u32::MAX {
            return Err(Errno::EFBIG);
        }
        let mut state = self.node.state.lock();
        let sb = &self.node.fs.sb;
        if state.flags & flags::EXTENTS == 0 && u64::from(last) >= indirect::capacity(sb) {
            return Err(Errno::EFBIG);
        }
        let alloc = &self.node.fs.alloc;
        let mut promised = 0;
        let mut result = Ok(());
        for block in first..=last {
            if state.map.find(block).is_ok() || state.delayed.contains(&block) {
                continue;
            }
            result = alloc.reserve(1);
            if result.is_err() {
                break;
            }
            state.delayed.insert(block);
            promised += 1;
        }
        if promised > 0 {
            self.node.count_blocks(&state);
        }
        result
    }

    fn has_small_blocks(&self) -> bool {
        self.block_size() < PAGE_SIZE
    }

    fn owner(&self) -> Option<Owner> {
        self.node.me.upgrade().map(|inode| inode as Owner)
    }

    fn flusher(&self) -> Option<Arc<Flusher>> {
        Some(self.node.fs.device.flusher().clone())
    }
}

fn zero(pages: &[frames::PageRef], mut offset: usize, len: usize) {
    let stop = offset + len;
    while offset < stop {
        let in_page = offset & (PAGE_SIZE - 1);
        let step = (PAGE_SIZE - in_page).min(stop - offset);
        if let Some(page) = pages.get(offset >> PAGE_SHIFT) {
            page.zero(in_page..in_page + step);
        }
        offset += step;
    }
}
