//! The end: what a broken invariant prints, and what happens then (`panic=`).

use arch::backtrace::Backtrace;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

static IS_PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    arch::irq::disable_unguarded();
    if IS_PANICKING.swap(true, Ordering::SeqCst) {
        // A panic within the panic: say that much and stop.
        arch::console::early_print("panic while panicking\n");
        arch::power::halt();
    }
    klog::panicking();
    let place = info.location();
    klog::emergency(format_args!("Kernel panic - not syncing: {}", info.message()));
    if let Some(place) = place {
        klog::emergency(format_args!(
            "at {}:{} on CPU {}",
            place.file(),
            place.line(),
            arch::cpu::id().index()
        ));
    }
    print_trace(&Backtrace::here());
    arch::ipi::stop_others(|cpu, trace| {
        klog::emergency(format_args!("CPU {}:", cpu.index()));
        print_trace(&trace);
    });
    end()
}

fn print_trace(trace: &Backtrace) {
    klog::emergency(format_args!("Call Trace:"));
    trace.walk(|address| match arch::symbols::lookup(address) {
        Some((symbol, offset)) => {
            klog::emergency(format_args!(" {address:016x} {}+{offset:#x}", symbol.name.as_str()));
        }
        None => klog::emergency(format_args!(" {address:016x}")),
    });
}

fn end() -> ! {
    // What programs had printed may be what explains it.
    tty::serial::drain();
    match klog::PANIC_TIMEOUT_S.load(Ordering::Relaxed) {
        0 => arch::power::halt(),
        seconds => {
            if seconds > 0 {
                klog::emergency(format_args!("Rebooting in {seconds} seconds.."));
                arch::time::delay_ns(seconds as u64 * arch::time::NANOS_PER_SEC);
            }
            arch::power::reset()
        }
    }
}
