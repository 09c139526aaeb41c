//! A bio: one contiguous run of sectors to read, write, discard or flush, with the memory it moves.
//!
//! The owner builds a [`Bio`], hands it to [`crate::Device::submit`] and is told through the
//! completion exactly once, from whatever context the driver completes in (usually an interrupt).
//! Dropping an unfinished bio completes it with `EIO`, so no waiter is ever forgotten.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use abi::{Errno, Result};
use frames::PageRef;
use smallvec::SmallVec;

/// Bytes per sector: the unit of all sector numbers, whatever the device's logical block size.
pub const SECTOR_SIZE: usize = 512;
/// log2 of [`SECTOR_SIZE`].
pub const SECTOR_SHIFT: u32 = 9;

/// What a bio does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Device to memory.
    Read,
    /// Memory to device.
    Write,
    /// Make all completed writes durable; carries no data.
    Flush,
    /// The sectors are no longer needed; carries no data.
    Discard,
    /// Make the sectors read as zeros; carries no data.
    WriteZeroes,
}

impl Op {
    /// Whether this operation changes the medium.
    pub const fn is_write(self) -> bool {
        !matches!(self, Op::Read | Op::Flush)
    }
}

bitflags::bitflags! {
    /// Modifiers of a bio.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct BioFlags: u32 {
        /// Flush the device's write cache before this write.
        const PREFLUSH = 1 << 0;
        /// The write is durable when it completes.
        const FUA = 1 << 1;
        /// Somebody waits for it.
        const SYNC = 1 << 2;
        /// File-system metadata.
        const META = 1 << 3;
        /// Speculative read: may fail early.
        const READAHEAD = 1 << 4;
    }
}

/// A piece of one page.
#[derive(Clone)]
pub struct Segment {
    /// The page; the bio holds a reference while it is in flight.
    pub page: PageRef,
    /// First byte within the page.
    pub offset: u32,
    /// Length in bytes; `offset + len` does not exceed the page.
    pub len: u32,
}

/// What is called once when a bio ends.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// One block I/O operation.
pub struct Bio {
    /// What to do.
    pub op: Op,
    /// How to do it.
    pub flags: BioFlags,
    /// First sector, relative to the device it is submitted to.
    pub sector: u64,
    /// Data, in the order of the sectors; empty for `Flush`, `Discard` and `WriteZeroes`.
    pub segments: SmallVec<[Segment; 2]>,
    sectors: u64,
    done: Option<Done>,
}

impl Bio {
    /// An empty data bio (read or write) at `sector`; add memory with [`Bio::push`].
    pub fn new(op: Op, sector: u64, done: impl FnOnce(Result<()>) + Send + 'static) -> Bio {
        Bio {
            op,
            flags: BioFlags::empty(),
            sector,
            segments: SmallVec::new(),
            sectors: 0,
            done: Some(Box::new(done)),
        }
    }

    /// A bio without data over `sectors` sectors: discard, write-zeroes, or (with 0) flush.
    pub fn without_data(
        op: Op,
        sector: u64,
        sectors: u64,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Bio {
        let mut bio = Bio::new(op, sector, done);
        bio.sectors = sectors;
        bio
    }

    /// Adds flags.
    pub fn with_flags(mut self, flags: BioFlags) -> Bio {
        self.flags |= flags;
        self
    }

    /// Appends `len` bytes at `offset` of `page`; both are multiples of 512.
    pub fn push(&mut self, page: PageRef, offset: u32, len: u32) {
        debug_assert!((len as usize).is_multiple_of(SECTOR_SIZE) && len > 0);
        self.sectors += u64::from(len >> SECTOR_SHIFT);
        self.segments.push(Segment { page, offset, len });
    }

    /// Length in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The sector after the last.
    pub fn end_sector(&self) -> u64 {
        self.sector.saturating_add(self.sectors)
    }

    /// Ends the bio and tells its owner.
    pub fn complete(mut self, result: Result<()>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }

    /// Sets the completion; one set before is forgotten, not called.
    pub(crate) fn set_done(&mut self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.done = Some(Box::new(done));
    }

    /// Cuts `sectors` off the end.
    pub(crate) fn trim(&mut self, mut sectors: u64) {
        while sectors > 0
            && let Some(last) = self.segments.last_mut()
        {
            let has = u64::from(last.len >> SECTOR_SHIFT);
            let cut = has.min(sectors);
            last.len -= (cut as u32) << SECTOR_SHIFT;
            sectors -= cut;
            self.sectors -= cut;
            if cut == has {
                self.segments.pop();
            }
        }
    }

    /// Replaces the completion by one that wraps it.
    pub(crate) fn wrap_done(&mut self, wrap: impl FnOnce(Done) -> Done) {
        if let Some(done) = self.done.take() {
            self.done = Some(wrap(done));
        }
    }

    /// Cuts the bio after `sectors` sectors, leaving the tail in `self` and returning the head; the
    /// original completion runs when both have ended.
    pub(crate) fn split_front(&mut self, sectors: u64) -> Bio {
        debug_assert!(sectors > 0 && sectors < self.sectors);
        let chain = Arc::new(Chain {
            remaining: AtomicUsize::new(2),
            error: AtomicU32::new(0),
            done: spin::Mutex::new(self.done.take()),
        });
        let mut head = Bio {
            op: self.op,
            flags: self.flags,
            sector: self.sector,
            segments: SmallVec::new(),
            sectors,
            done: Some(chain.part()),
        };
        let mut bytes = sectors << SECTOR_SHIFT;
        let mut whole = 0;
        for segment in &self.segments {
            if bytes < u64::from(segment.len) {
                break;
            }
            bytes -= u64::from(segment.len);
            whole += 1;
        }
        head.segments.extend(self.segments.drain(..whole));
        if bytes > 0
            && let Some(first) = self.segments.first_mut()
        {
            let mut part = first.clone();
            part.len = bytes as u32;
            first.offset += bytes as u32;
            first.len -= bytes as u32;
            head.segments.push(part);
        }
        self.sector += sectors;
        self.sectors -= sectors;
        self.done = Some(chain.part());
        head
    }
}

impl Drop for Bio {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(Errno::EIO));
        }
    }
}

/// Joins the completions of the parts of a split bio.
struct Chain {
    remaining: AtomicUsize,
    error: AtomicU32,
    done: spin::Mutex<Option<Done>>,
}

impl Chain {
    fn part(self: &Arc<Chain>) -> Done {
        let chain = self.clone();
        Box::new(move |result: Result<()>| {
            if let Err(error) = result {
                chain.error.store(error.raw() as u32, Ordering::Relaxed);
            }
            // AcqRel: the last part sees the errors of all others.
            if chain.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
                let done = chain.done.lock().take();
                if let Some(done) = done {
                    match chain.error.load(Ordering::Relaxed) {
                        0 => done(Ok(())),
                        error => done(Err(Errno::from_raw(error as i32))),
                    }
                }
            }
        })
    }
}
