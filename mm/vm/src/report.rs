//! What `/proc/PID/maps`, `smaps` and `pagemap` show.

use crate::huge::are_allowed;
use crate::space::va;
use crate::vma::Vma;
use crate::{AddressSpace, Description, flag};
use alloc::string::String;
use alloc::vec::Vec;
use arch::addr::{HUGE_SIZE, PAGE_SIZE, PhysAddr};
use arch::paging::{Level, PteFlags};
use frames::{flag as page_flag, kind, page};

const PAGE: u64 = PAGE_SIZE as u64;
const HUGE: u64 = HUGE_SIZE as u64;

/// One area, copied out.
#[derive(Clone, Debug)]
pub struct MapInfo {
    /// The first address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// See [`flag`].
    pub flags: u32,
    /// Offset in the file.
    pub offset: u64,
    /// The file, or a name in brackets.
    pub file: Description,
    /// Whether no file is behind it.
    pub is_anonymous: bool,
}

impl MapInfo {
    /// Whether the area may have huge pages.
    pub fn may_be_huge(&self) -> bool {
        let first = self.start.next_multiple_of(HUGE_SIZE as u64);
        self.is_anonymous && first + HUGE_SIZE as u64 <= self.end && are_allowed(self.flags)
    }
}

/// Mapped memory of a range, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageInfo {
    /// Mapped.
    pub rss: u64,
    /// Mapped by nobody else.
    pub private: u64,
    /// Of the process's own.
    pub anon: u64,
    /// Mapped by nobody else, and newer than what is stored.
    pub private_dirty: u64,
    /// Mapped by others too, and newer than what is stored.
    pub shared_dirty: u64,
    /// Used since the bit was cleared.
    pub referenced: u64,
    /// Share of the pages, in 1/4096 pages.
    pub pss: u64,
    /// In huge pages.
    pub huge: u64,
}

impl PageInfo {
    /// Counts what an entry maps, of a table that so many address spaces use.
    fn add(&mut self, phys: PhysAddr, flags: PteFlags, sharers: u32) {
        if flags.contains(PteFlags::SOFT0) {
            return;
        }
        let frame = page(phys.pfn());
        // A table counts its mappings once.
        let users = u64::from(frame.map_count().max(1)) + u64::from(sharers - 1);
        let is_dirty = flags.contains(PteFlags::DIRTY) || frame.flags() & page_flag::DIRTY != 0;
        self.rss += 1;
        self.private += u64::from(users == 1);
        self.private_dirty += u64::from(is_dirty && users == 1);
        self.shared_dirty += u64::from(is_dirty && users != 1);
        self.anon += u64::from(frame.kind() == kind::ANON);
        self.referenced += u64::from(flags.contains(PteFlags::ACCESSED));
        self.pss += PAGE_SIZE as u64 / users;
    }
}

impl AddressSpace {
    /// The areas from an address on, at most `limit`.
    pub fn maps(&self, from: u64, limit: usize) -> Vec<MapInfo> {
        let brk = *self.brk.lock();
        let areas = self.areas.read();
        let first = areas.find_from(from).map_or(u64::MAX, |vma| vma.start);
        let list = areas.map.range(first..).take(limit);
        list.map(|(_, vma)| info(vma, brk.start, brk.end)).collect()
    }

    /// Lets `visit` see every area.
    pub fn for_each_vma(&self, mut visit: impl FnMut(&MapInfo)) {
        self.maps(0, usize::MAX).iter().for_each(&mut visit);
    }

    /// The frame, flags of a page; `None` when nothing is mapped.
    pub fn page_at(&self, at: u64) -> Option<(u64, PteFlags)> {
        let _areas = self.areas.read();
        let _tables = self.tables.lock();
        self.table.query(va(at)).map(|(phys, flags)| (phys.pfn().0, flags))
    }

    /// Counts the mapped pages of a range.
    pub fn page_info(&self, start: u64, end: u64) -> PageInfo {
        let mut sum = PageInfo::default();
        let _areas = self.areas.read();
        let mut at = start;
        while let Some(used) = self.table.next_used(va(at), va(end)) {
            let from = used.0.max(start);
            at = ((from & !(HUGE_SIZE as u64 - 1)) + HUGE_SIZE as u64).min(end);
            // A table at a time: one that is shared must not be given up under our eyes.
            let _tables = self.tables.lock();
            if self.table.huge(va(from)).is_some() {
                sum.huge += (at - from) >> 12;
            }
            let sharers = self.table.sharers(va(from)).max(1);
            self.table.look(va(from), va(at), |_, pte, level| {
                let pages = if level == Level::Huge { (at - from) >> 12 } else { 1 };
                let first = pte.address() + if level == Level::Huge { from % HUGE } else { 0 };
                for page in (0..pages).filter(|_| pte.is_present()) {
                    sum.add(first + page * PAGE, pte.flags(), sharers);
                }
            });
        }
        sum
    }

    /// Faults since boot: all, and those that read a device.
    pub fn fault_totals() -> (u64, u64) {
        let load = |i: usize| {
            crate::fault::FAULTS.get(i).map_or(0, |c| c.load(core::sync::atomic::Ordering::Relaxed))
        };
        (load(0), load(1))
    }

    /// Whether pages of a range are in memory, one byte each, as far as the area at its start goes:
    /// `mincore(2)`.
    pub fn mincore(&self, start: u64, end: u64) -> abi::Result<Vec<u8>> {
        let areas = self.areas.read();
        // What lies before a hole is told first.
        let vma = areas.find(start).ok_or(abi::Errno::ENOMEM)?;
        let end = vma.end.min(end);
        let mut bytes = Vec::new();
        let pages = ((end - start) >> 12) as usize;
        bytes.try_reserve_exact(pages).map_err(|_| abi::Errno::EAGAIN)?;
        bytes.resize(pages, 0);
        if let Some(mapping) = vma.file.as_ref().and_then(|file| file.mapping.as_ref()) {
            mapping.note_resident(vma.index_of(start), &mut bytes);
        }
        let _tables = self.tables.lock();
        self.table.look(va(start), va(end), |at, pte, level| {
            if !pte.is_present() {
                return;
            }
            let first = ((at.0.max(start) - start) >> 12) as usize;
            if level == Level::Page {
                if let Some(byte) = bytes.get_mut(first) {
                    *byte = 1;
                }
                return;
            }
            let last = (((at.0 + HUGE).min(end) - start) >> 12) as usize;
            if let Some(bytes) = bytes.get_mut(first..last) {
                bytes.fill(1);
            }
        });
        Ok(bytes)
    }
}

fn info(vma: &Vma, brk_start: u64, brk_end: u64) -> MapInfo {
    let named = |name: &str| Description { path: String::from(name), ..Description::default() };
    let file = match &vma.file {
        Some(_) if vma.has(flag::VDSO) => named("[vdso]"),
        Some(_) if vma.has(flag::VVAR) => named("[vvar]"),
        Some(file) => file.source.describe(),
        None if brk_end > brk_start && vma.start < brk_end && brk_start < vma.end => {
            named("[heap]")
        }
        None => Description::default(),
    };
    let offset = if vma.file.is_some() { vma.offset } else { 0 };
    MapInfo {
        start: vma.start,
        end: vma.end,
        prot: vma.prot,
        flags: vma.flags,
        offset,
        file,
        is_anonymous: vma.is_anonymous(),
    }
}
