//! Access to user memory.
//!
//! A user pointer is a [`VirtAddr`]; nothing here trusts it. The range is checked against
//! [`USER_END`], the page-fault handler is asked for missing pages, and a page that stays missing
//! ends in [`Fault`], never in a kernel fault. Any access made in atomic context stops at the first
//! missing page.

#[cfg(not(target_os = "none"))]
use crate::host::user as imp;
#[cfg(target_os = "none")]
use crate::x86::usercopy as imp;

use crate::addr::{USER_END, VirtAddr};
use core::mem::MaybeUninit;
use zerocopy::FromBytes;

/// A user address that cannot be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

impl From<Fault> for abi::Errno {
    fn from(_: Fault) -> abi::Errno {
        abi::Errno::EFAULT
    }
}

/// Whether `addr..addr+len` lies in the user half.
#[inline(always)]
pub fn range_ok(addr: VirtAddr, len: usize) -> bool {
    addr.0.checked_add(len as u64).is_some_and(|end| end <= USER_END)
}

/// Fills the buffer from user memory. On a fault the tail of the buffer is unspecified.
#[inline]
pub fn copy_from_user(to: &mut [u8], from: VirtAddr) -> Result<(), Fault> {
    whole(copy_from_user_partial(to, from), to.len())
}

/// Copies the buffer to user memory.
#[inline]
pub fn copy_to_user(to: VirtAddr, from: &[u8]) -> Result<(), Fault> {
    whole(copy_to_user_partial(to, from), from.len())
}

/// Copies as much as can be accessed, asking for missing pages; the bytes done.
#[inline]
pub fn copy_from_user_partial(to: &mut [u8], from: VirtAddr) -> usize {
    if !range_ok(from, to.len()) {
        return 0;
    }
    // SAFETY: the destination is a live buffer of that length, the source is in the user half.
    unsafe { imp::copy_in(to.as_mut_ptr(), from.0, to.len()) }
}

/// Copies as much as can be accessed, asking for missing pages; the bytes done.
#[inline]
pub fn copy_to_user_partial(to: VirtAddr, from: &[u8]) -> usize {
    // SAFETY: a live buffer of that length.
    unsafe { copy_to_user_raw(to, from.as_ptr(), from.len()) }
}

/// Copies from memory given by pointer; the bytes done.
///
/// # Safety
/// `from..from+len` is valid for reads.
#[inline]
pub(crate) unsafe fn copy_to_user_raw(to: VirtAddr, from: *const u8, len: usize) -> usize {
    if !range_ok(to, len) {
        return 0;
    }
    // SAFETY: the caller vouches for the source; the destination is in the user half.
    unsafe { imp::copy_out(to.0, from, len) }
}

/// Copies into memory given by pointer; the bytes done.
///
/// # Safety
/// `to..to+len` is valid for writes.
#[inline]
pub(crate) unsafe fn copy_from_user_raw(to: *mut u8, from: VirtAddr, len: usize) -> usize {
    if !range_ok(from, len) {
        return 0;
    }
    // SAFETY: the caller vouches for the destination; the source is in the user half.
    unsafe { imp::copy_in(to, from.0, len) }
}

/// Writes zeros as far as can be accessed; the bytes done.
#[inline]
pub fn clear_user_partial(to: VirtAddr, len: usize) -> usize {
    if !range_ok(to, len) {
        return 0;
    }
    // SAFETY: the destination is in the user half.
    unsafe { imp::clear(to.0, len) }
}

#[inline(always)]
fn whole(done: usize, wanted: usize) -> Result<(), Fault> {
    if done == wanted { Ok(()) } else { Err(Fault) }
}

/// Reads a value of plain data.
#[inline]
pub fn read_val<T: FromBytes>(from: VirtAddr) -> Result<T, Fault> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` is `size_of::<T>()` writable bytes.
    let done = unsafe { copy_from_user_raw(value.as_mut_ptr().cast(), from, size_of::<T>()) };
    whole(done, size_of::<T>())?;
    // SAFETY: every byte was written and `FromBytes` accepts all of them.
    Ok(unsafe { value.assume_init() })
}

/// Stores half words, the first at `to` and each eight bytes behind the one before: a field of an
/// array of structures.
#[inline]
pub fn scatter_u16(to: VirtAddr, values: &[u16]) -> Result<(), Fault> {
    let Some(before) = values.len().checked_sub(1) else { return Ok(()) };
    if !before.checked_mul(8).is_some_and(|before| range_ok(to, before + 2)) {
        return Err(Fault);
    }
    // SAFETY: the half words are in the user half.
    whole(unsafe { imp::scatter_u16(to.0, values) }, values.len())
}

/// Loads an aligned word in one access.
#[inline]
pub fn load_u32(from: VirtAddr) -> Result<u32, Fault> {
    check_word(from, 4)?;
    // SAFETY: the word is aligned and in the user half.
    unsafe { imp::load_u32(from.0) }
}

/// Stores an aligned word in one access.
#[inline]
pub fn store_u32(to: VirtAddr, value: u32) -> Result<(), Fault> {
    check_word(to, 4)?;
    // SAFETY: the word is aligned and in the user half.
    unsafe { imp::exchange_u32(to.0, value) }.map(drop)
}

/// Loads an aligned double word in one access.
#[inline]
pub fn load_u64(from: VirtAddr) -> Result<u64, Fault> {
    check_word(from, 8)?;
    // SAFETY: the word is aligned and in the user half.
    unsafe { imp::load_u64(from.0) }
}

/// Compares and exchanges atomically; the word that was there.
#[inline]
pub fn cmpxchg_u32(at: VirtAddr, old: u32, new: u32) -> Result<u32, Fault> {
    check_word(at, 4)?;
    // SAFETY: the word is aligned and in the user half.
    unsafe { imp::cmpxchg_u32(at.0, old, new) }
}

#[inline(always)]
fn check_word(at: VirtAddr, size: u64) -> Result<(), Fault> {
    if at.is_aligned(size) && range_ok(at, size as usize) { Ok(()) } else { Err(Fault) }
}
