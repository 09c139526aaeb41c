//! The numbers that `sysctl` may turn: `kernel.sched_*`.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! tunables {
    ($($(#[$doc:meta])* $name:ident, $set:ident = $default:expr;)*) => {
        /// Times the policy works with, in nanoseconds; changeable while it runs.
        pub struct Tunables { $($name: AtomicU64,)* }

        impl Tunables {
            /// The defaults for one processor.
            pub const fn new() -> Tunables {
                Tunables { $($name: AtomicU64::new($default),)* }
            }
            $(
                $(#[$doc])*
                #[inline]
                pub fn $name(&self) -> u64 {
                    // Relaxed: a plain number, no other data depends on it.
                    self.$name.load(Ordering::Relaxed)
                }
                #[doc = concat!("Sets [`Self::", stringify!($name), "`].")]
                pub fn $set(&self, value_ns: u64) {
                    self.$name.store(value_ns, Ordering::Relaxed);
                }
            )*
        }
    };
}

tunables! {
    /// In this time every runnable thread of a queue runs once, unless there are too many.
    latency_ns, set_latency_ns = 6_000_000;
    /// The least a fair thread runs before another fair thread takes its turn.
    min_granularity_ns, set_min_granularity_ns = 750_000;
    /// How much further behind a woken thread must be to take over at once.
    wakeup_granularity_ns, set_wakeup_granularity_ns = 1_000_000;
    /// How long a fair thread that was picked keeps its processor from other fair threads that wake: time for some
    /// dozens of short calls, and less than a person or a network notices.
    turn_ns, set_turn_ns = 100_000;
    /// A `SCHED_RR` turn.
    rr_slice_ns, set_rr_slice_ns = 100_000_000;
    /// The period over which real-time threads leave something to the others.
    rt_period_ns, set_rt_period_ns = 1_000_000_000;
    /// What real-time threads may use of it.
    rt_runtime_ns, set_rt_runtime_ns = 950_000_000;
    /// A thread that ran less than this ago is taken to have its data in the cache.
    migration_cost_ns, set_migration_cost_ns = 500_000;
}

impl Default for Tunables {
    fn default() -> Self {
        Tunables::new()
    }
}

impl Tunables {
    /// Stretches the fair times for `cpus` processors: more processors, fewer switches needed.
    pub fn scale_to(&self, cpus: usize) {
        let factor = u64::from(1 + cpus.clamp(1, 8).ilog2());
        self.set_latency_ns(6_000_000 * factor);
        self.set_min_granularity_ns(750_000 * factor);
        self.set_wakeup_granularity_ns(1_000_000 * factor);
    }
}
