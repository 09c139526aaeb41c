//! Which processors run, and what this one is.

pub use archtypes::cpus::*;

use core::sync::atomic::{AtomicU32, Ordering};

static POSSIBLE: AtomicU32 = AtomicU32::new(1);
static ONLINE: AtomicCpuSet = AtomicCpuSet::new();

/// The processor this code runs on; stale at once unless preemption is off.
#[inline(always)]
pub fn id() -> CpuId {
    CpuId::from_raw(crate::percpu::local_cpu_number())
}

/// How many processors run, counted in the set: a number beside it would lag behind.
pub fn count() -> usize {
    online().len()
}

/// The processors that run.
pub fn online() -> CpuSet {
    let mut set = ONLINE.load();
    set.insert(CpuId::BOOT);
    set
}

/// The processors the firmware describes, whether they run or not.
pub fn possible() -> CpuSet {
    CpuSet::first_n(possible_count())
}

/// Each of the processors that the firmware describes: without a set in between, for sums.
#[inline]
pub fn each_possible() -> impl Iterator<Item = CpuId> {
    (0..possible_count()).map(CpuId::from_index)
}

/// How many processors the firmware describes.
pub fn possible_count() -> usize {
    POSSIBLE.load(Ordering::Relaxed) as usize
}

/// Sets the number of processors that may ever run; once, while one runs.
pub fn set_possible(count: usize) {
    POSSIBLE.store(count.clamp(1, MAX_CPUS) as u32, Ordering::Relaxed);
}

/// Marks a processor as running. Called by the processor itself at the end of its start-up.
pub fn set_online(cpu: CpuId) {
    ONLINE.insert(cpu);
}

/// Tells the processor that it waits in a spin loop.
#[inline(always)]
pub fn relax() {
    core::hint::spin_loop();
}

/// What `AT_HWCAP` says: the feature word of CPUID leaf 1.
pub fn hwcap() -> u32 {
    #[cfg(target_os = "none")]
    return crate::x86::regs::cpuid(1, 0)[3];
    #[cfg(not(target_os = "none"))]
    0
}

/// What `AT_HWCAP2` says: bit 1, programs may use `wrfsbase` and its relatives.
pub fn hwcap2() -> u64 {
    #[cfg(target_os = "none")]
    return u64::from(crate::x86::regs::has_fsgsbase()) << 1;
    #[cfg(not(target_os = "none"))]
    0
}

/// A word from the processor's random generator, if it has one that works.
pub fn hardware_random() -> Option<u64> {
    #[cfg(target_os = "none")]
    return crate::x86::regs::rdrand();
    #[cfg(not(target_os = "none"))]
    None
}

/// What the processor says of itself: `eax`, `ebx`, `ecx`, `edx` of a `cpuid` leaf.
pub fn identify(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}
