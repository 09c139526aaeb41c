//! The clocks of the machine: nanoseconds since boot, and the date the battery-backed clock had.

#[cfg(not(target_os = "none"))]
use crate::host::time as imp;
#[cfg(target_os = "none")]
use crate::x86::clock as imp;

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Nanoseconds since boot; never goes back, on any processor.
#[inline]
pub fn now_ns() -> u64 {
    imp::now_ns()
}

/// The raw cycle counter behind [`now_ns`]; not ordered with other instructions.
#[inline]
pub fn cycles() -> u64 {
    imp::cycles()
}

/// How long so many cycles take, in nanoseconds.
#[inline]
pub fn cycles_to_ns(cycles: u64) -> u64 {
    imp::cycles_to_ns(cycles)
}

/// Cycles of the counter in a second.
pub fn cycles_per_sec() -> u64 {
    imp::cycles_per_sec()
}

/// The name of the clock source in use: `tsc`, `kvm-clock`, `hpet`.
pub fn clocksource_name() -> &'static str {
    imp::clocksource_name()
}

/// The names of all usable clock sources, best first.
pub fn available_clocksources() -> &'static [&'static str] {
    imp::available_clocksources()
}

/// Seconds since 1970 (UTC) from the battery-backed clock; takes up to a millisecond.
pub fn read_persistent_clock() -> Option<u64> {
    imp::read_persistent_clock()
}

/// Sets the battery-backed clock to seconds since 1970 (UTC).
pub fn write_persistent_clock(seconds: u64) {
    imp::write_persistent_clock(seconds);
}

/// Measures the clock's pace again, better than at boot. Once, some seconds after boot.
pub fn refine() {
    imp::refine();
}

/// Busy-waits.
pub fn delay_ns(ns: u64) {
    let end = now_ns().saturating_add(ns);
    while now_ns() < end {
        core::hint::spin_loop();
    }
}

/// Busy-waits.
pub fn delay_us(us: u64) {
    delay_ns(us.saturating_mul(1000));
}
