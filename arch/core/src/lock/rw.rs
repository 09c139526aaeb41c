//! A reader-writer spin lock; a waiting writer keeps new readers out.

use super::check::LockClass;
#[cfg(debug_assertions)]
use super::check::{self, Kind};
use crate::preempt::{self, PreemptGuard};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

const WRITER: u32 = 1 << 31;
const WAITING: u32 = 1 << 30;

/// Many readers or one writer, spinning with preemption off.
pub struct RwSpinLock<T: ?Sized> {
    #[cfg(debug_assertions)]
    class: &'static LockClass,
    /// Readers in the low bits, `WRITER` when one writes, `WAITING` when one wants to.
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: readers on several threads share `&T`, a writer moves between threads.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwSpinLock<T> {}
// SAFETY: as for the value it owns.
unsafe impl<T: ?Sized + Send> Send for RwSpinLock<T> {}

/// Holds a [`RwSpinLock`] for reading.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwSpinReadGuard<'a, T: ?Sized> {
    lock: &'a RwSpinLock<T>,
    _preempt: PreemptGuard,
}

/// Holds a [`RwSpinLock`] for writing.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwSpinWriteGuard<'a, T: ?Sized> {
    lock: &'a RwSpinLock<T>,
    _preempt: PreemptGuard,
}

impl<T> RwSpinLock<T> {
    /// A free lock of the class around the value.
    #[cfg_attr(not(debug_assertions), expect(unused_variables, reason = "checked builds only"))]
    pub const fn new(class: &'static LockClass, value: T) -> Self {
        RwSpinLock {
            #[cfg(debug_assertions)]
            class,
            state: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }
    /// The value, the lock gone.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwSpinLock<T> {
    /// Waits until nobody writes.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn read(&self) -> RwSpinReadGuard<'_, T> {
        let preempt = preempt::disable();
        #[cfg(debug_assertions)]
        check::spin_acquire(self.class, Kind::Spin, false);
        let mut turn = 0;
        loop {
            let seen = self.state.load(Ordering::Relaxed);
            // Acquire: pairs with the writer's release.
            if seen & (WRITER | WAITING) == 0
                && self
                    .state
                    .compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return RwSpinReadGuard { lock: self, _preempt: preempt };
            }
            super::wait_turn(&mut turn);
        }
    }

    /// Waits until nobody reads or writes.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn write(&self) -> RwSpinWriteGuard<'_, T> {
        let preempt = preempt::disable();
        #[cfg(debug_assertions)]
        check::spin_acquire(self.class, Kind::Spin, false);
        let mut turn = 0;
        loop {
            let seen = self.state.load(Ordering::Relaxed);
            // Acquire: pairs with the releases of readers and writers.
            if seen & !WAITING == 0 {
                if self
                    .state
                    .compare_exchange_weak(seen, WRITER, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    return RwSpinWriteGuard { lock: self, _preempt: preempt };
                }
            } else if seen & WAITING == 0 {
                self.state.fetch_or(WAITING, Ordering::Relaxed);
            }
            super::wait_turn(&mut turn);
        }
    }

    /// The value through an exclusive reference: no locking needed.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: ?Sized> Deref for RwSpinReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: no writer while a reader is counted.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Deref for RwSpinWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the only writer, no readers.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for RwSpinWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the only writer, no readers, borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for RwSpinReadGuard<'_, T> {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        check::spin_release(self.lock.class);
        // Release: pairs with a writer's acquire.
        self.lock.state.fetch_sub(1, Ordering::Release);
    }
}

impl<T: ?Sized> Drop for RwSpinWriteGuard<'_, T> {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        check::spin_release(self.lock.class);
        // Release: pairs with the next acquire. `WAITING` of another writer stays.
        self.lock.state.fetch_and(!WRITER, Ordering::Release);
    }
}
