//! Memory that devices read and write. x86 keeps it coherent with the caches.

use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use arch::{PAGE_SIZE, PhysAddr};
use frames::{Flags, FrameBlock};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Physically contiguous, zeroed memory shared with a device. The device may change it at any
/// time, so there are no references into it: accesses are volatile or atomic, and by value.
///
/// Offsets that are outside, or not aligned to their width, read as zero and writes there do
/// nothing: a driver's offsets come from its own ring arithmetic.
pub struct DmaBuffer {
    frames: FrameBlock,
}

impl DmaBuffer {
    /// At least `len` bytes, starting at a page.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(len: usize) -> Result<Self> {
        Self::with_flags(len, Flags::ZERO)
    }

    /// The same below 4 GiB, for devices with addresses of 32 bits.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new_low(len: usize) -> Result<Self> {
        Self::with_flags(len, Flags::ZERO | Flags::DMA32)
    }

    fn with_flags(len: usize, flags: Flags) -> Result<Self> {
        let pages = len.div_ceil(PAGE_SIZE).max(1).next_power_of_two();
        let order = u8::try_from(pages.trailing_zeros()).map_err(|_| Errno::ENOMEM)?;
        let frames = frames::alloc(order, flags).map_err(|_| Errno::ENOMEM)?;
        Ok(Self { frames })
    }

    /// Where the device finds it.
    pub fn phys(&self) -> PhysAddr {
        self.frames.phys()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        PAGE_SIZE << self.frames.order()
    }

    /// Never: it has at least a page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the memory up for ever: a device that cannot be stopped may still use it.
    pub fn leak(self) {
        core::mem::forget(self.frames);
    }

    /// Reads a value.
    #[inline]
    pub fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        self.frames.bytes().read(offset).unwrap_or_else(T::new_zeroed)
    }

    /// Writes a value.
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: T) {
        self.frames.bytes().write(offset, value);
    }

    /// Reads 16 bits that the device writes after what they announce.
    #[inline]
    pub fn load_acquire16(&self, offset: usize) -> u16 {
        // Acquire: what the device wrote before is visible after this.
        self.frames.bytes().atomic16(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes 16 bits that announce what was written before.
    #[inline]
    pub fn store_release16(&self, offset: usize, value: u16) {
        if let Some(word) = self.frames.bytes().atomic16(offset) {
            // Release: what was written before is visible before this.
            word.store(value, Ordering::Release);
        }
    }

    /// Reads 32 bits that the device writes after what they announce.
    #[inline]
    pub fn load_acquire32(&self, offset: usize) -> u32 {
        // Acquire: as above.
        self.frames.bytes().atomic32(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Copies bytes out.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        let part = self.frames.bytes().part(offset, out.len());
        if part.len() == out.len() {
            part.copy_to(out);
        }
    }

    /// Copies bytes in.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let part = self.frames.bytes().part(offset, bytes.len());
        if part.len() == bytes.len() {
            part.copy_from(bytes);
        }
    }
}

/// An array of structures in a [`DmaBuffer`].
pub struct DmaArray<T> {
    buffer: DmaBuffer,
    len: usize,
    kind: PhantomData<fn(T) -> T>,
}

impl<T: FromBytes + IntoBytes + Immutable> DmaArray<T> {
    /// `len` zeroed elements.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(len: usize) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(Errno::ENOMEM)?;
        Ok(Self { buffer: DmaBuffer::new(bytes)?, len, kind: PhantomData })
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the device finds it.
    pub fn phys(&self) -> PhysAddr {
        self.buffer.phys()
    }

    /// Where the device finds an element.
    pub fn phys_of(&self, index: usize) -> PhysAddr {
        PhysAddr(self.buffer.phys().0 + (index * size_of::<T>()) as u64)
    }

    /// An element's value.
    #[inline]
    pub fn get(&self, index: usize) -> T {
        self.buffer.read(index.wrapping_mul(size_of::<T>()))
    }

    /// Sets an element.
    #[inline]
    pub fn set(&self, index: usize, value: T) {
        if index < self.len {
            self.buffer.write(index * size_of::<T>(), value);
        }
    }

    /// The bytes below.
    pub fn buffer(&self) -> &DmaBuffer {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_stay_inside() {
        frames::init_host(64 << 20);
        let Ok(buffer) = DmaBuffer::new(100) else { return };
        assert_eq!(buffer.len(), PAGE_SIZE);
        buffer.write(8, 7u32);
        assert_eq!(buffer.read::<u32>(8), 7);
        buffer.write(PAGE_SIZE - 2, 7u32);
        assert_eq!(buffer.read::<u32>(PAGE_SIZE - 2), 0);
        assert_eq!(buffer.read::<u32>(usize::MAX), 0);
        buffer.store_release16(2, 9);
        assert_eq!(buffer.load_acquire16(2), 9);
    }
}
