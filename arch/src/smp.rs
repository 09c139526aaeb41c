//! Starting the other processors. SDM vol. 3A 9.4, ACPI's MADT for who they are.
//!
//! [`prepare`] numbers the processors (the one that boots is 0) and makes their per-CPU copies,
//! so that everything per-CPU can be initialised for all of them before any of them runs.
//! [`start_all`] sends INIT and SIPI to all at once; each finds its number by its APIC id in the
//! trampoline's table, takes its stack there and runs the kernel's `entry`. Nobody waits in line:
//! 64 processors start in the time one takes.

use crate::acpi;
use crate::addr::VirtAddr;
use crate::cpu::{self, CpuId, MAX_CPUS};
use crate::lock::Once;
use crate::x86::{apic, timer};
use machine::x86::local;
use machine::x86::trampoline::Trampoline;

/// How long a processor has to come up.
const PATIENCE_NS: u64 = 10_000_000_000;
/// After how long without an answer it is called again.
const AGAIN_NS: u64 = 200_000_000;

static ENTRY: Once<fn(CpuId) -> !> = Once::new();

/// Numbers the processors and makes their per-CPU copies. `limit` is the most processors to use
/// (`maxcpus=`, `nr_cpus=`; 1 for `nosmp`). Once, after `acpi::init`.
pub fn prepare(limit: usize) {
    let own = apic::own_id();
    let limit = limit.clamp(1, MAX_CPUS);
    let others = acpi::platform().processors.iter().filter(|processor| processor.apic_id != own);
    let mut count = 1;
    for processor in others.take(limit - 1) {
        let Some(cpu) = CpuId::new(count) else { break };
        if !local::make(cpu) {
            log::error!("smp: no memory for the data of processor {count}");
            break;
        }
        apic::set_apic_id(cpu, processor.apic_id);
        count += 1;
    }
    cpu::set_possible(count);
}

/// The NUMA node of a processor that [`prepare`] numbered.
pub fn node_of(cpu: CpuId) -> usize {
    apic::apic_id(cpu).map_or(0, |id| acpi::platform().affinity.node_of_apic(id))
}

/// Starts all processors that [`prepare`] numbered. `stack_of` gives each the top of a stack, or
/// `None` to leave it out; `entry` is called there with interrupts off, everything of this crate
/// set up, and must not return. Returns when all have set themselves online or given no answer.
pub fn start_all(mut stack_of: impl FnMut(CpuId) -> Option<VirtAddr>, entry: fn(CpuId) -> !) {
    ENTRY.call_once(|| entry);
    let begun = crate::time::now_ns();
    let Some(trampoline) = Trampoline::install() else {
        log::error!("smp: no page below 1 MiB for the trampoline");
        return;
    };
    let mut called = cpu::CpuSet::new();
    for cpu in cpu::possible().iter().skip(1) {
        let (Some(id), Some(stack)) = (apic::apic_id(cpu), stack_of(cpu)) else { continue };
        if trampoline.add(id, cpu, stack) {
            called.insert(cpu);
        }
    }
    for id in called.iter().filter_map(apic::apic_id) {
        apic::send_init(id);
    }
    call(&called, trampoline.page());
    let mut last_call = crate::time::now_ns();
    loop {
        let missing = called.minus(&cpu::online());
        if missing.is_empty() {
            break;
        }
        let now = crate::time::now_ns();
        if now - begun > PATIENCE_NS {
            log::error!("smp: processors {missing} did not start");
            break;
        }
        if now - last_call > AGAIN_NS {
            call(&missing, trampoline.page());
            last_call = now;
        }
        core::hint::spin_loop();
    }
    let count = cpu::count();
    let plural = if count == 1 { "" } else { "s" };
    let took = (crate::time::now_ns() - begun) / 1_000_000;
    log::info!("smp: {count} CPU{plural} running after {took} ms");
}

fn call(cpus: &cpu::CpuSet, page: u8) {
    for id in cpus.iter().filter_map(apic::apic_id) {
        apic::send_startup(id, page);
    }
}

/// The rest of a started processor's life, on its own stack.
pub(crate) fn secondary(id: CpuId) -> ! {
    apic::init_this();
    timer::init_this();
    cpu::set_online(id);
    match ENTRY.get() {
        Some(entry) => entry(id),
        None => machine::x86::regs::halt_forever(),
    }
}
