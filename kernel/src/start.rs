//! The order of start-up.
//!
//! [`kernel_main`] brings up what has no threads yet: processor, memory, interrupts, clocks, the
//! scheduler, the other processors. It then becomes the idle thread of the boot processor, and
//! [`run`] goes on as the first kernel thread.

use alloc::vec::Vec;
use arch::addr::VirtAddr;
use arch::boot::BootInfo;
use arch::cpu::CpuId;
use arch::thread::KernelStackRange;

/// The first Rust function at the kernel's final address.
#[unsafe(no_mangle)]
fn kernel_main(info: &'static BootInfo) -> ! {
    // SAFETY: this is the start, on the boot processor.
    unsafe { arch::x86::init::early(info) };
    arch::console::set_up(115_200);
    klog::init(info.command_line());
    klog::register_console(&klog::Early, klog::Replay::All);
    klog::notice!("Linux version {}", env!("CARGO_PKG_VERSION"));
    log::info!("Command line: {}", info.command_line());
    describe_memory(info);

    take_memory(info);
    let words = klog::parse_command_line(info.command_line());
    crate::panic::configure(&words);
    if let Err(error) = arch::x86::init::interrupts() {
        panic!("no memory for the local APIC's mapping: {error:?}");
    }
    arch::acpi::init(info);
    arch::x86::init::clocks();

    arch::smp::prepare(cpu_limit(&words));
    sched::init_cpu(arch::boot::boot_stack());
    sched::clock::init();
    arch::irq::enable();
    start_processors();
    sched::work::init();
    sched::init_load();
    sched::spawn_kernel("init", move || run(info));
    sched::idle()
}

/// The first kernel thread: everything that may sleep.
fn run(info: &'static BootInfo) {
    let stats = frames::stats();
    log::info!("Memory: {stats:?}");
    let count = arch::cpu::count();
    log::info!(
        "Started from {:?} in {} ms on {count} CPUs",
        info.protocol,
        arch::time::now_ns() / 1_000_000
    );
    crate::panic::no_init();
}

/// Prints the memory map as the firmware gave it.
fn describe_memory(info: &BootInfo) {
    for region in info.memory.regions() {
        let (start, end) = (region.start.0, region.end.0 - 1);
        log::info!("BIOS-e820: [mem {start:#018x}-{end:#018x}] {}", region.kind.name());
    }
    log::debug!("kernel {:?} at {:?}, initrd {:?}", info.kernel, info.kernel_virt, info.initrd);
}

/// Gives the free memory to the frame allocator, one range per NUMA node it spans.
fn take_memory(info: &BootInfo) {
    const RANGES_MAX: usize = 128;
    let mut ranges = arrayvec::ArrayVec::<frames::Range, RANGES_MAX>::new();
    for range in info.usable() {
        let range = frames::Range { start: range.start, end: range.end, node: 0 };
        // More pieces than a machine has; what does not fit is left unused.
        let _ = ranges.try_push(range);
    }
    // SAFETY: the boot description leaves out everything that is occupied.
    unsafe { frames::init(&ranges) };
}

/// How many processors the command line allows.
fn cpu_limit(words: &klog::CommandLine) -> usize {
    if words.has("nosmp") {
        return 1;
    }
    let limit = |name: &str| words.number(name).and_then(|n| usize::try_from(n).ok());
    let all = arch::cpu::MAX_CPUS;
    limit("maxcpus").unwrap_or(all).min(limit("nr_cpus").unwrap_or(all)).max(1)
}

/// Starts the other processors, each on the stack of its idle thread.
fn start_processors() {
    let mut stacks: Vec<KernelStackRange> = Vec::new();
    for _ in arch::cpu::possible().iter().skip(1) {
        match heap::KernelStack::new() {
            // The idle threads never end, so their stacks live for ever.
            Ok(stack) => stacks.push(core::mem::ManuallyDrop::new(stack).range()),
            Err(_) => break,
        }
    }
    let stacks = STACKS.call_once(|| stacks);
    arch::smp::start_all(|cpu| stack_of(stacks, cpu).map(|stack| stack.top), secondary);
}

static STACKS: spin::Once<Vec<KernelStackRange>> = spin::Once::new();

fn stack_of(stacks: &[KernelStackRange], cpu: CpuId) -> Option<&KernelStackRange> {
    stacks.get(cpu.index().checked_sub(1)?)
}

/// A started processor, everything of `arch` set up.
fn secondary(cpu: CpuId) -> ! {
    let nothing = KernelStackRange { bottom: VirtAddr(0), top: VirtAddr(0) };
    let stack = STACKS.get().and_then(|stacks| stack_of(stacks, cpu)).copied().unwrap_or(nothing);
    sched::init_cpu(stack);
    arch::cpu::set_online(cpu);
    arch::irq::enable();
    sched::idle()
}
