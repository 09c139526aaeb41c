//! Files without links that somebody still has open. The super block names the first of them and
//! each one's deletion time the next, so that the mount after a crash can free what they occupy.
//!
//! The list lives in memory; the chain is written when the file system is synced or a transaction
//! committed: with a journal it is always that of what is on the disk. A file that is shortened in
//! several transactions is in it too, though it has links.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};

use crate::bytes::{put32, u32_at};
use crate::commit::INODE;
use crate::fs::Ext4;
use crate::layout::store_orphan;
use crate::node::{Node, seed_of, sign};

static CLASS: LockClass = LockClass::new("ext4.orphans", 459);

struct List {
    inos: BTreeSet<u32>,
    /// Those that are not in the chain on the disk.
    added: BTreeSet<u32>,
    /// The chain on the disk is another.
    changed: bool,
}

/// The files of one file system that wait to be deleted.
pub(crate) struct Orphans(SpinLock<List>);

impl Orphans {
    pub(crate) fn new() -> Orphans {
        Orphans(SpinLock::new(
            &CLASS,
            List { inos: BTreeSet::new(), added: BTreeSet::new(), changed: false },
        ))
    }

    /// Whether no file waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().inos.is_empty()
    }

    /// The file lost its last link. Whether it was not there.
    fn add(&self, ino: u32) -> bool {
        let mut list = self.0.lock();
        let is_new = list.inos.insert(ino);
        if is_new {
            list.changed = true;
            list.added.insert(ino);
        }
        is_new
    }

    /// The file is gone, or has a link again. Whether it was there, and in the chain on the disk.
    fn remove(&self, ino: u32) -> Option<bool> {
        let mut list = self.0.lock();
        if !list.inos.remove(&ino) {
            return None;
        }
        list.changed = true;
        Some(!list.added.remove(&ino))
    }

    fn contains(&self, ino: u32) -> bool {
        self.0.lock().inos.contains(&ino)
    }

    /// What the deletion time of `ino` says: the next in the chain; 0 for the last and for others.
    pub(crate) fn next_of(&self, ino: u32) -> u32 {
        let list = self.0.lock();
        if !list.inos.contains(&ino) {
            return 0;
        }
        list.inos.range(ino + 1..).next().copied().unwrap_or(0)
    }

    /// The chain, if it is not the one on the disk.
    fn take_changes(&self) -> Option<Vec<u32>> {
        let mut list = self.0.lock();
        list.added.clear();
        core::mem::take(&mut list.changed).then(|| list.inos.iter().copied().collect())
    }
}

impl Ext4 {
    /// Puts the chain into the inodes' buffers and the super block's.
    pub(crate) fn store_orphans(&self) -> Result<()> {
        let Some(chain) = self.orphans.take_changes() else { return Ok(()) };
        let result = self.store_chain(&chain);
        if result.is_err() {
            self.orphans.0.lock().changed = true;
        }
        result
    }

    fn store_chain(&self, chain: &[u32]) -> Result<()> {
        for (index, &ino) in chain.iter().enumerate() {
            let next = chain.get(index + 1).copied().unwrap_or(0);
            let (block, at) = self.alloc.inode_place(&self.sb, ino)?;
            let buffer = self.metadata_block(block)?;
            if buffer.read(|bytes| u32_at(bytes, at + 0x14) == next) {
                continue;
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
        }
        self.modify_super(|raw| store_orphan(raw, chain.first().copied().unwrap_or(0)))
    }

    /// The file waits to be deleted or shortened. In an operation.
    pub(crate) fn add_orphan(&self, ino: u32) {
        if self.orphans.add(ino) {
            // The one before it in the chain, or the super block.
            self.buffers.charge(1);
        }
    }

    /// It does not any more. In an operation.
    pub(crate) fn remove_orphan(&self, ino: u32) {
        match self.orphans.remove(ino) {
            Some(true) => self.buffers.charge(1),
            // Nothing comes of what was charged for it.
            Some(false) => self.buffers.discharge(1),
            None => {}
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
        // All of them are in the list before the first is taken out: a commit writes the whole chain.
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
        chain.iter().for_each(|&ino| self.add_orphan(ino));
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
        self.orphans.0.lock().changed = true;
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
