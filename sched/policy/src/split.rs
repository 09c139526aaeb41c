//! How the time that a thread ran is divided into user and system time.
//!
//! The time itself is measured at every switch. Which part of it was the kernel's is not: to look
//! at the clock on each way into the kernel and out would cost more than many a system call. So a
//! program's thread is looked at now and then, and its time is divided as those samples were.
//!
//! When samples are taken must not depend on what runs, or a thread that always sleeps sooner would
//! never be seen: a sample stays armed while threads come and go, and the first after a pause comes
//! after any part of a period alike. Nor are they a period apart, but by a half to one and a half,
//! for the sake of programs that go round in the same time.

/// Between two samples while a program runs, on average, in nanoseconds.
pub const SAMPLE_NS: u64 = 4_000_000;

/// When a processor takes its next sample.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampler {
    next_ns: Option<u64>,
}

impl Sampler {
    /// None is taken.
    pub const fn new() -> Sampler {
        Sampler { next_ns: None }
    }

    /// When the next is due.
    #[inline]
    pub fn next_ns(&self) -> Option<u64> {
        self.next_ns
    }

    /// There is a thread to look at from now on; does nothing if one is armed.
    pub fn start(&mut self, now_ns: u64) {
        self.next_ns.get_or_insert(now_ns + part_of_period(now_ns));
    }

    /// There is nobody to look at.
    pub fn stop(&mut self) {
        self.next_ns = None;
    }

    /// Whether a sample is due; the next follows after about a period.
    pub fn take(&mut self, now_ns: u64) -> bool {
        let is_due = self.next_ns.is_some_and(|next| next <= now_ns);
        if is_due {
            self.next_ns = Some(now_ns + SAMPLE_NS / 2 + part_of_period(now_ns));
        }
        is_due
    }
}

/// Any part of a period. The low digits of the clock are as good as dice; twice multiplied, they
/// decide the high ones, and instants in step become none.
fn part_of_period(now_ns: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let once = now_ns.wrapping_mul(ODD);
    let dice = (once ^ (once >> 32)).wrapping_mul(ODD) >> 32;
    (dice * SAMPLE_NS) >> 32
}

/// The samples of a thread, and what was told of it so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Split {
    user_samples: u64,
    system_samples: u64,
    user_ns: u64,
    system_ns: u64,
}

impl Split {
    /// Nothing was seen yet.
    pub const fn new() -> Split {
        Split { user_samples: 0, system_samples: 0, user_ns: 0, system_ns: 0 }
    }

    /// The thread was seen in user mode.
    pub fn count_user(&mut self) {
        self.user_samples += 1;
    }

    /// The thread was seen in the kernel.
    pub fn count_system(&mut self) {
        self.system_samples += 1;
    }

    /// User and system time of a program's thread that ran for `run_ns`. Neither goes back from
    /// call to call, and together they are `run_ns`. What was never seen is user time.
    pub fn divide(&mut self, run_ns: u64) -> (u64, u64) {
        let run_ns = run_ns.max(self.user_ns + self.system_ns);
        let samples = self.user_samples + self.system_samples;
        let user_ns = if samples == 0 {
            run_ns
        } else {
            (u128::from(run_ns) * u128::from(self.user_samples) / u128::from(samples)) as u64
        };
        self.user_ns = user_ns.clamp(self.user_ns, run_ns - self.system_ns);
        self.system_ns = run_ns - self.user_ns;
        (self.user_ns, self.system_ns)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    /// User, system and idle time of programs that run in rounds.
    pub(crate) const LOADS: [(u64, u64, u64); 4] = [
        (MS, 3 * MS, 0),
        // Shorter than a period, and in step with it.
        (MS / 10, MS / 5, 3 * MS + 7 * MS / 10),
        (MS, MS, 98 * MS + 1),
        (700_001, 99_998, 4 * MS + 13),
    ];

    /// The shares of user time are the same to a twentieth.
    pub(crate) fn check_shares(found: (u64, u64), wanted: (u64, u64)) {
        let share = |(user, system): (u64, u64)| user as f64 / (user + system) as f64;
        let distance = (share(found) - share(wanted)).abs();
        assert!(distance < 0.05, "{found:?}, not as {wanted:?}");
    }

    /// Runs a thread in bursts of `user_ns` and `system_ns` with `idle_ns` between them; its time.
    fn simulate(user_ns: u64, system_ns: u64, idle_ns: u64) -> (u64, u64) {
        let (mut sampler, mut split, mut run_ns, mut now_ns) =
            (Sampler::new(), Split::new(), 0, 12_345);
        for _ in 0..20_000 {
            sampler.start(now_ns);
            for (count, part_ns) in
                [(Split::count_user as fn(&mut Split), user_ns), (Split::count_system, system_ns)]
            {
                let end = now_ns + part_ns;
                while let Some(at) = sampler.next_ns().filter(|at| *at < end) {
                    assert!(sampler.take(at));
                    count(&mut split);
                }
                (now_ns, run_ns) = (end, run_ns + part_ns);
            }
            let end = now_ns + idle_ns;
            if sampler.next_ns().is_some_and(|at| at < end) {
                sampler.stop();
            }
            now_ns = end;
        }
        split.divide(run_ns)
    }

    #[test]
    fn time_is_divided_as_it_was_used() {
        for (user, system, idle) in LOADS {
            let (user_ns, system_ns) = simulate(user, system, idle);
            assert_eq!(user_ns + system_ns, 20_000 * (user + system));
            check_shares((user_ns, system_ns), (user, system));
        }
    }

    #[test]
    fn what_was_never_seen_is_user_time() {
        assert_eq!(Split::new().divide(3 * MS), (3 * MS, 0));
    }

    proptest! {
        #[test]
        fn no_time_goes_back(steps in prop::collection::vec((0u64..50, any::<bool>()), 1..200)) {
            let (mut split, mut run_ns) = (Split::new(), 0);
            let mut last = (0, 0);
            for (ran, is_user) in steps {
                run_ns += ran;
                if is_user { split.count_user() } else { split.count_system() }
                let (user_ns, system_ns) = split.divide(run_ns);
                prop_assert_eq!(user_ns + system_ns, run_ns);
                prop_assert!(user_ns >= last.0 && system_ns >= last.1);
                last = (user_ns, system_ns);
            }
        }
    }
}
