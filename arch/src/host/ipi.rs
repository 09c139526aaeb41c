//! Calls to other processors, played by the calling thread.

use crate::cpu::{CpuId, CpuSet};

pub(crate) fn reschedule(_cpu: CpuId) {}

pub(crate) fn call_on(cpus: &CpuSet, f: fn(usize), arg: usize) {
    let own = crate::cpu::id();
    for cpu in cpus.and(&crate::cpu::online()).iter() {
        machine::host::set_cpu(cpu);
        machine::host::in_interrupt(|| f(arg));
    }
    machine::host::set_cpu(own);
}

pub(crate) fn sample(_cpu: CpuId) -> Option<crate::ipi::Sample> {
    None
}

pub(crate) fn stop_others(_report: fn(CpuId, crate::backtrace::Backtrace)) {}
