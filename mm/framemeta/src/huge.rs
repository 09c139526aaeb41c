//! Counted references to 2 MiB of adjacent pages.

use crate::free;
use crate::page::{Page, page};
use crate::{FreeFrames, PageRef, kind};
use arch::addr::{HUGE_SIZE, PAGE_SIZE};
use core::mem::ManuallyDrop;

/// 2 MiB of memory as 512 single pages, aligned to their number: it holds one reference of each. That
/// they are single lets a mapping of all become 512 mappings of one without asking who else uses
/// them.
pub struct HugePage(&'static Page);

/// The pages from the first on.
fn pages(first: &Page) -> impl Iterator<Item = &'static Page> + use<> {
    let first = first.pfn();
    (0..HugePage::PAGES).map(move |step| page(first + step))
}

impl HugePage {
    /// log2 of the number of pages.
    pub const ORDER: u8 = (HUGE_SIZE / PAGE_SIZE).ilog2() as u8;
    /// The number of pages.
    pub const PAGES: u64 = 1 << HugePage::ORDER;

    /// Makes free frames pages of this kind, each mapped once. They come back when they are not
    /// 2 MiB.
    pub fn new(frames: FreeFrames, kind: u8) -> Result<HugePage, FreeFrames> {
        if frames.order() != HugePage::ORDER {
            return Err(frames);
        }
        let first = page(frames.into_block().into_raw());
        first.order.store(0, core::sync::atomic::Ordering::Relaxed);
        for page in pages(first) {
            page.set_kind(kind);
            page.init_mappings(1);
            page.unfreeze(1);
        }
        Ok(HugePage(first))
    }

    /// The first page's metadata.
    pub fn first(&self) -> &'static Page {
        self.0
    }

    /// The pages.
    pub fn pages(&self) -> impl Iterator<Item = &'static Page> + use<> {
        pages(self.0)
    }

    /// Gives up the handle but not its references; [`from_raw`](Self::from_raw) takes them back.
    pub fn into_raw(self) -> &'static Page {
        ManuallyDrop::new(self).0
    }

    /// Takes back the references that [`into_raw`](Self::into_raw) left.
    ///
    /// # Safety
    /// There are such references, and nobody else takes them back.
    pub unsafe fn from_raw(first: &'static Page) -> HugePage {
        HugePage(first)
    }
}

impl Drop for HugePage {
    fn drop(&mut self) {
        let mut last = [0u64; HugePage::PAGES as usize / 64];
        for (word, pages) in last.iter_mut().enumerate() {
            for bit in 0..64 {
                let is_last = page(self.0.pfn() + (word as u64 * 64 + bit)).put();
                *pages |= u64::from(is_last) << bit;
            }
        }
        if last.iter().all(|pages| *pages == u64::MAX) {
            // Nobody else has any of them: they go back as they came.
            for page in self.pages() {
                page.set_kind(kind::NONE);
            }
            self.0.order.store(HugePage::ORDER, core::sync::atomic::Ordering::Relaxed);
            return free::release(self.0);
        }
        for (index, page) in self.pages().enumerate() {
            if last.get(index / 64).is_some_and(|pages| pages >> (index % 64) & 1 != 0) {
                page.free();
            }
        }
    }
}

impl core::fmt::Debug for HugePage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HugePage({:#x})", self.0.phys())
    }
}

impl From<HugePage> for Mapped {
    fn from(pages: HugePage) -> Mapped {
        Mapped::Huge(pages)
    }
}

impl From<PageRef> for Mapped {
    fn from(page: PageRef) -> Mapped {
        Mapped::Page(page)
    }
}

/// What an entry of a page table maps.
#[derive(Debug)]
pub enum Mapped {
    /// One page.
    Page(PageRef),
    /// 2 MiB of them.
    Huge(HugePage),
}

impl Mapped {
    /// The first page, or the only one.
    #[inline]
    pub fn first(&self) -> &'static Page {
        match self {
            Mapped::Page(page) => page.page(),
            Mapped::Huge(pages) => pages.first(),
        }
    }

    /// How many pages.
    #[inline]
    pub fn len(&self) -> u64 {
        match self {
            Mapped::Page(_) => 1,
            Mapped::Huge(_) => HugePage::PAGES,
        }
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Counts a mapping less of each page.
    #[inline]
    pub fn remove_mappings(&self) {
        match self {
            Mapped::Page(page) => _ = page.remove_mapping(),
            Mapped::Huge(pages) => pages.pages().for_each(|page| _ = page.remove_mapping()),
        }
    }
}
