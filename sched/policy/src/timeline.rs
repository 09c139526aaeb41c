//! What one processor's queue knows of time and load.

use crate::account::{Account, Params, Place, Policy};
use crate::tunables::Tunables;
use crate::weight;

/// Why a thread comes onto a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enqueue {
    /// It woke up.
    Wakeup,
    /// It is new.
    New,
    /// It comes from another processor's queue, or changed its parameters.
    Move,
}

/// A scheduling class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// By priority.
    Realtime,
    /// By virtual run time.
    Fair,
}

/// Where a thread that stops running waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queueing {
    /// Before its equals of real time.
    RealtimeHead,
    /// Behind its equals of real time.
    RealtimeTail,
    /// By its virtual run time.
    Fair,
}

/// When one that came to wait gets the processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preemption {
    /// At once.
    Now,
    /// As soon as the running one has had the least of its turn; its slice ends then.
    Soon,
    /// When its turn comes, or when the slice ends that was shortened for another one.
    InTurn,
}

/// A processor's clock, counts and shares.
pub struct Timeline {
    number: u32,
    nr_running: u32,
    nr_fair_waiting: u32,
    nr_rt_waiting: u32,
    load: u64,
    min_vruntime: u64,
    clock_ns: u64,
    accounted_ns: u64,
    rt_period_start_ns: u64,
    rt_used_ns: u64,
    /// One waits that gets the processor as soon as the running one has had the least of its turn.
    is_contested: bool,
    tunables: &'static Tunables,
}

impl Timeline {
    /// Of the processor `number`, on which nothing runs or waits.
    pub const fn new(number: u32, tunables: &'static Tunables) -> Timeline {
        Timeline {
            number,
            nr_running: 0,
            nr_fair_waiting: 0,
            nr_rt_waiting: 0,
            load: 0,
            min_vruntime: 0,
            clock_ns: 0,
            accounted_ns: 0,
            rt_period_start_ns: 0,
            rt_used_ns: 0,
            is_contested: false,
            tunables,
        }
    }

    /// Sets the processor's number.
    pub fn set_number(&mut self, number: u32) {
        self.number = number;
    }

    /// Threads waiting or running.
    #[inline]
    pub fn nr_running(&self) -> u32 {
        self.nr_running
    }

    /// Threads waiting.
    #[inline]
    pub fn nr_waiting(&self) -> u32 {
        self.nr_fair_waiting + self.nr_rt_waiting
    }

    /// What there is to do, as [`Account::burden`] counts it; without a real-time thread that runs.
    pub fn burden(&self) -> u64 {
        self.load + u64::from(self.nr_rt_waiting) * u64::from(weight::NICE_0_WEIGHT)
    }

    /// The clock as of the last [`update`](Self::update).
    #[inline]
    pub fn clock_ns(&self) -> u64 {
        self.clock_ns
    }

    /// Brings the clock and the running thread's accounts up to `now_ns`; answers what passed since
    /// the last time. `first` is the virtual run time of the first in the fair queue.
    #[inline]
    pub fn update(
        &mut self,
        now_ns: u64,
        running: Option<&mut Account>,
        first: impl FnOnce() -> Option<u64>,
    ) -> u64 {
        self.clock_ns = now_ns;
        let delta = now_ns.saturating_sub(self.accounted_ns);
        self.accounted_ns = now_ns;
        let Some(running) = running else { return delta };
        running.run_ns += delta;
        if running.is_realtime() {
            self.charge_realtime(delta);
            return delta;
        }
        let spent = weight::virtual_time(delta, running.weight, running.inverse);
        running.vruntime = running.vruntime.wrapping_add(spent);
        self.advance_min(running.vruntime, first());
        delta
    }

    #[inline]
    fn advance_min(&mut self, running: u64, first: Option<u64>) {
        let mut least = running;
        if let Some(first) = first
            && (first.wrapping_sub(least) as i64) < 0
        {
            least = first;
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

    /// A thread that is on no queue comes to wait: in which class. After [`update`](Self::update).
    #[inline]
    pub fn arrive(&mut self, item: &mut Account, why: Enqueue) -> Class {
        debug_assert!(item.place == Place::Off);
        self.nr_running += 1;
        item.place = Place::Waiting;
        if item.is_realtime() {
            item.since_ns = self.clock_ns;
            self.nr_rt_waiting += 1;
            return Class::Realtime;
        }
        self.place(item, why);
        item.since_ns = self.clock_ns;
        self.load += u64::from(item.weight);
        self.nr_fair_waiting += 1;
        Class::Fair
    }

    /// Chooses where on this time line an arriving thread starts.
    #[inline]
    fn place(&self, item: &mut Account, why: Enqueue) {
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

    /// A waiting thread leaves its queue without running.
    pub fn depart(&mut self, item: &mut Account) {
        debug_assert!(item.place == Place::Waiting);
        item.place = Place::Off;
        self.nr_running -= 1;
        item.wait_ns += self.clock_ns.saturating_sub(item.since_ns);
        if item.is_realtime() {
            self.nr_rt_waiting -= 1;
        } else {
            self.nr_fair_waiting -= 1;
            self.load -= u64::from(item.weight);
            item.lag = item.vruntime.wrapping_sub(self.min_vruntime) as i64;
        }
        item.since_ns = self.clock_ns;
    }

    /// The running thread sleeps, ends, or goes to another processor.
    #[inline]
    pub fn leave(&mut self, item: &mut Account) {
        self.nr_running -= 1;
        item.place = Place::Off;
        item.yielded = false;
        item.since_ns = self.clock_ns;
        if !item.is_realtime() {
            self.load -= u64::from(item.weight);
            item.lag = item.vruntime.wrapping_sub(self.min_vruntime) as i64;
        }
    }

    /// Whether the running thread is still the one to run; its turn begins anew then, unless one waits for
    /// the least of it to end.
    #[inline]
    pub fn stays(&mut self, item: &mut Account, first: impl FnOnce() -> Option<u64>) -> bool {
        let stays = if self.nr_waiting() == 0 {
            true
        } else if item.is_realtime() || self.nr_rt_waiting > 0 || item.yielded {
            false
        } else if self.is_contested && self.turn_left_ns(item) > 0 {
            return true;
        } else {
            first().is_none_or(|first| (item.vruntime.wrapping_sub(first) as i64) <= 0)
        };
        if stays {
            self.begin_turn(item);
        }
        stays
    }

    #[inline]
    fn begin_turn(&mut self, item: &mut Account) {
        item.run_ns_at_pick = item.run_ns;
        self.is_contested = false;
    }

    /// What is left of the time that fair threads that wake leave to the running one.
    #[inline]
    fn turn_left_ns(&self, running: &Account) -> u64 {
        self.tunables.turn_ns().saturating_sub(running.run_ns - running.run_ns_at_pick)
    }

    /// The running thread stays runnable but waits: where.
    #[inline]
    pub fn put_back(
        &mut self,
        item: &mut Account,
        first: impl FnOnce() -> Option<u64>,
    ) -> Queueing {
        item.place = Place::Waiting;
        item.since_ns = self.clock_ns;
        if item.is_realtime() {
            self.nr_rt_waiting += 1;
            let turn_is_over = item.params.policy == Policy::RoundRobin
                && item.run_ns - item.run_ns_at_pick >= self.tunables.rr_slice_ns();
            let is_behind = item.yielded || turn_is_over;
            return if is_behind { Queueing::RealtimeTail } else { Queueing::RealtimeHead };
        }
        if item.yielded
            && let Some(first) = first()
        {
            // Others go first, but what the yielder is owed is not lost for long.
            if (item.vruntime.wrapping_sub(first) as i64) <= 0 {
                item.vruntime = first.wrapping_add(1);
            }
        }
        self.nr_fair_waiting += 1;
        Queueing::Fair
    }

    /// The class whose first runs next.
    #[inline]
    pub fn next_class(&self) -> Class {
        if self.nr_rt_waiting > 0 && !self.realtime_is_throttled() {
            Class::Realtime
        } else {
            Class::Fair
        }
    }

    /// A thread was taken from its queue to run.
    #[inline]
    pub fn picked(&mut self, item: &mut Account) {
        if item.is_realtime() {
            self.nr_rt_waiting -= 1;
        } else {
            self.nr_fair_waiting -= 1;
        }
        item.place = Place::Running;
        self.begin_turn(item);
        item.wait_ns += self.clock_ns.saturating_sub(item.since_ns);
        item.picks += 1;
    }

    /// Changes the parameters of the running thread. Between the classes it keeps its distance to the
    /// others: virtual time goes on while it is of real time.
    pub fn set_params(&mut self, item: &mut Account, params: Params) {
        let was_realtime = item.is_realtime();
        if !was_realtime {
            self.load -= u64::from(item.weight);
        }
        item.set_params(params);
        match (was_realtime, item.is_realtime()) {
            (false, true) => item.lag = item.vruntime.wrapping_sub(self.min_vruntime) as i64,
            (true, false) => self.place(item, Enqueue::Move),
            _ => {}
        }
        if !item.is_realtime() {
            self.load += u64::from(item.weight);
        }
    }

    /// Whether one that just came to wait is to run before the running one goes on. A fair thread of the same
    /// policy lets the running one have the least of its turn: two that wake each other at every step (a writer and a
    /// reader) would switch at every step otherwise. One that `gives_way` is about to sleep anyway.
    #[inline]
    pub fn contend(&mut self, running: &Account, woken: &Account, gives_way: bool) -> Preemption {
        if !self.is_ahead_of(woken, running) {
            return Preemption::InTurn;
        }
        let may_wait = !woken.is_realtime() && running.params.policy != Policy::Idle;
        if !may_wait || gives_way || self.turn_left_ns(running) == 0 {
            return Preemption::Now;
        }
        if core::mem::replace(&mut self.is_contested, true) {
            return Preemption::InTurn;
        }
        Preemption::Soon
    }

    /// Whether a woken thread goes before the running one.
    #[inline]
    fn is_ahead_of(&self, woken: &Account, running: &Account) -> bool {
        if woken.is_realtime() {
            return !running.is_realtime() || woken.params.rt_priority > running.params.rt_priority;
        }
        if running.is_realtime() {
            return false;
        }
        match (running.params.policy, woken.params.policy) {
            (Policy::Idle, Policy::Normal | Policy::Batch) => return true,
            (_, Policy::Batch | Policy::Idle) => return false,
            _ => {}
        }
        let ahead = running.vruntime.wrapping_sub(woken.vruntime) as i64;
        if ahead <= 0 {
            return false;
        }
        let grain = self.tunables.wakeup_granularity_ns();
        ahead as u64 > weight::virtual_time(grain, woken.weight, woken.inverse)
    }

    /// The share of the latency period one of this weight gets, on top of those queued.
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

    /// When the processor has to choose again if nothing else happens; `None`: never. `best` is the
    /// best priority that waits.
    pub fn slice_end_ns(&self, running: &Account, best: Option<u8>) -> Option<u64> {
        if self.nr_waiting() == 0 {
            return None;
        }
        let ran = running.run_ns - running.run_ns_at_pick;
        if running.is_realtime() {
            let mut end = u64::MAX;
            if running.params.policy == Policy::RoundRobin
                && best == Some(running.params.rt_priority)
            {
                end = self.clock_ns + self.tunables.rr_slice_ns().saturating_sub(ran);
            }
            if self.nr_fair_waiting > 0 {
                let left = self.tunables.rt_runtime_ns().saturating_sub(self.rt_used_ns);
                end = end.min(self.clock_ns.saturating_add(left));
            }
            return (end != u64::MAX).then_some(end);
        }
        let slice = self.slice_of(running.weight, self.load, self.nr_running);
        let mut left = slice.saturating_sub(ran);
        if self.is_contested {
            left = left.min(self.turn_left_ns(running));
        }
        let mut end = self.clock_ns + left;
        if self.nr_rt_waiting > 0 {
            // Real time is throttled: it comes back with the next period.
            end = end.min(self.rt_period_start_ns + self.tunables.rt_period_ns());
        }
        Some(end)
    }

    /// Whether the processor has to choose again now. After [`update`](Self::update).
    pub fn slice_is_over(&self, running: &Account, best: Option<u8>) -> bool {
        if self.nr_waiting() == 0 {
            return false;
        }
        let ran = running.run_ns - running.run_ns_at_pick;
        if running.is_realtime() {
            let turn_is_over = running.params.policy == Policy::RoundRobin
                && best == Some(running.params.rt_priority)
                && ran >= self.tunables.rr_slice_ns();
            return turn_is_over || self.realtime_is_throttled();
        }
        if self.nr_rt_waiting > 0 && !self.realtime_is_throttled() {
            return true;
        }
        let turn_is_over = self.is_contested && self.turn_left_ns(running) == 0;
        turn_is_over || ran >= self.slice_of(running.weight, self.load, self.nr_running)
    }
}
