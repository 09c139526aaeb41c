//! Where an open file stands.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use arch::lock::LockClass;
use sched::{Mutex, MutexGuard};

static CLASS: LockClass = LockClass::new("vfs.file_position", 200);

/// The position of an open file description. Who moves it holds the lock for the whole transfer
/// (read(2), "thread safety"), which may take long; who only wants to tell it does not wait.
pub struct Position {
    turn: Mutex<()>,
    at: AtomicU64,
}

/// The right to move a position.
pub struct Turn<'a> {
    at: &'a AtomicU64,
    _turn: MutexGuard<'a, ()>,
}

impl Position {
    /// At the start.
    pub(crate) const fn new() -> Position {
        Position { turn: Mutex::new(&CLASS, ()), at: AtomicU64::new(0) }
    }

    /// Waits for the transfers of others. May sleep.
    #[inline]
    pub fn lock(&self) -> Turn<'_> {
        Turn { _turn: self.turn.lock(), at: &self.at }
    }

    /// Where it is now, in the middle of somebody's transfer or not.
    pub fn now(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }
}

impl Turn<'_> {
    /// The position in bytes.
    #[inline]
    pub fn get(&self) -> u64 {
        // Relaxed, here and below: the lock orders it.
        self.at.load(Ordering::Relaxed)
    }

    /// Moves it.
    #[inline]
    pub fn set(&mut self, to: u64) {
        self.at.store(to, Ordering::Relaxed);
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({})", self.now())
    }
}
