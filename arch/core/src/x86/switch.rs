//! From one thread to another, and the first steps of a new one.

use crate::hooks::machine_exit_work;
use crate::thread::{ArchThread, Context, Rest, flags};
use crate::trap::TrapFrame;
use crate::x86::local::{CURRENT, STACK_TOP};
use crate::x86::{descriptors, entry, fpu, regs};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

unsafe extern "C" {
    /// Saves the stack pointer at the first pointer, takes the second, returns the third there.
    fn switch_stacks(save: *mut u64, load: u64, last: u64) -> u64;
    fn kernel_thread_entry();
    fn user_thread_entry();
}

global_asm!(
    r#"
.section .text.entry, "ax", @progbits
.balign 16
.globl switch_stacks
switch_stacks:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    mov rax, rdx
    ret

.globl kernel_thread_entry
kernel_thread_entry:
    xor ebp, ebp
    mov rdi, rax
    mov rsi, rbx
    mov rdx, r12
    call {kernel}
    ud2

.globl user_thread_entry
user_thread_entry:
    mov rdi, rax
    mov rsi, rbx
    call {user}
    mov rsp, rbx
    jmp {out}
.text
"#,
    kernel = sym started_kernel,
    user = sym started_user,
    out = sym entry::return_from_trap,
);

/// What `switch_stacks` finds on the stack of a thread that never ran.
#[repr(C)]
struct Start {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbx: u64,
    rbp: u64,
    rip: u64,
    /// Keeps the stack aligned as after a call.
    zero: u64,
}

static START_HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Registers what a new thread calls first, with the thread that was switched away from, in the
/// state [`switch`] returns in: interrupts off, the scheduler's lock held.
pub fn set_start_hook(hook: fn(*const ArchThread)) {
    START_HOOK.store(hook as *mut (), Ordering::Release);
}

fn call_start_hook(last: *const ArchThread) {
    let hook = START_HOOK.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: only `set_start_hook` stores here, and it stores such a function.
        let hook: fn(*const ArchThread) = unsafe { core::mem::transmute(hook) };
        hook(last);
    }
}

extern "C" fn started_kernel(last: u64, entry: usize, arg: usize) -> ! {
    // SAFETY: `prepare_kernel` put such a function there.
    let entry: fn(usize) = unsafe { core::mem::transmute(entry) };
    call_start_hook(last as *const ArchThread);
    crate::irq::enable();
    entry(arg);
    panic!("a kernel thread's function returned");
}

extern "C" fn started_user(last: u64, frame: &mut TrapFrame) {
    call_start_hook(last as *const ArchThread);
    crate::irq::disable_unguarded();
    machine_exit_work(frame);
}

/// What `switch_stacks` left on the stack of a thread.
///
/// # Safety
/// The thread is on no processor and gets on none meanwhile.
pub(crate) unsafe fn rest(thread: &ArchThread) -> Rest {
    // SAFETY: nobody runs on its stack, whose lowest words are those of a `Start`, whether it ran
    // already or not; a program's registers are at the top, where any bits are a frame.
    unsafe {
        let saved = (*thread.context()).rsp as *const Start;
        Rest {
            ip: (*saved).rip,
            frame_pointer: (*saved).rbp,
            user: thread.is_user().then(|| thread.user_frame().read()),
        }
    }
}

/// Puts a [`Start`] below the space of the user frame.
fn prepare(thread: &ArchThread, entry: u64, rbx: u64, r12: u64) {
    let frame = thread.user_frame() as u64;
    let start = (frame & !15) as usize - size_of::<Start>();
    let value = Start { r15: 0, r14: 0, r13: 0, r12, rbx, rbp: 0, rip: entry, zero: 0 };
    // SAFETY: the stack is the new thread's and it does not run yet.
    unsafe {
        (start as *mut Start).write(value);
        (*thread.context()).rsp = start as u64;
    }
}

pub(crate) fn prepare_kernel(thread: &ArchThread, entry: fn(usize), arg: usize) {
    let trampoline = kernel_thread_entry as *const () as u64;
    prepare(thread, trampoline, entry as usize as u64, arg as u64);
}

pub(crate) fn prepare_user(thread: &ArchThread, frame: &TrapFrame) {
    let place = thread.user_frame();
    // SAFETY: as in `prepare`.
    unsafe { place.write(*frame) };
    prepare(thread, user_thread_entry as *const () as u64, place as u64, 0);
}

crate::percpu! {
    /// The FS and GS bases loaded here, where only the kernel can load them.
    static LOADED_BASES: PerCpu<[AtomicU64; 2]> = [const { AtomicU64::new(0) }; 2];
}

/// Switches from the current thread to another; returns, when somebody switches back, the thread
/// that was switched away from then. Interrupts are off, and every switch is made at the same
/// preemption depth: a new thread continues at the depth it finds.
///
/// # Safety
/// `prev` is the current thread, `next` is not running anywhere, and both stay alive until after
/// the switch.
#[inline]
pub unsafe fn switch(prev: *const ArchThread, next: *const ArchThread) -> *const ArchThread {
    // SAFETY: the caller vouches for both threads; what is touched belongs to this processor.
    unsafe {
        let (from, to) = (&*prev, &*next);
        let (saved, wanted) = (from.context(), to.context());
        fpu::switch_out(from);
        if (from.flags() | to.flags()) & flags::BREAKPOINTS != 0 {
            super::debug::load(to);
        }
        if from.is_user() {
            save_bases(saved);
        }
        if to.is_user() {
            load_bases(wanted);
            fpu::switch_in(to);
        }
        let top = (*wanted).stack_top;
        asm!("mov gs:[{}], {}", const CURRENT, in(reg) next, options(nostack, preserves_flags));
        asm!("mov gs:[{}], {}", const STACK_TOP, in(reg) top, options(nostack, preserves_flags));
        descriptors::set_entry_stack(top);
        switch_stacks(&raw mut (*saved).rsp, (*wanted).rsp, prev as u64) as *const ArchThread
    }
}

#[inline(always)]
unsafe fn save_bases(context: *mut Context) {
    if regs::has_fsgsbase() {
        // SAFETY: the context is the current thread's.
        unsafe {
            (*context).fs_base = regs::user_fs_base();
            (*context).gs_base = regs::swapped_gs_base();
        }
    }
}

#[inline(always)]
unsafe fn load_bases(context: *mut Context) {
    // SAFETY: the context is the next thread's, its bases are canonical.
    unsafe {
        let (fs, gs) = ((*context).fs_base, (*context).gs_base);
        if regs::has_fsgsbase() {
            if regs::user_fs_base() != fs {
                regs::set_user_fs_base(fs);
            }
            if regs::swapped_gs_base() != gs {
                regs::set_swapped_gs_base(gs);
            }
            return;
        }
        let [loaded_fs, loaded_gs] = LOADED_BASES.this();
        if loaded_fs.load(Ordering::Relaxed) != fs {
            regs::set_user_fs_base(fs);
        }
        if loaded_gs.load(Ordering::Relaxed) != gs {
            regs::set_user_gs_base(gs);
        }
        note_bases(fs, gs);
    }
}

/// Loads the current thread's breakpoints after they changed.
pub(crate) fn reload_breakpoints() {
    let _off = crate::irq::disable();
    super::debug::load(crate::thread::current());
}

/// Notes what is loaded here.
pub(crate) fn note_bases(fs: u64, gs: u64) {
    let [loaded_fs, loaded_gs] = LOADED_BASES.this();
    loaded_fs.store(fs, Ordering::Relaxed);
    loaded_gs.store(gs, Ordering::Relaxed);
}

/// Makes the current kernel thread a program: goes to user mode with the frame, for good. The
/// thread has extended registers from then on.
pub fn enter_user(frame: &TrapFrame) -> ! {
    let thread = crate::thread::current();
    // SAFETY: only the thread itself (here) touches its state.
    let was_kernel = !thread.is_user();
    if was_kernel {
        fpu::reset_current();
    }
    crate::irq::disable_unguarded();
    if was_kernel {
        // SAFETY: interrupts are off, the context is this thread's.
        unsafe { load_bases(thread.context()) };
    }
    let place = thread.user_frame();
    // SAFETY: the top of the stack is free in a kernel thread; in a program's thread it holds the
    // frame that is being replaced.
    unsafe {
        place.write(*frame);
        machine_exit_work(&mut *place);
        asm!("mov rsp, {}", "jmp {}", in(reg) place, sym entry::return_from_trap, options(noreturn));
    }
}

/// The frame that IRET refused becomes one of an exception in user mode, at the top of the
/// thread's stack.
pub(super) extern "C" fn bad_iret(frame: &TrapFrame) -> *mut TrapFrame {
    let mut new = *frame;
    let refused = frame.rsp as *const u64;
    // SAFETY: at the fault the stack pointer was at the five words IRET read.
    unsafe {
        new.rip = refused.read();
        new.cs = refused.add(1).read() | 3;
        new.rflags = refused.add(2).read();
        new.rsp = refused.add(3).read();
        new.ss = refused.add(4).read();
        let place = crate::thread::current().user_frame();
        place.write(new);
        place
    }
}
