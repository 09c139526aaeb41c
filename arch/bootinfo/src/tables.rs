//! The kernel's page tables: the kernel at its slid address with W^X, the direct map of all
//! memory with the largest pages the processor has, and the first 4 GiB one to one, which are taken
//! out once the kernel runs at its final address.
//!
//! Built while memory is mapped one to one, from frames taken behind the kernel.

use crate::info::{BootInfo, PhysRange};
use archtypes::addr::PhysAddr;

/// Maps something.
pub const PRESENT: u64 = 1;
/// May be written.
pub const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
/// Stays in the TLB across switches.
pub const GLOBAL: u64 = 1 << 8;
/// No instructions.
pub const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const SIZE_4K: u64 = 1 << 12;
const SIZE_2M: u64 = 1 << 21;
const SIZE_1G: u64 = 1 << 30;
/// The one-to-one map that this module runs in ends here.
const REACH: u64 = 4 << 30;

/// Memory mapped one to one, in which tables are built.
pub trait TableMemory {
    /// Zeroes a frame.
    fn clear(&self, frame: u64);
    /// An entry.
    fn load(&self, at: u64) -> u64;
    /// Sets an entry.
    fn store(&self, at: u64, entry: u64);
}

/// Takes frames, ascending, from memory that nothing occupies.
struct EarlyFrames<'a, M> {
    info: &'a BootInfo,
    memory: M,
    first: u64,
    next: u64,
}

impl<'a, M: TableMemory> EarlyFrames<'a, M> {
    /// Frames from the kernel's end on.
    fn new(info: &'a BootInfo, memory: M) -> Self {
        let first = info.kernel.end.page_up().0;
        EarlyFrames { info, memory, first, next: first }
    }

    /// One zeroed frame, or `None` when the reachable memory is used up.
    fn take(&mut self) -> Option<u64> {
        let range = self.info.usable().find(|range| range.end.0 > self.next)?;
        let frame = range.start.0.max(self.next);
        if frame + SIZE_4K > REACH {
            return None;
        }
        self.next = frame + SIZE_4K;
        // Usable memory below 4 GiB that nothing occupies.
        self.memory.clear(frame);
        Some(frame)
    }

    /// Everything from the first frame taken to the last.
    fn used(&self) -> PhysRange {
        PhysRange { start: PhysAddr(self.first), end: PhysAddr(self.next) }
    }
}

/// A tree of page tables under construction.
pub struct Builder<'a, M> {
    frames: EarlyFrames<'a, M>,
    root: u64,
    has_1g: bool,
}

impl<'a, M: TableMemory> Builder<'a, M> {
    /// An empty tree; `None` without memory for its root. `has_1g`: the processor has such pages.
    pub fn new(info: &'a BootInfo, memory: M, has_1g: bool) -> Option<Self> {
        let mut frames = EarlyFrames::new(info, memory);
        let root = frames.take()?;
        Some(Builder { frames, root, has_1g })
    }

    fn load(&self, entry: u64) -> u64 {
        self.frames.memory.load(entry)
    }

    fn store(&self, entry: u64, value: u64) {
        self.frames.memory.store(entry, value);
    }

    /// The table that `entry` points to, made if it is missing.
    fn descend(&mut self, entry: u64) -> Option<u64> {
        if self.load(entry) & PRESENT == 0 {
            let table = self.frames.take()?;
            self.store(entry, table | PRESENT | WRITABLE);
        }
        Some(self.load(entry) & ADDRESS)
    }

    /// Maps `[phys, phys + len)` at `virt` with the largest pages that fit. All are multiples of
    /// 4 KiB. `None` when memory for tables runs out.
    pub fn map(&mut self, virt: u64, phys: u64, len: u64, flags: u64) -> Option<()> {
        let mut done = 0;
        while done < len {
            let (v, p, left) = (virt.wrapping_add(done), phys + done, len - done);
            let fits = |size: u64| left >= size && (v | p) & (size - 1) == 0;
            let slot = |table: u64, shift: u32| table + (v >> shift & 511) * 8;

            let pdpt = self.descend(slot(self.root, 39))?;
            let entry = slot(pdpt, 30);
            if self.has_1g && fits(SIZE_1G) && self.load(entry) & PRESENT == 0 {
                self.store(entry, p | flags | LARGE);
                done += SIZE_1G;
                continue;
            }
            let directory = self.descend(entry)?;
            let entry = slot(directory, 21);
            if fits(SIZE_2M) && self.load(entry) & PRESENT == 0 {
                self.store(entry, p | flags | LARGE);
                done += SIZE_2M;
                continue;
            }
            let table = self.descend(entry)?;
            self.store(slot(table, 12), p | flags);
            done += SIZE_4K;
        }
        Some(())
    }

    /// The root's physical address and what the tables occupy.
    pub fn finish(self) -> (u64, PhysRange) {
        (self.root, self.frames.used())
    }
}

/// Where the parts of the image end, from its start.
#[derive(Clone, Copy, Debug)]
pub struct ImageParts {
    /// The end of the code.
    pub text: u64,
    /// The end of what is only read; data follows.
    pub rodata: u64,
}

/// Maps the kernel with W^X, the direct map and the first 4 GiB one to one: the root and what the
/// tables occupy. `None` when memory for tables runs out. Notes where the direct map ends.
pub fn build(
    info: &mut BootInfo,
    memory: impl TableMemory,
    has_1g: bool,
    parts: ImageParts,
) -> Option<(u64, PhysRange)> {
    let base = info.kernel.start.0;
    let virt = info.kernel_virt.0;
    let direct_map = info.direct_map.0;
    let mut top = 0;
    let mut builder = Builder::new(info, memory, has_1g)?;

    let ImageParts { text, rodata } = parts;
    let end = info.kernel.len().next_multiple_of(4096);
    builder.map(virt, base, text, PRESENT | GLOBAL)?;
    builder.map(virt + text, base + text, rodata - text, PRESENT | GLOBAL | NO_EXECUTE)?;
    let flags = PRESENT | WRITABLE | GLOBAL | NO_EXECUTE;
    builder.map(virt + rodata, base + rodata, end - rodata, flags)?;

    // Memory regions with their edges rounded out to large pages; neighbours grow together.
    let mut mapped = 0;
    let mut regions =
        info.memory.regions().iter().filter(|region| region.kind.is_memory()).peekable();
    while let Some(region) = regions.next() {
        let start = (region.start.0 & !(SIZE_2M - 1)).max(mapped);
        let mut region_end = region.end.0.next_multiple_of(SIZE_2M);
        while let Some(next) = regions.peek().filter(|next| next.start.0 <= region_end) {
            region_end = region_end.max(next.end.0.next_multiple_of(SIZE_2M));
            regions.next();
        }
        if region_end > start {
            builder.map(direct_map + start, start, region_end - start, flags)?;
            mapped = region_end;
            top = region_end;
        }
    }
    // The RAM disk stays where it is when `mem=` has cut its memory off.
    if let Some(initrd) = info.initrd {
        let start = initrd.start.0 & !(SIZE_2M - 1);
        for page in (start..initrd.end.0).step_by(SIZE_2M as usize) {
            let end = page + SIZE_2M;
            let mut memory = info.memory.regions().iter().filter(|region| region.kind.is_memory());
            if !memory.any(|region| region.start.0 < end && page < region.end.0) {
                builder.map(direct_map + page, page, SIZE_2M, flags)?;
                top = top.max(end);
            }
        }
    }
    builder.map(0, 0, REACH, PRESENT | WRITABLE)?;
    let result = builder.finish();
    info.direct_map_end = PhysAddr(top);
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryKind;
    use archtypes::addr::VirtAddr;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Frames by address.
    #[derive(Default)]
    struct Frames(RefCell<BTreeMap<u64, u64>>);

    impl TableMemory for &Frames {
        fn clear(&self, frame: u64) {
            assert_eq!(frame % SIZE_4K, 0);
        }
        fn load(&self, at: u64) -> u64 {
            self.0.borrow().get(&at).copied().unwrap_or(0)
        }
        fn store(&self, at: u64, entry: u64) {
            self.0.borrow_mut().insert(at, entry);
        }
    }

    fn translate(frames: &Frames, root: u64, at: u64) -> Option<(u64, u64)> {
        let mut table = root;
        for shift in [39, 30, 21, 12] {
            let entry = frames.load(table + (at >> shift & 511) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            if shift == 12 || (shift != 39 && entry & LARGE != 0) {
                let inside = at & ((1 << shift) - 1);
                return Some(((entry & ADDRESS & !((1 << shift) - 1)) + inside, entry & !ADDRESS));
            }
            table = entry & ADDRESS;
        }
        None
    }

    #[test]
    fn a_ram_disk_beyond_the_limit_is_mapped() {
        let mut info = BootInfo::new();
        info.memory.add(0x10_0000, 0x3ff0_0000, MemoryKind::Usable);
        info.memory.add(0x4000_0000, 0x1000, MemoryKind::AcpiReclaimable);
        info.memory.normalise();
        info.kernel = PhysRange::new(0x100_0000, 0x60_1000);
        info.kernel_virt = VirtAddr(0xffff_ffff_8020_0000);
        info.direct_map = VirtAddr(0xffff_88c0_0000_0000);
        info.initrd = Some(PhysRange::new(0x3fc0_1000, 0x3f_f000));
        assert!(!info.drop_bad_initrd());
        info.memory.limit(PhysAddr(0x2000_0000));
        let (kernel, direct) = (info.kernel, info.direct_map.0);
        info.reserve(kernel);
        let frames = Frames::default();
        let parts = ImageParts { text: 0x20_0000, rodata: 0x30_0000 };
        let (root, _) = build(&mut info, &frames, true, parts).expect("memory");
        for at in [0x3fc0_1000, 0x3fff_ffff, 0x4000_0000, 0x1fff_ffff] {
            assert_eq!(translate(&frames, root, direct + at).expect("mapped").0, at);
        }
        assert!(translate(&frames, root, direct + 0x2000_0000).is_none());
    }

    #[test]
    fn everything_is_mapped_with_its_rights() {
        for has_1g in [false, true] {
            let mut info = BootInfo::new();
            info.memory.add(0, 0x9_f000, MemoryKind::Usable);
            info.memory.add(0x10_0000, 0x1_3ff0_0000, MemoryKind::Usable);
            info.memory.normalise();
            info.kernel = PhysRange::new(0x100_0000, 0x60_1000);
            info.kernel_virt = VirtAddr(0xffff_ffff_8020_0000);
            info.direct_map = VirtAddr(0xffff_88c0_0000_0000);
            let (kernel, virt, direct) = (info.kernel, info.kernel_virt.0, info.direct_map.0);
            info.reserve(kernel);
            let frames = Frames::default();
            let parts = ImageParts { text: 0x20_0000, rodata: 0x30_0000 };
            let (root, used) = build(&mut info, &frames, has_1g, parts).expect("memory");
            assert!(!used.overlaps(&kernel) && used.start == kernel.end.page_up());
            let code = translate(&frames, root, virt + 0x1234).expect("code");
            assert_eq!((code.0, code.1 & (WRITABLE | NO_EXECUTE)), (0x100_1234, 0));
            let data = translate(&frames, root, virt + 0x60_0fff).expect("data");
            assert_eq!(data.0, 0x160_0fff);
            assert_eq!(data.1 & (WRITABLE | NO_EXECUTE), WRITABLE | NO_EXECUTE);
            let constants = translate(&frames, root, virt + 0x20_0000).expect("constants");
            assert_eq!(constants.1 & (WRITABLE | NO_EXECUTE), NO_EXECUTE);
            for at in [0, 0x9_0000, 0x1_3000_0000, 0x1_3fff_ffff] {
                assert_eq!(translate(&frames, root, direct + at).expect("memory").0, at);
            }
            assert_eq!(info.direct_map_end.0, 0x1_4000_0000);
            assert!(translate(&frames, root, direct + 0x1_4000_0000).is_none());
            assert_eq!(
                translate(&frames, root, 0xfee0_0000).map(|found| found.0),
                Some(0xfee0_0000)
            );
        }
    }
}
