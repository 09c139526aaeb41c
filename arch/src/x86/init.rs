//! The order in which a processor comes up.

use crate::cpu::CpuId;
use crate::paging::{self, MapError};
use crate::x86::{apic, clock, ioapic, timer};

/// The rest of the boot processor's first step, before `kernel_main`: the console and a first clock.
pub fn begin() {
    crate::console::set_up(115_200);
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
