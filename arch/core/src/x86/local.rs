//! What each processor keeps behind its GS base, at offsets the assembly knows.

use crate::cpu::{CpuId, MAX_CPUS};
use crate::preempt::NO_RESCHED;
use crate::thread::ArchThread;
use crate::x86::regs;
use alloc::alloc::{Layout, alloc_zeroed};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

/// The fixed part of a processor's data.
#[repr(C, align(64))]
pub struct CpuLocal {
    /// Distance from the template section to this processor's copy.
    pub(crate) delta: UnsafeCell<u64>,
    /// The running thread.
    pub(crate) current: UnsafeCell<*const ArchThread>,
    /// See `preempt`.
    pub(crate) preempt: UnsafeCell<u32>,
    /// The processor's number.
    pub(crate) cpu: UnsafeCell<u32>,
    /// Top of the running thread's kernel stack: where SYSCALL switches to.
    pub(crate) stack_top: UnsafeCell<u64>,
    /// Where SYSCALL parks the user stack pointer for a moment.
    pub(crate) user_rsp: UnsafeCell<u64>,
    /// Scratch of the entry code.
    pub(crate) scratch: UnsafeCell<u64>,
    /// The thread whose extended registers are loaded; null when none is.
    pub(crate) fpu_owner: UnsafeCell<*const ArchThread>,
}

// SAFETY: each processor touches its own only, through GS-relative instructions.
unsafe impl Sync for CpuLocal {}
// SAFETY: a template value moves between nothing.
unsafe impl Send for CpuLocal {}

crate::percpu! {
    /// Each processor's fixed data; GS points at it.
    pub static LOCAL: PerCpu<CpuLocal> = CpuLocal {
        delta: UnsafeCell::new(0),
        current: UnsafeCell::new(core::ptr::null()),
        preempt: UnsafeCell::new(NO_RESCHED),
        cpu: UnsafeCell::new(0),
        stack_top: UnsafeCell::new(0),
        user_rsp: UnsafeCell::new(0),
        scratch: UnsafeCell::new(0),
        fpu_owner: UnsafeCell::new(core::ptr::null()),
    };
}

/// Offset of `CpuLocal::current` from GS, for assembly.
pub const CURRENT: usize = offset_of!(CpuLocal, current);
/// Offset of `CpuLocal::preempt` from GS, for assembly.
pub const PREEMPT: usize = offset_of!(CpuLocal, preempt);
/// Offset of `CpuLocal::stack_top` from GS, for assembly.
pub const STACK_TOP: usize = offset_of!(CpuLocal, stack_top);
/// Offset of `CpuLocal::user_rsp` from GS, for assembly.
pub const USER_RSP: usize = offset_of!(CpuLocal, user_rsp);
const CPU: usize = offset_of!(CpuLocal, cpu);
const DELTA: usize = offset_of!(CpuLocal, delta);

static DELTAS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

unsafe extern "C" {
    static __percpu_start: u8;
    static __percpu_end: u8;
    static mut __percpu_boot: u8;
}

/// The size of one processor's copy.
pub fn area_size() -> usize {
    (&raw const __percpu_end as usize) - (&raw const __percpu_start as usize)
}

/// Makes the copy of a processor that will be started, for ever; whether there was memory.
pub fn make(cpu: CpuId) -> bool {
    if is_made(cpu) {
        return true;
    }
    let Ok(layout) = Layout::from_size_align(area_size(), 4096) else { return false };
    // SAFETY: the layout is not empty: the area has at least the fixed data.
    let area = unsafe { alloc_zeroed(layout) };
    if area.is_null() {
        return false;
    }
    // SAFETY: the area has the size and alignment asked for and is never freed; the processor has no
    // copy yet and so has not started.
    unsafe { init_area(cpu, area) };
    true
}

/// Whether a processor has its copy.
pub(crate) fn is_made(cpu: CpuId) -> bool {
    DELTAS[cpu.index()].load(Ordering::Acquire) != 0
}

/// Gives the boot processor its copy and points GS at it. The first thing Rust code does.
///
/// # Safety
/// Once, on the boot processor, before any per-CPU data is used; relocations are applied.
pub(crate) unsafe fn init_boot() {
    // SAFETY: the linker script reserves the boot copy, of the template's size.
    unsafe {
        let area = &raw mut __percpu_boot;
        init_area(CpuId::BOOT, area);
        load(CpuId::BOOT);
    }
}

/// Fills the copy of a processor that has not started.
///
/// # Safety
/// `area` is `area_size()` writable bytes, aligned to 64, that live for ever.
unsafe fn init_area(cpu: CpuId, area: *mut u8) {
    let template = &raw const __percpu_start;
    // SAFETY: the caller vouches for the area; the template is a section of constants.
    unsafe { area.copy_from_nonoverlapping(template, area_size()) };
    let delta = (area as u64).wrapping_sub(template as u64);
    DELTAS[cpu.index()].store(delta, Ordering::Release);
    let local = LOCAL.on(cpu);
    // SAFETY: the processor has not started, nobody else looks at its copy.
    unsafe {
        local.delta.get().write(delta);
        local.cpu.get().write(cpu.as_u32());
    }
}

/// Points GS of the running processor at its copy.
///
/// # Safety
/// `init_area` was called for `cpu`, which is this processor.
pub(crate) unsafe fn load(cpu: CpuId) {
    let base = core::ptr::from_ref(LOCAL.on(cpu)) as u64;
    // SAFETY: GS base is the kernel's to set; the user's starts as zero.
    unsafe {
        regs::wrmsr(regs::msr::GS_BASE, base);
        regs::wrmsr(regs::msr::KERNEL_GS_BASE, 0);
    }
}

/// The distance from the template to a processor's copy.
pub fn delta_of(cpu: CpuId) -> u64 {
    // Acquire: pairs with the release in `init_area`.
    match DELTAS[cpu.index()].load(Ordering::Acquire) {
        0 => DELTAS[0].load(Ordering::Acquire),
        delta => delta,
    }
}

/// The distance from the template to this processor's copy.
#[inline(always)]
pub fn delta() -> u64 {
    let delta;
    // SAFETY: reads this processor's fixed data. Not `pure`: it changes when the thread moves.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) delta, const DELTA, options(nostack, preserves_flags, readonly))
    };
    delta
}

/// This processor's number.
#[inline(always)]
pub fn cpu_number() -> u32 {
    let number;
    // SAFETY: as in `delta`.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) number, const CPU, options(nostack, preserves_flags, readonly))
    };
    number
}

#[inline(always)]
pub(crate) fn preempt_raw() -> u32 {
    let word;
    // SAFETY: as in `delta`.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) word, const PREEMPT, options(nostack, preserves_flags, readonly))
    };
    word
}

#[inline(always)]
pub(crate) fn preempt_inc() {
    // SAFETY: one instruction on this processor's word; memory accesses stay on their side of it.
    unsafe { asm!("inc dword ptr gs:[{}]", const PREEMPT, options(nostack)) };
}

#[inline(always)]
pub(crate) fn preempt_dec_is_zero() -> bool {
    // SAFETY: one instruction on this processor's word, and a jump on its result.
    unsafe {
        asm!("dec dword ptr gs:[{}]", "jz {}", const PREEMPT, label { return true }, options(nostack));
    }
    false
}

#[inline(always)]
pub(crate) fn preempt_add(units: u32) {
    // SAFETY: one instruction on this processor's word.
    unsafe { asm!("add dword ptr gs:[{}], {:e}", const PREEMPT, in(reg) units, options(nostack)) };
}

#[inline(always)]
pub(crate) fn preempt_and(mask: u32) {
    // SAFETY: one instruction on this processor's word.
    unsafe { asm!("and dword ptr gs:[{}], {:e}", const PREEMPT, in(reg) mask, options(nostack)) };
}

#[inline(always)]
pub(crate) fn preempt_or(mask: u32) {
    // SAFETY: one instruction on this processor's word.
    unsafe { asm!("or dword ptr gs:[{}], {:e}", const PREEMPT, in(reg) mask, options(nostack)) };
}

#[inline(always)]
pub(crate) fn current() -> *const ArchThread {
    let thread;
    // SAFETY: for running code its thread never changes, wherever it runs: hence `pure`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) thread, const CURRENT, options(nostack, preserves_flags, pure, readonly))
    };
    thread
}

pub(crate) fn set_current(thread: *const ArchThread) {
    // SAFETY: the caller of `thread::set_current` vouches for the thread; start-up only.
    unsafe {
        let top = (*(*thread).context()).stack_top;
        asm!("mov gs:[{}], {}", const CURRENT, in(reg) thread, options(nostack, preserves_flags));
        asm!("mov gs:[{}], {}", const STACK_TOP, in(reg) top, options(nostack, preserves_flags));
    }
}

fn is_current(thread: &ArchThread) -> bool {
    core::ptr::eq(thread, current())
}

macro_rules! base {
    ($read:ident, $write:ident, $field:ident, $get:path, $set:path) => {
        pub(crate) fn $read(thread: &ArchThread) -> u64 {
            let _here = crate::preempt::disable();
            if is_current(thread) {
                return $get();
            }
            // SAFETY: a thread that does not run has its registers in its context.
            unsafe { (*thread.context()).$field }
        }
        pub(crate) fn $write(thread: &ArchThread, base: u64) {
            let _here = crate::preempt::disable();
            // SAFETY: of a thread that does not run (or this one), under the scheduler's order; a
            // base that is not canonical is refused by the callers and cut here.
            unsafe {
                let base = ((base as i64) << 16 >> 16) as u64;
                (*thread.context()).$field = base;
                if is_current(thread) {
                    $set(base);
                    let context = thread.context();
                    crate::x86::switch::note_bases((*context).fs_base, (*context).gs_base);
                }
            }
        }
    };
}
base!(read_fs_base, write_fs_base, fs_base, regs::user_fs_base, regs::set_user_fs_base);
base!(read_gs_base, write_gs_base, gs_base, regs::user_gs_base, regs::set_user_gs_base);
