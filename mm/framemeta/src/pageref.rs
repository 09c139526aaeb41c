//! Counted references to pages.

use crate::page::Page;
use arch::addr::{PAGE_SIZE, PhysAddr};
use arch::shared::SharedBytes;
use arch::uio::{Sink, Source};
use arch::user::Fault;
use core::mem::ManuallyDrop;
use core::ops::{Deref, Range};

/// A reference to a page, or to the folio that it heads. The last one frees it.
pub struct PageRef(&'static Page);

impl PageRef {
    /// Takes over the one reference of a page just allocated.
    pub(crate) fn from_owned(page: &'static Page) -> PageRef {
        PageRef(page)
    }

    /// One more reference to a page that the caller knows to be alive. A tail's head is taken.
    #[inline]
    pub fn new(page: &'static Page) -> PageRef {
        let head = page.head();
        head.get(1);
        PageRef(head)
    }

    /// A reference to a page unless it is being freed.
    #[inline]
    pub fn try_new(page: &'static Page) -> Option<PageRef> {
        // Made only when the reference was taken: dropping one that was not would give another's up.
        if page.try_get() { Some(PageRef(page)) } else { None }
    }

    /// Gives up the handle but not its reference; [`from_raw`](Self::from_raw) takes it back.
    #[inline(always)]
    pub fn into_raw(self) -> &'static Page {
        ManuallyDrop::new(self).0
    }

    /// Takes back the reference that [`into_raw`](Self::into_raw) left.
    ///
    /// # Safety
    /// There is such a reference and nobody else takes it back.
    #[inline(always)]
    pub unsafe fn from_raw(page: &'static Page) -> PageRef {
        PageRef(page)
    }

    /// The metadata, for as long as the system runs; only the handle keeps the contents.
    #[inline(always)]
    pub fn page(&self) -> &'static Page {
        self.0
    }

    /// The size in bytes of the page or folio.
    #[inline(always)]
    pub fn size(&self) -> usize {
        PAGE_SIZE << self.0.order()
    }

    /// The address of a byte, checked.
    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.size()),
            "access past the end of a page"
        );
        arch::phys::to_virt(self.0.phys() + offset)
    }

    /// `len` bytes from `offset` on, for copying; others may use them at the same time.
    ///
    /// # Panics
    /// When it is not inside.
    #[inline]
    pub fn part(&self, offset: usize, len: usize) -> SharedBytes<'_> {
        let at = self.at(offset, len);
        // SAFETY: inside the page, which the reference keeps; the bytes are plain data.
        unsafe { SharedBytes::new(at, len) }
    }

    /// The address of a byte.
    pub fn phys_at(&self, offset: usize) -> PhysAddr {
        self.0.phys() + offset
    }

    /// Copies into the page.
    #[inline]
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: inside the page, which the reference keeps; others may write at the same time as
        // through any shared mapping, the bytes are plain data.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }

    /// Copies out of the page.
    #[inline]
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        // SAFETY: as in `copy_in`.
        unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }

    /// Zeroes a part.
    #[inline]
    pub fn zero(&self, range: Range<usize>) {
        let len = range.end.saturating_sub(range.start);
        let at = self.at(range.start, len);
        // SAFETY: as in `copy_in`.
        unsafe { core::ptr::write_bytes(at, 0, len) };
    }

    /// Copies everything from another page of the same size.
    #[inline]
    pub fn copy_page(&self, from: &PageRef) {
        let len = self.size();
        let source = from.at(0, len);
        // SAFETY: two pages, both kept; the new one is its caller's alone until published.
        unsafe { core::ptr::copy(source, self.at(0, len), len) };
    }

    /// Puts a part into a read's destination; how much went.
    #[inline]
    pub fn to_sink(&self, offset: usize, len: usize, sink: &mut Sink<'_>) -> Result<usize, Fault> {
        sink.put_shared(self.part(offset, len))
    }

    /// Fills a part from a write's source; how much came.
    #[inline]
    pub fn from_source(
        &self,
        offset: usize,
        len: usize,
        source: &mut Source<'_>,
    ) -> Result<usize, Fault> {
        source.take_shared(self.part(offset, len))
    }

    /// Lets `f` look at the contents. What it sees may change under it when the page is mapped or
    /// written elsewhere; callers use it on pages they have locked, for metadata of file systems.
    pub fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        let at = self.at(0, self.size());
        // SAFETY: inside the page, which the reference keeps; see above for concurrent writers.
        f(unsafe { core::slice::from_raw_parts(at, self.size()) })
    }

    /// Lets `f` change the contents; the caller has the page locked.
    pub fn with_bytes_mut<R>(&self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let at = self.at(0, self.size());
        // SAFETY: as in `with_bytes`; the page lock keeps other such callers out.
        f(unsafe { core::slice::from_raw_parts_mut(at, self.size()) })
    }

    /// Whether both are the same page.
    #[inline]
    pub fn is_same(&self, other: &PageRef) -> bool {
        core::ptr::eq(self.0, other.0)
    }
}

impl Deref for PageRef {
    type Target = Page;
    #[inline(always)]
    fn deref(&self) -> &Page {
        self.0
    }
}

impl Clone for PageRef {
    #[inline]
    fn clone(&self) -> PageRef {
        self.0.get(1);
        PageRef(self.0)
    }
}

impl Drop for PageRef {
    #[inline]
    fn drop(&mut self) {
        if self.0.put() {
            self.0.free();
        }
    }
}

impl core::fmt::Debug for PageRef {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PageRef({:#x}+{})", self.0.phys(), self.0.order())
    }
}
