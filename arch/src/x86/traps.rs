//! What the entry code calls: exceptions, page faults, interrupts, the work before the return to
//! user mode.

use crate::addr::VirtAddr;
use crate::preempt;
use crate::thread::{self, flags};
use crate::timer::Mode;
use crate::trap::{self, FaultCode, FaultOutcome, TrapFrame, vector};
use core::sync::atomic::{AtomicBool, Ordering};
use machine::irq_count::{self, Counted};
use machine::x86::{descriptors, extable, regs};

/// Work before the return to user mode. Entered and left with interrupts off.
pub(crate) fn exit_work(frame: &mut TrapFrame) {
    let Some(thread) = thread::try_current() else { return };
    loop {
        let flags = thread.flags() & flags::WORK_MASK;
        if flags == 0 {
            return;
        }
        crate::irq::enable();
        if flags & flags::NEED_RESCHED != 0 {
            preempt::call_hook();
        }
        if flags & !flags::NEED_RESCHED != 0
            && let Some(handlers) = trap::handlers()
        {
            (handlers.exit_to_user)(frame);
        }
        crate::irq::disable_unguarded();
    }
}

/// The end of every trap: work for the program, or preemption of the kernel.
fn leave(frame: &mut TrapFrame) {
    if frame.is_user() {
        exit_work(frame);
    } else if preempt::raw_is_zero() && frame.rflags & trap::RFLAGS_IF != 0 {
        // Interrupts stay off: the scheduler's switch restores them as they are here.
        preempt::call_hook();
    }
}

/// A hardware interrupt.
pub(crate) fn interrupt(frame: &mut TrapFrame, number: u64) {
    preempt::irq_enter();
    let began = super::clock::cycles();
    let mode = if frame.is_user() { FROM_USER } else { 0 };
    trap::while_interrupted(frame, || {
        descriptors::on_irq_stack(dispatch, u64::from(number as u8) | mode);
    });
    irq_count::add_cycles(super::clock::cycles().saturating_sub(began));
    preempt::irq_exit();
    leave(frame);
}

/// Beside the number of an interrupt: it came in between the program.
const FROM_USER: u64 = 1 << 8;

extern "C" fn dispatch(interrupt: u64) {
    let mode = if interrupt & FROM_USER != 0 { Mode::User } else { Mode::Kernel };
    super::vectors::dispatch(interrupt as u8, mode);
}

/// An exception on the thread's stack.
pub(crate) fn exception(frame: &mut TrapFrame, number: u64, error: u64) {
    if number as u8 == vector::PAGE_FAULT {
        page_fault(frame, error);
    } else if frame.is_user() {
        user_exception(frame, number as u8, error);
    } else if let Some(fixup) = extable::find(frame.rip) {
        frame.rip = fixup;
        return;
    } else {
        die(frame, number as u8, error);
    }
    leave(frame);
}

fn user_exception(frame: &mut TrapFrame, number: u8, error: u64) {
    let error = if number == vector::DEBUG {
        let status = regs::dr6();
        regs::clear_dr6();
        status
    } else if error == u64::MAX {
        // The processor gave none.
        0
    } else {
        error
    };
    crate::irq::enable();
    if let Some(handlers) = trap::handlers() {
        (handlers.user_exception)(frame, number, error);
    }
    crate::irq::disable_unguarded();
}

fn page_fault(frame: &mut TrapFrame, error: u64) {
    let at = VirtAddr(regs::cr2());
    let code = FaultCode(error);
    if frame.is_user() {
        if at.is_user() {
            crate::irq::enable();
            if let Some(handlers) = trap::handlers() {
                (handlers.page_fault)(frame, at, code);
            }
            crate::irq::disable_unguarded();
        } else {
            note_bad_address(at);
            user_exception(frame, vector::PAGE_FAULT, error);
        }
        return;
    }
    if !extable::may_fault(frame.rip) {
        die(frame, vector::PAGE_FAULT, error);
    }
    // Atomic context must not wait for a page: the copy stops here.
    let may_sleep = preempt::count() == 0 && frame.rflags & trap::RFLAGS_IF != 0;
    if at.is_user()
        && may_sleep
        && let Some(handlers) = trap::handlers()
    {
        crate::irq::enable();
        let outcome = (handlers.page_fault)(frame, at, code);
        crate::irq::disable_unguarded();
        if outcome == FaultOutcome::Resolved {
            return;
        }
    }
    match extable::find(frame.rip) {
        Some(fixup) => frame.rip = fixup,
        None => die(frame, vector::PAGE_FAULT, error),
    }
}

crate::percpu! {
    static BAD_ADDRESS: PerCpu<core::sync::atomic::AtomicU64> =
        core::sync::atomic::AtomicU64::new(0);
}

fn note_bad_address(at: VirtAddr) {
    BAD_ADDRESS.this().store(at.0, Ordering::Relaxed);
}

/// The address of the last fault outside of the user half from user mode on this processor: for
/// `si_addr`, asked from `user_exception`.
pub fn last_bad_address() -> VirtAddr {
    VirtAddr(BAD_ADDRESS.this().load(Ordering::Relaxed))
}

/// An exception on a stack of its own: NMI, double fault, machine check, debug in the kernel.
pub(crate) fn paranoid(frame: &mut TrapFrame, number: u64, error: u64) {
    match number as u8 {
        vector::NMI => {
            irq_count::count(Counted::Nmi);
            super::stop::nmi(frame);
        }
        vector::DEBUG => {
            // A hardware breakpoint of a tracer hit by a copy routine, or a step into SYSCALL.
            regs::clear_dr6();
            frame.rflags &= !trap::RFLAGS_TF;
        }
        number => die(frame, number, error),
    }
}

static DYING: AtomicBool = AtomicBool::new(false);

/// An exception in the kernel that nothing expected.
fn die(frame: &TrapFrame, number: u8, error: u64) -> ! {
    if DYING.swap(true, Ordering::SeqCst) {
        regs::halt_forever();
    }
    let name = EXCEPTIONS.get(number as usize).copied().unwrap_or("unknown exception");
    log::error!(
        "{name} in the kernel, error {error:#x}, address {:#x}, cr3 {:#x}",
        regs::cr2(),
        regs::cr3()
    );
    log::error!(
        "rip {:#018x} rsp {:#018x} rflags {:#x} cs {:#x}",
        frame.rip,
        frame.rsp,
        frame.rflags,
        frame.cs
    );
    log::error!(
        "rax {:#018x} rbx {:#018x} rcx {:#018x} rdx {:#018x}",
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx
    );
    log::error!(
        "rsi {:#018x} rdi {:#018x} rbp {:#018x} r8  {:#018x}",
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.r8
    );
    log::error!(
        "r9  {:#018x} r10 {:#018x} r11 {:#018x} r12 {:#018x}",
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12
    );
    log::error!("r13 {:#018x} r14 {:#018x} r15 {:#018x}", frame.r13, frame.r14, frame.r15);
    log::error!("from:\n{}", crate::backtrace::Backtrace::from(frame.rip, frame.rbp));
    panic!("{name} in the kernel at {:#x}", frame.rip);
}

static EXCEPTIONS: [&str; 22] = [
    "divide error",
    "debug exception",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection fault",
    "page fault",
    "reserved exception",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualisation exception",
    "control protection exception",
];
