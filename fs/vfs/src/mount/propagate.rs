//! Shared subtrees: copying mount trees and carrying mounts and unmounts to peers and slaves
//! (`mount_namespaces(7)`).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;

use super::Mount;
use super::tree::Tree;
use crate::dentry::Dentry;

/// How a copy of a mount relates to the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// Same peer group, same master: bind mounts, new namespaces, copies at peers.
    Peer,
    /// Receives from the original's group: copies at slaves.
    Slave,
    /// Receives from the original's group and has a group of its own: copies at shared slaves.
    SharedSlave,
}

/// Which children a copied tree has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Only the mount itself.
    One,
    /// Everything below but unbindable mounts.
    Bindable,
    /// Everything below.
    All,
}

impl Tree {
    /// A copy of one mount, showing `root`; attached nowhere, in no namespace.
    fn copy_one(&mut self, id: u64, root: Arc<Dentry>, how: Copy) -> Result<u64> {
        let node = self.node(id)?;
        let (group, master) = (node.group, node.master);
        let (locked, locked_flags) = (node.locked, node.locked_flags);
        let mount = Mount::new(&node.mount.sb, root, &node.mount.source, node.mount.flags());
        self.add(&mount, 0);
        let node = self.node_mut(mount.id)?;
        (node.locked, node.locked_flags) = (locked, locked_flags);
        match how {
            Copy::Peer => {
                self.set_group(mount.id, group);
                self.set_master(mount.id, master);
            }
            Copy::Slave | Copy::SharedSlave => {
                self.set_master(mount.id, if group != 0 { group } else { master });
                if how == Copy::SharedSlave {
                    let own = self.new_group();
                    self.set_group(mount.id, own);
                }
            }
        }
        Ok(mount.id)
    }

    /// A copy of the tree at `id`, showing `root` of it. Returns the copy of `id`.
    pub(super) fn copy_tree(
        &mut self,
        id: u64,
        root: &Arc<Dentry>,
        depth: Depth,
        how: Copy,
    ) -> Result<u64> {
        let mut pairs = Vec::new();
        self.copy_tree_into(id, root, depth, how, &mut pairs)
    }

    /// Like `copy_tree`; adds (original, copy) of each mount to `pairs`.
    pub(super) fn copy_tree_into(
        &mut self,
        id: u64,
        root: &Arc<Dentry>,
        depth: Depth,
        how: Copy,
        pairs: &mut Vec<(u64, u64)>,
    ) -> Result<u64> {
        let copy = self.copy_one(id, root.clone(), how)?;
        // A copy's own parent is of the copier's choice.
        self.node_mut(copy)?.locked = false;
        pairs.push((id, copy));
        if depth == Depth::One {
            return Ok(copy);
        }
        let mut pending: Vec<(u64, u64)> = alloc::vec![(id, copy)];
        while let Some((from, to)) = pending.pop() {
            let children: Vec<u64> = self.node(from)?.children.iter().copied().collect();
            for child in children {
                let node = self.node(child)?;
                let Some(point) = node.mountpoint.clone() else { continue };
                if depth == Depth::Bindable && node.unbindable {
                    continue;
                }
                if from == id && !point.is_within(root) {
                    continue;
                }
                let (unbindable, child_root) = (node.unbindable, node.mount.root.clone());
                let child_copy = self.copy_one(child, child_root, how)?;
                self.node_mut(child_copy)?.unbindable = unbindable && depth == Depth::All;
                self.attach(to, &point, child_copy)?;
                pairs.push((child, child_copy));
                pending.push((child, child_copy));
            }
        }
        Ok(copy)
    }

    /// Removes a tree that is attached nowhere; its mounts are returned for `finish`.
    pub(super) fn discard(&mut self, root: u64) -> Vec<Arc<Mount>> {
        let mut list = self.subtree(root);
        list.reverse();
        let mut gone = Vec::new();
        for id in list {
            if self.detach(id).is_ok() {
                gone.extend(self.remove(id));
            }
        }
        gone
    }

    /// Makes every private mount of a tree shared: it is attached below a shared mount.
    fn share_tree(&mut self, root: u64) -> Result<()> {
        for id in self.subtree(root) {
            if self.node(id)?.group == 0 {
                let group = self.new_group();
                self.set_group(id, group);
            }
        }
        Ok(())
    }

    /// Attaches the tree `source` at `dentry` of `parent`, and copies of it wherever `parent`
    /// propagates to.
    pub(super) fn graft(&mut self, parent: u64, dentry: &Arc<Dentry>, source: u64) -> Result<()> {
        let group = self.node(parent)?.group;
        if group != 0 {
            self.share_tree(source)?;
            let mut copies = Vec::new();
            self.spread(group, parent, dentry, source, &mut copies)?;
            for (at, copy) in copies {
                if !self.have_same_owner(at, parent) {
                    self.lock_below(copy)?;
                }
                self.attach(at, dentry, copy)?;
            }
        }
        self.attach(parent, dentry, source)
    }

    /// Copies `source` for every member of `group` but `done`, and for the slaves of the group.
    fn spread(
        &mut self,
        group: u64,
        done: u64,
        dentry: &Arc<Dentry>,
        source: u64,
        copies: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let Some(g) = self.groups.get(&group) else { return Ok(()) };
        let (members, slaves): (Vec<u64>, Vec<u64>) =
            (g.members.iter().copied().collect(), g.slaves.iter().copied().collect());
        let root = self.node(source)?.mount.root.clone();
        for member in members {
            if member != done && self.shows(member, dentry) {
                let copy = self.copy_tree(source, &root, Depth::All, Copy::Peer)?;
                copies.push((member, copy));
            }
        }
        let mut groups_done: Vec<u64> = Vec::new();
        for slave in slaves {
            let slave_group = self.node(slave)?.group;
            if slave_group == 0 {
                if self.shows(slave, dentry) {
                    let copy = self.copy_tree(source, &root, Depth::All, Copy::Slave)?;
                    copies.push((slave, copy));
                }
                continue;
            }
            if groups_done.contains(&slave_group) || !self.shows(slave, dentry) {
                continue;
            }
            groups_done.push(slave_group);
            let copy = self.copy_tree(source, &root, Depth::All, Copy::SharedSlave)?;
            copies.push((slave, copy));
            self.spread(slave_group, slave, dentry, copy, copies)?;
        }
        Ok(())
    }

    /// Whether `dentry` is visible through the mount.
    fn shows(&self, id: u64, dentry: &Arc<Dentry>) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.ns != 0 && dentry.is_within(&n.mount.root))
    }

    /// Every mount that receives what happens in `group`: peers, slaves, their peers and slaves.
    fn receivers(&self, group: u64, list: &mut Vec<u64>) {
        let Some(g) = self.groups.get(&group) else { return };
        let known = |list: &Vec<u64>, id: &u64| list.contains(id);
        for id in &g.members {
            if !known(list, id) {
                list.push(*id);
            }
        }
        for id in &g.slaves {
            if known(list, id) {
                continue;
            }
            list.push(*id);
            let own = self.nodes.get(id).map_or(0, |n| n.group);
            if own != 0 {
                self.receivers(own, list);
            }
        }
    }

    /// The copies of the mount `id` that unmounting it removes elsewhere.
    pub(super) fn counterparts(&self, id: u64) -> Vec<u64> {
        let Some(node) = self.nodes.get(&id) else { return Vec::new() };
        let (Some(parent), Some(point)) = (node.parent, &node.mountpoint) else {
            return Vec::new();
        };
        let group = self.nodes.get(&parent).map_or(0, |n| n.group);
        let mut at = Vec::new();
        self.receivers(group, &mut at);
        at.retain(|&mount| mount != parent);
        let found = at.iter().filter_map(|&mount| self.child_at(mount, point));
        // Only mounts of the same file system part are counterparts, not what was put there since.
        found
            .filter(|copy| {
                self.nodes.get(copy).is_some_and(|n| Arc::ptr_eq(&n.mount.root, &node.mount.root))
            })
            .collect()
    }
}
