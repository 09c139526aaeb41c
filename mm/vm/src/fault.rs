//! Page faults.

use crate::AddressSpace;
use crate::layout::STACK_GAP;
use crate::space::{PageSort, va};
use crate::vma::{FileMap, Vma, flag, prot};
use abi::Errno;
use arch::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use arch::lock::Once;
use arch::paging::{MapError, Pte, PteFlags};
use core::sync::atomic::{AtomicU64, Ordering};
use frames::{Flags, PageRef, kind};
use mapped::Slot;
use pagecache::Mapping;

/// What the access wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultAccess {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
    /// A debugger's store: in private memory it needs no right to write, and gives none.
    Force,
}

/// Why an access cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// `SIGSEGV` with this `si_code`: 1 `SEGV_MAPERR`, 2 `SEGV_ACCERR`.
    Segv {
        /// `si_code`.
        code: i32,
    },
    /// `SIGBUS`: past the end of the file, or the file cannot be read.
    Bus,
    /// No memory.
    Oom,
    /// The access is to be tried again.
    Retry,
}

/// What a resolved fault cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// Memory only.
    Minor,
    /// The device was read.
    Major,
}

impl FaultKind {
    /// Whether the device was read.
    pub fn is_major(self) -> bool {
        self == FaultKind::Major
    }
}

impl From<MapError> for FaultError {
    fn from(error: MapError) -> FaultError {
        match error {
            MapError::NoMemory => FaultError::Oom,
            MapError::Occupied | MapError::Shared => FaultError::Retry,
        }
    }
}
impl From<frames::OutOfMemory> for FaultError {
    fn from(_: frames::OutOfMemory) -> FaultError {
        FaultError::Oom
    }
}
impl From<Errno> for FaultError {
    fn from(errno: Errno) -> FaultError {
        if errno == Errno::ENOMEM { FaultError::Oom } else { FaultError::Bus }
    }
}
impl From<FaultError> for Errno {
    fn from(error: FaultError) -> Errno {
        match error {
            FaultError::Oom => Errno::ENOMEM,
            _ => Errno::EFAULT,
        }
    }
}

const MAPERR: FaultError = FaultError::Segv { code: 1 };
const ACCERR: FaultError = FaultError::Segv { code: 2 };
/// Pages mapped around a file fault.
const AROUND: u64 = 16;

/// Faults since boot: all, and those that read a device. Relaxed: statistics.
pub(crate) static FAULTS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The page that reads of untouched anonymous memory see.
fn zero_page() -> Option<PhysAddr> {
    static ZERO: Once<Option<PhysAddr>> = Once::new();
    *ZERO.call_once(|| frames::alloc_page(Flags::ZERO).ok().map(|page| page.into_raw().phys()))
}

impl AddressSpace {
    /// Makes an access possible. `stack_limit` is `RLIMIT_STACK` in bytes.
    pub fn handle_fault(
        &self,
        at: VirtAddr,
        access: FaultAccess,
        stack_limit: u64,
    ) -> Result<FaultKind, FaultError> {
        if !at.is_user() {
            return Err(MAPERR);
        }
        let mut grown = false;
        for _ in 0..64 {
            let areas = self.areas.read();
            let Some(vma) = areas.find(at.0) else {
                drop(areas);
                if grown {
                    return Err(MAPERR);
                }
                self.grow_stack(at.0, stack_limit)?;
                grown = true;
                continue;
            };
            match self.fault_in(vma, at.0 & !4095, access) {
                Err(FaultError::Retry) => {}
                result => return result,
            }
        }
        // Others keep changing the page; the access is simply made again.
        Ok(FaultKind::Minor)
    }

    fn grow_stack(&self, at: u64, limit: u64) -> Result<(), FaultError> {
        let mut areas = self.areas.write();
        if areas.find(at).is_some() {
            return Ok(());
        }
        let page = at & !4095;
        let vma = areas.find_from(at).filter(|vma| vma.has(flag::GROWS_DOWN)).ok_or(MAPERR)?;
        let (start, end) = (vma.start, vma.end);
        let below = areas.map.range(..start).next_back().map_or(0, |(_, vma)| vma.end);
        if end - page > limit || page < below.saturating_add(STACK_GAP) {
            return Err(MAPERR);
        }
        self.promise(areas.total_pages, vma, start - page).map_err(|_| MAPERR)?;
        let Some(mut vma) = areas.remove(start) else { return Err(MAPERR) };
        vma.offset = vma.offset.saturating_sub(start - page);
        vma.start = page;
        areas.insert(vma);
        Ok(())
    }

    #[inline]
    fn fault_in(&self, vma: &Vma, at: u64, access: FaultAccess) -> Result<FaultKind, FaultError> {
        let allowed = match access {
            FaultAccess::Read => vma.prot & (prot::READ | prot::WRITE | prot::EXEC) != 0,
            FaultAccess::Write => vma.prot & prot::WRITE != 0,
            FaultAccess::Execute => vma.prot & prot::EXEC != 0,
            FaultAccess::Force => vma.prot & prot::WRITE != 0 || vma.is_private(),
        };
        if !allowed {
            return Err(ACCERR);
        }
        if self.is_doomed.load(Ordering::Relaxed) {
            return Err(FaultError::Oom);
        }
        let write = matches!(access, FaultAccess::Write | FaultAccess::Force);
        // Relaxed: statistics.
        FAULTS[0].fetch_add(1, Ordering::Relaxed);
        let entry = match self.table.existing(va(at)) {
            Ok(Some(entry)) => entry,
            Ok(None) if write && self.map_huge(vma, at) => return Ok(FaultKind::Minor),
            Ok(None) => self.table.entry(va(at))?,
            Err(MapError::Occupied) => {
                self.touch_huge(vma, at, write);
                return Ok(FaultKind::Minor);
            }
            Err(MapError::Shared) => {
                // Another thread may give the shared table up.
                let _tables = self.tables.lock();
                if !write
                    && let Some(entry) = self.table.lookup(va(at))
                    && entry.load().is_present()
                {
                    return Ok(FaultKind::Minor);
                }
                self.try_unshare(at)?;
                return Err(FaultError::Retry);
            }
            Err(error @ MapError::NoMemory) => return Err(error.into()),
        };
        let pte = entry.load();
        if pte.is_present() {
            if !write || pte.is_writable() {
                self.table.context().flush_page_here(va(at));
                return Ok(FaultKind::Minor);
            }
            return self.write_to_present(vma, at, entry, pte);
        }
        match &vma.file {
            None => self.anonymous(vma, at, write, entry),
            Some(file) => self.file_page(vma, file, at, write, entry),
        }
    }

    #[inline]
    fn anonymous(
        &self,
        vma: &Vma,
        _at: u64,
        write: bool,
        entry: Slot<'_>,
    ) -> Result<FaultKind, FaultError> {
        let flags = vma.read_flags();
        if !write {
            let zero = zero_page().ok_or(FaultError::Oom)?;
            // Someone else's entry is as good.
            entry.install_uncounted(zero, flags);
            return Ok(FaultKind::Minor);
        }
        let page = frames::alloc_page(Flags::ZERO)?;
        self.install_anon(entry, Pte::NONE, page, flags | vma.own_flags());
        Ok(FaultKind::Minor)
    }

    /// Puts a new page of the process's own in place of `old`, whose page is returned; `None` when
    /// the entry is another by now.
    #[inline]
    fn install_anon(
        &self,
        entry: Slot<'_>,
        old: Pte,
        new: PageRef,
        flags: PteFlags,
    ) -> Option<Option<PageRef>> {
        new.set_kind(kind::ANON);
        new.init_mappings(1);
        match entry.replace(old, new, flags) {
            Ok(replaced) => {
                self.count(PageSort::Anon, 1);
                Some(replaced)
            }
            Err(new) => {
                new.init_mappings(0);
                None
            }
        }
    }

    /// A store to a page that is mapped without the right to write.
    fn write_to_present(
        &self,
        vma: &Vma,
        at: u64,
        entry: Slot<'_>,
        pte: Pte,
    ) -> Result<FaultKind, FaultError> {
        if let (false, Some(file)) = (vma.is_private(), &vma.file) {
            return self.make_writable(vma, file, at, entry, pte);
        }
        let flags = vma.read_flags();
        if let Some(frame) = Slot::page_of(pte)
            && frame.kind() == kind::ANON
            && frame.references() == 1
        {
            entry.set_rights(pte, flags | vma.own_flags());
            self.table.context().flush_page_here(va(at));
            return Ok(FaultKind::Minor);
        }
        let zero = Slot::page_of(pte).is_none() && Some(pte.address()) == zero_page();
        let new = if zero {
            frames::alloc_page(Flags::ZERO)?
        } else {
            let new = frames::alloc_page(Flags::empty())?;
            if !entry.copy_to(pte, &new) {
                return Err(FaultError::Retry);
            }
            new
        };
        let Some(replaced) = self.install_anon(entry, pte, new, flags | vma.own_flags()) else {
            return Err(FaultError::Retry);
        };
        self.table.context().flush_page(va(at));
        if let Some(page) = replaced {
            self.count(PageSort::of(&page), -1);
            page.remove_mapping();
        }
        Ok(FaultKind::Minor)
    }

    fn make_writable(
        &self,
        vma: &Vma,
        file: &FileMap,
        at: u64,
        entry: Slot<'_>,
        pte: Pte,
    ) -> Result<FaultKind, FaultError> {
        let flags = vma.read_flags() | PteFlags::WRITE | PteFlags::DIRTY;
        if let Some(mapping) = &file.mapping {
            let _guard = mapping.fault_guard();
            let page = mapping.make_writable(vma.index_of(at))?;
            if page.phys() != pte.address() {
                return Err(FaultError::Retry);
            }
            if !entry.set_rights(pte, flags) {
                return Err(FaultError::Retry);
            }
        } else {
            entry.set_rights(pte, flags);
        }
        self.table.context().flush_page_here(va(at));
        Ok(FaultKind::Minor)
    }

    fn file_page(
        &self,
        vma: &Vma,
        file: &FileMap,
        at: u64,
        write: bool,
        entry: Slot<'_>,
    ) -> Result<FaultKind, FaultError> {
        let Some(mapping) = &file.mapping else {
            let frame = file.source.device_frame(vma.index_of(at) << 12)?;
            let mut flags = vma.read_flags();
            if vma.prot & prot::WRITE != 0 && !vma.is_private() {
                flags |= PteFlags::WRITE | PteFlags::DIRTY;
            }
            entry.install_uncounted(frame, flags);
            return Ok(FaultKind::Minor);
        };
        let index = vma.index_of(at);
        let _guard = mapping.fault_guard();
        if index >= mapping.size().div_ceil(PAGE_SIZE as u64) {
            return Err(FaultError::Bus);
        }
        let cached = mapping.is_resident(index);
        let page = if write && !vma.is_private() {
            mapping.make_writable(index)?
        } else {
            mapping.get_page_for_fault(index, &file.ahead)?
        };
        let kind = if cached { FaultKind::Minor } else { FaultKind::Major };
        if !cached {
            FAULTS[1].fetch_add(1, Ordering::Relaxed);
        }
        if write && vma.is_private() {
            let own = frames::alloc_page(Flags::empty())?;
            own.copy_page(&page);
            let installed =
                self.install_anon(entry, Pte::NONE, own, vma.read_flags() | vma.own_flags());
            return if installed.is_some() { Ok(kind) } else { Err(FaultError::Retry) };
        }
        let mut flags = vma.read_flags();
        if write || self.may_map_writable(vma, mapping) {
            flags |= PteFlags::WRITE | PteFlags::DIRTY;
        }
        self.install_file(entry, page, flags);
        if !write {
            self.map_around(vma, mapping, at);
        }
        Ok(kind)
    }

    /// Shared memory is never written back: its pages may be writable from the start.
    fn may_map_writable(&self, vma: &Vma, mapping: &Mapping) -> bool {
        !vma.is_private() && vma.prot & prot::WRITE != 0 && mapping.backing().is_none()
    }

    #[inline]
    fn install_file(&self, entry: Slot<'_>, page: PageRef, flags: PteFlags) {
        page.add_mapping();
        let sort = PageSort::of(&page);
        match entry.install(page, flags) {
            Ok(()) => self.count(sort, 1),
            Err(page) => _ = page.remove_mapping(),
        }
    }

    /// Maps the cached neighbours of a page too: each saves a fault.
    fn map_around(&self, vma: &Vma, mapping: &Mapping, at: u64) {
        if vma.has(flag::RANDOM) {
            return;
        }
        let window = AROUND * PAGE_SIZE as u64;
        let start = (at & !(window - 1)).max(vma.start);
        let end = ((at & !(window - 1)) + window).min(vma.end);
        let limit = mapping.size().div_ceil(PAGE_SIZE as u64);
        let mut next = start;
        while next < end {
            let first = vma.index_of(next);
            let last = first + ((end - next) >> 12);
            let mut run: arrayvec::ArrayVec<PageRef, 16> = arrayvec::ArrayVec::new();
            mapping.find_run(first, last.min(limit), &mut run);
            if run.is_empty() {
                next += PAGE_SIZE as u64;
                if next <= at {
                    continue;
                }
                return;
            }
            let mut flags = vma.read_flags();
            if self.may_map_writable(vma, mapping) {
                flags |= PteFlags::WRITE | PteFlags::DIRTY;
            }
            for page in run {
                let usable = page.flags() & (frames::flag::UPTODATE | frames::flag::READAHEAD)
                    == frames::flag::UPTODATE;
                if usable
                    && next != at
                    && next < end
                    && let Ok(entry) = self.table.entry(va(next))
                    && entry.load().is_none()
                {
                    self.install_file(entry, page, flags);
                }
                next += PAGE_SIZE as u64;
            }
        }
    }
}
