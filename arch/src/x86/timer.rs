//! The local APIC's timer: one shot, by TSC deadline where the processor has it.

use crate::lock::Once;
use crate::timer::Mode;
use crate::x86::apic::{self, lvt};
use crate::x86::clock;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use machine::x86::regs;

static HANDLER: Once<fn(Mode)> = Once::new();
static HAS_DEADLINE: AtomicBool = AtomicBool::new(false);
/// Timer ticks in a nanosecond, times 2^32.
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);
/// One shot never waits longer than this: the counter has 32 bits.
const MAX_COUNT: u64 = 0xffff_ffff;

/// Chooses the mode and measures the timer's clock; the boot processor, after the clock runs.
pub(crate) fn init_boot() {
    let has_deadline = regs::cpuid(1, 0)[2] & (1 << 24) != 0 && clock::is_tsc();
    HAS_DEADLINE.store(has_deadline, Ordering::Relaxed);
    if !has_deadline {
        let hz = match clock::hypervisor_apic_hz() {
            Some(hz) => hz,
            None => measure(),
        };
        TICKS_PER_NS.store(((u128::from(hz) << 32) / 1_000_000_000) as u64, Ordering::Relaxed);
        log::info!("timer: local APIC at {}.{:03} MHz", hz / 1_000_000, hz / 1000 % 1000);
    } else {
        log::info!("timer: TSC deadline");
    }
    init_this();
}

/// Sets the mode on this processor.
pub(crate) fn init_this() {
    if HAS_DEADLINE.load(Ordering::Relaxed) {
        lvt::tsc_deadline();
    } else {
        lvt::one_shot();
    }
}

fn measure() -> u64 {
    const WINDOW_NS: u64 = 4_000_000;
    let _irq = crate::irq::disable();
    lvt::measure();
    lvt::set_count(u32::MAX);
    let (from, first) = (clock::now_ns(), lvt::count());
    while clock::now_ns() - from < WINDOW_NS {
        core::hint::spin_loop();
    }
    let (to, last) = (clock::now_ns(), lvt::count());
    lvt::set_count(0);
    (u128::from(first - last) * 1_000_000_000 / u128::from((to - from).max(1))) as u64
}

/// The clock's frequency was corrected: the timer's was measured against it.
pub(crate) fn rescale(old_hz: u64, new_hz: u64) {
    let ticks = u128::from(TICKS_PER_NS.load(Ordering::Relaxed));
    let scaled = ticks * u128::from(new_hz) / u128::from(old_hz.max(1));
    TICKS_PER_NS.store(scaled as u64, Ordering::Relaxed);
}

pub(crate) fn set_handler(handler: fn(Mode)) {
    HANDLER.call_once(|| handler);
}

#[inline]
pub(crate) fn arm(deadline_ns: u64) {
    if HAS_DEADLINE.load(Ordering::Relaxed) {
        let deadline = clock::ns_to_tsc(deadline_ns).max(1);
        regs::set_tsc_deadline(deadline);
        return;
    }
    let ticks_per_ns = TICKS_PER_NS.load(Ordering::Relaxed);
    if ticks_per_ns == 0 {
        // Not set up yet: who arms this early arms again when something happens.
        return;
    }
    let wait = deadline_ns.saturating_sub(clock::now_ns());
    let ticks = (u128::from(wait) * u128::from(ticks_per_ns)) >> 32;
    // A count of zero would stop the timer; one more so that it is not early.
    lvt::set_count((ticks as u64).saturating_add(1).min(MAX_COUNT) as u32);
}

pub(crate) fn cancel() {
    if HAS_DEADLINE.load(Ordering::Relaxed) {
        regs::set_tsc_deadline(0);
    } else if apic::is_ready() {
        lvt::set_count(0);
    }
}

/// The timer's interrupt.
pub(crate) fn expired(mode: Mode) {
    if let Some(handler) = HANDLER.get() {
        handler(mode);
    }
}
