//! Exceptions of programs: page faults, and the signals that the others become (`signal(7)`,
//! SDM vol. 3A chapter 6).

use crate::signal;
use crate::task::Task;
use crate::umip::{self, Place, Value};
use abi::signal::{SigInfo, Signal, si};
use arch::VirtAddr;
use arch::trap::{FaultCode, FaultOutcome, Handlers, TrapFrame, vector};
use core::sync::atomic::Ordering;
use vm::{FaultAccess, FaultError};

/// The page of the three old vsyscalls, the first at its start.
pub const VSYSCALL_PAGE: u64 = 0xffff_ffff_ff60_0000;

/// What the trap layer calls, apart from the system-call entry, which `syscalls` provides.
pub const fn handlers(syscall: fn(&mut TrapFrame)) -> Handlers {
    Handlers { syscall, page_fault, user_exception, exit_to_user: signal::deliver::exit_to_user }
}

fn note(task: &Task, vector: u8, code: u64, address: Option<u64>) {
    let [v, e, a] = &task.last_trap;
    v.store(u64::from(vector), Ordering::Relaxed);
    e.store(code, Ordering::Relaxed);
    if let Some(address) = address {
        a.store(address, Ordering::Relaxed);
    }
}

/// A page fault on a user address.
pub fn page_fault(frame: &mut TrapFrame, address: VirtAddr, code: FaultCode) -> FaultOutcome {
    let Some(task) = crate::try_current() else { return FaultOutcome::Unresolved };
    let Some(mm) = task.mm() else { return FaultOutcome::Unresolved };
    if frame.is_user() && !code.is_user() {
        own_access(task, address);
        return FaultOutcome::Resolved;
    }
    let access = if code.is_fetch() {
        FaultAccess::Execute
    } else if code.is_write() {
        FaultAccess::Write
    } else {
        FaultAccess::Read
    };
    let stack_limit = task.limit(abi::process::Resource::Stack);
    let mut outcome = mm.handle_fault(address, access, stack_limit);
    if access == FaultAccess::Execute && !code.is_present() && outcome.is_err() {
        // As on Linux a page that is not there is first brought in, and found not to be executable
        // by the next fault.
        outcome = mm.handle_fault(address, FaultAccess::Read, stack_limit).or(outcome);
    }
    let error = match outcome {
        Ok(kind) => {
            let counter = if kind.is_major() { &task.faults_major } else { &task.faults_minor };
            // Relaxed, and not atomic as a whole: only this thread writes.
            counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return FaultOutcome::Resolved;
        }
        Err(error) => error,
    };
    drop(mm);
    if !frame.is_user() {
        return FaultOutcome::Unresolved;
    }
    note(task, vector::PAGE_FAULT, code.0, Some(address.0));
    match error {
        FaultError::Segv { code } => {
            signal::force_fault(task, Signal::SIGSEGV, code, address.0);
        }
        FaultError::Bus => {
            signal::force_fault(task, Signal::SIGBUS, si::BUS_ADRERR, address.0);
        }
        FaultError::Oom => crate::oom::fault(task),
        FaultError::Retry => {}
    }
    FaultOutcome::Resolved
}

/// Any other exception in user mode.
pub fn user_exception(frame: &mut TrapFrame, number: u8, code: u64) {
    let Some(task) = crate::try_current() else { return };
    if number == vector::PAGE_FAULT {
        return kernel_address(task, frame, code);
    }
    if number == vector::GENERAL_PROTECTION && emulate_store(task, frame) {
        return;
    }
    // What came with a debug exception is the state of the debug registers, not an error.
    note(task, number, if number == vector::DEBUG { 0 } else { code }, None);
    let rip = frame.rip;
    let plain = |signal| SigInfo::new(signal, si::KERNEL);
    let info = match number {
        vector::DIVIDE => SigInfo::fault(Signal::SIGFPE, si::FPE_INTDIV, rip),
        vector::DEBUG => SigInfo::fault(Signal::SIGTRAP, debug_trap(task, frame, code), rip),
        vector::BREAKPOINT => plain(Signal::SIGTRAP),
        vector::INVALID_OPCODE => SigInfo::fault(Signal::SIGILL, si::ILL_ILLOPN, rip),
        vector::SEGMENT_NOT_PRESENT | vector::STACK => plain(Signal::SIGBUS),
        vector::FLOATING_POINT => SigInfo::fault(Signal::SIGFPE, x87_code(), rip),
        vector::SIMD => SigInfo::fault(Signal::SIGFPE, sse_code(), rip),
        vector::ALIGNMENT => SigInfo::fault(Signal::SIGBUS, si::BUS_ADRALN, 0),
        _ => plain(Signal::SIGSEGV),
    };
    signal::force(task, info);
}

/// `si_code` of a debug exception with this DR6, which the tracer can read.
fn debug_trap(task: &Task, frame: &mut TrapFrame, status: u64) -> i32 {
    const HIT: u64 = 0xf;
    const STEP: u64 = 1 << 14;
    // Resume flag: the instruction is run this time.
    const RFLAGS_RF: u64 = 1 << 16;
    let tracing = &task.tracing;
    tracing.set_debug_status(tracing.debug_status() | status & (HIT | STEP));
    let control = task.thread().map_or(0, |thread| thread.arch().breakpoints()[4]);
    let executes = |index: u64| status >> index & 1 != 0 && control >> (16 + 4 * index) & 3 == 0;
    if (0..4).any(executes) {
        frame.rflags |= RFLAGS_RF;
    }
    if status & STEP == 0 && status & HIT != 0 { si::TRAP_HWBKPT } else { si::TRAP_TRACE }
}

/// The processor was refused an access that it made with the kernel's rights while a program ran:
/// to its tables, or, under an emulator that takes it so, to what a far return of the program
/// pops. No page can be made that would help, so the program ends.
fn own_access(task: &Task, address: VirtAddr) {
    log::warn!(
        "process {}: the processor could not reach {:x} for it; killed",
        task.global_tid(),
        address.0
    );
    signal::send_to_task(task, SigInfo::new(Signal::SIGKILL, si::KERNEL));
}

/// Does what UMIP refuses to a program; whether it was that.
fn emulate_store(task: &Task, frame: &mut TrapFrame) -> bool {
    let mut bytes = [0; umip::MAX_LEN];
    let len = arch::user::copy_from_user_partial(&mut bytes, VirtAddr(frame.rip));
    let bases = task.thread().map_or((0, 0), |t| (t.arch().fs_base(), t.arch().gs_base()));
    let Some(store) = umip::decode(bytes.get(..len).unwrap_or_default(), frame, bases) else {
        return false;
    };
    match (store.place, store.value) {
        (Place::Register(number, len), Value::Word(word)) => {
            umip::set_register(frame, number, len, word);
        }
        (Place::Register(..), Value::Table(_)) => return false,
        (Place::Memory(at), value) => {
            let (bytes, len) = value.bytes();
            let bytes = bytes.get(..len).unwrap_or_default();
            if arch::user::copy_to_user(VirtAddr(at), bytes).is_err() {
                note(task, vector::PAGE_FAULT, FaultCode::USER | FaultCode::WRITE, Some(at));
                signal::force_fault(task, Signal::SIGSEGV, si::SEGV_MAPERR, at);
                return true;
            }
        }
    }
    frame.rip = frame.rip.wrapping_add(u64::from(store.len));
    true
}

/// A user-mode access outside the user half: a call into the vsyscall page, or a wild pointer.
fn kernel_address(task: &Task, frame: &mut TrapFrame, code: u64) {
    if !FaultCode(code).is_user() {
        return own_access(task, arch::trap::fault_address());
    }
    if frame.rip & !0xfff == VSYSCALL_PAGE && FaultCode(code).is_fetch() {
        if frame.rip & !0xc00 == VSYSCALL_PAGE && emulate_vsyscall(task, frame) == Vsyscall::Done {
            return;
        }
        // No trap is told: the program made a call that there is not.
        signal::force(task, SigInfo::new(Signal::SIGSEGV, si::KERNEL));
        return;
    }
    // Linux does not tell programs whether kernel addresses are mapped.
    let address = arch::trap::fault_address();
    note(task, vector::PAGE_FAULT, code | FaultCode::PRESENT, Some(address.0));
    signal::force_fault(task, Signal::SIGSEGV, si::SEGV_MAPERR, address.0);
}

/// `vsyscall=xonly`: runs the system call and returns to the caller, as the page's code did. A
/// pointer that cannot be written is a bad access, not an error number: that code knew none.
fn emulate_vsyscall(task: &Task, frame: &mut TrapFrame) -> Vsyscall {
    // gettimeofday, time and getcpu, with the lengths of what their arguments point to.
    const CALLS: [(u64, [usize; 2]); 3] = [(96, [16, 8]), (201, [8, 0]), (309, [4, 4])];
    let called = CALLS.get((frame.rip >> 10 & 3) as usize);
    let (Some(&(number, lens)), Some(handlers)) = (called, arch::trap::handlers()) else {
        return Vsyscall::Refused;
    };
    let Ok(caller) = arch::user::load_u64(VirtAddr(frame.rsp)) else { return Vsyscall::Refused };
    for (at, len) in [frame.rdi, frame.rsi].into_iter().zip(lens) {
        if at != 0 && !arch::user::range_ok(VirtAddr(at), len) {
            note(task, vector::PAGE_FAULT, FaultCode::USER | FaultCode::WRITE, Some(at));
            signal::force_fault(task, Signal::SIGSEGV, si::SEGV_MAPERR, at);
            return Vsyscall::Done;
        }
    }
    frame.orig_rax = number;
    let before = frame.rax;
    (handlers.syscall)(frame);
    frame.orig_rax = u64::MAX;
    if frame.rax as i64 == -i64::from(abi::Errno::EFAULT.raw()) {
        frame.rax = before;
        return Vsyscall::Refused;
    }
    frame.rip = caller;
    frame.rsp = frame.rsp.wrapping_add(8);
    Vsyscall::Done
}

/// What became of a call into the vsyscall page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vsyscall {
    /// It was made, or the signal for a bad pointer of it is on its way.
    Done,
    /// There is no such call, or it met a bad pointer.
    Refused,
}

/// The registers in FXSAVE's layout.
fn fpu_words() -> (u16, u16, u32) {
    let mut area = alloc::vec![0u8; arch::thread::fpu::signal_area_len()];
    arch::thread::fpu::save_for_signal(&mut area);
    let u16_at = |at: usize| {
        area.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
    };
    (u16_at(0), u16_at(2), u32::from(u16_at(24)) | u32::from(u16_at(26)) << 16)
}

fn x87_code() -> i32 {
    let (control, status, _) = fpu_words();
    exception_code(u32::from(status & !control))
}

fn sse_code() -> i32 {
    let (.., mxcsr) = fpu_words();
    exception_code(mxcsr & !(mxcsr >> 7))
}

/// `si_code` for unmasked exception bits (invalid, denormal, zero divide, overflow, underflow,
/// precision), in Linux's order of preference.
fn exception_code(bits: u32) -> i32 {
    if bits & 0x01 != 0 {
        si::FPE_FLTINV
    } else if bits & 0x04 != 0 {
        si::FPE_FLTDIV
    } else if bits & 0x08 != 0 {
        si::FPE_FLTOVF
    } else if bits & 0x12 != 0 {
        si::FPE_FLTUND
    } else if bits & 0x20 != 0 {
        si::FPE_FLTRES
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floating_point_codes() {
        assert_eq!(exception_code(0x05), si::FPE_FLTINV);
        assert_eq!(exception_code(0x24), si::FPE_FLTDIV);
        assert_eq!(exception_code(0x02), si::FPE_FLTUND);
        assert_eq!(exception_code(0x20), si::FPE_FLTRES);
    }
}
