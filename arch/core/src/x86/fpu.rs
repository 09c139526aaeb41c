//! Saving and restoring the extended registers with XSAVE (FXSAVE on processors without it).
//!
//! The kernel is compiled without them, so a program's stay in the registers while it is in the
//! kernel; they are saved when its thread is switched away and restored when it comes back, unless
//! nothing else was loaded meanwhile. The save area has the standard format, which is also what
//! signal frames hold. SDM vol. 1 ch. 13.

use crate::addr::VirtAddr;
use crate::thread::ArchThread;
use crate::thread::fpu::{Chunk, FpuStart};
use crate::user;
use crate::x86::local::LOCAL;
use crate::x86::regs;
use alloc::boxed::Box;
use alloc::vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// x87, SSE, AVX, and the three parts of AVX-512.
const WANTED: u64 = 0b1110_0111;
const MODE_FXSAVE: u8 = 0;
const MODE_XSAVE: u8 = 1;
const MODE_XSAVEOPT: u8 = 2;
const LEGACY: usize = 512;
const HEADER_END: usize = 576;

static MODE: AtomicU8 = AtomicU8::new(MODE_FXSAVE);
static SIZE: AtomicU32 = AtomicU32::new(LEGACY as u32);
static FEATURES: AtomicU64 = AtomicU64::new(3);
static MXCSR_MASK: AtomicU32 = AtomicU32::new(0xffbf);

/// Enables what this processor has; the first one decides sizes for all.
///
/// # Safety
/// Once for each processor, at its start.
pub(crate) unsafe fn init(is_boot: bool) {
    let has_xsave = regs::cpuid(1, 0)[2] & (1 << 26) != 0;
    if has_xsave {
        let [low, _, _, high] = regs::cpuid(0xd, 0);
        let features = (u64::from(high) << 32 | u64::from(low)) & WANTED;
        // SAFETY: OSXSAVE is set in CR4 by the caller; only supported bits are enabled.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") features as u32, in("edx") (features >> 32) as u32, options(nostack, preserves_flags));
        }
        if is_boot {
            FEATURES.store(features, Ordering::Relaxed);
            SIZE.store(regs::cpuid(0xd, 0)[1].max(HEADER_END as u32), Ordering::Relaxed);
            let has_opt = regs::cpuid(0xd, 1)[0] & 1 != 0;
            MODE.store(if has_opt { MODE_XSAVEOPT } else { MODE_XSAVE }, Ordering::Relaxed);
        }
    }
    // SAFETY: CR0 and CR4 allow the instructions by now.
    unsafe {
        asm!("fninit", options(nostack));
        if is_boot {
            let mut area = [Chunk([0; 64]); LEGACY / 64];
            asm!("fxsave64 [{}]", in(reg) area.as_mut_ptr(), options(nostack));
            let mask: u32 = area.as_ptr().cast::<u32>().add(7).read();
            if mask != 0 {
                MXCSR_MASK.store(mask, Ordering::Relaxed);
            }
        }
    }
}

/// The size of a save area in bytes.
pub(crate) fn area_size() -> usize {
    SIZE.load(Ordering::Relaxed) as usize
}

fn has_xsave() -> bool {
    MODE.load(Ordering::Relaxed) != MODE_FXSAVE
}

/// Stores the registers.
///
/// # Safety
/// `area` is a save area.
#[inline]
unsafe fn save(area: *mut Chunk) {
    let features = FEATURES.load(Ordering::Relaxed);
    let (low, high) = (features as u32, (features >> 32) as u32);
    // SAFETY: the caller vouches for the area; the instruction is one the processor has.
    unsafe {
        match MODE.load(Ordering::Relaxed) {
            MODE_XSAVEOPT => {
                asm!("xsaveopt64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
            }
            MODE_XSAVE => {
                asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
            }
            _ => asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)),
        }
    }
}

/// Stores the registers, whatever the area is believed to hold.
///
/// # Safety
/// `area` is a save area.
unsafe fn save_all(area: *mut Chunk) {
    let features = FEATURES.load(Ordering::Relaxed);
    let (low, high) = (features as u32, (features >> 32) as u32);
    // SAFETY: the caller vouches for the area; the instruction is one the processor has.
    unsafe {
        if has_xsave() {
            asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
        } else {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
    }
}

/// Loads the registers.
///
/// # Safety
/// `area` is a save area with content that cannot fault: saved by `save` or checked.
#[inline]
unsafe fn restore(area: *const Chunk) {
    let features = FEATURES.load(Ordering::Relaxed);
    let (low, high) = (features as u32, (features >> 32) as u32);
    // SAFETY: the caller vouches for the area; the instruction is one the processor has.
    unsafe {
        if has_xsave() {
            asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
        } else {
            asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
    }
}

/// Writes the initial state of a program into a zeroed area.
fn set_initial(area: &mut [Chunk]) {
    if let Some(first) = area.first_mut() {
        first.0[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        first.0[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    }
}

/// A save area for a new thread.
pub(crate) fn new_area(start: FpuStart) -> Box<[Chunk]> {
    let chunks = area_size().div_ceil(64);
    let mut area = vec![Chunk([0; 64]); chunks].into_boxed_slice();
    set_initial(&mut area);
    if start == FpuStart::CopyCurrent {
        let _here = crate::preempt::disable();
        if current_has_area() {
            // SAFETY: the registers are the current thread's; the area is large enough.
            unsafe { save(area.as_mut_ptr()) };
        }
    }
    area
}

fn current_has_area() -> bool {
    // SAFETY: only the thread itself (here) touches its state.
    crate::thread::try_current().is_some_and(|t| unsafe { (*t.fpu()).area().is_some() })
}

/// Saves the registers of a thread that is switched away.
///
/// # Safety
/// At a switch, interrupts off.
#[inline(always)]
pub(crate) unsafe fn switch_out(prev: &ArchThread) {
    // SAFETY: the thread is the current one here.
    unsafe {
        let state = &mut *prev.fpu();
        if let Some(area) = state.area() {
            save(area.as_mut_ptr());
        }
    }
}

/// Restores the registers of a thread that is switched to, if others were loaded since.
///
/// # Safety
/// At a switch, interrupts off.
#[inline(always)]
pub(crate) unsafe fn switch_in(next: &ArchThread) {
    let local = LOCAL.this();
    // SAFETY: the thread is about to be the current one here; `fpu_owner` is this processor's.
    unsafe {
        let state = &mut *next.fpu();
        let cpu = *local.cpu.get();
        if state.area().is_none() {
            return;
        }
        if state.last_cpu == cpu && core::ptr::eq(*local.fpu_owner.get(), next) {
            return;
        }
        state.last_cpu = cpu;
        *local.fpu_owner.get() = next;
        if let Some(area) = state.area() {
            restore(area.as_ptr());
        }
    }
}

/// Runs with the current thread's save area, the registers stored there; loads them again when
/// `f` changed it.
fn with_current<R>(f: impl FnOnce(&mut [u8]) -> (R, bool)) -> Option<R> {
    let thread = crate::thread::try_current()?;
    let _here = crate::preempt::disable();
    // SAFETY: only the thread itself (here, not switched away) touches its state.
    unsafe {
        let area = (*thread.fpu()).area()?;
        save(area.as_mut_ptr());
        let bytes = core::slice::from_raw_parts_mut(area.as_mut_ptr().cast::<u8>(), area_size());
        let (result, changed) = f(bytes);
        if changed {
            restore(area.as_ptr());
        }
        Some(result)
    }
}

/// Gives a kernel thread that becomes a program its extended registers, or resets a program's.
pub(crate) fn reset_current() {
    let Some(thread) = crate::thread::try_current() else { return };
    let fresh = new_area(FpuStart::Initial);
    let local = LOCAL.this();
    let _irq = crate::irq::disable();
    // SAFETY: as in `with_current`; the old area is dropped after the new one is loaded.
    unsafe {
        (*thread.fpu()).replace(fresh);
        *local.fpu_owner.get() = core::ptr::null();
        switch_in(thread);
    }
}

/// See [`thread::fpu`](crate::thread::fpu); likewise below.
pub(crate) fn signal_area_len() -> usize {
    area_size()
}

pub(crate) fn signal_features() -> u64 {
    if has_xsave() { FEATURES.load(Ordering::Relaxed) } else { 0 }
}

pub(crate) fn save_for_signal(to: &mut [u8]) {
    let len = to.len().min(area_size());
    with_current(|area| {
        if let (Some(to), Some(from)) = (to.get_mut(..len), area.get(..len)) {
            to.copy_from_slice(from);
        }
        ((), false)
    });
}

pub(crate) fn save_to_user(to: VirtAddr) -> bool {
    with_current(|area| (user::copy_to_user(to, area).is_ok(), false)).unwrap_or(false)
}

pub(crate) fn restore_from_user(from: VirtAddr, len: usize, features: u64) -> bool {
    let Some(thread) = crate::thread::try_current() else { return false };
    let _here = crate::preempt::disable();
    // SAFETY: only the thread itself (here, not switched away) touches its state. Its registers
    // are live, so the area holds nothing of value until the registers are stored again.
    unsafe {
        let Some(area) = (*thread.fpu()).area() else { return false };
        let start = area.as_mut_ptr();
        let bytes = core::slice::from_raw_parts_mut(start.cast::<u8>(), area_size());
        let is_whole = bytes
            .get_mut(..len)
            .is_some_and(|filled| len >= LEGACY && user::copy_from_user(filled, from).is_ok());
        if is_whole {
            admit(bytes, len, features);
            restore(start);
        } else {
            // XSAVE leaves most of the header as it is: the program's would make XRSTOR fault. And
            // XSAVEOPT may leave out what it believes to be in the area still.
            if let Some(header) = bytes.get_mut(LEGACY..HEADER_END) {
                header.fill(0);
            }
            save_all(start);
        }
        is_whole
    }
}

pub(crate) fn restore_from_signal(from: &[u8], features: u64) -> bool {
    if from.len() < LEGACY {
        return false;
    }
    with_current(|area| {
        let len = from.len().min(area.len());
        area[..len].copy_from_slice(&from[..len]);
        admit(area, len, features);
        (true, true)
    })
    .unwrap_or(false)
}

/// Makes `len` bytes from outside an area that can be loaded: what `features` does not name, and
/// what lies behind the bytes, gets its initial state.
fn admit(area: &mut [u8], len: usize, features: u64) {
    area[len..].fill(0);
    if let Some(header) = area.get_mut(LEGACY..LEGACY + 8) {
        let said: [u8; 8] = header.try_into().unwrap_or_default();
        // An area without a header describes x87 and SSE.
        let said = if len >= HEADER_END { u64::from_le_bytes(said) } else { 3 };
        header.copy_from_slice(&(said & features).to_le_bytes());
    }
    set_image(area);
}

/// Makes an image from outside one that XRSTOR cannot fault on.
fn set_image(image: &mut [u8]) {
    let mask = MXCSR_MASK.load(Ordering::Relaxed);
    let mxcsr = image.get(24..28).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    if let Some(bytes) = image.get_mut(24..28) {
        bytes.copy_from_slice(&(mxcsr & mask).to_le_bytes());
    }
    if let Some(header) = image.get_mut(LEGACY..HEADER_END) {
        let features: [u8; 8] = header[..8].try_into().unwrap_or_default();
        let features = u64::from_le_bytes(features) & FEATURES.load(Ordering::Relaxed);
        header.fill(0);
        header[..8].copy_from_slice(&features.to_le_bytes());
    }
}
