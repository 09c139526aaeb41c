//! The controller `freezer` of version 1 and `cgroup.freeze` of version 2: tasks that stand still.
//!
//! A task knows in one word who wants it to stand still and whether it does ([`Standing`]), so that all others
//! pay a test of it. It stands still on its way to user space: of version 1 whatever comes, of version 2
//! until it is killed or its tracer calls. What waits already for a tracer, a continuation or the child of a
//! `vfork(2)` counts as still.
//!
//! Version 2 tells when a group is frozen: each counts its tasks and children that are, under one lock that
//! only those take who are to freeze. Version 1 looks at the tasks when its file is read.

use super::controllers::Controllers;
use super::group::Group;
use super::set::Set;
use super::{structure, told_later};
use crate::cell::ArcCell;
use crate::group::tree;
use crate::task::Task;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

static CLASS: LockClass = LockClass::new("process.cgroup_freezer", 609);

/// Held while counts change.
static COUNTS: SpinLock<()> = SpinLock::new(&CLASS, ());

/// What a group knows of it.
pub(super) struct Freezer {
    /// `freezer.self_freezing`, `cgroup.freeze`.
    own: AtomicBool,
    /// That of the group or of one above it.
    is_freezing: AtomicBool,
    /// In version 2, under [`COUNTS`]: tasks of the group that stand still.
    tasks: AtomicUsize,
    /// Children that are frozen.
    children: AtomicUsize,
    /// It is frozen itself.
    is_frozen: AtomicBool,
}

impl Freezer {
    pub(super) fn new() -> Freezer {
        Freezer {
            own: AtomicBool::new(false),
            is_freezing: AtomicBool::new(false),
            tasks: AtomicUsize::new(0),
            children: AtomicUsize::new(0),
            is_frozen: AtomicBool::new(false),
        }
    }
}

/// A group of version 1 wants the task to stand still.
const WANTED_1: u32 = 1;
/// One of version 2 does.
const WANTED_2: u32 = 2;
/// It does.
const FROZEN: u32 = 4;
/// It waits for a tracer, a continuation or a child's program, and sees no user space before it has
/// looked at this word.
const WAITS: u32 = 8;

/// What a task knows of it.
pub(crate) struct Standing {
    bits: AtomicU32,
    /// The group of which it is one of the `tasks`. Changes under [`COUNTS`].
    counted: ArcCell<Group>,
}

impl Standing {
    pub(crate) fn new() -> Standing {
        Standing { bits: AtomicU32::new(0), counted: ArcCell::new(None) }
    }

    /// Whether it is to stand still on its way to user space.
    #[inline]
    pub(crate) fn is_wanted(&self) -> bool {
        // Relaxed: who wants it sets the flag that makes the task look.
        self.bits.load(Ordering::Relaxed) & (WANTED_1 | WANTED_2) != 0
    }

    /// Whether no signal may keep it from that.
    #[inline]
    pub(crate) fn is_wanted_at_once(&self) -> bool {
        self.bits.load(Ordering::Relaxed) & WANTED_1 != 0
    }

    /// Whether it stands still and nothing wakes it.
    pub(crate) fn is_frozen_at_once(&self) -> bool {
        self.is_wanted_at_once() && self.is_still()
    }

    fn is_still(&self) -> bool {
        self.bits.load(Ordering::Acquire) & (FROZEN | WAITS) != 0
    }
}

/// `freezer.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreezerState {
    /// Its tasks run.
    Thawed,
    /// They are to stand still.
    Freezing,
    /// They do.
    Frozen,
}

impl Group {
    /// `freezer.self_freezing`, `cgroup.freeze`.
    pub fn is_to_freeze(&self) -> bool {
        self.state.freezer.own.load(Ordering::Relaxed)
    }

    /// Whether it or a group above is to freeze.
    pub fn is_freezing(&self) -> bool {
        self.state.freezer.is_freezing.load(Ordering::Relaxed)
    }

    /// `frozen` in `cgroup.events`.
    pub fn is_frozen(&self) -> bool {
        self.state.freezer.is_frozen.load(Ordering::Relaxed)
    }

    /// `freezer.state`: costs as much as there are tasks in it and below.
    pub fn freezer_state(&self) -> FreezerState {
        if !self.is_freezing() {
            return FreezerState::Thawed;
        }
        let is_moving = self
            .subtree()
            .iter()
            .any(|group| super::tasks(group).iter().any(|task| !task.standing.is_still()));
        if is_moving { FreezerState::Freezing } else { FreezerState::Frozen }
    }
}

/// Freezes or thaws a group and what is below it. Errors: `ENODEV` for one that is gone.
pub fn set_frozen(group: &Arc<Group>, freezes: bool) -> Result<()> {
    let _held = structure();
    if group.is_removed() {
        return Err(Errno::ENODEV);
    }
    if group.state.freezer.own.swap(freezes, Ordering::Relaxed) == freezes {
        return Ok(());
    }
    let all = group.subtree();
    {
        let _counts = COUNTS.lock();
        all.iter().for_each(|group| inherit(group));
        // Those without tasks are frozen at once.
        all.iter().rev().for_each(|group| evaluate(group));
    }
    // Who is born from here on sees it; the others are in the lists.
    drop(tree());
    for task in all.iter().flat_map(super::tasks) {
        update(&task, task.cgroups.get().as_ref());
    }
    Ok(())
}

/// Takes from the group above whether to freeze.
fn inherit(group: &Group) {
    let above = group.parent().is_some_and(|parent| parent.is_freezing());
    group.state.freezer.is_freezing.store(above || group.is_to_freeze(), Ordering::Relaxed);
}

/// A group was made.
pub(super) fn created(group: &Group) {
    inherit(group);
    refresh(group);
}

/// A group is taken away: what is empty below one that freezes is frozen.
pub(super) fn removed(group: &Group) {
    let Some(parent) = group.parent() else { return };
    let _counts = COUNTS.lock();
    if group.state.freezer.is_frozen.load(Ordering::Relaxed) {
        parent.state.freezer.children.fetch_sub(1, Ordering::Relaxed);
    }
    evaluate(parent);
}

/// Looks whether the group is frozen after tasks have come or gone.
fn refresh(group: &Group) {
    if group.is_freezing() && group.hierarchy().is_unified() {
        let _counts = COUNTS.lock();
        evaluate(group);
    }
}

/// Looks whether the group is frozen, and those above it; [`COUNTS`] is held.
fn evaluate(group: &Group) {
    if !group.hierarchy().is_unified() {
        return;
    }
    for at in group.ancestors() {
        let own = &at.state.freezer;
        let is_frozen = at.is_freezing()
            && own.tasks.load(Ordering::Relaxed) >= at.task_count()
            && own.children.load(Ordering::Relaxed) >= at.child_count();
        if own.is_frozen.swap(is_frozen, Ordering::Relaxed) == is_frozen {
            return;
        }
        told_later(at);
        let Some(parent) = at.parent() else { return };
        let children = &parent.state.freezer.children;
        if is_frozen {
            children.fetch_add(1, Ordering::Relaxed);
        } else {
            children.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Notes in the task what the groups of `set`, which it is in, want of it, and lets it see that.
fn update(task: &Task, set: Option<&Arc<Set>>) {
    let (mut wanted, mut unified) = (0, None);
    for group in set.iter().flat_map(|set| set.groups()) {
        if group.hierarchy().is_unified() {
            unified = Some(group);
            wanted |= if group.is_freezing() { WANTED_2 } else { 0 };
        } else if group.controllers().contains(Controllers::FREEZER) && group.is_freezing() {
            wanted |= WANTED_1;
        }
    }
    let bits = &task.standing.bits;
    {
        let _counts = COUNTS.lock();
        bits.fetch_and(!(WANTED_1 | WANTED_2) | wanted, Ordering::AcqRel);
        let now = bits.fetch_or(wanted, Ordering::AcqRel);
        count(task, unified, now & (FROZEN | WAITS) != 0);
    }
    if wanted != 0 && !task.standing.is_still() {
        let _signals = task.group.signals.lock();
        crate::signal::send::wake(task, false);
    } else {
        task.group.resume.wake_all();
    }
}

/// Counts the task in its group of version 2 if it stands still there, and where it did no longer;
/// [`COUNTS`] is held.
fn count(task: &Task, group: Option<&Arc<Group>>, is_still: bool) {
    let standing = &task.standing;
    let is_wanted = standing.bits.load(Ordering::Relaxed) & WANTED_2 != 0;
    let was = standing.counted.get();
    let now = group.filter(|_| is_wanted && (is_still || was.is_some()));
    if was.as_ref().map(Arc::as_ptr) != now.map(Arc::as_ptr) {
        if let Some(was) = &was {
            was.state.freezer.tasks.fetch_sub(1, Ordering::Relaxed);
            evaluate(was);
        }
        if let Some(now) = now {
            now.state.freezer.tasks.fetch_add(1, Ordering::Relaxed);
        }
        standing.counted.set(now.cloned());
    }
    if let Some(group) = group {
        evaluate(group);
    }
}

/// Whether one of the groups is to freeze.
fn freezes(set: &Set) -> bool {
    set.groups().iter().any(|group| group.is_freezing())
}

/// A task has moved; the tree is locked.
pub(super) fn moved(task: &Task, old: Option<&Arc<Set>>, new: Option<&Arc<Set>>) {
    if !old.is_some_and(|set| freezes(set)) && !new.is_some_and(|set| freezes(set)) {
        return;
    }
    update(task, new);
    if let Some(left) = old.and_then(|old| old.group(0)) {
        refresh(left);
    }
}

/// A task was born; the tree is locked.
pub(super) fn entered(task: &Task, set: &Arc<Set>) {
    if freezes(set) {
        update(task, Some(set));
    }
}

/// A task has ended; the tree is locked.
pub(super) fn ended(task: &Task, set: &Set) {
    if !task.standing.is_wanted() && !freezes(set) {
        return;
    }
    {
        let _counts = COUNTS.lock();
        count(task, None, false);
    }
    if let Some(left) = set.group(0) {
        refresh(left);
    }
}

/// The running task stands still now, and counts if it is to.
fn note(task: &Task, how: u32) {
    if task.standing.bits.fetch_or(how, Ordering::AcqRel) & WANTED_2 == 0 {
        return;
    }
    let _counts = COUNTS.lock();
    // Who moves the task counts it anew after this.
    let set = task.cgroups.get();
    count(task, set.as_ref().and_then(|set| set.group(0)), true);
}

/// Stands still of version 1 until thawed, whatever comes. Called without locks.
pub(crate) fn stand_at_once(task: &Task) {
    note(task, FROZEN);
    task.group.resume.wait(|| (!task.standing.is_wanted_at_once()).then_some(()));
    task.standing.bits.fetch_and(!FROZEN, Ordering::AcqRel);
}

/// Stands still of version 2 until thawed or a signal or tracer wants to be looked at; the caller has
/// cleared `SIGPENDING` with the signals locked, and holds no lock.
pub(crate) fn stand(task: &Task) {
    note(task, FROZEN);
    let goes_on = || !task.standing.is_wanted() || task.standing.is_wanted_at_once();
    // Interrupted or not, the caller looks at everything again.
    let _ = task.group.resume.wait_interruptible(|| goes_on().then_some(()), None);
    task.standing.bits.fetch_and(!FROZEN, Ordering::AcqRel);
}

/// Until dropped the running task waits for what may take long, and sees no user space before it has
/// looked whether it is to freeze.
pub(crate) struct Wait<'a>(&'a Task);

impl<'a> Wait<'a> {
    pub(crate) fn new(task: &'a Task) -> Wait<'a> {
        note(task, WAITS);
        Wait(task)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        // It stays counted until it runs freely or is gone.
        self.0.standing.bits.fetch_and(!WAITS, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Mode, create, remove, unified};

    fn make(parent: &Arc<Group>, name: &[u8]) -> Arc<Group> {
        create(parent, name, Mode { bits: 0o755, owner: (0, 0) }).expect("a group")
    }

    #[test]
    fn groups_without_tasks_freeze_at_once() {
        let top = make(unified(), b"freezer");
        let (low, side) = (make(&top, b"low"), make(&top, b"side"));
        set_frozen(&low, true).expect("freezes");
        assert!(low.is_frozen() && !top.is_frozen() && !side.is_frozen());
        set_frozen(&top, true).expect("freezes");
        assert!(low.is_frozen() && top.is_frozen() && side.is_frozen());
        let late = make(&side, b"late");
        assert!(late.is_frozen() && top.is_frozen() && !late.is_to_freeze());
        set_frozen(&top, false).expect("thaws");
        assert!(low.is_frozen() && !top.is_frozen() && !side.is_frozen() && !late.is_frozen());
        set_frozen(&low, false).expect("thaws");
        assert!(!low.is_frozen());
        for (parent, name) in [(&side, &b"late"[..]), (&top, b"side"), (&top, b"low")] {
            remove(parent, name).expect("empty");
        }
        set_frozen(&top, true).expect("freezes");
        assert!(top.is_frozen());
        remove(unified(), b"freezer").expect("empty");
    }
}
