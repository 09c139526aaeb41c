//! `futex(2)`: waiting on and waking from words of user memory.
//!
//! A futex is named by a [`Key`]: address space and address for private ones, object and offset
//! for shared ones. Keys hash to buckets (256 per processor), each with a queue by key, so that waking touches
//! the waiters it wakes only, moving one is to leave one queue and join another, and leaving costs a lookup.
//!
//! The word is read with the bucket locked and page faults off; a page that is missing is brought
//! in with the bucket unlocked and the whole step repeated. So between the check of the value and
//! the entry into the bucket no wake-up can be lost.
//!
//! Who is to wake takes the waiters out with the bucket locked and wakes them after: what is woken runs
//! while the waker still tells the other processor of it, and finds neither a lock held nor one to take.
//!
//! Locks: a bucket (rank 580); two are taken in the order of their index.

mod bucket;
pub mod pi;
pub mod robust;

pub use pi::PiState;

use crate::task::Task;
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::lock::{LockClass, SpinLock, SpinLockGuard};
use arch::user::{self, WordOp};
use bucket::Bucket;
use core::sync::atomic::{AtomicBool, Ordering};
use sched::{Deadline, Thread};
use smallvec::SmallVec;
use spin::Once;

static BUCKET_CLASS: LockClass = LockClass::new("process.futex", 580);

/// Whether a futex is private to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `FUTEX_PRIVATE_FLAG`.
    Private,
    /// Found by what is mapped at the address.
    Shared,
}

/// The identity of a futex: object, offset within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    object: u64,
    offset: u64,
}

impl Key {
    /// The futex at `address` for `task`; the address must be aligned and in user space.
    pub fn of(task: &Task, address: VirtAddr, scope: Scope) -> Result<Key> {
        if !address.is_aligned(4) {
            return Err(Errno::EINVAL);
        }
        if !address.is_user() {
            return Err(Errno::EFAULT);
        }
        let space = task.mm.address().ok_or(Errno::EFAULT)?;
        let private = Key { object: space.addr() as u64, offset: address.0 };
        if scope == Scope::Private {
            return Ok(private);
        }
        let mm = task.mm().ok_or(Errno::EFAULT)?;
        match mm.shared_key(address)? {
            // The low bit keeps objects apart from address spaces.
            Some((object, offset)) => Ok(Key { object: object | 1, offset }),
            None => Ok(private),
        }
    }

    fn hash(self) -> usize {
        let mixed = (self.object.rotate_left(17) ^ self.offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize
    }
}

/// A thread that waits.
struct Waiter {
    thread: Option<Arc<Thread>>,
    woken: AtomicBool,
    bits: u32,
    /// Where the waiter is, and its number there: requeueing changes both. Written with the bucket of the old place
    /// locked.
    place: SpinLock<(Key, u64)>,
    /// The thread, for priority-inheriting futexes.
    pi: Option<pi::Claim>,
}

static PLACE_CLASS: LockClass = LockClass::new("process.futex_place", 585);

static TABLE: Once<Box<[SpinLock<Bucket>]>> = Once::new();

fn table() -> &'static [SpinLock<Bucket>] {
    TABLE.call_once(|| {
        let count = (256 * arch::cpu::possible_count().max(1)).next_power_of_two();
        (0..count).map(|_| SpinLock::new(&BUCKET_CLASS, Bucket::new())).collect()
    })
}

fn index(key: Key) -> usize {
    key.hash() & (table().len() - 1)
}

fn lock(key: Key) -> SpinLockGuard<'static, Bucket> {
    let table = table();
    match table.get(index(key)) {
        Some(bucket) => bucket.lock(),
        // The index is masked by the length; the first bucket stands in for the impossible.
        None => table[0].lock(),
    }
}

/// The buckets of two keys, the second `None` if it is the same one.
struct Pair {
    first: SpinLockGuard<'static, Bucket>,
    second: Option<SpinLockGuard<'static, Bucket>>,
    swapped: bool,
}

impl Pair {
    fn lock(a: Key, b: Key) -> Pair {
        let (ia, ib) = (index(a), index(b));
        if ia == ib {
            return Pair { first: lock(a), second: None, swapped: false };
        }
        let swapped = ib < ia;
        let (low, high) = if swapped { (b, a) } else { (a, b) };
        let first = lock(low);
        let second = table().get(index(high)).map(|bucket| bucket.lock_nested());
        Pair { first, second, swapped }
    }

    fn a(&mut self) -> &mut Bucket {
        match (&mut self.second, self.swapped) {
            (Some(second), true) => second,
            _ => &mut self.first,
        }
    }

    fn b(&mut self) -> &mut Bucket {
        match (&mut self.second, self.swapped) {
            (Some(second), false) => second,
            _ => &mut self.first,
        }
    }
}

impl Waiter {
    fn new(key: Key, bits: u32, pi: Option<pi::Claim>) -> Arc<Waiter> {
        Arc::new(Waiter {
            thread: sched::current().arc(),
            woken: AtomicBool::new(false),
            bits,
            place: SpinLock::new(&PLACE_CLASS, (key, 0)),
            pi,
        })
    }

    /// Waits for `key`, in its bucket.
    fn enqueue(self: Arc<Self>, key: Key, bucket: &mut Bucket) {
        let number = bucket.insert(key, self.clone());
        *self.place.lock() = (key, number);
    }

    /// Marks and wakes; the waiter has left its bucket.
    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }

    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Leaves the bucket; `false` if a waker has already taken it out.
    fn leave(self: &Arc<Self>) -> bool {
        loop {
            let place = *self.place.lock();
            let mut bucket = lock(place.0);
            if *self.place.lock() != place {
                continue;
            }
            return bucket.remove(place, self);
        }
    }
}

/// Runs `step` with page faults off until it does not fault any more.
fn with_word<R>(address: VirtAddr, mut step: impl FnMut() -> Step<R>) -> Result<R> {
    loop {
        match step() {
            Step::Done(result) => return result,
            Step::Fault => {
                if user::fault_in_writable(address, 4) < 4 {
                    return Err(Errno::EFAULT);
                }
            }
            Step::FaultRead => drop(user::load_u32(address)?),
        }
    }
}

enum Step<R> {
    Done(Result<R>),
    Fault,
    FaultRead,
}

/// `FUTEX_WAIT`, `FUTEX_WAIT_BITSET`: sleeps if the word is `value`. `EAGAIN` if it is not,
/// `ETIMEDOUT`, `ERESTARTSYS`.
pub fn wait(
    task: &Task,
    address: VirtAddr,
    scope: Scope,
    value: u32,
    deadline: Option<Deadline>,
    bits: u32,
) -> Result<()> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(task, address, scope)?;
    let waiter = Waiter::new(key, bits, None);
    with_word(address, || {
        let mut bucket = lock(key);
        match user::load_u32_nofault(address) {
            Err(_) => Step::FaultRead,
            Ok(word) if word != value => Step::Done(Err(Errno::EAGAIN)),
            Ok(_) => {
                waiter.clone().enqueue(key, &mut bucket);
                Step::Done(Ok(()))
            }
        }
    })?;
    sleep(&waiter, deadline)
}

fn sleep(waiter: &Arc<Waiter>, deadline: Option<Deadline>) -> Result<()> {
    let slept = sched::park_interruptible(|| waiter.is_woken().then_some(()), deadline);
    let Err(error) = slept else { return Ok(()) };
    if !waiter.leave() {
        // Woken in the last moment.
        return Ok(());
    }
    Err(match error {
        sched::WaitError::TimedOut => Errno::ETIMEDOUT,
        sched::WaitError::Interrupted => Errno::ERESTARTSYS,
    })
}

/// Waiters that are out of their bucket and still to be woken, without a lock.
type Taken = SmallVec<[Arc<Waiter>; 8]>;

/// So many are taken out of a bucket before it is unlocked for others.
const BATCH: usize = 32;

fn wake_taken(taken: &[Arc<Waiter>]) -> usize {
    for waiter in taken {
        waiter.wake();
    }
    taken.len()
}

/// `FUTEX_WAKE`, `FUTEX_WAKE_BITSET`: wakes up to `count` waiters; how many.
pub fn wake(task: &Task, address: VirtAddr, scope: Scope, count: u32, bits: u32) -> Result<usize> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(task, address, scope)?;
    let bucket = lock(key);
    if bucket.is_empty() {
        return Ok(0);
    }
    wake_from(bucket, key, count.max(1) as usize, bits)
}

fn wake_from(
    mut bucket: SpinLockGuard<'static, Bucket>,
    key: Key,
    count: usize,
    bits: u32,
) -> Result<usize> {
    let mut woken = 0;
    loop {
        let at_most = (count - woken).min(BATCH);
        let mut some = Taken::new();
        let is_first_pi = bucket.take(key, at_most, bits, &mut some);
        drop(bucket);
        if is_first_pi {
            return Err(Errno::EINVAL);
        }
        woken += wake_taken(&some);
        if some.len() < at_most || woken >= count {
            return Ok(woken);
        }
        bucket = lock(key);
    }
}

/// `FUTEX_REQUEUE`, `FUTEX_CMP_REQUEUE`: wakes `wake_count` waiters of `from` and makes up to
/// `move_count` others wait for `to`. With `expected` only if the word has that value.
pub fn requeue(
    task: &Task,
    (from, to): (VirtAddr, VirtAddr),
    scope: Scope,
    (wake_count, move_count): (u32, u32),
    expected: Option<u32>,
) -> Result<usize> {
    if (wake_count as i32) < 0 || (move_count as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let key_from = Key::of(task, from, scope)?;
    let key_to = Key::of(task, to, scope)?;
    let mut taken = Taken::new();
    let moved = with_word(from, || {
        let mut pair = Pair::lock(key_from, key_to);
        if let Some(expected) = expected {
            match user::load_u32_nofault(from) {
                Err(_) => return Step::FaultRead,
                Ok(word) if word != expected => return Step::Done(Err(Errno::EAGAIN)),
                Ok(_) => {}
            }
        }
        pair.a().take(key_from, wake_count as usize, u32::MAX, &mut taken);
        let mut moved = 0;
        while moved < move_count as usize && key_from != key_to {
            let Some(waiter) = pair.a().pop(key_from) else { break };
            waiter.enqueue(key_to, pair.b());
            moved += 1;
        }
        Step::Done(Ok(moved))
    })?;
    let woken = wake_taken(&taken);
    // FUTEX_REQUEUE counts the woken and the moved alike, as FUTEX_CMP_REQUEUE does.
    Ok(woken + moved)
}

/// `FUTEX_WAKE_OP`: changes the word at `second`, wakes waiters of `first`, and those of `second`
/// if its old value passes the comparison.
pub fn wake_op(
    task: &Task,
    (first, second): (VirtAddr, VirtAddr),
    scope: Scope,
    (count, count2): (u32, u32),
    encoded: u32,
) -> Result<usize> {
    let key1 = Key::of(task, first, scope)?;
    let key2 = Key::of(task, second, scope)?;
    let operation = WakeOp::decode(encoded)?;
    let (mut taken, mut also) = (Taken::new(), Taken::new());
    with_word(second, || {
        let mut pair = Pair::lock(key1, key2);
        let Ok(old) = user::fetch_op_u32(second, operation.op, operation.operand) else {
            return Step::Fault;
        };
        pair.a().take(key1, count.max(1) as usize, u32::MAX, &mut taken);
        if operation.passes(old) {
            pair.b().take(key2, count2.max(1) as usize, u32::MAX, &mut also);
        }
        Step::Done(Ok(()))
    })?;
    Ok(wake_taken(&taken) + wake_taken(&also))
}

/// The argument of `FUTEX_WAKE_OP`, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WakeOp {
    op: WordOp,
    operand: u32,
    comparison: u32,
    compared: i32,
}

impl WakeOp {
    fn decode(encoded: u32) -> Result<WakeOp> {
        let sign_extend = |value: u32| ((value << 20) as i32) >> 20;
        let mut operand = sign_extend(encoded >> 12 & 0xfff) as u32;
        if encoded >> 28 & 8 != 0 {
            operand = 1u32.wrapping_shl(operand);
        }
        let op = match encoded >> 28 & 7 {
            0 => WordOp::Set,
            1 => WordOp::Add,
            2 => WordOp::Or,
            3 => WordOp::AndNot,
            4 => WordOp::Xor,
            _ => return Err(Errno::ENOSYS),
        };
        let comparison = encoded >> 24 & 0xf;
        if comparison > 5 {
            return Err(Errno::ENOSYS);
        }
        Ok(WakeOp { op, operand, comparison, compared: sign_extend(encoded & 0xfff) })
    }

    fn passes(&self, old: u32) -> bool {
        let (old, with) = (old as i32, self.compared);
        match self.comparison {
            0 => old == with,
            1 => old != with,
            2 => old < with,
            3 => old <= with,
            4 => old > with,
            _ => old >= with,
        }
    }
}

/// What a thread that ends (or starts another program) leaves to the waiters of its futexes.
pub(crate) fn thread_exit(task: &Task) {
    robust::release(task);
    pi::release(task);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_op_decodes() {
        // FUTEX_OP(FUTEX_OP_ADD | FUTEX_OP_OPARG_SHIFT, 3, FUTEX_OP_CMP_GT, -1)
        let encoded = (1 | 8) << 28 | 4 << 24 | 3 << 12 | 0xfff;
        let op = WakeOp::decode(encoded).expect("valid");
        assert_eq!(op, WakeOp { op: WordOp::Add, operand: 8, comparison: 4, compared: -1 });
        assert!(op.passes(0));
        assert!(!op.passes(u32::MAX));
        assert_eq!(WakeOp::decode(7 << 28), Err(Errno::ENOSYS));
        assert_eq!(WakeOp::decode(6 << 24), Err(Errno::ENOSYS));
    }
}
