//! A ring of bytes of fixed size that never allocates once it exists.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::{Errno, Result};

/// A queue of bytes. Its size is a power of two.
pub struct Ring {
    data: Box<[u8]>,
    head: usize,
    tail: usize,
}

impl Ring {
    /// A ring with room for `size` bytes, rounded up to a power of two.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for it.
    pub fn new(size: usize) -> Result<Self> {
        let size = size.max(1).next_power_of_two();
        let mut data = Vec::new();
        data.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        data.resize(size, 0);
        Ok(Self { data: data.into_boxed_slice(), head: 0, tail: 0 })
    }

    /// How many bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.data.len()
    }

    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.head.wrapping_sub(self.tail)
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// How many more bytes fit.
    pub fn room(&self) -> usize {
        self.capacity() - self.len()
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.tail = self.head;
    }

    /// Appends what fits and returns how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        let start = self.head & (self.capacity() - 1);
        let first = n.min(self.capacity() - start);
        let (a, b) = bytes.split_at(n).0.split_at(first);
        if let Some(to) = self.data.get_mut(start..start + first) {
            to.copy_from_slice(a);
        }
        if let Some(to) = self.data.get_mut(..b.len()) {
            to.copy_from_slice(b);
        }
        self.head = self.head.wrapping_add(n);
        n
    }

    /// Copies bytes from the front into `out` without removing them.
    pub fn peek(&self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.len());
        let start = self.tail & (self.capacity() - 1);
        let first = n.min(self.capacity() - start);
        let (a, b) = out.split_at_mut(n).0.split_at_mut(first);
        if let Some(from) = self.data.get(start..start + first) {
            a.copy_from_slice(from);
        }
        if let Some(from) = self.data.get(..b.len()) {
            b.copy_from_slice(from);
        }
        n
    }

    /// Drops `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        self.tail = self.tail.wrapping_add(n.min(self.len()));
    }

    /// Moves bytes from the front into `out`.
    pub fn pop(&mut self, out: &mut [u8]) -> usize {
        let n = self.peek(out);
        self.consume(n);
        n
    }

    /// The first stretch of bytes that lie together.
    pub fn front(&self) -> &[u8] {
        let start = self.tail & (self.capacity() - 1);
        let n = self.len().min(self.capacity() - start);
        self.data.get(start..start + n).unwrap_or(&[])
    }

    /// Moves the contents into `larger`, which takes this ring's place.
    pub fn grow_into(&mut self, mut larger: Ring) {
        while !self.is_empty() {
            let n = larger.push(self.front());
            if n == 0 {
                break;
            }
            self.consume(n);
        }
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_deque(ops in proptest::collection::vec((any::<bool>(), 0usize..90), 0..200)) {
            let mut ring = Ring::new(64).unwrap();
            let mut model = VecDeque::new();
            let mut next = 0u8;
            for (push, n) in ops {
                if push {
                    let bytes: Vec<u8> = (0..n).map(|i| next.wrapping_add(i as u8)).collect();
                    let done = ring.push(&bytes);
                    prop_assert_eq!(done, n.min(64 - model.len()));
                    model.extend(&bytes[..done]);
                    next = next.wrapping_add(done as u8);
                } else {
                    let mut out = std::vec![0; n];
                    let done = ring.pop(&mut out);
                    prop_assert_eq!(done, n.min(model.len()));
                    for byte in &out[..done] {
                        prop_assert_eq!(Some(*byte), model.pop_front());
                    }
                }
                prop_assert_eq!(ring.len(), model.len());
            }
        }
    }
}
