//! Stopping the other processors for a panic.

use crate::backtrace::Backtrace;
use crate::cpu::CpuId;
use crate::lock::Once;
use crate::trap::TrapFrame;
use crate::x86::apic;
use core::sync::atomic::{AtomicU32, Ordering};
use machine::x86::regs;

/// What processors do on an NMI during a panic; others are samples.
static STOP: Once<fn(CpuId, Backtrace)> = Once::new();
static STOPPED: AtomicU32 = AtomicU32::new(0);

pub(crate) fn stop_others(report: fn(CpuId, Backtrace)) {
    if !apic::is_ready() || STOP.is_completed() {
        return;
    }
    STOP.call_once(|| report);
    let own = crate::cpu::id();
    for cpu in crate::cpu::online().iter().filter(|cpu| *cpu != own) {
        let before = STOPPED.load(Ordering::SeqCst);
        apic::send_nmi(cpu);
        // One after the other, so that their reports do not mix; each has a while.
        for _ in 0..50_000_000u32 {
            if STOPPED.load(Ordering::SeqCst) != before {
                break;
            }
            core::hint::spin_loop();
        }
    }
}

/// A non-maskable interrupt.
pub(crate) fn nmi(frame: &mut TrapFrame) {
    let Some(report) = STOP.get() else {
        if !super::sample::answer(frame) {
            log::warn!("unexpected NMI at {:#x}", frame.rip);
        }
        return;
    };
    report(crate::cpu::id(), Backtrace::from(frame.rip, frame.rbp));
    STOPPED.fetch_add(1, Ordering::SeqCst);
    regs::halt_forever();
}
