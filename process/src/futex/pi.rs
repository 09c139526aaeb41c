//! Priority-inheriting futexes: `FUTEX_LOCK_PI` and its relatives.
//!
//! The word holds the owner's thread number. A thread that finds it taken sets the waiters bit,
//! queues in the bucket like any waiter, and sleeps; the owner hands the lock to the first of them,
//! writing the new owner's number itself, so that nobody overtakes. A thread that ends hands over
//! what it still holds with the owner-died bit.

use super::bucket::Queue;
use super::{Key, Scope, Step, Waiter, lock, sleep, with_word};
use crate::task::Task;
use abi::process::futex::{OWNER_DIED, TID_MASK, WAITERS};
use abi::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::lock::{LockClass, SpinLock};
use arch::user;
use sched::Deadline;

static HELD_CLASS: LockClass = LockClass::new("process.futex_held", 586);

/// A waiter's claim to a lock.
pub(super) struct Claim {
    pub(super) tid: u32,
    pub(super) task: Weak<Task>,
}

/// The contended locks that a thread owns.
pub struct PiState {
    held: SpinLock<Vec<(Key, VirtAddr)>>,
}

impl Default for PiState {
    fn default() -> Self {
        Self::new()
    }
}

impl PiState {
    /// It owns none.
    pub const fn new() -> PiState {
        PiState { held: SpinLock::new(&HELD_CLASS, Vec::new()) }
    }

    fn add(&self, key: Key, word: VirtAddr) {
        let mut held = self.held.lock();
        if !held.iter().any(|(k, _)| *k == key) {
            held.push((key, word));
        }
    }

    fn remove(&self, key: Key) {
        self.held.lock().retain(|(k, _)| *k != key);
    }
}

enum Acquired {
    Now,
    Queued(Arc<Waiter>),
}

/// Takes the lock or queues for it.
fn acquire(task: &Task, word: VirtAddr, key: Key, may_queue: bool) -> Result<Acquired> {
    let tid = task.tid() as u32;
    let claim = || Claim { tid, task: task.weak() };
    with_word(word, || {
        let mut bucket = lock(key);
        let Ok(seen) = user::load_u32_nofault(word) else { return Step::Fault };
        let owner = seen & TID_MASK;
        if owner == tid {
            return Step::Done(Err(Errno::EDEADLK));
        }
        let has_waiters = bucket.queue(key).is_some();
        if owner == 0 && !has_waiters {
            let new = tid | seen & OWNER_DIED;
            return match user::cmpxchg_u32_nofault(word, seen, new) {
                Err(_) => Step::Fault,
                Ok(found) if found == seen => Step::Done(Ok(Acquired::Now)),
                // Changed meanwhile: look again.
                Ok(_) => Step::FaultRead,
            };
        }
        if !may_queue {
            return Step::Done(Err(Errno::EAGAIN));
        }
        let owner_task = task.group.pid_ns().task(owner as i32);
        let Some(owner_task) = owner_task else { return Step::Done(Err(Errno::ESRCH)) };
        match user::cmpxchg_u32_nofault(word, seen, seen | WAITERS) {
            Err(_) => return Step::Fault,
            Ok(found) if found != seen => return Step::FaultRead,
            Ok(_) => {}
        }
        owner_task.pi.add(key, word);
        let waiter = Waiter::new(key, u32::MAX, Some(claim()));
        waiter.clone().enqueue(key, &mut bucket);
        Step::Done(Ok(Acquired::Queued(waiter)))
    })
}

/// `FUTEX_LOCK_PI` (and, without queueing, `FUTEX_TRYLOCK_PI`).
pub fn lock_pi(
    task: &Task,
    word: VirtAddr,
    scope: Scope,
    deadline: Option<Deadline>,
    may_queue: bool,
) -> Result<()> {
    let key = Key::of(task, word, scope)?;
    match acquire(task, word, key, may_queue)? {
        Acquired::Now => Ok(()),
        Acquired::Queued(waiter) => match sleep(&waiter, deadline) {
            Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOINTR),
            other => other,
        },
    }
}

/// Hands the lock to the first waiter, or frees the word. The caller owns it.
fn hand_over(task: &Task, word: VirtAddr, key: Key, died: bool) -> Result<()> {
    let mark = if died { OWNER_DIED } else { 0 };
    let next = with_word(word, || {
        let mut bucket = lock(key);
        let queue = bucket.queue(key).into_iter().flat_map(Queue::entries);
        let mut waiting = queue.filter(|(_, waiter)| waiter.pi.is_some());
        let first = waiting.next().map(|(number, waiter)| (number, waiter.clone()));
        let more = waiting.next().is_some();
        drop(waiting);
        let Ok(seen) = user::load_u32_nofault(word) else { return Step::Fault };
        let new = match &first {
            Some((_, waiter)) => {
                let tid = waiter.pi.as_ref().map_or(0, |c| c.tid);
                tid | mark | if more { WAITERS } else { 0 }
            }
            None => mark,
        };
        match user::cmpxchg_u32_nofault(word, seen, new) {
            Err(_) => return Step::Fault,
            Ok(found) if found != seen => return Step::FaultRead,
            Ok(_) => {}
        }
        if let Some((number, waiter)) = &first {
            bucket.remove((key, *number), waiter);
            let owner = waiter.pi.as_ref().and_then(|c| c.task.upgrade());
            if more && let Some(owner) = owner {
                owner.pi.add(key, word);
            }
        }
        Step::Done(Ok(first.map(|(_, waiter)| waiter)))
    })?;
    task.pi.remove(key);
    if let Some(waiter) = next {
        waiter.wake();
    }
    Ok(())
}

/// `FUTEX_UNLOCK_PI`.
pub fn unlock_pi(task: &Task, word: VirtAddr, scope: Scope) -> Result<()> {
    let key = Key::of(task, word, scope)?;
    if user::load_u32(word)? & TID_MASK != task.tid() as u32 {
        return Err(Errno::EPERM);
    }
    hand_over(task, word, key, false)
}

/// `FUTEX_WAIT_REQUEUE_PI`: waits on `word` and, once moved, for the lock `target`.
pub fn wait_requeue(
    task: &Task,
    word: VirtAddr,
    scope: Scope,
    value: u32,
    deadline: Option<Deadline>,
    target: VirtAddr,
) -> Result<()> {
    if word == target {
        return Err(Errno::EINVAL);
    }
    super::wait(task, word, scope, value, deadline, u32::MAX).map_err(|e| match e {
        Errno::ERESTARTSYS => Errno::ERESTARTNOINTR,
        other => other,
    })?;
    lock_pi(task, target, scope, None, true)
}

/// `FUTEX_CMP_REQUEUE_PI`: lets waiters of `from` go for the lock `to` one after the other: they
/// queue there themselves.
pub fn cmp_requeue(
    task: &Task,
    (from, to): (VirtAddr, VirtAddr),
    scope: Scope,
    (wake_count, move_count): (u32, u32),
    expected: u32,
) -> Result<usize> {
    if wake_count != 1 {
        return Err(Errno::EINVAL);
    }
    if (move_count as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    if user::load_u32(from)? != expected {
        return Err(Errno::EAGAIN);
    }
    Key::of(task, to, scope)?;
    let all = move_count.saturating_add(1);
    super::wake(task, from, scope, all, u32::MAX)
}

/// A thread ends: its contended locks go to their first waiters.
pub(super) fn release(task: &Task) {
    loop {
        let held = task.pi.held.lock().pop();
        let Some((key, word)) = held else { return };
        if hand_over(task, word, key, true).is_err() {
            // The word is gone; nobody can wait for it any more.
            let queue = lock(key).take_all(key);
            for waiter in queue.into_iter().flat_map(Queue::into_members) {
                waiter.wake();
            }
        }
    }
}
