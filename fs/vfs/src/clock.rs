//! The clock that stamps files.

use crate::types::Time;

/// The real time at tick granularity.
pub(crate) fn coarse_now() -> Time {
    let ns = sched::clock::realtime_coarse();
    Time { sec: ns.div_euclid(1_000_000_000), nsec: ns.rem_euclid(1_000_000_000) as u32 }
}
