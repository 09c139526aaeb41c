//! Making mappings: `mmap(2)` and `brk(2)`.

use crate::commit::{commit, heeds_no_reserve, max_areas, uncommit};
use crate::layout::MIN_ADDRESS;
use crate::limits::Limits;
use crate::source::MapSource;
use crate::space::va;
use crate::unmap::check_range;
use crate::vma::{Areas, Changing, FileMap, Vma, flag, prot};
use crate::{AddressSpace, FaultAccess, MAP_NEVER_WRITE};
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::addr::{HUGE_SIZE, PAGE_SIZE, USER_END, VirtAddr};
use core::sync::atomic::Ordering;
use pagecache::{Mapping, ReadAhead};

/// What `mmap(2)` is asked for.
pub struct MapRequest {
    /// Where, or a hint, or 0.
    pub addr: u64,
    /// How many bytes.
    pub len: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
    /// The file; `None` with `MAP_ANONYMOUS`.
    pub source: Option<Arc<dyn MapSource>>,
    /// Where in the file, in bytes.
    pub offset: u64,
}

const HUGE: u64 = HUGE_SIZE as u64;
const MAP_SHARED: u32 = 1;
const MAP_PRIVATE: u32 = 2;
const MAP_SHARED_VALIDATE: u32 = 3;
const MAP_TYPE: u32 = 0xf;
const MAP_FIXED: u32 = 0x10;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_LOCKED: u32 = 0x2000;
const MAP_NORESERVE: u32 = 0x4000;
const MAP_POPULATE: u32 = 0x8000;
const MAP_NONBLOCK: u32 = 0x1_0000;
const MAP_STACK: u32 = 0x2_0000;
const MAP_HUGETLB: u32 = 0x4_0000;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
const MAP_32BIT: u32 = 0x40;

/// Memory shared by `MAP_SHARED | MAP_ANONYMOUS`.
struct Shared(Arc<Mapping>);

impl MapSource for Shared {
    fn mapping(&self) -> Option<Arc<Mapping>> {
        Some(self.0.clone())
    }
    fn describe(&self) -> crate::Description {
        crate::Description { dev: (0, 1), ino: 1, path: "/dev/zero (deleted)".into() }
    }
}

impl AddressSpace {
    /// `mmap(2)`; the address.
    pub fn mmap(&self, request: &MapRequest) -> Result<u64> {
        self.mmap_within(request, &Limits::NONE)
    }

    /// `mmap(2)` within resource limits; the address.
    pub fn mmap_within(&self, request: &MapRequest, limits: &Limits) -> Result<u64> {
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = request.len.checked_add(4095).ok_or(Errno::ENOMEM)? & !4095;
        if len == 0 || len > USER_END {
            return Err(Errno::ENOMEM);
        }
        let shared = match request.flags & MAP_TYPE {
            MAP_SHARED | MAP_SHARED_VALIDATE => true,
            MAP_PRIVATE => false,
            _ => return Err(Errno::EINVAL),
        };
        // What grows down is the program's own memory.
        let may_grow = !shared && request.source.is_none();
        let is_odd = request.flags & MAP_GROWSDOWN != 0 && !may_grow;
        if is_odd || !request.offset.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::EINVAL);
        }
        if request.source.is_some()
            && request.offset.checked_add(len).is_none_or(|e| e > i64::MAX as u64)
        {
            return Err(Errno::EOVERFLOW);
        }
        if request.flags & MAP_HUGETLB != 0 {
            // No huge pages are set aside.
            return Err(Errno::ENOMEM);
        }
        let mut flags = 0;
        for (asked, is) in [
            (MAP_GROWSDOWN, flag::GROWS_DOWN),
            (MAP_LOCKED, flag::LOCKED),
            (MAP_NORESERVE, flag::NO_RESERVE),
            (MAP_STACK, flag::THREAD_STACK),
            (MAP_NEVER_WRITE, flag::NEVER_WRITE),
        ] {
            if request.flags & asked != 0 {
                flags |= is;
            }
        }
        if shared {
            flags |= flag::SHARED;
        }
        let writable = request.prot & prot::WRITE != 0;
        let counts = request.flags & MAP_NORESERVE == 0 || !heeds_no_reserve();
        if !shared && writable && counts {
            flags |= flag::ACCOUNTED;
        }
        let file = match &request.source {
            Some(source) => Some(Arc::new(FileMap {
                mapping: source.mapping(),
                source: source.clone(),
                ahead: ReadAhead::default(),
            })),
            None if shared => {
                if counts {
                    flags |= flag::ACCOUNTED;
                }
                let mapping = Mapping::without_backing(len);
                Some(Arc::new(FileMap {
                    source: Arc::new(Shared(mapping.clone())),
                    mapping: Some(mapping),
                    ahead: ReadAhead::default(),
                }))
            }
            None => None,
        };
        let vma = Vma {
            start: 0,
            end: len,
            prot: request.prot & 7,
            flags,
            offset: request.offset,
            file,
            observer: None,
        };
        let at = self.insert_area(request, vma, len, limits)?;
        let locked = request.flags & MAP_LOCKED != 0 || self.areas.read().lock_future;
        if locked || request.flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE {
            self.populate(at, at + len);
        }
        Ok(at)
    }

    fn insert_area(
        &self,
        request: &MapRequest,
        mut vma: Vma,
        len: u64,
        limits: &Limits,
    ) -> Result<u64> {
        let mut areas = Changing::new(&self.areas);
        let fixed = request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
        if areas.lock_future {
            vma.flags |= flag::LOCKED;
        }
        let replaced = match request.addr.checked_add(len) {
            Some(end) if fixed => {
                areas.parts(request.addr, end).iter().map(|(from, to)| to - from).sum()
            }
            _ => 0,
        };
        limits.check_new(&areas, &vma, len, replaced)?;
        let at = if fixed {
            self.check_fixed(&mut areas, request, len)?
        } else {
            self.choose(&mut areas, request, len)?
        };
        if areas.map.len() > max_areas() {
            return Err(Errno::ENOMEM);
        }
        if vma.has(flag::ACCOUNTED) {
            commit(len >> 12, areas.total_pages)?;
        }
        (vma.start, vma.end) = (at, at + len);
        if vma.file.is_none() {
            vma.offset = at;
        }
        self.add_merged(&mut areas, vma);
        Ok(at)
    }

    /// Adds an area; an anonymous one grows its neighbours instead where it can.
    fn add_merged(&self, areas: &mut Areas, mut vma: Vma) {
        let (start, end) = (vma.start, vma.end);
        self.watch(&mut vma);
        areas.insert(vma);
        self.merge(areas, start, end);
        self.peak_total.fetch_max(areas.total_pages, Ordering::Relaxed);
    }

    fn check_fixed(&self, areas: &mut Areas, request: &MapRequest, len: u64) -> Result<u64> {
        let at = request.addr;
        if !at.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::EINVAL);
        }
        let end = at.checked_add(len).filter(|end| *end <= USER_END).ok_or(Errno::ENOMEM)?;
        if request.flags & MAP_FIXED_NOREPLACE != 0 {
            return if areas.is_free(at, end) { Ok(at) } else { Err(Errno::EEXIST) };
        }
        self.remove_range(areas, at, end)?;
        Ok(at)
    }

    fn choose(&self, areas: &mut Areas, request: &MapRequest, len: u64) -> Result<u64> {
        let hint = request.addr.saturating_add(4095) & !4095;
        if hint >= MIN_ADDRESS
            && let Some(end) = hint.checked_add(len).filter(|end| *end <= USER_END)
            && areas.is_free(hint, end)
            && areas.leaves_gap(end)
        {
            return Ok(hint);
        }
        if request.flags & MAP_32BIT != 0 {
            return areas.find_room_in(len, 1 << 31, 1 << 30).ok_or(Errno::ENOMEM);
        }
        // Whole huge pages lie such that they can be mapped as such.
        if request.source.is_none() && len.is_multiple_of(HUGE) {
            let room = areas.find_room(len + HUGE - PAGE_SIZE as u64, self.mmap_base, MIN_ADDRESS);
            if let Some(at) = room {
                return Ok(at.next_multiple_of(HUGE));
            }
        }
        if let Some(at) = areas.find_room(len, self.mmap_base, MIN_ADDRESS) {
            return Ok(at);
        }
        areas.find_room_in(len, USER_END, self.mmap_base).ok_or(Errno::ENOMEM)
    }

    /// Faults a range in, as far as that goes.
    pub fn populate(&self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let (access, until) = {
                let areas = self.areas.read();
                let Some(vma) = areas.find_from(at).filter(|vma| vma.start < end) else { return };
                at = at.max(vma.start);
                let write = vma.prot & prot::WRITE != 0;
                let access = match vma.prot {
                    0 => None,
                    _ if write => Some(FaultAccess::Write),
                    _ => Some(FaultAccess::Read),
                };
                (access, vma.end.min(end))
            };
            let Some(access) = access else {
                at = until;
                continue;
            };
            while at < until {
                if self.handle_fault(VirtAddr(at), access, 0).is_err() {
                    return;
                }
                at = match self.table.huge(va(at)) {
                    Some(_) => (at | (HUGE - 1)) + 1,
                    None => at + PAGE_SIZE as u64,
                };
            }
        }
    }

    /// `brk(2)`: the end of the heap afterwards.
    pub fn brk(&self, wanted: u64, limits: &Limits) -> u64 {
        let mut brk = self.brk.lock();
        if wanted < brk.start || wanted > USER_END || wanted - brk.start > limits.data {
            return brk.end;
        }
        let (old, new) = ((brk.end + 4095) & !4095, (wanted + 4095) & !4095);
        if new > old {
            let mut areas = self.areas.write();
            let mut flags = flag::ACCOUNTED;
            if areas.lock_future {
                flags |= flag::LOCKED;
            }
            let vma = Vma {
                start: old,
                end: new,
                prot: prot::READ | prot::WRITE,
                flags,
                offset: old,
                file: None,
                observer: None,
            };
            // Room for a guard page before whatever follows.
            if !areas.is_free(old, new + PAGE_SIZE as u64)
                || limits.check_growth(&areas, &vma, new - old).is_err()
                || commit((new - old) >> 12, areas.total_pages).is_err()
            {
                return brk.end;
            }
            self.add_merged(&mut areas, vma);
            let locked = areas.lock_future;
            drop(areas);
            if locked {
                self.populate(old, new);
            }
        } else if new < old {
            let mut areas = Changing::new(&self.areas);
            if self.remove_range(&mut areas, new, old).is_err() {
                return brk.end;
            }
            brk.end = wanted;
            // What was removed ends after both locks.
            drop(brk);
            return wanted;
        }
        brk.end = wanted;
        wanted
    }

    /// Room for an area that moves.
    pub(crate) fn room_for(&self, areas: &mut Areas, len: u64) -> Result<u64> {
        areas.find_room(len, self.mmap_base, MIN_ADDRESS).ok_or(Errno::ENOMEM)
    }

    /// Adds an area that moved or grew.
    pub(crate) fn add_area(&self, areas: &mut Areas, vma: Vma) {
        self.add_merged(areas, vma);
    }

    /// Checks that an area may become `len` bytes larger, and promises the memory.
    pub(crate) fn promise(&self, own: u64, vma: &Vma, bytes: u64) -> Result<()> {
        if vma.has(flag::ACCOUNTED) { commit(bytes >> 12, own) } else { Ok(()) }
    }

    /// Takes a promise back.
    pub(crate) fn unpromise(&self, vma: &Vma, bytes: u64) {
        if vma.has(flag::ACCOUNTED) {
            uncommit(bytes >> 12);
        }
    }

    /// Whether the address space would have more than `limit` bytes with `more`.
    pub fn exceeds(&self, more: u64, limit: u64) -> bool {
        limit != u64::MAX && (self.areas.read().total_pages << 12).saturating_add(more) > limit
    }

    /// Where the heap starts and ends.
    pub fn heap(&self) -> (u64, u64) {
        let brk = *self.brk.lock();
        (brk.start, brk.end)
    }

    /// Locked bytes, for `RLIMIT_MEMLOCK`.
    pub fn locked_bytes(&self) -> u64 {
        self.areas.read().locked_pages << 12
    }

    /// The end of the range `[start, start + len)`, checked.
    pub fn range_end(&self, start: u64, len: u64) -> Result<u64> {
        check_range(start, len)
    }
}
