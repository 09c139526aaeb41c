//! The shape of all mount trees, and peer groups.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::LockClass;
use sched::{Mutex, MutexGuard};

use super::{Mount, MountNamespace, table};
use crate::dentry::Dentry;

static MOUNT_TREE: LockClass = LockClass::new("vfs.mount_tree", 240);

/// One mount's place. Numbers are [`Mount::id`]s.
pub(super) struct Node {
    pub(super) mount: Arc<Mount>,
    pub(super) parent: Option<u64>,
    pub(super) mountpoint: Option<Arc<Dentry>>,
    pub(super) children: BTreeSet<u64>,
    /// The namespace; 0 while it is in none.
    pub(super) ns: u64,
    /// Peer group; 0 if not shared.
    pub(super) group: u64,
    /// The peer group it receives from; 0 if it is no slave.
    pub(super) master: u64,
    pub(super) unbindable: bool,
    /// Came from a more privileged namespace together with its parent, from which it cannot be taken.
    pub(super) locked: bool,
    /// The `MS_*` flags that a more privileged namespace gave it, which cannot be changed.
    pub(super) locked_flags: u64,
}

/// Who is in a peer group, and who receives from it.
#[derive(Default)]
pub(super) struct Group {
    pub(super) members: BTreeSet<u64>,
    pub(super) slaves: BTreeSet<u64>,
}

/// Everything.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) groups: BTreeMap<u64, Group>,
    /// Mount points by address of the dentry.
    pub(super) points: BTreeMap<usize, BTreeSet<u64>>,
    /// Live namespaces, to tell them of changes.
    pub(super) spaces: BTreeMap<u64, alloc::sync::Weak<MountNamespace>>,
}

static TREE: Mutex<Tree> = Mutex::new(
    &MOUNT_TREE,
    Tree {
        nodes: BTreeMap::new(),
        groups: BTreeMap::new(),
        points: BTreeMap::new(),
        spaces: BTreeMap::new(),
    },
);

pub(super) fn lock() -> MutexGuard<'static, Tree> {
    TREE.lock()
}

fn address(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry).addr()
}

impl Tree {
    pub(super) fn node(&self, id: u64) -> Result<&Node> {
        self.nodes.get(&id).ok_or(Errno::EINVAL)
    }

    pub(super) fn node_mut(&mut self, id: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or(Errno::EINVAL)
    }

    /// Enters a mount that is attached nowhere yet.
    pub(super) fn add(&mut self, mount: &Arc<Mount>, ns: u64) {
        let node = Node {
            mount: mount.clone(),
            parent: None,
            mountpoint: None,
            children: BTreeSet::new(),
            ns,
            group: 0,
            master: 0,
            unbindable: false,
            locked: false,
            locked_flags: 0,
        };
        self.nodes.insert(mount.id, node);
    }

    /// The node for `mount`, if it belongs to the namespace `ns`.
    pub(super) fn in_ns(&self, mount: &Mount, ns: &MountNamespace) -> Result<&Node> {
        self.nodes.get(&mount.id).filter(|node| node.ns == ns.id).ok_or(Errno::EINVAL)
    }

    /// `root` and everything below, parents first.
    pub(super) fn subtree(&self, root: u64) -> Vec<u64> {
        let mut list = alloc::vec![root];
        let mut at = 0;
        while let Some(&id) = list.get(at) {
            if let Some(node) = self.nodes.get(&id) {
                list.extend(node.children.iter());
            }
            at += 1;
        }
        list
    }

    pub(super) fn new_group(&mut self) -> u64 {
        // The lowest free number, as mountinfo readers are used to small ones.
        let mut group = 1;
        for &known in self.groups.keys() {
            if known != group {
                break;
            }
            group += 1;
        }
        self.groups.insert(group, Group::default());
        group
    }

    /// Moves a mount into a peer group (0: out of any).
    pub(super) fn set_group(&mut self, id: u64, group: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let old = core::mem::replace(&mut node.group, group);
        if group != 0 {
            node.unbindable = false;
        }
        if old == group {
            return;
        }
        if let Some(g) = self.groups.get_mut(&group) {
            g.members.insert(id);
        }
        if let Some(g) = self.groups.get_mut(&old) {
            g.members.remove(&id);
            if g.members.is_empty() {
                self.end_group(old, id);
            }
        }
    }

    /// The last member of a group left: its slaves receive from the group's own master, if the
    /// last member had one.
    fn end_group(&mut self, group: u64, last: u64) {
        let Some(ended) = self.groups.remove(&group) else { return };
        let master = self.nodes.get(&last).map_or(0, |n| n.master);
        for slave in ended.slaves {
            if let Some(node) = self.nodes.get_mut(&slave) {
                node.master = master;
            }
            if let Some(g) = self.groups.get_mut(&master) {
                g.slaves.insert(slave);
            }
        }
    }

    /// Makes a mount receive from `master` (0: from nobody).
    pub(super) fn set_master(&mut self, id: u64, master: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let old = core::mem::replace(&mut node.master, master);
        if let Some(g) = self.groups.get_mut(&old) {
            g.slaves.remove(&id);
        }
        if let Some(g) = self.groups.get_mut(&master) {
            g.slaves.insert(id);
        }
    }

    /// Attaches `child` at `dentry` of `parent`. What is mounted there already goes on top.
    pub(super) fn attach(&mut self, parent: u64, dentry: &Arc<Dentry>, child: u64) -> Result<()> {
        let existing = self.child_at(parent, dentry);
        if let Some(covered) = existing {
            self.detach(covered)?;
        }
        self.link(parent, dentry, child)?;
        if let Some(covered) = existing {
            let top = self.top_of(child)?;
            let root = self.node(top)?.mount.root.clone();
            self.link(top, &root, covered)?;
        }
        Ok(())
    }

    /// The top of the stack of mounts on the root of `id`.
    fn top_of(&self, mut id: u64) -> Result<u64> {
        loop {
            let root = self.node(id)?.mount.root.clone();
            match self.child_at(id, &root) {
                Some(above) => id = above,
                None => return Ok(id),
            }
        }
    }

    fn link(&mut self, parent: u64, dentry: &Arc<Dentry>, child: u64) -> Result<()> {
        let (parent_mount, ns) = {
            let node = self.node_mut(parent)?;
            node.children.insert(child);
            (node.mount.clone(), node.ns)
        };
        for id in self.subtree(child) {
            self.node_mut(id)?.ns = ns;
        }
        let node = self.node_mut(child)?;
        node.parent = Some(parent);
        node.mountpoint = Some(dentry.clone());
        let mount = node.mount.clone();
        self.points.entry(address(dentry)).or_default().insert(child);
        table::attach(&parent_mount, dentry, &mount);
        self.tell(ns);
        Ok(())
    }

    /// Detaches a mount from its parent; what is below stays below.
    pub(super) fn detach(&mut self, id: u64) -> Result<()> {
        let node = self.node_mut(id)?;
        let (parent, point) = (node.parent.take(), node.mountpoint.take());
        let (mount, ns) = (node.mount.clone(), node.ns);
        if let (Some(parent), Some(point)) = (parent, point) {
            if let Some(node) = self.nodes.get_mut(&parent) {
                node.children.remove(&id);
            }
            table::detach(parent, &point, &mount);
            self.forget_point(&point, id);
        }
        self.tell(ns);
        Ok(())
    }

    fn forget_point(&mut self, point: &Arc<Dentry>, id: u64) {
        let key = address(point);
        if let Some(set) = self.points.get_mut(&key) {
            set.remove(&id);
            if set.is_empty() {
                self.points.remove(&key);
                point.unmark_mountpoint();
            }
        }
    }

    /// The mount at `dentry` of `parent`.
    pub(super) fn child_at(&self, parent: u64, dentry: &Arc<Dentry>) -> Option<u64> {
        let set = self.points.get(&address(dentry))?;
        set.iter().copied().find(|id| self.nodes.get(id).is_some_and(|n| n.parent == Some(parent)))
    }

    /// Takes a detached mount out of groups and out of the tree; returns it.
    pub(super) fn remove(&mut self, id: u64) -> Option<Arc<Mount>> {
        self.set_master_after_leaving(id);
        self.nodes.remove(&id).map(|node| node.mount)
    }

    fn set_master_after_leaving(&mut self, id: u64) {
        self.set_group(id, 0);
        self.set_master(id, 0);
    }

    pub(super) fn tell(&self, ns: u64) {
        if let Some(space) = self.spaces.get(&ns).and_then(alloc::sync::Weak::upgrade) {
            space.changed();
        }
    }
}

/// Makes `mount` the root of a namespace.
pub(super) fn adopt_root(ns: &Arc<MountNamespace>, mount: &Arc<Mount>) {
    let mut tree = lock();
    tree.add(mount, ns.id);
    tree.spaces.insert(ns.id, Arc::downgrade(ns));
}

/// The namespace is gone: unmounts everything in it.
pub(super) fn dissolve(ns: u64, root: Arc<Mount>) {
    let mut gone = Vec::new();
    {
        let mut tree = lock();
        // The number may have been given to the namespace that replaced this one at boot.
        if tree.spaces.get(&ns).is_some_and(|space| space.strong_count() == 0) {
            tree.spaces.remove(&ns);
        }
        let mut list = tree.subtree(root.id);
        list.reverse();
        for id in list {
            if tree.detach(id).is_ok() {
                gone.extend(tree.remove(id));
            }
        }
    }
    drop(root);
    finish(gone);
}

/// Ends mounts that have been taken out of the tree: those that nobody uses are put away now.
pub(super) fn finish(gone: Vec<Arc<Mount>>) {
    if gone.is_empty() {
        return;
    }
    // The hash's references are dropped after a grace period.
    sched::rcu::synchronize();
    for mount in gone {
        if Arc::strong_count(&mount) == 1 {
            mount.finish();
        }
    }
}

/// Whether something is mounted on `dentry` in the namespace.
pub(crate) fn is_local_mountpoint(dentry: &Arc<Dentry>, ns: &MountNamespace) -> bool {
    if !dentry.has(crate::dentry::MOUNTPOINT) {
        return false;
    }
    let tree = lock();
    let Some(set) = tree.points.get(&address(dentry)) else { return false };
    set.iter().any(|id| tree.nodes.get(id).is_some_and(|n| n.ns == ns.id))
}

/// The dentry is removed: whatever is mounted on it, in any namespace, goes with it.
pub(crate) fn detach_at(dentry: &Arc<Dentry>) {
    if !dentry.has(crate::dentry::MOUNTPOINT) {
        return;
    }
    let mut gone = Vec::new();
    {
        let mut tree = lock();
        let roots: Vec<u64> = tree
            .points
            .get(&address(dentry))
            .map(|s| s.iter().copied().collect())
            .unwrap_or_default();
        for root in roots {
            let mut list = tree.subtree(root);
            list.reverse();
            for id in list {
                if tree.detach(id).is_ok() {
                    gone.extend(tree.remove(id));
                }
            }
        }
    }
    finish(gone);
}
