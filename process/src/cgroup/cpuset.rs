//! The controller `cpuset`: on which processors the tasks of a group may run; cpuset(7).
//!
//! A group knows what was written and what is in effect: the same in version 1, in version 2 that of the group
//! above as far as it was asked for. Tasks carry their processors in their threads, so that the
//! scheduler asks no group: who moves, is told, and a change costs the tasks of the group and below.
//! All memory is one node, so that of memory only whether a group has any counts.

use super::controllers::Controllers;
use super::group::Group;
use super::hierarchy::root_of;
use super::set::Set;
use super::{group_of, structure};
use crate::task::Task;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::cpu::CpuSet;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

static CLASS: LockClass = LockClass::new("process.cgroup_cpus", 619);

/// The switches of version 1, by their bits.
pub mod switch {
    /// `cpuset.cpu_exclusive`: no sibling shares a processor.
    pub const CPU_EXCLUSIVE: u32 = 1;
    /// `cpuset.mem_exclusive`: no sibling shares memory.
    pub const MEM_EXCLUSIVE: u32 = 2;
    /// `cpuset.mem_hardwall`.
    pub const MEM_HARDWALL: u32 = 4;
    /// `cpuset.memory_migrate`.
    pub const MEMORY_MIGRATE: u32 = 8;
    /// `cpuset.memory_spread_page`.
    pub const SPREAD_PAGE: u32 = 16;
    /// `cpuset.memory_spread_slab`.
    pub const SPREAD_SLAB: u32 = 32;
    /// `cpuset.sched_load_balance`.
    pub const LOAD_BALANCE: u32 = 64;
    /// `cpuset.memory_pressure_enabled`, of the root.
    pub const PRESSURE_ENABLED: u32 = 128;
}

/// What a group may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    /// Written to `cpuset.cpus`.
    cpus: CpuSet,
    /// Written to `cpuset.mems`: the node, or none.
    has_memory: bool,
    /// The processors in effect.
    effective: CpuSet,
}

pub(super) struct Cpuset {
    shares: SpinLock<Shares>,
    switches: AtomicU32,
    relax_level: AtomicI32,
}

impl Cpuset {
    pub(super) fn new(is_root: bool) -> Cpuset {
        let all = arch::cpu::online();
        let cpus = if is_root { all } else { CpuSet::new() };
        let exclusive = switch::CPU_EXCLUSIVE | switch::MEM_EXCLUSIVE;
        let switches = switch::LOAD_BALANCE | if is_root { exclusive } else { 0 };
        Cpuset {
            shares: SpinLock::new(&CLASS, Shares { cpus, has_memory: is_root, effective: cpus }),
            switches: AtomicU32::new(switches),
            relax_level: AtomicI32::new(-1),
        }
    }
}

impl Group {
    fn shares(&self) -> Shares {
        let mut shares = *self.state.cpuset.shares.lock();
        if self.is_root() {
            // Processors come up after the first hierarchy is there.
            let all = arch::cpu::online();
            (shares.cpus, shares.effective) = (all, all);
        }
        shares
    }

    /// `cpuset.cpus`.
    pub fn cpus(&self) -> CpuSet {
        self.shares().cpus
    }

    /// `cpuset.effective_cpus`, `cpuset.cpus.effective`.
    pub fn effective_cpus(&self) -> CpuSet {
        self.shares().effective
    }

    /// Whether `cpuset.mems` names the node.
    pub fn has_memory(&self) -> bool {
        self.shares().has_memory
    }

    /// Whether the [`switch`] is on.
    pub fn cpuset_switch(&self, switch: u32) -> bool {
        self.state.cpuset.switches.load(Ordering::Relaxed) & switch != 0
    }

    /// `cpuset.sched_relax_domain_level`.
    pub fn relax_level(&self) -> &AtomicI32 {
        &self.state.cpuset.relax_level
    }
}

/// Whether a group of version 1 may have these instead of its own: cpuset(7), "ERRORS".
fn check(group: &Group, new: Shares, switches: u32) -> Result<()> {
    let fits = |inner: &Shares, outer: &Shares| {
        inner.cpus.is_subset(&outer.cpus) && (outer.has_memory || !inner.has_memory)
    };
    let children = group.children();
    if !children.iter().all(|child| fits(&child.shares(), &new)) {
        return Err(Errno::EBUSY);
    }
    let Some(parent) = group.parent() else { return Ok(()) };
    if !fits(&new, &parent.shares()) {
        return Err(Errno::EACCES);
    }
    let exclusive = |group: &Group, switch: u32| group.cpuset_switch(switch);
    for own in [switch::CPU_EXCLUSIVE, switch::MEM_EXCLUSIVE] {
        if switches & own != 0 && !exclusive(parent, own) {
            return Err(Errno::EACCES);
        }
        if switches & own == 0 && children.iter().any(|child| exclusive(child, own)) {
            return Err(Errno::EBUSY);
        }
    }
    for sibling in parent.children().iter().filter(|other| !core::ptr::eq(&***other, group)) {
        let theirs = sibling.shares();
        let both = |switch: u32| switches & switch != 0 || exclusive(sibling, switch);
        let shares_cpus = !new.cpus.and(&theirs.cpus).is_empty();
        let shares_memory = new.has_memory && theirs.has_memory;
        if both(switch::CPU_EXCLUSIVE) && shares_cpus
            || both(switch::MEM_EXCLUSIVE) && shares_memory
        {
            return Err(Errno::EINVAL);
        }
    }
    let old = group.shares();
    let empties = !old.cpus.is_empty() && new.cpus.is_empty() || old.has_memory && !new.has_memory;
    if empties && group.has_tasks() {
        return Err(Errno::ENOSPC);
    }
    Ok(())
}

/// `cpuset.cpus`. Errors as cpuset(7) has them; `EACCES` for the root, `EINVAL` for none that is there.
pub fn set_cpus(group: &Arc<Group>, cpus: CpuSet) -> Result<()> {
    change(group, |shares| shares.cpus = cpus)
}

/// `cpuset.mems`.
pub fn set_memory(group: &Arc<Group>, has_memory: bool) -> Result<()> {
    change(group, |shares| shares.has_memory = has_memory)
}

fn change(group: &Arc<Group>, how: impl FnOnce(&mut Shares)) -> Result<()> {
    let _held = structure();
    if group.is_removed() {
        return Err(Errno::ENODEV);
    }
    if group.is_root() {
        return Err(Errno::EACCES);
    }
    let mut new = group.shares();
    how(&mut new);
    if !group.hierarchy().is_unified() {
        check(group, new, group.state.cpuset.switches.load(Ordering::Relaxed))?;
    }
    *group.state.cpuset.shares.lock() = new;
    spread(group);
    Ok(())
}

/// Sets or clears a [`switch`]. Errors as cpuset(7) has them.
pub fn set_switch(group: &Arc<Group>, switch: u32, is_on: bool) -> Result<()> {
    let _held = structure();
    if group.is_removed() {
        return Err(Errno::ENODEV);
    }
    let switches = &group.state.cpuset.switches;
    let old = switches.load(Ordering::Relaxed);
    let new = if is_on { old | switch } else { old & !switch };
    check(group, group.shares(), new)?;
    switches.store(new, Ordering::Relaxed);
    Ok(())
}

/// Puts into effect what was written in the group and below, and tells the tasks.
fn spread(group: &Arc<Group>) {
    for at in group.subtree() {
        let old = at.shares();
        let effective = in_effect(&at, &old);
        at.state.cpuset.shares.lock().effective = effective;
        if effective != old.effective && !effective.is_empty() {
            super::tasks(&at).iter().for_each(|task| confine(task, effective));
        }
    }
}

fn in_effect(group: &Group, own: &Shares) -> CpuSet {
    let Some(parent) = group.parent() else { return own.effective };
    if !group.hierarchy().is_unified() {
        return own.cpus;
    }
    let above = parent.shares().effective;
    let asked = own.cpus.and(&above);
    if asked.is_empty() { above } else { asked }
}

fn confine(task: &Task, cpus: CpuSet) {
    if let Some(thread) = task.thread() {
        thread.set_affinity(cpus);
    }
}

/// A group was made; the structure is locked.
pub(super) fn created(group: &Group) {
    let Some(parent) = group.parent() else { return };
    let above = parent.shares();
    let is_unified = group.hierarchy().is_unified();
    let clones = parent.settings.clones_children.load(Ordering::Relaxed);
    let exclusive = switch::CPU_EXCLUSIVE | switch::MEM_EXCLUSIVE;
    // Its siblings may not share what it would get.
    let has_exclusive = clones && parent.children().iter().any(|at| at.cpuset_switch(exclusive));
    let mut own = group.state.cpuset.shares.lock();
    if is_unified {
        own.effective = above.effective;
    } else if clones && !has_exclusive {
        *own = Shares { effective: above.cpus, ..above };
    }
}

/// The children of `group` have the controller no longer.
pub(super) fn disabled(group: &Group) {
    for child in group.children() {
        child.state.cpuset.shares.lock().cpus = CpuSet::new();
        spread(&child);
    }
}

/// cpuset(7): `ENOSPC` for a group without processors or memory.
pub(super) fn may_attach(group: &Group) -> Result<()> {
    let hierarchy = group.hierarchy();
    if hierarchy.is_unified() || !hierarchy.controllers.contains(Controllers::CPUSET) {
        return Ok(());
    }
    let shares = group.shares();
    if shares.cpus.is_empty() || !shares.has_memory { Err(Errno::ENOSPC) } else { Ok(()) }
}

/// A task has moved; the tree is locked.
pub(super) fn moved(task: &Task, old: Option<&Arc<Set>>, new: Option<&Arc<Set>>) {
    let root = root_of(Controllers::CPUSET);
    let id = root.hierarchy().id;
    let of = |set: Option<&Arc<Set>>| {
        controlled(set.and_then(|set| set.group(id)).unwrap_or(&root)).arc()
    };
    let (from, to) = (of(old), of(new));
    if from.as_ref().map(Arc::as_ptr) != to.as_ref().map(Arc::as_ptr)
        && let Some(to) = to
    {
        confine(task, to.effective_cpus());
    }
}

/// The group itself or the one above it whose processors count: without the controller a group of version 2
/// is part of its parent.
fn controlled(group: &Group) -> &Group {
    let mut above = group.ancestors();
    above.find(|at| at.is_root() || at.controllers().contains(Controllers::CPUSET)).unwrap_or(group)
}

/// The processors on which `task` may run at most: `sched_setaffinity(2)`.
pub fn cpus_of(task: &Task) -> CpuSet {
    group_of(task, &root_of(Controllers::CPUSET)).effective_cpus()
}
