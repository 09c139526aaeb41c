//! The allocator's face: which layout goes where.

use crate::{large, slab};
use core::alloc::{GlobalAlloc, Layout};

/// The kernel's `#[global_allocator]`.
pub struct Heap;

// SAFETY: each layout goes to one place, computed the same way when it is freed; the places hand
// out each byte to one owner at a time, aligned as asked.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match slab::class_of(layout) {
            Some(class) => slab::alloc(class),
            None => large::alloc(layout, false),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        match slab::class_of(layout) {
            // SAFETY: the caller vouches that `alloc` gave `ptr` for this layout.
            Some(class) => unsafe { slab::free(class, ptr) },
            // SAFETY: likewise.
            None => unsafe { large::free(ptr, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(class) = slab::class_of(layout) else { return large::alloc(layout, true) };
        let ptr = slab::alloc(class);
        if !ptr.is_null() {
            // SAFETY: a fresh object of at least this size.
            unsafe { core::ptr::write_bytes(ptr, 0, layout.size()) };
        }
        ptr
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else {
            return core::ptr::null_mut();
        };
        let (old_class, new_class) = (slab::class_of(layout), slab::class_of(new));
        let stays = match (old_class, new_class) {
            (Some(old), Some(new)) => old == new,
            (None, None) => large::footprint(layout) == large::footprint(new),
            _ => false,
        };
        if stays {
            return ptr;
        }
        // SAFETY: the caller vouches for `ptr` and `layout`; the new object is separate.
        unsafe {
            let to = self.alloc(new);
            if !to.is_null() {
                core::ptr::copy_nonoverlapping(ptr, to, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            to
        }
    }
}
