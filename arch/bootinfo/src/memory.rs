//! The physical memory map: what the firmware reports, made sane.
//!
//! Firmware maps overlap, come unsorted and carry empty entries. [`MemoryMap::normalise`] turns
//! them into ascending disjoint regions; where two kinds claim a byte, the more restrictive wins.

use super::info::{PHYS_END, PhysRange};
use archtypes::addr::PhysAddr;
use arrayvec::ArrayVec;

/// The most regions kept. What comes later is lost, which [`MemoryMap::lost`] counts.
pub(super) const MAX_REGIONS: usize = 256;
/// Memory from here on is not used: the direct map has no room for it.
const MEMORY_END: u64 = 1 << 46;

/// What a region of physical memory is, with the numbers of E820.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum MemoryKind {
    /// Ordinary memory.
    Usable = 1,
    /// Memory with ACPI tables; ordinary once they were read.
    AcpiReclaimable = 3,
    /// Persistent memory.
    Persistent = 7,
    /// Memory that ACPI saves and restores; never to be written.
    AcpiNvs = 4,
    /// Not to be touched.
    Reserved = 2,
    /// Faulty memory.
    Unusable = 5,
}

impl MemoryKind {
    /// From the number of E820 and PVH.
    pub const fn from_e820(kind: u32) -> MemoryKind {
        match kind {
            1 => MemoryKind::Usable,
            3 => MemoryKind::AcpiReclaimable,
            4 => MemoryKind::AcpiNvs,
            5 => MemoryKind::Unusable,
            7 => MemoryKind::Persistent,
            _ => MemoryKind::Reserved,
        }
    }

    /// Which kind a byte gets that two regions claim: the higher.
    const fn severity(self) -> u8 {
        match self {
            MemoryKind::Usable => 0,
            MemoryKind::AcpiReclaimable => 1,
            MemoryKind::Persistent => 2,
            MemoryKind::AcpiNvs => 3,
            MemoryKind::Reserved => 4,
            MemoryKind::Unusable => 5,
        }
    }

    /// Whether the bytes are memory (rather than device registers or nothing).
    pub const fn is_memory(self) -> bool {
        matches!(self, MemoryKind::Usable | MemoryKind::AcpiReclaimable | MemoryKind::AcpiNvs)
    }

    /// The name in `/proc/iomem` and in the boot log.
    pub const fn name(self) -> &'static str {
        match self {
            MemoryKind::Usable => "usable",
            MemoryKind::AcpiReclaimable => "ACPI data",
            MemoryKind::Persistent => "persistent",
            MemoryKind::AcpiNvs => "ACPI NVS",
            MemoryKind::Reserved => "reserved",
            MemoryKind::Unusable => "unusable",
        }
    }
}

/// One region of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRegion {
    /// The first byte.
    pub start: PhysAddr,
    /// One past the last byte.
    pub end: PhysAddr,
    /// What is there.
    pub kind: MemoryKind,
}

/// The regions of physical memory.
#[derive(Clone, Default)]
pub struct MemoryMap {
    regions: ArrayVec<MemoryRegion, MAX_REGIONS>,
    lost: usize,
}

impl MemoryMap {
    /// The empty map.
    pub const fn new() -> MemoryMap {
        MemoryMap { regions: ArrayVec::new_const(), lost: 0 }
    }

    /// Adds a region as the firmware gives it, as far as it can be used. One that goes on where
    /// the last ended, and is of its kind, makes that longer. A region for which there is no room
    /// is lost.
    pub fn add(&mut self, start: u64, len: u64, kind: MemoryKind) {
        let limit = if kind.is_memory() { MEMORY_END } else { PHYS_END };
        let end = start.saturating_add(len).min(limit);
        if end <= start {
            return;
        }
        let region = MemoryRegion { start: PhysAddr(start), end: PhysAddr(end), kind };
        if let Some(last) = self.regions.last_mut()
            && last.end == region.start
            && last.kind == kind
        {
            last.end = region.end;
        } else if self.regions.try_push(region).is_err() {
            self.lost += 1;
        }
    }

    /// How many regions there was no room for.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// Sorts the regions, resolves overlaps in favour of the more restrictive kind and joins
    /// neighbours of the same kind.
    pub fn normalise(&mut self) {
        let given = core::mem::take(&mut self.regions);
        let mut points: ArrayVec<PhysAddr, { 2 * MAX_REGIONS }> = ArrayVec::new();
        for region in &given {
            points.push(region.start);
            points.push(region.end);
        }
        points.sort_unstable();
        for pair in points.windows(2) {
            let &[start, end] = pair else { continue };
            if start == end {
                continue;
            }
            let kind = given
                .iter()
                .filter(|region| region.start <= start && end <= region.end)
                .map(|region| region.kind)
                .max_by_key(|kind| kind.severity());
            let Some(kind) = kind else { continue };
            match self.regions.last_mut() {
                Some(last) if last.end == start && last.kind == kind => last.end = end,
                _ => {
                    if self.regions.try_push(MemoryRegion { start, end, kind }).is_err() {
                        self.lost += 1;
                    }
                }
            }
        }
    }

    /// Forgets usable memory from `limit` on (`mem=`).
    pub fn limit(&mut self, limit: PhysAddr) {
        self.regions.retain(|region| region.kind != MemoryKind::Usable || region.start < limit);
        for region in &mut self.regions {
            if region.kind == MemoryKind::Usable {
                region.end = region.end.min(limit);
            }
        }
    }

    /// All regions, ascending.
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions
    }

    /// The usable regions, ascending.
    pub fn usable(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.regions
            .iter()
            .filter(|region| region.kind == MemoryKind::Usable)
            .map(|region| PhysRange { start: region.start, end: region.end })
    }

    /// Whether all of a range is memory, of one kind or several, once the map is normalised.
    pub fn is_memory(&self, range: PhysRange) -> bool {
        let mut reached = range.start;
        for region in self.regions.iter().filter(|region| region.kind.is_memory()) {
            if region.start <= reached && reached < region.end {
                reached = region.end;
            }
        }
        !range.is_empty() && reached >= range.end
    }

    /// Bytes of usable memory.
    pub fn usable_bytes(&self) -> u64 {
        self.usable().map(|range| range.len()).sum()
    }

    /// One past the highest byte of memory.
    pub fn top(&self) -> PhysAddr {
        let tops = self.regions.iter().filter(|region| region.kind.is_memory());
        tops.map(|region| region.end).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(regions: &[(u64, u64, MemoryKind)]) -> Vec<(u64, u64, MemoryKind)> {
        let mut map = MemoryMap::new();
        for &(start, len, kind) in regions {
            map.add(start, len, kind);
        }
        map.normalise();
        map.regions().iter().map(|r| (r.start.0, r.end.0, r.kind)).collect()
    }

    #[test]
    fn overlaps_go_to_the_more_restrictive() {
        use MemoryKind::{Reserved, Usable};
        let got = map(&[(0x1000, 0x9000, Usable), (0x3000, 0x1000, Reserved), (0, 0x1000, Usable)]);
        assert_eq!(
            got,
            [(0, 0x3000, Usable), (0x3000, 0x4000, Reserved), (0x4000, 0xa000, Usable)]
        );
    }

    #[test]
    fn empty_and_wrapping_entries_do_no_harm() {
        use MemoryKind::{Reserved, Usable};
        let got = map(&[(5, 0, Usable), (u64::MAX - 10, 100, Reserved)]);
        assert_eq!(got, []);
    }

    #[test]
    fn regions_end_where_addresses_do() {
        use MemoryKind::{Reserved, Usable};
        let got = map(&[(0x1000, u64::MAX, Usable), (PHYS_END - 10, 100, Reserved)]);
        assert_eq!(got, [(0x1000, MEMORY_END, Usable), (PHYS_END - 10, PHYS_END, Reserved)]);
    }

    #[test]
    fn limit_cuts_usable_memory_only() {
        use MemoryKind::{Reserved, Usable};
        let mut map = MemoryMap::new();
        map.add(0, 0x10000, Usable);
        map.add(0x20000, 0x1000, Reserved);
        map.normalise();
        map.limit(PhysAddr(0x8000));
        assert_eq!(map.usable_bytes(), 0x8000);
        assert_eq!(map.regions().len(), 2);
    }

    #[test]
    fn too_many_entries_are_survived() {
        let mut map = MemoryMap::new();
        for index in 0..400 {
            map.add(index * 0x2000, 0x1000, MemoryKind::Usable);
        }
        map.normalise();
        assert_eq!((map.regions().len(), map.lost()), (MAX_REGIONS, 400 - MAX_REGIONS));
    }

    #[test]
    fn neighbours_of_a_kind_take_one_place() {
        let mut map = MemoryMap::new();
        for index in 0..400 {
            map.add(index * 0x1000, 0x1000, MemoryKind::Usable);
        }
        map.add(400 * 0x1000, 0x1000, MemoryKind::Reserved);
        map.normalise();
        assert_eq!((map.regions().len(), map.lost()), (2, 0));
        assert_eq!(map.usable_bytes(), 400 * 0x1000);
    }
}
