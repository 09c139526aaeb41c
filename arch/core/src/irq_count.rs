//! How often each processor was interrupted other than by devices, and how long it served
//! interrupts. A count is one addition to memory of the processor's own.

use crate::cpu::CpuId;
use core::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Counted {
    /// The processor's timer fired.
    Timer,
    /// An interrupt was taken back before it was served.
    Spurious,
    /// Another processor had it look whether another thread is to run.
    Reschedule,
    /// A function was called for another processor.
    Call,
    /// Translations were forgotten for another processor.
    TlbFlush,
    /// The local interrupt controller found an error.
    ControllerError,
    /// An interrupt came that nobody had asked for.
    Stray,
    /// A non-maskable interrupt.
    Nmi,
}

impl Counted {
    const COUNT: usize = Counted::Nmi as usize + 1;
    /// All of them.
    pub const ALL: [Counted; Counted::COUNT] = [
        Counted::Timer,
        Counted::Spurious,
        Counted::Reschedule,
        Counted::Call,
        Counted::TlbFlush,
        Counted::ControllerError,
        Counted::Stray,
        Counted::Nmi,
    ];
}

crate::percpu! {
    static COUNTS: PerCpu<[AtomicU64; Counted::COUNT]> =
        [const { AtomicU64::new(0) }; Counted::COUNT];
    static SPENT: PerCpu<AtomicU64> = AtomicU64::new(0);
}

/// Adds to a count that only this processor changes, with interrupts off: no locked instruction.
#[inline(always)]
pub(crate) fn add(to: &AtomicU64, value: u64) {
    to.store(to.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
}

/// Counts on this processor. Interrupts are off.
#[inline(always)]
pub fn count(what: Counted) {
    add(&COUNTS.this()[what as usize], 1);
}

/// How often that happened on a processor.
pub fn count_on(cpu: CpuId, what: Counted) -> u64 {
    COUNTS.on(cpu)[what as usize].load(Ordering::Relaxed)
}

/// This processor has served an interrupt for so many cycles. Interrupts are off.
#[inline(always)]
pub fn add_cycles(cycles: u64) {
    add(SPENT.this(), cycles);
}

/// The cycles in which a processor served interrupts.
#[inline]
pub fn cycles_on(cpu: CpuId) -> u64 {
    SPENT.on(cpu).load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_is_its_own() {
        for (index, what) in Counted::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, index);
            (0..=index).for_each(|_| count(what));
        }
        let here = crate::cpu::id();
        for (index, what) in Counted::ALL.into_iter().enumerate() {
            assert_eq!(count_on(here, what), index as u64 + 1);
        }
        add_cycles(5);
        add_cycles(7);
        assert_eq!(cycles_on(here), 12);
    }
}
