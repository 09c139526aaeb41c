//! The page that KVM fills with the scale of its clock.

use crate::paging;
use crate::x86::regs;

/// The page kvm-clock fills. Documentation of KVM's `MSR_KVM_SYSTEM_TIME_NEW`.
#[repr(C, align(64))]
struct PvClock {
    version: u32,
    pad0: u32,
    tsc_timestamp: u64,
    system_time: u64,
    tsc_to_system_mul: u32,
    tsc_shift: i8,
    flags: u8,
    pad: [u8; 2],
}

/// What the TSC is multiplied with, and by how many bits it is shifted before. Only where CPUID says
/// that there is kvm-clock.
pub fn scale() -> Option<(u32, i8)> {
    let [_, b, c, d] = regs::cpuid(0x4000_0000, 0);
    if [b, c, d] != [0x4b4d_564b, 0x564b_4d56, 0x4d] || regs::cpuid(0x4000_0001, 0)[0] & 8 == 0 {
        return None;
    }
    let page = PvClock {
        version: 0,
        pad0: 0,
        tsc_timestamp: 0,
        system_time: 0,
        tsc_to_system_mul: 0,
        tsc_shift: 0,
        flags: 0,
        pad: [0; 2],
    };
    let at = translate(&raw const page as u64)?;
    // SAFETY: the hypervisor fills the page while the register points at it: only until the next
    // line. The structure is 64-byte aligned and does not cross a page.
    Some(unsafe {
        regs::wrmsr(regs::msr::KVM_SYSTEM_TIME_NEW, at | 1);
        regs::wrmsr(regs::msr::KVM_SYSTEM_TIME_NEW, 0);
        (
            (&raw const page.tsc_to_system_mul).read_volatile(),
            (&raw const page.tsc_shift).read_volatile(),
        )
    })
}

/// The physical address of kernel data, wherever it is mapped.
fn translate(at: u64) -> Option<u64> {
    if let Some((phys, _)) = (!paging::kernel::root().is_null())
        .then(|| paging::kernel::query(crate::addr::VirtAddr(at)))
        .flatten()
    {
        return Some(phys.0);
    }
    (at >= 0xffff_ffff_8000_0000).then(|| crate::phys::to_phys(at as *const u8).0)
}
