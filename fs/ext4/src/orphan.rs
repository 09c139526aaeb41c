//! Files without links that somebody still has open. The super block names the first of them and
//! each one's deletion time the next, so that the mount after a crash can free what they occupy.
//!
//! The chain lives in memory, linked both ways; the places in which it changed are written when the file
//! system is synced or a transaction committed: with a journal it is always that of what is on the disk.
//! A new orphan becomes the first, so that each change touches two places at most, however many there
//! are. A file that is shortened in several transactions is in the chain too, though it has links.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;

use crate::bytes::{put32, u32_at};
use crate::commit::INODE;
use crate::fs::Ext4;
use crate::layout::store_orphan;
use crate::node::{Node, seed_of, sign};

static CLASS: LockClass = LockClass::new("ext4.orphans", 459);

/// The neighbours of an orphan; 0: there is none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Links {
    before: u32,
    next: u32,
}

#[derive(Default)]
struct List {
    links: HashMap<u32, Links>,
    first: u32,
    /// Those whose next is another than on the disk; 0 stands for the super block.
    changed: BTreeSet<u32>,
}

impl List {
    /// Says what comes after `ino` (0: what comes first).
    fn set_next(&mut self, ino: u32, next: u32) {
        match self.links.get_mut(&ino) {
            Some(links) => links.next = next,
            None => self.first = next,
        }
        self.changed.insert(ino);
    }

    fn add(&mut self, ino: u32) -> bool {
        if self.links.contains_key(&ino) {
            return false;
        }
        let next = self.first;
        self.links.insert(ino, Links { before: 0, next });
        if let Some(links) = self.links.get_mut(&next) {
            links.before = ino;
        }
        self.changed.insert(ino);
        self.set_next(0, ino);
        true
    }

    fn remove(&mut self, ino: u32) -> bool {
        let Some(gone) = self.links.remove(&ino) else { return false };
        self.changed.remove(&ino);
        self.set_next(gone.before, gone.next);
        if let Some(links) = self.links.get_mut(&gone.next) {
            links.before = gone.before;
        }
        true
    }

    fn next_of(&self, ino: u32) -> u32 {
        self.links.get(&ino).map_or(0, |links| links.next)
    }
}

/// The files of one file system that wait to be deleted.
pub(crate) struct Orphans(SpinLock<List>);

impl Orphans {
    pub(crate) fn new() -> Orphans {
        Orphans(SpinLock::new(&CLASS, List::default()))
    }

    /// Whether no file waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().links.is_empty()
    }

    pub(crate) fn contains(&self, ino: u32) -> bool {
        self.0.lock().links.contains_key(&ino)
    }

    /// What the deletion time of `ino` says: the next in the chain; 0 for the last and for others.
    pub(crate) fn next_of(&self, ino: u32) -> u32 {
        self.0.lock().next_of(ino)
    }

    /// The places in which the chain is another than on the disk.
    fn take_changes(&self) -> BTreeSet<u32> {
        core::mem::take(&mut self.0.lock().changed)
    }
}

impl Ext4 {
    /// Puts the chain, where it changed, into the inodes' buffers and the super block's.
    pub(crate) fn store_orphans(&self) -> Result<()> {
        let changed = self.orphans.take_changes();
        for &ino in &changed {
            if let Err(error) = self.store_link(ino) {
                self.orphans.0.lock().changed.extend(&changed);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Stores what comes after `ino`, or first.
    fn store_link(&self, ino: u32) -> Result<()> {
        if ino == 0 {
            let first = self.orphans.0.lock().first;
            return self.modify_super(|raw| store_orphan(raw, first));
        }
        let (block, at) = self.alloc.inode_place(&self.sb, ino)?;
        let buffer = self.metadata_block(block)?;
        let next = self.orphans.next_of(ino);
        if buffer.read(|bytes| u32_at(bytes, at + 0x14) == next) {
            return Ok(());
        }
        self.buffers.modify(&buffer, |bytes| {
            // Deleted meanwhile: the place says so, and may be another file's by now.
            if !self.orphans.contains(ino) {
                return;
            }
            if let Some(raw) = bytes.get_mut(at..at + self.sb.inode_size) {
                put32(raw, 0x14, next);
                let seed = seed_of(self, ino, u32_at(raw, 0x64));
                sign(self, raw, seed);
            }
        });
        Ok(())
    }

    /// The file waits to be deleted or shortened. In an operation.
    pub(crate) fn add_orphan(&self, ino: u32) {
        if self.orphans.0.lock().add(ino) {
            // The super block.
            self.buffers.charge(1);
        }
    }

    /// It does not any more. In an operation.
    pub(crate) fn remove_orphan(&self, ino: u32) {
        if self.orphans.0.lock().remove(ino) {
            // The one before it, or the super block.
            self.buffers.charge(1);
        }
    }

    /// Finishes what a crash interrupted: files without links are deleted, others were being
    /// shortened.
    pub(crate) fn delete_orphans(self: &Arc<Self>) -> Result<()> {
        let (block, at) = self.sb.place();
        let mut ino = self.buffers.get(block)?.read(|bytes| u32_at(bytes, at + 0xe8));
        if ino == 0 {
            return Ok(());
        }
        // All of them are in the chain before the first is taken out of it.
        let mut seen = BTreeSet::new();
        let mut chain = Vec::new();
        while ino != 0 && seen.insert(ino) {
            chain.push(ino);
            // After an emergency remount some may still be open, and those know it better.
            let is_open = self.inodes.get(ino.into()).is_some_and(|inode| inode.nlink() == 0);
            let known = is_open.then(|| self.orphans.next_of(ino));
            match known.map_or_else(|| self.next_on_disk(ino), Ok) {
                Ok(next) => ino = next,
                Err(error) => {
                    log::error!("ext4: {}: bad orphan inode {ino}: {error}", self.device.name());
                    chain.pop();
                    break;
                }
            }
        }
        let handle = self.begin(INODE)?;
        // The last one first: then it is the chain that is on the disk, for a start.
        chain.iter().rev().for_each(|&ino| self.add_orphan(ino));
        drop(handle);
        let (mut deleted, mut shortened) = (0, 0);
        for &ino in &chain {
            if self.inodes.get(ino.into()).is_some_and(|inode| inode.nlink() == 0) {
                continue;
            }
            match self.finish_orphan(ino) {
                Ok(is_deleted) => {
                    deleted += u32::from(is_deleted);
                    shortened += u32::from(!is_deleted);
                }
                Err(error) => {
                    log::error!("ext4: {}: bad orphan inode {ino}: {error}", self.device.name());
                    let _handle = self.begin(INODE)?;
                    self.remove_orphan(ino);
                }
            }
        }
        log::info!(
            "ext4: {}: {deleted} orphan inodes deleted, {shortened} truncated",
            self.device.name()
        );
        if self.journal.is_some() {
            return Ok(());
        }
        // Not while a sync writes what the list was before.
        let _one = self.syncing.lock();
        self.orphans.0.lock().changed.insert(0);
        self.store_orphans()
    }

    fn next_on_disk(&self, ino: u32) -> Result<u32> {
        if ino < self.sb.first_ino {
            return Err(Errno::EUCLEAN);
        }
        let (block, at) = self.alloc.inode_place(&self.sb, ino)?;
        Ok(self.metadata_block(block)?.read(|bytes| u32_at(bytes, at + 0x14)))
    }

    /// Deletes or shortens one; whether it was deleted.
    fn finish_orphan(self: &Arc<Self>, ino: u32) -> Result<bool> {
        let inode = Node::load(self, ino)?;
        let node = inode.private::<Node>().ok_or(Errno::EUCLEAN)?;
        if inode.nlink() == 0 {
            node.delete(&inode)?;
            return Ok(true);
        }
        node.shorten(&inode)?;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one reads who follows the chain, having seen only what was said to have changed.
    fn follow(disk: &HashMap<u32, u32>) -> Vec<u32> {
        let (mut at, mut found) = (disk.get(&0).copied().unwrap_or(0), Vec::new());
        while at != 0 {
            found.push(at);
            at = disk.get(&at).copied().unwrap_or(0);
        }
        found
    }

    #[test]
    fn what_changed_makes_the_chain() {
        let (mut list, mut disk, mut model) = (List::default(), HashMap::new(), Vec::new());
        let mut seed = 0x1234_5678u32;
        for step in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let ino = 1 + (seed >> 16) % 60;
            if seed & 1 == 0 {
                assert_eq!(list.add(ino), !model.contains(&ino));
                if !model.contains(&ino) {
                    model.insert(0, ino);
                }
            } else {
                assert_eq!(list.remove(ino), model.contains(&ino));
                model.retain(|&known| known != ino);
            }
            if step % 7 == 0 {
                let changed = core::mem::take(&mut list.changed);
                assert!(changed.len() <= 15, "{changed:?}");
                for ino in changed {
                    disk.insert(ino, if ino == 0 { list.first } else { list.next_of(ino) });
                }
                assert_eq!(follow(&disk), model);
            }
        }
    }
}
