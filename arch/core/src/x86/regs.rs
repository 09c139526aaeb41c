//! Single instructions: model-specific and control registers, flags, CPUID, ports.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Numbers of model-specific registers. SDM vol. 4.
#[expect(missing_docs, reason = "each is the register of its name")]
pub mod msr {
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC: u32 = 0x800;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const PAT: u32 = 0x277;
    pub const XSS: u32 = 0xda0;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    pub const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists.
#[inline(always)]
pub unsafe fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register; reading changes nothing.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists and the value keeps the kernel's world intact.
#[inline(always)]
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller vouches for both.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// Writes an x2APIC register without the serialisation others have.
///
/// # Safety
/// As for [`wrmsr`].
#[inline(always)]
pub unsafe fn wrmsr_low(register: u32, low: u32, high: u32) {
    // SAFETY: the caller vouches for both.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack, preserves_flags));
    }
}

macro_rules! control {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline(always)]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: reading a control register changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
            value
        }
        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The value keeps the kernel's world intact.
        #[inline(always)]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller vouches for the value.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}
control!(cr0, set_cr0, "cr0");
control!(cr2, set_cr2, "cr2");
control!(cr3, set_cr3, "cr3");
control!(cr4, set_cr4, "cr4");
control!(dr6, set_dr6, "dr6");
control!(dr7, set_dr7, "dr7");
control!(dr0, set_dr0, "dr0");
control!(dr1, set_dr1, "dr1");
control!(dr2, set_dr2, "dr2");
control!(dr3, set_dr3, "dr3");

/// Clears the debug status, as the manual asks the handler to.
pub fn clear_dr6() {
    // SAFETY: the status register's value after reset.
    unsafe { set_dr6(0xffff_0ff0) };
}

/// `rflags`.
#[inline(always)]
pub fn rflags() -> u64 {
    let flags;
    // SAFETY: pushes and pops one word.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags
}

#[inline(always)]
pub(crate) fn irq_are_enabled() -> bool {
    rflags() & crate::trap::RFLAGS_IF != 0
}

#[inline(always)]
pub(crate) fn irq_save_disable() -> bool {
    let flags: u64;
    // SAFETY: switching interrupts off is always allowed; memory accesses stay on their side.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
    flags & crate::trap::RFLAGS_IF != 0
}

#[inline(always)]
pub(crate) fn irq_enable() {
    // SAFETY: the callers' guards were the reason interrupts were off.
    unsafe { asm!("sti", options(nostack)) };
}

#[inline(always)]
pub(crate) fn irq_enable_and_halt() {
    // SAFETY: `sti` takes effect after `hlt` has begun: no interrupt slips between.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// CPUID of a leaf and subleaf: eax, ebx, ecx, edx.
#[inline]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// The time-stamp counter, not ordered.
#[inline(always)]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter that exists on every x86_64.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A word from RDRAND, if the processor has it and it works.
pub fn rdrand() -> Option<u64> {
    if cpuid(1, 0)[2] & 1 << 30 == 0 {
        return None;
    }
    for _ in 0..10 {
        let (value, ok): (u64, u8);
        // SAFETY: the processor has the instruction.
        unsafe {
            asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack));
        }
        if ok != 0 {
            return Some(value);
        }
    }
    None
}

macro_rules! port {
    ($read:ident, $write:ident, $ty:ty, $reg:tt) => {
        /// Reads a port.
        ///
        /// # Safety
        /// The read has no effect that breaks the kernel.
        #[inline(always)]
        pub unsafe fn $read(port: u16) -> $ty {
            let value: $ty;
            // SAFETY: the caller vouches for the port.
            unsafe { asm!(concat!("in ", $reg, ", dx"), out($reg) value, in("dx") port, options(nostack, preserves_flags)) };
            value
        }
        /// Writes a port.
        ///
        /// # Safety
        /// The write has no effect that breaks the kernel.
        #[inline(always)]
        pub unsafe fn $write(port: u16, value: $ty) {
            // SAFETY: the caller vouches for the port.
            unsafe { asm!(concat!("out dx, ", $reg), in("dx") port, in($reg) value, options(nostack, preserves_flags)) };
        }
    };
}
port!(inb, outb, u8, "al");
port!(inw, outw, u16, "ax");
port!(inl, outl, u32, "eax");

static HAS_FSGSBASE: AtomicBool = AtomicBool::new(false);

/// Notes that `rdfsbase` and its relatives may be used.
pub(crate) fn note_fsgsbase() {
    HAS_FSGSBASE.store(true, Ordering::Relaxed);
}

/// Whether `rdfsbase` and its relatives may be used.
#[inline(always)]
pub(crate) fn has_fsgsbase() -> bool {
    HAS_FSGSBASE.load(Ordering::Relaxed)
}

/// The FS base: the user's, the kernel has no use for it.
#[inline(always)]
pub(crate) fn user_fs_base() -> u64 {
    if has_fsgsbase() {
        let base;
        // SAFETY: the feature is there and CR4 allows it.
        unsafe { asm!("rdfsbase {}", out(reg) base, options(nostack, preserves_flags)) };
        return base;
    }
    // SAFETY: the register exists on every x86_64.
    unsafe { rdmsr(msr::FS_BASE) }
}

/// Sets the FS base.
///
/// # Safety
/// The base is canonical.
#[inline(always)]
pub(crate) unsafe fn set_user_fs_base(base: u64) {
    if has_fsgsbase() {
        // SAFETY: the feature is there and CR4 allows it.
        unsafe { asm!("wrfsbase {}", in(reg) base, options(nostack, preserves_flags)) };
    } else {
        // SAFETY: the register exists; the base is canonical.
        unsafe { wrmsr(msr::FS_BASE, base) };
    }
}

/// The user's GS base, parked in `KERNEL_GS_BASE` while in the kernel.
pub(crate) fn user_gs_base() -> u64 {
    // SAFETY: the register exists on every x86_64.
    unsafe { rdmsr(msr::KERNEL_GS_BASE) }
}

/// Sets the user's GS base.
///
/// # Safety
/// The base is canonical.
pub(crate) unsafe fn set_user_gs_base(base: u64) {
    // SAFETY: the register exists; the base is canonical.
    unsafe { wrmsr(msr::KERNEL_GS_BASE, base) };
}

/// The user's GS base through the fast instructions, interrupts off.
#[inline(always)]
pub(crate) fn swapped_gs_base() -> u64 {
    let base;
    // SAFETY: interrupts are off and no exception can come between; an NMI puts GS right itself.
    unsafe {
        asm!("swapgs", "rdgsbase {}", "swapgs", out(reg) base, options(nostack, preserves_flags))
    };
    base
}

/// Sets the user's GS base through the fast instructions, interrupts off.
///
/// # Safety
/// The base is canonical.
#[inline(always)]
pub(crate) unsafe fn set_swapped_gs_base(base: u64) {
    // SAFETY: as in `swapped_gs_base`.
    unsafe {
        asm!("swapgs", "wrgsbase {}", "swapgs", in(reg) base, options(nostack, preserves_flags))
    };
}

/// Reads APIC_BASE; every x86_64 with a local APIC has it.
pub fn apic_base() -> u64 {
    // SAFETY: see above.
    unsafe { rdmsr(msr::APIC_BASE) }
}

/// Arms the local APIC's timer for a counter value, 0 disarms. Only where CPUID has the mode.
#[inline]
pub fn set_tsc_deadline(deadline: u64) {
    // SAFETY: the callers looked for the register; a deadline only makes an interrupt.
    unsafe { wrmsr(msr::TSC_DEADLINE, deadline) };
}

/// Orders earlier stores before a later write of a register. SDM 11.5.4.1, 11.12.3.
#[inline(always)]
pub fn fence_all() {
    // SAFETY: fences.
    unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
}

/// Resets the processor by a trap without an interrupt table.
pub fn triple_fault() -> ! {
    // SAFETY: the machine's end is the aim.
    unsafe {
        let none = [0u16; 5];
        asm!("lidt [{}]", "int3", in(reg) &raw const none, options(nostack));
    }
    halt_forever()
}

/// Stops this processor for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: interrupts off and halted: nothing more happens here but NMIs.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}
