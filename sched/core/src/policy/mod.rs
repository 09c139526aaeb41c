//! The waiting and running threads of one processor: the queues that `schedpolicy` decides about, free
//! of threads, locks and hardware.

mod entity;
mod rt;

pub use entity::Entity;
pub use schedpolicy::{Enqueue, Params, Policy, Preemption, Sampler, Tunables};

use core::ptr::NonNull;
use entity::ByVruntime;
use pairing::Heap;
use rt::{End, RtQueue};
use schedpolicy::{Account, Class, Found, Queueing, Timeline};

/// What becomes of the running entity when the processor is to choose again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prev {
    /// It stays runnable.
    Runnable,
    /// It sleeps (or is dead, or leaves for another processor).
    Leaves,
}

/// The waiting and running entities of one processor. The running one is in no queue.
pub struct RunQueue {
    fair: Heap<ByVruntime>,
    rt: RtQueue,
    current: Option<NonNull<Entity>>,
    line: Timeline,
}

// SAFETY: entities are reachable only through the queue, under whatever lock guards it.
unsafe impl Send for RunQueue {}

/// The virtual run time of the first that waits in the fair class.
#[inline(always)]
fn first(fair: &Heap<ByVruntime>) -> Option<u64> {
    // SAFETY: entities in the heap are valid.
    fair.peek().map(|first| unsafe { (*first.as_ptr()).account.vruntime })
}

impl RunQueue {
    /// An empty queue for processor `number`.
    pub const fn new(number: u32, tunables: &'static Tunables) -> RunQueue {
        RunQueue {
            fair: Heap::new(),
            rt: RtQueue::new(),
            current: None,
            line: Timeline::new(number, tunables),
        }
    }

    /// Tells the queue its processor's number.
    pub fn set_number(&mut self, number: u32) {
        self.line.set_number(number);
    }

    /// Entities waiting or running.
    #[inline]
    pub fn nr_running(&self) -> u32 {
        self.line.nr_running()
    }

    /// What the processor has to do, in the weight of a thread of nice 0.
    pub fn burden(&self) -> u64 {
        // SAFETY: the current entity is on this queue, hence valid and ours.
        let running = self.current.map(|current| unsafe { &(*current.as_ptr()).account });
        let realtime = running.filter(|running| running.is_realtime());
        self.line.burden() + realtime.map_or(0, Account::burden)
    }

    /// Entities waiting.
    #[inline]
    pub fn nr_waiting(&self) -> u32 {
        self.line.nr_waiting()
    }

    /// The entity that runs; `None` while the processor idles.
    #[inline]
    pub fn current(&self) -> Option<NonNull<Entity>> {
        self.current
    }

    /// Brings the clock and the running entity's accounts up to `now_ns`; answers what the entity
    /// ran since the last time.
    #[inline]
    pub fn update(&mut self, now_ns: u64) -> u64 {
        // SAFETY: the current entity is on this queue, so valid and ours.
        let running = self.current.map(|current| unsafe { &mut (*current.as_ptr()).account });
        let fair = &self.fair;
        self.line.update(now_ns, running, || first(fair))
    }

    /// Puts an entity on the queue. Call [`update`](Self::update) first.
    ///
    /// # Safety
    /// The entity is on no queue and stays valid and in place until it has left this one; the
    /// caller has the right to change it.
    pub unsafe fn enqueue(&mut self, entity: NonNull<Entity>, why: Enqueue) {
        // SAFETY: the caller promises a valid entity that is ours to change and on no queue.
        unsafe {
            match self.line.arrive(&mut (*entity.as_ptr()).account, why) {
                Class::Realtime => self.rt.insert(entity, End::Tail),
                Class::Fair => self.fair.insert(entity),
            }
        }
    }

    /// Takes an entity that waits off the queue.
    ///
    /// # Safety
    /// The entity waits on this queue.
    pub unsafe fn dequeue(&mut self, entity: NonNull<Entity>) {
        // SAFETY: the entity is on this queue, hence valid and ours.
        unsafe {
            if (*entity.as_ptr()).account.is_realtime() {
                self.rt.remove(entity);
            } else {
                self.fair.remove(entity);
            }
            self.line.depart(&mut (*entity.as_ptr()).account);
        }
    }

    /// Chooses who runs from now on; `None` means nobody. Call [`update`](Self::update) first.
    #[inline]
    pub fn choose(&mut self, prev: Prev) -> Option<NonNull<Entity>> {
        let Some(current) = self.current else { return self.pick() };
        // SAFETY: the current entity is on this queue, hence valid and ours; it is on no list.
        unsafe {
            let item = &mut (*current.as_ptr()).account;
            let fair = &self.fair;
            if prev == Prev::Leaves {
                self.line.leave(item);
                return self.pick();
            }
            if self.line.stays(item, || first(fair)) {
                return Some(current);
            }
            match self.line.put_back(item, || first(fair)) {
                Queueing::Fair => self.fair.insert(current),
                Queueing::RealtimeHead => self.rt.insert(current, End::Head),
                Queueing::RealtimeTail => self.rt.insert(current, End::Tail),
            }
            let next = self.pick();
            (*current.as_ptr()).account.yielded = false;
            next
        }
    }

    #[inline]
    fn pick(&mut self) -> Option<NonNull<Entity>> {
        self.current = match self.line.next_class() {
            Class::Realtime => self.rt.pop(),
            Class::Fair => self.fair.pop(),
        };
        // SAFETY: entities on the queue are valid and ours.
        self.line.picked(unsafe { &mut (*self.current?.as_ptr()).account });
        self.current
    }

    /// Changes the parameters of the running entity, which is in no queue.
    pub fn set_current_params(&mut self, params: Params) {
        if let Some(current) = self.current {
            // SAFETY: the current entity is on this queue, hence valid and ours.
            self.line.set_params(unsafe { &mut (*current.as_ptr()).account }, params);
        }
    }

    /// Notes in which mode the running entity was seen.
    pub fn sample_current(&mut self, note: fn(&mut Account) -> Found) -> Option<Found> {
        // SAFETY: the current entity is on this queue, hence valid and ours.
        self.current.map(|current| note(unsafe { &mut (*current.as_ptr()).account }))
    }

    /// The running entity lets others go first at the next [`choose`](Self::choose).
    pub fn set_yielded(&mut self) {
        if let Some(current) = self.current {
            // SAFETY: the current entity is on this queue, hence valid and ours.
            unsafe { (*current.as_ptr()).account.yielded = true };
        }
    }

    /// Whether an entity that just came onto the queue is to run before the current one goes on, which `gives_way` if it
    /// is about to sleep.
    ///
    /// # Safety
    /// The entity waits on this queue.
    #[inline]
    pub unsafe fn contend(&mut self, woken: NonNull<Entity>, gives_way: bool) -> Preemption {
        let Some(current) = self.current else { return Preemption::Now };
        // SAFETY: both are on this queue, hence valid.
        let (current, woken) =
            unsafe { (&(*current.as_ptr()).account, &(*woken.as_ptr()).account) };
        self.line.contend(current, woken, gives_way)
    }

    /// When the processor has to choose again if nothing else happens; `None`: never.
    pub fn slice_end_ns(&self) -> Option<u64> {
        // SAFETY: the current entity is on this queue, hence valid.
        let running = unsafe { &(*self.current?.as_ptr()).account };
        self.line.slice_end_ns(running, self.rt.best_priority())
    }

    /// Whether the processor has to choose again now. Call [`update`](Self::update) first.
    pub fn slice_is_over(&self) -> bool {
        let Some(current) = self.current else { return self.nr_waiting() > 0 };
        // SAFETY: the current entity is on this queue, hence valid.
        let running = unsafe { &(*current.as_ptr()).account };
        self.line.slice_is_over(running, self.rt.best_priority())
    }

    /// A waiting entity that `may_go` accepts and that another processor should take:
    /// real-time ones first, at most `limit` of each class looked at.
    pub fn find_waiting(
        &self,
        limit: usize,
        mut may_go: impl FnMut(NonNull<Entity>) -> bool,
    ) -> Option<NonNull<Entity>> {
        let mut found = None;
        let mut visit = |entity: NonNull<Entity>| {
            if may_go(entity) {
                found = Some(entity);
            }
            found.is_none()
        };
        self.rt.scan(limit, &mut visit);
        if found.is_none() {
            self.fair.scan(limit, |entity| {
                if may_go(entity) {
                    found = Some(entity);
                }
                found.is_none()
            });
        }
        found
    }
}
