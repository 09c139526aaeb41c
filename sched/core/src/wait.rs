//! Wait queues: threads that sleep until a condition holds, and listeners that are told.
//!
//! A waiter puts a node of its own stack on the queue, sets its state, looks at the condition and
//! sleeps; so a wake-up after the look finds it. `wake_one` takes the node off, so that the next
//! one reaches somebody else; a waiter that leaves without having looked after it passes it on.
//!
//! Most queues are empty when something happens. Who changes what a condition looks at therefore
//! asks first, without the lock, whether anybody is there: he changes, then looks at
//! [`WaitQueue::interest`]; who comes notes himself there, then looks at the condition. With a full
//! fence between the two steps on both sides one of them sees the other.
//!
//! Locks: a queue (rank 700), then what waking takes.

use crate::hooks::{self, AlarmKey};
use crate::run::{self, current, schedule};
use crate::thread::{Thread, state};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::cpu::CpuId;
use arch::lock::{IrqLock, LockClass};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};

static QUEUE_CLASS: LockClass = LockClass::new("sched.wait_queue", 700);

/// Why a wait ended without its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// A signal is pending.
    Interrupted,
    /// The deadline has passed.
    TimedOut,
}

/// An instant at which a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// On the monotonic clock, in nanoseconds.
    Monotonic(u64),
    /// On the real-time clock, in nanoseconds: follows changes of that clock.
    Realtime(u64),
}

impl Deadline {
    /// `ns` from now.
    pub fn after_ns(ns: u64) -> Deadline {
        Deadline::Monotonic(arch::time::now_ns().saturating_add(ns))
    }
    /// An instant of the monotonic clock.
    pub fn at_monotonic_ns(ns: u64) -> Deadline {
        Deadline::Monotonic(ns)
    }
    /// An instant of the real-time clock.
    pub fn at_realtime_ns(ns: u64) -> Deadline {
        Deadline::Realtime(ns)
    }
    /// The instant on the monotonic clock, as of now.
    pub fn monotonic_ns(self) -> u64 {
        match self {
            Deadline::Monotonic(ns) => ns,
            Deadline::Realtime(ns) => {
                let now = hooks::sched_realtime_ns();
                arch::time::now_ns().saturating_add_signed(ns as i64 - now as i64)
            }
        }
    }
}

/// Is told what happens on a queue (`epoll`, `poll`). Called in whatever context notifies, perhaps
/// an interrupt: it must not sleep.
pub trait Listener: Send + Sync {
    /// Something of `events` (`POLL*`) happened.
    fn notify(&self, events: u32);
}

struct Node {
    next: *mut Node,
    prev: *mut Node,
    thread: *const Thread,
    is_linked: bool,
    /// `wake_one` chose this waiter.
    is_chosen: AtomicBool,
}

struct Inner {
    head: *mut Node,
    tail: *mut Node,
    listeners: Vec<(u64, u64, Arc<dyn Listener>)>,
    next_listener: u64,
}

// SAFETY: nodes live on the stacks of waiting threads, which take them off before they return; all
// access is under the queue's lock.
unsafe impl Send for Inner {}

impl Inner {
    /// # Safety
    /// The node is on no queue and stays in place until it is unlinked.
    unsafe fn link(&mut self, node: *mut Node) {
        // SAFETY: by the caller; the tail is a linked node.
        unsafe {
            (*node).next = ptr::null_mut();
            (*node).prev = self.tail;
            (*node).is_linked = true;
            if self.tail.is_null() {
                self.head = node;
            } else {
                (*self.tail).next = node;
            }
        }
        self.tail = node;
    }

    /// # Safety
    /// The node is on this queue.
    unsafe fn unlink(&mut self, node: *mut Node) {
        // SAFETY: by the caller; neighbours of a linked node are linked.
        unsafe {
            let (prev, next) = ((*node).prev, (*node).next);
            if prev.is_null() {
                self.head = next;
            } else {
                (*prev).next = next;
            }
            if next.is_null() {
                self.tail = prev;
            } else {
                (*next).prev = prev;
            }
            (*node).is_linked = false;
        }
    }
}

/// Wakes a thread at an instant, unless it is dropped before.
struct Alarm {
    cpu: CpuId,
    key: AlarmKey,
}

impl Alarm {
    fn new(thread: Arc<Thread>, at: u64, slack: u64) -> Alarm {
        let (cpu, key) = hooks::sched_alarm(thread, at, slack);
        Alarm { cpu, key }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        hooks::sched_cancel(self.cpu, self.key);
    }
}

/// What ends a sleep besides its condition.
pub(crate) struct Limit {
    deadline: Option<Deadline>,
    alarm: Option<Alarm>,
}

impl Limit {
    pub(crate) fn new(deadline: Option<Deadline>) -> Limit {
        Limit { deadline, alarm: None }
    }

    /// Whether the running thread may go to sleep now; it will be woken in time.
    #[inline]
    pub(crate) fn check(&mut self, thread: &Thread, mode: u32) -> Result<(), WaitError> {
        if thread.is_interrupted(mode) {
            return Err(WaitError::Interrupted);
        }
        match self.deadline {
            Some(deadline) => self.arm(deadline, thread, mode),
            None => Ok(()),
        }
    }

    fn arm(&mut self, deadline: Deadline, thread: &Thread, mode: u32) -> Result<(), WaitError> {
        let at = deadline.monotonic_ns();
        let slack = thread.slack_of(mode);
        // Who has slept is through when the time has come; who has just come sleeps while there is slack.
        let end = if self.alarm.is_some() { at } else { at.saturating_add(slack) };
        if arch::time::now_ns() >= end {
            return Err(WaitError::TimedOut);
        }
        // Armed anew each time: the real-time clock may have been set, or the alarm have gone off on a
        // processor whose clock is a little ahead of this one's.
        drop(self.alarm.take());
        self.alarm = thread.arc().map(|thread| Alarm::new(thread, at, slack));
        Ok(())
    }
}

/// In [`WaitQueue::interest`]: a thread waits.
const WAITERS: u8 = 1;
/// In [`WaitQueue::interest`]: somebody listens.
const LISTENERS: u8 = 2;

/// A queue of waiting threads.
pub struct WaitQueue {
    /// Who is there: changed under the lock, read also without.
    interest: AtomicU8,
    inner: IrqLock<Inner>,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("WaitQueue")
    }
}

impl WaitQueue {
    /// Nobody waits.
    pub const fn new() -> WaitQueue {
        WaitQueue {
            interest: AtomicU8::new(0),
            inner: IrqLock::new(
                &QUEUE_CLASS,
                Inner {
                    head: ptr::null_mut(),
                    tail: ptr::null_mut(),
                    listeners: Vec::new(),
                    next_listener: 1,
                },
            ),
        }
    }

    /// Sleeps until `condition` gives something, whatever signals come.
    pub fn wait<R>(&self, condition: impl FnMut() -> Option<R>) -> R {
        match self.sleep(state::UNINTERRUPTIBLE, None, condition) {
            Ok(result) => result,
            Err(_) => unreachable!("nothing else ends this wait"),
        }
    }

    /// Sleeps until `condition` gives something, a signal is pending, or the deadline passes.
    pub fn wait_interruptible<R>(
        &self,
        condition: impl FnMut() -> Option<R>,
        deadline: Option<Deadline>,
    ) -> Result<R, WaitError> {
        self.sleep(state::INTERRUPTIBLE, deadline, condition)
    }

    /// Sleeps until `condition` gives something or the thread is to die.
    pub fn wait_killable<R>(&self, condition: impl FnMut() -> Option<R>) -> Result<R, WaitError> {
        self.sleep(state::KILLABLE, None, condition)
    }

    /// Sleeps until `condition` gives something or the monotonic clock reaches `deadline_ns`.
    pub fn wait_deadline<R>(
        &self,
        deadline_ns: u64,
        condition: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        let deadline = Some(Deadline::Monotonic(deadline_ns));
        self.sleep(state::UNINTERRUPTIBLE, deadline, condition).ok()
    }

    fn sleep<R>(
        &self,
        mode: u32,
        deadline: Option<Deadline>,
        mut condition: impl FnMut() -> Option<R>,
    ) -> Result<R, WaitError> {
        if let Some(result) = condition() {
            return Ok(result);
        }
        arch::lock::check::might_sleep();
        let thread = current();
        let mut node = Node {
            next: ptr::null_mut(),
            prev: ptr::null_mut(),
            thread,
            is_linked: false,
            is_chosen: AtomicBool::new(false),
        };
        let node: *mut Node = &raw mut node;
        let mut limit = Limit::new(deadline);
        let outcome = loop {
            {
                let mut inner = self.inner.lock();
                // SAFETY: the node is ours, stays in place, and is taken off below.
                unsafe {
                    if !(*node).is_linked {
                        (*node).is_chosen.store(false, Ordering::Relaxed);
                        inner.link(node);
                    }
                }
                self.note_interest(&inner);
                thread.state.store(mode, Ordering::SeqCst);
            }
            // Pairs with the fence in `interest`.
            fence(Ordering::SeqCst);
            if let Some(result) = condition() {
                break Ok(result);
            }
            if let Err(error) = limit.check(thread, mode) {
                break Err(error);
            }
            schedule();
        };
        thread.state.store(state::RUNNING, Ordering::SeqCst);
        drop(limit);
        let was_chosen = {
            let mut inner = self.inner.lock();
            // SAFETY: the node is ours; it is on this queue or on none.
            unsafe {
                if (*node).is_linked {
                    inner.unlink(node);
                    self.note_interest(&inner);
                }
                (*node).is_chosen.load(Ordering::Relaxed)
            }
        };
        // Chosen after the last look, or while it went on: that has not seen what the wake-up was for, or
        // has seen something else.
        if was_chosen {
            self.wake_one();
        }
        outcome
    }

    fn note_interest(&self, inner: &Inner) {
        let waiters = if inner.head.is_null() { 0 } else { WAITERS };
        let listeners = if inner.listeners.is_empty() { 0 } else { LISTENERS };
        // Relaxed: writers hold the lock; the fences order it against conditions.
        self.interest.store(waiters | listeners, Ordering::Relaxed);
    }

    /// Who is there, asked by somebody who has changed what conditions look at.
    #[inline]
    fn interest(&self) -> u8 {
        // Pairs with the fences in `sleep` and `add_listener`.
        fence(Ordering::SeqCst);
        self.interest.load(Ordering::Relaxed)
    }

    /// Wakes the one that has waited longest; whether there was one.
    #[inline]
    pub fn wake_one(&self) -> bool {
        self.interest() & WAITERS != 0 && self.wake_first()
    }

    fn wake_first(&self) -> bool {
        let mut inner = self.inner.lock();
        loop {
            let node = inner.head;
            if node.is_null() {
                return false;
            }
            // SAFETY: a linked node is alive, and so is the thread that waits with it.
            unsafe {
                inner.unlink(node);
                self.note_interest(&inner);
                (*node).is_chosen.store(true, Ordering::Relaxed);
                if run::wake(&*(*node).thread, state::ANY) {
                    return true;
                }
                // It is awake already and on its way out: the next one gets this wake-up.
                (*node).is_chosen.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Wakes up to `count`; how many.
    pub fn wake_n(&self, count: usize) -> usize {
        (0..count).take_while(|_| self.wake_one()).count()
    }

    /// Wakes everybody.
    #[inline]
    pub fn wake_all(&self) {
        if self.interest() & WAITERS != 0 {
            self.wake_waiters();
        }
    }

    fn wake_waiters(&self) {
        let inner = self.inner.lock();
        let mut node = inner.head;
        while !node.is_null() {
            // SAFETY: as in `wake_one`.
            unsafe {
                run::wake(&*(*node).thread, state::ANY);
                node = (*node).next;
            }
        }
    }

    /// Wakes everybody and tells the listeners that something of `events` happened.
    #[inline]
    pub fn notify(&self, events: u32) {
        let who = self.interest();
        if who & WAITERS != 0 {
            self.wake_waiters();
        }
        if who & LISTENERS != 0 {
            self.tell_listeners(events);
        }
    }

    /// Wakes the one that has waited longest and tells the listeners that something of `events`
    /// happened: for what one waiter can use up.
    #[inline]
    pub fn notify_one(&self, events: u32) {
        let who = self.interest();
        if who & WAITERS != 0 {
            self.wake_first();
        }
        if who & LISTENERS != 0 {
            self.tell_listeners(events);
        }
    }

    /// Tells the listeners only.
    #[inline]
    pub fn tell(&self, events: u32) {
        if self.interest() & LISTENERS != 0 {
            self.tell_listeners(events);
        }
    }

    fn tell_listeners(&self, events: u32) {
        const BATCH: usize = 8;
        let mut last = 0;
        loop {
            // Listeners are called without the lock: they wake other queues.
            let mut batch: [Option<Arc<dyn Listener>>; BATCH] = [const { None }; BATCH];
            let count = {
                let inner = self.inner.lock();
                let first = inner.listeners.partition_point(|l| l.0 <= last);
                let rest = inner.listeners.iter().skip(first).take(BATCH);
                let mut count = 0;
                for (slot, (id, _, listener)) in batch.iter_mut().zip(rest) {
                    *slot = Some(listener.clone());
                    last = *id;
                    count += 1;
                }
                count
            };
            for listener in batch.iter().flatten() {
                listener.notify(events);
            }
            if count < BATCH {
                return;
            }
        }
    }

    /// Whether anybody waits or listens.
    pub fn has_waiters(&self) -> bool {
        self.interest() != 0
    }

    /// Adds a listener; the number is for [`WaitQueue::remove_listener`].
    pub fn add_listener(&self, listener: Arc<dyn Listener>, key: u64) -> u64 {
        let id = {
            let mut inner = self.inner.lock();
            let id = inner.next_listener;
            inner.next_listener += 1;
            inner.listeners.push((id, key, listener));
            self.note_interest(&inner);
            id
        };
        // Pairs with the fence in `interest`.
        fence(Ordering::SeqCst);
        id
    }

    /// Removes a listener.
    pub fn remove_listener(&self, id: u64) {
        let removed = {
            let mut inner = self.inner.lock();
            let at = inner.listeners.iter().position(|l| l.0 == id);
            let removed = at.map(|at| inner.listeners.remove(at));
            self.note_interest(&inner);
            removed
        };
        drop(removed);
    }
}
