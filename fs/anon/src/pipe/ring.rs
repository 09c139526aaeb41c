//! The contents of a pipe: pages in order.

use alloc::collections::VecDeque;

use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use frames::PageRef;
use smallvec::SmallVec;

pub(crate) const PAGE: usize = 4096;

/// A page of a pipe with the bytes that are still to be read.
#[derive(Clone)]
pub(crate) struct Chunk {
    pub(crate) page: PageRef,
    pub(crate) offset: usize,
    pub(crate) len: usize,
    /// The pipe made the page and may append to it.
    pub(crate) own: bool,
    /// A write of packet mode: read at once or cut.
    pub(crate) packet: bool,
}

/// A queue of at most `slots` chunks.
pub(crate) struct Ring {
    chunks: VecDeque<Chunk>,
    slots: usize,
    /// A page that was read empty, for the next write.
    spare: Option<PageRef>,
    /// What a splice has taken and is writing to a file: it may come back, and until it is known what does,
    /// nobody else reads.
    lent: Option<Lent>,
}

#[derive(Clone, Copy)]
struct Lent {
    slots: usize,
    bytes: usize,
}

/// Chunks that are lent at a time.
pub(crate) const RUN: usize = 16;
pub(crate) type Run = SmallVec<[Chunk; RUN]>;

impl Ring {
    pub(crate) const fn new(slots: usize) -> Ring {
        Ring { chunks: VecDeque::new(), slots, spare: None, lent: None }
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Changes the number of slots; `EBUSY` if more are in use.
    pub(crate) fn resize(&mut self, slots: usize) -> Result<()> {
        if self.used() > slots {
            return Err(Errno::EBUSY);
        }
        self.slots = slots;
        Ok(())
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether a splice has chunks: who reads waits for it.
    #[inline]
    pub(crate) fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Slots in use.
    #[inline]
    fn used(&self) -> usize {
        self.chunks.len() + self.lent.map_or(0, |lent| lent.slots)
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.slots
    }

    pub(crate) fn room(&self) -> usize {
        self.slots.saturating_sub(self.used())
    }

    /// Bytes to be read (`FIONREAD`).
    pub(crate) fn bytes(&self) -> usize {
        let here: usize = self.chunks.iter().map(|c| c.len).sum();
        here + self.lent.map_or(0, |lent| lent.bytes)
    }

    fn page(&mut self) -> Result<PageRef> {
        match self.spare.take() {
            Some(page) => Ok(page),
            None => Ok(crate::pages::fresh()?),
        }
    }

    /// Appends a small write to the last page if it fits there as a whole; how much.
    #[inline]
    pub(crate) fn merge(&mut self, source: &mut Source<'_>) -> Result<usize> {
        let tail = source.remaining() % PAGE;
        let Some(last) = self.chunks.back_mut() else { return Ok(0) };
        let end = last.offset + last.len;
        if tail == 0 || !last.own || last.packet || end + tail > PAGE {
            return Ok(0);
        }
        let count = last.page.from_source(end, tail, source)?;
        last.len += count;
        Ok(count)
    }

    /// Puts up to a page of `source` into a new slot; how much. A slot is free.
    pub(crate) fn append(&mut self, source: &mut Source<'_>, packet: bool) -> Result<usize> {
        let page = self.page()?;
        let len = source.remaining().min(PAGE);
        let count = match page.from_source(0, len, source) {
            Ok(count) if count > 0 => count,
            Ok(_) => {
                self.spare = Some(page);
                return Ok(0);
            }
            Err(fault) => {
                self.spare = Some(page);
                return Err(fault.into());
            }
        };
        self.chunks.push_back(Chunk { page, offset: 0, len: count, own: true, packet });
        Ok(count)
    }

    /// Adds a chunk; a slot is free, or what comes cannot be given back.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.chunks.push_back(chunk);
    }

    /// Lends the first chunks, at most `limit` bytes; none while others are lent.
    pub(crate) fn lend(&mut self, limit: usize) -> Run {
        let mut run = Run::new();
        if self.is_lent() {
            return run;
        }
        let mut left = limit;
        while left > 0
            && run.len() < RUN
            && let Some(chunk) = self.take(left)
        {
            left -= chunk.len;
            run.push(chunk);
        }
        if !run.is_empty() {
            self.lent = Some(Lent { slots: run.len(), bytes: limit - left });
        }
        run
    }

    /// The first `gone` bytes of what was lent are used up; the rest comes back.
    pub(crate) fn settle(&mut self, run: Run, gone: usize) {
        self.lent = None;
        let bytes: usize = run.iter().map(|chunk| chunk.len).sum();
        let mut left = bytes.saturating_sub(gone);
        for mut chunk in run.into_iter().rev() {
            let stays = left.min(chunk.len);
            if stays == 0 {
                break;
            }
            left -= stays;
            chunk.offset += chunk.len - stays;
            chunk.len = stays;
            chunk.own = false;
            self.chunks.push_front(chunk);
        }
    }

    /// Takes the first chunk, at most `limit` bytes of it.
    pub(crate) fn take(&mut self, limit: usize) -> Option<Chunk> {
        let first = self.chunks.front_mut()?;
        if limit >= first.len {
            return self.chunks.pop_front();
        }
        let taken = Chunk { len: limit, own: false, ..first.clone() };
        first.offset += limit;
        first.len -= limit;
        // The page is shared now: nobody may append to what the other holds.
        first.own = false;
        Some(taken)
    }

    /// The chunk at `index`, for `tee`.
    pub(crate) fn peek(&self, index: usize) -> Option<&Chunk> {
        self.chunks.get(index)
    }

    /// Moves bytes to `sink` until it is full or the ring empty (or a packet ends); how many.
    #[inline]
    pub(crate) fn read(&mut self, sink: &mut Sink<'_>) -> Result<usize> {
        let mut done = 0;
        while !sink.is_full() {
            let Some(first) = self.chunks.front_mut() else { break };
            let len = first.len.min(sink.remaining());
            let count = match first.page.to_sink(first.offset, len, sink) {
                Ok(count) => count,
                Err(fault) if done == 0 => return Err(fault.into()),
                Err(_) => break,
            };
            done += count;
            first.offset += count;
            first.len -= count;
            let packet = first.packet;
            if packet {
                first.len = 0;
            }
            if first.len == 0 {
                self.retire();
            }
            if packet || count < len {
                break;
            }
        }
        Ok(done)
    }

    /// Drops the first chunk, which is read; its page is kept for the next write.
    fn retire(&mut self) {
        if let Some(chunk) = self.chunks.pop_front()
            && chunk.own
            && self.spare.is_none()
        {
            self.spare = Some(chunk.page);
        }
    }
}
