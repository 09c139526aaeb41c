//! The scheduling policy of one processor, free of threads, locks and hardware: which entity runs
//! next, for how long, and whether a woken one takes over at once. Host tests drive it with
//! simulated processors and time.
//!
//! Two classes: real time (`SCHED_FIFO`, `SCHED_RR`), always before fair (`SCHED_OTHER`,
//! `SCHED_BATCH`, `SCHED_IDLE`). The running entity is in no queue. The fair class keeps the
//! waiting entities ordered by virtual run time; who has had least for its weight runs next.
//!
//! Invariants: `nr_running` counts waiting and running entities; `load` is the sum of the weights
//! of the fair ones among them; `min_vruntime` never goes back.

mod entity;
mod rt;
mod tunables;
pub mod weight;

pub use entity::{Entity, Params, Policy};
pub use tunables::Tunables;

use crate::pairing::Heap;
use core::ptr::NonNull;
use entity::{ByVruntime, Place};
use rt::{End, RtQueue};

/// Why an entity comes onto a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enqueue {
    /// It woke up.
    Wakeup,
    /// It is new.
    New,
    /// It comes from another processor's queue, or changed its parameters.
    Move,
}

/// What becomes of the running entity when the processor is to choose again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prev {
    /// It stays runnable.
    Runnable,
    /// It sleeps (or is dead, or leaves for another processor).
    Leaves,
}

/// The waiting and running entities of one processor.
pub struct RunQueue {
    fair: Heap<ByVruntime>,
    rt: RtQueue,
    current: Option<NonNull<Entity>>,
    number: u32,
    nr_running: u32,
    nr_fair_waiting: u32,
    load: u64,
    min_vruntime: u64,
    clock_ns: u64,
    accounted_ns: u64,
    rt_period_start_ns: u64,
    rt_used_ns: u64,
    tunables: &'static Tunables,
}

// SAFETY: entities are reachable only through the queue, under whatever lock guards it.
unsafe impl Send for RunQueue {}

impl RunQueue {
    /// An empty queue for processor `number`.
    pub const fn new(number: u32, tunables: &'static Tunables) -> RunQueue {
        RunQueue {
            fair: Heap::new(),
            rt: RtQueue::new(),
            current: None,
            number,
            nr_running: 0,
            nr_fair_waiting: 0,
            load: 0,
            min_vruntime: 0,
            clock_ns: 0,
            accounted_ns: 0,
            rt_period_start_ns: 0,
            rt_used_ns: 0,
            tunables,
        }
    }

    /// Tells the queue its processor's number.
    pub fn set_number(&mut self, number: u32) {
        self.number = number;
    }

    /// Entities waiting or running.
    #[inline]
    pub fn nr_running(&self) -> u32 {
        self.nr_running
    }

    /// Entities waiting.
    #[inline]
    pub fn nr_waiting(&self) -> u32 {
        self.nr_fair_waiting + self.rt.len()
    }

    /// The sum of the weights of the fair entities.
    #[inline]
    pub fn load(&self) -> u64 {
        self.load
    }

    /// The entity that runs; `None` while the processor idles.
    #[inline]
    pub fn current(&self) -> Option<NonNull<Entity>> {
        self.current
    }

    /// The queue's clock as of the last [`update`](Self::update).
    #[inline]
    pub fn clock_ns(&self) -> u64 {
        self.clock_ns
    }

    /// Brings the clock and the running entity's accounts up to `now_ns`; answers what the entity
    /// ran since the last time.
    #[inline]
    pub fn update(&mut self, now_ns: u64) -> u64 {
        self.clock_ns = now_ns;
        let delta = now_ns.saturating_sub(self.accounted_ns);
        self.accounted_ns = now_ns;
        let Some(current) = self.current else { return delta };
        // SAFETY: the current entity is on this queue, so valid and ours.
        let current = unsafe { &mut *current.as_ptr() };
        current.run_ns += delta;
        if current.is_realtime() {
            self.charge_realtime(delta);
            return delta;
        }
        let spent = weight::virtual_time(delta, current.weight, current.inverse);
        current.vruntime = current.vruntime.wrapping_add(spent);
        let least = current.vruntime;
        self.advance_min(least);
        delta
    }

    #[inline]
    fn advance_min(&mut self, running: u64) {
        let mut least = running;
        if let Some(first) = self.fair.peek() {
            // SAFETY: entities in the heap are valid.
            let first = unsafe { (*first.as_ptr()).vruntime };
            if (first.wrapping_sub(least) as i64) < 0 {
                least = first;
            }
        }
        if (least.wrapping_sub(self.min_vruntime) as i64) > 0 {
            self.min_vruntime = least;
        }
    }

    fn charge_realtime(&mut self, delta: u64) {
        let period = self.tunables.rt_period_ns();
        if self.clock_ns.saturating_sub(self.rt_period_start_ns) >= period {
            self.rt_period_start_ns = self.clock_ns;
            self.rt_used_ns = 0;
        }
        self.rt_used_ns += delta;
    }

    /// Whether the real-time class used up its share of this period while others wait.
    fn realtime_is_throttled(&self) -> bool {
        self.nr_fair_waiting > 0
            && self.rt_used_ns >= self.tunables.rt_runtime_ns()
            && self.clock_ns.saturating_sub(self.rt_period_start_ns) < self.tunables.rt_period_ns()
    }

    /// Puts an entity on the queue. Call [`update`](Self::update) first.
    ///
    /// # Safety
    /// The entity is on no queue and stays valid and in place until it has left this one; the
    /// caller has the right to change it.
    pub unsafe fn enqueue(&mut self, entity: NonNull<Entity>, why: Enqueue) {
        // SAFETY: the caller promises a valid entity that is ours to change.
        let item = unsafe { &mut *entity.as_ptr() };
        debug_assert!(item.place == Place::Off);
        self.nr_running += 1;
        item.place = Place::Waiting;
        if item.is_realtime() {
            item.since_ns = self.clock_ns;
            // SAFETY: as promised by the caller.
            unsafe { self.rt.insert(entity, End::Tail) };
            return;
        }
        self.place(item, why);
        item.since_ns = self.clock_ns;
        self.load += u64::from(item.weight);
        self.nr_fair_waiting += 1;
        // SAFETY: as promised by the caller.
        unsafe { self.fair.insert(entity) };
    }

    /// Chooses where on this queue's time line an arriving entity starts.
    #[inline]
    fn place(&self, item: &mut Entity, why: Enqueue) {
        let least = self.min_vruntime;
        match why {
            Enqueue::Wakeup => {
                if item.home != self.number {
                    let slept = self.clock_ns.saturating_sub(item.since_ns) as i64;
                    item.vruntime = least.wrapping_add(item.lag.saturating_sub(slept) as u64);
                }
                let credit = match item.params.policy {
                    Policy::Idle => 0,
                    _ => self.tunables.latency_ns() / 2,
                };
                let floor = least.wrapping_sub(credit);
                if (item.vruntime.wrapping_sub(floor) as i64) < 0 {
                    item.vruntime = floor;
                }
            }
            Enqueue::New => {
                // A newcomer waits a turn, so that forking does not buy time.
                let slice = self.slice_with(item.weight);
                let turn = weight::virtual_time(slice, item.weight, item.inverse);
                item.vruntime = least.wrapping_add(turn);
            }
            Enqueue::Move => item.vruntime = least.wrapping_add(item.lag as u64),
        }
        item.home = self.number;
    }

    /// Takes an entity that waits off the queue.
    ///
    /// # Safety
    /// The entity waits on this queue.
    pub unsafe fn dequeue(&mut self, entity: NonNull<Entity>) {
        // SAFETY: the entity is on this queue, hence valid and ours.
        let item = unsafe { &mut *entity.as_ptr() };
        debug_assert!(item.place == Place::Waiting);
        item.place = Place::Off;
        self.nr_running -= 1;
        item.wait_ns += self.clock_ns.saturating_sub(item.since_ns);
        if item.is_realtime() {
            // SAFETY: it is on the real-time list.
            unsafe { self.rt.remove(entity) };
        } else {
            // SAFETY: it is in the heap.
            unsafe { self.fair.remove(entity) };
            self.nr_fair_waiting -= 1;
            self.load -= u64::from(item.weight);
            item.lag = item.vruntime.wrapping_sub(self.min_vruntime) as i64;
        }
        item.since_ns = self.clock_ns;
    }

    /// Chooses who runs from now on; `None` means nobody. Call [`update`](Self::update) first.
    #[inline]
    pub fn choose(&mut self, prev: Prev) -> Option<NonNull<Entity>> {
        let Some(current) = self.current else { return self.pick() };
        // SAFETY: the current entity is on this queue, hence valid and ours.
        let item = unsafe { &mut *current.as_ptr() };
        if prev == Prev::Leaves {
            self.leave(item);
            return self.pick();
        }
        if self.stays(item) {
            item.run_ns_at_pick = item.run_ns;
            return Some(current);
        }
        self.put_back(current);
        let next = self.pick();
        item.yielded = false;
        next
    }

    fn leave(&mut self, item: &mut Entity) {
        self.current = None;
        self.nr_running -= 1;
        item.place = Place::Off;
        item.yielded = false;
        item.since_ns = self.clock_ns;
        if !item.is_realtime() {
            self.load -= u64::from(item.weight);
            item.lag = item.vruntime.wrapping_sub(self.min_vruntime) as i64;
        }
    }

    /// Whether the running entity is still the one to run, without touching a queue.
    #[inline]
    fn stays(&self, item: &Entity) -> bool {
        if self.nr_waiting() == 0 {
            return true;
        }
        if item.is_realtime() || self.rt.len() > 0 || item.yielded {
            return false;
        }
        match self.fair.peek() {
            None => true,
            // SAFETY: entities in the heap are valid.
            Some(first) => unsafe {
                let first = (*first.as_ptr()).vruntime;
                (item.vruntime.wrapping_sub(first) as i64) <= 0
            },
        }
    }

    fn put_back(&mut self, current: NonNull<Entity>) {
        // SAFETY: the current entity is on this queue, hence valid and ours.
        let item = unsafe { &mut *current.as_ptr() };
        self.current = None;
        item.place = Place::Waiting;
        item.since_ns = self.clock_ns;
        if item.is_realtime() {
            let turn_is_over = item.params.policy == Policy::RoundRobin
                && item.run_ns - item.run_ns_at_pick >= self.tunables.rr_slice_ns();
            let end = if item.yielded || turn_is_over { End::Tail } else { End::Head };
            // SAFETY: the entity is on no list; its owner keeps it valid while it is on the queue.
            unsafe { self.rt.insert(current, end) };
            return;
        }
        if item.yielded
            && let Some(first) = self.fair.peek()
        {
            // Others go first, but what the yielder is owed is not lost for long.
            // SAFETY: entities in the heap are valid.
            let first = unsafe { (*first.as_ptr()).vruntime };
            if (item.vruntime.wrapping_sub(first) as i64) <= 0 {
                item.vruntime = first.wrapping_add(1);
            }
        }
        self.nr_fair_waiting += 1;
        // SAFETY: as above.
        unsafe { self.fair.insert(current) };
    }

    #[inline]
    fn pick(&mut self) -> Option<NonNull<Entity>> {
        let next = if self.rt.len() > 0 && !self.realtime_is_throttled() {
            self.rt.pop()
        } else {
            self.fair.pop().inspect(|_| self.nr_fair_waiting -= 1)
        };
        self.current = next;
        // SAFETY: entities on the queue are valid and ours.
        let item = unsafe { &mut *next?.as_ptr() };
        item.place = Place::Running;
        item.run_ns_at_pick = item.run_ns;
        item.wait_ns += self.clock_ns.saturating_sub(item.since_ns);
        item.picks += 1;
        next
    }

    /// Changes the parameters of the running entity, which is in no queue.
    pub fn set_current_params(&mut self, params: Params) {
        let Some(current) = self.current else { return };
        // SAFETY: the current entity is on this queue, hence valid and ours.
        let item = unsafe { &mut *current.as_ptr() };
        if !item.is_realtime() {
            self.load -= u64::from(item.weight);
        }
        item.set_params(params);
        if !item.is_realtime() {
            self.load += u64::from(item.weight);
        }
    }

    /// The running entity lets others go first at the next [`choose`](Self::choose).
    pub fn set_yielded(&mut self) {
        if let Some(current) = self.current {
            // SAFETY: the current entity is on this queue, hence valid and ours.
            unsafe { (*current.as_ptr()).yielded = true };
        }
    }

    /// Whether an entity that just came onto the queue is to run before the current one goes on.
    ///
    /// # Safety
    /// The entity waits on this queue.
    #[inline]
    pub unsafe fn preempts(&self, woken: NonNull<Entity>) -> bool {
        let Some(current) = self.current else { return true };
        // SAFETY: both are on this queue, hence valid.
        let (current, woken) = unsafe { (&*current.as_ptr(), &*woken.as_ptr()) };
        if woken.is_realtime() {
            return !current.is_realtime() || woken.params.rt_priority > current.params.rt_priority;
        }
        if current.is_realtime() {
            return false;
        }
        match (current.params.policy, woken.params.policy) {
            (Policy::Idle, Policy::Normal | Policy::Batch) => return true,
            (_, Policy::Batch | Policy::Idle) => return false,
            _ => {}
        }
        let ahead = current.vruntime.wrapping_sub(woken.vruntime) as i64;
        if ahead <= 0 {
            return false;
        }
        let grain = self.tunables.wakeup_granularity_ns();
        ahead as u64 > weight::virtual_time(grain, woken.weight, woken.inverse)
    }

    /// The share of the latency period an entity of this weight gets, on top of those queued.
    #[inline]
    fn slice_with(&self, extra_weight: u32) -> u64 {
        self.slice_of(extra_weight, self.load + u64::from(extra_weight), self.nr_running + 1)
    }

    #[inline]
    fn slice_of(&self, weight: u32, load: u64, count: u32) -> u64 {
        let grain = self.tunables.min_granularity_ns();
        let period = self.tunables.latency_ns().max(grain * u64::from(count));
        (period * u64::from(weight) / load.max(1)).max(grain)
    }

    /// When the processor has to choose again if nothing else happens; `None`: never.
    pub fn slice_end_ns(&self) -> Option<u64> {
        let current = self.current?;
        if self.nr_waiting() == 0 {
            return None;
        }
        // SAFETY: the current entity is on this queue, hence valid.
        let item = unsafe { &*current.as_ptr() };
        let ran = item.run_ns - item.run_ns_at_pick;
        if item.is_realtime() {
            let mut end = u64::MAX;
            if item.params.policy == Policy::RoundRobin
                && self.rt.best_priority() == Some(item.params.rt_priority)
            {
                end = self.clock_ns + self.tunables.rr_slice_ns().saturating_sub(ran);
            }
            if self.nr_fair_waiting > 0 {
                let left = self.tunables.rt_runtime_ns().saturating_sub(self.rt_used_ns);
                end = end.min(self.clock_ns.saturating_add(left));
            }
            return (end != u64::MAX).then_some(end);
        }
        let slice = self.slice_of(item.weight, self.load, self.nr_running);
        let mut end = self.clock_ns + slice.saturating_sub(ran);
        if self.rt.len() > 0 {
            // Real time is throttled: it comes back with the next period.
            end = end.min(self.rt_period_start_ns + self.tunables.rt_period_ns());
        }
        Some(end)
    }

    /// Whether the processor has to choose again now. Call [`update`](Self::update) first.
    pub fn slice_is_over(&self) -> bool {
        let Some(current) = self.current else { return self.nr_waiting() > 0 };
        if self.nr_waiting() == 0 {
            return false;
        }
        // SAFETY: the current entity is on this queue, hence valid.
        let item = unsafe { &*current.as_ptr() };
        let ran = item.run_ns - item.run_ns_at_pick;
        if item.is_realtime() {
            let turn_is_over = item.params.policy == Policy::RoundRobin
                && self.rt.best_priority() == Some(item.params.rt_priority)
                && ran >= self.tunables.rr_slice_ns();
            return turn_is_over || self.realtime_is_throttled();
        }
        if self.rt.len() > 0 && !self.realtime_is_throttled() {
            return true;
        }
        ran >= self.slice_of(item.weight, self.load, self.nr_running)
    }

    /// A waiting entity that `may_go` accepts and that another processor should take: fair ones
    /// first, at most `limit` looked at.
    pub fn find_waiting(
        &self,
        limit: usize,
        mut may_go: impl FnMut(&Entity, NonNull<Entity>) -> bool,
    ) -> Option<NonNull<Entity>> {
        let mut found = None;
        let mut visit = |entity: NonNull<Entity>| {
            // SAFETY: entities on the queue are valid.
            if may_go(unsafe { &*entity.as_ptr() }, entity) {
                found = Some(entity);
            }
            found.is_none()
        };
        self.rt.scan(limit, &mut visit);
        if found.is_none() {
            self.fair.scan(limit, |entity| {
                // SAFETY: entities on the queue are valid.
                if may_go(unsafe { &*entity.as_ptr() }, entity) {
                    found = Some(entity);
                }
                found.is_none()
            });
        }
        found
    }
}
