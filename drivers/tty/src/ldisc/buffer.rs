//! The input queue of the line discipline: a ring of bytes with the ends of lines marked.

use alloc::boxed::Box;
use alloc::vec;

/// How many bytes the queue has room for; also the limit of a line in canonical mode (termios(3)).
pub(super) const SIZE: usize = 4096;

const MASK: usize = SIZE - 1;

/// Bytes received and not yet read.
///
/// Positions only grow (and wrap around with `usize`). From `tail` to `canon_head` lie complete
/// lines, from `canon_head` to `head` the line that is being edited.
pub(super) struct LineBuffer {
    data: Box<[u8]>,
    ends: [u64; SIZE / 64],
    pub(super) head: usize,
    pub(super) canon_head: usize,
    pub(super) tail: usize,
}

impl LineBuffer {
    pub(super) fn new() -> Self {
        Self {
            data: vec![0; SIZE].into_boxed_slice(),
            ends: [0; SIZE / 64],
            head: 0,
            canon_head: 0,
            tail: 0,
        }
    }

    /// Bytes in the queue, complete lines or not.
    pub(super) fn len(&self) -> usize {
        self.head.wrapping_sub(self.tail)
    }

    pub(super) fn room(&self) -> usize {
        SIZE - self.len()
    }

    pub(super) fn has_line(&self) -> bool {
        self.canon_head != self.tail
    }

    /// Whether nothing has been typed since the last end of line.
    pub(super) fn is_line_empty(&self) -> bool {
        self.head == self.canon_head
    }

    pub(super) fn clear(&mut self) {
        self.head = 0;
        self.canon_head = 0;
        self.tail = 0;
        self.ends = [0; SIZE / 64];
    }

    pub(super) fn at(&self, position: usize) -> u8 {
        self.data.get(position & MASK).copied().unwrap_or(0)
    }

    /// Appends a byte; the caller has checked that there is room.
    pub(super) fn push(&mut self, byte: u8) {
        if self.room() == 0 {
            return;
        }
        if let Some(slot) = self.data.get_mut(self.head & MASK) {
            *slot = byte;
        }
        self.head = self.head.wrapping_add(1);
    }

    /// Appends what fits of `bytes` and returns how much that was.
    pub(super) fn push_slice(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && self.room() > 0 {
            let start = self.head & MASK;
            let n = (bytes.len() - done).min(self.room()).min(SIZE - start);
            let (Some(to), Some(from)) =
                (self.data.get_mut(start..start + n), bytes.get(done..done + n))
            else {
                break;
            };
            to.copy_from_slice(from);
            self.head = self.head.wrapping_add(n);
            done += n;
        }
        done
    }

    /// Appends the byte that ends a line, and completes the line.
    pub(super) fn push_end(&mut self, byte: u8) {
        let position = self.head;
        self.push(byte);
        if self.head != position {
            self.mark(position);
            self.canon_head = self.head;
        }
    }

    pub(super) fn mark(&mut self, position: usize) {
        let index = position & MASK;
        if let Some(word) = self.ends.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    fn unmark(&mut self, position: usize) {
        let index = position & MASK;
        if let Some(word) = self.ends.get_mut(index / 64) {
            *word &= !(1 << (index % 64));
        }
    }

    pub(super) fn clear_marks(&mut self) {
        self.ends = [0; SIZE / 64];
    }

    /// The position of the first end of line in `from..to`, looking at 64 bytes at once.
    fn find_end(&self, from: usize, to: usize) -> Option<usize> {
        let mut position = from;
        while position != to {
            let index = position & MASK;
            let word = self.ends.get(index / 64).copied().unwrap_or(0) >> (index % 64);
            if word == 0 {
                let step = 64 - index % 64;
                if to.wrapping_sub(position) <= step {
                    return None;
                }
                position = position.wrapping_add(step);
                continue;
            }
            let found = position.wrapping_add(word.trailing_zeros() as usize);
            return (found.wrapping_sub(from) < to.wrapping_sub(from)).then_some(found);
        }
        None
    }

    fn copy_out(&self, from: usize, out: &mut [u8]) {
        let start = from & MASK;
        let first = out.len().min(SIZE - start);
        let (a, b) = out.split_at_mut(first);
        if let Some(data) = self.data.get(start..start + first) {
            a.copy_from_slice(data);
        }
        if let Some(data) = self.data.get(..b.len()) {
            b.copy_from_slice(data);
        }
    }

    /// Takes bytes without regard to lines.
    pub(super) fn take_raw(&mut self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.len());
        if let Some(out) = out.get_mut(..n) {
            self.copy_out(self.tail, out);
        }
        self.tail = self.tail.wrapping_add(n);
        n
    }

    /// Takes bytes of the first complete line.
    ///
    /// Returns how many, and whether the line has come to its end. `is_eof(byte)` says whether an
    /// end-of-line byte is the end-of-file mark, which is swallowed.
    pub(super) fn take_line(&mut self, out: &mut [u8], eof: u8) -> (usize, bool) {
        if !self.has_line() {
            return (0, false);
        }
        let end = self.find_end(self.tail, self.canon_head);
        let available = match end {
            Some(end) => end.wrapping_sub(self.tail).wrapping_add(1),
            None => self.canon_head.wrapping_sub(self.tail),
        };
        let ends_with_eof = end.is_some_and(|end| self.at(end) == eof);
        let readable = if ends_with_eof { available - 1 } else { available };
        let n = readable.min(out.len());
        if let Some(out) = out.get_mut(..n) {
            self.copy_out(self.tail, out);
        }
        if n < readable {
            self.tail = self.tail.wrapping_add(n);
            return (n, false);
        }
        if let Some(end) = end {
            self.unmark(end);
        }
        self.tail = self.tail.wrapping_add(available);
        (n, end.is_some())
    }

    /// How many bytes of complete lines there are, without the marks of end of file.
    pub(super) fn line_bytes(&self, eof: u8) -> usize {
        let mut n = self.canon_head.wrapping_sub(self.tail);
        let mut from = self.tail;
        while let Some(end) = self.find_end(from, self.canon_head) {
            if self.at(end) == eof {
                n -= 1;
            }
            from = end.wrapping_add(1);
        }
        n
    }

    /// Drops the last byte of the line being edited.
    pub(super) fn pop(&mut self) {
        if !self.is_line_empty() {
            self.head = self.head.wrapping_sub(1);
        }
    }

    /// Everything in the queue becomes readable at once.
    pub(super) fn push_all(&mut self) {
        self.clear_marks();
        if self.len() > 0 {
            self.mark(self.head.wrapping_sub(1));
        }
        self.canon_head = self.head;
    }

    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        self.len() <= SIZE && self.canon_head.wrapping_sub(self.tail) <= self.len()
    }
}
