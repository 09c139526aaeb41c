//! One group of a hierarchy.

use super::hierarchy::Hierarchy;
use super::set::Set;
use super::{Controllers, Mode, Settings, controllers};
use abi::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use sched::WaitQueue;

static CLASS: LockClass = LockClass::new("process.cgroup", 615);

/// What of a group changes with its relatives.
struct Place {
    name: Arc<[u8]>,
    children: BTreeMap<Arc<[u8]>, Arc<Group>>,
    /// The children by their number: the order of a listing.
    by_id: BTreeMap<u64, Arc<Group>>,
    /// The sets that name it, by their number.
    sets: BTreeMap<u64, Weak<Set>>,
}

/// A group of tasks and of groups.
pub struct Group {
    this: Weak<Group>,
    hierarchy: Arc<Hierarchy>,
    parent: Option<Arc<Group>>,
    /// Tells it from all others of the hierarchy, those that were before included.
    pub id: u64,
    /// How far it is from the root.
    pub depth: usize,
    place: SpinLock<Place>,
    is_removed: AtomicBool,
    /// Sets with members that name it, and children for which this is not 0. Changes under
    /// [`super::set::POPULATION`].
    pub(super) populated: AtomicUsize,
    /// What its files set.
    pub settings: Settings,
    pub(super) enabled: AtomicU64,
    /// What its controllers keep of it.
    pub(super) state: controllers::State,
    /// Woken when `cgroup.events` would read otherwise.
    pub events: Arc<WaitQueue>,
    /// How often it was.
    pub event_count: AtomicU64,
    /// A change is on its way to those who want to know.
    pub(super) is_told: AtomicBool,
}

impl Group {
    pub(super) fn root(hierarchy: Arc<Hierarchy>) -> Arc<Group> {
        let clones_children = hierarchy.clones_children;
        let maker = Mode { bits: 0o555, owner: (0, 0) };
        let root = Group::new(hierarchy, None, b"".as_slice().into(), 1, maker);
        root.settings.clones_children.store(clones_children, Ordering::Relaxed);
        root
    }

    fn new(
        hierarchy: Arc<Hierarchy>,
        parent: Option<Arc<Group>>,
        name: Arc<[u8]>,
        id: u64,
        maker: Mode,
    ) -> Arc<Group> {
        let is_root = parent.is_none();
        let settings = Settings::new(parent.as_deref().map(|parent| &parent.settings), maker);
        Arc::new_cyclic(|this| Group {
            this: this.clone(),
            depth: parent.as_ref().map_or(0, |parent| parent.depth + 1),
            hierarchy,
            parent,
            id,
            place: SpinLock::new(
                &CLASS,
                Place {
                    name,
                    children: BTreeMap::new(),
                    by_id: BTreeMap::new(),
                    sets: BTreeMap::new(),
                },
            ),
            is_removed: AtomicBool::new(false),
            populated: AtomicUsize::new(0),
            settings,
            enabled: AtomicU64::new(0),
            state: controllers::State::new(is_root),
            events: Arc::new(WaitQueue::new()),
            event_count: AtomicU64::new(0),
            is_told: AtomicBool::new(false),
        })
    }

    /// A counted reference.
    pub fn arc(&self) -> Option<Arc<Group>> {
        self.this.upgrade()
    }

    /// The hierarchy it is part of.
    pub fn hierarchy(&self) -> &Arc<Hierarchy> {
        &self.hierarchy
    }

    /// The group above.
    pub fn parent(&self) -> Option<&Arc<Group>> {
        self.parent.as_ref()
    }

    /// Whether it is the root of its hierarchy.
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// The group itself and those above, the root last.
    pub fn ancestors(&self) -> impl Iterator<Item = &Group> {
        core::iter::successors(Some(self), |group| group.parent.as_deref())
    }

    /// Whether `other` is the group or below it.
    pub fn contains(&self, other: &Group) -> bool {
        other.ancestors().any(|group| core::ptr::eq(group, self))
    }

    /// Whether `rmdir(2)` has taken it away.
    pub fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Acquire)
    }

    /// Whether a task that runs is in it or below.
    pub fn is_populated(&self) -> bool {
        self.populated.load(Ordering::Acquire) != 0
    }

    /// The name of its directory; nothing for the root.
    pub fn name(&self) -> Arc<[u8]> {
        self.place.lock().name.clone()
    }

    /// The child with this name.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Group>> {
        self.place.lock().children.get(name).cloned()
    }

    /// The first child whose number is at least `id`.
    pub fn child_from(&self, id: u64) -> Option<Arc<Group>> {
        let place = self.place.lock();
        let (_, child) = place.by_id.range(id..).next()?;
        Some(child.clone())
    }

    /// All children.
    pub fn children(&self) -> Vec<Arc<Group>> {
        self.place.lock().children.values().cloned().collect()
    }

    /// How many children it has.
    pub fn child_count(&self) -> usize {
        self.place.lock().children.len()
    }

    /// The group and all below it, each behind its parent.
    pub fn subtree(&self) -> Vec<Arc<Group>> {
        let mut all: Vec<Arc<Group>> = self.arc().into_iter().collect();
        let mut next = 0;
        while let Some(group) = all.get(next) {
            let children = group.children();
            all.extend(children);
            next += 1;
        }
        all
    }

    /// Where it is, seen from `root`: cgroup_namespaces(7).
    pub fn path_from(&self, root: &Group) -> Vec<u8> {
        let mut path = Vec::new();
        let mut top = root;
        while !top.contains(self) {
            path.extend_from_slice(b"/..");
            match top.parent.as_deref() {
                Some(parent) => top = parent,
                None => break,
            }
        }
        let below: Vec<&Group> =
            self.ancestors().take_while(|group| !core::ptr::eq(*group, top)).collect();
        for group in below.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(&group.name());
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    pub(super) fn add_set(&self, set: &Set, weak: Weak<Set>) {
        self.place.lock().sets.insert(set.id, weak);
    }

    pub(super) fn remove_set(&self, id: u64) {
        let removed = self.place.lock().sets.remove(&id);
        drop(removed);
    }

    /// The sets that name it.
    pub(super) fn sets(&self) -> Vec<Arc<Set>> {
        self.place.lock().sets.values().filter_map(Weak::upgrade).collect()
    }

    /// Whether tasks that run are in the group itself.
    pub(super) fn has_tasks(&self) -> bool {
        self.sets().iter().any(|set| set.has_members())
    }

    /// How many tasks run in the group itself.
    pub(super) fn task_count(&self) -> usize {
        self.sets().iter().map(|set| set.member_count()).sum()
    }

    /// The controllers that the group has files of.
    pub fn controllers(&self) -> Controllers {
        if !self.hierarchy.is_unified() {
            return self.hierarchy.controllers;
        }
        match &self.parent {
            Some(parent) => parent.enabled_for_children(),
            None => super::hierarchy::unified_controllers(),
        }
    }

    /// The controllers that its children have files of: `cgroup.subtree_control`.
    pub fn enabled_for_children(&self) -> Controllers {
        Controllers::from_bits_truncate(self.enabled.load(Ordering::Relaxed) as u32)
    }

    /// Makes a child; the structure is locked. Errors: `ENODEV` in a group that is gone, `EEXIST`,
    /// `EAGAIN` at a limit of `cgroup.max.depth` or `cgroup.max.descendants`.
    pub(super) fn add_child(&self, name: &[u8], maker: Mode) -> Result<Arc<Group>> {
        if self.is_removed() {
            return Err(Errno::ENODEV);
        }
        let own = self.arc().ok_or(Errno::ENODEV)?;
        if self.child(name).is_some() {
            return Err(Errno::EEXIST);
        }
        for (below, group) in (1..).zip(self.ancestors()) {
            let descendants = group.settings.descendants.load(Ordering::Relaxed);
            if descendants >= group.settings.max_descendants.load(Ordering::Relaxed)
                || below > group.settings.max_depth.load(Ordering::Relaxed)
            {
                return Err(Errno::EAGAIN);
            }
        }
        let name: Arc<[u8]> = name.into();
        let id = self.hierarchy.next_id();
        let child = Group::new(self.hierarchy.clone(), Some(own), name.clone(), id, maker);
        for group in self.ancestors() {
            group.settings.descendants.fetch_add(1, Ordering::Relaxed);
        }
        let mut place = self.place.lock();
        place.children.insert(name, child.clone());
        place.by_id.insert(id, child.clone());
        drop(place);
        Ok(child)
    }

    /// Takes the child with this name away; the structure is locked. Errors: `ENOENT`, `EBUSY` if
    /// a task that runs or a group is in it.
    pub(super) fn remove_child(&self, name: &[u8]) -> Result<Arc<Group>> {
        let child = self.child(name).ok_or(Errno::ENOENT)?;
        if child.is_populated() || child.child_count() != 0 {
            return Err(Errno::EBUSY);
        }
        child.is_removed.store(true, Ordering::Release);
        for group in self.ancestors() {
            group.settings.descendants.fetch_sub(1, Ordering::Relaxed);
            group.settings.dying.fetch_add(1, Ordering::Relaxed);
        }
        let removed = {
            let mut place = self.place.lock();
            (place.children.remove(name), place.by_id.remove(&child.id))
        };
        drop(removed);
        Ok(child)
    }

    /// Gives a child another name; the structure is locked. Errors: `ENOENT`, `EEXIST`.
    pub(super) fn rename_child(&self, old: &[u8], new: &[u8]) -> Result<()> {
        let name: Arc<[u8]> = new.into();
        let child = self.child(old).ok_or(Errno::ENOENT)?;
        if self.child(new).is_some() {
            return Err(Errno::EEXIST);
        }
        let removed = {
            let mut place = self.place.lock();
            let removed = place.children.remove(old);
            place.children.insert(name.clone(), child.clone());
            removed
        };
        let old_name = core::mem::replace(&mut child.place.lock().name, name);
        drop((removed, old_name));
        Ok(())
    }
}

impl Group {
    /// A group that was removed is nobody's any more.
    fn end(&self) {
        if self.is_removed() {
            for above in self.ancestors().skip(1) {
                above.settings.dying.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
        // One after the other: a chain of groups may be longer than the stack.
        let mut next = self.parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            if parent.parent.is_some() {
                parent.end();
            }
            next = parent.parent.take();
        }
    }
}
