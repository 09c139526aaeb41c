//! What a processor can do, and switching it on.

use crate::cpu::CpuId;
use crate::x86::{entry, fpu, regs, tlb, usercopy};
use core::sync::atomic::{AtomicBool, Ordering};

const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR4_DE: u64 = 1 << 3;
const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_SCE: u64 = 1;
const EFER_NXE: u64 = 1 << 11;
/// Write-back, write-combining, uncached-, uncached, write-back, write-protected, uncached-,
/// write-through.
const PAT_VALUE: u64 = 0x0407_0506_0007_0106;
/// The flags SYSCALL clears: TF IF DF IOPL NT RF AC.
const SYSCALL_CLEARS: u64 = 0x5_7700;

static HAS_SMAP: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    static __smap_sites_start: [i32; 2];
    static __smap_sites_end: [i32; 2];
}

/// Switches on what this processor has. The boot processor also patches the entry code.
///
/// # Safety
/// Once for each processor, at its start, per-CPU data and descriptor tables in place.
pub(crate) unsafe fn init(cpu: CpuId) {
    let is_boot = cpu == CpuId::BOOT;
    let [_, _, ecx1, _] = regs::cpuid(1, 0);
    let max_leaf = regs::cpuid(0, 0)[0];
    let [_, ebx7, ecx7, edx7] = if max_leaf >= 7 { regs::cpuid(7, 0) } else { [0; 4] };
    let [_, _, _, ext_edx] = regs::cpuid(0x8000_0001, 0);
    let mut cr4 = regs::cr4() | CR4_DE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    let mut enable = |has: bool, bit: u64| {
        if has {
            cr4 |= bit;
        }
    };
    enable(ecx7 & 1 << 2 != 0, CR4_UMIP);
    enable(ebx7 & 1 != 0, CR4_FSGSBASE);
    enable(ecx1 & 1 << 17 != 0, CR4_PCIDE);
    enable(ecx1 & 1 << 26 != 0, CR4_OSXSAVE);
    enable(ebx7 & 1 << 7 != 0, CR4_SMEP);
    let has_smap = ebx7 & 1 << 20 != 0;
    enable(has_smap, CR4_SMAP);
    // SAFETY: every bit set is one the processor has; the selectors and entries are the kernel's.
    unsafe {
        if is_boot && has_smap {
            HAS_SMAP.store(true, Ordering::Relaxed);
            patch_smap_sites();
        }
        let cr0 = regs::cr0() & !(CR0_EM | CR0_TS) | CR0_MP | CR0_NE | CR0_WP | CR0_AM;
        regs::set_cr0(cr0);
        regs::set_cr4(cr4);
        regs::wrmsr(regs::msr::PAT, PAT_VALUE);
        let mut efer = regs::rdmsr(regs::msr::EFER) | EFER_SCE;
        if ext_edx & 1 << 20 != 0 {
            efer |= EFER_NXE;
        }
        regs::wrmsr(regs::msr::EFER, efer);
        regs::wrmsr(regs::msr::STAR, 0x23 << 48 | crate::trap::KERNEL_CS << 32);
        regs::wrmsr(regs::msr::LSTAR, entry::syscall_entry as *const () as u64);
        regs::wrmsr(regs::msr::CSTAR, entry::syscall32_entry as *const () as u64);
        regs::wrmsr(regs::msr::SFMASK, SYSCALL_CLEARS);
        if ext_edx & 1 << 27 != 0 {
            regs::wrmsr(regs::msr::TSC_AUX, u64::from(cpu.as_u32()));
        }
        fpu::init(is_boot);
        if is_boot {
            if cr4 & CR4_FSGSBASE != 0 {
                regs::note_fsgsbase();
            }
            if cr4 & CR4_PCIDE != 0 {
                tlb::note_pcid();
            }
            // ERMS or FSRM.
            if ebx7 & 1 << 9 != 0 || edx7 & 1 << 4 != 0 {
                usercopy::use_string_instructions();
            }
        }
    }
}

/// Puts CLAC and STAC where the assembly left room, through the writable direct map.
///
/// # Safety
/// The boot processor, before others start.
unsafe fn patch_smap_sites() {
    let start = &raw const __smap_sites_start;
    let count = (&raw const __smap_sites_end as usize - start as usize) / size_of::<[i32; 2]>();
    // SAFETY: the linker put pairs of (offset, which) between the symbols; the places are
    // three bytes of no operation each, in the image, which the direct map covers.
    unsafe {
        for [at, which] in core::slice::from_raw_parts(start, count) {
            let code: [u8; 3] = [0x0f, 0x01, if *which == 0 { 0xca } else { 0xcb }];
            let place = core::ptr::from_ref(at).cast::<u8>().wrapping_offset(*at as isize);
            let alias = crate::phys::to_virt(crate::phys::to_phys(place));
            alias.cast::<[u8; 3]>().write_unaligned(code);
        }
        // Forget what was fetched ahead.
        regs::cpuid(0, 0);
    }
}

/// Whether supervisor accesses to user pages fault outside of the copy routines.
pub fn has_smap() -> bool {
    HAS_SMAP.load(Ordering::Relaxed)
}
