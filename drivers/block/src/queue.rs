//! Hardware queues: tags, requests that wait for one, dispatch, and time-outs.
//!
//! A CPU submits to the hardware queue it is mapped to. A tag is taken from a bitmap without a lock;
//! only when none is free, or the driver has no room, does a request go to the queue's pending list,
//! where later bios merge with it. A completion gives the tag back and dispatches from that list.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arch::lock::{IrqLock, LockClass};
use arch::time::now_ns;

use crate::bio::{Bio, Op};
use crate::driver::{Driver, Limits, TimeoutAction};
use crate::line::{Line, Policy, Scheduler};
use crate::request::Request;
use crate::stats::Stats;

static PENDING: LockClass = LockClass::new("block.pending", 520);

pub(crate) struct HwQueue {
    tags: Vec<AtomicU64>,
    depth: usize,
    /// When each tag's request was handed to the driver; 0: free.
    started: Vec<AtomicU64>,
    pending: IrqLock<Line>,
    waiting: AtomicUsize,
    running: AtomicBool,
}

impl HwQueue {
    fn new(depth: usize, scheduler: Scheduler) -> HwQueue {
        HwQueue {
            tags: (0..depth.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            depth,
            started: (0..depth).map(|_| AtomicU64::new(0)).collect(),
            pending: IrqLock::new(&PENDING, Line::new(scheduler)),
            waiting: AtomicUsize::new(0),
            running: AtomicBool::new(false),
        }
    }

    fn take_tag(&self) -> Option<usize> {
        for (word, bits) in self.tags.iter().enumerate() {
            let valid = match self.depth - word * 64 {
                rest if rest >= 64 => u64::MAX,
                rest => (1 << rest) - 1,
            };
            let mut used = bits.load(Ordering::Relaxed);
            while used & valid != valid {
                let bit = (!used & valid).trailing_zeros();
                // Acquire: pairs with the Release in `give_tag`.
                match bits.compare_exchange_weak(
                    used,
                    used | 1 << bit,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return Some(word * 64 + bit as usize),
                    Err(now) => used = now,
                }
            }
        }
        None
    }

    fn give_tag(&self, tag: usize) {
        if let Some(started) = self.started.get(tag) {
            started.store(0, Ordering::Relaxed);
        }
        if let Some(bits) = self.tags.get(tag / 64) {
            bits.fetch_and(!(1 << (tag % 64)), Ordering::Release);
        }
    }
}

/// The queues of one disk and the driver behind them.
pub(crate) struct Core {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) limits: Limits,
    pub(crate) stats: Stats,
    pub(crate) policy: Policy,
    queues: Vec<HwQueue>,
}

/// A tag in use. Dropping it gives the tag back and starts the next request.
pub(crate) struct Slot {
    /// `None` once the tag was given back by other means.
    core: Option<Arc<Core>>,
    queue: usize,
    tag: usize,
    queued_ns: u64,
}

impl Slot {
    pub(crate) fn tag(&self) -> usize {
        self.tag
    }

    pub(crate) fn account(&self, op: Op, sectors: u64, bios: usize) {
        let elapsed = now_ns().saturating_sub(self.queued_ns);
        if let Some(core) = &self.core {
            core.stats.completed(op, sectors, bios, elapsed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(core) = self.core.take() else { return };
        let Some(queue) = core.queues.get(self.queue) else { return };
        queue.give_tag(self.tag);
        if queue.waiting.load(Ordering::SeqCst) > 0 {
            core.run(self.queue);
        }
    }
}

impl Core {
    pub(crate) fn new(driver: Arc<dyn Driver>) -> Core {
        let limits = driver.limits();
        // With a queue for each processor the drive sorts better than one queue's line could.
        let scheduler = if limits.queues > 1 { Scheduler::None } else { Scheduler::Deadline };
        let depth = limits.queue_depth.max(1);
        let queues = (0..limits.queues.max(1)).map(|_| HwQueue::new(depth, scheduler)).collect();
        Core { driver, limits, stats: Stats::default(), policy: Policy::new(scheduler), queues }
    }

    /// Another scheduler: what waits moves to its lines.
    pub(crate) fn set_scheduler(&self, scheduler: Scheduler) {
        let mut current = self.policy.current.lock();
        *current = scheduler;
        let (knobs, now) = (&self.policy.knobs, now_ns());
        for queue in &self.queues {
            let mut pending = queue.pending.lock();
            let mut old = core::mem::replace(&mut *pending, Line::new(scheduler));
            while let Some(request) = old.pop(knobs, now) {
                pending.push(request, knobs, now);
            }
        }
    }

    /// Starts `bio`, which fits the limits, on this CPU's queue.
    pub(crate) fn start(self: &Arc<Core>, bio: Bio) {
        let cpus = arch::cpu::count().max(1);
        let index = arch::cpu::id().index() * self.queues.len() / cpus % self.queues.len();
        let Some(queue) = self.queues.get(index) else { return };
        self.stats.started();
        if queue.waiting.load(Ordering::SeqCst) == 0
            && let Some(tag) = queue.take_tag()
        {
            match self.hand_over(index, Request::new(bio), tag) {
                Ok(()) => self.driver.kick(index),
                Err(request) => {
                    self.wait_in_line(queue, request);
                    // Room may have come between the refusal and the queueing.
                    self.run(index);
                }
            }
            return;
        }
        self.wait_in_line(queue, Request::new(bio));
        self.run(index);
    }

    fn wait_in_line(&self, queue: &HwQueue, mut request: Request) {
        let knobs = &self.policy.knobs;
        let mut pending = queue.pending.lock();
        if request.bios.len() == 1
            && let Some(bio) = request.bios.pop()
        {
            let op = bio.op;
            match pending.merge(bio, &self.limits, knobs) {
                Ok(()) => {
                    self.stats.merged(op);
                    self.stats.unstarted();
                    return;
                }
                Err(bio) => request.bios.push(bio),
            }
        }
        pending.push(request, knobs, now_ns());
        queue.waiting.fetch_add(1, Ordering::SeqCst);
    }

    #[expect(clippy::result_large_err, reason = "giving the request back must not allocate")]
    fn hand_over(
        self: &Arc<Core>,
        index: usize,
        mut request: Request,
        tag: usize,
    ) -> Result<(), Request> {
        let now = now_ns();
        if let Some(started) = self.queues.get(index).and_then(|queue| queue.started.get(tag)) {
            started.store(now.max(1), Ordering::Relaxed);
        }
        request.slot = Some(Slot { core: Some(self.clone()), queue: index, tag, queued_ns: now });
        self.driver.submit(index, request).map_err(|mut request| {
            if let Some(mut slot) = request.slot.take() {
                // Not through `drop`, which would dispatch again.
                slot.core = None;
                if let Some(queue) = self.queues.get(index) {
                    queue.give_tag(slot.tag);
                }
            }
            request
        })
    }

    /// Dispatches waiting requests while there are tags. One CPU at a time does it per queue; another
    /// that comes meanwhile leaves its work to the first.
    fn run(self: &Arc<Core>, index: usize) {
        let Some(queue) = self.queues.get(index) else { return };
        let mut started = false;
        while queue.waiting.load(Ordering::SeqCst) > 0
            && !queue.running.swap(true, Ordering::SeqCst)
        {
            let mut blocked = false;
            while let Some(tag) = queue.take_tag() {
                let Some(request) = queue.pending.lock().pop(&self.policy.knobs, now_ns()) else {
                    queue.give_tag(tag);
                    break;
                };
                queue.waiting.fetch_sub(1, Ordering::SeqCst);
                if let Err(request) = self.hand_over(index, request, tag) {
                    queue.pending.lock().put_back(request);
                    queue.waiting.fetch_add(1, Ordering::SeqCst);
                    blocked = true;
                    break;
                }
                started = true;
            }
            let full = queue.take_tag().map(|tag| queue.give_tag(tag)).is_none();
            queue.running.store(false, Ordering::SeqCst);
            if blocked || full {
                break;
            }
        }
        if started {
            self.driver.kick(index);
        }
    }

    /// Looks for requests past their time: called once in a while by the disk's timer.
    pub(crate) fn check_timeouts(&self) {
        let now = now_ns();
        for (index, queue) in self.queues.iter().enumerate() {
            for (tag, started) in queue.started.iter().enumerate() {
                let since = started.load(Ordering::Relaxed);
                if since == 0 || now.saturating_sub(since) < self.limits.timeout_ns {
                    continue;
                }
                if self.driver.timed_out(index, tag) == TimeoutAction::Extend {
                    let _ =
                        started.compare_exchange(since, now, Ordering::Relaxed, Ordering::Relaxed);
                }
            }
        }
    }
}
