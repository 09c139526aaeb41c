//! The first real page tables: the kernel at its slid address with W^X, the direct map of all
//! memory with the largest pages the processor has, and the first 4 GiB one to one (left out again
//! by whoever replaces these tables; processors that start up pass through it).
//!
//! Built while memory is mapped one to one, from frames taken behind the kernel.

use crate::addr::PhysAddr;
use bootinfo::{BootInfo, PhysRange};
use core::arch::x86_64::__cpuid;

pub(super) const PRESENT: u64 = 1;
pub(super) const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
pub(super) const GLOBAL: u64 = 1 << 8;
pub(super) const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const SIZE_4K: u64 = 1 << 12;
const SIZE_2M: u64 = 1 << 21;
const SIZE_1G: u64 = 1 << 30;
/// The one-to-one map that this module runs in ends here.
const REACH: u64 = 4 << 30;

/// Takes frames, ascending, from memory that nothing occupies.
pub(super) struct EarlyFrames<'a> {
    info: &'a BootInfo,
    first: u64,
    next: u64,
}

impl<'a> EarlyFrames<'a> {
    /// Frames from the kernel's end on, else from 1 MiB.
    pub(super) fn new(info: &'a BootInfo) -> Self {
        let first = info.kernel.end.page_up().0;
        EarlyFrames { info, first, next: first }
    }

    /// One zeroed frame, or `None` when the reachable memory is used up.
    fn take(&mut self) -> Option<u64> {
        let range = self.info.usable().find(|range| range.end.0 > self.next)?;
        let frame = range.start.0.max(self.next);
        if frame + SIZE_4K > REACH {
            return None;
        }
        self.next = frame + SIZE_4K;
        // SAFETY: the frame is usable memory below 4 GiB that nothing occupies, mapped one to one.
        unsafe { (frame as *mut u8).write_bytes(0, SIZE_4K as usize) };
        Some(frame)
    }

    /// Everything from the first frame taken to the last.
    pub(super) fn used(&self) -> PhysRange {
        PhysRange { start: PhysAddr(self.first), end: PhysAddr(self.next) }
    }
}

/// A tree of page tables under construction.
pub(super) struct Builder<'a> {
    frames: EarlyFrames<'a>,
    root: u64,
    has_1g: bool,
}

impl<'a> Builder<'a> {
    /// An empty tree; `None` without memory for its root.
    pub(super) fn new(mut frames: EarlyFrames<'a>) -> Option<Self> {
        let root = frames.take()?;
        let has_1g =
            __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).edx & (1 << 26) != 0;
        Some(Builder { frames, root, has_1g })
    }

    /// The table that `entry` points to, made if it is missing.
    fn descend(&mut self, entry: *mut u64) -> Option<u64> {
        // SAFETY: `entry` is a slot of a table of this tree, mapped one to one.
        unsafe {
            if *entry & PRESENT == 0 {
                *entry = self.frames.take()? | PRESENT | WRITABLE;
            }
            Some(*entry & ADDRESS)
        }
    }

    /// Maps `[phys, phys + len)` at `virt` with the largest pages that fit. All are multiples of
    /// 4 KiB. `None` when memory for tables runs out.
    pub(super) fn map(&mut self, virt: u64, phys: u64, len: u64, flags: u64) -> Option<()> {
        let mut done = 0;
        while done < len {
            let (v, p, left) = (virt.wrapping_add(done), phys + done, len - done);
            let fits = |size: u64| left >= size && (v | p) & (size - 1) == 0;
            let slot = |table: u64, shift: u32| {
                (table as *mut u64).wrapping_add((v >> shift) as usize & 511)
            };

            let pdpt = self.descend(slot(self.root, 39))?;
            let entry = slot(pdpt, 30);
            // SAFETY: a slot of a table of this tree, mapped one to one; likewise below.
            if self.has_1g && fits(SIZE_1G) && unsafe { *entry } & PRESENT == 0 {
                // SAFETY: as above.
                unsafe { *entry = p | flags | LARGE };
                done += SIZE_1G;
                continue;
            }
            let directory = self.descend(entry)?;
            let entry = slot(directory, 21);
            // SAFETY: as above.
            if fits(SIZE_2M) && unsafe { *entry } & PRESENT == 0 {
                // SAFETY: as above.
                unsafe { *entry = p | flags | LARGE };
                done += SIZE_2M;
                continue;
            }
            let table = self.descend(entry)?;
            // SAFETY: as above.
            unsafe { *slot(table, 12) = p | flags };
            done += SIZE_4K;
        }
        Some(())
    }

    /// The root's physical address and what the tables occupy.
    pub(super) fn finish(self) -> (u64, PhysRange) {
        (self.root, self.frames.used())
    }
}

/// Whether the running page tables map a kernel address. For backtraces of a dying machine: takes
/// no lock.
pub fn is_mapped(address: u64) -> bool {
    let root: u64;
    // SAFETY: reads a control register.
    unsafe {
        core::arch::asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags));
    }
    let mut table = root & ADDRESS;
    for shift in [39, 30, 21, 12] {
        let slot = crate::phys::to_virt(PhysAddr(table)).cast::<u64>();
        // SAFETY: page tables are memory, and all memory is in the direct map.
        let entry = unsafe { slot.wrapping_add((address >> shift) as usize & 511).read_volatile() };
        if entry & PRESENT == 0 {
            return false;
        }
        if shift != 39 && entry & LARGE != 0 {
            return true;
        }
        table = entry & ADDRESS;
    }
    true
}

/// The root of tables with the kernel's upper half as it is now and the first 2 MiB one to one,
/// below 4 GiB: for processors that start. Made from the tables of the entry code.
pub(crate) fn trampoline_tables() -> PhysAddr {
    unsafe extern "C" {
        static boot_pml4: u8;
    }
    let root = crate::phys::to_phys(&raw const boot_pml4);
    let table = |index: u64| crate::phys::to_virt(root + index * SIZE_4K).cast::<u64>();
    let kernel = crate::phys::to_virt(crate::paging::kernel::root()).cast::<u64>();
    // SAFETY: the six tables in the head of the image, written through the direct map; nothing
    // has run on them since the kernel got its own.
    unsafe {
        for slot in 256..512 {
            table(0).add(slot).write(kernel.add(slot).read());
        }
        table(0).write((root.0 + SIZE_4K) | PRESENT | WRITABLE);
        table(1).write((root.0 + 2 * SIZE_4K) | PRESENT | WRITABLE);
        table(2).write(LARGE | PRESENT | WRITABLE);
    }
    root
}
