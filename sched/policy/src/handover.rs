//! Whether a woken thread should run after its waker instead of beside it.
//!
//! Two that talk by turns (a byte through a pipe and one back) run nothing at the same time: put on two processors,
//! each turn costs an interrupt and the end of an idle wait there, which takes far longer than the turn itself. Two
//! that overlap want two processors. What they are is told by their past: a thread that slept soon after it had
//! woken another one will do so again. Soon is what an idle processor needs from the interrupt to the first
//! instruction of the woken thread, and that is measured, since it is a microsecond or three on bare metal, ten times
//! that under a hypervisor, and more in emulation.

use core::sync::atomic::{AtomicU64, Ordering};

/// Longer times count as this one.
const LONGEST_NS: u64 = 200_000;
/// An idle processor that takes longer than this is held up by something else (a hypervisor that runs others).
const DEAREST_NS: u64 = 100_000;

/// One wake-up in so many shows what a thread does that is preempted at the others.
const TRIAL: u64 = 32;

/// How soon a thread sleeps after it has woken another one. Only the thread itself writes it.
pub struct Handover {
    /// The first wake-up since it slept last; 0: none.
    woke_ns: AtomicU64,
    /// The running mean of the times from there to the sleep.
    gap_ns: AtomicU64,
    /// How often it has stopped after a wake-up.
    stops: AtomicU64,
}

impl Default for Handover {
    fn default() -> Self {
        Self::new()
    }
}

// Relaxed everywhere: a thread reads what it wrote itself.
impl Handover {
    /// A thread of which nothing is known stays awake.
    pub const fn new() -> Handover {
        Handover {
            woke_ns: AtomicU64::new(0),
            gap_ns: AtomicU64::new(LONGEST_NS),
            stops: AtomicU64::new(0),
        }
    }

    /// The thread woke another one.
    #[inline]
    pub fn wakes(&self, now_ns: u64) {
        if self.woke_ns.load(Ordering::Relaxed) == 0 {
            self.woke_ns.store(now_ns, Ordering::Relaxed);
        }
    }

    /// The thread goes to sleep, or loses its processor: it would have stayed awake for longer then, of which only
    /// what exceeds the mean says something.
    #[inline]
    pub fn stops(&self, now_ns: u64, sleeps: bool) {
        let woke = self.woke_ns.load(Ordering::Relaxed);
        if woke == 0 {
            return;
        }
        self.woke_ns.store(0, Ordering::Relaxed);
        self.stops.store(self.stops.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let gap = self.gap_ns.load(Ordering::Relaxed);
        let sample = now_ns.saturating_sub(woke).min(LONGEST_NS);
        if sleeps || sample > gap {
            self.gap_ns.store(gap - gap / 4 + sample / 4, Ordering::Relaxed);
        }
    }

    /// Whether it is expected to sleep before an idle processor has begun to run what it wakes now: the first since
    /// its last sleep. Who wakes many has more to do than to hand over.
    #[inline]
    pub fn is_expected(&self, cost: &WakeCost) -> bool {
        self.gap_ns.load(Ordering::Relaxed) < cost.ns() && self.woke_ns.load(Ordering::Relaxed) == 0
    }

    /// Whether it has slept within so long after its wake-ups: to switch to the woken one at once spares it the sleep
    /// then. Who never gets so far is let go on now and then, to see whether that is still so.
    #[inline]
    pub fn sleeps_within(&self, soon_ns: u64) -> bool {
        self.gap_ns.load(Ordering::Relaxed) < soon_ns
            && !self.stops.load(Ordering::Relaxed).is_multiple_of(TRIAL)
    }
}

/// How long an idle processor takes from being told to running a woken thread.
pub struct WakeCost(AtomicU64);

impl Default for WakeCost {
    fn default() -> Self {
        Self::new()
    }
}

impl WakeCost {
    /// Nothing is known: nobody hands over.
    pub const fn new() -> WakeCost {
        WakeCost(AtomicU64::new(0))
    }

    /// The running mean.
    #[inline]
    pub fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// An idle processor took so long. What changes the mean little is not written, so that the line stays in
    /// everybody's cache: it is a quarter off at most. Processors that note at the same time lose a sample.
    pub fn note(&self, sample_ns: u64) {
        let mean = self.ns();
        let next = match mean {
            0 => sample_ns.clamp(1, DEAREST_NS),
            _ => mean - mean / 8 + sample_ns.clamp(8, DEAREST_NS) / 8,
        };
        if next.abs_diff(mean) > mean / 32 {
            self.0.store(next, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(thread: &Handover, now: &mut u64, awake_ns: u64) {
        thread.wakes(*now);
        *now += awake_ns;
        thread.stops(*now, true);
        *now += 10_000;
    }

    #[test]
    fn who_sleeps_soon_hands_over_and_who_works_on_does_not() {
        let cost = WakeCost::new();
        let thread = Handover::new();
        let mut now = 1;
        for _ in 0..32 {
            turn(&thread, &mut now, 1_000);
        }
        assert!(!thread.is_expected(&cost), "no idle processor was measured yet");
        cost.note(5_000);
        assert!(thread.is_expected(&cost));
        // One long turn is enough to stop it.
        turn(&thread, &mut now, 30_000);
        assert!(!thread.is_expected(&cost));
        for _ in 0..8 {
            turn(&thread, &mut now, 1_000);
        }
        assert!(thread.is_expected(&cost));
        for _ in 0..32 {
            turn(&thread, &mut now, 6_000);
        }
        assert!(!thread.is_expected(&cost));
    }

    #[test]
    fn only_the_first_of_several_is_handed_over() {
        let cost = WakeCost::new();
        cost.note(5_000);
        let thread = Handover::new();
        let mut now = 1;
        for _ in 0..32 {
            turn(&thread, &mut now, 1_000);
        }
        thread.wakes(now);
        assert!(!thread.is_expected(&cost));
        // The time to the sleep counts from the first.
        thread.wakes(now + 20_000);
        thread.stops(now + 21_000, true);
        assert!(!thread.is_expected(&cost));
    }

    #[test]
    fn a_lost_processor_says_only_that_it_was_longer() {
        let thread = Handover::new();
        let mut now = 1;
        for _ in 0..32 {
            turn(&thread, &mut now, 1_000);
        }
        let gap = || thread.gap_ns.load(Ordering::Relaxed);
        let before = gap();
        thread.wakes(now);
        thread.stops(now + 500, false);
        assert_eq!(gap(), before);
        thread.wakes(now);
        thread.stops(now + 100_000, false);
        assert!(gap() > 20_000);
    }

    #[test]
    fn who_sleeps_soon_is_known_and_tried_again() {
        let thread = Handover::new();
        let mut now = 1;
        assert!(!thread.sleeps_within(25_000), "nothing is known of it");
        for _ in 0..33 {
            turn(&thread, &mut now, 1_000);
        }
        assert!(thread.sleeps_within(25_000));
        // It is preempted at each wake-up from now on: one in 32 is a trial.
        let mut trials = 0;
        for _ in 0..64 {
            if thread.sleeps_within(25_000) {
                thread.wakes(now);
                thread.stops(now + 100, false);
            } else {
                trials += 1;
                turn(&thread, &mut now, 150_000);
            }
        }
        assert_eq!(trials, 64 - 31, "the first trial showed that it works on now");
    }

    #[test]
    fn the_cost_follows_the_machine() {
        let cost = WakeCost::new();
        cost.note(0);
        assert!(cost.ns() > 0);
        for _ in 0..200 {
            cost.note(40_000);
        }
        assert!((30_000..=41_000).contains(&cost.ns()), "{}", cost.ns());
        for _ in 0..200 {
            cost.note(2_000);
        }
        assert!((1_500..=2_700).contains(&cost.ns()), "{}", cost.ns());
        for _ in 0..200 {
            cost.note(u64::MAX);
        }
        assert!(cost.ns() <= DEAREST_NS);
    }
}
