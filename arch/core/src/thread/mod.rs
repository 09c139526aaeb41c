//! The part of a thread that the processor sees.
//!
//! The scheduler embeds an [`ArchThread`] as the first field of its thread, `#[repr(C)]`, so that
//! the pointer [`current`] gives is the pointer to the scheduler's thread.

pub mod fpu;

#[cfg(not(target_os = "none"))]
use crate::host::cpu as imp;
#[cfg(not(target_os = "none"))]
pub use crate::host::thread::{enter_user, set_start_hook, switch};
#[cfg(target_os = "none")]
use crate::x86::local as imp;
#[cfg(target_os = "none")]
pub use crate::x86::switch::{enter_user, set_start_hook, switch};

use crate::addr::{USER_END, VirtAddr};
use crate::lock::check::HeldLocks;
use crate::trap::TrapFrame;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of [`ArchThread::flags`].
pub mod flags {
    /// Another thread should run; also folded into the preemption word of the processor.
    pub const NEED_RESCHED: u32 = 1 << 0;
    /// A signal waits.
    pub const SIGPENDING: u32 = 1 << 1;
    /// Some other work waits for the return to user mode.
    pub const NOTIFY_RESUME: u32 = 1 << 2;
    /// The signal mask of before `sigsuspend` and its like is to be restored.
    pub const RESTORE_SIGMASK: u32 = 1 << 3;
    /// System calls are traced.
    pub const SYSCALL_TRACE: u32 = 1 << 4;
    /// System calls are filtered.
    pub const SECCOMP: u32 = 1 << 5;
    /// The program is single-stepped by a tracer.
    pub const SINGLE_STEP: u32 = 1 << 6;
    /// A tracer stops system calls.
    pub const PTRACE_SYSCALL: u32 = 1 << 7;
    /// Has breakpoints in the debug registers.
    pub const BREAKPOINTS: u32 = 1 << 8;
    /// Has restartable sequences.
    pub const RSEQ: u32 = 1 << 9;
    /// Had a switch since its restartable sequence was looked at.
    pub const RSEQ_RESUME: u32 = 1 << 10;
    /// Frees memory: its own allocations may use the reserve and must not reclaim.
    pub const IN_RECLAIM: u32 = 1 << 16;
    /// Was chosen to die for want of memory: what it needs on its way out may come from the reserve.
    pub const OOM_VICTIM: u32 = 1 << 17;
    /// A system call's result needs a look on its way out.
    pub const SYSCALL_EXIT_WORK: u32 = SYSCALL_TRACE | SINGLE_STEP | PTRACE_SYSCALL;
    /// What a system call's entry looks at.
    pub const SYSCALL_ENTRY_WORK: u32 = SYSCALL_TRACE | SECCOMP | SINGLE_STEP | PTRACE_SYSCALL;
    /// What the return to user mode looks at.
    pub const WORK_MASK: u32 =
        NEED_RESCHED | SIGPENDING | NOTIFY_RESUME | RESTORE_SIGMASK | RSEQ_RESUME;
}

/// A kernel stack: `top` is 16-byte aligned and one past its last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelStackRange {
    /// Its lowest byte.
    pub bottom: VirtAddr,
    /// One past its highest byte.
    pub top: VirtAddr,
}

/// Where a thread that is on no processor will go on.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    /// Its next instruction.
    pub ip: u64,
    /// Its frame pointer.
    pub frame_pointer: u64,
    /// The registers that its program had when it entered the kernel last, if it has one.
    pub user: Option<TrapFrame>,
}

/// Registers that belong to the processor while the thread runs.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Context {
    /// The stack pointer; everything else is on the stack.
    pub(crate) rsp: u64,
    /// The top of the kernel stack.
    pub(crate) stack_top: u64,
    /// User FS base, as of the last switch away.
    pub(crate) fs_base: u64,
    /// User GS base, as of the last switch away.
    pub(crate) gs_base: u64,
}

/// The part of a thread that the processor sees.
#[repr(C)]
pub struct ArchThread {
    flags: AtomicU32,
    cpu: AtomicU32,
    context: UnsafeCell<Context>,
    stack: KernelStackRange,
    fpu: UnsafeCell<fpu::FpuState>,
    held: HeldLocks,
    /// DR0 to DR3 and DR7 of the program.
    breakpoints: [AtomicU64; 5],
}

// SAFETY: `flags` and `cpu` are atomic; `context` and `fpu` are only touched by the thread itself
// and by the processor that switches from or to it, which the scheduler serialises.
unsafe impl Sync for ArchThread {}
// SAFETY: nothing in it is tied to one processor.
unsafe impl Send for ArchThread {}

impl ArchThread {
    fn with_stack(stack: KernelStackRange, fpu: fpu::FpuState) -> ArchThread {
        ArchThread {
            flags: AtomicU32::new(0),
            cpu: AtomicU32::new(0),
            context: UnsafeCell::new(Context {
                rsp: stack.top.0,
                stack_top: stack.top.0,
                fs_base: 0,
                gs_base: 0,
            }),
            stack,
            fpu: UnsafeCell::new(fpu),
            held: HeldLocks::new(),
            breakpoints: [const { AtomicU64::new(0) }; 5],
        }
    }

    /// A kernel thread that will run `entry(arg)` on the stack, which lives as long as the thread.
    pub fn new_kernel(stack: KernelStackRange, entry: fn(usize), arg: usize) -> ArchThread {
        let thread = ArchThread::with_stack(stack, fpu::FpuState::none());
        #[cfg(target_os = "none")]
        crate::x86::switch::prepare_kernel(&thread, entry, arg);
        #[cfg(not(target_os = "none"))]
        let _ = (entry, arg);
        thread
    }

    /// A user thread that will return to user mode with the frame; its extended registers start as
    /// a copy of the current thread's when `fpu` says so (fork), else in their initial state.
    pub fn new_user(stack: KernelStackRange, frame: &TrapFrame, fpu: fpu::FpuStart) -> ArchThread {
        let thread = ArchThread::with_stack(stack, fpu::FpuState::for_start(fpu));
        #[cfg(target_os = "none")]
        crate::x86::switch::prepare_user(&thread, frame);
        #[cfg(not(target_os = "none"))]
        let _ = frame;
        thread
    }

    /// The thread that is already running on this processor: the first one, and each idle one.
    pub fn adopt_current(stack: KernelStackRange) -> ArchThread {
        ArchThread::with_stack(stack, fpu::FpuState::none())
    }

    /// The work flags: see [`flags`].
    #[inline(always)]
    pub fn flags(&self) -> u32 {
        // Relaxed: a setter that needs the thread to notice sends an interrupt afterwards.
        self.flags.load(Ordering::Relaxed)
    }
    /// Whether any of the flags is set.
    #[inline(always)]
    pub fn has_flag(&self, mask: u32) -> bool {
        self.flags() & mask != 0
    }
    /// Sets flags; what was set before.
    pub fn set_flag(&self, mask: u32) -> u32 {
        self.flags.fetch_or(mask, Ordering::SeqCst)
    }
    /// Clears flags; what was set before.
    pub fn clear_flag(&self, mask: u32) -> u32 {
        self.flags.fetch_and(!mask, Ordering::SeqCst)
    }

    /// DR0 to DR3 and DR7 of the program.
    pub fn breakpoints(&self) -> [u64; 5] {
        // Relaxed: written by the thread itself only.
        self.breakpoints.each_ref().map(|register| register.load(Ordering::Relaxed))
    }

    /// The processor the thread runs or last ran on, as the scheduler noted.
    #[inline(always)]
    pub fn cpu(&self) -> crate::cpu::CpuId {
        crate::cpu::CpuId::from_index(self.cpu.load(Ordering::Relaxed) as usize)
    }
    /// Notes the processor.
    pub fn set_cpu(&self, cpu: crate::cpu::CpuId) {
        self.cpu.store(cpu.as_u32(), Ordering::Relaxed);
    }

    /// The thread's kernel stack.
    pub fn stack(&self) -> KernelStackRange {
        self.stack
    }

    /// The user registers at the top of the stack of a thread that is in the kernel. Only of the
    /// current thread, or of one that is stopped and cannot run meanwhile.
    pub fn user_frame(&self) -> *mut TrapFrame {
        (self.stack.top.0 as usize - size_of::<TrapFrame>()) as *mut TrapFrame
    }

    /// Where the thread goes on; `None` on the host, which keeps that to itself.
    ///
    /// # Safety
    /// The thread is on no processor and gets on none meanwhile.
    pub unsafe fn rest(&self) -> Option<Rest> {
        #[cfg(target_os = "none")]
        // SAFETY: the caller's promise.
        return Some(unsafe { crate::x86::switch::rest(self) });
        #[cfg(not(target_os = "none"))]
        None
    }

    /// Whether the thread has (or will have) a user side.
    #[inline(always)]
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no switch there"))]
    pub(crate) fn is_user(&self) -> bool {
        // SAFETY: only looked at by the thread itself and the switch.
        unsafe { (*self.fpu.get()).is_some() }
    }

    pub(crate) fn context(&self) -> *mut Context {
        self.context.get()
    }
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no registers there"))]
    pub(crate) fn fpu(&self) -> *mut fpu::FpuState {
        self.fpu.get()
    }
    #[cfg_attr(
        any(not(target_os = "none"), not(debug_assertions)),
        expect(dead_code, reason = "per host thread there")
    )]
    pub(crate) fn held_locks(&self) -> &HeldLocks {
        &self.held
    }

    /// The user FS base: the register for the current thread, the saved value for another.
    pub fn fs_base(&self) -> u64 {
        imp::read_fs_base(self)
    }
    /// Sets the user FS base (`arch_prctl`, `CLONE_SETTLS`, exec).
    pub fn set_fs_base(&self, base: u64) {
        imp::write_fs_base(self, base);
    }
    /// The user GS base.
    pub fn gs_base(&self) -> u64 {
        imp::read_gs_base(self)
    }
    /// Sets the user GS base.
    pub fn set_gs_base(&self, base: u64) {
        imp::write_gs_base(self, base);
    }
}

/// The thread that runs here, or `None` before the first [`set_current`].
#[inline(always)]
pub fn try_current() -> Option<&'static ArchThread> {
    // SAFETY: the scheduler keeps a thread alive while it runs, and only running code asks.
    unsafe { imp::current().as_ref() }
}

/// A pointer to the thread that runs here; null before the first [`set_current`].
#[inline(always)]
pub fn current_ptr() -> *const ArchThread {
    imp::current()
}

/// The thread that runs here. The reference is good while the caller runs as this thread.
///
/// # Panics
/// Before the first [`set_current`].
#[inline(always)]
pub fn current() -> &'static ArchThread {
    match try_current() {
        Some(thread) => thread,
        None => panic!("no current thread"),
    }
}

/// A copy of the registers that the current thread's program had when it last entered the kernel.
pub fn current_user_registers() -> crate::trap::TrapFrame {
    #[cfg(target_os = "none")]
    {
        // SAFETY: the frame is at the top of the current thread's own stack, which stays mapped
        // while the thread runs; any bits are a frame, and nobody else writes there.
        unsafe { core::ptr::read_volatile(current().user_frame()) }
    }
    #[cfg(not(target_os = "none"))]
    crate::trap::TrapFrame::default()
}

/// Sets the breakpoints of the current thread: DR0 to DR3 and DR7. `false`, and nothing is changed,
/// if one that is enabled is not in the user half or the control word has bits that are not for
/// programs.
pub fn set_breakpoints(registers: [u64; 5]) -> bool {
    if !breakpoints_are_valid(&registers) {
        return false;
    }
    let thread = current();
    for (to, value) in thread.breakpoints.iter().zip(registers) {
        to.store(value, Ordering::Relaxed);
    }
    if registers[4] & 0xff != 0 {
        thread.set_flag(flags::BREAKPOINTS);
    }
    #[cfg(target_os = "none")]
    crate::x86::switch::reload_breakpoints();
    if registers[4] & 0xff == 0 {
        thread.clear_flag(flags::BREAKPOINTS);
    }
    true
}

/// Whether programs may have these breakpoints: DR0 to DR3 and DR7.
pub fn breakpoints_are_valid(registers: &[u64; 5]) -> bool {
    // Enabling bits, "exact" bits, kinds and lengths.
    const CONTROL: u64 = 0xffff_03ff;
    let control = registers[4];
    let valid = |index: usize, address: u64| {
        if control >> (2 * index) & 3 == 0 {
            return true;
        }
        let (kind, len) = (control >> (16 + 4 * index) & 3, control >> (18 + 4 * index) & 3);
        // Lengths 1, 2, 8, 4; execution has the length of a byte, ports are not for programs.
        let bytes = [1, 2, 8, 4][len as usize];
        kind != 2 && (kind != 0 || len == 0) && address & (bytes - 1) == 0 && address < USER_END
    };
    control & !CONTROL == 0 && registers.iter().take(4).enumerate().all(|(i, a)| valid(i, *a))
}

/// Makes a thread the current one without a switch: the first one of each processor.
///
/// # Safety
/// The thread stays alive and in place while it is current.
pub unsafe fn set_current(thread: *const ArchThread) {
    imp::set_current(thread);
}
