//! The end: what happened, where every processor was, and then what `panic=` says.

use alloc::string::String;
use arch::symbols::Symbolised;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// `panic=`: seconds until a reset; 0 waits for ever, less resets at once.
static TIMEOUT_S: AtomicI64 = AtomicI64::new(0);
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Takes `panic=` from the command line.
pub(crate) fn configure(words: &klog::CommandLine) {
    if let Some(seconds) = words.number("panic") {
        TIMEOUT_S.store(seconds, Ordering::Relaxed);
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    arch::irq::disable_unguarded();
    if PANICKED.swap(true, Ordering::SeqCst) {
        // A second panic, of this processor or another: the first one reports.
        arch::power::halt();
    }
    klog::panicking();
    let place = info.location().map(|at| (at.file(), at.line())).unwrap_or(("?", 0));
    klog::emergency(format_args!("Kernel panic - not syncing: {}", info.message()));
    klog::emergency(format_args!("CPU: {} at {}:{}", arch::cpu::id(), place.0, place.1));
    if let Some(thread) = sched::try_current() {
        let name = thread.name();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        klog::emergency(format_args!("Comm: {}", Printable(name)));
    }
    klog::emergency(format_args!("Call Trace:"));
    arch::backtrace::Backtrace::here().walk(|address| {
        klog::emergency(format_args!(" {}", Symbolised(address)));
    });
    arch::ipi::stop_others(|cpu, trace| {
        klog::emergency(format_args!("CPU {cpu}:\n{trace}"));
    });
    match TIMEOUT_S.load(Ordering::Relaxed) {
        0 => {
            klog::emergency(format_args!("---[ end Kernel panic ]---"));
            arch::power::halt()
        }
        seconds => {
            if seconds > 0 {
                klog::emergency(format_args!("Rebooting in {seconds} seconds.."));
                for _ in 0..seconds.saturating_mul(1000) {
                    arch::time::delay_us(1000);
                }
            }
            arch::power::reset()
        }
    }
}

/// Bytes of a thread's name.
struct Printable<'a>(&'a [u8]);

impl core::fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0))
    }
}

/// Linux's words when nothing could be started.
pub(crate) fn no_init() -> ! {
    panic!("No working init found.  Try passing init= option to kernel.");
}
