//! A simulated processor is a host thread: its number, its preemption word, its interrupt flag.

use crate::preempt::NO_RESCHED;
use crate::thread::ArchThread;
use std::cell::Cell;

std::thread_local! {
    static NUMBER: Cell<u32> = const { Cell::new(0) };
    static PREEMPT: Cell<u32> = const { Cell::new(NO_RESCHED) };
    static IRQ_ON: Cell<bool> = const { Cell::new(true) };
    static CURRENT: Cell<*const ArchThread> = const { Cell::new(std::ptr::null()) };
}

/// Makes the calling host thread run on the processor; marks it as running and possible.
pub fn set_cpu(cpu: crate::cpu::CpuId) {
    NUMBER.set(cpu.as_u32());
    if crate::cpu::possible_count() <= cpu.index() {
        crate::cpu::set_possible(cpu.index() + 1);
    }
    crate::cpu::set_online(cpu);
}

/// The number of the processor.
pub fn number() -> u32 {
    NUMBER.get()
}

pub(crate) fn preempt_raw() -> u32 {
    PREEMPT.get()
}
pub(crate) fn preempt_inc() {
    PREEMPT.set(PREEMPT.get().wrapping_add(1));
}
pub(crate) fn preempt_dec_is_zero() -> bool {
    let word = PREEMPT.get().wrapping_sub(1);
    PREEMPT.set(word);
    word == 0
}
pub(crate) fn preempt_add(units: u32) {
    PREEMPT.set(PREEMPT.get().wrapping_add(units));
}
pub(crate) fn preempt_and(mask: u32) {
    PREEMPT.set(PREEMPT.get() & mask);
}
pub(crate) fn preempt_or(mask: u32) {
    PREEMPT.set(PREEMPT.get() | mask);
}

pub(crate) fn irq_save_disable() -> bool {
    IRQ_ON.replace(false)
}
pub(crate) fn irq_enable() {
    IRQ_ON.set(true);
}
pub(crate) fn irq_are_enabled() -> bool {
    IRQ_ON.get()
}
pub(crate) fn irq_enable_and_halt() {
    IRQ_ON.set(true);
    std::thread::yield_now();
}

pub(crate) fn current() -> *const ArchThread {
    CURRENT.get()
}
pub(crate) fn set_current(thread: *const ArchThread) {
    CURRENT.set(thread);
}

macro_rules! base {
    ($read:ident, $write:ident, $field:ident) => {
        pub(crate) fn $read(thread: &ArchThread) -> u64 {
            // SAFETY: the host never switches; only the thread's own test looks.
            unsafe { (*thread.context()).$field }
        }
        pub(crate) fn $write(thread: &ArchThread, base: u64) {
            // SAFETY: as above.
            unsafe { (*thread.context()).$field = base }
        }
    };
}
base!(read_fs_base, write_fs_base, fs_base);
base!(read_gs_base, write_gs_base, gs_base);

/// Runs `f` as an interrupt handler runs.
pub fn in_interrupt<R>(f: impl FnOnce() -> R) -> R {
    let _irq = crate::irq::disable();
    crate::preempt::irq_enter();
    let result = f();
    crate::preempt::irq_exit();
    result
}
