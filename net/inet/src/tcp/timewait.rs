//! What is left of a connection for a while: TIME_WAIT, and FIN_WAIT2 without a program.
//!
//! All stay equally long, so those that expire are at the front of one queue. An entry is two ends, a
//! number and a claim of the port; one timer serves a namespace while there are any.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use netdevice::Tuple;

use super::State;
use crate::ports::Claim;
use crate::stack::{Inet, knob};
use crate::table::Sharded;
use crate::timers::{self, Expire};

static QUEUE: LockClass = LockClass::new("inet.time_wait_queue", 524);
static TABLE: LockClass = LockClass::new("inet.time_wait", 533);

/// `TCP_TIMEWAIT_LEN`: twice the life of a segment.
const LENGTH_NS: u64 = 60_000_000_000;
/// `tcp_tw_reuse` of 2: a connection over the loopback interface may be followed after that long.
const REUSE_NS: u64 = 1_000_000_000;

struct Waiting {
    tuple: Tuple,
    id: u64,
    ends_ns: u64,
}

/// An entry of the table.
struct Entry {
    id: u64,
    since_ns: u64,
    state: State,
    claim: Claim,
}

/// The connections that are over but not forgotten.
pub(crate) struct TimeWaits {
    queue: SpinLock<VecDeque<Waiting>>,
    table: Sharded<Tuple, Entry>,
    next: AtomicU64,
    count: AtomicUsize,
    this: Weak<TimeWaits>,
}

impl TimeWaits {
    pub(crate) fn new(secret: u64) -> Arc<TimeWaits> {
        Arc::new_cyclic(|this| TimeWaits {
            queue: SpinLock::new(&QUEUE, VecDeque::new()),
            table: Sharded::new(&TABLE, secret),
            next: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            this: this.clone(),
        })
    }

    /// Remembers a connection; not if there are too many (`tcp_max_tw_buckets`).
    pub(crate) fn add(&self, inet: &Inet, tuple: Tuple, state: State, claim: Claim) {
        let most = knob(&inet.knobs.tcp_max_tw_buckets).max(0) as usize;
        if self.count.load(Ordering::Relaxed) >= most {
            return;
        }
        let now = arch::time::now_ns();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { id, since_ns: now, state, claim };
        let old = self.table.with(&tuple, |table| table.insert(tuple, entry));
        if old.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        inet.tcp.time_wait.later(Waiting { tuple, id, ends_ns: now + LENGTH_NS });
        drop(old);
    }

    fn later(&self, waiting: Waiting) {
        let ends_ns = waiting.ends_ns;
        let is_first = {
            let mut queue = self.queue.lock();
            // Those that others followed are only in the queue: the limit of the table holds here too.
            if queue.len() > 2 * self.len() + 1024 {
                queue.retain(|old| {
                    self.table.with(&old.tuple, |table| {
                        table.get(&old.tuple).is_some_and(|entry| entry.id == old.id)
                    })
                });
            }
            queue.push_back(waiting);
            queue.len() == 1
        };
        if is_first && let Some(this) = self.this.upgrade() {
            timers::arm(&(this as Arc<dyn Expire>), ends_ns);
        }
    }

    /// Makes room for a new connection between these ends. `true` if there was nothing, or what there was
    /// has waited long enough to be followed by another.
    pub(crate) fn give_way(&self, tuple: &Tuple, is_active: bool) -> bool {
        let now = arch::time::now_ns();
        let (may, gone) = self.table.with(tuple, |table| match table.get(tuple) {
            None => (true, None),
            // A new SYN begins above what was sent before: the end that is called gives way at once.
            Some(entry) if !is_active || now.saturating_sub(entry.since_ns) >= REUSE_NS => {
                (true, table.remove(tuple))
            }
            Some(_) => (false, None),
        });
        if gone.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        may
    }

    /// Takes away what there is between these ends; its claim of the port.
    pub(crate) fn take(&self, tuple: &Tuple) -> Option<Claim> {
        let gone = self.table.with(tuple, |table| table.remove(tuple))?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(gone.claim)
    }

    /// Whether there is one between these ends.
    pub(crate) fn has(&self, tuple: &Tuple) -> bool {
        self.table.with(tuple, |table| table.contains_key(tuple))
    }

    /// All of them, for `/proc/net/tcp`, with the time they have left.
    pub(crate) fn all(&self) -> Vec<(Tuple, State, u64)> {
        let now = arch::time::now_ns();
        let mut all = Vec::new();
        self.table.for_each(|tuple, entry| {
            let left = (entry.since_ns + LENGTH_NS).saturating_sub(now);
            all.push((*tuple, entry.state, left));
        });
        all
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Expire for TimeWaits {
    fn expire(&self, now_ns: u64) -> Option<u64> {
        loop {
            let waiting = {
                let mut queue = self.queue.lock();
                match queue.front() {
                    None => return None,
                    Some(first) if first.ends_ns > now_ns => return Some(first.ends_ns),
                    Some(_) => queue.pop_front(),
                }
            };
            let Waiting { tuple, id, .. } = waiting?;
            let gone = self.table.with(&tuple, |table| {
                let is_it = table.get(&tuple).is_some_and(|entry| entry.id == id);
                if is_it { table.remove(&tuple) } else { None }
            });
            if gone.is_some() {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
