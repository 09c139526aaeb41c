//! Where the time of one processor went, for `/proc/stat`.
//!
//! Which thread had the processor, and how long interrupts were served, is measured; together it is
//! all the time there was. A program's time is split by samples as that of its thread is (see
//! [`Split`](crate::Split)): what passed between two samples counts half as the one and half as the
//! other found the processor. So nothing ever goes back, a program that stays in one mode is told
//! exactly, and no sample counts more for coming late in a burst of work.

/// Who has a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Nobody.
    Idle,
    /// Nobody, and a thread that went to sleep here waits for a device.
    IdleForIo,
    /// A thread of the kernel.
    Kernel,
    /// A program's thread.
    Program,
}

/// In what a sample found a program's thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// User mode.
    User,
    /// User mode, and its nice value is above zero.
    Nice,
    /// The kernel.
    System,
}

/// The time of a processor since boot, in nanoseconds, by use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProcessorTimes {
    /// Programs in user mode.
    pub user_ns: u64,
    /// Programs in user mode whose nice value is above zero.
    pub nice_ns: u64,
    /// The kernel, for programs and in threads of its own.
    pub system_ns: u64,
    /// Nothing to do.
    pub idle_ns: u64,
    /// Nothing to do before a device answers.
    pub iowait_ns: u64,
    /// Interrupts.
    pub irq_ns: u64,
}

impl core::ops::Add for ProcessorTimes {
    type Output = ProcessorTimes;

    fn add(self, other: ProcessorTimes) -> ProcessorTimes {
        ProcessorTimes {
            user_ns: self.user_ns + other.user_ns,
            nice_ns: self.nice_ns + other.nice_ns,
            system_ns: self.system_ns + other.system_ns,
            idle_ns: self.idle_ns + other.idle_ns,
            iowait_ns: self.iowait_ns + other.iowait_ns,
            irq_ns: self.irq_ns + other.irq_ns,
        }
    }
}

/// What is known of the time of one processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger {
    /// Up to here all time is accounted for.
    since_ns: u64,
    /// So much of the time in interrupts is.
    irq_seen_ns: u64,
    /// Time of programs that no sample has told the mode of yet.
    unsplit_ns: u64,
    /// What the last sample found.
    last: Option<Found>,
    times: ProcessorTimes,
}

impl Ledger {
    /// Of a processor at boot.
    pub const fn new() -> Ledger {
        Ledger {
            since_ns: 0,
            irq_seen_ns: 0,
            unsplit_ns: 0,
            last: None,
            times: ProcessorTimes {
                user_ns: 0,
                nice_ns: 0,
                system_ns: 0,
                idle_ns: 0,
                iowait_ns: 0,
                irq_ns: 0,
            },
        }
    }

    /// Accounts for the time until now, during which `holder` had the processor. `irq_ns` is how
    /// long it has served interrupts since boot.
    #[inline]
    pub fn advance(&mut self, now_ns: u64, irq_ns: u64, holder: Holder) {
        let passed = now_ns.saturating_sub(self.since_ns);
        self.since_ns += passed;
        // An interrupt that is not over yet counts when it is, perhaps after the time it took has
        // been given away: then it is taken from what comes next.
        let irq = irq_ns.saturating_sub(self.irq_seen_ns).min(passed);
        self.irq_seen_ns += irq;
        self.times.irq_ns += irq;
        let rest = passed - irq;
        match holder {
            Holder::Idle => self.times.idle_ns += rest,
            Holder::IdleForIo => self.times.iowait_ns += rest,
            Holder::Kernel => self.times.system_ns += rest,
            Holder::Program => self.unsplit_ns += rest,
        }
    }

    /// A sample found the program that has the processor so; [`advance`](Self::advance) first.
    pub fn sample(&mut self, found: Found) {
        let whole = core::mem::take(&mut self.unsplit_ns);
        let before = self.last.replace(found).unwrap_or(found);
        *self.column(before) += whole / 2;
        *self.column(found) += whole - whole / 2;
    }

    fn column(&mut self, found: Found) -> &mut u64 {
        match found {
            Found::User => &mut self.times.user_ns,
            Found::Nice => &mut self.times.nice_ns,
            Found::System => &mut self.times.system_ns,
        }
    }

    /// What is accounted for and split: all time until the last [`advance`](Self::advance) but, at
    /// most, some milliseconds of programs.
    pub fn times(&self) -> ProcessorTimes {
        self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::tests::{LOADS, check_shares};
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn sum(times: ProcessorTimes) -> u64 {
        times.user_ns
            + times.nice_ns
            + times.system_ns
            + times.idle_ns
            + times.iowait_ns
            + times.irq_ns
    }

    #[test]
    fn each_holder_has_its_column() {
        let mut ledger = Ledger::new();
        ledger.advance(10, 0, Holder::Idle);
        ledger.advance(30, 0, Holder::IdleForIo);
        ledger.advance(60, 0, Holder::Kernel);
        ledger.advance(100, 0, Holder::Program);
        ledger.sample(Found::User);
        ledger.advance(150, 0, Holder::Program);
        ledger.sample(Found::Nice);
        ledger.advance(210, 0, Holder::Program);
        ledger.sample(Found::System);
        let expected = ProcessorTimes {
            user_ns: 40 + 25,
            nice_ns: 25 + 30,
            system_ns: 30 + 30,
            idle_ns: 10,
            iowait_ns: 20,
            irq_ns: 0,
        };
        assert_eq!(ledger.times(), expected);
    }

    #[test]
    fn interrupts_are_taken_from_whoever_they_interrupted() {
        let mut ledger = Ledger::new();
        ledger.advance(100, 30, Holder::Idle);
        assert_eq!((ledger.times().idle_ns, ledger.times().irq_ns), (70, 30));
        // Known only after the time of a part of it was given away.
        ledger.advance(110, 45, Holder::Idle);
        ledger.advance(120, 45, Holder::Idle);
        assert_eq!((ledger.times().idle_ns, ledger.times().irq_ns), (75, 45));
        // The scale of the clock was corrected, or processors disagree by a little.
        ledger.advance(115, 40, Holder::Kernel);
        ledger.advance(130, 40, Holder::Kernel);
        assert_eq!((ledger.times().system_ns, ledger.times().irq_ns), (10, 45));
    }

    #[test]
    fn a_program_that_only_computes_has_user_time_only() {
        let (mut ledger, mut sampler) = (Ledger::new(), crate::Sampler::new());
        ledger.advance(5 * MS, 0, Holder::Idle);
        sampler.start(5 * MS);
        let end = 1005 * MS;
        while let Some(at) = sampler.next_ns().filter(|at| *at <= end) {
            assert!(sampler.take(at));
            ledger.advance(at, 0, Holder::Program);
            ledger.sample(Found::User);
        }
        ledger.advance(end, 0, Holder::Program);
        let times = ledger.times();
        assert_eq!((times.nice_ns, times.system_ns, times.idle_ns), (0, 0, 5 * MS));
        assert!(times.user_ns > 990 * MS && times.user_ns <= 1000 * MS, "{times:?}");
    }

    /// Runs a program in rounds of user time, system time and sleep; its user and system time.
    fn simulate(user_ns: u64, system_ns: u64, idle_ns: u64) -> (u64, u64) {
        let (mut ledger, mut sampler, mut now_ns) = (Ledger::new(), crate::Sampler::new(), 12_345);
        for _ in 0..20_000 {
            ledger.advance(now_ns, 0, Holder::Idle);
            sampler.start(now_ns);
            for (found, part_ns) in [(Found::User, user_ns), (Found::System, system_ns)] {
                let end = now_ns + part_ns;
                while let Some(at) = sampler.next_ns().filter(|at| *at < end) {
                    assert!(sampler.take(at));
                    ledger.advance(at, 0, Holder::Program);
                    ledger.sample(found);
                }
                ledger.advance(end, 0, Holder::Program);
                now_ns = end;
            }
            now_ns += idle_ns;
            if sampler.next_ns().is_some_and(|at| at < now_ns) {
                sampler.stop();
            }
        }
        (ledger.times().user_ns, ledger.times().system_ns)
    }

    #[test]
    fn programs_are_split_as_they_used_the_time() {
        for (user, system, idle) in LOADS {
            let (user_ns, system_ns) = simulate(user, system, idle);
            let whole = 20_000 * (user + system);
            assert!(user_ns + system_ns <= whole && user_ns + system_ns > whole / 100 * 98);
            check_shares((user_ns, system_ns), (user, system));
        }
    }

    proptest! {
        #[test]
        fn nothing_goes_back_and_all_time_is_there(
            steps in prop::collection::vec((0u64..50, 0u64..20, 0u8..4, 0u8..4), 1..200),
        ) {
            let (mut ledger, mut now, mut irq) = (Ledger::new(), 0, 0);
            let mut last = ledger.times();
            for (passed, irq_part, holder, sample) in steps {
                now += passed;
                irq += irq_part.min(passed);
                let holder = match holder {
                    0 => Holder::Idle,
                    1 => Holder::IdleForIo,
                    2 => Holder::Kernel,
                    _ => Holder::Program,
                };
                ledger.advance(now, irq, holder);
                if holder == Holder::Program && sample > 0 {
                    ledger.sample([Found::User, Found::Nice, Found::System][sample as usize - 1]);
                }
                let times = ledger.times();
                prop_assert_eq!(sum(times) + ledger.unsplit_ns, now);
                prop_assert_eq!(times.irq_ns, irq);
                prop_assert!(times.user_ns >= last.user_ns && times.nice_ns >= last.nice_ns);
                prop_assert!(times.system_ns >= last.system_ns && times.idle_ns >= last.idle_ns);
                prop_assert!(times.iowait_ns >= last.iowait_ns);
                last = times;
            }
        }
    }
}
