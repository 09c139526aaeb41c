//! Between pages and sectors: contents of files and directories, and the FAT itself.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use block::{Bio, BioFlags, Device, Op, SECTOR_SHIFT};
use frames::PageRef;
use pagecache::{Backing, Flusher, Mapping, Owner, ReadRun, WriteRun};

use crate::node::Node;

/// A piece of a transfer: `len` bytes that begin `offset` bytes into the run, at a byte of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) at: u64,
}

/// A transfer of several bios that ends as one.
struct Joint<R> {
    left: AtomicUsize,
    failed: AtomicBool,
    run: spin::Mutex<Option<R>>,
    end: fn(R, Result<()>),
}

impl<R> Joint<R> {
    fn part_done(&self, result: Result<()>) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        // AcqRel: the last part sees the others' failures.
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let run = self.run.lock().take();
        if let Some(run) = run {
            let failed = self.failed.load(Ordering::Relaxed);
            (self.end)(run, if failed { Err(Errno::EIO) } else { Ok(()) });
        }
    }
}

/// Starts a bio for each stretch of the device that the pieces are in, and ends the run after the last.
fn submit<R: Send + 'static>(
    device: &Device,
    (op, flags): (Op, BioFlags),
    run: R,
    pages: &[PageRef],
    pieces: &[Piece],
    end: fn(R, Result<()>),
) {
    let joint = Arc::new(Joint {
        left: AtomicUsize::new(1),
        failed: AtomicBool::new(false),
        run: spin::Mutex::new(Some(run)),
        end,
    });
    let mut pieces = pieces.iter().peekable();
    while let Some(first) = pieces.next() {
        joint.left.fetch_add(1, Ordering::Relaxed);
        let part = joint.clone();
        let mut bio = Bio::new(op, first.at >> SECTOR_SHIFT, move |result| part.part_done(result));
        bio.flags |= flags;
        push(&mut bio, pages, first);
        let mut next = first.at + first.len as u64;
        while let Some(piece) = pieces.next_if(|piece| piece.at == next) {
            push(&mut bio, pages, piece);
            next += piece.len as u64;
        }
        device.submit(bio);
    }
    joint.part_done(Ok(()));
}

fn push(bio: &mut Bio, pages: &[PageRef], piece: &Piece) {
    let (mut offset, stop) = (piece.offset, piece.offset + piece.len);
    while offset < stop {
        let in_page = offset % PAGE_SIZE;
        let len = (PAGE_SIZE - in_page).min(stop - offset);
        if let Some(page) = pages.get(offset >> PAGE_SHIFT) {
            bio.push(page.clone(), in_page as u32, len as u32);
        }
        offset += len;
    }
}

/// Zeroes what of the run is in no piece; these come in order.
fn zero_gaps(pages: &[PageRef], pieces: &[Piece]) {
    let mut at = 0;
    for piece in pieces {
        zero(pages, at, piece.offset);
        at = piece.offset + piece.len;
    }
    zero(pages, at, pages.len() << PAGE_SHIFT);
}

fn zero(pages: &[PageRef], mut at: usize, end: usize) {
    while at < end {
        let in_page = at % PAGE_SIZE;
        let step = (PAGE_SIZE - in_page).min(end - at);
        if let Some(page) = pages.get(at >> PAGE_SHIFT) {
            page.zero(in_page..in_page + step);
        }
        at += step;
    }
}

fn flags_of(run: &WriteRun) -> BioFlags {
    if run.is_sync() { BioFlags::SYNC } else { BioFlags::empty() }
}

/// The pages of a file or a directory.
pub(crate) struct NodeBacking(pub(crate) Arc<Node>);

impl Backing for NodeBacking {
    fn read(&self, run: ReadRun) {
        let first = run.first() << PAGE_SHIFT;
        let pages = run.pages().to_vec();
        let size = run.mapping().size();
        let end = first.saturating_add((pages.len() as u64) << PAGE_SHIFT);
        match self.0.pieces(first, end, size) {
            Ok(pieces) => {
                zero_gaps(&pages, &pieces);
                let how = (Op::Read, BioFlags::empty());
                submit(&self.0.fs.device, how, run, &pages, &pieces, ReadRun::complete);
            }
            Err(error) => run.complete(Err(error)),
        }
    }

    fn write(&self, run: WriteRun) {
        let first = run.first() << PAGE_SHIFT;
        let pages = run.pages().to_vec();
        let size = run.mapping().size();
        let end = first.saturating_add((pages.len() as u64) << PAGE_SHIFT);
        // What is behind the end of the file, which may have been cut, need not be written.
        if size <= first {
            return run.complete(Ok(()));
        }
        match self.0.pieces(first, end, size) {
            Ok(pieces) => {
                let how = (Op::Write, flags_of(&run));
                submit(&self.0.fs.device, how, run, &pages, &pieces, WriteRun::complete);
            }
            Err(error) => run.complete(Err(error)),
        }
    }

    fn prepare_write(&self, _mapping: &Mapping, pos: u64, len: usize) -> Result<()> {
        self.0.reserve(pos.saturating_add(len as u64))
    }

    fn has_small_blocks(&self) -> bool {
        (self.0.fs.geometry.cluster as usize) < PAGE_SIZE
    }

    fn owner(&self) -> Option<Owner> {
        self.0.inode().map(|inode| inode as Owner)
    }

    fn flusher(&self) -> Option<Arc<Flusher>> {
        Some(self.0.fs.device.flusher().clone())
    }
}

/// The pages of the FAT. They are written to each copy.
pub(crate) struct TableBacking {
    pub(crate) device: Arc<Device>,
    /// Where the copies begin, in bytes of the device.
    pub(crate) copies: Vec<u64>,
    /// Bytes of one.
    pub(crate) len: u64,
}

impl TableBacking {
    /// The run as a piece of a copy.
    fn piece(&self, copy: u64, first: u64, pages: usize) -> Option<Piece> {
        let start = first << PAGE_SHIFT;
        let len = ((pages as u64) << PAGE_SHIFT).min(self.len.saturating_sub(start));
        (len > 0).then_some(Piece { offset: 0, len: len as usize, at: copy + start })
    }
}

impl Backing for TableBacking {
    fn read(&self, run: ReadRun) {
        let pages = run.pages().to_vec();
        let copy = self.copies.first().copied();
        let piece = copy.and_then(|copy| self.piece(copy, run.first(), pages.len()));
        let pieces: Vec<Piece> = piece.into_iter().collect();
        zero_gaps(&pages, &pieces);
        let how = (Op::Read, BioFlags::META);
        submit(&self.device, how, run, &pages, &pieces, ReadRun::complete);
    }

    fn write(&self, run: WriteRun) {
        let pages = run.pages().to_vec();
        let first = run.first();
        let of_copy = |copy: &u64| self.piece(*copy, first, pages.len());
        let pieces: Vec<Piece> = self.copies.iter().filter_map(of_copy).collect();
        let how = (Op::Write, flags_of(&run) | BioFlags::META);
        submit(&self.device, how, run, &pages, &pieces, WriteRun::complete);
    }

    fn prepare_write(&self, _mapping: &Mapping, _pos: u64, _len: usize) -> Result<()> {
        Ok(())
    }

    fn flusher(&self) -> Option<Arc<Flusher>> {
        Some(self.device.flusher().clone())
    }
}

/// Changes bytes of pages that are read in if need be, without waiting for write-back.
pub(crate) fn poke(mapping: &Mapping, pos: u64, mut bytes: &[u8]) -> Result<()> {
    let mut pos = pos;
    while !bytes.is_empty() {
        let offset = pos as usize % PAGE_SIZE;
        let step = (PAGE_SIZE - offset).min(bytes.len());
        let (now, later) = bytes.split_at(step);
        // While it is held here, reclaim leaves the page alone.
        let page = mapping.get_page(pos >> PAGE_SHIFT)?;
        page.copy_in(offset, now);
        mapping.set_dirty(&page, pos >> PAGE_SHIFT);
        bytes = later;
        pos += step as u64;
    }
    Ok(())
}

/// Copies bytes out of pages.
pub(crate) fn peek(mapping: &Mapping, pos: u64, buffer: &mut [u8]) -> Result<()> {
    let mut at = 0;
    while at < buffer.len() {
        let from = pos + at as u64;
        let offset = from as usize % PAGE_SIZE;
        let page = mapping.get_page(from >> PAGE_SHIFT)?;
        let step = (PAGE_SIZE - offset).min(buffer.len() - at);
        if let Some(part) = buffer.get_mut(at..at + step) {
            page.copy_out(offset, part);
        }
        at += step;
    }
    Ok(())
}
