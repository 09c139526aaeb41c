//! A lock whose waiters sleep: [`Mutex`].
//!
//! Who finds it held by a thread that runs waits awake for a moment first ([`crate::awake`]).

use crate::WaitQueue;
use crate::awake::{Holder, Look};
use arch::lock::{LockClass, check};
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
const WANTED: u32 = 2;

/// A lock whose waiters sleep.
pub struct Mutex<T: ?Sized> {
    class: &'static LockClass,
    state: AtomicU32,
    holder: Holder,
    queue: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one thread at a time.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}
// SAFETY: as for the value it owns.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}

/// Holds a [`Mutex`].
#[must_use = "the lock is released when the guard is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a Mutex<T>,
}

// SAFETY: sharing a guard shares the value.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// A free lock of the class around the value.
    pub const fn new(class: &'static LockClass, value: T) -> Mutex<T> {
        Mutex {
            class,
            state: AtomicU32::new(FREE),
            holder: Holder::new(),
            queue: WaitQueue::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, the lock gone.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        check::sleep_acquire(self.class, false);
        self.acquire();
        MutexGuard { lock: self }
    }

    /// Waits for the lock while another of the same rank is held, in an order the caller keeps.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock_nested(&self) -> MutexGuard<'_, T> {
        check::sleep_acquire(self.class, true);
        self.acquire();
        MutexGuard { lock: self }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        if !self.take() {
            return None;
        }
        check::sleep_acquired_try(self.class);
        Some(MutexGuard { lock: self })
    }

    /// Whether somebody holds it.
    pub fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) != FREE
    }

    /// The value through an exclusive reference: no locking needed.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[inline]
    fn acquire(&self) {
        if !self.take() {
            self.acquire_slowly();
        }
    }

    #[inline]
    fn take(&self) -> bool {
        // Acquire: pairs with the release in `release`.
        let before = self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed);
        if before.is_ok() {
            self.holder.note();
        }
        before.is_ok()
    }

    #[cold]
    fn acquire_slowly(&self) {
        let look = || match self.state.load(Ordering::Relaxed) {
            FREE if self.take() => Look::Taken,
            _ => Look::Held,
        };
        if self.holder.await_while_it_runs(look) {
            return;
        }
        self.queue.wait(|| (self.state.swap(WANTED, Ordering::Acquire) == FREE).then_some(()));
        self.holder.note();
    }

    #[inline]
    fn release(&self) {
        check::sleep_release(self.class);
        if self.state.swap(FREE, Ordering::Release) == WANTED {
            self.queue.wake_one();
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.release();
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(value) => f.debug_tuple("Mutex").field(&&*value).finish(),
            None => f.write_str("Mutex(<locked>)"),
        }
    }
}
