//! The two directions of a port: slots that the device fills, and slots that it sends.
//!
//! A slot's number is its descriptor's. Nothing is allocated after the start.

use alloc::collections::VecDeque;

use abi::Result;
use hw::DmaBuffer;

use crate::queue::{Descriptor, Queue, WRITE};

/// Slots of a queue.
pub(super) const SLOTS: u16 = 16;
/// Bytes of a slot.
pub(super) const SLOT: usize = 512;

/// What comes from the device.
pub(super) struct Input {
    queue: Queue,
    buffer: Option<DmaBuffer>,
    /// Slots that the device has, as bits.
    posted: u32,
    /// Filled slots in order, with the number of their bytes.
    filled: VecDeque<(u16, usize)>,
    /// Bytes of the first one that have been taken.
    taken: usize,
}

impl Input {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue, buffer: None, posted: 0, filled: VecDeque::new(), taken: 0 }
    }

    /// Lets the device fill the slots. More than once does no harm.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.buffer.is_some() {
            return Ok(());
        }
        let slots = self.queue.size();
        self.filled.reserve(usize::from(slots));
        self.buffer = Some(DmaBuffer::new(usize::from(slots) * SLOT)?);
        for slot in 0..slots {
            self.post(slot);
        }
        self.queue.enable_interrupts();
        self.queue.notify();
        Ok(())
    }

    fn post(&mut self, slot: u16) {
        let Some(buffer) = &self.buffer else { return };
        let addr = buffer.phys().0 + u64::from(slot) * SLOT as u64;
        self.queue.set(slot, Descriptor { addr, len: SLOT as u32, flags: WRITE, next: 0 });
        self.queue.publish(slot);
        self.posted |= 1 << slot;
    }

    /// Notes what the device has filled; whether anything is there to take.
    pub(super) fn collect(&mut self) -> bool {
        loop {
            while let Some(done) = self.queue.take() {
                // A slot that the device did not have is a lie of its.
                if self.posted & 1 << done.head != 0 {
                    self.posted &= !(1 << done.head);
                    self.filled.push_back((done.head, (done.written as usize).min(SLOT)));
                }
            }
            if !self.queue.enable_interrupts() {
                return !self.filled.is_empty();
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// Copies bytes of the first slot without taking them; how many. An empty slot is skipped.
    pub(super) fn peek(&mut self, out: &mut [u8]) -> usize {
        while let Some(&(slot, len)) = self.filled.front() {
            let n = (len - self.taken).min(out.len());
            if len == 0 {
                self.consume(0);
                continue;
            }
            if let (Some(buffer), Some(out)) = (&self.buffer, out.get_mut(..n)) {
                buffer.copy_out(usize::from(slot) * SLOT + self.taken, out);
            }
            return n;
        }
        0
    }

    /// Takes bytes of the first slot, which goes back to the device when it is empty.
    pub(super) fn consume(&mut self, n: usize) {
        let Some(&(slot, len)) = self.filled.front() else { return };
        self.taken += n;
        if self.taken >= len {
            self.taken = 0;
            self.filled.pop_front();
            self.post(slot);
            self.queue.notify();
        }
    }
}

/// What goes to the device.
pub(super) struct Output {
    queue: Queue,
    buffer: Option<DmaBuffer>,
    /// Slots that the device does not have, as bits.
    free: u32,
    /// Bytes that the device has in each slot.
    lengths: [u16; SLOTS as usize],
}

impl Output {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue, buffer: None, free: 0, lengths: [0; SLOTS as usize] }
    }

    /// Makes room. More than once does no harm.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.buffer.is_some() {
            return Ok(());
        }
        let slots = self.queue.size();
        self.buffer = Some(DmaBuffer::new(usize::from(slots) * SLOT)?);
        self.free = ((1u64 << slots) - 1) as u32;
        self.queue.enable_interrupts();
        Ok(())
    }

    /// Takes back what the device has sent.
    pub(super) fn collect(&mut self) {
        loop {
            while let Some(done) = self.queue.take() {
                self.free |= 1 << done.head;
                if let Some(len) = self.lengths.get_mut(usize::from(done.head)) {
                    *len = 0;
                }
            }
            if !self.queue.enable_interrupts() {
                return;
            }
        }
    }

    /// How many bytes [`write`](Self::write) would take.
    pub(super) fn room(&self) -> usize {
        self.free.count_ones() as usize * SLOT
    }

    /// How many bytes the device has not sent.
    pub(super) fn in_flight(&self) -> usize {
        self.lengths.iter().map(|len| usize::from(*len)).sum()
    }

    /// Gives the device bytes; how many.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.free == 0 {
            self.collect();
        }
        let Some(buffer) = &self.buffer else { return 0 };
        let mut done = 0;
        for part in bytes.chunks(SLOT) {
            if self.free == 0 {
                break;
            }
            let slot = self.free.trailing_zeros() as u16;
            let at = usize::from(slot) * SLOT;
            buffer.copy_in(at, part);
            let addr = buffer.phys().0 + at as u64;
            self.queue.set(slot, Descriptor { addr, len: part.len() as u32, flags: 0, next: 0 });
            self.queue.publish(slot);
            self.free &= !(1 << slot);
            if let Some(len) = self.lengths.get_mut(usize::from(slot)) {
                *len = part.len() as u16;
            }
            done += part.len();
        }
        self.queue.notify();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Device;

    fn queue() -> Queue {
        frames::init_host(64 << 20);
        Queue::new(0, SLOTS, true).expect("memory")
    }

    #[test]
    fn input_comes_in_order_and_slots_go_back() {
        let mut input = Input::new(queue());
        input.start().expect("memory");
        input.start().expect("memory");
        let mut device = Device::new();
        let mut given = 0;
        for round in 0..100u8 {
            while let Some((head, part)) = device.next(&input.queue) {
                assert_eq!((part.len, part.flags), (SLOT as u32, WRITE));
                let offset = usize::from(head) * SLOT;
                input.buffer.as_ref().expect("started").copy_in(offset, &[round, head as u8]);
                device.finish(&input.queue, u32::from(head), 2);
                given += 1;
            }
            assert!(input.collect());
            let mut bytes = [0; SLOT];
            for _ in 0..SLOTS {
                // A byte at a time.
                assert_eq!(input.peek(&mut bytes[..1]), 1);
                assert_eq!(bytes[0], round);
                input.consume(1);
                assert_eq!(input.peek(&mut bytes), 1);
                input.consume(1);
            }
            assert!(input.is_empty());
        }
        assert_eq!(given, 100 * u32::from(SLOTS));
    }

    #[test]
    fn lies_of_the_device_do_no_harm() {
        let mut input = Input::new(queue());
        input.start().expect("memory");
        let mut device = Device::new();
        let (head, _) = device.next(&input.queue).expect("posted");
        // Twice the same slot, more bytes than it has, no bytes, and a slot that does not exist.
        device.finish(&input.queue, u32::from(head), u32::MAX);
        device.finish(&input.queue, u32::from(head), 5);
        let (empty, _) = device.next(&input.queue).expect("posted");
        device.finish(&input.queue, u32::from(empty), 0);
        device.finish(&input.queue, 70_000, 5);
        assert!(input.collect());
        let mut bytes = [0; 2 * SLOT];
        assert_eq!(input.peek(&mut bytes), SLOT);
        input.consume(SLOT);
        assert_eq!(input.peek(&mut bytes), 0);
        // Both slots are the device's again.
        assert_eq!(core::iter::from_fn(|| device.next(&input.queue)).count(), usize::from(SLOTS));
    }

    #[test]
    fn output_is_bounded_and_comes_back() {
        let mut output = Output::new(queue());
        assert_eq!((output.write(b"early"), output.room()), (0, 0));
        output.start().expect("memory");
        let all = usize::from(SLOTS) * SLOT;
        assert_eq!(output.room(), all);
        let bytes: alloc::vec::Vec<u8> = (0..all + 1).map(|n| n as u8).collect();
        assert_eq!(output.write(&bytes), all);
        assert_eq!((output.room(), output.in_flight(), output.write(b"x")), (0, all, 0));
        let mut device = Device::new();
        let mut sent = alloc::vec::Vec::new();
        while let Some((head, part)) = device.next(&output.queue) {
            let mut slot = [0; SLOT];
            let buffer = output.buffer.as_ref().expect("started");
            buffer.copy_out((part.addr - buffer.phys().0) as usize, &mut slot);
            sent.extend_from_slice(&slot[..part.len as usize]);
            device.finish(&output.queue, u32::from(head), 0);
        }
        assert_eq!(sent, bytes[..all]);
        assert_eq!(output.write(b"x"), 1);
        assert_eq!(output.in_flight(), 1);
    }
}
