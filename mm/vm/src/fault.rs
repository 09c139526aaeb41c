//! Page faults, and the page-table work behind everything else.
//!
//! Every present entry holds a reference and a map count of its page (entries of special areas
//! have no page). Entries change under the address space's table lock; a fault holds its areas for
//! reading meanwhile, so neither the area nor its protection changes below it.

use crate::area::{Area, AreaFlags, PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::space::AddressSpace;
use abi::Errno;
use arch::paging::{Level, Pte, PteFlags};
use arch::{PAGE_SIZE, VirtAddr};
use core::sync::atomic::Ordering;
use frames::{Flags, PageRef, flag};
use pagecache::ReadAhead;

/// An entry whose area forbids all access: not present, but it keeps its page.
const HIDDEN: PteFlags = PteFlags::SOFT1;
/// How many pages around a read fault are mapped if they are cached.
const FAULT_AROUND: u64 = 16;
const PAGE: u64 = PAGE_SIZE as u64;

/// What a fault wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultAccess {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To fetch an instruction.
    Execute,
}

/// Why a fault cannot be resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// SIGSEGV with this `si_code`.
    Segv {
        /// `SEGV_MAPERR` or `SEGV_ACCERR`.
        code: i32,
    },
    /// SIGBUS: beyond the end of the file, or an I/O error.
    Bus,
    /// No memory.
    Oom,
    /// Try again.
    Retry,
}

/// How a fault was resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultKind {
    major: bool,
}

impl FaultKind {
    /// Whether it had to wait for I/O.
    pub fn is_major(self) -> bool {
        self.major
    }
}

const MAPERR: FaultError = FaultError::Segv { code: 1 };
const ACCERR: FaultError = FaultError::Segv { code: 2 };

impl From<Errno> for FaultError {
    fn from(error: Errno) -> FaultError {
        match error {
            Errno::ENOMEM => FaultError::Oom,
            Errno::EAGAIN => FaultError::Retry,
            _ => FaultError::Bus,
        }
    }
}

fn oom<E>(_: E) -> FaultError {
    FaultError::Oom
}

/// The page of a present or hidden entry; `None` for special ones. Borrowed from the entry.
fn page_of(pte: Pte) -> Option<&'static frames::Page> {
    if pte.is_none() || pte.flags().contains(PteFlags::SOFT0) {
        return None;
    }
    frames::page_if_ram(pte.address().pfn())
}

/// Takes the reference that an entry held.
pub(crate) fn take_page(pte: Pte) -> Option<PageRef> {
    let page = page_of(pte)?;
    page.remove_mapping();
    // SAFETY: the entry, which is gone now, owned one reference, as this module's text says.
    Some(unsafe { PageRef::from_raw(page) })
}

impl AddressSpace {
    /// Resolves a fault at `address`. Stacks grow down to `stack_limit` bytes.
    pub fn handle_fault(
        &self,
        address: VirtAddr,
        access: FaultAccess,
        stack_limit: u64,
    ) -> Result<FaultKind, FaultError> {
        let at = address.page_down().0;
        loop {
            let areas = self.areas.read();
            let Some(area) = areas.find(at) else {
                let grows = areas
                    .map
                    .range(at..)
                    .next()
                    .is_some_and(|(_, a)| a.flags.contains(AreaFlags::GROWS_DOWN));
                drop(areas);
                if !grows || !self.grow_stack(at, stack_limit) {
                    return Err(MAPERR);
                }
                continue;
            };
            let allowed = match access {
                FaultAccess::Read => area.prot & (PROT_READ | PROT_WRITE | PROT_EXEC) != 0,
                FaultAccess::Write => area.prot & PROT_WRITE != 0,
                FaultAccess::Execute => area.prot & PROT_EXEC != 0,
            };
            if !allowed {
                return Err(ACCERR);
            }
            match self.fault_in(area, at, access == FaultAccess::Write) {
                Err(FaultError::Retry) => {}
                other => return other,
            }
        }
    }

    fn fault_in(&self, area: &Area, at: u64, write: bool) -> Result<FaultKind, FaultError> {
        let va = VirtAddr(at);
        let seen = self.table.lookup(va).map_or(Pte::NONE, |e| e.load());
        if !seen.is_none() {
            return self.fault_on_entry(area, va, seen, write);
        }
        if area.flags.contains(AreaFlags::SPECIAL) {
            return self.fault_special(area, va);
        }
        let Some(mapping) = &area.mapping else {
            return self.fault_anonymous(area, va);
        };
        let index = area.index_of(at);
        let _stable = mapping.fault_guard();
        if index >= mapping.size().div_ceil(PAGE) {
            return Err(FaultError::Bus);
        }
        let cached = mapping.find(index).is_some_and(|p| p.has(flag::UPTODATE));
        let kind = FaultKind { major: !cached && mapping.backing().is_some() };
        if area.is_shared() {
            let in_memory_only = mapping.backing().is_none();
            let page = if write || (in_memory_only && area.prot & PROT_WRITE != 0) {
                mapping.make_writable(index)?
            } else {
                mapping.get_page_for_fault(index, &self.read_ahead)?
            };
            let writable = area.prot & PROT_WRITE != 0 && (write || in_memory_only);
            self.install(va, Pte::NONE, &page, area.pte_flags(writable))?;
            self.count(area, 1);
            return Ok(kind);
        }
        let page = mapping.get_page_for_fault(index, &self.read_ahead)?;
        if write {
            let copy = frames::alloc_page(Flags::empty()).map_err(oom)?;
            copy.copy_page(&page);
            copy.set(flag::ANON);
            self.install(va, Pte::NONE, &copy, area.pte_flags(true))?;
            self.anon.fetch_add(1, Ordering::Relaxed);
            return Ok(kind);
        }
        self.install(va, Pte::NONE, &page, area.pte_flags(false))?;
        self.count(area, 1);
        self.fault_around(area, mapping, at);
        Ok(kind)
    }

    /// Maps cached pages near a read fault, so that they do not fault one by one.
    fn fault_around(&self, area: &Area, mapping: &pagecache::Mapping, at: u64) {
        let first = (at & !(FAULT_AROUND * PAGE - 1)).max(area.start);
        let last = ((at & !(FAULT_AROUND * PAGE - 1)) + FAULT_AROUND * PAGE).min(area.end);
        let pages = mapping.size().div_ceil(PAGE);
        let mut near = first;
        while near < last {
            let index = area.index_of(near);
            if near != at
                && index < pages
                && self.table.lookup(VirtAddr(near)).is_none_or(|e| e.load().is_none())
                && let Some(page) = mapping.find(index)
                && page.flags() & (flag::UPTODATE | flag::LOCKED | flag::READAHEAD)
                    == flag::UPTODATE
            {
                if self.install(VirtAddr(near), Pte::NONE, &page, area.pte_flags(false)).is_err() {
                    return;
                }
                self.count(area, 1);
            }
            near += PAGE;
        }
    }

    fn fault_anonymous(&self, area: &Area, va: VirtAddr) -> Result<FaultKind, FaultError> {
        let page = frames::alloc_page(Flags::ZERO).map_err(oom)?;
        page.set(flag::ANON | flag::SWAPBACKED);
        // Even a read fault gets its own page: it is mostly written soon after.
        let writable = area.prot & PROT_WRITE != 0;
        self.install(va, Pte::NONE, &page, area.pte_flags(writable))?;
        self.anon.fetch_add(1, Ordering::Relaxed);
        Ok(FaultKind { major: false })
    }

    fn fault_special(&self, area: &Area, va: VirtAddr) -> Result<FaultKind, FaultError> {
        let source = area.source.as_ref().ok_or(FaultError::Bus)?;
        let frame = source.device_frame(area.offset + (va.0 - area.start))?;
        let flags = area.pte_flags(area.prot & PROT_WRITE != 0) | PteFlags::SOFT0;
        let _lock = self.table_lock.lock();
        let entry = self.table.entry(va, Level::Page).map_err(oom)?;
        let _ = entry.compare_exchange(Pte::NONE, Pte::leaf(frame, flags, Level::Page));
        Ok(FaultKind { major: false })
    }

    /// Something is there: hidden, or not writable, or another thread was faster.
    fn fault_on_entry(
        &self,
        area: &Area,
        va: VirtAddr,
        seen: Pte,
        write: bool,
    ) -> Result<FaultKind, FaultError> {
        let minor = FaultKind { major: false };
        if seen.flags().contains(PteFlags::SOFT0) || (seen.is_present() && !write) {
            self.context.flush_page_here(va);
            return Ok(minor);
        }
        if seen.is_present() && seen.is_writable() {
            self.context.flush_page_here(va);
            return Ok(minor);
        }
        let page = page_of(seen).and_then(PageRef::try_new).ok_or(FaultError::Retry)?;
        if area.is_shared() {
            let mapping = area.mapping.as_ref().ok_or(FaultError::Bus)?;
            let index = area.index_of(va.0);
            if write {
                let _stable = mapping.fault_guard();
                let current = mapping.make_writable(index)?;
                if !current.is_same(&page) {
                    return Err(FaultError::Retry);
                }
            }
            self.replace(va, seen, area.pte_flags(write));
            return Ok(minor);
        }
        if !write {
            self.replace(va, seen, area.pte_flags(false));
            return Ok(minor);
        }
        if page.has(flag::ANON) {
            // Ours alone: the entry's reference and the one taken here.
            if page.map_count() == 1 && page.references() == 2 {
                self.replace(va, seen, area.pte_flags(true));
                return Ok(minor);
            }
        }
        let copy = frames::alloc_page(Flags::empty()).map_err(oom)?;
        copy.copy_page(&page);
        copy.set(flag::ANON | flag::SWAPBACKED);
        let was_anon = page.has(flag::ANON);
        {
            let _lock = self.table_lock.lock();
            let entry = self.table.lookup(va).ok_or(FaultError::Retry)?;
            copy.add_mapping();
            let new = Pte::leaf(copy.phys(), area.pte_flags(true), Level::Page);
            if entry.compare_exchange(seen, new).is_err() {
                copy.remove_mapping();
                return Err(FaultError::Retry);
            }
            copy.into_raw();
        }
        self.context.flush_page(va);
        drop(take_page(seen));
        if !was_anon {
            self.count(area, -1);
            self.anon.fetch_add(1, Ordering::Relaxed);
        }
        Ok(minor)
    }

    /// Gives the entry other rights, if it is still the one seen.
    fn replace(&self, va: VirtAddr, seen: Pte, flags: PteFlags) {
        let _lock = self.table_lock.lock();
        if let Some(entry) = self.table.lookup(va) {
            let _ = entry.compare_exchange(seen, Pte::leaf(seen.address(), flags, Level::Page));
        }
        self.context.flush_page_here(va);
    }

    /// Maps a page; another thread may have been faster.
    fn install(&self, va: VirtAddr, old: Pte, page: &PageRef, flags: PteFlags) -> Result<(), FaultError> {
        let _lock = self.table_lock.lock();
        let entry = self.table.entry(va, Level::Page).map_err(oom)?;
        page.add_mapping();
        let raw = page.clone().into_raw();
        let new = Pte::leaf(raw.phys(), flags, Level::Page);
        if entry.compare_exchange(old, new).is_err() {
            page.remove_mapping();
            // SAFETY: the reference given to the entry comes back.
            drop(unsafe { PageRef::from_raw(raw) });
            return Err(FaultError::Retry);
        }
        Ok(())
    }

    /// Counts pages of files and shared memory.
    pub(crate) fn count(&self, area: &Area, pages: i64) {
        let counter = match (&area.mapping, area.is_shared()) {
            (Some(m), _) if m.backing().is_none() => &self.shmem,
            _ => &self.file,
        };
        counter.fetch_add(pages, Ordering::Relaxed);
    }

    /// Takes all pages in `[start, end)` of an area away.
    pub(crate) fn zap(&self, area: &Area, start: u64, end: u64) {
        let mut gather = arch::tlb::Gather::new(&self.context);
        let (mut anon, mut other) = (0, 0);
        let _lock = self.table_lock.lock();
        self.table.walk(VirtAddr(start), VirtAddr(end), |va, visit| {
            if let arch::paging::Visit::Entry(entry) = visit {
                let old = entry.swap(Pte::NONE);
                gather.page(va, Level::Page);
                if let Some(page) = take_page(old) {
                    if page.has(flag::ANON) {
                        anon += 1;
                    } else {
                        other += 1;
                    }
                    gather.defer(page);
                }
            }
        });
        gather.flush();
        self.anon.fetch_sub(anon, Ordering::Relaxed);
        if other > 0 {
            self.count(area, -other);
        }
    }

    /// Takes the translations of an object away that lie in `[start, end)`, but not private copies.
    /// Called by the page cache, so without the areas.
    pub(crate) fn zap_object(&self, start: u64, end: u64) {
        let mut gather = arch::tlb::Gather::new(&self.context);
        let mut gone = 0;
        let _lock = self.table_lock.lock();
        self.table.walk(VirtAddr(start), VirtAddr(end), |va, visit| {
            if let arch::paging::Visit::Entry(entry) = visit {
                let is_copy = page_of(entry.load()).is_none_or(|p| p.has(flag::ANON));
                if !is_copy {
                    let old = entry.swap(Pte::NONE);
                    gather.page(va, Level::Page);
                    if let Some(page) = take_page(old) {
                        gone += 1;
                        gather.defer(page);
                    }
                }
            }
        });
        gather.flush();
        self.file.fetch_sub(gone, Ordering::Relaxed);
    }

    /// Makes the translation of an object's page read-only.
    pub(crate) fn protect_object(&self, at: u64) {
        let _lock = self.table_lock.lock();
        if let Some(entry) = self.table.lookup(VirtAddr(at))
            && page_of(entry.load()).is_some_and(|p| !p.has(flag::ANON))
        {
            let changed = entry.update(|pte| {
                pte.is_writable()
                    .then(|| Pte(pte.address().0 | (pte.flags() - PteFlags::WRITE).bits()))
            });
            if changed {
                self.context.flush_page(VirtAddr(at));
            }
        }
    }

    /// Applies an area's new protection to its present pages.
    pub(crate) fn apply_protection(&self, area: &Area) {
        let _lock = self.table_lock.lock();
        let mut changed = false;
        self.table.walk(VirtAddr(area.start), VirtAddr(area.end), |_, visit| {
            if let arch::paging::Visit::Entry(entry) = visit {
                changed |= entry.update(|pte| {
                    let mut flags = pte.flags();
                    if area.prot & (PROT_READ | PROT_WRITE | PROT_EXEC) == 0 {
                        flags = (flags - PteFlags::PRESENT - PteFlags::WRITE) | HIDDEN;
                    } else {
                        flags = (flags | PteFlags::PRESENT) - HIDDEN;
                        if area.prot & PROT_WRITE == 0 {
                            flags -= PteFlags::WRITE;
                        }
                        flags.set(PteFlags::NO_EXECUTE, area.prot & PROT_EXEC == 0);
                    }
                    Some(Pte(pte.address().0 | flags.bits()))
                });
            }
        });
        if changed {
            self.context.flush_range(VirtAddr(area.start), VirtAddr(area.end));
        }
    }

    /// Lets `child` see the private pages of an area too; both sides copy when they write.
    pub(crate) fn share_pages(&self, child: &AddressSpace, area: &Area) -> abi::Result<()> {
        let _lock = self.table_lock.lock();
        let mut failed = false;
        let mut copied = 0;
        let mut protected = false;
        self.table.walk(VirtAddr(area.start), VirtAddr(area.end), |va, visit| {
            let arch::paging::Visit::Entry(entry) = visit else { return };
            if failed {
                return;
            }
            let pte = entry.load();
            let Some(page) = page_of(pte).filter(|p| p.has(flag::ANON)) else { return };
            let shared = Pte(pte.address().0 | (pte.flags() - PteFlags::WRITE).bits());
            let Ok(slot) = child.table.entry(va, Level::Page) else {
                failed = true;
                return;
            };
            page.get(1);
            page.add_mapping();
            slot.store(shared);
            copied += 1;
            if pte.is_writable() {
                protected = true;
                entry.update(|now| {
                    Some(Pte(now.address().0 | (now.flags() - PteFlags::WRITE).bits()))
                });
            }
        });
        child.anon.fetch_add(copied, Ordering::Relaxed);
        if protected {
            self.needs_flush.store(true, Ordering::Relaxed);
        }
        if failed { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Moves the pages of `[from, from + len)` to `to` (`mremap(2)`).
    pub(crate) fn move_pages(&self, from: u64, to: u64, len: u64) -> abi::Result<()> {
        let _lock = self.table_lock.lock();
        let mut at = 0;
        while at < len {
            if let Some(old) = self.table.lookup(VirtAddr(from + at))
                && !old.load().is_none()
            {
                let slot = self
                    .table
                    .entry(VirtAddr(to + at), Level::Page)
                    .map_err(|_| Errno::ENOMEM)?;
                slot.store(old.swap(Pte::NONE));
            }
            at += PAGE;
        }
        self.context.flush_range(VirtAddr(from), VirtAddr(from + len));
        Ok(())
    }

    /// The page at an address, present and (if asked) writable; faults it in.
    pub(crate) fn user_page(&self, at: VirtAddr, write: bool) -> abi::Result<PageRef> {
        let access = if write { FaultAccess::Write } else { FaultAccess::Read };
        loop {
            {
                let _lock = self.table_lock.lock();
                let pte = self.table.lookup(at).map_or(Pte::NONE, |e| e.load());
                if pte.is_present() && (!write || pte.is_writable()) {
                    let page = page_of(pte).ok_or(Errno::EFAULT)?;
                    return PageRef::try_new(page).ok_or(Errno::EFAULT);
                }
            }
            match self.handle_fault(at, access, u64::MAX >> 1) {
                Ok(_) | Err(FaultError::Retry) => {}
                Err(FaultError::Oom) => return Err(Errno::ENOMEM),
                Err(_) => return Err(Errno::EFAULT),
            }
        }
    }

    /// Whether a page is present at an address.
    pub(crate) fn is_present(&self, at: u64) -> bool {
        self.table.lookup(VirtAddr(at)).is_some_and(|e| e.load().is_present())
    }
}

/// Read-ahead state for faults of one address space.
pub(crate) fn fault_read_ahead() -> ReadAhead {
    ReadAhead::new()
}
