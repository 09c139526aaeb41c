//! What counts processor time: `ITIMER_VIRTUAL`, `ITIMER_PROF`, POSIX timers of the CPU-time
//! clocks, `RLIMIT_CPU`.

use super::SECOND;
use super::interval::{Which, following};
use super::posix::{Clock, PosixTimer};
use crate::group::ThreadGroup;
use crate::task::Task;
use abi::process::{RLIM_INFINITY, Resource};
use abi::signal::{SigInfo, Signal, si};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// Timers of a process that count processor time.
pub(super) struct Counted {
    intervals: [Interval; 2],
    posix: Queue,
}

/// A clock of a process as its timers are sorted by: of all threads or of the one whose task is at
/// an address, and whether the time in user mode alone.
type Line = (Option<usize>, bool);

/// POSIX timers, of any process, that follow a clock of this one.
struct Queue {
    /// By the clock, the expiry, and the timer's address.
    due: BTreeMap<(Line, u64, usize), Arc<PosixTimer>>,
    /// Where in `due` a timer is, by its address.
    places: BTreeMap<usize, (Line, u64)>,
}

impl Queue {
    const fn new() -> Queue {
        Queue { due: BTreeMap::new(), places: BTreeMap::new() }
    }

    fn insert(&mut self, line: Line, next: u64, timer: Arc<PosixTimer>) {
        let at = Arc::as_ptr(&timer).addr();
        if let Some((line, next)) = self.places.insert(at, (line, next)) {
            self.due.remove(&(line, next, at));
        }
        self.due.insert((line, next, at), timer);
    }

    fn remove(&mut self, timer: &PosixTimer) -> Option<Arc<PosixTimer>> {
        let at = core::ptr::from_ref(timer).addr();
        let (line, next) = self.places.remove(&at)?;
        self.due.remove(&(line, next, at))
    }

    /// Takes the first timer of a clock that is due.
    fn pop(&mut self, line: Line, now: u64) -> Option<Arc<PosixTimer>> {
        let key = *self.due.range((line, 0, 0)..=(line, now, usize::MAX)).next()?.0;
        self.places.remove(&key.2);
        self.due.remove(&key)
    }
}

#[derive(Clone, Copy)]
struct Interval {
    /// Nanoseconds of the clock; 0 is disarmed.
    next: u64,
    period: u64,
}

impl Counted {
    pub(super) const fn new() -> Counted {
        Counted { intervals: [Interval { next: 0, period: 0 }; 2], posix: Queue::new() }
    }

    fn interval(&mut self, which: Which) -> &mut Interval {
        let [first, second] = &mut self.intervals;
        if which == Which::Virtual { first } else { second }
    }
}

fn value(group: &ThreadGroup, which: Which) -> u64 {
    let (user, system) = group.cpu_time();
    if which == Which::Virtual { user } else { user + system }
}

pub(super) fn get_interval(group: &ThreadGroup, which: Which) -> (u64, u64) {
    let now = value(group, which);
    let interval = *group.timers.cpu.lock().interval(which);
    let left = interval.next.saturating_sub(now).max(1000);
    (interval.period, if interval.next == 0 { 0 } else { left })
}

pub(super) fn set_interval(group: &ThreadGroup, which: Which, period: u64, first: u64) {
    let next = if first == 0 { 0 } else { value(group, which).saturating_add(first) };
    let period = if first == 0 { 0 } else { period };
    *group.timers.cpu.lock().interval(which) = Interval { next, period };
    if next != 0 {
        watch(group);
    }
}

/// Has the threads of a process look at its timers while they run.
pub fn watch(group: &ThreadGroup) {
    group.timers.counts_cpu.store(true, Ordering::SeqCst);
    for task in group.tasks() {
        if let Some(thread) = task.thread() {
            thread.set_watched(true);
        }
    }
}

/// `RLIMIT_CPU` was set.
pub fn limit_changed(group: &ThreadGroup) {
    if group.limits.soft(Resource::Cpu) != RLIM_INFINITY {
        watch(group);
    }
}

/// A new thread is watched if its process counts processor time.
pub(crate) fn inherit(child: &Task) {
    let group = &child.group;
    if group.limits.soft(Resource::Cpu) != RLIM_INFINITY {
        group.timers.counts_cpu.store(true, Ordering::SeqCst);
    }
    if group.timers.counts_cpu.load(Ordering::SeqCst)
        && let Some(thread) = child.thread()
    {
        thread.set_watched(true);
    }
}

/// Has a POSIX timer expire when its clock, which is of this process, reads `next`.
pub(super) fn follow(group: &ThreadGroup, clock: &Clock, next: u64, timer: Arc<PosixTimer>) {
    let Some(line) = line_of(clock) else { return };
    group.timers.cpu.lock().posix.insert(line, next, timer);
    watch(group);
}

fn line_of(clock: &Clock) -> Option<Line> {
    match clock {
        Clock::Process(_, user_only) => Some((None, *user_only)),
        // The timer's weak reference keeps the address from being another's.
        Clock::Thread(task, user_only) => Some((Some(task.as_ptr().addr()), *user_only)),
        _ => None,
    }
}

/// Takes a POSIX timer off.
pub(super) fn unfollow(group: &ThreadGroup, timer: &PosixTimer) {
    let gone = group.timers.cpu.lock().posix.remove(timer);
    drop(gone);
}

/// A thread ends: what follows its clock will not expire any more.
pub(crate) fn thread_ended(task: &Task) {
    let own = Some(core::ptr::from_ref(task).addr());
    for line in [(own, false), (own, true)] {
        while let Some(timer) = pop(&task.group, line, u64::MAX) {
            drop(timer);
        }
    }
}

fn pop(group: &ThreadGroup, line: Line, now: u64) -> Option<Arc<PosixTimer>> {
    group.timers.cpu.lock().posix.pop(line, now)
}

/// Sends what is due. Called by a watched thread on its way to user space.
pub(crate) fn check_cpu(task: &Task) {
    let group = &task.group;
    let Some(thread) = task.thread().filter(|thread| thread.is_watched()) else { return };
    let (user, system) = group.cpu_time();
    let total = user + system;
    let mut counts = false;
    for (which, now, signal) in
        [(Which::Virtual, user, Signal::SIGVTALRM), (Which::Prof, total, Signal::SIGPROF)]
    {
        let is_due = {
            let mut counted = group.timers.cpu.lock();
            let interval = counted.interval(which);
            let is_due = interval.next != 0 && interval.next <= now;
            if is_due {
                interval.next = following(interval.next, interval.period, now);
            }
            counts |= interval.next != 0;
            is_due
        };
        if is_due {
            let _ = crate::signal::send_to_group(group, SigInfo::new(signal, si::KERNEL));
        }
    }
    counts |= expire_due(task, user, total);
    counts |= check_limit(group, total);
    if !counts {
        // A timer that is set at this moment watches again after.
        group.timers.counts_cpu.store(false, Ordering::SeqCst);
        thread.set_watched(false);
        let counted = group.timers.cpu.lock();
        let is_set = counted.intervals.iter().any(|i| i.next != 0) || !counted.posix.due.is_empty();
        drop(counted);
        if is_set || group.limits.soft(Resource::Cpu) != RLIM_INFINITY {
            watch(group);
        }
    }
}

/// Expires what is due by the clocks of a process and of its running thread; whether anything is
/// left. Only that thread's own clock went on, and those of others are theirs to look at.
fn expire_due(task: &Task, user_ns: u64, total_ns: u64) -> bool {
    let group = &task.group;
    if group.timers.cpu.lock().posix.due.is_empty() {
        return false;
    }
    let usage = crate::usage::Usage::of(task);
    let own = Some(core::ptr::from_ref(task).addr());
    let lines = [
        ((None, false), total_ns),
        ((None, true), user_ns),
        ((own, false), usage.utime_ns + usage.stime_ns),
        ((own, true), usage.utime_ns),
    ];
    for (line, now) in lines {
        // One that is set anew at once lies behind `now`, or waits for its signal to be taken.
        while let Some(timer) = pop(group, line, now) {
            timer.expire();
        }
    }
    !group.timers.cpu.lock().posix.due.is_empty()
}

/// `RLIMIT_CPU`: SIGXCPU at the soft limit and every second after, SIGKILL at the hard one. Whether
/// there is a limit.
fn check_limit(group: &ThreadGroup, total_ns: u64) -> bool {
    let limit = group.limits.get(Resource::Cpu);
    if limit.cur == RLIM_INFINITY && limit.max == RLIM_INFINITY {
        return false;
    }
    // getrlimit(2), BUGS: no seconds count as one.
    let passed = |seconds: u64| {
        seconds != RLIM_INFINITY && total_ns >= seconds.max(1).saturating_mul(SECOND)
    };
    if passed(limit.max) {
        let _ = crate::signal::send_to_group(group, SigInfo::new(Signal::SIGKILL, si::KERNEL));
    } else if passed(limit.cur) {
        group.limits.postpone_cpu();
        let _ = crate::signal::send_to_group(group, SigInfo::new(Signal::SIGXCPU, si::KERNEL));
    }
    true
}

/// The value of a processor-time clock; `None` when what it counted is gone.
pub(super) fn clock_value(clock: &Clock) -> Option<u64> {
    let (user, system) = match clock {
        Clock::Process(group, _) => group.upgrade()?.cpu_time(),
        Clock::Thread(task, _) => {
            let task = task.upgrade()?;
            let usage = crate::usage::Usage::of(&task);
            (usage.utime_ns, usage.stime_ns)
        }
        _ => return None,
    };
    let user_only = matches!(clock, Clock::Process(_, true) | Clock::Thread(_, true));
    Some(if user_only { user } else { user + system })
}
