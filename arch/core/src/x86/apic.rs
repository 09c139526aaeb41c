//! The registers of the local APIC, through MSRs (x2APIC) or memory (xAPIC), and this kernel's vectors.
//! SDM vol. 3A ch. 11.

use crate::addr::PhysAddr;
use crate::paging::{self, MapError, PteFlags};
use crate::x86::regs::{self, msr};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Vectors of this kernel, from the top.
#[expect(missing_docs, reason = "each is the interrupt of its name")]
pub mod vector {
    pub const SPURIOUS: u8 = 0xff;
    pub const ERROR: u8 = 0xfe;
    pub const RESCHEDULE: u8 = 0xfd;
    pub const CALL: u8 = 0xfb;
    pub const TIMER: u8 = 0xec;
}

/// The low half of the interrupt command register.
pub const ICR_LOW: u32 = 0x30;

static IS_X2: AtomicBool = AtomicBool::new(false);
static BASE: AtomicPtr<u32> = AtomicPtr::new(core::ptr::null_mut());

/// Whether the registers are MSRs.
#[inline(always)]
pub fn is_x2() -> bool {
    IS_X2.load(Ordering::Relaxed)
}

/// Whether the registers can be reached.
pub fn is_ready() -> bool {
    is_x2() || !BASE.load(Ordering::Relaxed).is_null()
}

/// Chooses the way to the registers; the boot processor, once, with kernel mappings.
pub fn find(has_x2: bool) -> Result<(), MapError> {
    if has_x2 {
        IS_X2.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let phys = PhysAddr(regs::apic_base() & 0x000f_ffff_ffff_f000);
    let mapped = paging::kernel::ioremap(phys, 4096, PteFlags::UNCACHED)?;
    BASE.store(mapped.cast(), Ordering::Relaxed);
    Ok(())
}

/// Switches this processor's APIC on in the mode that [`find`] chose.
pub fn enable() {
    // SAFETY: enabling the APIC in the mode that was chosen.
    unsafe {
        let base = regs::rdmsr(msr::APIC_BASE) | 1 << 11;
        regs::wrmsr(msr::APIC_BASE, base);
        if is_x2() {
            regs::wrmsr(msr::APIC_BASE, base | 1 << 10);
        }
    }
}

/// Reads a register by its number (its offset in memory divided by 16).
#[inline(always)]
pub fn read(register: u32) -> u32 {
    debug_assert!(register < 0x40 && is_ready());
    // SAFETY: the APIC was found before anything reads it, and the number is one of its page.
    unsafe {
        if is_x2() {
            regs::rdmsr(msr::X2APIC + (register & 0x3f)) as u32
        } else {
            let at = (register & 0x3f) as usize * 4;
            BASE.load(Ordering::Relaxed).add(at).read_volatile()
        }
    }
}

/// Writes a register. What an APIC can do is interrupt and start processors, for which the vectors
/// and the trampoline are there.
#[inline(always)]
pub fn write(register: u32, value: u32) {
    debug_assert!(register < 0x40 && is_ready());
    // SAFETY: as in `read`.
    unsafe {
        if is_x2() {
            regs::wrmsr_low(msr::X2APIC + (register & 0x3f), value, 0);
        } else {
            let at = (register & 0x3f) as usize * 4;
            BASE.load(Ordering::Relaxed).add(at).write_volatile(value);
        }
    }
}

/// Writes the whole command register of an x2APIC.
#[inline(always)]
pub fn command_x2(low: u32, destination: u32) {
    debug_assert!(is_x2());
    // Unlike memory writes this MSR write is not ordered after earlier stores. SDM 11.12.3.
    regs::fence_all();
    // SAFETY: an interrupt to a processor of ours.
    unsafe { regs::wrmsr_low(msr::X2APIC + ICR_LOW, low, destination) };
}
