//! One entry of a last-level table, and the page that was taken out of one.

use arch::addr::{PAGE_SIZE, PhysAddr};
use arch::paging::{EntryRef, Level, Pte, PteFlags};
use frames::{HugePage, Mapped, Page, PageRef, page};

/// The page that an entry owns a reference of.
#[inline]
pub(crate) fn owned_page(pte: Pte) -> Option<&'static Page> {
    let owns = pte.is_present() && !pte.flags().contains(PteFlags::SOFT0);
    owns.then(|| page(pte.address().pfn()))
}

/// What was in an entry; owns the entry's reference.
#[must_use = "an entry that is forgotten keeps its page for ever"]
pub struct Taken(Pte);

impl Taken {
    /// An entry's value that is in no table any more.
    pub(crate) fn new(pte: Pte) -> Taken {
        Taken(pte)
    }

    /// What the entry mapped, unless it was empty or owned nothing.
    #[inline]
    pub fn into_mapped(self) -> Option<Mapped> {
        let page = owned_page(self.0)?;
        if self.0.is_huge() {
            // SAFETY: as below; entries that map 2 MiB are made from a `HugePage` in
            // `Tables::install_huge` only.
            return Some(Mapped::Huge(unsafe { HugePage::from_raw(page) }));
        }
        // SAFETY: the entry held this reference (entries that map a page without `SOFT0` are made
        // from a `PageRef` in this module only, or copied with a reference of their own in
        // `Tables::unshare`), and `self`, which took the entry's place, is gone now.
        Some(Mapped::Page(unsafe { PageRef::from_raw(page) }))
    }

    /// The page, unless the entry was empty or owned none; of an entry for 4 KiB.
    #[inline]
    pub fn into_page(self) -> Option<PageRef> {
        match self.into_mapped()? {
            Mapped::Page(page) => Some(page),
            Mapped::Huge(_) => None,
        }
    }
}

/// A leaf entry in place.
#[derive(Clone, Copy)]
pub struct Slot<'a>(EntryRef<'a>);

impl<'a> Slot<'a> {
    pub(crate) fn new(entry: EntryRef<'a>) -> Slot<'a> {
        Slot(entry)
    }

    /// Whether it stands for 4 KiB or 2 MiB.
    #[inline]
    pub fn level(&self) -> Level {
        self.0.level
    }

    /// The entry now.
    #[inline]
    pub fn load(&self) -> Pte {
        self.0.load()
    }

    /// The page that an entry, as it was seen, owns: for its kind and counts.
    #[inline]
    pub fn page_of(seen: Pte) -> Option<&'static Page> {
        owned_page(seen)
    }

    /// Maps a page where nothing is. Else the page comes back.
    #[inline]
    pub fn install(&self, page: PageRef, flags: PteFlags) -> Result<(), PageRef> {
        self.replace(Pte::NONE, page, flags).map(drop)
    }

    /// Maps a page in place of what was seen, whose page is returned. When the entry is another by
    /// now, the new page comes back.
    #[inline]
    pub fn replace(
        &self,
        seen: Pte,
        page: PageRef,
        flags: PteFlags,
    ) -> Result<Option<PageRef>, PageRef> {
        let new = Pte::leaf(page.phys(), flags - PteFlags::SOFT0, Level::Page);
        if self.0.compare_exchange(seen, new).is_err() {
            return Err(page);
        }
        // The entry has the reference now.
        page.into_raw();
        Ok(Taken(seen).into_page())
    }

    /// Maps, where nothing is, a frame that nobody counts: the zero page, device memory. Whether
    /// the entry was empty.
    #[inline]
    pub fn install_uncounted(&self, frame: PhysAddr, flags: PteFlags) -> bool {
        let new = Pte::leaf(frame, flags | PteFlags::SOFT0, Level::Page);
        self.0.compare_exchange(Pte::NONE, new).is_ok()
    }

    /// Changes the rights of a present entry if it is as it was seen; whether it was.
    #[inline]
    pub fn set_rights(&self, seen: Pte, flags: PteFlags) -> bool {
        seen.is_present() && self.0.compare_exchange(seen, with_rights(seen, flags)).is_ok()
    }

    /// Changes the rights of a present entry until no processor came between; whether it changed.
    pub fn update(&self, mut change: impl FnMut(Pte) -> Option<PteFlags>) -> bool {
        self.0.update(|pte| {
            let flags = pte.is_present().then(|| change(pte)).flatten()?;
            Some(with_rights(pte, flags))
        })
    }

    /// Empties the entry.
    #[inline]
    pub fn take(&self) -> Taken {
        Taken(self.0.swap(Pte::NONE))
    }

    /// Empties the entry if it is as it was seen.
    #[inline]
    pub fn take_if(&self, seen: Pte) -> Option<Taken> {
        self.0.compare_exchange(seen, Pte::NONE).ok().map(|()| Taken(seen))
    }

    /// Puts what was taken elsewhere where nothing is. Else it comes back.
    pub fn put(&self, taken: Taken) -> Result<(), Taken> {
        self.0.compare_exchange(Pte::NONE, taken.0).map_err(|_| taken)
    }

    /// Copies what the entry maps to a new page, if the entry is as it was seen. When another
    /// thread changes the entry meanwhile, what was copied is worthless: `replace` will say so.
    #[inline]
    pub fn copy_to(&self, seen: Pte, new: &PageRef) -> bool {
        let now = self.0.load();
        if now != seen || !now.is_present() {
            return false;
        }
        // SAFETY: the frame is mapped here, so it is memory that lives at least until this entry is
        // changed; if another thread changes it now, the frame is some other page's and the copy is
        // thrown away, see above. The new page is a whole page that `new` keeps.
        unsafe {
            let from = arch::phys::to_virt(now.address());
            core::ptr::copy_nonoverlapping(from, new.as_ptr(), PAGE_SIZE);
        }
        true
    }
}

/// The same memory with other rights; how much it is and whether the entry owns it stay as they were.
#[inline]
fn with_rights(pte: Pte, flags: PteFlags) -> Pte {
    const KEPT: PteFlags = PteFlags::SOFT0.union(PteFlags::HUGE);
    pte.with_flags((flags - KEPT) | (pte.flags() & KEPT))
}
