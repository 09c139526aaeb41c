//! A lock for one writer or many readers, whose waiters sleep: [`RwLock`].
//!
//! Writers and readers wait in queues of their own: a writer who leaves gives the lock to all readers who
//! wait, or else wakes one writer; the last reader wakes one writer. So readers and writers get their turns
//! alternately, and a writer who waits keeps new readers out. A writer who runs may take the lock before the
//! one who was woken: the lock does not stand idle for the switch. Until the woken one has looked, no other
//! is woken; so one at most is awake for nothing, and who was late waits at the end of the queue. Who finds it
//! held by a writer that runs waits awake for a moment first ([`crate::awake`]).
//!
//! Nobody waits: one atomic instruction each way. Otherwise `line` says who does, and its lock orders
//! who comes to wait with who leaves. Locks: `sched.rwlock` (690); it is released before waking.

use crate::WaitQueue;
use crate::awake::{Holder, Look};
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
/// A writer was woken and has not looked yet. Who sets this wakes one after that, and each look of a writer
/// who waits takes it back; so somebody looks whenever it is set.
const WRITER_COMES: u32 = 1 << 28;
/// All but holders.
const NOTES: u32 = WRITERS_WAIT | READERS_WAIT | WRITER_COMES;

/// A lock for one writer or many readers.
pub struct RwLock<T: ?Sized> {
    class: &'static LockClass,
    state: AtomicU32,
    /// The writer.
    holder: Holder,
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
            holder: Holder::new(),
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
        let before = self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
            (state & !NOTES == 0).then_some(state | WRITER)
        });
        if before.is_ok() {
            self.holder.note();
        }
        before.is_ok()
    }

    /// Tries to take it from a writer that is about to give it back.
    fn take_soon(&self, take: impl Fn() -> bool) -> bool {
        self.holder.await_while_it_runs(|| {
            // Relaxed: a sign, after which it is taken as always.
            if self.state.load(Ordering::Relaxed) & WRITER != 0 {
                return Look::Held;
            }
            if take() { Look::Taken } else { Look::Hopeless }
        })
    }

    /// The look of a writer who waits.
    fn take_write_waiting(&self) -> bool {
        let look = |state: u32| {
            let state = state & !WRITER_COMES;
            Some(if state & !NOTES == 0 { state | WRITER } else { state })
        };
        // Acquire: pairs with the releases below.
        let before = self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, look);
        before.is_ok_and(|state| state & !NOTES == 0)
    }

    #[cold]
    fn wait_for_read(&self) {
        if self.take_soon(|| self.take_read()) {
            return;
        }
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
        if self.take_soon(|| self.take_write()) {
            return;
        }
        {
            let mut line = self.line.lock();
            let before = self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                let is_free = state & !NOTES == 0;
                Some(state | if is_free { WRITER } else { WRITERS_WAIT })
            });
            if before.is_ok_and(|state| state & !NOTES == 0) {
                self.holder.note();
                return;
            }
            line.writers += 1;
        }
        self.writers.wait(|| self.take_write_waiting().then_some(()));
        self.holder.note();
        let mut line = self.line.lock();
        line.writers -= 1;
        if line.writers == 0 {
            // Relaxed: a writer who leaves looks at the line, and a reader who finds it set wakes nobody.
            self.state.fetch_and(!WRITERS_WAIT, Ordering::Relaxed);
        }
    }

    #[inline]
    fn release_read(&self) {
        check::sleep_release(self.class);
        let before = self.state.fetch_sub(1, Ordering::Release);
        if before & WRITERS_WAIT != 0 && before & !NOTES == 1 {
            self.wake_writer();
        }
    }

    /// Wakes a writer unless one is awake and about to look.
    #[cold]
    fn wake_writer(&self) {
        // All others leave the waking to this one from here.
        let _stays = arch::preempt::disable();
        // Relaxed: the queue's fences order it with the look of who comes to wait.
        if self.state.fetch_or(WRITER_COMES, Ordering::Relaxed) & WRITER_COMES == 0 {
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
        // Sleeping readers have the lock from here until they are woken.
        let _stays = arch::preempt::disable();
        let mut line = self.line.lock();
        let readers = core::mem::take(&mut line.readers);
        let has_writers = line.writers > 0;
        // Release: pairs with the acquires of who takes it next. Only a look of a writer who waits can come
        // between: the lock is held for writing, and the line is locked.
        let pass_on = |state: u32| {
            let writers = if has_writers { WRITERS_WAIT | state & WRITER_COMES } else { 0 };
            Some(readers | writers)
        };
        _ = self.state.fetch_update(Ordering::Release, Ordering::Relaxed, pass_on);
        if readers > 0 {
            // Release: the word counts the readers before they go.
            self.turn.fetch_add(1, Ordering::Release);
        }
        drop(line);
        if readers > 0 {
            self.readers.wake_all();
        } else if has_writers {
            self.wake_writer();
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
