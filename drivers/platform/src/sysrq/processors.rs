//! Keys that show what processors do: back-traces of all, registers of this one.
//!
//! In an interrupt that may have come between anything, so the only locks here keep interrupts off,
//! and another processor's are not waited for.

use super::{Action, Name, When, mask, register};
use arch::backtrace::{Backtrace, Trace};
use arch::cpu::CpuId;
use arch::ipi;
use arch::symbols::Symbolised;
use arch::trap::TrapFrame;

/// Registers l and p.
pub(super) fn init() {
    let action =
        |help, message, run| Action { help, message, mask: mask::DUMP, when: When::AtOnce, run };
    let traces = "Show backtrace of all active CPUs";
    register(b'l', action("show-backtrace-all-active-cpus(l)", traces, |_| show_traces()));
    register(b'p', action("show-registers(p)", "Show Regs", |_| show_own_registers()));
}

fn show_traces() {
    // This processor stays this one.
    let _here = arch::preempt::disable();
    let own = arch::cpu::id();
    log::info!("NMI backtrace for cpu {}", own.index());
    show_head(own);
    show_trace(&Trace::from(Backtrace::here()));
    if let Some(registers) = arch::trap::interrupted() {
        show_registers(&registers);
    }
    for cpu in arch::cpu::online().iter().filter(|cpu| *cpu != own) {
        show_other(cpu);
    }
}

fn show_other(cpu: CpuId) {
    let number = cpu.index();
    let Some(sample) = ipi::sample(cpu) else {
        log::warn!("NMI backtrace for cpu {number}: no answer");
        return;
    };
    let registers = &sample.registers;
    if sched::is_idle(cpu) && !registers.is_user() {
        let at = Symbolised(registers.rip);
        log::info!("NMI backtrace for cpu {number} skipped: idling at {at}");
        return;
    }
    log::info!("NMI backtrace for cpu {number}");
    show_head(cpu);
    show_registers(registers);
    if !registers.is_user() {
        show_trace(&sample.trace);
    }
}

/// The registers of what the key's interrupt came in between; nothing for a key that a program
/// wrote.
fn show_own_registers() {
    let Some(registers) = arch::trap::interrupted() else { return };
    show_head(arch::cpu::id());
    show_registers(&registers);
    if let Some(trace) = Backtrace::interrupted(&registers) {
        show_trace(&Trace::from(trace));
    }
}

fn show_head(cpu: CpuId) {
    let number = cpu.index();
    match sched::running_on(cpu) {
        Some((name, pid)) => {
            log::info!("CPU: {number} PID: {pid} Comm: {} Not tainted", Name(&name));
        }
        None => log::info!("CPU: {number}, which changes threads"),
    }
}

fn show_trace(trace: &Trace) {
    log::info!("Call Trace:");
    for address in trace.addresses() {
        log::info!(" {}", Symbolised(*address));
    }
}

/// Logs registers, in the order in which Linux shows them.
pub fn show_registers(f: &TrapFrame) {
    if f.is_user() {
        log::info!("RIP: {:04x}:{:#x}", f.cs, f.rip);
    } else {
        log::info!("RIP: {:04x}:{}", f.cs, Symbolised(f.rip));
    }
    let (flags, call) = (f.rflags, f.orig_rax);
    log::info!("RSP: {:04x}:{:016x} EFLAGS: {flags:08x} ORIG_RAX: {call:016x}", f.ss, f.rsp);
    log::info!("RAX: {:016x} RBX: {:016x} RCX: {:016x}", f.rax, f.rbx, f.rcx);
    log::info!("RDX: {:016x} RSI: {:016x} RDI: {:016x}", f.rdx, f.rsi, f.rdi);
    log::info!("RBP: {:016x} R08: {:016x} R09: {:016x}", f.rbp, f.r8, f.r9);
    log::info!("R10: {:016x} R11: {:016x} R12: {:016x}", f.r10, f.r11, f.r12);
    log::info!("R13: {:016x} R14: {:016x} R15: {:016x}", f.r13, f.r14, f.r15);
}
