//! The controller `cpuacct` of version 1 and `cpu.stat` of version 2: processor time of groups.
//!
//! Nothing is counted when threads are switched. A thread's time is its own; a group keeps what those had used
//! in it that are no longer there, and whoever asks adds what those use that are. So a look costs the
//! tasks of the group and below, a task that leaves an addition, and a group that goes leaves its sum to
//! the one above. The root has the time of the machine.

use super::controllers::Controllers;
use super::group::Group;
use super::set::Set;
use crate::task::Task;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicU64, Ordering};

static CLASS: LockClass = LockClass::new("process.cgroup_usage", 613);

/// Processor time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

impl CpuUsage {
    /// Both together.
    pub fn total_ns(self) -> u64 {
        self.user_ns.saturating_add(self.system_ns)
    }

    fn plus(self, other: CpuUsage) -> CpuUsage {
        CpuUsage {
            user_ns: self.user_ns.saturating_add(other.user_ns),
            system_ns: self.system_ns.saturating_add(other.system_ns),
        }
    }

    fn minus(self, other: CpuUsage) -> CpuUsage {
        CpuUsage {
            user_ns: self.user_ns.saturating_sub(other.user_ns),
            system_ns: self.system_ns.saturating_sub(other.system_ns),
        }
    }
}

/// What a group keeps.
pub(super) struct Account(SpinLock<Sums>);

#[derive(Default)]
struct Sums {
    /// What those used that are no longer in it.
    gone: CpuUsage,
    /// What there was when `cpuacct.usage` was set to 0.
    cleared: CpuUsage,
}

impl Account {
    pub(super) fn new() -> Account {
        Account(SpinLock::new(&CLASS, Sums::default()))
    }
}

/// What a task had used when it came to its groups; all there is when it has left.
#[derive(Default)]
pub(crate) struct Before {
    user_ns: AtomicU64,
    system_ns: AtomicU64,
}

impl Before {
    // Relaxed, here and below: a reader who meets a move counts it in one group more or less, once.
    fn set(&self, to: CpuUsage) {
        self.user_ns.store(to.user_ns, Ordering::Relaxed);
        self.system_ns.store(to.system_ns, Ordering::Relaxed);
    }

    fn get(&self) -> CpuUsage {
        CpuUsage {
            user_ns: self.user_ns.load(Ordering::Relaxed),
            system_ns: self.system_ns.load(Ordering::Relaxed),
        }
    }
}

fn used(task: &Task) -> CpuUsage {
    let times = task.thread().map(|thread| thread.cpu_times()).unwrap_or_default();
    CpuUsage { user_ns: times.user_ns, system_ns: times.system_ns }
}

/// Whether the group keeps account.
fn counts(group: &Group) -> bool {
    let hierarchy = group.hierarchy();
    hierarchy.is_unified() || hierarchy.controllers.contains(Controllers::CPUACCT)
}

/// A task leaves the groups of `set`: they keep what it used there.
fn leave(task: &Task, set: &Set, after: CpuUsage) {
    let own = after.minus(task.before.get());
    for group in set.groups().iter().filter(|group| counts(group)) {
        let mut sums = group.state.cpuacct.0.lock();
        sums.gone = sums.gone.plus(own);
        task.before.set(after);
    }
}

/// A task has moved; the tree is locked.
pub(super) fn moved(task: &Task, old: Option<&Set>) {
    let now = used(task);
    if let Some(old) = old {
        leave(task, old, now);
    }
    task.before.set(now);
}

/// A task has ended; the tree is locked. What it still runs on its way out is nobody's.
pub(super) fn ended(task: &Task, set: &Set) {
    leave(task, set, used(task));
    task.before.set(CpuUsage { user_ns: u64::MAX, system_ns: u64::MAX });
}

/// A group is taken away.
pub(super) fn removed(group: &Group) {
    let Some(parent) = group.parent() else { return };
    let gone = group.state.cpuacct.0.lock().gone;
    let mut sums = parent.state.cpuacct.0.lock();
    sums.gone = sums.gone.plus(gone);
}

/// What the tasks in the group itself used.
fn own_usage(group: &alloc::sync::Arc<Group>) -> CpuUsage {
    let tasks = super::tasks(group);
    let sums = group.state.cpuacct.0.lock();
    tasks.iter().fold(sums.gone, |sum, task| sum.plus(used(task).minus(task.before.get())))
}

impl Group {
    /// The time of the group and those below: `cpuacct.stat`, `cpu.stat`.
    pub fn cpu_usage(&self) -> CpuUsage {
        if self.is_root() {
            return arch::cpu::online()
                .iter()
                .map(machine)
                .fold(CpuUsage::default(), CpuUsage::plus);
        }
        self.subtree().iter().map(own_usage).fold(CpuUsage::default(), CpuUsage::plus)
    }

    /// The same since `cpuacct.usage` was cleared.
    pub fn cpu_usage_since_cleared(&self) -> CpuUsage {
        let now = self.cpu_usage();
        now.minus(self.state.cpuacct.0.lock().cleared)
    }

    /// Clears `cpuacct.usage`.
    pub fn clear_cpu_usage(&self) {
        let now = self.cpu_usage();
        self.state.cpuacct.0.lock().cleared = now;
    }
}

/// The time of one processor.
fn machine(cpu: arch::cpu::CpuId) -> CpuUsage {
    let times = sched::processor_times(cpu);
    CpuUsage { user_ns: times.user_ns + times.nice_ns, system_ns: times.system_ns + times.irq_ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Mode, create, remove, unified};

    #[test]
    fn a_group_leaves_its_time_to_the_one_above() {
        let mode = Mode { bits: 0o755, owner: (0, 0) };
        let top = create(unified(), b"cpuacct", mode).expect("a group");
        let low = create(&top, b"low", mode).expect("a group");
        low.state.cpuacct.0.lock().gone = CpuUsage { user_ns: 5, system_ns: 7 };
        assert_eq!(top.cpu_usage().total_ns(), 12);
        top.clear_cpu_usage();
        assert_eq!(top.cpu_usage_since_cleared(), CpuUsage::default());
        remove(&top, b"low").expect("empty");
        assert_eq!(top.cpu_usage(), CpuUsage { user_ns: 5, system_ns: 7 });
        remove(unified(), b"cpuacct").expect("empty");
    }
}
