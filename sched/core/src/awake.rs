//! Waiting awake for a lock whose holder runs.
//!
//! Most holders copy a few bytes or change a few words, and give the lock back much sooner than its next
//! holder could go to sleep and be woken. So who finds it held waits for as long as that would take, but not
//! for a holder that sleeps or was preempted, nor when its own processor is wanted.

use crate::run::{Turn, patience_ns};
use core::sync::atomic::{AtomicU64, Ordering};

/// What a look at the lock brought.
pub(crate) enum Look {
    /// It is the caller's now.
    Taken,
    /// Somebody has it, whom the holder's word tells.
    Held,
    /// It is to be slept for.
    Hopeless,
}

/// The [`Turn`] of the last who took a lock: a sign only.
pub(crate) struct Holder(AtomicU64);

impl Holder {
    pub(crate) const fn new() -> Holder {
        Holder(AtomicU64::new(0))
    }

    /// The running thread has taken the lock.
    #[inline(always)]
    pub(crate) fn note(&self) {
        // Relaxed: nothing depends on it but how long somebody waits.
        self.0.store(Turn::current().raw(), Ordering::Relaxed);
    }

    /// Looks again and again while the holder runs; whether the lock was taken.
    pub(crate) fn await_while_it_runs(&self, mut look: impl FnMut() -> Look) -> bool {
        let mut end = None;
        while Turn::from_raw(self.0.load(Ordering::Relaxed)).goes_on()
            && !arch::preempt::need_resched()
        {
            let now = arch::time::now_ns();
            if now >= *end.get_or_insert_with(|| now.saturating_add(patience_ns())) {
                return false;
            }
            arch::cpu::relax();
            match look() {
                Look::Taken => return true,
                Look::Held => {}
                Look::Hopeless => return false,
            }
        }
        false
    }
}
