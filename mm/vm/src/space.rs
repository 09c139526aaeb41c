//! [`AddressSpace`]: the areas, their pages, and what `mmap(2)` and its relatives do to them.
//!
//! Locks: the areas (rank 400, sleeping; faults read, changes write) → the mapping's fault guard →
//! the table lock (440, spinning).

use crate::area::{Area, AreaFlags, Areas, PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::{Description, MapSource, fault};
use abi::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use arch::paging::PageTable;
use arch::tlb::Context;
use arch::{PAGE_SIZE, PhysAddr, USER_END, VirtAddr};
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use pagecache::{MapObserver, Mapping, ReadAhead};
use sched::RwLock;

static AREAS_CLASS: LockClass = LockClass::new("vm.areas", 400);
static TABLE_CLASS: LockClass = LockClass::new("vm.tables", 490);

const PAGE: u64 = PAGE_SIZE as u64;
/// The lowest address that may be mapped without privilege (`vm.mmap_min_addr`).
pub const MMAP_MIN: u64 = 65536;
/// Free pages below a stack.
const STACK_GAP: u64 = 256 * PAGE;
/// `vm.max_map_count`.
const MAX_AREAS: usize = 65530;

const MAP_SHARED: u32 = 1;
const MAP_TYPE: u32 = 0xf;
const MAP_FIXED: u32 = 0x10;
const MAP_32BIT: u32 = 0x40;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_LOCKED: u32 = 0x2000;
const MAP_NORESERVE: u32 = 0x4000;
const MAP_POPULATE: u32 = 0x8000;
const MAP_STACK: u32 = 0x2_0000;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;

/// What `mmap(2)` is asked for.
pub struct MapRequest {
    /// The address wanted; a hint unless `MAP_FIXED`.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
    /// The file; none for anonymous memory.
    pub source: Option<Arc<dyn MapSource>>,
    /// Byte offset into the file.
    pub offset: u64,
}

/// Sizes of an address space, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceStats {
    /// In all areas.
    pub total: u64,
    /// Anonymous, in memory.
    pub anon: u64,
    /// Of files, in memory.
    pub file: u64,
    /// Of shared memory, in memory.
    pub shmem: u64,
    /// The most that was ever in memory.
    pub max_rss: u64,
    /// In locked areas.
    pub locked: u64,
    /// In executable areas.
    pub text: u64,
    /// In private writable areas.
    pub data: u64,
    /// In stacks.
    pub stack: u64,
}

impl SpaceStats {
    /// Pages in memory.
    pub fn rss_pages(&self) -> u64 {
        self.anon + self.file + self.shmem
    }

    /// The most that was ever in memory, in KiB.
    pub fn max_rss_kib(&self) -> u64 {
        self.max_rss.max(self.rss_pages()) * 4
    }
}

/// The memory of a process.
pub struct AddressSpace {
    this: Weak<AddressSpace>,
    pub(crate) table: PageTable,
    pub(crate) context: Context,
    pub(crate) areas: RwLock<Areas>,
    pub(crate) table_lock: SpinLock<()>,
    pub(crate) anon: AtomicI64,
    pub(crate) file: AtomicI64,
    pub(crate) shmem: AtomicI64,
    max_rss: AtomicU64,
    mmap_base: u64,
    pub(crate) read_ahead: ReadAhead,
    pub(crate) needs_flush: AtomicBool,
    thp_disabled: AtomicBool,
}

impl sched::Space for AddressSpace {
    fn activate(&self) {
        // SAFETY: the scheduler keeps the address space while a thread that uses it exists, and
        // dropping the context takes it off every processor before the tables go.
        unsafe { self.context.activate() };
    }
}

fn page_up(value: u64) -> Option<u64> {
    Some(value.checked_add(PAGE - 1)? & !(PAGE - 1))
}

fn is_page(value: u64) -> bool {
    value % PAGE == 0
}

impl AddressSpace {
    /// An empty one that puts new areas below `mmap_base`.
    pub fn new(mmap_base: u64) -> Result<Arc<AddressSpace>> {
        let table = PageTable::new()?;
        let context = Context::new(table.root());
        Ok(Arc::new_cyclic(|this| AddressSpace {
            this: this.clone(),
            table,
            context,
            areas: RwLock::new(&AREAS_CLASS, Areas::default()),
            table_lock: SpinLock::new(&TABLE_CLASS, ()),
            anon: AtomicI64::new(0),
            file: AtomicI64::new(0),
            shmem: AtomicI64::new(0),
            max_rss: AtomicU64::new(0),
            mmap_base,
            read_ahead: fault::fault_read_ahead(),
            needs_flush: AtomicBool::new(false),
            thp_disabled: AtomicBool::new(false),
        }))
    }

    /// A copy for a child process.
    pub fn fork(&self) -> Result<Arc<AddressSpace>> {
        let child = AddressSpace::new(self.mmap_base)?;
        let areas = self.areas.write();
        let mut result = Ok(());
        {
            let mut copy = child.areas.write();
            copy.brk_start = areas.brk_start;
            copy.brk = areas.brk;
            for area in areas.map.values() {
                if area.flags.contains(AreaFlags::DONT_FORK) {
                    continue;
                }
                let mut own = area.slice(area.start, area.end);
                own.flags.remove(AreaFlags::LOCKED);
                child.observe(&mut own);
                copy.map.insert(own.start, own);
                // Shared and cached pages fault in again; private copies are shared until
                // somebody writes.
                if !area.is_shared() && !area.flags.contains(AreaFlags::WIPE_ON_FORK) {
                    result = self.share_pages(&child, area);
                    if result.is_err() {
                        break;
                    }
                }
            }
        }
        if self.needs_flush.swap(false, Ordering::Relaxed) {
            self.context.flush_all();
        }
        drop(areas);
        result.map(|()| child)
    }

    /// Lets the object's page cache tell us when pages go.
    fn observe(&self, area: &mut Area) {
        let Some(mapping) = &area.mapping else { return };
        let Some(this) = self.this.upgrade() else { return };
        let first = area.index_of(area.start);
        let last = area.index_of(area.end - 1);
        let observer = Arc::new(Observer {
            space: Arc::downgrade(&this),
            start: area.start,
            end: area.end,
            first,
        });
        area.observer = Some(mapping.add_observer(first, last, observer));
    }

    fn forget(&self, area: &Area) {
        if let (Some(mapping), Some(id)) = (&area.mapping, area.observer) {
            mapping.remove_observer(id);
        }
    }

    /// Cuts areas at the borders of a range; the parts are observed on their own.
    fn split(&self, areas: &mut Areas, at: u64) {
        let old = areas.find(at).filter(|a| a.start != at).map(|a| (a.start, a.observer));
        let Some((start, observer)) = old else { return };
        if areas.split(at) {
            for part in [start, at] {
                if let Some(area) = areas.map.get_mut(&part) {
                    self.observe(area);
                }
            }
            if let Some(mapping) = areas.map.get(&start).and_then(|a| a.mapping.clone())
                && let Some(id) = observer
            {
                mapping.remove_observer(id);
            }
        }
    }

    /// `mmap(2)`.
    pub fn mmap(&self, request: &MapRequest) -> Result<u64> {
        let len = page_up(request.len).filter(|&l| l != 0).ok_or(if request.len == 0 {
            Errno::EINVAL
        } else {
            Errno::ENOMEM
        })?;
        if len > USER_END {
            return Err(Errno::ENOMEM);
        }
        let file_end = request.offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
        if file_end > i64::MAX as u64 {
            return Err(Errno::EOVERFLOW);
        }
        let kind = request.flags & MAP_TYPE;
        let shared = kind == MAP_SHARED || kind == 3;
        let mut areas = self.areas.write();
        let start = self.place(&mut areas, request, len)?;
        if areas.map.len() >= MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        let mut flags = AreaFlags::empty();
        flags.set(AreaFlags::SHARED, shared);
        flags.set(AreaFlags::GROWS_DOWN, request.flags & MAP_GROWSDOWN != 0);
        let is_stack = request.flags & MAP_STACK != 0 && request.flags & MAP_GROWSDOWN != 0;
        flags.set(AreaFlags::STACK, is_stack);
        flags.set(AreaFlags::LOCKED, request.flags & MAP_LOCKED != 0 || areas.lock_future);
        flags.set(AreaFlags::NO_RESERVE, request.flags & MAP_NORESERVE != 0);
        let mapping = match &request.source {
            Some(source) => source.mapping(),
            None if shared => Some(Mapping::without_backing(len)),
            None => None,
        };
        flags.set(AreaFlags::SPECIAL, request.source.is_some() && mapping.is_none());
        let mut area = Area {
            start,
            end: start + len,
            prot: request.prot & 7,
            flags,
            source: request.source.clone(),
            mapping,
            offset: if request.source.is_some() { request.offset } else { 0 },
            observer: None,
        };
        self.observe(&mut area);
        let locked = flags.contains(AreaFlags::LOCKED);
        areas.insert(area);
        drop(areas);
        if locked || request.flags & MAP_POPULATE != 0 {
            self.populate(start, start + len);
        }
        Ok(start)
    }

    /// Decides where a new area goes, and makes room for a fixed one.
    fn place(&self, areas: &mut Areas, request: &MapRequest, len: u64) -> Result<u64> {
        let fixed = request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
        if fixed {
            let start = request.addr;
            if !is_page(start) {
                return Err(Errno::EINVAL);
            }
            let end = start.checked_add(len).filter(|&e| e <= USER_END).ok_or(Errno::ENOMEM)?;
            if start < MMAP_MIN {
                return Err(Errno::EPERM);
            }
            if request.flags & MAP_FIXED_NOREPLACE != 0 {
                return if areas.is_free(start, end) { Ok(start) } else { Err(Errno::EEXIST) };
            }
            self.remove(areas, start, end);
            return Ok(start);
        }
        let hint = request.addr & !(PAGE - 1);
        if hint >= MMAP_MIN && hint.checked_add(len).is_some_and(|e| e <= USER_END) {
            let clear = areas.is_free(hint, hint + len)
                && areas.find_from(hint + len).is_none_or(|a| {
                    !a.flags.contains(AreaFlags::GROWS_DOWN) || a.start - (hint + len) >= STACK_GAP
                });
            if clear {
                return Ok(hint);
            }
        }
        if request.flags & MAP_32BIT != 0 {
            return areas.find_gap_above(0x4000_0000, len, 0x8000_0000).ok_or(Errno::ENOMEM);
        }
        areas
            .find_gap_below(self.mmap_base, len, STACK_GAP, MMAP_MIN)
            .or_else(|| areas.find_gap_above(self.mmap_base, len, USER_END))
            .ok_or(Errno::ENOMEM)
    }

    /// Unmaps everything in a range.
    fn remove(&self, areas: &mut Areas, start: u64, end: u64) {
        self.split(areas, start);
        self.split(areas, end);
        self.note_rss();
        for at in areas.overlapping(start, end) {
            if let Some(area) = areas.map.remove(&at) {
                self.forget(&area);
                self.zap(&area, area.start, area.end);
            }
        }
    }

    /// `munmap(2)`.
    pub fn munmap(&self, start: u64, len: u64) -> Result<()> {
        let len = page_up(len).ok_or(Errno::EINVAL)?;
        if !is_page(start) || len == 0 || start.checked_add(len).is_none_or(|e| e > USER_END) {
            return Err(Errno::EINVAL);
        }
        let mut areas = self.areas.write();
        if areas.map.len() >= MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        self.remove(&mut areas, start, start + len);
        Ok(())
    }

    /// `mprotect(2)`.
    pub fn mprotect(&self, start: u64, len: u64, prot: u32) -> Result<()> {
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        if !is_page(start) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let end = start.checked_add(len).filter(|&e| e <= USER_END).ok_or(Errno::ENOMEM)?;
        let mut areas = self.areas.write();
        // What is mapped up to the first hole changes; then ENOMEM.
        let mut at = start;
        let mut outcome = Ok(());
        let mut reach = start;
        while at < end {
            match areas.find(at) {
                None => {
                    outcome = Err(Errno::ENOMEM);
                    break;
                }
                Some(a) if a.flags.contains(AreaFlags::NO_WRITE) && prot & PROT_WRITE != 0 => {
                    outcome = Err(Errno::EACCES);
                    break;
                }
                Some(a) => at = a.end,
            }
            reach = at.min(end);
        }
        if reach == start {
            return outcome;
        }
        self.split(&mut areas, start);
        self.split(&mut areas, reach);
        for at in areas.overlapping(start, reach) {
            if let Some(mut area) = areas.map.remove(&at) {
                if area.prot != prot & 7 {
                    area.prot = prot & 7;
                    self.apply_protection(&area);
                }
                areas.insert(area);
            }
        }
        outcome
    }

    /// `brk(2)`: the new end of the heap, or the old one if it cannot be had.
    pub fn brk(&self, wanted: u64, data_limit: u64) -> u64 {
        let mut areas = self.areas.write();
        let (start, old) = (areas.brk_start, areas.brk);
        if wanted < start || wanted.saturating_sub(start) > data_limit {
            return old;
        }
        let (Some(new_end), Some(old_end)) = (page_up(wanted), page_up(old)) else { return old };
        if new_end < old_end {
            self.remove(&mut areas, new_end, old_end);
        } else if new_end > old_end {
            let clear = areas.find_from(old_end).is_none_or(|a| {
                let gap = if a.flags.contains(AreaFlags::GROWS_DOWN) { STACK_GAP } else { 0 };
                a.start >= new_end + gap
            });
            if new_end > USER_END || !clear {
                return old;
            }
            let mut flags = AreaFlags::HEAP;
            flags.set(AreaFlags::LOCKED, areas.lock_future);
            areas.insert(Area {
                start: old_end,
                end: new_end,
                prot: PROT_READ | PROT_WRITE,
                flags,
                source: None,
                mapping: None,
                offset: 0,
                observer: None,
            });
        }
        areas.brk = wanted;
        wanted
    }

    /// Where the heap begins.
    pub fn set_brk_start(&self, start: u64) {
        let mut areas = self.areas.write();
        areas.brk_start = start;
        areas.brk = start;
    }

    /// `mremap(2)`.
    pub fn mremap(&self, old: u64, old_len: u64, new_len: u64, flags: u32, to: u64) -> Result<u64> {
        const MAYMOVE: u32 = 1;
        const FIXED: u32 = 2;
        let old_len = page_up(old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_up(new_len).filter(|&l| l != 0).ok_or(Errno::EINVAL)?;
        if !is_page(old) || flags & !(MAYMOVE | FIXED) != 0 {
            return Err(Errno::EINVAL);
        }
        let fixed = flags & FIXED != 0;
        if fixed {
            let bad = flags & MAYMOVE == 0
                || !is_page(to)
                || to.checked_add(new_len).is_none_or(|e| e > USER_END)
                || (to < old + old_len && old < to + new_len);
            if bad {
                return Err(Errno::EINVAL);
            }
        }
        let mut areas = self.areas.write();
        let area = areas.find(old).cloned().ok_or(Errno::EFAULT)?;
        if old_len == 0 && !area.is_shared() {
            return Err(Errno::EINVAL);
        }
        if old + old_len > area.end {
            return Err(Errno::EFAULT);
        }
        if !fixed && new_len <= old_len && old_len != 0 {
            self.remove(&mut areas, old + new_len, old + old_len);
            return Ok(old);
        }
        if !fixed && old + old_len == area.end && old_len != 0 {
            let grown = old + new_len;
            if grown <= USER_END && areas.is_free(area.end, grown) {
                let mut tail = area.slice(old, area.end);
                tail.start = area.end;
                tail.end = grown;
                tail.offset = area.offset + (area.end - area.start);
                self.observe(&mut tail);
                areas.insert(tail);
                return Ok(old);
            }
        }
        if flags & MAYMOVE == 0 {
            return Err(Errno::ENOMEM);
        }
        let request = MapRequest {
            addr: if fixed { to } else { 0 },
            len: new_len,
            prot: area.prot,
            flags: if fixed { MAP_FIXED } else { 0 },
            source: None,
            offset: 0,
        };
        let target = self.place(&mut areas, &request, new_len)?;
        let mut moved = area.slice(old, (old + old_len).max(old + PAGE).min(area.end));
        moved.start = target;
        moved.end = target + new_len;
        self.observe(&mut moved);
        areas.map.insert(target, moved);
        let keep = old_len.min(new_len);
        if old_len != 0 {
            self.move_pages(old, target, keep)?;
            self.remove(&mut areas, old, old + old_len);
        }
        Ok(target)
    }

    /// The range of a call, cut to whole pages: `(start, end)`.
    fn range(start: u64, len: u64) -> Result<(u64, u64)> {
        let len = page_up(len).ok_or(Errno::EINVAL)?;
        if !is_page(start) {
            return Err(Errno::EINVAL);
        }
        let end = start.checked_add(len).filter(|&e| e <= USER_END).ok_or(Errno::ENOMEM)?;
        Ok((start, end))
    }

    /// `madvise(2)`.
    pub fn madvise(&self, start: u64, len: u64, advice: i32) -> Result<()> {
        let (start, end) = Self::range(start, len).map_err(|_| Errno::EINVAL)?;
        let flag = match advice {
            10 => Some((AreaFlags::DONT_FORK, true)),
            11 => Some((AreaFlags::DONT_FORK, false)),
            16 => Some((AreaFlags::DONT_DUMP, true)),
            17 => Some((AreaFlags::DONT_DUMP, false)),
            18 => Some((AreaFlags::WIPE_ON_FORK, true)),
            19 => Some((AreaFlags::WIPE_ON_FORK, false)),
            0..=4 | 8 | 9 | 12..=15 | 20 | 21 => None,
            _ => return Err(Errno::EINVAL),
        };
        if start == end {
            return Ok(());
        }
        if let Some((flag, on)) = flag {
            let mut areas = self.areas.write();
            self.split(&mut areas, start);
            self.split(&mut areas, end);
            for at in areas.overlapping(start, end) {
                if let Some(area) = areas.map.get_mut(&at) {
                    area.flags.set(flag, on);
                }
            }
            return self.check_mapped(&areas, start, end);
        }
        let areas = self.areas.read();
        for at in areas.overlapping(start, end) {
            let Some(area) = areas.map.get(&at) else { continue };
            let (from, to) = (area.start.max(start), area.end.min(end));
            match advice {
                4 | 8 => {
                    if area.flags.intersects(AreaFlags::LOCKED | AreaFlags::SPECIAL)
                        || (advice == 8 && area.mapping.is_some())
                    {
                        return Err(Errno::EINVAL);
                    }
                    self.zap(area, from, to);
                }
                3 => {
                    if let Some(mapping) = &area.mapping {
                        mapping.read_ahead(area.index_of(from), area.index_of(to - 1));
                    }
                }
                9 => {
                    let mapping = area.mapping.as_ref().filter(|_| area.is_shared());
                    let mapping = mapping.ok_or(Errno::EINVAL)?;
                    let offset = area.offset + (from - area.start);
                    mapping.punch(offset, offset + (to - from))?;
                }
                _ => {}
            }
        }
        self.check_mapped(&areas, start, end)
    }

    fn check_mapped(&self, areas: &Areas, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            at = areas.find(at).ok_or(Errno::ENOMEM)?.end;
        }
        Ok(())
    }

    /// `mlock(2)` and `munlock(2)`.
    pub fn mlock(&self, start: u64, len: u64, on: bool) -> Result<()> {
        let inside = start % PAGE;
        let total = len.checked_add(inside).ok_or(Errno::EINVAL)?;
        let (start, end) = Self::range(start - inside, total)?;
        {
            let mut areas = self.areas.write();
            self.split(&mut areas, start);
            self.split(&mut areas, end);
            for at in areas.overlapping(start, end) {
                if let Some(area) = areas.map.get_mut(&at) {
                    area.flags.set(AreaFlags::LOCKED, on);
                }
            }
            self.check_mapped(&areas, start, end)?;
        }
        if on {
            self.populate(start, end);
        }
        Ok(())
    }

    /// `mlockall(2)` and `munlockall(2)`.
    pub fn mlock_all(&self, current: bool, future: bool) {
        let ranges: Vec<(u64, u64)> = {
            let mut areas = self.areas.write();
            areas.lock_future = future;
            for area in areas.map.values_mut() {
                area.flags.set(AreaFlags::LOCKED, current);
            }
            areas.map.values().map(|a| (a.start, a.end)).collect()
        };
        if current {
            for (start, end) in ranges {
                self.populate(start, end);
            }
        }
    }

    /// `msync(2)`: `wait` writes shared file pages back.
    pub fn msync(&self, start: u64, len: u64) -> Result<Vec<(Arc<Mapping>, u64, u64)>> {
        let (start, end) = Self::range(start, len)?;
        let areas = self.areas.read();
        let mut dirty = Vec::new();
        for at in areas.overlapping(start, end) {
            let Some(area) = areas.map.get(&at).filter(|a| a.is_shared()) else { continue };
            if let Some(mapping) = &area.mapping {
                let from = area.offset + (area.start.max(start) - area.start);
                let to = area.offset + (area.end.min(end) - area.start);
                dirty.push((mapping.clone(), from, to));
            }
        }
        self.check_mapped(&areas, start, end)?;
        Ok(dirty)
    }

    /// `mincore(2)`: calls `emit` for each page with whether it is in memory.
    pub fn mincore(&self, start: u64, len: u64, mut emit: impl FnMut(bool)) -> Result<()> {
        let (start, end) = Self::range(start, len)?;
        let areas = self.areas.read();
        self.check_mapped(&areas, start, end)?;
        let mut at = start;
        while at < end {
            let area = areas.find(at).ok_or(Errno::ENOMEM)?;
            let cached = area.mapping.as_ref().is_some_and(|m| m.is_resident(area.index_of(at)));
            emit(cached || self.is_present(at));
            at += PAGE;
        }
        Ok(())
    }

    /// Faults everything in a range in, as far as possible.
    pub fn populate(&self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let prot = {
                let areas = self.areas.read();
                match areas.find(at) {
                    Some(area) => (area.prot, area.is_shared()),
                    None => return,
                }
            };
            let write = prot.0 & PROT_WRITE != 0 && !prot.1;
            if self.user_page(VirtAddr(at), write).is_err() {
                return;
            }
            at += PAGE;
        }
    }

    /// Extends the stack above `at` down to it, within `limit` bytes.
    pub(crate) fn grow_stack(&self, at: u64, limit: u64) -> bool {
        let mut areas = self.areas.write();
        if areas.find(at).is_some() {
            return true;
        }
        let Some((&start, area)) = areas.map.range(at..).next() else { return false };
        if !area.flags.contains(AreaFlags::GROWS_DOWN) || area.end - at > limit {
            return false;
        }
        let below = areas.map.range(..at).next_back().map(|(_, a)| a.end);
        if below.is_some_and(|end| at < end.saturating_add(STACK_GAP)) || at < MMAP_MIN {
            return false;
        }
        if let Some(mut area) = areas.map.remove(&start) {
            area.start = at;
            areas.map.insert(at, area);
        }
        true
    }

    /// Maps the vDSO; the address of its ELF header.
    pub fn map_vdso(&self) -> Option<u64> {
        let pages = arch::vdso::pages()?;
        let len = PAGE + pages.code_len as u64;
        let mut areas = self.areas.write();
        let start = areas.find_gap_below(self.mmap_base, len, STACK_GAP, MMAP_MIN)?;
        let area = |start, end, prot, frame, name| Area {
            start,
            end,
            prot,
            flags: AreaFlags::SPECIAL | AreaFlags::VDSO,
            source: Some(Arc::new(Fixed { frame, name }) as Arc<dyn MapSource>),
            mapping: None,
            offset: 0,
            observer: None,
        };
        let code = start + PAGE;
        areas.map.insert(start, area(start, code, PROT_READ, pages.data, "[vvar]"));
        let exec = PROT_READ | PROT_EXEC;
        areas.map.insert(code, area(code, start + len, exec, pages.code, "[vdso]"));
        Some(code)
    }

    /// Writes into the memory, whoever's it is; what may not be written fails. How much was.
    pub fn write_remote(&self, at: VirtAddr, bytes: &[u8]) -> Result<usize> {
        self.each_page(at, bytes.len(), true, |page, offset, range| {
            page.copy_in(offset, bytes.get(range).unwrap_or_default());
        })
    }

    /// Reads from the memory, whoever's it is. How much was.
    pub fn read_remote(&self, at: VirtAddr, bytes: &mut [u8]) -> Result<usize> {
        let len = bytes.len();
        self.each_page(at, len, false, |page, offset, range| {
            page.copy_out(offset, bytes.get_mut(range).unwrap_or_default());
        })
    }

    fn each_page(
        &self,
        at: VirtAddr,
        len: usize,
        write: bool,
        mut act: impl FnMut(&frames::PageRef, usize, core::ops::Range<usize>),
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let here = at.wrapping_add(done as u64);
            if !here.is_user() {
                break;
            }
            let offset = here.page_offset();
            let n = (PAGE_SIZE - offset).min(len - done);
            match self.user_page(here, write) {
                Ok(page) => act(&page, offset, done..done + n),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += n;
        }
        if done == 0 && len > 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// The identity of a shared futex at an address: object and offset; `None` for private memory.
    pub fn shared_key(&self, at: VirtAddr) -> Result<Option<(u64, u64)>> {
        let areas = self.areas.read();
        let area = areas.find(at.0).ok_or(Errno::EFAULT)?;
        let Some(mapping) = area.mapping.as_ref().filter(|_| area.is_shared()) else {
            return Ok(None);
        };
        let object = Arc::as_ptr(mapping) as usize as u64;
        Ok(Some((object, area.offset + (at.0 - area.start))))
    }

    /// Calls `visit` for every area, in order.
    pub fn for_each_area(&self, mut visit: impl FnMut(&Area)) {
        for area in self.areas.read().map.values() {
            visit(area);
        }
    }

    /// Pages of an area that are in memory (`/proc/PID/smaps`).
    pub fn resident_pages(&self, start: u64, end: u64) -> u64 {
        let mut count = 0;
        self.table.walk(VirtAddr(start), VirtAddr(end), |_, visit| {
            if let arch::paging::Visit::Entry(entry) = visit {
                count += u64::from(entry.load().is_present());
            }
        });
        count
    }

    /// Start and end of the heap.
    pub fn heap(&self) -> (u64, u64) {
        let areas = self.areas.read();
        (areas.brk_start, areas.brk)
    }

    fn note_rss(&self) {
        let now: i64 = [&self.anon, &self.file, &self.shmem]
            .iter()
            .map(|c| c.load(Ordering::Relaxed).max(0))
            .sum();
        self.max_rss.fetch_max(now as u64, Ordering::Relaxed);
    }

    /// Sizes.
    pub fn stats(&self) -> SpaceStats {
        self.note_rss();
        let pages = |c: &AtomicI64| c.load(Ordering::Relaxed).max(0) as u64;
        let mut stats = SpaceStats {
            anon: pages(&self.anon),
            file: pages(&self.file),
            shmem: pages(&self.shmem),
            max_rss: self.max_rss.load(Ordering::Relaxed),
            ..SpaceStats::default()
        };
        let areas = self.areas.read();
        stats.total = areas.total_bytes() / PAGE;
        for area in areas.map.values() {
            let len = area.len() / PAGE;
            if area.flags.contains(AreaFlags::LOCKED) {
                stats.locked += len;
            }
            if area.flags.contains(AreaFlags::GROWS_DOWN) {
                stats.stack += len;
            } else if area.prot & PROT_EXEC != 0 && area.prot & PROT_WRITE == 0 {
                stats.text += len;
            } else if area.prot & PROT_WRITE != 0 && !area.is_shared() {
                stats.data += len;
            }
        }
        stats
    }

    /// `PR_SET_THP_DISABLE`.
    pub fn set_thp_disabled(&self, disabled: bool) {
        self.thp_disabled.store(disabled, Ordering::Relaxed);
    }

    /// `PR_GET_THP_DISABLE`.
    pub fn is_thp_disabled(&self) -> bool {
        self.thp_disabled.load(Ordering::Relaxed)
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.context.retire();
        let areas = core::mem::take(&mut *self.areas.write());
        for area in areas.map.values() {
            self.forget(area);
            self.zap(area, area.start, area.end);
        }
    }
}

/// Pages at fixed frames: the vDSO.
struct Fixed {
    frame: PhysAddr,
    name: &'static str,
}

impl MapSource for Fixed {
    fn mapping(&self) -> Option<Arc<Mapping>> {
        None
    }

    fn device_frame(&self, offset: u64) -> Result<PhysAddr> {
        Ok(self.frame + offset)
    }

    fn describe(&self) -> Description {
        Description { path: self.name.into(), ..Description::default() }
    }
}

/// Tells an address space that pages of a mapped object go or are cleaned.
struct Observer {
    space: Weak<AddressSpace>,
    start: u64,
    end: u64,
    first: u64,
}

impl Observer {
    /// The addresses of pages `first..=last` of the object.
    fn addresses(&self, first: u64, last: u64) -> (u64, u64) {
        let from = first.saturating_sub(self.first).saturating_mul(PAGE);
        let to = last.saturating_sub(self.first).saturating_add(1).saturating_mul(PAGE);
        (self.start.saturating_add(from).min(self.end), self.start.saturating_add(to).min(self.end))
    }
}

impl MapObserver for Observer {
    fn unmap_range(&self, first: u64, last: u64) {
        let Some(space) = self.space.upgrade() else { return };
        let (start, end) = self.addresses(first, last);
        if start < end {
            space.zap_object(start, end);
        }
    }

    fn write_protect(&self, index: u64) {
        let Some(space) = self.space.upgrade() else { return };
        let (start, end) = self.addresses(index, index);
        if start < end {
            space.protect_object(start);
        }
    }
}
