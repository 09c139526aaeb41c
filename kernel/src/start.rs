//! The order of start-up. Each step may use what the steps before it made.

use alloc::vec::Vec;

use arch::boot::BootInfo;
use arch::cpu::CpuId;
use arch::lock::{LockClass, SpinLock};
use arch::thread::KernelStackRange;
use arch::trap::Handlers;
use arch::{acpi, smp, x86};
use core::sync::atomic::Ordering;
use klog::CommandLine;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

static HANDLERS: Handlers = process::trap::handlers(syscalls::dispatch);

static STACKS_CLASS: LockClass = LockClass::new("kernel.idle_stacks", 90);
/// The stacks of the idle threads of the other processors.
static STACKS: SpinLock<Vec<(CpuId, KernelStackRange)>> = SpinLock::new(&STACKS_CLASS, Vec::new());

arch::entry_point!(start);

/// Where the boot code hands over: one processor, interrupts off, the image at its final address.
fn start(info: &'static BootInfo) -> ! {
    // From here on there is a heap.
    if let Some(memory) = arch::boot::take_free_memory() {
        frames::init(memory);
    }
    klog::init(info.command_line());
    klog::register_console(&klog::Early, klog::Replay::All);
    log::info!("Linux version {} ({})", process::nsproxy::RELEASE, env!("CARGO_PKG_NAME"));
    log::info!("Command line: {}", info.command_line());
    log::info!("boot: {:?}, kernel at {:?}", info.protocol, info.kernel);
    if let Some(screen) = info.framebuffer {
        let (width, height, depth) = (screen.width, screen.height, screen.bits_per_pixel);
        log::info!("boot: framebuffer {width}x{height}x{depth} at {:#x}", screen.address.0);
    }
    let line = klog::parse_command_line(info.command_line());
    syscalls::tracer::init(line.value("tkernel.strace"));
    settings(&line);

    if let Err(error) = x86::init::interrupts() {
        panic!("no interrupt controller: {error:?}");
    }
    acpi::init(info);
    memory_nodes();
    x86::init::clocks();
    arch::trap::set_handlers(&HANDLERS);
    sched::clock::init();
    sched::init_cpu(arch::boot::boot_stack());
    other_processors(&line);
    arch::paging::kernel::forget_identity_map();
    arch::irq::enable();

    sched::work::init();
    sched::init_load();
    pagecache::init();
    vfs::dcache::register_shrinker();
    heap::register_shrinker();
    process::oom::init();
    sched::spawn_kernel("kernel_init", move || crate::root::start(info, &line));
    sched::idle()
}

fn settings(line: &CommandLine) {
    if let Some(seconds) = line.number("panic") {
        klog::PANIC_TIMEOUT_S.store(seconds, Ordering::Relaxed);
    }
}

/// Gives the NUMA nodes, if there are several, their memory.
fn memory_nodes() {
    let nodes = &acpi::platform().affinity;
    frames::set_nodes(nodes.node_count(), &nodes.memory, |from, to| nodes.distance(from, to));
    if frames::node_count() == 1 {
        return;
    }
    for node in 0..frames::node_count() {
        let frames = frames::node_stats(node).unwrap_or_default().total;
        log::info!("numa: node {node}: {} MiB", frames >> 8);
    }
}

fn other_processors(line: &CommandLine) {
    let limit = match (line.has("nosmp"), line.number("maxcpus")) {
        (true, _) => 1,
        (_, Some(count)) => usize::try_from(count).unwrap_or(1).max(1),
        _ => arch::cpu::MAX_CPUS,
    };
    smp::prepare(limit);
    for cpu in arch::cpu::possible().iter() {
        frames::set_cpu_node(cpu, smp::node_of(cpu));
    }
    let stack_of = |cpu| {
        let stack = heap::KernelStack::new().ok()?;
        let range = stack.range();
        // The idle thread of a processor stands on it for ever.
        core::mem::forget(stack);
        STACKS.lock().push((cpu, range));
        Some(range.top)
    };
    smp::start_all(stack_of, secondary);
}

/// A processor that was started: it idles until there is something to run.
fn secondary(cpu: CpuId) -> ! {
    let range = STACKS.lock().iter().find(|(id, _)| *id == cpu).map(|(_, range)| *range);
    match range {
        Some(range) => sched::init_cpu(range),
        None => panic!("processor {} has no stack", cpu.index()),
    }
    arch::irq::enable();
    sched::idle()
}
