//! The bytes on their way to one end of a stream: a queue of pieces of pages.
//!
//! Nobody copies under the queue's lock. A sender fills pages of its own and hangs them in; a receiver
//! takes pieces out, copies, and puts back what it did not use. So a thread that sleeps in a page fault
//! keeps nobody waiting but those that use the same end in the same direction.

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use frames::PageRef;
use netdevice::Chunk;
use smallvec::SmallVec;

static LANE: LockClass = LockClass::new("inet.lane", 529);

const PAGE: usize = 4096;

/// Pieces that are moved in or out under one hold of the lock.
pub(crate) const BATCH: usize = 16;

/// Pieces on their way between a program and a lane.
pub(crate) type Pieces = SmallVec<[Chunk; BATCH]>;

/// An urgent byte.
#[derive(Clone, Copy, Debug)]
struct Urgent {
    /// Its position in the stream.
    at: u64,
    /// It was received out of band.
    is_taken: bool,
}

struct Inner {
    pieces: VecDeque<Chunk>,
    /// The position of the first byte of `pieces` in the stream.
    front: u64,
    /// The position after the last.
    back: u64,
    urgent: Option<Urgent>,
}

/// A queue of bytes.
pub(crate) struct Lane {
    inner: SpinLock<Inner>,
    /// Bytes that are queued or being copied out.
    len: AtomicUsize,
}

/// The page a sender fills. Senders of one end take turns with it.
#[derive(Default)]
pub(crate) struct Writer {
    page: Option<PageRef>,
    used: usize,
}

impl Writer {
    /// Copies up to `limit` bytes to pages; the pieces they are in. An error only if there are none.
    #[inline]
    pub(crate) fn fill(
        &mut self,
        source: &mut Source<'_>,
        limit: usize,
    ) -> Result<(Pieces, usize)> {
        let mut pieces = Pieces::new();
        let mut done = 0;
        while done < limit && !source.is_empty() && pieces.len() < BATCH {
            let page = match &self.page {
                Some(page) if self.used < PAGE => page.clone(),
                Some(page) if page.references() == 1 => {
                    // Everybody has read it: it is used again while it is warm.
                    self.used = 0;
                    page.clone()
                }
                _ => match frames::alloc_page(frames::Flags::empty()) {
                    Ok(page) => {
                        self.used = 0;
                        self.page = Some(page.clone());
                        page
                    }
                    Err(_) if done > 0 => break,
                    Err(_) => return Err(Errno::ENOBUFS),
                },
            };
            let room = (PAGE - self.used).min(limit - done).min(source.remaining());
            let count = match page.from_source(self.used, room, source) {
                Ok(count) => count,
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault.into()),
            };
            pieces.push(Chunk { page, offset: self.used as u32, len: count as u32 });
            self.used += count;
            done += count;
            if count < room {
                break;
            }
        }
        Ok((pieces, done))
    }
}

impl Lane {
    pub(crate) fn new() -> Lane {
        let inner = Inner { pieces: VecDeque::new(), front: 0, back: 0, urgent: None };
        Lane { inner: SpinLock::new(&LANE, inner), len: AtomicUsize::new(0) }
    }

    /// Bytes that can be received.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // Pairs with the additions and subtractions below; waiters look at it after they were told.
        self.len.load(Ordering::SeqCst)
    }

    /// Bytes that ever came in.
    pub(crate) fn received(&self) -> u64 {
        self.inner.lock().back
    }

    /// Hangs pieces in; how many bytes there are then.
    #[inline]
    pub(crate) fn push(&self, pieces: Pieces, bytes: usize) -> usize {
        let mut inner = self.inner.lock();
        inner.back += bytes as u64;
        for piece in pieces {
            if let Some(last) = inner.pieces.back_mut()
                && last.page.is_same(&piece.page)
                && last.offset + last.len == piece.offset
            {
                last.len += piece.len;
                continue;
            }
            inner.pieces.push_back(piece);
        }
        self.len.fetch_add(bytes, Ordering::SeqCst) + bytes
    }

    /// Says that the last byte that came is urgent.
    pub(crate) fn mark_urgent(&self) {
        let mut inner = self.inner.lock();
        let Some(at) = inner.back.checked_sub(1) else { return };
        inner.urgent = Some(Urgent { at, is_taken: false });
    }

    /// Whether there is an urgent byte that nobody has received.
    pub(crate) fn has_urgent(&self) -> bool {
        self.inner.lock().urgent.is_some_and(|urgent| !urgent.is_taken)
    }

    /// Whether the next byte is the urgent one, or the mark stands where it was.
    pub(crate) fn is_at_mark(&self) -> bool {
        let inner = self.inner.lock();
        inner.urgent.is_some_and(|urgent| urgent.at == inner.front)
    }

    /// Whether the mark stands before the end of what came: a receive stops at it.
    fn limit_to_mark(inner: &Inner, inline: bool) -> (usize, usize) {
        // How many bytes may be taken, and how many are skipped before.
        let Some(urgent) = inner.urgent else { return (usize::MAX, 0) };
        if urgent.at < inner.front {
            return (usize::MAX, 0);
        }
        let before = (urgent.at - inner.front) as usize;
        match before {
            0 if inline => (usize::MAX, 0),
            0 => (usize::MAX, 1),
            before => (before, 0),
        }
    }

    /// Takes up to `limit` bytes out, not past the mark.
    #[inline]
    fn take(&self, limit: usize, inline: bool) -> (Pieces, usize) {
        let mut inner = self.inner.lock();
        let mut limit = limit;
        if inner.urgent.is_some() {
            let (most, skip) = Self::limit_to_mark(&inner, inline);
            limit = limit.min(most);
            if skip > 0 && Self::skip(&mut inner, skip) {
                self.len.fetch_sub(skip, Ordering::SeqCst);
                inner.urgent = None;
            }
        }
        let mut out = Pieces::new();
        let mut bytes = 0;
        while bytes < limit && out.len() < BATCH {
            let Some(first) = inner.pieces.front_mut() else { break };
            let len = first.len();
            if len <= limit - bytes {
                bytes += len;
                out.extend(inner.pieces.pop_front());
            } else {
                let part = limit - bytes;
                out.push(first.part(0, part));
                first.advance(part);
                bytes += part;
            }
        }
        inner.front += bytes as u64;
        (out, bytes)
    }

    fn skip(inner: &mut Inner, count: usize) -> bool {
        let Some(first) = inner.pieces.front_mut() else { return false };
        first.advance(count);
        if first.is_empty() {
            inner.pieces.pop_front();
        }
        inner.front += count as u64;
        true
    }

    /// Copies from `skip` bytes on without taking anything out; how many.
    pub(crate) fn peek(&self, sink: &mut Sink<'_>, skip: usize, inline: bool) -> Result<usize> {
        let pieces = {
            let inner = self.inner.lock();
            let (most, first) = Self::limit_to_mark(&inner, inline);
            let mut skip = skip + first;
            let mut room = sink.remaining().min(most.saturating_sub(skip - first));
            let mut pieces = Pieces::new();
            for piece in &inner.pieces {
                if skip >= piece.len() {
                    skip -= piece.len();
                    continue;
                }
                if room == 0 {
                    break;
                }
                let part = piece.part(core::mem::take(&mut skip), room);
                room -= part.len();
                pieces.push(part);
            }
            pieces
        };
        let mut done = 0;
        for piece in &pieces {
            match piece.to_sink(sink) {
                Ok(count) if count == piece.len() => done += count,
                Ok(count) => return Ok(done + count),
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Moves bytes to a sink until it is full, nothing is left or the mark is reached; how many. Receivers of
    /// one end take turns.
    #[inline]
    pub(crate) fn read(&self, sink: &mut Sink<'_>, inline: bool) -> Result<usize> {
        let mut total = 0;
        while !sink.is_full() {
            let (mut pieces, bytes) = self.take(sink.remaining(), inline);
            if bytes == 0 {
                break;
            }
            let mut done = 0;
            let mut fault = None;
            for piece in &mut pieces {
                match piece.to_sink(sink) {
                    Ok(count) => {
                        done += count;
                        piece.advance(count);
                        if !piece.is_empty() {
                            break;
                        }
                    }
                    Err(error) => {
                        fault = Some(error);
                        break;
                    }
                }
            }
            if done < bytes {
                self.put_back(pieces, bytes - done);
            }
            self.len.fetch_sub(done, Ordering::SeqCst);
            total += done;
            match fault {
                Some(error) if total == 0 => return Err(error),
                Some(_) => break,
                None if done < bytes => break,
                None => {}
            }
            if self.is_stopped_at_mark() {
                break;
            }
        }
        Ok(total)
    }

    fn is_stopped_at_mark(&self) -> bool {
        let inner = self.inner.lock();
        inner.urgent.is_some_and(|urgent| urgent.at == inner.front)
    }

    fn put_back(&self, pieces: Pieces, bytes: usize) {
        let mut inner = self.inner.lock();
        inner.front -= bytes as u64;
        for piece in pieces.into_iter().rev().filter(|piece| !piece.is_empty()) {
            inner.pieces.push_front(piece);
        }
    }

    /// The urgent byte. `EINVAL` without one, or after it was taken.
    pub(crate) fn take_urgent(&self, peek: bool) -> Result<u8> {
        let mut inner = self.inner.lock();
        let front = inner.front;
        let Some(urgent) = &mut inner.urgent else { return Err(Errno::EINVAL) };
        if urgent.is_taken || urgent.at < front {
            return Err(Errno::EINVAL);
        }
        let mut skip = (urgent.at - front) as usize;
        urgent.is_taken = !peek;
        let mut byte = [0];
        for piece in &inner.pieces {
            if skip < piece.len() {
                piece.part(skip, 1).copy_out(&mut byte);
                return Ok(byte[0]);
            }
            skip -= piece.len();
        }
        Err(Errno::EAGAIN)
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let gone = {
            let mut inner = self.inner.lock();
            let gone = core::mem::take(&mut inner.pieces);
            let bytes: usize = gone.iter().map(Chunk::len).sum();
            inner.front += bytes as u64;
            self.len.fetch_sub(bytes, Ordering::SeqCst);
            gone
        };
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(lane: &Lane, writer: &mut Writer, bytes: &[u8]) {
        let mut source = Source::kernel(bytes);
        while !source.is_empty() {
            let (pieces, count) = writer.fill(&mut source, usize::MAX).unwrap();
            lane.push(pieces, count);
        }
    }

    fn get(lane: &Lane, room: usize) -> Vec<u8> {
        let mut buffer = vec![0; room];
        let count = lane.read(&mut Sink::kernel(&mut buffer), false).unwrap();
        buffer.truncate(count);
        buffer
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        frames::init_host(64 << 20);
        let (lane, mut writer) = (Lane::new(), Writer::default());
        let all: Vec<u8> = (0..200_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let mut seen = Vec::new();
        for (round, part) in all.chunks(3001).enumerate() {
            put(&lane, &mut writer, part);
            let mut some = [0; 100];
            assert_eq!(lane.peek(&mut Sink::kernel(&mut some), 0, false), Ok(100));
            seen.extend(get(&lane, if round % 3 == 0 { 5000 } else { 2500 }));
        }
        seen.extend(get(&lane, 200_000));
        assert_eq!(seen, all);
        assert_eq!(lane.len(), 0);
    }

    #[test]
    fn an_urgent_byte_stops_and_is_taken_apart() {
        frames::init_host(64 << 20);
        let (lane, mut writer) = (Lane::new(), Writer::default());
        put(&lane, &mut writer, b"abcX");
        lane.mark_urgent();
        put(&lane, &mut writer, b"def");
        assert!(lane.has_urgent());
        assert_eq!(get(&lane, 100), b"abc");
        assert!(lane.is_at_mark());
        assert_eq!(lane.take_urgent(true), Ok(b'X'));
        assert_eq!(lane.take_urgent(false), Ok(b'X'));
        assert_eq!(lane.take_urgent(false), Err(Errno::EINVAL));
        assert_eq!(get(&lane, 100), b"def");
        assert_eq!(lane.len(), 0);
    }
}
