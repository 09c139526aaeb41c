//! Split virtqueues: Virtio 1.2 §2.7, with event index (§2.7.10).
//!
//! This is the ring only. Who uses it decides which descriptors belong to which buffer; block
//! requests, for example, own the descriptor with their tag's number, so that nothing has to be
//! allocated or searched.

use core::sync::atomic::{Ordering, fence};

use abi::{Errno, Result};
use arch::PhysAddr;
use hw::{DmaBuffer, Mmio};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The buffer goes on in the descriptor `next`.
pub(crate) const NEXT: u16 = 1;
/// The device writes this part.
pub(crate) const WRITE: u16 = 2;
/// This part is a table of descriptors.
pub(crate) const INDIRECT: u16 = 4;

const NO_NOTIFY: u16 = 1;

/// A descriptor.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Used {
    id: u32,
    len: u32,
}

/// A buffer the device has finished with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// The first descriptor: below the queue's size.
    pub(crate) head: u16,
    /// How many bytes the device says it wrote; not to be trusted.
    pub(crate) written: u32,
}

/// The register that tells the device of a queue's new buffers.
#[derive(Clone)]
pub(crate) struct Doorbell {
    pub(crate) registers: Mmio,
    pub(crate) offset: usize,
}

impl Doorbell {
    #[inline]
    fn ring(&self, queue: u16) {
        self.registers.write16(self.offset, queue);
    }
}

/// Where the parts of a queue lie, for the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) descriptors: PhysAddr,
    pub(crate) available: PhysAddr,
    pub(crate) used: PhysAddr,
}

/// A virtqueue. Its user locks it.
pub(crate) struct Queue {
    index: u16,
    size: u16,
    memory: DmaBuffer,
    available: usize,
    used: usize,
    notify: Option<Doorbell>,
    has_event_index: bool,
    /// The next place in the ring of available buffers.
    next_available: u16,
    /// How much of that ring the device has been told of.
    notified: u16,
    /// The next place in the ring of used buffers.
    next_used: u16,
}

impl Queue {
    /// A queue of `size` descriptors, a power of two.
    pub(crate) fn new(index: u16, size: u16, has_event_index: bool) -> Result<Self> {
        if !size.is_power_of_two() || size > 32768 {
            return Err(Errno::EINVAL);
        }
        let entries = usize::from(size);
        let available = entries * size_of::<Descriptor>();
        let used = (available + 6 + 2 * entries).next_multiple_of(4);
        let memory = DmaBuffer::new(used + 6 + 8 * entries)?;
        Ok(Self {
            index,
            size,
            memory,
            available,
            used,
            notify: None,
            has_event_index,
            next_available: 0,
            notified: 0,
            next_used: 0,
        })
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn addresses(&self) -> Addresses {
        let base = self.memory.phys().0;
        Addresses {
            descriptors: PhysAddr(base),
            available: PhysAddr(base + self.available as u64),
            used: PhysAddr(base + self.used as u64),
        }
    }

    /// Sets the register that tells the device of new buffers.
    pub(crate) fn set_notify(&mut self, doorbell: Doorbell) {
        self.notify = Some(doorbell);
    }

    /// Sets a descriptor.
    #[inline]
    pub(crate) fn set(&self, index: u16, descriptor: Descriptor) {
        self.memory.write(usize::from(index % self.size) * size_of::<Descriptor>(), descriptor);
    }

    /// Makes the buffer that starts at `head` available to the device.
    #[inline]
    pub(crate) fn publish(&mut self, head: u16) {
        let slot = usize::from(self.next_available % self.size);
        self.memory.write(self.available + 4 + 2 * slot, head);
        self.next_available = self.next_available.wrapping_add(1);
        self.memory.store_release16(self.available + 2, self.next_available);
    }

    /// Whether the device wants to be told of what has been published since it last was.
    pub(crate) fn wants_notify(&mut self) -> bool {
        let (old, new) = (self.notified, self.next_available);
        if old == new {
            return false;
        }
        self.notified = new;
        // The index must be visible before the device's wish is read (§2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.has_event_index {
            let event: u16 = self.memory.read(self.used + 4 + 8 * usize::from(self.size));
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        self.memory.read::<u16>(self.used) & NO_NOTIFY == 0
    }

    /// The register, to be written after the queue's lock has been released.
    pub(crate) fn notifier(&self) -> Option<Notifier> {
        self.notify.clone().map(|doorbell| Notifier { doorbell, index: self.index })
    }

    /// Tells the device, if it wants to be told.
    pub(crate) fn notify(&mut self) {
        if self.wants_notify()
            && let Some(doorbell) = &self.notify
        {
            doorbell.ring(self.index);
        }
    }

    /// Takes a finished buffer. A head that is no descriptor of this queue is skipped.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Finished> {
        loop {
            if self.memory.load_acquire16(self.used + 2) == self.next_used {
                return None;
            }
            let slot = usize::from(self.next_used % self.size);
            let used: Used = self.memory.read(self.used + 4 + 8 * slot);
            self.next_used = self.next_used.wrapping_add(1);
            if let Ok(head) = u16::try_from(used.id)
                && head < self.size
            {
                return Some(Finished { head, written: used.len });
            }
        }
    }

    /// Asks the device to interrupt at the next finished buffer. Returns whether one is there
    /// already.
    pub(crate) fn enable_interrupts(&mut self) -> bool {
        if self.has_event_index {
            let event = self.available + 4 + 2 * usize::from(self.size);
            self.memory.write(event, self.next_used);
        } else {
            self.memory.write(self.available, 0u16);
        }
        // The wish must be visible before the index is read again.
        fence(Ordering::SeqCst);
        self.memory.load_acquire16(self.used + 2) != self.next_used
    }
}

/// Tells the device of a queue's new buffers.
#[derive(Clone)]
pub(crate) struct Notifier {
    doorbell: Doorbell,
    index: u16,
}

impl Notifier {
    pub(crate) fn notify(&self) {
        self.doorbell.ring(self.index);
    }
}

/// The device's side of a queue, for tests.
#[cfg(test)]
pub(crate) struct Device {
    seen: u16,
    finished: u16,
}

#[cfg(test)]
impl Device {
    pub(crate) fn new() -> Self {
        Self { seen: 0, finished: 0 }
    }

    /// The next buffer that the driver has made available: its first descriptor.
    pub(crate) fn next(&mut self, queue: &Queue) -> Option<(u16, Descriptor)> {
        if queue.memory.load_acquire16(queue.available + 2) == self.seen {
            return None;
        }
        let slot = usize::from(self.seen % queue.size);
        self.seen = self.seen.wrapping_add(1);
        let head: u16 = queue.memory.read(queue.available + 4 + 2 * slot);
        Some((head, queue.memory.read(usize::from(head) * size_of::<Descriptor>())))
    }

    /// Gives a buffer back.
    pub(crate) fn finish(&mut self, queue: &Queue, id: u32, len: u32) {
        let slot = usize::from(self.finished % queue.size);
        queue.memory.write(queue.used + 4 + 8 * slot, Used { id, len });
        self.finished = self.finished.wrapping_add(1);
        queue.memory.store_release16(queue.used + 2, self.finished);
    }
}
