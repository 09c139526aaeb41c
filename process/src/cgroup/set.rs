//! Which groups a task is in: [`Set`].
//!
//! Tasks that are in the same groups share a set, so that `fork(2)` copies a pointer and adds the child
//! to one list, however many hierarchies there are. A set names the groups that are no roots; who is in
//! roots only has none, and is on no list.

use super::Controllers;
use super::group::Group;
use crate::roll::Roll;
use crate::task::Task;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicU64, Ordering};

static TABLE_CLASS: LockClass = LockClass::new("process.cgroup_sets", 614);
static MEMBERS_CLASS: LockClass = LockClass::new("process.cgroup_members", 611);
static POPULATION_CLASS: LockClass = LockClass::new("process.cgroup_population", 612);

/// Hierarchies with the group in each.
type Key = Vec<(u32, u64)>;

/// All sets by the groups they name.
static TABLE: SpinLock<BTreeMap<Key, Weak<Set>>> = SpinLock::new(&TABLE_CLASS, BTreeMap::new());
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// Held while groups come to have tasks or lose the last one, which is seldom.
pub(super) static POPULATION: SpinLock<()> = SpinLock::new(&POPULATION_CLASS, ());

/// Groups of different hierarchies, and the tasks that are in all of them.
pub struct Set {
    pub(super) id: u64,
    /// By the number of the hierarchy.
    groups: Vec<Arc<Group>>,
    members: SpinLock<Roll<Weak<Task>>>,
}

fn key(groups: &[Arc<Group>]) -> Key {
    groups.iter().map(|group| (group.hierarchy().id, group.id)).collect()
}

/// The set of these groups, which are ordered by their hierarchies and no roots; `None` for none.
fn find(groups: Vec<Arc<Group>>) -> Option<Arc<Set>> {
    if groups.is_empty() {
        return None;
    }
    let key = key(&groups);
    // Made before the lock is taken; declared first to be dropped after it.
    let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
    let members = SpinLock::new(&MEMBERS_CLASS, Roll::new());
    let new = Arc::new(Set { id, groups, members });
    let mut table = TABLE.lock();
    if let Some(found) = table.get(&key).and_then(Weak::upgrade) {
        drop(table);
        return Some(found);
    }
    table.insert(key, Arc::downgrade(&new));
    drop(table);
    for group in &new.groups {
        group.add_set(&new, Arc::downgrade(&new));
    }
    Some(new)
}

/// The set that `old` becomes when its task moves to `group`.
pub(super) fn moved(old: Option<&Arc<Set>>, group: &Arc<Group>) -> Option<Arc<Set>> {
    let hierarchy = group.hierarchy().id;
    let mut groups: Vec<Arc<Group>> = old.map_or_else(Vec::new, |old| old.groups.clone());
    groups.retain(|own| own.hierarchy().id != hierarchy);
    if !group.is_root() {
        let at = groups.partition_point(|own| own.hierarchy().id < hierarchy);
        groups.insert(at, group.clone());
    }
    find(groups)
}

impl Set {
    /// The group of this hierarchy, unless it is the root.
    pub fn group(&self, hierarchy: u32) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.hierarchy().id == hierarchy)
    }

    /// All of them.
    pub(super) fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// How many tasks run in it.
    pub(super) fn member_count(&self) -> usize {
        self.members.lock().len()
    }

    /// The groups that count tasks.
    pub(super) fn counting(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.iter().filter(|group| {
            let hierarchy = group.hierarchy();
            hierarchy.is_unified() || hierarchy.controllers.contains(Controllers::PIDS)
        })
    }

    /// Whether a task that runs is in it.
    pub(super) fn has_members(&self) -> bool {
        !self.members.lock().is_empty()
    }

    /// The tasks that run in it, in the order in which they came.
    pub(super) fn members(&self) -> Vec<Arc<Task>> {
        loop {
            // Room is made before the lock is taken.
            let wanted = self.members.lock().len();
            let mut tasks = Vec::with_capacity(wanted + 4);
            let members = self.members.lock();
            if members.len() <= tasks.capacity() {
                tasks.extend(members.iter().filter_map(Weak::upgrade));
                drop(members);
                return tasks;
            }
        }
    }

    /// Puts a task on the list; its key. The tree is locked.
    pub(super) fn join(&self, task: &Task) -> u64 {
        let mut members = self.members.lock();
        let key = members.join(task.weak());
        if members.len() == 1 {
            let _held = POPULATION.lock();
            self.groups.iter().for_each(|group| populate(group));
        }
        key
    }

    /// Takes a task off the list; the tree is locked. The groups that are empty now.
    pub(super) fn leave(&self, key: u64) -> Vec<Arc<Group>> {
        let mut emptied = Vec::new();
        let mut members = self.members.lock();
        let left = members.leave(key);
        if left.is_some() && members.is_empty() {
            let _held = POPULATION.lock();
            self.groups.iter().for_each(|group| depopulate(group, &mut emptied));
        }
        drop(members);
        drop(left);
        emptied
    }
}

/// One more set or child of the group has tasks.
fn populate(group: &Group) {
    for group in group.ancestors() {
        if group.populated.fetch_add(1, Ordering::AcqRel) != 0 {
            return;
        }
        super::told_later(group);
    }
}

/// One set or child less.
fn depopulate(group: &Group, emptied: &mut Vec<Arc<Group>>) {
    for group in group.ancestors() {
        if group.populated.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        emptied.extend(group.arc());
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        for group in &self.groups {
            group.remove_set(self.id);
        }
        let key = key(&self.groups);
        let mut table = TABLE.lock();
        // Another one may have been made in the meantime.
        let is_own = table.get(&key).is_some_and(|weak| core::ptr::eq(weak.as_ptr(), self));
        let removed = if is_own { table.remove(&key) } else { None };
        drop(table);
        drop(removed);
    }
}
