//! Looking at the running page tables, and those of processors that start.

use crate::addr::PhysAddr;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const SIZE_4K: u64 = 1 << 12;

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
