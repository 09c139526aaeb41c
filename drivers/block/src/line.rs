//! The lines in which requests wait for a tag, and their orders: the I/O schedulers.
//!
//! `none` keeps the order of arrival. `mq-deadline` goes over the disk by sector, in batches of one
//! direction, prefers reads, and takes what has waited too long first; its knobs are those of Linux's
//! documentation (`block/deadline-iosched`). A request that finds a free tag waits in no line.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use core::sync::atomic::{AtomicI32, Ordering};

use arch::lock::{LockClass, SpinLock};

use crate::bio::{Bio, Op};
use crate::driver::Limits;
use crate::request::Request;

static POLICY: LockClass = LockClass::new("block.policy", 515);

/// How many of the newest requests a bio is tried to be merged with where there is no order by sector.
const MERGE_WINDOW: usize = 8;

/// The order in which a disk's waiting requests are started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheduler {
    /// As they came.
    None,
    /// By sector, within deadlines.
    Deadline,
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Scheduler; 2] = [Scheduler::Deadline, Scheduler::None];

    /// The name in `/sys/block/DISK/queue/scheduler`.
    pub fn name(self) -> &'static str {
        match self {
            Scheduler::None => "none",
            Scheduler::Deadline => "mq-deadline",
        }
    }

    /// The one with this name; `deadline` is an older one of `mq-deadline`.
    pub fn by_name(name: &str) -> Option<Scheduler> {
        match name {
            "none" => Some(Scheduler::None),
            "mq-deadline" | "deadline" => Some(Scheduler::Deadline),
            _ => None,
        }
    }
}

/// The knobs of `mq-deadline`, one set a disk.
#[derive(Debug)]
pub struct DeadlineKnobs {
    /// How long a read may wait, in ms.
    pub read_expire: AtomicI32,
    /// How long a write may wait, in ms.
    pub write_expire: AtomicI32,
    /// How often reads may go before writes that wait.
    pub writes_starved: AtomicI32,
    /// How many requests of one direction are started by sector before another look at the deadlines.
    pub fifo_batch: AtomicI32,
    /// Whether a bio is looked for a request that it ends in front of.
    pub front_merges: AtomicI32,
}

impl Default for DeadlineKnobs {
    fn default() -> DeadlineKnobs {
        DeadlineKnobs {
            read_expire: AtomicI32::new(500),
            write_expire: AtomicI32::new(5000),
            writes_starved: AtomicI32::new(2),
            fifo_batch: AtomicI32::new(16),
            front_merges: AtomicI32::new(1),
        }
    }
}

/// Which scheduler a disk has, and how it is set.
pub(crate) struct Policy {
    /// Locked while the lines change.
    pub(crate) current: SpinLock<Scheduler>,
    pub(crate) knobs: DeadlineKnobs,
}

impl Policy {
    pub(crate) fn new(scheduler: Scheduler) -> Policy {
        Policy { current: SpinLock::new(&POLICY, scheduler), knobs: DeadlineKnobs::default() }
    }
}

/// What waits at one hardware queue.
pub(crate) enum Line {
    Arrival(VecDeque<Request>),
    Deadline(Box<ByDeadline>),
}

impl Line {
    pub(crate) fn new(scheduler: Scheduler) -> Line {
        match scheduler {
            Scheduler::None => Line::Arrival(VecDeque::new()),
            Scheduler::Deadline => Line::Deadline(Box::default()),
        }
    }

    /// Merges `bio` with a request that waits; gives it back if there is none.
    pub(crate) fn merge(
        &mut self,
        bio: Bio,
        limits: &Limits,
        knobs: &DeadlineKnobs,
    ) -> Result<(), Bio> {
        match self {
            Line::Arrival(line) => {
                let mut left = bio;
                for request in line.iter_mut().rev().take(MERGE_WINDOW) {
                    let merged = request
                        .try_append(left, limits)
                        .or_else(|bio| request.try_prepend(bio, limits));
                    match merged {
                        Ok(()) => return Ok(()),
                        Err(bio) => left = bio,
                    }
                }
                Err(left)
            }
            Line::Deadline(line) => line.merge(bio, limits, knobs),
        }
    }

    /// A request joins.
    pub(crate) fn push(&mut self, request: Request, knobs: &DeadlineKnobs, now_ns: u64) {
        match self {
            Line::Arrival(line) => line.push_back(request),
            Line::Deadline(line) => line.push(request, knobs, now_ns),
        }
    }

    /// One that was taken could not be started: it is the next again.
    pub(crate) fn put_back(&mut self, request: Request) {
        match self {
            Line::Arrival(line) => line.push_front(request),
            Line::Deadline(line) => line.direct.push_front(request),
        }
    }

    /// The next to be started.
    pub(crate) fn pop(&mut self, knobs: &DeadlineKnobs, now_ns: u64) -> Option<Request> {
        match self {
            Line::Arrival(line) => line.pop_front(),
            Line::Deadline(line) => line.pop(knobs, now_ns),
        }
    }
}

/// Reads, or all else that has a place on the disk.
#[derive(Default)]
struct Lane {
    /// By first sector and number of arrival.
    by_sector: BTreeMap<(u64, u64), Box<Request>>,
    /// By number of arrival: when its time is over, and its first sector.
    by_age: BTreeMap<u64, (u64, u64)>,
    /// Behind the last that was started.
    position: u64,
}

impl Lane {
    fn insert(&mut self, number: u64, expires_ns: u64, request: Box<Request>) {
        self.by_age.insert(number, (expires_ns, request.sector()));
        self.by_sector.insert((request.sector(), number), request);
    }

    fn remove(&mut self, key: (u64, u64)) -> Option<(u64, Box<Request>)> {
        let request = self.by_sector.remove(&key)?;
        let expires_ns = self.by_age.remove(&key.1).map_or(0, |(expires_ns, _)| expires_ns);
        Some((expires_ns, request))
    }

    /// The next by sector.
    fn onward(&self) -> Option<(u64, u64)> {
        self.by_sector.range((self.position, 0)..).next().map(|(key, _)| *key)
    }

    /// The one that came first, and when its time is over.
    fn oldest(&self) -> Option<(u64, (u64, u64))> {
        let (number, (expires_ns, sector)) = self.by_age.first_key_value()?;
        Some((*expires_ns, (*sector, *number)))
    }

    fn take(&mut self, key: (u64, u64)) -> Option<Request> {
        let (_, request) = self.remove(key)?;
        self.position = request.sector().saturating_add(request.sectors());
        Some(*request)
    }
}

/// The line of `mq-deadline`: O(log n) for each step.
pub(crate) struct ByDeadline {
    /// Those without a place on the disk, and those that were taken once: they go first.
    direct: VecDeque<Request>,
    reads: Lane,
    writes: Lane,
    arrivals: u64,
    /// The direction of the batch.
    is_writing: bool,
    /// Requests started in the batch.
    batch: i32,
    /// Batches of reads since writes wait.
    starved: i32,
}

impl Default for ByDeadline {
    fn default() -> ByDeadline {
        ByDeadline {
            direct: VecDeque::new(),
            reads: Lane::default(),
            writes: Lane::default(),
            arrivals: 0,
            is_writing: false,
            // No batch runs.
            batch: i32::MAX,
            starved: 0,
        }
    }
}

impl ByDeadline {
    fn lane(&mut self, is_write: bool) -> &mut Lane {
        if is_write { &mut self.writes } else { &mut self.reads }
    }

    fn merge(&mut self, bio: Bio, limits: &Limits, knobs: &DeadlineKnobs) -> Result<(), Bio> {
        let (start, end) = (bio.sector, bio.end_sector());
        let lane = self.lane(bio.op != Op::Read);
        let before = lane.by_sector.range_mut(..(start, 0)).next_back();
        let bio = match before {
            Some((_, request)) => match request.try_append(bio, limits) {
                Ok(()) => return Ok(()),
                Err(bio) => bio,
            },
            None => bio,
        };
        if knobs.front_merges.load(Ordering::Relaxed) == 0 {
            return Err(bio);
        }
        let behind = lane.by_sector.range((end, 0)..=(end, u64::MAX)).next().map(|(key, _)| *key);
        let Some(key) = behind else { return Err(bio) };
        let Some((expires_ns, mut request)) = lane.remove(key) else { return Err(bio) };
        let merged = request.try_prepend(bio, limits);
        lane.insert(key.1, expires_ns, request);
        merged
    }

    fn push(&mut self, request: Request, knobs: &DeadlineKnobs, now_ns: u64) {
        let (is_write, expire) = match request.op() {
            Op::Read => (false, &knobs.read_expire),
            Op::Write | Op::Discard | Op::WriteZeroes => (true, &knobs.write_expire),
            Op::Flush => {
                self.direct.push_back(request);
                return;
            }
        };
        let wait_ns = u64::try_from(expire.load(Ordering::Relaxed)).unwrap_or(0) * 1_000_000;
        self.arrivals += 1;
        let number = self.arrivals;
        self.lane(is_write).insert(number, now_ns.saturating_add(wait_ns), Box::new(request));
    }

    fn pop(&mut self, knobs: &DeadlineKnobs, now_ns: u64) -> Option<Request> {
        if let Some(request) = self.direct.pop_front() {
            return Some(request);
        }
        let is_writing = self.is_writing;
        if self.batch < knobs.fifo_batch.load(Ordering::Relaxed)
            && let Some(key) = self.lane(is_writing).onward()
        {
            self.batch += 1;
            return self.lane(is_writing).take(key);
        }
        let (reads, writes) = (!self.reads.by_age.is_empty(), !self.writes.by_age.is_empty());
        let is_writing =
            writes && (!reads || self.starved >= knobs.writes_starved.load(Ordering::Relaxed));
        self.starved = if is_writing || !writes { 0 } else { self.starved.saturating_add(1) };
        self.is_writing = is_writing;
        self.batch = 1;
        let lane = self.lane(is_writing);
        let (expires_ns, oldest) = lane.oldest()?;
        let key = if expires_ns <= now_ns { oldest } else { lane.onward().unwrap_or(oldest) };
        lane.take(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(op: Op, sector: u64) -> Request {
        frames::init_host(64 << 20);
        Request::new(bio(op, sector))
    }

    fn bio(op: Op, sector: u64) -> Bio {
        let mut bio = Bio::new(op, sector, |_| {});
        bio.push(frames::alloc_page(frames::Flags::ZERO).unwrap(), 0, 4096);
        bio
    }

    fn drain(line: &mut Line, knobs: &DeadlineKnobs, now_ns: u64) -> Vec<(bool, u64, u64)> {
        core::iter::from_fn(|| line.pop(knobs, now_ns))
            .map(|request| (request.op() == Op::Read, request.sector(), request.sectors()))
            .collect()
    }

    #[test]
    fn reads_go_by_sector_before_writes() {
        let (mut line, knobs) = (Line::new(Scheduler::Deadline), DeadlineKnobs::default());
        for sector in [800, 80, 400] {
            line.push(request(Op::Write, sector), &knobs, 0);
            line.push(request(Op::Read, sector + 8), &knobs, 0);
        }
        line.push(request(Op::Flush, 0), &knobs, 0);
        let order: Vec<_> = drain(&mut line, &knobs, 1).iter().map(|r| (r.0, r.1)).collect();
        let reads = [(true, 88), (true, 408), (true, 808)];
        let writes = [(false, 80), (false, 400), (false, 800)];
        assert_eq!(order.first().map(|r| r.0), Some(false), "the flush");
        assert_eq!(order.get(1..4), Some(&reads[..]));
        assert_eq!(order.get(4..), Some(&writes[..]));
    }

    #[test]
    fn writes_starve_for_so_many_batches_only() {
        let (mut line, knobs) = (Line::new(Scheduler::Deadline), DeadlineKnobs::default());
        knobs.fifo_batch.store(2, Ordering::Relaxed);
        for i in 0..10 {
            line.push(request(Op::Read, 1000 + 100 * i), &knobs, 0);
        }
        line.push(request(Op::Write, 8), &knobs, 0);
        let order = drain(&mut line, &knobs, 1);
        // Two batches of two, then the write.
        assert_eq!(order.iter().position(|r| !r.0), Some(4));
    }

    #[test]
    fn what_has_waited_too_long_goes_first() {
        let (mut line, knobs) = (Line::new(Scheduler::Deadline), DeadlineKnobs::default());
        knobs.fifo_batch.store(1, Ordering::Relaxed);
        line.push(request(Op::Read, 9000), &knobs, 0);
        for i in 0..4 {
            line.push(request(Op::Read, 8 * i), &knobs, 400_000_000);
        }
        let sectors: Vec<u64> = drain(&mut line, &knobs, 600_000_000).iter().map(|r| r.1).collect();
        assert_eq!(sectors, [9000, 0, 8, 16, 24]);
    }

    #[test]
    fn neighbours_merge_on_both_sides_and_keep_their_age() {
        let (mut line, knobs) = (Line::new(Scheduler::Deadline), DeadlineKnobs::default());
        let limits = Limits { max_sectors: 24, ..Limits::default() };
        line.push(request(Op::Write, 100), &knobs, 0);
        assert!(line.merge(bio(Op::Write, 108), &limits, &knobs).is_ok());
        assert!(line.merge(bio(Op::Write, 92), &limits, &knobs).is_ok());
        assert!(line.merge(bio(Op::Write, 84), &limits, &knobs).is_err(), "too long");
        assert!(line.merge(bio(Op::Read, 116), &limits, &knobs).is_err(), "another direction");
        knobs.front_merges.store(0, Ordering::Relaxed);
        line.push(request(Op::Read, 100), &knobs, 0);
        assert!(line.merge(bio(Op::Read, 92), &limits, &knobs).is_err());
        assert_eq!(drain(&mut line, &knobs, 0), [(true, 100, 8), (false, 92, 24)]);
    }

    #[test]
    fn a_refused_request_is_the_next_again() {
        for scheduler in Scheduler::ALL {
            let (mut line, knobs) = (Line::new(scheduler), DeadlineKnobs::default());
            line.push(request(Op::Write, 16), &knobs, 0);
            line.push(request(Op::Write, 160), &knobs, 0);
            let first = line.pop(&knobs, 0).unwrap();
            line.put_back(first);
            let sectors: Vec<u64> = drain(&mut line, &knobs, 0).iter().map(|r| r.1).collect();
            assert_eq!(sectors, [16, 160]);
        }
    }
}
