//! The order in which a processor comes up.

use crate::boot::BootInfo;
use crate::cpu::CpuId;
use crate::paging::{self, MapError};
use crate::x86::{apic, clock, cpu, descriptors, ioapic, local, timer};

/// The first step of the boot processor, before anything that uses per-CPU data, locks or the
/// heap: its per-CPU copy, descriptor tables, features, exceptions.
///
/// # Safety
/// Once, first thing at the image's final address.
pub(crate) unsafe fn early(_info: &BootInfo) {
    // SAFETY: the caller vouches that this is the start.
    unsafe {
        local::init_boot();
        descriptors::load(CpuId::BOOT);
        descriptors::fill_idt();
        descriptors::load_idt();
        cpu::init(CpuId::BOOT);
    }
    clock::init_early();
    crate::cpu::set_online(CpuId::BOOT);
}

/// The second step, with table frames and the heap there: the kernel's page tables are taken over,
/// the local APIC runs. The firmware's interrupt tables are read after it: `ioapic::add`,
/// `ioapic::add_override`, `clock::set_hpet`.
pub fn interrupts() -> Result<(), MapError> {
    paging::kernel::init(crate::boot::boot_page_table())?;
    ioapic::silence_pic();
    apic::init_boot()
}

/// The third step: clock and timer run, interrupts may be switched on.
pub fn clocks() {
    clock::init();
    timer::init_boot();
}

/// Everything for a processor that was started; it may take interrupts then.
///
/// # Safety
/// Once, on the processor, running on its own stack in the kernel's page tables, its per-CPU copy
/// made by `local::init_area`.
pub unsafe fn secondary(cpu_id: CpuId) {
    // SAFETY: the caller vouches.
    unsafe {
        local::load(cpu_id);
        descriptors::load(cpu_id);
        descriptors::load_idt();
        cpu::init(cpu_id);
    }
    apic::init_this();
    timer::init_this();
    crate::cpu::set_online(cpu_id);
}
