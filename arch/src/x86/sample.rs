//! Asking another processor what it does just now, by an NMI, which also reaches one that keeps
//! interrupts off.
//!
//! Who asks says whom in [`STATE`] and waits. The NMI handler, which may have come between
//! anything, takes no lock: it leaves what it saved in atomic words.

use crate::backtrace::{Backtrace, Trace};
use crate::cpu::{AtomicCpuSet, CpuId};
use crate::ipi::Sample;
use crate::trap::TrapFrame;
use crate::x86::apic;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// How long a processor gets to answer.
const PATIENCE_NS: u64 = 500_000_000;

/// Nobody is asked; or the number of who is, plus one; or one of the two below.
static STATE: AtomicU32 = AtomicU32::new(NOBODY);
const NOBODY: u32 = 0;
/// The one who was asked is writing.
const ANSWERING: u32 = u32::MAX;
/// The answer is there.
const ANSWERED: u32 = u32::MAX - 1;

static IS_ASKING: AtomicBool = AtomicBool::new(false);
/// Processors whose NMI comes too late to be of use.
static LATE: AtomicCpuSet = AtomicCpuSet::new();

const REGISTERS: usize = size_of::<TrapFrame>() / size_of::<u64>();
static SAVED: [AtomicU64; REGISTERS] = [const { AtomicU64::new(0) }; REGISTERS];
static ADDRESSES: [AtomicU64; 48] = [const { AtomicU64::new(0) }; 48];
static DEPTH: AtomicUsize = AtomicUsize::new(0);

fn asked(cpu: CpuId) -> u32 {
    cpu.as_u32() + 1
}

/// What another processor does; `None` if it does not answer, or if somebody is asking already. In
/// any context.
pub(crate) fn sample(cpu: CpuId) -> Option<Sample> {
    if !apic::is_ready() || IS_ASKING.swap(true, Ordering::Acquire) {
        return None;
    }
    STATE.store(asked(cpu), Ordering::SeqCst);
    apic::send_nmi(cpu);
    let sample = await_answer(cpu).then(read);
    STATE.store(NOBODY, Ordering::SeqCst);
    IS_ASKING.store(false, Ordering::Release);
    sample
}

fn await_answer(cpu: CpuId) -> bool {
    let end = crate::time::now_ns().saturating_add(PATIENCE_NS);
    let mut has_given_up = false;
    // Acquire: the answer is seen.
    while STATE.load(Ordering::Acquire) != ANSWERED {
        if !has_given_up && crate::time::now_ns() > end {
            LATE.insert(cpu);
            let taken_back =
                STATE.compare_exchange(asked(cpu), NOBODY, Ordering::SeqCst, Ordering::SeqCst);
            if taken_back.is_ok() {
                return false;
            }
            // It has begun to answer, and is not stopped at that by anything.
            LATE.remove(cpu);
            has_given_up = true;
        }
        core::hint::spin_loop();
    }
    true
}

fn read() -> Sample {
    // Relaxed: ordered by the state.
    let saved = SAVED.each_ref().map(|word| word.load(Ordering::Relaxed));
    let depth = DEPTH.load(Ordering::Relaxed);
    let addresses = ADDRESSES.iter().take(depth).map(|word| word.load(Ordering::Relaxed));
    Sample { registers: zerocopy::transmute!(saved), trace: addresses.collect() }
}

/// An NMI came in between what `frame` says; whether it was one of this module.
pub(crate) fn answer(frame: &TrapFrame) -> bool {
    let own = crate::cpu::id();
    let turn = STATE.compare_exchange(asked(own), ANSWERING, Ordering::SeqCst, Ordering::SeqCst);
    if turn.is_err() {
        return LATE.load().contains(own) && {
            LATE.remove(own);
            true
        };
    }
    // Relaxed: ordered by the state.
    let words: [u64; REGISTERS] = zerocopy::transmute!(*frame);
    for (place, word) in SAVED.iter().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
    let trace = Backtrace::interrupted(frame).map(Trace::from).unwrap_or_default();
    for (place, address) in ADDRESSES.iter().zip(trace.addresses()) {
        place.store(*address, Ordering::Relaxed);
    }
    DEPTH.store(trace.addresses().len(), Ordering::Relaxed);
    // Release: pairs with the asker's acquire.
    STATE.store(ANSWERED, Ordering::Release);
    true
}
