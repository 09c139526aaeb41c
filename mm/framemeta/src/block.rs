//! Owned raw frames.

use crate::PageRef;
use crate::page::{Page, entry};
use arch::addr::{PAGE_SIZE, Pfn, PhysAddr};
use arch::shared::SharedBytes;

/// `2^order` adjacent frames, freed on drop.
#[derive(Debug)]
pub struct FrameBlock {
    first: Pfn,
    order: u8,
}

impl FrameBlock {
    pub(crate) fn from_owned(first: Pfn, order: u8) -> FrameBlock {
        FrameBlock { first, order }
    }
    /// The first byte's address.
    pub fn phys(&self) -> PhysAddr {
        self.first.phys()
    }
    /// The first frame.
    pub fn pfn(&self) -> Pfn {
        self.first
    }
    /// log2 of the number of frames.
    pub fn order(&self) -> u8 {
        self.order
    }
    /// The size in bytes.
    pub fn len(&self) -> usize {
        PAGE_SIZE << self.order
    }
    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }
    /// The first byte in the direct map.
    pub fn as_ptr(&self) -> *mut u8 {
        arch::phys::to_virt(self.phys())
    }
    /// The contents, for accesses by value: a device may change them at any time.
    #[inline]
    pub fn bytes(&self) -> SharedBytes<'_> {
        // SAFETY: the frames are the block's alone and in the direct map; who makes references into
        // them through `as_ptr` does not ask for this.
        unsafe { SharedBytes::new(self.as_ptr(), self.len()) }
    }
    /// The first frame's metadata.
    pub fn page(&self) -> &'static Page {
        entry(self.first)
    }
    /// Forgets that the frames are to be freed; [`from_raw`](Self::from_raw) takes them back.
    pub fn into_raw(self) -> Pfn {
        let pfn = self.first;
        core::mem::forget(self);
        pfn
    }
    /// Takes back what [`into_raw`](Self::into_raw) gave.
    ///
    /// # Safety
    /// The block was given away by `into_raw` and not taken back yet, and had this order.
    pub unsafe fn from_raw(first: Pfn, order: u8) -> FrameBlock {
        FrameBlock { first, order }
    }
    /// As a folio with one reference: one page, or `2^order` that live and die together.
    pub fn into_folio(self) -> PageRef {
        let order = self.order;
        let page = entry(self.into_raw());
        if order > 0 {
            page.make_folio(order);
        }
        PageRef::from_owned(page)
    }
}

impl Drop for FrameBlock {
    fn drop(&mut self) {
        let page = entry(self.first);
        debug_assert_eq!(page.order(), self.order);
        if page.put() {
            page.free();
        }
    }
}
