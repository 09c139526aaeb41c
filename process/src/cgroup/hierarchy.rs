//! Hierarchies: which there are, and how they come and go with their mounts.
//!
//! The unified one (version 2) is always there, with every controller that no other one has. Those of
//! version 1 have a name or controllers, are made by the first mount and go with the last, unless
//! they have groups.

use super::group::Group;
use super::{Controllers, structure};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use spin::Once;

static LIST_CLASS: LockClass = LockClass::new("process.cgroup_hierarchies", 616);
static AGENT_CLASS: LockClass = LockClass::new("process.cgroup_agent", 617);

/// A tree of groups.
pub struct Hierarchy {
    /// Its number in `/proc/PID/cgroup`; 0 for the unified one.
    pub id: u32,
    /// Those bound to it, in version 1.
    pub controllers: Controllers,
    /// `name=` of version 1.
    pub name: Vec<u8>,
    /// Files are named without their controller (`noprefix`).
    pub is_without_prefix: bool,
    /// `xattr` was asked for.
    pub has_xattr: bool,
    /// `release_agent`.
    pub release_agent: SpinLock<Vec<u8>>,
    /// `cpuset`'s `clone_children` at the root.
    pub clones_children: bool,
    last_group: AtomicU64,
    mounts: AtomicUsize,
}

impl Hierarchy {
    fn new(id: u32, wanted: &Wanted) -> Hierarchy {
        Hierarchy {
            id,
            controllers: wanted.controllers,
            name: wanted.name.clone().unwrap_or_default(),
            is_without_prefix: wanted.is_without_prefix,
            has_xattr: wanted.has_xattr,
            release_agent: SpinLock::new(&AGENT_CLASS, wanted.release_agent.clone()),
            clones_children: wanted.clones_children,
            last_group: AtomicU64::new(1),
            mounts: AtomicUsize::new(0),
        }
    }

    /// Whether it is that of version 2.
    pub fn is_unified(&self) -> bool {
        self.id == 0
    }

    pub(super) fn next_id(&self) -> u64 {
        self.last_group.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What a mount of version 1 asks for: cgroups(7), "Mounting v1 controllers".
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Controllers that are named.
    pub controllers: Controllers,
    /// `all`.
    pub all: bool,
    /// `none`.
    pub none: bool,
    /// `name=`.
    pub name: Option<Vec<u8>>,
    /// `release_agent=`.
    pub release_agent: Vec<u8>,
    /// `noprefix`.
    pub is_without_prefix: bool,
    /// `xattr`.
    pub has_xattr: bool,
    /// `clone_children`.
    pub clones_children: bool,
}

static UNIFIED: Once<Arc<Group>> = Once::new();
static IS_UNIFIED_VISIBLE: AtomicBool = AtomicBool::new(false);
/// Roots of the hierarchies of version 1, oldest first. There are few: each but those with a name
/// has a controller of its own.
static VERSION_1: SpinLock<Vec<Arc<Group>>> = SpinLock::new(&LIST_CLASS, Vec::new());
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// The root of the unified hierarchy.
pub fn unified() -> &'static Arc<Group> {
    UNIFIED.call_once(|| Group::root(Arc::new(Hierarchy::new(0, &Wanted::default()))))
}

/// Whether somebody has mounted the unified hierarchy.
pub fn is_unified_visible() -> bool {
    IS_UNIFIED_VISIBLE.load(Ordering::Relaxed)
}

/// The root of the unified hierarchy for a mount.
pub fn mount_unified() -> &'static Arc<Group> {
    IS_UNIFIED_VISIBLE.store(true, Ordering::Relaxed);
    unified()
}

/// The roots of the hierarchies of version 1, oldest first.
pub fn version_1() -> Vec<Arc<Group>> {
    VERSION_1.lock().clone()
}

/// The controllers of version 2 that no hierarchy of version 1 has.
pub(super) fn unified_controllers() -> Controllers {
    free_controllers().intersection(Controllers::UNIFIED)
}

/// The controllers that no hierarchy of version 1 has.
fn free_controllers() -> Controllers {
    VERSION_1
        .lock()
        .iter()
        .fold(Controllers::all(), |left, root| left.difference(root.hierarchy().controllers))
}

/// The root of the hierarchy that has `controller`.
pub fn root_of(controller: Controllers) -> Arc<Group> {
    let roots = VERSION_1.lock();
    let bound = roots.iter().find(|root| root.hierarchy().controllers.contains(controller));
    bound.unwrap_or_else(|| unified()).clone()
}

impl Wanted {
    /// Whether `hierarchy` is what is asked for. Errors: `EBUSY` if it has the name but not the
    /// controllers.
    fn matches(&self, hierarchy: &Hierarchy) -> Result<bool> {
        let has_name = match &self.name {
            Some(name) if *name != hierarchy.name => return Ok(false),
            name => name.is_some(),
        };
        let names_controllers = !self.controllers.is_empty() || self.none;
        if names_controllers && self.controllers != hierarchy.controllers {
            return if has_name { Err(Errno::EBUSY) } else { Ok(false) };
        }
        Ok(has_name || !self.controllers.is_empty())
    }
}

/// The root of the hierarchy that a mount asks for, which is made if it is not there; it stays until
/// as many calls of [`unmounted`]. Errors: `EINVAL` for what contradicts itself, `EBUSY` if a
/// controller is in another hierarchy.
pub fn mount(mut wanted: Wanted, may_make: bool) -> Result<Arc<Group>> {
    let _held = structure();
    if wanted.all && (wanted.none || !wanted.controllers.is_empty()) {
        return Err(Errno::EINVAL);
    }
    if wanted.all || wanted.controllers.is_empty() && !wanted.none && wanted.name.is_none() {
        wanted.controllers = Controllers::all();
    }
    if wanted.none && !wanted.controllers.is_empty() {
        return Err(Errno::EINVAL);
    }
    if wanted.controllers.is_empty() && wanted.name.is_none() {
        return Err(Errno::EINVAL);
    }
    for root in version_1() {
        if wanted.matches(root.hierarchy())? {
            root.hierarchy().mounts.fetch_add(1, Ordering::Relaxed);
            return Ok(root);
        }
    }
    // A name alone finds a hierarchy, and does not say what a new one is to have.
    if wanted.controllers.is_empty() && !wanted.none {
        return Err(Errno::EINVAL);
    }
    let free = free_controllers();
    let in_use = unified()
        .subtree()
        .iter()
        .fold(Controllers::empty(), |in_use, group| in_use.union(group.enabled_for_children()));
    if !free.difference(in_use).contains(wanted.controllers) {
        return Err(Errno::EBUSY);
    }
    if !may_make {
        return Err(Errno::EPERM);
    }
    let id = LAST_ID.fetch_add(1, Ordering::Relaxed) as u32 + 1;
    let root = Group::root(Arc::new(Hierarchy::new(id, &wanted)));
    root.hierarchy().mounts.store(1, Ordering::Relaxed);
    VERSION_1.lock().push(root.clone());
    Ok(root)
}

/// The last use of one mount of the hierarchy is over: without groups it goes with its last mount.
pub fn unmounted(root: &Arc<Group>) {
    let hierarchy = root.hierarchy();
    if hierarchy.is_unified() {
        return;
    }
    let _held = structure();
    if hierarchy.mounts.fetch_sub(1, Ordering::Relaxed) == 1 && root.child_count() == 0 {
        let mut removed = Vec::new();
        let mut roots = VERSION_1.lock();
        while let Some(at) = roots.iter().position(|own| Arc::ptr_eq(own, root)) {
            removed.push(roots.remove(at));
        }
        drop(roots);
    }
}
