//! The clock, the measured loop, and what a cost is.
//!
//! The cost of an operation is a mean over parts of the run without the slowest and the fastest fifth
//! of them. A part is several ticks of the clock long: what the kernel does at every tick, and puts off
//! until then, is part of the cost; a journal that is written once in five seconds is not.

use std::hint::black_box;

/// Parts that a measured loop is divided into.
const BLOCKS: usize = 5;
/// One part of so many is left out at either end.
const TRIMMED: usize = 5;

/// No kernel ticks more seldom.
const LONGEST_TICK_NS: u64 = 20_000_000;

/// Nanoseconds per operation.
pub type Cost = Result<f64, Failure>;

/// Why a row has no figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed.
    pub what: &'static str,
    /// As the call left it; 0 if no call failed but the result was wrong.
    pub errno: i32,
}

impl Failure {
    /// The call that just failed.
    pub fn last(what: &'static str) -> Failure {
        Failure { what, errno: errno() }
    }

    /// Whether the kernel lacks what the row needs.
    pub fn is_lack(&self) -> bool {
        [libc::ENOSYS, libc::EAFNOSUPPORT].contains(&self.errno)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure { what: "preparation", errno: error.raw_os_error().unwrap_or(0) }
    }
}

/// The thread's `errno`.
pub fn errno() -> i32 {
    // SAFETY: the location is the thread's own and always there.
    unsafe { *libc::__errno_location() }
}

/// Time of the guest's monotonic clock.
pub fn now_ns() -> u64 {
    time_ns(libc::CLOCK_MONOTONIC)
}

/// What a clock says.
pub fn time_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec.
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Waits for the next tick of the clock, so that what happens at ticks falls into a measurement equally
/// often whenever it is made.
fn wait_for_tick() {
    let (start, last) = (now_ns(), time_ns(libc::CLOCK_MONOTONIC_COARSE));
    while time_ns(libc::CLOCK_MONOTONIC_COARSE) == last && now_ns() - start < LONGEST_TICK_NS {}
}

/// Starts a measurement. The instruction does nothing; `tools/profiler` counts from here.
pub fn begin() -> u64 {
    // SAFETY: exchanges a register with itself.
    unsafe { std::arch::asm!("xchg bx, bx", options(nomem, nostack, preserves_flags)) };
    now_ns()
}

/// Ends a measurement that began at `start`; its length.
pub fn end(start: u64) -> u64 {
    let elapsed_ns = now_ns() - start;
    // SAFETY: exchanges a register with itself.
    unsafe { std::arch::asm!("xchg cx, cx", options(nomem, nostack, preserves_flags)) };
    elapsed_ns
}

/// Runs an operation `count` times after a warm-up: the cost of one. The operation tells whether it
/// did what it should.
#[inline(always)]
pub fn each(count: u64, operation: impl FnMut() -> bool) -> Cost {
    each_by(now_ns, count, operation)
}

/// As [`each`], by another clock.
#[inline(always)]
pub fn each_by(clock: impl Fn() -> u64, count: u64, mut operation: impl FnMut() -> bool) -> Cost {
    // SAFETY: the location is the thread's own and always there.
    unsafe { *libc::__errno_location() = 0 };
    for _ in 0..(count / 8).max(2) {
        if !operation() {
            return Err(Failure::last("warm-up"));
        }
    }
    let per_block = (count / BLOCKS as u64).max(1);
    let mut times = [0; BLOCKS];
    let mut bad = 0u64;
    wait_for_tick();
    let start = begin();
    let mut last = clock();
    for time in &mut times {
        for _ in 0..per_block {
            bad += u64::from(!operation());
        }
        let now = clock();
        *time = now - last;
        last = now;
    }
    black_box(end(start));
    if bad > 0 {
        return Err(Failure::last("operation"));
    }
    Ok(middle(&mut times) / per_block as f64)
}

/// For operations that need something before or after them: `round` returns how long its `operations`
/// took, by [`begin`] and [`end`]. The first round is the warm-up.
pub fn rounds(
    count: usize,
    operations: u64,
    mut round: impl FnMut() -> Result<u64, Failure>,
) -> Cost {
    let mut times = vec![0; count];
    round()?;
    for time in &mut times {
        *time = round()?;
    }
    Ok(middle(&mut times) / operations as f64)
}

/// The mean without the extremes.
fn middle(times: &mut [u64]) -> f64 {
    times.sort_unstable();
    let left_out = times.len() / TRIMMED;
    let kept = times.get(left_out..times.len() - left_out).unwrap_or_default();
    kept.iter().sum::<u64>() as f64 / kept.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_do_not_count() {
        assert_eq!(middle(&mut [10, 12, 900, 11, 0]), 11.0);
        assert_eq!(middle(&mut [1, 2, 3]), 2.0);
    }

    #[test]
    fn wrong_results_are_failures() {
        assert!(each(20, || true).is_ok());
        let mut left = 15;
        let mut ends_badly = || {
            left -= 1;
            left > 0
        };
        assert!(each(20, &mut ends_badly).is_err());
        assert!(rounds(3, 1, || Err(Failure { what: "x", errno: libc::ENOSYS })).is_err());
    }
}
