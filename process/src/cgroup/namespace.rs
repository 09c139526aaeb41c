//! cgroup_namespaces(7): what seems to be the root of each hierarchy.

use super::group::Group;
use super::set::Set;
use super::{hierarchy, of};
use crate::pid::next_namespace_id;
use crate::task::Task;
use alloc::sync::Arc;
use vfs::cred::UserNamespace;

/// A namespace of control groups.
pub struct CgroupNamespace {
    /// Inode number in `/proc/PID/ns/cgroup`.
    pub id: u64,
    /// Who may act on it.
    pub user_ns: Arc<UserNamespace>,
    /// The groups in which its maker was.
    roots: Option<Arc<Set>>,
}

impl CgroupNamespace {
    /// That of the machine.
    pub(crate) fn initial(user_ns: Arc<UserNamespace>) -> CgroupNamespace {
        CgroupNamespace { id: 0xefff_fffb, user_ns, roots: None }
    }

    /// A new one around the groups that the caller of `clone(2)` or `unshare(2)` is in.
    pub(crate) fn around(roots: Option<Arc<Set>>, user_ns: Arc<UserNamespace>) -> CgroupNamespace {
        CgroupNamespace { id: next_namespace_id(), user_ns, roots }
    }

    /// What it takes for the root of the hierarchy with this `root`.
    pub fn root<'a>(&'a self, root: &'a Arc<Group>) -> &'a Arc<Group> {
        let own = self.roots.as_deref().and_then(|set| set.group(root.hierarchy().id));
        own.unwrap_or(root)
    }
}

/// The namespace that the running task sees groups in.
pub fn current() -> Arc<CgroupNamespace> {
    match crate::try_current() {
        Some(task) => task.ns().cgroup.clone(),
        None => crate::nsproxy::initial().cgroup.clone(),
    }
}

/// The group of `task` in the unified hierarchy, if that is to be seen, and in each of version 1, the
/// newest first.
pub fn groups_of(task: &Task) -> impl Iterator<Item = (Arc<Group>, Arc<Group>)> {
    let set = task.cgroups.get();
    let mut roots = hierarchy::version_1();
    roots.reverse();
    if hierarchy::is_unified_visible() {
        roots.push(hierarchy::unified().clone());
    }
    roots.into_iter().map(move |root| (of(set.as_deref(), &root), root))
}
