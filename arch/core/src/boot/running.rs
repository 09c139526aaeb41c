//! Looking at the running page tables, and those of processors that start.

use crate::addr::PhysAddr;
use crate::x86::regs;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const SIZE_4K: u64 = 1 << 12;

/// The root of the running page tables.
pub(super) fn root() -> u64 {
    regs::cr3() & ADDRESS
}

/// Whether addresses are translated in five levels (SDM vol. 3A 4.5), which cannot be changed in
/// long mode; the kernel's tables have four.
pub(super) fn has_five_levels() -> bool {
    const CR4_LA57: u64 = 1 << 12;
    regs::cr4() & CR4_LA57 != 0
}

/// The physical address behind a virtual one in the running page tables; `load` reads the entry at
/// a physical address.
pub(super) fn walk(address: u64, load: impl Fn(u64) -> u64) -> Option<u64> {
    let mut table = root();
    for shift in [39, 30, 21, 12] {
        let entry = load(table + (address >> shift & 511) * 8);
        if entry & PRESENT == 0 {
            return None;
        }
        if shift == 12 || (shift != 39 && entry & LARGE != 0) {
            let inside = (1u64 << shift) - 1;
            return Some(entry & ADDRESS & !inside | address & inside);
        }
        table = entry & ADDRESS;
    }
    None
}

/// Whether the running page tables map a kernel address. For backtraces of a dying machine: takes
/// no lock.
pub fn is_mapped(address: u64) -> bool {
    let load = |slot| {
        // SAFETY: page tables are memory, and all memory is in the direct map.
        unsafe { crate::phys::to_virt(PhysAddr(slot)).cast::<u64>().read_volatile() }
    };
    walk(address, load).is_some()
}

/// Whether the direct map has all of a range of physical memory.
pub(crate) fn is_in_direct_map(start: PhysAddr, len: usize) -> bool {
    let Some(end) = start.checked_add(len.max(1) as u64) else { return false };
    let mut pages = (start.page_down().0..end.0).step_by(SIZE_4K as usize);
    end <= super::info().direct_map_end
        && pages.all(|page| is_mapped(crate::phys::to_virt(PhysAddr(page)) as u64))
}

/// The root of tables with the kernel's upper half as it is now and of the lower half the first
/// 2 MiB one to one, below 4 GiB: for processors that start. Made from the tables of the entry code.
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
        for index in 0..3 {
            table(index).write_bytes(0, 512);
        }
        for slot in 256..512 {
            table(0).add(slot).write(kernel.add(slot).read());
        }
        table(0).write((root.0 + SIZE_4K) | PRESENT | WRITABLE);
        table(1).write((root.0 + 2 * SIZE_4K) | PRESENT | WRITABLE);
        table(2).write(LARGE | PRESENT | WRITABLE);
    }
    root
}
