//! A file's blocks: adding and freeing them, what of its length the disk may know, and its death.
//!
//! A map that changes gets or gives back the blocks of its tree at once, within the operation, so that
//! a commit, which writes the tree, finds all it needs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use vfs::{Inode, Time};

use crate::buffer::Buffer;
use crate::bytes::{put32, u32_at};
use crate::commit::{BLOCKS, CREATE, XATTR};
use crate::extents::Extent;
use crate::indirect;
use crate::node::{Node, State, flags, sign};

/// Blocks of directories and links (each has to be revoked) that one operation frees for each block
/// it may write.
const REVOKED_PER_BLOCK: u64 = 64;

impl Node {
    /// What an operation on the map changes at most.
    pub(crate) fn map_credits(&self) -> u32 {
        BLOCKS + self.state.lock().map.tree_blocks.len() as u32
    }

    /// How many blocks the map's tree needs.
    fn tree_len(&self, state: &State) -> usize {
        if state.flags & flags::EXTENTS != 0 {
            self.fs.extent_nodes(state.map.extents.len())
        } else {
            indirect::tree_blocks(&state.map, (self.fs.sb.block_size / 4) as u64)
        }
    }

    /// Makes sure that the map can have `more` extents more than it has: `ENOSPC` if there are no
    /// blocks for its tree, or that would be too large for a transaction. In an operation.
    pub(crate) fn prepare_map(&self, state: &mut State, more: usize) -> Result<()> {
        if state.flags & flags::EXTENTS == 0 {
            return Ok(());
        }
        let count = self.fs.extent_nodes(state.map.extents.len() + more);
        if count > state.map.tree_blocks.len() { self.resize(state, count) } else { Ok(()) }
    }

    fn resize(&self, state: &mut State, count: usize) -> Result<()> {
        let grows = count > state.map.tree_blocks.len();
        if grows && count as u64 > u64::from(self.fs.operation_limit()) {
            return Err(Errno::ENOSPC);
        }
        let goal = self.goal(state);
        self.fs.resize_tree(&mut state.map, count, goal)
    }

    fn goal(&self, state: &State) -> u64 {
        let group = (self.ino - 1) / self.fs.sb.inodes_per_group;
        let first = state.map.extents.first();
        first.map_or_else(|| self.fs.sb.group_start(group), |extent| extent.physical)
    }

    /// The map has changed: its tree gets the blocks it needs. In an operation; `ENOSPC` only after an
    /// [`insert`](crate::extents::BlockMap::insert) that was not prepared.
    pub(crate) fn map_changed(&self, state: &mut State) -> Result<()> {
        state.map_dirty = true;
        let count = self.tree_len(state);
        let charge = count as u32 + 1;
        if charge > state.charged {
            self.fs.buffers.charge(charge - state.charged);
            state.charged = charge;
        }
        if count == state.map.tree_blocks.len() { Ok(()) } else { self.resize(state, count) }
    }

    /// Enters blocks just taken, or gives them back if there is none for the tree. In an operation.
    pub(crate) fn add_extent(&self, state: &mut State, extent: Extent) -> Result<()> {
        let fs = &self.fs;
        state.map.insert(extent);
        let result = self.map_changed(state);
        if result.is_err() {
            state.map.remove(extent.logical, extent.end());
            self.map_changed(state)?;
            let len = extent.len.into();
            fs.alloc.give_blocks(&fs.sb, &fs.buffers, extent.physical, len)?;
        }
        result
    }

    /// What the disk may know of the length `size`: data that has no blocks yet is not to read as
    /// zeros after a crash.
    pub(crate) fn length_for_disk(&self, state: &mut State, size: u64) -> u64 {
        let unit = self.fs.sb.block_size as u64;
        let last = state.map.extents.iter().rev().find(|extent| !extent.unwritten);
        let mapped = last.map_or(0, |extent| u64::from(extent.end()) * unit);
        if mapped >= size + unit {
            // The file is being cut: the blocks behind its end go in an operation that comes. Until then, or
            // while recovery knows that they have to, the disk has the length that covers them.
            if state.disk_size + unit <= mapped && !self.fs.orphans.contains(self.ino) {
                state.disk_size = mapped;
            }
            return state.disk_size;
        }
        let from = (state.disk_size / unit).min(u64::from(u32::MAX)) as u32;
        let promised = state.delayed.range(from..).next().map(|&block| u64::from(block) * unit);
        let reached = match promised {
            Some(promised) if promised < size => state.disk_size.max(promised).max(mapped),
            _ => size,
        };
        // Of a write under way the blocks behind the old end have their data beside them, wherever it got to.
        let held = state.held_size.map(|held| {
            if mapped > held.next_multiple_of(unit) { mapped } else { held.max(state.disk_size) }
        });
        let allowed = held.map_or(size, |held| held.min(size));
        state.disk_size = reached.min(allowed);
        state.disk_size
    }

    /// The metadata block that holds file block `logical` of a directory or link.
    pub(crate) fn block(&self, logical: u32) -> Result<Option<Arc<Buffer>>> {
        let found = self.state.lock().map.find(logical);
        match found {
            Ok(extent) => {
                let block = extent.physical + u64::from(logical - extent.logical);
                self.fs.metadata_block(block).map(Some)
            }
            Err(_) => Ok(None),
        }
    }

    /// Adds a zeroed metadata block at the end of a directory (or a link's first). In an operation.
    pub(crate) fn add_block(&self, logical: u32) -> Result<Arc<Buffer>> {
        let fs = &self.fs;
        let mut state = self.state.lock();
        let length = (u64::from(logical) + 1) * fs.sb.block_size as u64;
        if fs.config.is_dir_too_long(length) && self.me.upgrade().is_some_and(|me| me.is_dir()) {
            log::warn!(
                "EXT4-fs ({}): directory (ino: {}) is as long as max_dir_size_kb allows",
                fs.device.name(),
                self.ino
            );
            return Err(Errno::ENOSPC);
        }
        let group = (self.ino - 1) / fs.sb.inodes_per_group;
        let goal = state.map.goal(logical).unwrap_or(fs.sb.group_start(group));
        if fs.alloc.available() == 0 {
            return Err(Errno::ENOSPC);
        }
        let (physical, _) = fs.alloc.take_blocks(&fs.sb, &fs.buffers, goal, 1)?;
        self.add_extent(&mut state, Extent { logical, len: 1, physical, unwritten: false })?;
        self.count_blocks(&state);
        drop(state);
        self.changed();
        Ok(fs.buffers.fresh(physical))
    }

    /// Where a part of `first..end` begins that one operation can free, the last one, and what that
    /// operation changes.
    fn last_part(&self, first: u32, end: u32) -> (u32, u32) {
        let fs = &self.fs;
        let per = u64::from(fs.sb.blocks_per_group);
        let is_logged = self.is_metadata() || self.logs_data();
        let state = self.state.lock();
        let fixed = BLOCKS + state.map.tree_blocks.len() as u32;
        let limit = fs.operation_limit().max(fixed + 8);
        let (mut start, mut cost, mut freed) = (first, fixed, 0u64);
        let extents = &state.map.extents;
        let before = extents.partition_point(|extent| extent.logical < end);
        for extent in extents.iter().take(before).rev().take_while(|e| e.end() > first) {
            let from = extent.logical.max(first);
            let len = u64::from(extent.end().min(end) - from);
            // A bitmap and a descriptor for each group that it may reach into.
            let more = 2 * (len / per + 2).min(u64::from(u32::MAX / 4)) as u32;
            let revokes = is_logged && freed + len > u64::from(limit) * REVOKED_PER_BLOCK;
            if (cost.saturating_add(more) > limit || revokes) && cost > fixed {
                start = extent.end().min(end);
                break;
            }
            cost = cost.saturating_add(more);
            freed += len;
        }
        (start, cost)
    }

    /// Whether the file's blocks are the file system's own: those of directories and links.
    fn is_metadata(&self) -> bool {
        self.me.upgrade().is_none_or(|inode| inode.mapping().is_none())
    }

    /// Frees file blocks from `first` up to `end`, from the end on, in as many operations as it takes.
    pub(crate) fn free_range(&self, first: u32, end: u32) -> Result<()> {
        let mut end = end;
        loop {
            let (start, credits) = self.last_part(first, end);
            self.fs.transact(credits, |_| self.free_part(start, end))?;
            if start <= first {
                return Ok(());
            }
            end = start;
        }
    }

    /// Frees file blocks from `first` up to `end`. In an operation.
    fn free_part(&self, first: u32, end: u32) -> Result<()> {
        let fs = &self.fs;
        let is_metadata = self.is_metadata();
        let mut state = self.state.lock();
        let cuts_one = state.map.find(first).is_ok_and(|e| e.logical < first && e.end() > end);
        if cuts_one {
            self.prepare_map(&mut state, 1)?;
        }
        let removed = state.map.remove(first, end);
        let promised: Vec<u32> = state.delayed.range(first..end).copied().collect();
        for block in &promised {
            state.delayed.remove(block);
        }
        fs.alloc.unreserve(promised.len() as u64);
        let mut result = Ok(());
        if !removed.is_empty() {
            result = self.map_changed(&mut state);
        }
        self.count_blocks(&state);
        drop(state);
        for extent in removed {
            let blocks = extent.physical..extent.physical + u64::from(extent.len);
            if is_metadata {
                blocks.for_each(|block| fs.buffers.forget(block));
            } else if fs.has_logged_data.load(Ordering::Acquire) {
                blocks.for_each(|block| fs.buffers.forget_data(block));
            }
            // What one group refuses does not keep the others from taking theirs.
            let len = extent.len.into();
            result = result.and(fs.alloc.give_blocks(&fs.sb, &fs.buffers, extent.physical, len));
        }
        self.changed();
        result
    }

    /// Frees the blocks behind the end of a file whose pages there are gone. What takes several
    /// operations goes on after a crash: the file is among the orphans meanwhile.
    pub(crate) fn shorten(&self, inode: &Inode) -> Result<()> {
        let fs = &self.fs;
        let size = inode.size();
        let first = size.div_ceil(fs.sb.block_size as u64).min(u64::from(u32::MAX)) as u32;
        let (start, credits) = self.last_part(first, u32::MAX);
        if start > first {
            fs.transact(credits, |_| {
                fs.add_orphan(self.ino);
                self.state.lock().disk_size = size;
                self.free_part(start, u32::MAX)
            })?;
            self.free_range(first, start)?;
        }
        fs.transact(credits, |_| {
            self.free_part(first, u32::MAX)?;
            let mut state = self.state.lock();
            // What is promised behind it from now on does not count before it has blocks.
            state.disk_size = state.disk_size.min(size);
            drop(state);
            if inode.nlink() > 0 {
                fs.remove_orphan(self.ino);
            }
            Ok(())
        })
    }

    /// The last user of a file without links is gone.
    pub(crate) fn delete(&self, inode: &Arc<Inode>) -> Result<()> {
        if self.deleting.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let mut result = inode.mapping().map_or(Ok(()), |mapping| mapping.truncate(0));
        let (start, credits) = self.last_part(0, u32::MAX);
        if start > 0 {
            result = result.and(self.free_range(0, u32::MAX));
        }
        let _handle = self.fs.begin(credits + CREATE + XATTR)?;
        result = result.and(self.free_part(0, u32::MAX));
        result.and(self.erase(inode))
    }

    /// A file that was made in this operation is not needed after all.
    pub(crate) fn discard(&self, inode: &Arc<Inode>) -> Result<()> {
        self.deleting.store(true, Ordering::Release);
        let result = self.free_part(0, u32::MAX);
        result.and(self.erase(inode))
    }

    /// Takes a file without blocks out of the file system. In an operation.
    fn erase(&self, inode: &Arc<Inode>) -> Result<()> {
        if self.dead.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let fs = &self.fs;
        let mut result = Ok(());
        let mut state = self.state.lock();
        let tree = core::mem::take(&mut state.map.tree_blocks);
        fs.buffers.discharge(core::mem::take(&mut state.charged));
        drop(state);
        for block in tree {
            fs.buffers.forget(block);
            result = result.and(fs.alloc.give_blocks(&fs.sb, &fs.buffers, block, 1));
        }
        fs.forget_dirty(self.ino);
        fs.remove_orphan(self.ino);
        fs.inodes.remove(self.ino.into());
        let (block, at) = fs.alloc.inode_place(&fs.sb, self.ino)?;
        let buffer = fs.metadata_block(block)?;
        let size = fs.sb.inode_size;
        // Small numbers are those of orphans in that place: a clock may be wrong.
        let now = (Time::now().sec as u32).max(fs.sb.inodes.saturating_add(1));
        fs.buffers.modify(&buffer, |bytes| {
            let Some(raw) = bytes.get_mut(at..at + size) else { return };
            let generation = u32_at(raw, 0x64);
            raw.fill(0);
            put32(raw, 0x14, now);
            put32(raw, 0x64, generation);
            sign(fs, raw, self.seed);
        });
        let acl_block = core::mem::take(&mut self.state.lock().acl_block);
        if acl_block != 0 {
            result = result.and(crate::xattr::release_block(fs, acl_block));
        }
        result.and(fs.alloc.give_inode(&fs.sb, &fs.buffers, self.ino, inode.is_dir()))
    }
}
