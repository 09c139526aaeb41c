//! What counts processor time: `ITIMER_VIRTUAL`, `ITIMER_PROF`, POSIX timers of the CPU-time
//! clocks, `RLIMIT_CPU`.

use super::SECOND;
use super::interval::{Which, following};
use super::posix::{Clock, PosixTimer};
use crate::group::ThreadGroup;
use crate::task::{Life, Task};
use abi::process::{RLIM_INFINITY, Resource};
use abi::signal::{SigInfo, Signal, si};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
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

    /// Takes the timers of a clock that are due.
    fn take_due(&mut self, line: Line, now: u64) -> Vec<Arc<PosixTimer>> {
        let span = (line, 0, 0)..=(line, now, usize::MAX);
        let taken: Vec<_> =
            self.due.extract_if(span, |_, _| true).map(|(_, timer)| timer).collect();
        for timer in &taken {
            self.places.remove(&Arc::as_ptr(timer).addr());
        }
        taken
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
    // Let go of without the lock: it may be the last reference.
    let task = match clock {
        Clock::Thread(task, _) => task.upgrade(),
        _ => None,
    };
    let has_ended = || match (clock, &task) {
        (Clock::Thread(..), task) => task.as_ref().is_none_or(|task| task.life() != Life::Alive),
        // Acquire: pairs with the count down in `exit`.
        _ => group.live_count.load(Ordering::Acquire) == 0,
    };
    {
        let mut counted = group.timers.cpu.lock();
        // What ends says so before it empties the queue, so that nothing stays in it.
        if has_ended() {
            return;
        }
        counted.posix.insert(line, next, timer);
    }
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

/// A thread has begun to end: what follows its clock will not expire any more.
pub(crate) fn thread_ended(task: &Task) {
    let own = Some(core::ptr::from_ref(task).addr());
    for line in [(own, false), (own, true)] {
        let gone = task.group.timers.cpu.lock().posix.take_due(line, u64::MAX);
        drop(gone);
    }
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
        // All at once: one that is set anew meanwhile waits for the next look, wherever it lies.
        let due = group.timers.cpu.lock().posix.take_due(line, now);
        due.iter().for_each(|timer| timer.expire());
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
#[inline(never)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::pid::{Pid, PidNamespace};
    use crate::timers::{Expiry, Notify};
    use crate::user::User;

    /// A process without threads: one that has ended, unless the count says otherwise.
    fn process() -> Arc<ThreadGroup> {
        let pid = Pid::allocate(PidNamespace::initial()).expect("free number");
        ThreadGroup::new(pid.clone(), pid.clone(), pid, Limits::initial(100))
    }

    fn timer(owner: &Arc<ThreadGroup>, counted: &Arc<ThreadGroup>) -> Arc<PosixTimer> {
        let clock = Clock::Process(Arc::downgrade(counted), false);
        let (notify, user) = (Notify::Process(Signal::SIGALRM), User::of(4712));
        let id = owner.timers.create(owner, clock, notify, None, user, 100).expect("room");
        owner.timers.posix_timer(id).expect("made")
    }

    #[test]
    fn what_is_due_is_taken_once() {
        let group = process();
        let timers = [timer(&group, &group), timer(&group, &group), timer(&group, &group)];
        let (line, other) = ((None, false), (None, true));
        let mut queue = Queue::new();
        for (next, timer) in [30, 10, 20].into_iter().zip(&timers) {
            queue.insert(line, next, timer.clone());
        }
        queue.insert(line, 40, timers[1].clone());
        assert!(queue.take_due(other, u64::MAX).is_empty());
        let taken = queue.take_due(line, 30);
        let is_taken = |at: usize, timer: usize| Arc::ptr_eq(&taken[at], &timers[timer]);
        assert!(taken.len() == 2 && is_taken(0, 2) && is_taken(1, 0));
        assert!(queue.take_due(line, 30).is_empty());
        assert!(queue.remove(&timers[0]).is_none());
        assert!(queue.remove(&timers[1]).is_some_and(|timer| Arc::ptr_eq(&timer, &timers[1])));
        assert!(queue.due.is_empty() && queue.places.is_empty());
    }

    #[test]
    fn the_clock_of_an_ended_process_is_not_followed() {
        let (owner, counted) = (process(), process());
        let timer = timer(&owner, &counted);
        let is_followed = || !counted.timers.cpu.lock().posix.due.is_empty();
        timer.set(Expiry::After(SECOND), 0);
        assert!(!is_followed());
        counted.live_count.store(1, Ordering::Relaxed);
        timer.set(Expiry::After(SECOND), 0);
        assert!(is_followed());
        // In this order, as at exit.
        counted.live_count.store(0, Ordering::Relaxed);
        counted.timers.cancel_all();
        timer.set(Expiry::After(SECOND), 0);
        assert!(!is_followed());
    }
}
