//! What the policy knows of one thread.

use crate::{Found, Split, weight};

/// A scheduling policy, numbered as in `sched(7)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Policy {
    /// `SCHED_OTHER`: a share of the processor by weight.
    Normal = 0,
    /// `SCHED_FIFO`: real time, until it sleeps.
    Fifo = 1,
    /// `SCHED_RR`: real time, turns among equals.
    RoundRobin = 2,
    /// `SCHED_BATCH`: as normal, but its wake-ups preempt nobody.
    Batch = 3,
    /// `SCHED_IDLE`: the smallest share.
    Idle = 5,
}

impl Policy {
    /// The policy with this number.
    pub const fn from_raw(raw: u32) -> Option<Policy> {
        Some(match raw {
            0 => Policy::Normal,
            1 => Policy::Fifo,
            2 => Policy::RoundRobin,
            3 => Policy::Batch,
            5 => Policy::Idle,
            _ => return None,
        })
    }
    /// Whether it is one of the real-time policies.
    #[inline]
    pub const fn is_realtime(self) -> bool {
        matches!(self, Policy::Fifo | Policy::RoundRobin)
    }
}

/// Policy and priorities of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// The policy.
    pub policy: Policy,
    /// -20..=19; matters to the fair policies, kept by the others.
    pub nice: i8,
    /// 1..=99 with a real-time policy, else 0.
    pub rt_priority: u8,
}

impl Default for Params {
    fn default() -> Self {
        Params { policy: Policy::Normal, nice: 0, rt_priority: 0 }
    }
}

/// Where an entity is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In no queue.
    Off,
    /// Waiting in the queue of its class.
    Waiting,
    /// Picked: it runs.
    Running,
}

/// The state a run queue keeps of each thread. Guarded by the lock of the queue it is on, or, while it
/// is on none, by whoever puts it on one.
#[derive(Clone, Debug)]
pub struct Account {
    /// Policy and priorities; changed by [`set_params`](Self::set_params).
    pub params: Params,
    /// Where it is.
    pub place: Place,
    pub(crate) weight: u32,
    pub(crate) inverse: u32,
    /// Virtual run time on the queue it is on or was last on.
    pub vruntime: u64,
    /// `vruntime` minus the queue's least when it left a queue.
    pub(crate) lag: i64,
    /// The queue whose time line `vruntime` belongs to.
    pub(crate) home: u32,
    /// When it left the queue, or started to wait on one.
    pub since_ns: u64,
    /// Processor time used, ever.
    pub run_ns: u64,
    /// `run_ns` when it was picked.
    pub(crate) run_ns_at_pick: u64,
    /// Time spent waiting on queues, ever.
    pub wait_ns: u64,
    /// Times it was picked.
    pub picks: u64,
    /// It asked to let others go first.
    pub yielded: bool,
    /// How `run_ns` is divided into user and system time.
    pub split: Split,
}

impl Account {
    /// Of a thread on no queue.
    pub const fn new() -> Account {
        Account {
            params: Params { policy: Policy::Normal, nice: 0, rt_priority: 0 },
            place: Place::Off,
            weight: weight::NICE_0_WEIGHT,
            inverse: weight::INVERSE[20],
            vruntime: 0,
            lag: 0,
            home: u32::MAX,
            since_ns: 0,
            run_ns: 0,
            run_ns_at_pick: 0,
            wait_ns: 0,
            picks: 0,
            yielded: false,
            split: Split::new(),
        }
    }

    /// Sets policy and priorities of a thread that is on no queue.
    pub fn set_params(&mut self, params: Params) {
        self.params = params;
        (self.weight, self.inverse) = match params.policy {
            Policy::Idle => weight::of_idle_policy(),
            _ => weight::of_nice(params.nice),
        };
    }

    /// What it burdens a processor with, in the weight of a thread of nice 0.
    pub fn burden(&self) -> u64 {
        u64::from(if self.is_realtime() { weight::NICE_0_WEIGHT } else { self.weight })
    }

    /// A sample found it in user mode.
    pub fn found_in_user_mode(&mut self) -> Found {
        self.split.count_user();
        if self.params.nice > 0 { Found::Nice } else { Found::User }
    }

    /// A sample found it in the kernel.
    pub fn found_in_kernel(&mut self) -> Found {
        self.split.count_system();
        Found::System
    }

    /// Whether it is in a real-time class.
    #[inline]
    pub fn is_realtime(&self) -> bool {
        self.params.policy.is_realtime()
    }

    /// Whether it leaves the fair queue before another.
    #[inline(always)]
    pub fn is_before(&self, other: &Account) -> bool {
        // Virtual times wrap, so their distance counts.
        (self.vruntime.wrapping_sub(other.vruntime) as i64) < 0
    }
}

impl Default for Account {
    fn default() -> Self {
        Account::new()
    }
}
