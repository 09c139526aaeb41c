//! Sleeping locks: [`Mutex`], [`RwLock`].

use crate::WaitQueue;
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
        // Acquire: pairs with the release in `release`.
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).ok()?;
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
        if self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slowly();
        }
    }

    #[cold]
    fn acquire_slowly(&self) {
        self.queue.wait(|| (self.state.swap(WANTED, Ordering::Acquire) == FREE).then_some(()));
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

/// The writer's bit of [`RwLock`]'s word; the readers' count lies below.
const WRITER: u32 = 1 << 31;
/// A writer waits: new readers stand back.
const WRITER_WAITS: u32 = 1 << 30;

/// A lock for one writer or many readers, whose waiters sleep. A waiting writer keeps new readers
/// out, so it gets its turn.
pub struct RwLock<T: ?Sized> {
    class: &'static LockClass,
    state: AtomicU32,
    queue: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one writer or to readers.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}
// SAFETY: as for the value it owns.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}

/// Holds a [`RwLock`] for reading.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
}

/// Holds a [`RwLock`] for writing.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
}

// SAFETY: sharing a guard shares the value.
unsafe impl<T: ?Sized + Sync> Sync for RwLockReadGuard<'_, T> {}
// SAFETY: sharing a guard shares the value.
unsafe impl<T: ?Sized + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<T> RwLock<T> {
    /// A free lock of the class around the value.
    pub const fn new(class: &'static LockClass, value: T) -> RwLock<T> {
        RwLock {
            class,
            state: AtomicU32::new(0),
            queue: WaitQueue::new(),
            value: UnsafeCell::new(value),
        }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits until no writer holds or wants it.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        check::sleep_acquire(self.class, false);
        if !self.take_read() {
            self.queue.wait(|| self.take_read().then_some(()));
        }
        RwLockReadGuard { lock: self }
    }

    /// [`RwLock::read`] while another of the same rank is held, in an order the caller keeps.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn read_nested(&self) -> RwLockReadGuard<'_, T> {
        check::sleep_acquire(self.class, true);
        if !self.take_read() {
            self.queue.wait(|| self.take_read().then_some(()));
        }
        RwLockReadGuard { lock: self }
    }

    /// Takes it for reading if that is possible now.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        if !self.take_read() {
            return None;
        }
        check::sleep_acquired_try(self.class);
        Some(RwLockReadGuard { lock: self })
    }

    /// Waits until nobody holds it.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        check::sleep_acquire(self.class, false);
        self.acquire_write();
        RwLockWriteGuard { lock: self }
    }

    /// [`RwLock::write`] while another of the same rank is held, in an order the caller keeps.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn write_nested(&self) -> RwLockWriteGuard<'_, T> {
        check::sleep_acquire(self.class, true);
        self.acquire_write();
        RwLockWriteGuard { lock: self }
    }

    /// Takes it for writing if nobody holds it.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        if !self.take_write() {
            return None;
        }
        check::sleep_acquired_try(self.class);
        Some(RwLockWriteGuard { lock: self })
    }

    fn acquire_write(&self) {
        if self.take_write() {
            return;
        }
        self.queue.wait(|| {
            if self.take_write() {
                return Some(());
            }
            self.state.fetch_or(WRITER_WAITS, Ordering::Relaxed);
            self.take_write().then_some(())
        });
        // Readers who stood back, and other writers, look again when this one is done.
    }

    fn take_read(&self) -> bool {
        // Acquire: pairs with the releases below.
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |s| {
                (s & (WRITER | WRITER_WAITS) == 0).then(|| s + 1)
            })
            .is_ok()
    }

    fn take_write(&self) -> bool {
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |s| {
                (s & !WRITER_WAITS == 0).then_some(WRITER)
            })
            .is_ok()
    }

    fn release_read(&self) {
        check::sleep_release(self.class);
        let before = self.state.fetch_sub(1, Ordering::Release);
        if before == WRITER_WAITS + 1 {
            self.queue.wake_all();
        }
    }

    fn release_write(&self) {
        check::sleep_release(self.class);
        self.state.store(0, Ordering::Release);
        self.queue.wake_all();
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.release_read();
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.release_write();
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock for reading.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}
