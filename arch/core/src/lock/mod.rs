//! Spinning locks, and the rule book that keeps them free of deadlock.
//!
//! Every lock names a [`LockClass`] with a rank. A holder of rank *r* takes only locks of a higher
//! rank; lower layers have higher ranks. Builds with debug assertions check that on every
//! acquisition, and also that a [`SpinLock`] is never taken in an interrupt handler or under an
//! [`IrqLock`], and that nothing sleeps under either (see [`check`]).
//!
//! | type | while held | for |
//! | --- | --- | --- |
//! | [`SpinLock`] | preemption off | data no interrupt handler touches |
//! | [`IrqLock`] | interrupts off | everything else |
//! | [`RwSpinLock`] | preemption off | read mostly, longer than a few loads |
//! | [`SeqLock`] | writers: interrupts off; readers: nothing | small `Copy` data |

pub mod check;
mod rw;
mod seq;
mod spin_lock;

pub use ::spin::{Lazy, Once};
pub use check::LockClass;
pub use rw::{RwSpinLock, RwSpinReadGuard, RwSpinWriteGuard};
pub use seq::SeqLock;
pub use spin_lock::{IrqLock, IrqLockGuard, SpinLock, SpinLockGuard};

/// One turn of a waiting loop. A waiter on the host gives its processor away now and then.
#[inline(always)]
pub(crate) fn wait_turn(_turn: &mut u32) {
    core::hint::spin_loop();
    #[cfg(not(target_os = "none"))]
    {
        *_turn += 1;
        if _turn.is_multiple_of(64) {
            std::thread::yield_now();
        }
    }
}
