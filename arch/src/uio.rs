//! Cursors over the memory a transfer goes to ([`Sink`]) or comes from ([`Source`]).
//!
//! `read(2)`, `write(2)` and their relatives hand one of these all the way down, so that data is
//! copied once, between its place in the kernel and its place in the program. A cursor walks user
//! segments (an iovec), or one kernel buffer; it counts what was moved and can be moved back.

mod cursor;

use crate::addr::VirtAddr;
use crate::user::{self, Fault};
use cursor::{List, PieceCursor, UserCursor};
use machine::shared::SharedBytes;

/// One segment of user memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Where it starts.
    pub addr: VirtAddr,
    /// Its length in bytes.
    pub len: usize,
}

fn total(pieces: &[SharedBytes<'_>]) -> usize {
    pieces.iter().fold(0usize, |sum, piece| sum.saturating_add(piece.len()))
}

enum SinkTo<'a> {
    User(UserCursor<'a>),
    Kernel { buffer: &'a mut [u8], at: usize },
    Pieces(PieceCursor<'a>),
    Discard,
}

/// Where the data of a read goes.
pub struct Sink<'a> {
    to: SinkTo<'a>,
    remaining: usize,
    done: usize,
}

impl<'a> Sink<'a> {
    /// One range of user memory.
    pub fn user(addr: VirtAddr, len: usize) -> Sink<'static> {
        let to = SinkTo::User(UserCursor::new(List::One(Segment { addr, len })));
        Sink { to, remaining: len, done: 0 }
    }
    /// Several ranges of user memory; the caller has checked that their lengths add up.
    pub fn user_segments(segments: &'a [Segment]) -> Sink<'a> {
        let remaining = segments.iter().fold(0usize, |sum, s| sum.saturating_add(s.len));
        Sink { to: SinkTo::User(UserCursor::new(List::Many(segments))), remaining, done: 0 }
    }
    /// A kernel buffer.
    pub fn kernel(buffer: &'a mut [u8]) -> Sink<'a> {
        let remaining = buffer.len();
        Sink { to: SinkTo::Kernel { buffer, at: 0 }, remaining, done: 0 }
    }
    /// Several pieces of kernel memory.
    pub fn pieces(list: &'a [SharedBytes<'a>]) -> Sink<'a> {
        Sink { to: SinkTo::Pieces(PieceCursor::new(list)), remaining: total(list), done: 0 }
    }
    /// Nowhere: counts up to `limit` bytes.
    pub fn discard(limit: usize) -> Sink<'static> {
        Sink { to: SinkTo::Discard, remaining: limit, done: 0 }
    }

    /// How many bytes it still takes.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.remaining
    }
    /// How many bytes it took so far.
    #[inline]
    pub fn done(&self) -> usize {
        self.done
    }
    /// Whether it takes nothing more.
    pub fn is_full(&self) -> bool {
        self.remaining == 0
    }
    /// Whether the memory is the user's, so that putting may fault and sleep.
    pub fn is_user(&self) -> bool {
        matches!(self.to, SinkTo::User(_))
    }

    /// The user range the next byte goes to, for transfers that bypass the page cache.
    pub fn current_user(&mut self) -> Option<Segment> {
        let remaining = self.remaining;
        match &mut self.to {
            SinkTo::User(cursor) => {
                cursor.current().map(|s| Segment { addr: s.addr, len: s.len.min(remaining) })
            }
            _ => None,
        }
    }

    /// Puts as much as fits; how much. A fault counts only when nothing could be put.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let len = bytes.len().min(self.remaining);
        let Some(bytes) = bytes.get(..len) else { return Ok(0) };
        let put = match &mut self.to {
            SinkTo::User(cursor) => cursor.walk(len, |addr, offset, len| {
                bytes.get(offset..offset + len).map_or(0, |b| user::copy_to_user_partial(addr, b))
            })?,
            SinkTo::Kernel { buffer, at } => {
                if let Some(room) = buffer.get_mut(*at..*at + len) {
                    room.copy_from_slice(bytes);
                }
                *at += len;
                len
            }
            SinkTo::Pieces(cursor) => {
                cursor.pass(len, |at, piece| {
                    if let Some(bytes) = bytes.get(at..at + piece.len()) {
                        piece.copy_from(bytes);
                    }
                });
                len
            }
            SinkTo::Discard => len,
        };
        self.note(put);
        Ok(put)
    }

    /// Puts everything or fails.
    pub fn put_all(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.put(bytes)? == bytes.len() { Ok(()) } else { Err(Fault) }
    }

    /// Puts zeros: holes of sparse files, `/dev/zero`.
    pub fn put_zeros(&mut self, len: usize) -> Result<usize, Fault> {
        let len = len.min(self.remaining);
        let put = match &mut self.to {
            SinkTo::User(cursor) => {
                cursor.walk(len, |addr, _, len| user::clear_user_partial(addr, len))?
            }
            SinkTo::Kernel { buffer, at } => {
                if let Some(room) = buffer.get_mut(*at..*at + len) {
                    room.fill(0);
                }
                *at += len;
                len
            }
            SinkTo::Pieces(cursor) => {
                cursor.pass(len, |_, piece| piece.clear());
                len
            }
            SinkTo::Discard => len,
        };
        self.note(put);
        Ok(put)
    }

    /// Puts bytes that may change meanwhile.
    #[inline]
    pub fn put_shared(&mut self, from: SharedBytes<'_>) -> Result<usize, Fault> {
        let len = from.len().min(self.remaining);
        let from = from.part(0, len);
        let put = match &mut self.to {
            SinkTo::User(cursor) => {
                cursor.walk(len, |addr, offset, len| from.part(offset, len).copy_to_user(addr))?
            }
            SinkTo::Kernel { buffer, at } => {
                if let Some(room) = buffer.get_mut(*at..*at + len) {
                    from.copy_to(room);
                }
                *at += len;
                len
            }
            SinkTo::Pieces(cursor) => {
                cursor.pass(len, |at, piece| piece.copy_from_shared(from.part(at, piece.len())));
                len
            }
            SinkTo::Discard => len,
        };
        self.note(put);
        Ok(put)
    }

    fn note(&mut self, bytes: usize) {
        self.remaining -= bytes;
        self.done += bytes;
    }

    /// Skips bytes that were put by other means (direct transfers).
    pub fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.remaining);
        match &mut self.to {
            SinkTo::User(cursor) => cursor.advance(bytes),
            SinkTo::Kernel { at, .. } => *at += bytes,
            SinkTo::Pieces(cursor) => cursor.pass(bytes, |_, _| {}),
            SinkTo::Discard => {}
        }
        self.note(bytes);
    }

    /// Goes back; not for collectors, which have passed their bytes on.
    pub fn revert(&mut self, bytes: usize) {
        let bytes = bytes.min(self.done);
        match &mut self.to {
            SinkTo::User(cursor) => cursor.revert(bytes),
            SinkTo::Kernel { at, .. } => *at -= bytes,
            SinkTo::Pieces(cursor) => cursor.revert(bytes),
            SinkTo::Discard => {}
        }
        self.remaining += bytes;
        self.done -= bytes;
    }

    /// Takes at most `limit` more bytes; returns what was cut off, for [`reexpand`](Self::reexpand).
    pub fn truncate(&mut self, limit: usize) -> usize {
        let cut = self.remaining.saturating_sub(limit);
        self.remaining -= cut;
        cut
    }
    /// Takes the bytes cut off by [`truncate`](Self::truncate) again.
    pub fn reexpand(&mut self, cut: usize) {
        self.remaining += cut;
    }

    /// Brings in the user pages of the next `len` bytes; how many bytes are accessible then.
    pub fn fault_in(&mut self, len: usize) -> usize {
        let len = len.min(self.remaining);
        match &mut self.to {
            SinkTo::User(cursor) => fault_in(cursor, len, user::fault_in_writable),
            _ => len,
        }
    }
}

enum SourceFrom<'a> {
    User(UserCursor<'a>),
    Kernel { buffer: &'a [u8], at: usize },
    Shared { bytes: SharedBytes<'a>, at: usize },
    Pieces(PieceCursor<'a>),
    Zeros,
}

/// Where the data of a write comes from.
pub struct Source<'a> {
    from: SourceFrom<'a>,
    remaining: usize,
    done: usize,
}

impl<'a> Source<'a> {
    /// One range of user memory.
    pub fn user(addr: VirtAddr, len: usize) -> Source<'static> {
        let from = SourceFrom::User(UserCursor::new(List::One(Segment { addr, len })));
        Source { from, remaining: len, done: 0 }
    }
    /// Several ranges of user memory; the caller has checked that their lengths add up.
    pub fn user_segments(segments: &'a [Segment]) -> Source<'a> {
        let remaining = segments.iter().fold(0usize, |sum, s| sum.saturating_add(s.len));
        Source { from: SourceFrom::User(UserCursor::new(List::Many(segments))), remaining, done: 0 }
    }
    /// A kernel buffer.
    pub fn kernel(buffer: &'a [u8]) -> Source<'a> {
        Source { from: SourceFrom::Kernel { buffer, at: 0 }, remaining: buffer.len(), done: 0 }
    }
    /// Bytes that may change meanwhile.
    pub fn shared(bytes: SharedBytes<'a>) -> Source<'a> {
        Source { from: SourceFrom::Shared { bytes, at: 0 }, remaining: bytes.len(), done: 0 }
    }
    /// Several pieces of such, one after the other.
    pub fn pieces(pieces: &'a [SharedBytes<'a>]) -> Source<'a> {
        let from = SourceFrom::Pieces(PieceCursor::new(pieces));
        Source { from, remaining: total(pieces), done: 0 }
    }
    /// Zeros.
    pub fn zeros(len: usize) -> Source<'static> {
        Source { from: SourceFrom::Zeros, remaining: len, done: 0 }
    }

    /// How many bytes are left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.remaining
    }
    /// How many bytes were taken so far.
    #[inline]
    pub fn done(&self) -> usize {
        self.done
    }
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }
    /// Whether the memory is the user's, so that taking may fault and sleep.
    pub fn is_user(&self) -> bool {
        matches!(self.from, SourceFrom::User(_))
    }

    /// The user range the next byte comes from, for transfers that bypass the page cache.
    pub fn current_user(&mut self) -> Option<Segment> {
        let remaining = self.remaining;
        match &mut self.from {
            SourceFrom::User(cursor) => {
                cursor.current().map(|s| Segment { addr: s.addr, len: s.len.min(remaining) })
            }
            _ => None,
        }
    }

    /// Fills as much of the buffer as there is; how much. A fault counts only when nothing could
    /// be taken.
    pub fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        self.take_shared(SharedBytes::of(buffer))
    }

    /// Fills the whole buffer or fails.
    pub fn take_all(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        if self.take(buffer)? == buffer.len() { Ok(()) } else { Err(Fault) }
    }

    /// Fills bytes that others may look at meanwhile; how many.
    #[inline]
    pub fn take_shared(&mut self, to: SharedBytes<'_>) -> Result<usize, Fault> {
        let len = to.len().min(self.remaining);
        let taken = match &mut self.from {
            SourceFrom::User(cursor) => {
                cursor.walk(len, |addr, offset, len| to.part(offset, len).copy_from_user(addr))?
            }
            SourceFrom::Kernel { buffer, at } => {
                if let Some(bytes) = buffer.get(*at..*at + len) {
                    to.copy_from(bytes);
                }
                *at += len;
                len
            }
            SourceFrom::Shared { bytes, at } => {
                to.copy_from_shared(bytes.part(*at, len));
                *at += len;
                len
            }
            SourceFrom::Pieces(cursor) => {
                cursor.pass(len, |offset, part| {
                    to.part(offset, part.len()).copy_from_shared(part);
                });
                len
            }
            SourceFrom::Zeros => {
                to.part(0, len).clear();
                len
            }
        };
        self.note(taken);
        Ok(taken)
    }

    fn note(&mut self, bytes: usize) {
        self.remaining -= bytes;
        self.done += bytes;
    }

    /// Skips bytes that were taken by other means (direct transfers).
    pub fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.remaining);
        match &mut self.from {
            SourceFrom::User(cursor) => cursor.advance(bytes),
            SourceFrom::Kernel { at, .. } | SourceFrom::Shared { at, .. } => *at += bytes,
            SourceFrom::Pieces(cursor) => cursor.pass(bytes, |_, _| ()),
            SourceFrom::Zeros => {}
        }
        self.note(bytes);
    }

    /// Goes back.
    pub fn revert(&mut self, bytes: usize) {
        let bytes = bytes.min(self.done);
        match &mut self.from {
            SourceFrom::User(cursor) => cursor.revert(bytes),
            SourceFrom::Kernel { at, .. } | SourceFrom::Shared { at, .. } => *at -= bytes,
            SourceFrom::Pieces(cursor) => cursor.revert(bytes),
            SourceFrom::Zeros => {}
        }
        self.remaining += bytes;
        self.done -= bytes;
    }

    /// Gives at most `limit` more bytes; returns what was cut off, for [`reexpand`](Self::reexpand).
    pub fn truncate(&mut self, limit: usize) -> usize {
        let cut = self.remaining.saturating_sub(limit);
        self.remaining -= cut;
        cut
    }
    /// Gives the bytes cut off by [`truncate`](Self::truncate) again.
    pub fn reexpand(&mut self, cut: usize) {
        self.remaining += cut;
    }

    /// Brings in the user pages of the next `len` bytes; how many bytes are accessible then.
    pub fn fault_in(&mut self, len: usize) -> usize {
        let len = len.min(self.remaining);
        match &mut self.from {
            SourceFrom::User(cursor) => fault_in(cursor, len, user::fault_in_readable),
            _ => len,
        }
    }
}

/// Touches the next `len` bytes of the cursor without moving it.
fn fault_in(
    cursor: &mut UserCursor<'_>,
    len: usize,
    touch: impl Fn(VirtAddr, usize) -> usize,
) -> usize {
    let start = cursor.place();
    let done = cursor.walk(len, |addr, _, len| touch(addr, len)).unwrap_or(0);
    cursor.go_to(start);
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::UserBuffer;

    #[test]
    fn segments_are_walked_and_reverted() {
        let user = UserBuffer::new(4096);
        let segments = [
            Segment { addr: user.addr(), len: 3 },
            Segment { addr: user.addr() + 100u64, len: 0 },
            Segment { addr: user.addr() + 10u64, len: 5 },
        ];
        let mut sink = Sink::user_segments(&segments);
        assert_eq!(sink.put(b"abcd"), Ok(4));
        assert_eq!(sink.remaining(), 4);
        sink.revert(2);
        assert_eq!(sink.put(b"XYzzzzz"), Ok(6));
        assert!(sink.is_full());
        let mut source = Source::user_segments(&segments);
        let mut bytes = [0; 10];
        assert_eq!(source.fault_in(8), 8);
        assert_eq!(source.take(&mut bytes), Ok(8));
        assert_eq!(&bytes[..8], b"abXYzzzz");
    }

    #[test]
    fn faults_are_partial() {
        let user = UserBuffer::new(4096);
        let mut sink = Sink::user(user.addr() + 4090u64, 100);
        assert_eq!(sink.put(&[1; 50]), Ok(6));
        assert_eq!(sink.put(&[1; 50]), Err(Fault));
        assert_eq!(sink.done(), 6);
        let mut kernel = [0u8; 4];
        let mut sink = Sink::kernel(&mut kernel);
        assert_eq!(sink.put_zeros(1), Ok(1));
        assert_eq!(sink.put(b"12345"), Ok(3));
        assert_eq!(&kernel, b"\x00123");
    }

    #[test]
    fn shared_bytes_go_everywhere() {
        let mut shared = *b"abcdef";
        let shared = SharedBytes::of(&mut shared);
        let user = UserBuffer::new(4096);
        assert_eq!(Sink::user(user.addr() + 4092u64, 100).put_shared(shared), Ok(4));
        let mut back = [0; 4];
        assert_eq!(Source::user(user.addr() + 4092u64, 4).take(&mut back), Ok(4));
        assert_eq!(&back, b"abcd");

        let mut kernel = [0; 5];
        let mut sink = Sink::kernel(&mut kernel);
        assert_eq!(sink.put_shared(shared.part(4, 2)), Ok(2));
        assert_eq!(sink.put_shared(shared), Ok(3));
        assert_eq!(&kernel, b"efabc");

        let mut source = Source::shared(shared);
        let mut bytes = [0; 4];
        assert_eq!(source.take(&mut bytes), Ok(4));
        source.revert(1);
        assert_eq!((source.take(&mut bytes), &bytes), (Ok(3), b"defd"));

        let pieces = [shared.part(4, 2), shared.part(0, 0), shared.part(0, 3)];
        let mut source = Source::pieces(&pieces);
        assert_eq!((source.take(&mut bytes), &bytes), (Ok(4), b"efab"));
        source.revert(3);
        assert_eq!((source.take(&mut bytes), &bytes), (Ok(4), b"fabc"));
        source.revert(5);
        source.advance(3);
        assert_eq!((source.remaining(), source.take(&mut bytes)), (2, Ok(2)));
        assert_eq!(&bytes, b"bcbc");
    }
}
