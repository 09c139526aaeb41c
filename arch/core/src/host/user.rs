//! User memory of the simulator: host buffers that were registered as such.

use crate::addr::VirtAddr;
use crate::user::Fault;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Start → end of each registered range.
static RANGES: RwLock<BTreeMap<u64, u64>> = RwLock::new(BTreeMap::new());

/// Registers a host range as user memory.
///
/// # Safety
/// The range stays mapped until [`unregister`], and nobody holds references into it.
pub unsafe fn register(start: VirtAddr, len: usize) {
    let mut ranges = RANGES.write().unwrap_or_else(PoisonError::into_inner);
    ranges.insert(start.0, start.0 + len as u64);
}

/// Takes a range out again.
pub fn unregister(start: VirtAddr) {
    RANGES.write().unwrap_or_else(PoisonError::into_inner).remove(&start.0);
}

/// How many of the bytes at `addr` are user memory.
fn accessible(addr: u64, len: usize) -> usize {
    let ranges = RANGES.read().unwrap_or_else(PoisonError::into_inner);
    match ranges.range(..=addr).next_back() {
        Some((_, end)) if *end > addr => len.min((*end - addr) as usize),
        _ => 0,
    }
}

/// A page-aligned zeroed buffer that counts as user memory while it lives.
pub struct UserBuffer {
    start: *mut u8,
    layout: std::alloc::Layout,
}

// SAFETY: the buffer is only accessed through the copy routines.
unsafe impl Send for UserBuffer {}
// SAFETY: as above.
unsafe impl Sync for UserBuffer {}

impl UserBuffer {
    /// Makes one of `len` bytes.
    pub fn new(len: usize) -> UserBuffer {
        let layout = std::alloc::Layout::from_size_align(len.max(1), 4096)
            .unwrap_or_else(|error| panic!("user buffer of {len} bytes: {error}"));
        // SAFETY: the size is not zero.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!start.is_null(), "no memory for a user buffer of {len} bytes");
        // SAFETY: the allocation lives until `drop`, which unregisters it first.
        unsafe { register(VirtAddr::from_ptr(start), len) };
        UserBuffer { start, layout }
    }
    /// Its address as a program would pass it.
    pub fn addr(&self) -> VirtAddr {
        VirtAddr::from_ptr(self.start)
    }
}

impl Drop for UserBuffer {
    fn drop(&mut self) {
        unregister(self.addr());
        // SAFETY: allocated with this layout in `new`.
        unsafe { std::alloc::dealloc(self.start, self.layout) };
    }
}

pub(crate) unsafe fn copy_in(to: *mut u8, from: u64, len: usize) -> usize {
    let len = accessible(from, len);
    // SAFETY: the source is registered; the caller vouches for the destination.
    unsafe { to.copy_from(from as *const u8, len) };
    len
}

pub(crate) unsafe fn copy_out(to: u64, from: *const u8, len: usize) -> usize {
    let len = accessible(to, len);
    // SAFETY: the destination is registered; the caller vouches for the source.
    unsafe { (to as *mut u8).copy_from(from, len) };
    len
}

pub(crate) unsafe fn clear(to: u64, len: usize) -> usize {
    let len = accessible(to, len);
    // SAFETY: the destination is registered.
    unsafe { (to as *mut u8).write_bytes(0, len) };
    len
}

fn word(at: u64, size: usize) -> Result<(), Fault> {
    if accessible(at, size) == size { Ok(()) } else { Err(Fault) }
}

pub(crate) unsafe fn scatter_u16(to: u64, values: &[u16]) -> usize {
    for (at, value) in values.iter().enumerate() {
        let to = to + at as u64 * 8;
        if word(to, 2).is_err() {
            return at;
        }
        // SAFETY: registered.
        unsafe { (to as *mut u16).write_unaligned(*value) };
    }
    values.len()
}

pub(crate) unsafe fn load_u32(from: u64) -> Result<u32, Fault> {
    word(from, 4)?;
    // SAFETY: registered and aligned.
    Ok(unsafe { AtomicU32::from_ptr(from as *mut u32) }.load(Ordering::SeqCst))
}

pub(crate) unsafe fn load_u64(from: u64) -> Result<u64, Fault> {
    word(from, 8)?;
    // SAFETY: registered and aligned.
    Ok(unsafe { AtomicU64::from_ptr(from as *mut u64) }.load(Ordering::SeqCst))
}

pub(crate) unsafe fn exchange_u32(at: u64, value: u32) -> Result<u32, Fault> {
    word(at, 4)?;
    // SAFETY: registered and aligned.
    Ok(unsafe { AtomicU32::from_ptr(at as *mut u32) }.swap(value, Ordering::SeqCst))
}

pub(crate) unsafe fn cmpxchg_u32(at: u64, old: u32, new: u32) -> Result<u32, Fault> {
    word(at, 4)?;
    // SAFETY: registered and aligned.
    let word = unsafe { AtomicU32::from_ptr(at as *mut u32) };
    match word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(seen) | Err(seen) => Ok(seen),
    }
}
