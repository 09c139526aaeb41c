//! Switching preemption off and on.
//!
//! One word per processor counts why the running thread must not be switched away: bits 0..15
//! [`PreemptGuard`]s, bits 16..23 interrupt handlers, bit 31 is *clear* while a reschedule is
//! wanted. So the last guard's `dec; jz` finds both conditions at once.

#[cfg(not(target_os = "none"))]
use crate::host::cpu as imp;
#[cfg(target_os = "none")]
use crate::x86::local as imp;

use core::marker::PhantomData;
use core::sync::atomic::{AtomicPtr, Ordering};

/// One interrupt handler in the count.
pub const HARDIRQ_UNIT: u32 = 1 << 16;
/// Set while no reschedule is wanted.
pub const NO_RESCHED: u32 = 1 << 31;
const DEPTH_MASK: u32 = NO_RESCHED - 1;

static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// While it lives the thread stays on its processor and is not preempted.
#[must_use = "preemption is back on when the guard is dropped"]
pub struct PreemptGuard {
    not_send: PhantomData<*mut ()>,
}

/// Switches preemption off.
#[inline(always)]
pub fn disable() -> PreemptGuard {
    imp::preempt_inc();
    PreemptGuard { not_send: PhantomData }
}

impl Drop for PreemptGuard {
    #[inline(always)]
    fn drop(&mut self) {
        if imp::preempt_dec_is_zero() {
            reschedule();
        }
    }
}

/// Counts one more reason without a guard; pairs with [`release`]. For lock hand-over.
#[inline(always)]
pub fn acquire() {
    imp::preempt_inc();
}

/// Counts one reason less and reschedules when it was the last and a reschedule is wanted.
#[inline(always)]
pub fn release() {
    if imp::preempt_dec_is_zero() {
        reschedule();
    }
}

/// Counts one reason less without looking at whether a reschedule is wanted.
#[inline(always)]
pub fn release_no_resched() {
    imp::preempt_dec_is_zero();
}

/// The number of reasons, interrupt handlers included; 0 means preemptible.
#[inline(always)]
pub fn count() -> u32 {
    imp::preempt_raw() & DEPTH_MASK
}

/// Whether the thread may be preempted and may sleep.
pub fn is_enabled() -> bool {
    count() == 0 && crate::irq::are_enabled()
}

/// Whether an interrupt handler runs.
#[inline(always)]
pub fn in_hardirq() -> bool {
    imp::preempt_raw() & DEPTH_MASK >= HARDIRQ_UNIT
}

/// Whether a reschedule is wanted on this processor.
#[inline(always)]
pub fn need_resched() -> bool {
    imp::preempt_raw() & NO_RESCHED == 0
}

/// Whether nothing stands against a wanted reschedule.
#[inline(always)]
pub fn raw_is_zero() -> bool {
    imp::preempt_raw() == 0
}

/// Wants a reschedule on this processor as soon as preemption is on: sets the current thread's
/// flag and the bit in the preemption word.
pub fn set_need_resched() {
    if let Some(thread) = crate::thread::try_current() {
        thread.set_flag(crate::thread::flags::NEED_RESCHED);
    }
    imp::preempt_and(!NO_RESCHED);
}

/// Takes the wish back: the scheduler does so when it picks the next thread, before the switch.
pub fn clear_need_resched() {
    if let Some(thread) = crate::thread::try_current() {
        thread.clear_flag(crate::thread::flags::NEED_RESCHED);
    }
    imp::preempt_or(NO_RESCHED);
}

/// Copies the current thread's flag, which another processor set, into the preemption word.
pub fn fold_need_resched() {
    if crate::thread::try_current()
        .is_some_and(|thread| thread.has_flag(crate::thread::flags::NEED_RESCHED))
    {
        imp::preempt_and(!NO_RESCHED);
    }
}

/// Registers the function that switches to another thread. It is called with preemption on; with
/// interrupts on, or off at the end of an interrupt of the kernel, and returns with them the same.
pub fn set_reschedule_hook(hook: fn()) {
    HOOK.store(hook as *mut (), Ordering::Release);
}

/// Calls the registered hook if interrupts are on.
#[cold]
#[inline(never)]
pub fn reschedule() {
    if !crate::irq::are_enabled() {
        return;
    }
    call_hook();
}

/// Calls the registered hook.
pub fn call_hook() {
    let hook = HOOK.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: only `set_reschedule_hook` stores here, and it stores a `fn()`.
        let hook: fn() = unsafe { core::mem::transmute(hook) };
        hook();
    }
}

/// Enters an interrupt handler: preemption is off until [`irq_exit`].
#[inline(always)]
pub fn irq_enter() {
    imp::preempt_add(HARDIRQ_UNIT);
}

/// Leaves an interrupt handler; does not reschedule, the trap exit does.
#[inline(always)]
pub fn irq_exit() {
    imp::preempt_add(HARDIRQ_UNIT.wrapping_neg());
}
