//! Bytes of memory that others may read and write at the same time: frames that programs
//! map or devices use.

use crate::addr::VirtAddr;
use crate::user;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU16, AtomicU32};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Plain bytes that may change at any moment. They are only copied, so that a torn copy is all that
/// can happen.
#[derive(Clone, Copy)]
pub struct SharedBytes<'a> {
    start: *mut u8,
    len: usize,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> SharedBytes<'a> {
    /// `len` bytes at a kernel address.
    ///
    /// # Safety
    /// They can be read and written for `'a`, and nobody has a reference into them for which a
    /// concurrent change matters.
    #[inline]
    pub unsafe fn new(start: *mut u8, len: usize) -> SharedBytes<'a> {
        SharedBytes { start, len, life: PhantomData }
    }

    /// The bytes of a buffer.
    #[inline]
    pub fn of(buffer: &'a mut [u8]) -> SharedBytes<'a> {
        SharedBytes { start: buffer.as_mut_ptr(), len: buffer.len(), life: PhantomData }
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` of them from `offset` on, or what there is of those.
    #[inline]
    pub fn part(&self, offset: usize, len: usize) -> SharedBytes<'a> {
        let offset = offset.min(self.len);
        let len = len.min(self.len - offset);
        SharedBytes { start: self.start.wrapping_add(offset), len, life: PhantomData }
    }

    /// The place of a value inside, if it is one and aligned.
    #[inline]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let is_inside = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.len);
        let place = self.start.wrapping_add(offset).cast::<T>();
        (is_inside && place.is_aligned()).then_some(place)
    }

    /// A value as it is now; `None` outside or not aligned.
    #[inline]
    pub fn read<T: FromBytes>(&self, offset: usize) -> Option<T> {
        // SAFETY: inside and aligned; every bit pattern is a `T`; volatile, as others may write at
        // the same time.
        self.at::<T>(offset).map(|place| unsafe { place.read_volatile() })
    }

    /// Writes a value; nothing outside or not aligned.
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: T) {
        if let Some(place) = self.at::<T>(offset) {
            // SAFETY: inside and aligned; there are no references into the bytes.
            unsafe { place.write_volatile(value) }
        }
    }

    /// An atomic half word.
    #[inline]
    pub fn atomic16(&self, offset: usize) -> Option<&'a AtomicU16> {
        // SAFETY: inside and aligned; all sides access it atomically or by volatile accesses.
        self.at::<AtomicU16>(offset).map(|place| unsafe { &*place })
    }

    /// An atomic word.
    #[inline]
    pub fn atomic32(&self, offset: usize) -> Option<&'a AtomicU32> {
        // SAFETY: as above.
        self.at::<AtomicU32>(offset).map(|place| unsafe { &*place })
    }

    /// Copies as many as both have to a buffer.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) {
        // SAFETY: readable by the contract of `new`. `copy`: as in `copy_from`.
        unsafe { to.as_mut_ptr().copy_from(self.start, to.len().min(self.len)) };
    }

    /// Copies them to user memory; how many before the first that cannot be written.
    #[inline]
    pub fn copy_to_user(&self, to: VirtAddr) -> usize {
        // SAFETY: `len` readable bytes by the contract of `new`.
        unsafe { user::copy_to_user_raw(to, self.start, self.len) }
    }

    /// Fills them from user memory; how many before the first that cannot be read.
    #[inline]
    pub fn copy_from_user(&self, from: VirtAddr) -> usize {
        // SAFETY: `len` writable bytes by the contract of `new`.
        unsafe { user::copy_from_user_raw(self.start, from, self.len) }
    }

    /// Copies as many as both have.
    #[inline]
    pub fn copy_from(&self, from: &[u8]) {
        // SAFETY: writable by the contract of `new`. `copy`: the two may be the same memory.
        unsafe { self.start.copy_from(from.as_ptr(), from.len().min(self.len)) };
    }

    /// Copies as many as both have.
    #[inline]
    pub fn copy_from_shared(&self, from: SharedBytes<'_>) {
        // SAFETY: readable and writable by the contract of `new`. `copy`: as above.
        unsafe { self.start.copy_from(from.start, from.len.min(self.len)) };
    }

    /// Makes all of them zero.
    #[inline]
    pub fn clear(&self) {
        // SAFETY: writable by the contract of `new`.
        unsafe { self.start.write_bytes(0, self.len) };
    }
}
