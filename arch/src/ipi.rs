//! Interrupts from one processor to others.

#[cfg(not(target_os = "none"))]
use crate::host::ipi as imp;
#[cfg(target_os = "none")]
use crate::x86::stop::stop_others as stop;
#[cfg(not(target_os = "none"))]
use imp::stop_others as stop;
#[cfg(target_os = "none")]
use machine::x86::ipi as imp;

use crate::backtrace::{Backtrace, Trace};
use crate::cpu::{CpuId, CpuSet};
use crate::trap::TrapFrame;

/// What a processor was found at.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its registers.
    pub registers: TrapFrame,
    /// Who called what it ran, if that was the kernel.
    pub trace: Trace,
}

/// What another processor does just now, whether or not it takes interrupts; `None` if it does not
/// answer. In any context.
pub fn sample(cpu: CpuId) -> Option<Sample> {
    #[cfg(target_os = "none")]
    return crate::x86::sample::sample(cpu);
    #[cfg(not(target_os = "none"))]
    imp::sample(cpu)
}

/// Makes a processor look at `NEED_RESCHED` of its current thread, which the caller has set.
#[inline]
pub fn reschedule(cpu: CpuId) {
    imp::reschedule(cpu);
}

/// Calls `f(arg)` in interrupt context on every running processor of the set (on this one
/// directly, with interrupts off), and returns when all have done. Not from interrupt handlers,
/// not with interrupts off.
pub fn call_on(cpus: &CpuSet, f: fn(usize), arg: usize) {
    imp::call_on(cpus, f, arg);
}

/// Like [`call_on`] on every running processor.
pub fn call_on_all(f: fn(usize), arg: usize) {
    call_on(&crate::cpu::online(), f, arg);
}

/// Stops all other processors for a panic; each first calls `report` with where it was, one after
/// the other.
pub fn stop_others(report: fn(CpuId, Backtrace)) {
    stop(report);
}
