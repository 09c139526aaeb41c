//! Counted references to 2 MiB of adjacent pages.

use crate::free;
use crate::page::{Page, run};
use crate::{FreeFrames, PageRef};
use arch::addr::{HUGE_SIZE, PAGE_SIZE};
use core::mem::ManuallyDrop;

/// 2 MiB of memory as 512 single pages, aligned to their number: it holds one reference and one mapping
/// of each. That they are single lets a mapping of all become 512 mappings of one without asking who
/// else uses them.
pub struct HugePage(&'static Page);

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
        let pages = run(frames.into_block().into_raw(), HugePage::PAGES);
        let Some(first) = pages.first() else { unreachable!("there are 512") };
        first.order.store(0, core::sync::atomic::Ordering::Relaxed);
        for page in pages {
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
    pub fn pages(&self) -> &'static [Page] {
        run(self.0.pfn(), HugePage::PAGES)
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
        let pages = self.pages();
        let mut free = [0u64; HugePage::PAGES as usize / 64];
        for (word, pages) in free.iter_mut().zip(pages.chunks(64)) {
            for (bit, page) in pages.iter().enumerate() {
                *word |= u64::from(page.give_up_mapped()) << bit;
            }
        }
        if free.iter().all(|pages| *pages == u64::MAX) {
            // Nobody else has any of them: they go back as they came.
            return free::release_clean(self.0, HugePage::ORDER);
        }
        for (index, page) in pages.iter().enumerate() {
            if free.get(index / 64).is_some_and(|pages| pages >> (index % 64) & 1 != 0) {
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

    /// Counts a mapping less of a single page; 2 MiB count theirs out with their references.
    #[inline]
    pub fn remove_mapping(&self) {
        if let Mapped::Page(page) = self {
            page.remove_mapping();
        }
    }
}
