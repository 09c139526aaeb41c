//! The first steps of a processor.

use crate::cpu::CpuId;
use crate::x86::{cpu, descriptors, local};

/// The first step of the boot processor, before anything that uses per-CPU data, locks or the
/// heap: its per-CPU copy, descriptor tables, features, exceptions.
///
/// # Safety
/// Once, first thing at the image's final address.
pub(crate) unsafe fn boot() {
    // SAFETY: the caller vouches that this is the start.
    unsafe {
        local::init_boot();
        descriptors::load(CpuId::BOOT);
        descriptors::fill_idt();
        descriptors::load_idt();
        cpu::init(CpuId::BOOT);
    }
}

/// The first Rust code of a started processor, on its own stack.
pub(super) unsafe extern "C" fn secondary(number: u32) -> ! {
    let id = CpuId::from_index(number as usize);
    // SAFETY: the kernel's root maps this code and stack; the per-CPU copy was made before the
    // processor was called (`Trampoline::add`), and each processor comes here once.
    unsafe {
        let root = crate::paging::kernel::root();
        core::arch::asm!("mov cr3, {}", in(reg) root.0, options(nostack, preserves_flags));
        local::load(id);
        descriptors::load(id);
        descriptors::load_idt();
        cpu::init(id);
    }
    crate::hooks::machine_secondary(id)
}
