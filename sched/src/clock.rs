//! The clocks of user space: the monotonic one is the machine's, the others are it plus an offset.

use arch::lock::{LockClass, SeqLock};

static CLASS: LockClass = LockClass::new("sched.clock", 770);

#[derive(Clone, Copy)]
struct Offsets {
    realtime: u64,
    boottime: u64,
    tai: u64,
}

static OFFSETS: SeqLock<Offsets> =
    SeqLock::new(&CLASS, Offsets { realtime: 0, boottime: 0, tai: 0 });

/// Reads the battery-backed clock; once at start-up.
pub fn init() {
    if let Some(seconds) = arch::time::read_persistent_clock() {
        set_realtime(seconds.saturating_mul(1_000_000_000));
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline]
pub fn monotonic_ns() -> u64 {
    arch::time::now_ns()
}

/// `CLOCK_BOOTTIME` in nanoseconds.
pub fn boottime_ns() -> u64 {
    arch::time::now_ns().wrapping_add(OFFSETS.read().boottime)
}

/// `CLOCK_REALTIME` in nanoseconds since 1970.
pub fn realtime_ns() -> u64 {
    arch::time::now_ns().wrapping_add(OFFSETS.read().realtime)
}

/// `CLOCK_TAI` in nanoseconds.
pub fn tai_ns() -> u64 {
    arch::time::now_ns().wrapping_add(OFFSETS.read().tai)
}

/// The coarse clocks stand still for this long; the vDSO knows it too.
pub const COARSE_NS: u64 = 4_000_000;

/// `CLOCK_REALTIME_COARSE`.
pub fn realtime_coarse() -> i64 {
    let now = realtime_ns();
    (now - now % COARSE_NS) as i64
}

/// `CLOCK_MONOTONIC_COARSE` in nanoseconds.
pub fn monotonic_coarse() -> u64 {
    let now = monotonic_ns();
    now - now % COARSE_NS
}

/// Told whenever `CLOCK_REALTIME` was set: timers that follow it are armed anew.
static CHANGED: crate::WaitQueue = crate::WaitQueue::new();

/// The queue whose listeners are told that `CLOCK_REALTIME` was set.
pub fn changed() -> &'static crate::WaitQueue {
    &CHANGED
}

/// Sets `CLOCK_REALTIME`.
pub fn set_realtime(ns: u64) {
    let offset = ns.wrapping_sub(arch::time::now_ns());
    OFFSETS.write(|o| {
        let leap = o.tai.wrapping_sub(o.realtime);
        o.realtime = offset;
        o.tai = offset.wrapping_add(leap);
    });
    publish();
    CHANGED.notify(0);
}

/// Moves `CLOCK_REALTIME` by a difference.
pub fn adjust_realtime(delta_ns: i64) {
    OFFSETS.write(|o| {
        o.realtime = o.realtime.wrapping_add_signed(delta_ns);
        o.tai = o.tai.wrapping_add_signed(delta_ns);
    });
    publish();
    CHANGED.notify(0);
}

/// Sets how far `CLOCK_TAI` is ahead of `CLOCK_REALTIME`, in seconds.
pub fn set_tai_offset(seconds: i32) {
    OFFSETS.write(|o| {
        o.tai = o.realtime.wrapping_add_signed(i64::from(seconds) * 1_000_000_000);
    });
    publish();
}

/// Tells the vDSO.
fn publish() {
    let offsets = OFFSETS.read();
    arch::vdso::set_offsets(offsets.realtime, offsets.boottime, offsets.tai);
}
