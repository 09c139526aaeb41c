//! Sets of offsets, and the data that was handed over and is not acknowledged.

use alloc::collections::{BTreeMap, VecDeque};

use netdevice::Chunk;
use smallvec::SmallVec;

/// Ranges that do not touch each other.
#[derive(Default, Debug)]
pub(super) struct Ranges {
    by_start: BTreeMap<u64, u64>,
    bytes: u64,
}

impl Ranges {
    /// Adds a range; whether something of it is new.
    pub(super) fn add(&mut self, mut start: u64, mut end: u64) -> bool {
        if start >= end || self.covers(start, end) {
            return false;
        }
        if let Some((&s, &e)) = self.by_start.range(..=start).next_back()
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.by_start.range(start..=end).next() {
            end = end.max(e);
            self.by_start.remove(&s);
            self.bytes -= e - s;
        }
        self.by_start.insert(start, end);
        self.bytes += end - start;
        true
    }

    /// Forgets everything below.
    pub(super) fn cut(&mut self, below: u64) {
        while let Some((&start, &end)) = self.by_start.iter().next() {
            if start >= below {
                return;
            }
            self.by_start.remove(&start);
            self.bytes -= end - start;
            if end > below {
                self.by_start.insert(below, end);
                self.bytes += end - below;
            }
        }
    }

    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        self.by_start.range(..=start).next_back().is_some_and(|(_, e)| *e >= end)
    }

    pub(super) fn clear(&mut self) {
        self.by_start.clear();
        self.bytes = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn count(&self) -> usize {
        self.by_start.len()
    }

    /// The range around an offset.
    pub(super) fn around(&self, at: u64) -> Option<(u64, u64)> {
        let (start, end) = self.by_start.range(..=at).next_back()?;
        (*end > at).then_some((*start, *end))
    }

    /// The highest ranges first.
    pub(super) fn descending(&self) -> impl Iterator<Item = (u64, u64)> {
        self.by_start.iter().rev().map(|(start, end)| (*start, *end))
    }

    /// The first offset from `from` on that is in no range, and where that hole ends.
    pub(super) fn hole(&self, from: u64, end: u64) -> Option<(u64, u64)> {
        let start = self.around(from).map_or(from, |(_, e)| e);
        if start >= end {
            return None;
        }
        let next = self.by_start.range(start..).next().map_or(end, |(s, _)| *s);
        Some((start, next.min(end)))
    }

    /// The offset above which `bytes` are in ranges, or the third range from the top begins.
    pub(super) fn threshold(&self, bytes: u64, ranges: usize) -> Option<u64> {
        let mut above = 0;
        for (index, (start, end)) in self.descending().enumerate() {
            above += end - start;
            if above >= bytes || index + 1 >= ranges {
                return Some(start);
            }
        }
        None
    }
}

/// Data by offset.
pub(super) struct Pieces {
    pieces: VecDeque<Chunk>,
    start: u64,
    end: u64,
    /// Where the last copy ended: the piece, and the offset of its start.
    cursor: (usize, u64),
}

impl Pieces {
    pub(super) fn new(start: u64) -> Pieces {
        Pieces { pieces: VecDeque::new(), start, end: start, cursor: (0, start) }
    }

    pub(super) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn push(&mut self, piece: Chunk) {
        self.end += piece.len() as u64;
        // Small writes that lie side by side in a page are one piece.
        if let Some(last) = self.pieces.back_mut()
            && last.page.is_same(&piece.page)
            && last.offset + last.len == piece.offset
        {
            last.len += piece.len;
            return;
        }
        self.pieces.push_back(piece);
    }

    pub(super) fn clear(&mut self) {
        *self = Pieces::new(self.end);
    }

    /// Forgets what is below.
    pub(super) fn cut(&mut self, below: u64) {
        let below = below.min(self.end);
        while self.start < below {
            let Some(first) = self.pieces.front_mut() else { return };
            let len = first.len() as u64;
            if self.start + len <= below {
                self.start += len;
                self.pieces.pop_front();
                self.cursor.0 = self.cursor.0.saturating_sub(1);
            } else {
                first.advance((below - self.start) as usize);
                self.start = below;
            }
        }
        if self.cursor.1 < self.start || self.cursor.0 == 0 {
            self.cursor = (0, self.start);
        }
    }

    /// The data of a range, as pieces that share its pages.
    pub(super) fn copy(&mut self, from: u64, len: usize) -> SmallVec<[Chunk; 4]> {
        let mut out = SmallVec::new();
        let (mut index, mut at) = self.cursor;
        if from < at {
            (index, at) = (0, self.start);
        }
        let mut left = len;
        let mut from = from;
        while left > 0 {
            let Some(piece) = self.pieces.get(index) else { break };
            let piece_len = piece.len() as u64;
            if from >= at + piece_len {
                at += piece_len;
                index += 1;
                continue;
            }
            let part = piece.part((from - at) as usize, left);
            left -= part.len();
            from += part.len() as u64;
            out.push(part);
        }
        self.cursor = (index, at);
        out
    }
}
