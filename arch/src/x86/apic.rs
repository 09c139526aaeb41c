//! The local APIC. SDM vol. 3A ch. 11.

use crate::cpu::{CpuId, MAX_CPUS};
use crate::paging::MapError;
use core::sync::atomic::{AtomicU32, Ordering};
pub use machine::x86::apic::is_ready;
pub(crate) use machine::x86::apic::vector;
use machine::x86::apic::{self, ICR_LOW, is_x2, read, write};
use machine::x86::regs;

const ID: u32 = 0x2;
const TASK_PRIORITY: u32 = 0x8;
const EOI: u32 = 0xb;
const LOGICAL_DESTINATION: u32 = 0xd;
const DESTINATION_FORMAT: u32 = 0xe;
const SPURIOUS: u32 = 0xf;
const ERROR_STATUS: u32 = 0x28;
const ICR_HIGH: u32 = 0x31;
const LVT_TIMER: u32 = 0x32;
const LVT_THERMAL: u32 = 0x33;
const LVT_PERFORMANCE: u32 = 0x34;
const LVT_LINT0: u32 = 0x35;
const LVT_LINT1: u32 = 0x36;
const LVT_ERROR: u32 = 0x37;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3e;

const MASKED: u32 = 1 << 16;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_INIT: u32 = 5 << 8;
const DELIVERY_STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;

static APIC_IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(u32::MAX) }; MAX_CPUS];

/// Sets up the boot processor's APIC. Needs kernel mappings.
pub(crate) fn init_boot() -> Result<(), MapError> {
    let has_x2 = regs::cpuid(1, 0)[2] & (1 << 21) != 0;
    apic::find(has_x2)?;
    init_this();
    let id = own_id();
    set_apic_id(CpuId::BOOT, id);
    log::info!("apic: {} mode, boot processor's id {id}", if has_x2 { "x2APIC" } else { "xAPIC" });
    Ok(())
}

/// Sets up this processor's APIC as the boot processor's was.
pub(crate) fn init_this() {
    apic::enable();
    if !is_x2() {
        write(DESTINATION_FORMAT, u32::MAX);
        write(LOGICAL_DESTINATION, 1 << 24);
    }
    write(TASK_PRIORITY, 0);
    write(LVT_TIMER, MASKED);
    write(LVT_THERMAL, MASKED);
    write(LVT_PERFORMANCE, MASKED);
    write(LVT_LINT0, MASKED);
    // LINT1 is NMI by convention of the firmware tables.
    write(LVT_LINT1, DELIVERY_NMI);
    write(LVT_ERROR, u32::from(vector::ERROR));
    write(ERROR_STATUS, 0);
    write(SPURIOUS, 1 << 8 | u32::from(vector::SPURIOUS));
    write(EOI, 0);
}

/// This processor's APIC id.
pub fn own_id() -> u32 {
    if is_x2() { read(ID) } else { read(ID) >> 24 }
}

/// Notes the APIC id of a processor, from the firmware's tables.
pub fn set_apic_id(cpu: CpuId, id: u32) {
    APIC_IDS[cpu.index()].store(id, Ordering::Relaxed);
}

/// The APIC id of a processor, if it is known.
pub fn apic_id(cpu: CpuId) -> Option<u32> {
    Some(APIC_IDS[cpu.index()].load(Ordering::Relaxed)).filter(|id| *id != u32::MAX)
}

/// Ends the interrupt being served.
#[inline(always)]
pub(crate) fn end_of_interrupt() {
    write(EOI, 0);
}

/// Writes the command register.
fn command(apic_id: u32, low: u32) {
    if is_x2() {
        apic::command_x2(low, apic_id);
        return;
    }
    let _irq = crate::irq::disable();
    while read(ICR_LOW) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(ICR_HIGH, apic_id << 24);
    write(ICR_LOW, low);
}

/// Interrupts another processor.
#[inline]
pub(crate) fn send(cpu: CpuId, vector: u8) {
    if let Some(id) = apic_id(cpu) {
        command(id, ASSERT | u32::from(vector));
    }
}

/// Sends an NMI.
pub(crate) fn send_nmi(cpu: CpuId) {
    if let Some(id) = apic_id(cpu) {
        command(id, ASSERT | DELIVERY_NMI);
    }
}

/// Resets a processor that is to be started.
pub fn send_init(apic_id: u32) {
    command(apic_id, ASSERT | 1 << 15 | DELIVERY_INIT);
    crate::time::delay_us(10);
    command(apic_id, 1 << 15 | DELIVERY_INIT);
}

/// Starts a processor at physical address `page << 12`.
pub fn send_startup(apic_id: u32, page: u8) {
    command(apic_id, ASSERT | DELIVERY_STARTUP | u32::from(page));
}

/// What the error status register says; clears it.
pub(crate) fn take_errors() -> u32 {
    write(ERROR_STATUS, 0);
    read(ERROR_STATUS)
}

/// The address and data of a message that raises `vector` on a processor.
pub(crate) fn message(cpu: CpuId, vector: u8) -> (u64, u32) {
    let id = apic_id(cpu).unwrap_or(0) & 0xff;
    (0xfee0_0000 | u64::from(id) << 12, u32::from(vector))
}

/// Timer modes and counts, for `timer`.
pub(crate) mod lvt {
    use super::*;

    /// One shot on the bus clock divided by 1.
    pub(crate) fn one_shot() {
        write(DIVIDE, 0b1011);
        write(LVT_TIMER, u32::from(vector::TIMER));
    }
    /// Fires when the TSC passes a value.
    pub(crate) fn tsc_deadline() {
        write(LVT_TIMER, 2 << 17 | u32::from(vector::TIMER));
        // The write of the mode must be seen before the first deadline. SDM 11.5.4.1.
        regs::fence_all();
    }
    /// Counts without interrupting, to be measured.
    pub(crate) fn measure() {
        write(DIVIDE, 0b1011);
        write(LVT_TIMER, MASKED | u32::from(vector::TIMER));
    }
    /// Starts to count down.
    #[inline(always)]
    pub(crate) fn set_count(count: u32) {
        write(INITIAL_COUNT, count);
    }
    /// What is left.
    pub(crate) fn count() -> u32 {
        read(CURRENT_COUNT)
    }
}
