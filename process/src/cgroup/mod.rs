//! Control groups: cgroups(7).
//!
//! A hierarchy is a tree of [`Group`]s; a task is in one group of each. Which, says its [`Set`], that it
//! shares with all who are in the same ones. What programs see of it are the files of crate `cgroupfs`.
//!
//! Groups, hierarchies and what is enabled change under one sleeping lock, [`structure`]; who is where
//! changes under the tree lock of the family, which `fork(2)` and exit hold anyway: so a process moves
//! with all its threads, and no child is born into the group that its parent has just left.

mod agent;
mod controllers;
mod cpuacct;
pub mod cpuset;
pub mod devices;
mod freezer;
mod group;
mod hierarchy;
mod namespace;
mod pids;
mod set;

pub use controllers::Controllers;
pub(crate) use cpuacct::Before;
pub use cpuacct::CpuUsage;
pub use freezer::{FreezerState, set_frozen};
pub(crate) use freezer::{Standing, Wait, stand, stand_at_once};
pub use group::Group;
pub use hierarchy::{
    Hierarchy, Wanted, is_unified_visible, mount, mount_unified, root_of, unified, unmounted,
    version_1,
};
pub use namespace::{CgroupNamespace, current as current_namespace, groups_of};
pub use pids::NO_LIMIT;
pub use set::Set;

use crate::group::tree;
use crate::pid::PidNamespace;
use crate::task::{Life, Task};
use abi::{Errno, Result};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use sched::{Mutex, MutexGuard};
use spin::Once;

static STRUCTURE_CLASS: LockClass = LockClass::new("process.cgroups", 345);
static MODES_CLASS: LockClass = LockClass::new("process.cgroup_modes", 618);

static STRUCTURE: Mutex<()> = Mutex::new(&STRUCTURE_CLASS, ());

/// Holds all hierarchies still.
fn structure() -> MutexGuard<'static, ()> {
    STRUCTURE.lock()
}

/// What the files of a group set that is no controller's.
pub struct Settings {
    /// `notify_on_release`.
    pub notifies_on_release: AtomicBool,
    /// `cgroup.clone_children`.
    pub clones_children: AtomicBool,
    /// `cgroup.max.descendants`; `usize::MAX` for no limit.
    pub max_descendants: AtomicUsize,
    /// `cgroup.max.depth`.
    pub max_depth: AtomicUsize,
    /// Groups below it.
    pub descendants: AtomicUsize,
    /// Groups below it that are removed and still somebody's.
    pub dying: AtomicUsize,
    /// Who made the group: its files are his.
    pub maker: (u32, u32),
    /// Owners and permission bits by the name of the file, where they are not as usual; the
    /// directory's under no name.
    modes: SpinLock<BTreeMap<&'static str, Mode>>,
}

/// Who a file belongs to and what he may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Permission bits.
    pub bits: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

impl Settings {
    fn new(parent: Option<&Settings>, maker: Mode) -> Settings {
        let inherited = |of: fn(&Settings) -> &AtomicBool| {
            AtomicBool::new(parent.is_some_and(|parent| of(parent).load(Ordering::Relaxed)))
        };
        Settings {
            notifies_on_release: inherited(|settings| &settings.notifies_on_release),
            clones_children: inherited(|settings| &settings.clones_children),
            max_descendants: AtomicUsize::new(usize::MAX),
            max_depth: AtomicUsize::new(usize::MAX),
            descendants: AtomicUsize::new(0),
            dying: AtomicUsize::new(0),
            maker: maker.owner,
            modes: SpinLock::new(&MODES_CLASS, BTreeMap::from([("", maker)])),
        }
    }

    /// What was set for the file, if anything was.
    pub fn mode(&self, file: &str) -> Option<Mode> {
        self.modes.lock().get(file).copied()
    }

    /// Sets it.
    pub fn set_mode(&self, file: &'static str, mode: Mode) {
        self.modes.lock().insert(file, mode);
    }
}

/// Makes a group in `parent`; `maker` owns its files. Errors: `ENODEV` in a group that is gone, `EEXIST`,
/// `EAGAIN` at a limit, `EINVAL` for a name with a line feed, which would break `/proc/PID/cgroup`.
pub fn create(parent: &Arc<Group>, name: &[u8], mode: Mode) -> Result<Arc<Group>> {
    if name.contains(&b'\n') {
        return Err(Errno::EINVAL);
    }
    let _held = structure();
    let group = parent.add_child(name, mode)?;
    controllers::created(&group);
    Ok(group)
}

/// Removes the group `name` of `parent`. Errors: `ENOENT`, `EBUSY` while a task that runs or a group is in it.
pub fn remove(parent: &Arc<Group>, name: &[u8]) -> Result<()> {
    let _held = structure();
    // Nobody moves in between the look and the end.
    let _tree = tree();
    let removed = parent.remove_child(name)?;
    controllers::removed(&removed);
    told_later(&removed);
    told_later(parent);
    Ok(())
}

/// Gives the group `old` of `parent` another name. Errors: `ENOENT`, `EEXIST`, `EINVAL` for a line feed.
pub fn rename(parent: &Arc<Group>, old: &[u8], new: &[u8]) -> Result<()> {
    if new.contains(&b'\n') {
        return Err(Errno::EINVAL);
    }
    let _held = structure();
    parent.rename_child(old, new)
}

/// The group in the hierarchy with this `root` of those who are in `set`.
fn of(set: Option<&Set>, root: &Arc<Group>) -> Arc<Group> {
    set.and_then(|set| set.group(root.hierarchy().id)).unwrap_or(root).clone()
}

/// The group of `task` in the hierarchy with this `root`.
pub fn group_of(task: &Task, root: &Arc<Group>) -> Arc<Group> {
    of(task.cgroups.get().as_deref(), root)
}

/// The tasks that run in `group` itself.
pub fn tasks(group: &Arc<Group>) -> Vec<Arc<Task>> {
    if !group.is_root() {
        return group.sets().iter().flat_map(|set| set.members()).collect();
    }
    let hierarchy = group.hierarchy().id;
    let all = PidNamespace::initial().groups();
    let tasks = all.iter().flat_map(|process| process.tasks());
    tasks
        .filter(|task| {
            let is_elsewhere = task.cgroups.get().is_some_and(|set| set.group(hierarchy).is_some());
            !is_elsewhere && matches!(task.life(), Life::Alive | Life::Exiting)
        })
        .collect()
}

/// cgroups(7), `cgroup.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole processes are in it.
    Domain,
    /// It has processes, and its children tell their threads apart.
    DomainThreaded,
    /// Nobody can be in it before it is made threaded.
    DomainInvalid,
}

/// What kind of group of the unified hierarchy it is.
pub fn kind(group: &Group) -> Kind {
    if is_invalid(group) {
        Kind::DomainInvalid
    } else if is_threaded_domain(group) {
        Kind::DomainThreaded
    } else {
        Kind::Domain
    }
}

fn is_threaded_domain(group: &Group) -> bool {
    !group.is_root() && !group.enabled_for_children().is_empty() && group.has_tasks()
}

/// Whether it is below a threaded domain.
fn is_invalid(group: &Group) -> bool {
    group.ancestors().skip(1).any(is_threaded_domain)
}

/// Moves `task` to `group`, in version 2 or if `is_whole` with all threads of its process.
///
/// Errors: `ENODEV` for a group that is gone, `EBUSY` for one whose children are controlled as whole
/// processes, `EOPNOTSUPP` for one that is [`Kind::DomainInvalid`]. Who has ended stays where he was.
pub fn attach(group: &Arc<Group>, task: &Arc<Task>, is_whole: bool) -> Result<()> {
    let held = structure();
    if group.is_removed() {
        return Err(Errno::ENODEV);
    }
    if group.hierarchy().is_unified() && !group.is_root() {
        if is_invalid(group) {
            return Err(Errno::EOPNOTSUPP);
        }
        if !group.enabled_for_children().difference(Controllers::THREADED).is_empty() {
            return Err(Errno::EBUSY);
        }
    }
    let mut left = Vec::new();
    {
        let _tree = tree();
        let mut tasks = if is_whole { task.group.tasks() } else { Vec::from([task.clone()]) };
        tasks.retain(|task| matches!(task.life(), Life::Alive | Life::Exiting));
        controllers::may_attach(group, &tasks)?;
        left.extend(tasks.iter().filter_map(|task| move_task(task, group)));
    }
    drop(left);
    drop(held);
    Ok(())
}

/// Moves one task; the tree is locked. The set it was in, to be dropped without the lock.
fn move_task(task: &Arc<Task>, group: &Arc<Group>) -> Option<Arc<Set>> {
    let old = task.cgroups.get();
    let new = set::moved(old.as_ref(), group);
    if old.as_ref().map(Arc::as_ptr) == new.as_ref().map(Arc::as_ptr) {
        return old;
    }
    let old_key = task.cgroup_key.load(Ordering::Relaxed);
    if let Some(new) = &new {
        task.cgroup_key.store(new.join(task), Ordering::Relaxed);
    }
    task.cgroups.set(new.clone());
    if let Some(old) = &old {
        old.leave(old_key).iter().for_each(|group| told_later(group));
    }
    controllers::moved(task, old.as_ref(), new.as_ref());
    old
}

/// The place of a child that is about to be born among the groups of its parent: it is counted already.
pub(crate) struct Entry(Option<Arc<Set>>);

impl Entry {
    /// Counts a child of `parent`; the tree is locked. Errors: `EAGAIN` at a limit.
    #[inline]
    pub(crate) fn new(parent: &Task) -> Result<Entry> {
        let set = parent.cgroups.get();
        if let Some(set) = &set {
            controllers::may_enter(set)?;
        }
        Ok(Entry(set))
    }

    /// The child is there; the tree is locked.
    #[inline]
    pub(crate) fn enter(mut self, child: &Task) {
        if let Some(set) = self.0.take() {
            child.cgroup_key.store(set.join(child), Ordering::Relaxed);
            child.cgroups.set(Some(set.clone()));
            controllers::entered(child, &set);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(set) = &self.0 {
            controllers::not_entered(set);
        }
    }
}

/// A thread has ended; the tree is locked. It stays counted until it is [`gone`].
#[inline]
pub(crate) fn ended(task: &Task) {
    if let Some(set) = task.cgroups.get() {
        let key = task.cgroup_key.load(Ordering::Relaxed);
        set.leave(key).iter().for_each(|group| told_later(group));
        controllers::ended(task, &set);
    }
}

/// Nothing is left of a task: its number is free.
#[inline]
pub(crate) fn gone(task: &Task) {
    if let Some(set) = task.cgroups.get() {
        controllers::gone(&set);
    }
}

/// Enables and disables controllers for the children of `group`: `cgroup.subtree_control`.
///
/// Errors: `ENODEV` for a group that is gone, `ENOENT` for a controller that the group has not got, `EBUSY`
/// if a child passes on what is to be disabled, or if tasks are in the group that can only be
/// controlled as whole processes in children.
pub fn control(group: &Arc<Group>, enable: Controllers, disable: Controllers) -> Result<()> {
    let _held = structure();
    if group.is_removed() {
        return Err(Errno::ENODEV);
    }
    let own = group.enabled_for_children();
    let (enable, disable) = (enable.difference(own), disable.intersection(own));
    if !group.controllers().contains(enable) {
        return Err(Errno::ENOENT);
    }
    let children = group.children();
    if children.iter().any(|child| child.enabled_for_children().intersects(disable)) {
        return Err(Errno::EBUSY);
    }
    if !enable.is_empty() && !group.is_root() {
        if is_invalid(group) {
            return Err(Errno::EOPNOTSUPP);
        }
        if !enable.difference(Controllers::THREADED).is_empty() && group.has_tasks() {
            return Err(Errno::EBUSY);
        }
    }
    controllers::disabled(group, disable);
    let new = own.union(enable).difference(disable);
    group.enabled.store(u64::from(new.bits()), Ordering::Relaxed);
    Ok(())
}

/// `cgroup.kill`: every process in the group and below ends.
pub fn kill(group: &Arc<Group>) {
    use abi::signal::{SigInfo, Signal, si};
    let _held = structure();
    let mut killed = BTreeSet::new();
    for group in group.subtree() {
        // Again until there is nobody new: whoever is born meanwhile is here, and a process that has the
        // signal has no more children.
        loop {
            let before = killed.len();
            for task in tasks(&group) {
                if killed.insert(task.group.birth) {
                    let info = SigInfo::new(Signal::SIGKILL, si::KERNEL);
                    let _ = crate::signal::send_to_group(&task.group, info);
                }
            }
            if killed.len() == before {
                break;
            }
        }
    }
}

static HOOK: Once<fn(&Arc<Group>)> = Once::new();

/// Registers who is told when `cgroup.events` or `pids.events` of a group would read otherwise.
pub fn set_events_hook(hook: fn(&Arc<Group>)) {
    HOOK.call_once(|| hook);
}

/// Tells those who want to know that the group has changed, from a thread that may sleep.
fn told_later(group: &Group) {
    // One note for all that happens until it is told: refused forks must not pile up memory.
    if group.is_told.swap(true, Ordering::AcqRel) {
        return;
    }
    let Some(group) = group.arc() else { return };
    sched::work::queue(move || {
        // A full barrier: what happens from now on is told anew.
        group.is_told.swap(false, Ordering::AcqRel);
        group.event_count.fetch_add(1, Ordering::AcqRel);
        group.events.notify(abi::poll::POLLERR | abi::poll::POLLPRI);
        if let Some(hook) = HOOK.get() {
            hook(&group);
        }
        if !group.hierarchy().is_unified() {
            agent::tell_if_released(&group);
        }
    });
}
