//! The page cache's view of file areas: unmapping and write-protecting pages for it.

use crate::space::va;
use crate::vma::Vma;
use crate::{AddressSpace, flag};
use alloc::sync::{Arc, Weak};
use arch::addr::PAGE_SIZE;
use arch::paging::PteFlags;
use arch::tlb::Gather;
use frames::{Mapped, kind};
use mapped::{Found, Slot};
use pagecache::MapObserver;

/// An area as the page cache sees it.
struct Watch {
    space: Weak<AddressSpace>,
    start: u64,
    end: u64,
    first: u64,
    /// `mlock(2)`: not for reclaim.
    is_locked: bool,
}

/// An address space kept for the length of a call. Were it the last handle, dropping it here would
/// take the page cache's locks again: then a worker drops it.
struct Held(Option<Arc<AddressSpace>>);

impl Held {
    fn of(space: &Weak<AddressSpace>) -> Option<Held> {
        space.upgrade().map(|space| Held(Some(space)))
    }
}

impl core::ops::Deref for Held {
    type Target = AddressSpace;
    fn deref(&self) -> &AddressSpace {
        match &self.0 {
            Some(space) => space,
            None => unreachable!("taken only when dropped"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(last) = self.0.take().and_then(Arc::into_inner) {
            sched::work::queue(move || drop(last));
        }
    }
}

impl Watch {
    /// The addresses of pages `first..=last` as far as this area maps them.
    fn range(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let pages = (self.end - self.start) / PAGE_SIZE as u64;
        let from = first.max(self.first) - self.first;
        let to = last.checked_sub(self.first)?.saturating_add(1).min(pages);
        (from < to)
            .then(|| (self.start + from * PAGE_SIZE as u64, self.start + to * PAGE_SIZE as u64))
    }
}

impl MapObserver for Watch {
    fn unmap_range(&self, first: u64, last: u64) {
        let (Some(space), Some((start, end))) = (Held::of(&self.space), self.range(first, last))
        else {
            return;
        };
        let _tables = space.tables.lock();
        space.unshare_range(start, end);
        space.unmap_file_pages(start, end);
    }

    fn unmap_truncated(&self, first: u64, last: u64) {
        let (Some(space), Some((start, end))) = (Held::of(&self.space), self.range(first, last))
        else {
            return;
        };
        space.zap(start, end, false);
    }

    fn try_unmap(&self, index: u64) -> bool {
        let (Some(space), Some((at, _))) = (Held::of(&self.space), self.range(index, index)) else {
            return true;
        };
        if self.is_locked {
            return false;
        }
        let Some(_tables) = space.tables.try_lock() else { return false };
        if space.try_unshare(at).is_err() {
            return false;
        }
        space.unmap_file_pages(at, at + PAGE_SIZE as u64);
        true
    }

    fn write_protect(&self, index: u64) {
        let (Some(space), Some((at, _))) = (Held::of(&self.space), self.range(index, index)) else {
            return;
        };
        let _tables = space.tables.lock();
        space.unshare_range(at, at + PAGE_SIZE as u64);
        let Some(entry) = space.table.lookup(va(at)) else { return };
        let changed = entry.update(|pte| {
            let is_file = Slot::page_of(pte).is_some_and(|frame| frame.kind() != kind::ANON);
            is_file.then(|| pte.flags() - PteFlags::WRITE - PteFlags::DIRTY)
        });
        if changed {
            space.table.context().flush_page(va(at));
        }
    }

    fn test_and_clear_young(&self, index: u64) -> bool {
        let (Some(space), Some((at, _))) = (Held::of(&self.space), self.range(index, index)) else {
            return false;
        };
        if self.is_locked {
            return true;
        }
        let Some(_tables) = space.tables.try_lock() else { return true };
        let Some(entry) = space.table.lookup(va(at)) else { return false };
        // Without a flush: a processor that has the entry cached keeps the page looking old.
        entry.update(|pte| pte.is_accessed().then(|| pte.flags() - PteFlags::ACCESSED))
    }
}

impl AddressSpace {
    /// Unmaps the pages of files in a range whose tables are its own. Holding `tables`.
    fn unmap_file_pages(&self, start: u64, end: u64) {
        let mut gather: Gather<'_, Mapped> = Gather::new(self.table.context().get_ref());
        self.table.walk(va(start), va(end), |at, visit| {
            let Found::Entry(entry) = visit else { return };
            // A fault may put a copy of the process's own here at any moment.
            let taken = loop {
                let pte = entry.load();
                if Slot::page_of(pte).is_none_or(|frame| frame.kind() == kind::ANON) {
                    return;
                }
                if let Some(taken) = entry.take_if(pte) {
                    break taken;
                }
            };
            gather.page(at, entry.level());
            if let Some(page) = self.count_out(taken) {
                gather.defer(page);
            }
        });
    }

    /// Registers an area anew after its flags changed.
    pub(crate) fn rewatch(&self, vma: &mut Vma) {
        let before = vma.clone();
        self.watch(vma);
        self.unwatch(&before);
    }

    /// Tells the page cache where an area is. Before it is in the map; nothing is mapped yet, or
    /// the old registration still stands.
    pub(crate) fn watch(&self, vma: &mut Vma) {
        let Some(mapping) = vma.file.as_ref().and_then(|file| file.mapping.as_ref()) else {
            return;
        };
        let first = vma.offset >> 12;
        let is_locked = vma.has(flag::LOCKED);
        let space = self.me.clone();
        let watch = Watch { space, start: vma.start, end: vma.end, first, is_locked };
        if vma.has(flag::SHARED) && vma.prot & crate::prot::WRITE != 0 {
            mapping.note_mapped_writable();
        }
        if let Some(file) = &vma.file {
            file.source.opened();
        }
        vma.observer = Some(mapping.add_observer(first, first + vma.pages() - 1, Arc::new(watch)));
    }

    /// Ends what [`watch`](Self::watch) began.
    pub(crate) fn unwatch(&self, vma: &Vma) {
        if let (Some(id), Some(mapping)) =
            (vma.observer, vma.file.as_ref().and_then(|file| file.mapping.as_ref()))
        {
            mapping.remove_observer(id);
            if let Some(file) = &vma.file {
                file.source.closed();
            }
        }
    }
}
