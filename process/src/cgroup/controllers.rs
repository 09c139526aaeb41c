//! Which controllers there are, and when each is asked: a line a controller and occasion.
//!
//! A controller is a file of its own. What it keeps of a group is a field of [`State`], made by
//! `NAME::State::new`; what it does when tasks and groups come, move and go are the functions called here. Its files are
//! a table of its own in crate `cgroupfs`.

use super::group::Group;
use super::set::Set;
use super::{cpuacct, cpuset, devices, freezer, pids};
use crate::task::Task;
use abi::Result;
use alloc::sync::Arc;
use bitflags::bitflags;

bitflags! {
    /// What can be controlled.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Controllers: u32 {
        /// On which processors tasks run.
        const CPUSET = 1;
        /// Processor time.
        const CPUACCT = 1 << 2;
        /// Which devices tasks may use.
        const DEVICES = 1 << 5;
        /// Tasks that stand still.
        const FREEZER = 1 << 6;
        /// How many tasks there may be.
        const PIDS = 1 << 11;
    }
}

impl Controllers {
    /// Each with its name, in the order of `/proc/cgroups`.
    pub const NAMES: [(&'static str, Controllers); 5] = [
        // One line each.
        ("cpuset", Controllers::CPUSET),
        ("cpuacct", Controllers::CPUACCT),
        ("devices", Controllers::DEVICES),
        ("freezer", Controllers::FREEZER),
        ("pids", Controllers::PIDS),
    ];
    /// Those that version 2 has.
    pub const UNIFIED: Controllers = Controllers::CPUSET.union(Controllers::PIDS);
    /// Those that look at tasks one by one and need no processes kept together: cgroups(7), "Threaded
    /// versus domain controllers".
    pub const THREADED: Controllers = Controllers::CPUSET.union(Controllers::PIDS);

    /// The controller with this name.
    pub fn named(name: &[u8]) -> Option<Controllers> {
        let found = Self::NAMES.iter().find(|(own, _)| own.as_bytes() == name);
        found.map(|(_, controller)| *controller)
    }

    /// The names of these.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(_, own)| self.contains(*own)).map(|(name, _)| *name)
    }
}

/// What the controllers keep of a group.
pub(super) struct State {
    pub(super) cpuset: cpuset::Cpuset,
    pub(super) cpuacct: cpuacct::Account,
    pub(super) devices: devices::DeviceRules,
    pub(super) freezer: freezer::Freezer,
    pub(super) pids: pids::Pids,
}

impl State {
    pub(super) fn new(is_root: bool) -> State {
        State {
            cpuset: cpuset::Cpuset::new(is_root),
            cpuacct: cpuacct::Account::new(),
            devices: devices::DeviceRules::new(),
            freezer: freezer::Freezer::new(),
            pids: pids::Pids::new(),
        }
    }
}

/// A group was made; the structure is locked.
pub(super) fn created(group: &Group) {
    cpuset::created(group);
    devices::created(group);
    freezer::created(group);
}

/// A group without tasks and groups is taken away; structure and tree are locked.
pub(super) fn removed(group: &Group) {
    cpuacct::removed(group);
    freezer::removed(group);
}

/// The children of `group` are no longer controlled by `controllers`; the structure is locked.
pub(super) fn disabled(group: &Group, controllers: Controllers) {
    if controllers.contains(Controllers::CPUSET) {
        cpuset::disabled(group);
    }
    if controllers.contains(Controllers::PIDS) {
        group.children().iter().for_each(|child| child.set_pids_max(pids::NO_LIMIT));
    }
}

/// Whether `tasks` may move to `group`; structure and tree are locked.
pub(super) fn may_attach(group: &Group, _tasks: &[Arc<Task>]) -> Result<()> {
    cpuset::may_attach(group)
}

/// A task has moved from the groups of `old` to those of `new`; structure and tree are locked.
pub(super) fn moved(task: &Task, old: Option<&Arc<Set>>, new: Option<&Arc<Set>>) {
    cpuset::moved(task, old, new);
    cpuacct::moved(task, old.map(|set| &**set));
    freezer::moved(task, old, new);
    if let Some(new) = new {
        pids::charge_moved(new);
    }
    if let Some(old) = old {
        pids::uncharge(old);
    }
}

/// A task is about to be born into the groups of `set`; the tree is locked. What is refused has
/// changed nothing.
pub(super) fn may_enter(set: &Set) -> Result<()> {
    pids::charge(set)
}

/// It was not born.
pub(super) fn not_entered(set: &Set) {
    pids::uncharge(set);
}

/// It was born; the tree is locked.
pub(super) fn entered(task: &Task, set: &Arc<Set>) {
    freezer::entered(task, set);
}

/// A task has ended; the tree is locked.
pub(super) fn ended(task: &Task, set: &Set) {
    cpuacct::ended(task, set);
    freezer::ended(task, set);
}

/// Nothing is left of a task: its number is free.
pub(super) fn gone(set: &Set) {
    pids::uncharge(set);
}
