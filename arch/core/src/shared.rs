//! Bytes of memory that others may read and write at the same time: frames that programs map.

use crate::addr::VirtAddr;
use crate::user;
use core::marker::PhantomData;

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

    /// The bytes for copying them elsewhere.
    #[inline]
    pub fn to_copy(&self) -> &'a [u8] {
        // SAFETY: readable for `'a` by the contract of `new`, or a buffer. Another processor may
        // change them meanwhile (a mapped file page); they are only copied.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
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

    /// Makes all of them zero.
    #[inline]
    pub fn clear(&self) {
        // SAFETY: writable by the contract of `new`.
        unsafe { self.start.write_bytes(0, self.len) };
    }
}
