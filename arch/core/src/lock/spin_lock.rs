//! Spin locks: one locked instruction to take, a plain store to release.

use super::check::LockClass;
#[cfg(debug_assertions)]
use super::check::{self, Kind};
use crate::irq::{self, IrqGuard};
use crate::preempt::{self, PreemptGuard};
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// The lock word: 0 is free.
///
/// First come is not first served: under a hypervisor that runs fewer processors than it shows, a
/// queue would hand the lock to a processor that is not running. Waiters look with plain loads and
/// step back longer and longer, so the holder's cache line stays the holder's.
struct Word {
    word: AtomicU32,
}

const BACKOFF_LIMIT: u32 = 64;

impl Word {
    const fn new() -> Word {
        Word { word: AtomicU32::new(0) }
    }

    #[inline(always)]
    fn lock(&self) {
        // Acquire: pairs with the release store in `unlock`.
        if self.word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) {
        let mut turn = 0;
        let mut backoff = 1;
        loop {
            while self.word.load(Ordering::Relaxed) != 0 {
                for _ in 0..backoff {
                    super::wait_turn(&mut turn);
                }
                backoff = (backoff * 2).min(BACKOFF_LIMIT);
            }
            if self.try_lock() {
                return;
            }
        }
    }

    #[inline(always)]
    fn try_lock(&self) -> bool {
        // Acquire: pairs with the release store in `unlock`.
        !self.is_locked()
            && self.word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline(always)]
    fn unlock(&self) {
        // Release: pairs with the acquires above.
        self.word.store(0, Ordering::Release);
    }

    fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }
}

macro_rules! spinning_lock {
    ($(#[$doc:meta])* $lock:ident, $(#[$guard_doc:meta])* $guard:ident, $kind:expr, $saved:ty, $save:expr) => {
        $(#[$doc])*
        pub struct $lock<T: ?Sized> {
            #[cfg(debug_assertions)]
            class: &'static LockClass,
            word: Word,
            value: UnsafeCell<T>,
        }

        // SAFETY: the lock hands the value to one thread at a time.
        unsafe impl<T: ?Sized + Send> Sync for $lock<T> {}
        // SAFETY: as for the value it owns.
        unsafe impl<T: ?Sized + Send> Send for $lock<T> {}

        $(#[$guard_doc])*
        #[must_use = "the lock is released when the guard is dropped"]
        pub struct $guard<'a, T: ?Sized> {
            lock: &'a $lock<T>,
            // Dropped after `Drop::drop` has released the lock.
            #[expect(dead_code, reason = "held for its drop")]
            saved: $saved,
        }

        // SAFETY: sharing a guard shares the value.
        unsafe impl<T: ?Sized + Sync> Sync for $guard<'_, T> {}

        impl<T> $lock<T> {
            /// A free lock of the class around the value.
            #[cfg_attr(not(debug_assertions), expect(unused_variables, reason = "checked builds only"))]
            pub const fn new(class: &'static LockClass, value: T) -> Self {
                $lock {
                    #[cfg(debug_assertions)]
                    class,
                    word: Word::new(),
                    value: UnsafeCell::new(value),
                }
            }
            /// The value, the lock gone.
            pub fn into_inner(self) -> T {
                self.value.into_inner()
            }
        }

        impl<T: ?Sized> $lock<T> {
            /// Waits for the lock.
            #[inline(always)]
            #[cfg_attr(debug_assertions, track_caller)]
            pub fn lock(&self) -> $guard<'_, T> {
                let saved = $save;
                #[cfg(debug_assertions)]
                check::spin_acquire(self.class, $kind, false);
                self.word.lock();
                $guard { lock: self, saved }
            }
            /// Waits for the lock while another of the same rank is held; the caller has its own
            /// rule (by address, parent first) that keeps the order.
            #[inline(always)]
            #[cfg_attr(debug_assertions, track_caller)]
            pub fn lock_nested(&self) -> $guard<'_, T> {
                let saved = $save;
                #[cfg(debug_assertions)]
                check::spin_acquire(self.class, $kind, true);
                self.word.lock();
                $guard { lock: self, saved }
            }
            /// Takes the lock if it is free.
            #[inline]
            pub fn try_lock(&self) -> Option<$guard<'_, T>> {
                let saved = $save;
                if !self.word.try_lock() {
                    return None;
                }
                #[cfg(debug_assertions)]
                check::spin_acquired_try(self.class, $kind);
                Some($guard { lock: self, saved })
            }
            /// Whether somebody holds it; stale at once.
            pub fn is_locked(&self) -> bool {
                self.word.is_locked()
            }
            /// The value through an exclusive reference: no locking needed.
            pub fn get_mut(&mut self) -> &mut T {
                self.value.get_mut()
            }
            /// Where the value is, for code that proves otherwise that it may look.
            pub const fn as_ptr(&self) -> *mut T {
                self.value.get()
            }
            /// Releases a lock whose guard was forgotten: the scheduler's hand-over across a
            /// switch. Interrupts and preemption stay as they are.
            ///
            /// # Safety
            /// This processor holds the lock and no guard of it will be dropped.
            pub unsafe fn force_unlock(&self) {
                #[cfg(debug_assertions)]
                check::spin_release(self.class);
                self.word.unlock();
            }
        }

        impl<T: ?Sized> Deref for $guard<'_, T> {
            type Target = T;
            #[inline(always)]
            fn deref(&self) -> &T {
                // SAFETY: the guard holds the lock.
                unsafe { &*self.lock.value.get() }
            }
        }

        impl<T: ?Sized> DerefMut for $guard<'_, T> {
            #[inline(always)]
            fn deref_mut(&mut self) -> &mut T {
                // SAFETY: the guard holds the lock, and it is borrowed exclusively.
                unsafe { &mut *self.lock.value.get() }
            }
        }

        impl<T: ?Sized> Drop for $guard<'_, T> {
            #[inline(always)]
            fn drop(&mut self) {
                #[cfg(debug_assertions)]
                check::spin_release(self.lock.class);
                self.lock.word.unlock();
            }
        }

        impl<T: ?Sized + fmt::Debug> fmt::Debug for $lock<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.try_lock() {
                    Some(value) => f.debug_tuple(stringify!($lock)).field(&&*value).finish(),
                    None => f.write_str(concat!(stringify!($lock), "(<locked>)")),
                }
            }
        }
    };
}

spinning_lock! {
    /// A lock that spins with preemption off. Never taken by interrupt handlers.
    SpinLock,
    /// Holds a [`SpinLock`].
    SpinLockGuard, Kind::Spin, PreemptGuard, preempt::disable()
}

/// What an [`IrqLock`]'s guard restores: interrupts first, then preemption, which may switch.
struct IrqSaved {
    #[expect(dead_code, reason = "held for its drop")]
    irq: IrqGuard,
    #[expect(dead_code, reason = "held for its drop")]
    preempt: PreemptGuard,
}

impl IrqSaved {
    #[inline(always)]
    fn new() -> IrqSaved {
        let irq = irq::disable();
        IrqSaved { irq, preempt: preempt::disable() }
    }
}

spinning_lock! {
    /// A lock that spins with interrupts off, for data that interrupt handlers touch too.
    IrqLock,
    /// Holds an [`IrqLock`].
    IrqLockGuard, Kind::Irq, IrqSaved, IrqSaved::new()
}
