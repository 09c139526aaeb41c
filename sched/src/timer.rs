//! High-resolution timers: per processor an ordered map of what is to happen when, and the one
//! hardware timer set to the earliest of them and of the running thread's slice. A wake-up with slack
//! is in its place for the latest instant and goes along with what fires from the asked one on.
//!
//! Callbacks run in interrupt context without locks held.

use crate::{Deferred, Thread, state};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::cpu::CpuId;
use arch::lock::{IrqLock, IrqLockGuard, LockClass};
use core::sync::atomic::{AtomicU64, Ordering};
use threads::hooks::AlarmKey;
use threads::run;

static QUEUE_CLASS: LockClass = LockClass::new("sched.timers", 750);
static STATE_CLASS: LockClass = LockClass::new("sched.timer", 748);

const NEVER: u64 = u64::MAX;

#[derive(Clone)]
enum Entry {
    /// From an instant before its own on, if the hardware timer fires then.
    Wake(Arc<Thread>, u64),
    Call(Arc<Timer>),
}

impl Entry {
    /// The first instant at which one with the instant `at` may fire.
    fn earliest(&self, at: u64) -> u64 {
        match self {
            Entry::Wake(_, asked) => *asked,
            Entry::Call(_) => at,
        }
    }
}

struct Queue {
    entries: BTreeMap<(u64, u64), Entry>,
    slice_end: u64,
    armed: u64,
}

#[cfg(target_os = "none")]
arch::percpu! {
    static QUEUES: PerCpu<IrqLock<Queue>> = IrqLock::new(&QUEUE_CLASS, Queue {
        entries: BTreeMap::new(),
        slice_end: u64::MAX,
        armed: u64::MAX,
    });
}

#[cfg(target_os = "none")]
fn queue(cpu: CpuId) -> &'static IrqLock<Queue> {
    QUEUES.on(cpu)
}

/// The host has one queue and a thread that serves it.
#[cfg(not(target_os = "none"))]
fn queue(_: CpuId) -> &'static IrqLock<Queue> {
    static QUEUE: IrqLock<Queue> = IrqLock::new(
        &QUEUE_CLASS,
        Queue { entries: BTreeMap::new(), slice_end: NEVER, armed: NEVER },
    );
    static SERVER: std::sync::Once = std::sync::Once::new();
    SERVER.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(core::time::Duration::from_micros(500));
                expire(&QUEUE, arch::time::now_ns());
            }
        });
    });
    &QUEUE
}

impl Queue {
    /// Sees to it that the hardware timer fires at the next instant or before, if this is this processor's queue.
    /// One that is set for an earlier instant is left: to set it costs a hypervisor's exit at each switch, to find
    /// nothing to do when it fires an interrupt in a while.
    fn program(&mut self) {
        let first = self.entries.keys().next().map_or(NEVER, |k| k.0);
        let wanted = first.min(self.slice_end);
        if wanted < self.armed {
            self.armed = wanted;
            #[cfg(target_os = "none")]
            arch::timer::arm(wanted);
        }
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn insert(at: u64, entry: Entry) -> (CpuId, (u64, u64)) {
    let key = (at, NEXT_ID.fetch_add(1, Ordering::Relaxed));
    let irq = arch::irq::disable();
    let cpu = arch::cpu::id();
    let mut queue = queue(cpu).lock();
    queue.entries.insert(key, entry);
    queue.program();
    drop(queue);
    drop(irq);
    (cpu, key)
}

/// Wakes a thread at an instant, or by so much later.
pub(crate) fn alarm(thread: Arc<Thread>, at_ns: u64, slack_ns: u64) -> (CpuId, AlarmKey) {
    insert(at_ns.saturating_add(slack_ns), Entry::Wake(thread, at_ns))
}

/// Takes an alarm back.
pub(crate) fn cancel(cpu: CpuId, key: AlarmKey) {
    remove(cpu, key);
}

fn remove(cpu: CpuId, key: (u64, u64)) -> bool {
    let removed = queue(cpu).lock().entries.remove(&key);
    removed.is_some()
}

/// When the running thread's slice ends. Interrupts are off.
#[cfg(target_os = "none")]
pub(crate) fn set_slice_end(end: Option<u64>) {
    let end = end.unwrap_or(NEVER);
    let mut queue = queue(arch::cpu::id()).lock();
    if queue.slice_end != end {
        queue.slice_end = end;
        queue.program();
    }
}

/// The hardware timer fired while the processor was in that mode.
#[cfg(target_os = "none")]
pub(crate) fn interrupt(mode: arch::timer::Mode) {
    let queue = queue(arch::cpu::id());
    queue.lock().armed = NEVER;
    let now = arch::time::now_ns();
    expire(queue, now);
    run::tick(now, mode);
    queue.lock().program();
}

fn expire(queue: &IrqLock<Queue>, now: u64) {
    let mut is_first = true;
    loop {
        let (key, entry) = {
            let mut queue = queue.lock();
            match queue.entries.first_entry() {
                Some(first) if first.get().earliest(first.key().0) <= now => first.remove_entry(),
                _ => return,
            }
        };
        if core::mem::take(&mut is_first) {
            Deferred::Timer.count();
        }
        match entry {
            Entry::Wake(thread, _) => {
                run::wake(&thread, state::ANY);
            }
            Entry::Call(timer) => timer.fire(key),
        }
    }
}

/// A timer that will expire, as the log shows it.
#[derive(Clone)]
pub struct Pending {
    /// When, by the monotonic clock.
    pub at_ns: u64,
    /// Whom it wakes; `None` for one that calls a function.
    pub wakes: Option<Arc<Thread>>,
}

/// What a processor's timers wait for, the earliest first.
pub fn pending(cpu: CpuId) -> Vec<Pending> {
    let queue = queue(cpu).lock();
    let entries = queue.entries.iter().map(|(key, entry)| match entry {
        Entry::Wake(thread, _) => Pending { at_ns: key.0, wakes: Some(thread.clone()) },
        Entry::Call(_) => Pending { at_ns: key.0, wakes: None },
    });
    entries.collect()
}

/// When a processor's hardware timer is set to fire.
pub fn armed(cpu: CpuId) -> Option<u64> {
    let at = queue(cpu).lock().armed;
    (at != NEVER).then_some(at)
}

/// What a timer calls.
type Callback = Box<dyn Fn(&Arc<Timer>) + Send + Sync>;

/// The queue that a timer is in, and its place there.
type Armed = (CpuId, (u64, u64));

/// A timer that calls a function, in interrupt context.
pub struct Timer {
    callback: Callback,
    armed: IrqLock<Option<Armed>>,
    this: alloc::sync::Weak<Timer>,
}

impl Timer {
    /// A timer that is not armed. The callback may arm it again.
    pub fn new(callback: impl Fn(&Arc<Timer>) + Send + Sync + 'static) -> Arc<Timer> {
        Arc::new_cyclic(|this| Timer {
            callback: Box::new(callback),
            armed: IrqLock::new(&STATE_CLASS, None),
            this: this.clone(),
        })
    }

    /// Arms it for an instant of the monotonic clock, instead of any earlier one.
    pub fn arm(&self, at_ns: u64) {
        self.arm_locked(self.armed.lock(), at_ns);
    }

    /// Sees to it that it fires at an instant or before, for a callback that looks whether it is time
    /// and arms the timer again if not. Who sets the same far instant again and again pays nothing.
    pub fn arm_by(&self, at_ns: u64) {
        let armed = self.armed.lock();
        if armed.is_none_or(|(_, key)| key.0 > at_ns) {
            self.arm_locked(armed, at_ns);
        }
    }

    fn arm_locked(&self, mut armed: IrqLockGuard<'_, Option<Armed>>, at_ns: u64) {
        let Some(this) = self.this.upgrade() else { return };
        if let Some((cpu, key)) = armed.take() {
            remove(cpu, key);
        }
        *armed = Some(insert(at_ns, Entry::Call(this)));
    }

    /// Disarms it; whether it was armed. A callback that has begun goes on.
    pub fn cancel(&self) -> bool {
        match self.armed.lock().take() {
            Some((cpu, key)) => remove(cpu, key),
            None => false,
        }
    }

    /// The instant it is armed for.
    pub fn deadline(&self) -> Option<u64> {
        self.armed.lock().map(|(_, key)| key.0)
    }

    fn fire(self: &Arc<Timer>, key: (u64, u64)) {
        {
            let mut armed = self.armed.lock();
            if armed.is_some_and(|(_, k)| k == key) {
                *armed = None;
            }
        }
        (self.callback)(self);
    }
}

/// Sleeps for a time, whatever signals come.
pub fn sleep_ns(ns: u64) {
    let end = arch::time::now_ns().saturating_add(ns);
    crate::WaitQueue::new().wait_deadline(end, || None::<()>);
}

/// Sleeps until an instant of the monotonic clock, whatever signals come.
pub fn sleep_until(at_ns: u64) {
    crate::WaitQueue::new().wait_deadline(at_ns, || None::<()>);
}
