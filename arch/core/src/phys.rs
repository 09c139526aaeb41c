//! The direct map: every byte of physical memory has one fixed kernel virtual address.

use crate::addr::PhysAddr;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where the direct map starts when no slide is applied.
pub const DEFAULT_BASE: u64 = 0xffff_8880_0000_0000;

static BASE: AtomicU64 = AtomicU64::new(DEFAULT_BASE);

#[cfg(target_os = "none")]
static IMAGE_OFFSET: AtomicU64 = AtomicU64::new(0);

/// Where physical address zero is mapped.
#[inline(always)]
pub fn base() -> u64 {
    BASE.load(Ordering::Relaxed)
}

/// Moves the base of the direct map; by the boot code, before the first use, and by the host arena.
pub fn set_base(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

/// Tells what to subtract from a virtual address in the kernel image to get the physical one.
#[cfg(target_os = "none")]
pub fn set_image_offset(offset: u64) {
    IMAGE_OFFSET.store(offset, Ordering::Relaxed);
}

/// The kernel's address of a physical one. Following it is the caller's `unsafe`.
#[inline(always)]
pub fn to_virt(addr: PhysAddr) -> *mut u8 {
    base().wrapping_add(addr.0) as *mut u8
}

/// The physical address behind a pointer into the direct map or the kernel image.
#[inline]
pub fn to_phys<T: ?Sized>(ptr: *const T) -> PhysAddr {
    let raw = ptr.cast::<u8>() as u64;
    #[cfg(target_os = "none")]
    if raw >= 0xffff_ffff_8000_0000 {
        return PhysAddr(raw.wrapping_sub(IMAGE_OFFSET.load(Ordering::Relaxed)));
    }
    PhysAddr(raw.wrapping_sub(base()))
}
