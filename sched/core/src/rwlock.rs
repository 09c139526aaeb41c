//! A lock for one writer or many readers, whose waiters sleep: [`RwLock`].
//!
//! Writers and readers wait in queues of their own, and nobody is woken who must sleep again for it: a
//! writer who leaves gives the lock to all readers who wait, or else wakes one writer; the last reader
//! wakes one writer. So readers and writers get their turns alternately, a writer who waits keeps new
//! readers out, and a thousand who wait cost a thousand wake-ups. A writer who runs may take the lock
//! before one who has just been woken: the lock does not stand idle for the switch.
//!
//! Nobody waits: one atomic instruction each way. Otherwise `line` says who does, and its lock orders
//! who comes to wait with who leaves. Locks: `sched.rwlock` (690); it is released before waking.

use crate::WaitQueue;
use arch::lock::{LockClass, SpinLock, check};
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

static LINE: LockClass = LockClass::new("sched.rwlock", 690);

/// The writer's bit of the word; the number of readers lies below.
const WRITER: u32 = 1 << 31;
/// Writers wait: new readers stand back. Changed under the line's lock.
const WRITERS_WAIT: u32 = 1 << 30;
/// Readers wait. Changed under the line's lock.
const READERS_WAIT: u32 = 1 << 29;

/// A lock for one writer or many readers.
pub struct RwLock<T: ?Sized> {
    class: &'static LockClass,
    state: AtomicU32,
    line: SpinLock<Line>,
    /// How often waiting readers were given the lock.
    turn: AtomicU32,
    readers: WaitQueue,
    writers: WaitQueue,
    value: UnsafeCell<T>,
}

/// Who waits.
struct Line {
    readers: u32,
    writers: u32,
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
            line: SpinLock::new(&LINE, Line { readers: 0, writers: 0 }),
            turn: AtomicU32::new(0),
            readers: WaitQueue::new(),
            writers: WaitQueue::new(),
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
            self.wait_for_read();
        }
        RwLockReadGuard { lock: self }
    }

    /// [`RwLock::read`] while another of the same rank is held, in an order the caller keeps.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn read_nested(&self) -> RwLockReadGuard<'_, T> {
        check::sleep_acquire(self.class, true);
        if !self.take_read() {
            self.wait_for_read();
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
        if !self.take_write() {
            self.wait_for_write();
        }
        RwLockWriteGuard { lock: self }
    }

    /// [`RwLock::write`] while another of the same rank is held, in an order the caller keeps.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn write_nested(&self) -> RwLockWriteGuard<'_, T> {
        check::sleep_acquire(self.class, true);
        if !self.take_write() {
            self.wait_for_write();
        }
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

    #[inline]
    fn take_read(&self) -> bool {
        // Acquire: pairs with the releases below.
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                (state & (WRITER | WRITERS_WAIT) == 0).then(|| state + 1)
            })
            .is_ok()
    }

    #[inline]
    fn take_write(&self) -> bool {
        // Acquire: pairs with the releases below.
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                (state & !(WRITERS_WAIT | READERS_WAIT) == 0).then_some(state | WRITER)
            })
            .is_ok()
    }

    #[cold]
    fn wait_for_read(&self) {
        let turn = {
            let mut line = self.line.lock();
            // Takes it or leaves word, in one step: whoever holds it leaves after that, and looks here.
            let before = self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                let is_open = state & (WRITER | WRITERS_WAIT) == 0;
                Some(if is_open { state + 1 } else { state | READERS_WAIT })
            });
            if before.is_ok_and(|state| state & (WRITER | WRITERS_WAIT) == 0) {
                return;
            }
            line.readers += 1;
            // Relaxed: changed under the line's lock.
            self.turn.load(Ordering::Relaxed)
        };
        // Acquire: pairs with the release in `release_to_waiters`, which has counted this reader.
        self.readers.wait(|| (self.turn.load(Ordering::Acquire) != turn).then_some(()));
    }

    #[cold]
    fn wait_for_write(&self) {
        {
            let mut line = self.line.lock();
            let before = self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                let is_free = state & !(WRITERS_WAIT | READERS_WAIT) == 0;
                Some(state | if is_free { WRITER } else { WRITERS_WAIT })
            });
            if before.is_ok_and(|state| state & !(WRITERS_WAIT | READERS_WAIT) == 0) {
                return;
            }
            line.writers += 1;
        }
        self.writers.wait(|| self.take_write().then_some(()));
        let mut line = self.line.lock();
        line.writers -= 1;
        if line.writers == 0 {
            // Relaxed: who finds it set takes the line's lock and looks there.
            self.state.fetch_and(!WRITERS_WAIT, Ordering::Relaxed);
        }
    }

    #[inline]
    fn release_read(&self) {
        check::sleep_release(self.class);
        let before = self.state.fetch_sub(1, Ordering::Release);
        if before & WRITERS_WAIT != 0 && before & !(WRITERS_WAIT | READERS_WAIT) == 1 {
            self.writers.wake_one();
        }
    }

    #[inline]
    fn release_write(&self) {
        check::sleep_release(self.class);
        // Release: pairs with the acquires of who takes it next. On failure somebody waits.
        if self.state.compare_exchange(WRITER, 0, Ordering::Release, Ordering::Relaxed).is_err() {
            self.release_to_waiters();
        }
    }

    /// Gives the lock, which is held for writing, to the readers who wait, or leaves it to writers.
    #[cold]
    fn release_to_waiters(&self) {
        let mut line = self.line.lock();
        let readers = core::mem::take(&mut line.readers);
        let writers_wait = if line.writers > 0 { WRITERS_WAIT } else { 0 };
        // Nobody else changes the word now: it is held for writing, and the line is locked.
        self.state.store(readers | writers_wait, Ordering::Release);
        if readers > 0 {
            // Release: the word counts the readers before they go.
            self.turn.fetch_add(1, Ordering::Release);
        }
        drop(line);
        if readers > 0 {
            self.readers.wake_all();
        } else {
            self.writers.wake_one();
        }
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
