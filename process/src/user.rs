//! What a user has in use: the counts that `RLIMIT_NPROC`, `RLIMIT_SIGPENDING` and
//! `RLIMIT_MSGQUEUE` bound, shared by all processes of one uid.

use alloc::sync::{Arc, Weak};
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use hashbrown::HashMap;

static CLASS: LockClass = LockClass::new("process.users", 595);

/// One user's account.
pub struct User {
    /// The (global) uid.
    pub uid: u32,
    tasks: AtomicUsize,
    signals: AtomicUsize,
    /// Bytes in POSIX message queues.
    pub mqueue_bytes: AtomicU64,
}

static USERS: SpinLock<Option<HashMap<u32, Weak<User>>>> = SpinLock::new(&CLASS, None);

impl User {
    /// The account of `uid`.
    pub fn of(uid: u32) -> Arc<User> {
        let fresh = Arc::new(User {
            uid,
            tasks: AtomicUsize::new(0),
            signals: AtomicUsize::new(0),
            mqueue_bytes: AtomicU64::new(0),
        });
        let mut users = USERS.lock();
        let users = users.get_or_insert_with(HashMap::new);
        if let Some(known) = users.get(&uid).and_then(Weak::upgrade) {
            return known;
        }
        // Entries whose user is gone go when the table would grow.
        if users.len() == users.capacity() {
            users.retain(|_, user| user.strong_count() > 0);
        }
        users.insert(uid, Arc::downgrade(&fresh));
        fresh
    }

    /// How many tasks the user has.
    pub fn tasks(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    pub(crate) fn add_task(&self) {
        self.tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_task(&self) {
        self.tasks.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many signals are queued.
    pub fn signals(&self) -> usize {
        self.signals.load(Ordering::Relaxed)
    }

    /// Charges one queued signal unless `limit` is reached.
    pub(crate) fn charge_signal(&self, limit: u64) -> bool {
        self.signals
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                ((n as u64) < limit).then_some(n + 1)
            })
            .is_ok()
    }

    pub(crate) fn uncharge_signal(&self) {
        self.signals.fetch_sub(1, Ordering::Relaxed);
    }
}
