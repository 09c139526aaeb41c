//! The vDSO: a small shared object that the kernel maps into every program, so that clocks and the
//! processor's number are read without entering the kernel.
//!
//! A mapping is one read-only page of data ([`VdsoPages::data`]) directly below the object's pages
//! ([`VdsoPages::code`], readable and executable); `AT_SYSINFO_EHDR` is the address of the first
//! of the latter. The object is written in assembly in one piece, ELF structures included
//! (`machine::vdso_image`), so no tool but the compiler makes it.
//!
//! The data page is guarded by a sequence number: odd while it is being changed.

use crate::addr::PhysAddr;
use crate::lock::{IrqLock, LockClass};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Clock ids the object serves; the table of offsets is indexed by them.
const CLOCKS: usize = 12;
const CLOCK_REALTIME: usize = 0;
const CLOCK_REALTIME_COARSE: usize = 5;
const CLOCK_BOOTTIME: usize = 7;
const CLOCK_TAI: usize = 11;
/// The counter is the TSC and may be read.
const MODE_TSC: u32 = 1;

/// What the object reads. Offsets are known to the assembly.
#[repr(C, align(4096))]
struct Data {
    /// Offset 0: odd while the rest is changed, and while the counter is not to be read.
    sequence: AtomicU32,
    /// Offset 4: 0, enter the kernel; 1, read the TSC.
    mode: AtomicU32,
    /// Offset 8.
    base_cycles: AtomicU64,
    /// Offset 16: nanoseconds in a cycle, times 2^32.
    mult: AtomicU64,
    /// Offset 24.
    base_ns: AtomicU64,
    /// Offset 32: what to add to nanoseconds since boot for each clock id.
    offsets: [AtomicU64; CLOCKS],
}

static DATA: Data = Data {
    sequence: AtomicU32::new(1),
    mode: AtomicU32::new(0),
    base_cycles: AtomicU64::new(0),
    mult: AtomicU64::new(0),
    base_ns: AtomicU64::new(0),
    offsets: [const { AtomicU64::new(0) }; CLOCKS],
};

static CLASS: LockClass = LockClass::new("arch.vdso", 955);
static WRITER: IrqLock<()> = IrqLock::new(&CLASS, ());

/// Changes the data so that no reader takes half of it.
fn change(f: impl FnOnce(&Data)) {
    let _writer = WRITER.lock();
    // Odd already, if the counter was not to be read.
    let changing = DATA.sequence.load(Ordering::Relaxed) | 1;
    DATA.sequence.store(changing, Ordering::Relaxed);
    fence(Ordering::Release);
    f(&DATA);
    if DATA.mode.load(Ordering::Relaxed) == MODE_TSC {
        // Release: readers that see the even number see the change.
        DATA.sequence.store(changing.wrapping_add(1), Ordering::Release);
    }
}

/// Sets how cycles become nanoseconds since boot; `None` when the counter is not the TSC.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no TSC scale there"))]
pub(crate) fn set_scale(scale: Option<(u64, u64, u64)>) {
    change(|data| {
        data.mode.store(if scale.is_some() { MODE_TSC } else { 0 }, Ordering::Relaxed);
        let (base_cycles, mult, base_ns) = scale.unwrap_or_default();
        data.base_cycles.store(base_cycles, Ordering::Relaxed);
        data.mult.store(mult, Ordering::Relaxed);
        data.base_ns.store(base_ns, Ordering::Relaxed);
    });
}

/// Sets what is added to [`now_ns`](crate::time::now_ns) to get each clock: `CLOCK_REALTIME`,
/// `CLOCK_BOOTTIME` and `CLOCK_TAI`, in nanoseconds, wrapping. To be called whenever one changes.
pub fn set_offsets(realtime: u64, boottime: u64, tai: u64) {
    change(|data| {
        data.offsets[CLOCK_REALTIME].store(realtime, Ordering::Relaxed);
        data.offsets[CLOCK_REALTIME_COARSE].store(realtime, Ordering::Relaxed);
        data.offsets[CLOCK_BOOTTIME].store(boottime, Ordering::Relaxed);
        data.offsets[CLOCK_TAI].store(tai, Ordering::Relaxed);
    });
}

/// Where the pages to map are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VdsoPages {
    /// One page, mapped read-only directly below the code.
    pub data: PhysAddr,
    /// The first page of the object, mapped readable and executable; contiguous.
    pub code: PhysAddr,
    /// The object's length in bytes, whole pages.
    pub code_len: usize,
}

/// The pages to map into programs; `None` on the host.
pub fn pages() -> Option<VdsoPages> {
    #[cfg(target_os = "none")]
    return Some(VdsoPages {
        data: crate::phys::to_phys(&raw const DATA),
        code: crate::phys::to_phys(machine::vdso_image::bytes().as_ptr()),
        code_len: machine::vdso_image::bytes().len(),
    });
    #[cfg(not(target_os = "none"))]
    None
}

/// The object as a file: for `/proc/kcore`-like readers and tests.
pub fn image() -> &'static [u8] {
    machine::vdso_image::bytes()
}

/// The data page is a page of its own.
const _: () = assert!(size_of::<Data>() == 4096);
