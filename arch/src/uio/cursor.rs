//! Positions in lists of pieces of memory.

use super::Segment;
use crate::addr::VirtAddr;
use crate::user::Fault;
use machine::shared::SharedBytes;

/// The user segments a cursor walks.
pub(super) enum List<'a> {
    One(Segment),
    Many(&'a [Segment]),
}

impl List<'_> {
    #[inline]
    fn get(&self, index: usize) -> Option<Segment> {
        match self {
            List::One(segment) => (index == 0).then_some(*segment),
            List::Many(segments) => segments.get(index).copied(),
        }
    }
}

/// The place, as a piece and an offset in it, that is `bytes` before another; `len` tells how long pieces are.
fn back(
    (mut index, mut offset): (usize, usize),
    mut bytes: usize,
    len: impl Fn(usize) -> usize,
) -> (usize, usize) {
    loop {
        let step = bytes.min(offset);
        offset -= step;
        bytes -= step;
        if bytes == 0 || index == 0 {
            return (index, offset);
        }
        index -= 1;
        offset = len(index);
    }
}

/// A position in user segments.
pub(super) struct UserCursor<'a> {
    list: List<'a>,
    index: usize,
    offset: usize,
}

impl<'a> UserCursor<'a> {
    #[inline]
    pub(super) fn new(list: List<'a>) -> Self {
        UserCursor { list, index: 0, offset: 0 }
    }

    /// Where it stands.
    #[inline]
    pub(super) fn place(&self) -> (usize, usize) {
        (self.index, self.offset)
    }

    /// Goes to a place where it stood.
    #[inline]
    pub(super) fn go_to(&mut self, place: (usize, usize)) {
        (self.index, self.offset) = place;
    }

    /// The unread rest of the current segment, skipping empty ones.
    #[inline]
    pub(super) fn current(&mut self) -> Option<Segment> {
        loop {
            let segment = self.list.get(self.index)?;
            if self.offset < segment.len {
                let addr = segment.addr.wrapping_add(self.offset as u64);
                return Some(Segment { addr, len: segment.len - self.offset });
            }
            self.index += 1;
            self.offset = 0;
        }
    }

    #[inline]
    pub(super) fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(segment) = self.current() else { return };
            let step = bytes.min(segment.len);
            self.offset += step;
            bytes -= step;
        }
    }

    pub(super) fn revert(&mut self, bytes: usize) {
        let len = |index| self.list.get(index).map_or(0, |segment| segment.len);
        self.go_to(back(self.place(), bytes, len));
    }

    /// Moves up to `len` bytes, `copy(user address, offset, length)` doing the work for a piece.
    #[inline]
    pub(super) fn walk(
        &mut self,
        len: usize,
        mut copy: impl FnMut(VirtAddr, usize, usize) -> usize,
    ) -> Result<usize, Fault> {
        let mut done = 0;
        while done < len {
            let Some(segment) = self.current() else { break };
            let step = segment.len.min(len - done);
            let moved = copy(segment.addr, done, step);
            self.offset += moved;
            done += moved;
            if moved < step {
                return if done == 0 { Err(Fault) } else { Ok(done) };
            }
        }
        Ok(done)
    }
}

/// A position in pieces of kernel memory that may change meanwhile.
pub(super) struct PieceCursor<'a> {
    pieces: &'a [SharedBytes<'a>],
    index: usize,
    offset: usize,
}

impl<'a> PieceCursor<'a> {
    pub(super) fn new(pieces: &'a [SharedBytes<'a>]) -> Self {
        PieceCursor { pieces, index: 0, offset: 0 }
    }

    /// Goes on by so many bytes, `each(offset, piece)` seeing the parts passed.
    pub(super) fn pass(&mut self, bytes: usize, mut each: impl FnMut(usize, SharedBytes<'a>)) {
        let mut done = 0;
        while done < bytes
            && let Some(piece) = self.pieces.get(self.index)
        {
            let part = piece.part(self.offset, bytes - done);
            each(done, part);
            done += part.len();
            self.offset += part.len();
            if self.offset >= piece.len() {
                self.index += 1;
                self.offset = 0;
            }
        }
    }

    pub(super) fn revert(&mut self, bytes: usize) {
        let len = |index| self.pieces.get(index).map_or(0, SharedBytes::len);
        (self.index, self.offset) = back((self.index, self.offset), bytes, len);
    }
}
