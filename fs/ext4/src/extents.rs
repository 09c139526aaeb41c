//! Where a file's blocks are: the whole map as a sorted list in memory, read from an extent tree or
//! indirect blocks, written back as an extent tree.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::buffer::{Buffer, Buffers};
use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::csum::crc32c;
use crate::fs::Ext4;
use crate::layout::Super;

const EXTENT_MAGIC: u16 = 0xf30a;
/// Longest written extent; unwritten ones have one block less.
const MAX_LEN: u32 = 32768;

/// A run of file blocks on adjacent device blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) logical: u32,
    pub(crate) len: u32,
    pub(crate) physical: u64,
    /// Allocated, reads as zeros.
    pub(crate) unwritten: bool,
}

impl Extent {
    pub(crate) fn end(&self) -> u32 {
        self.logical + self.len
    }
}

/// The blocks of one file, sorted, not overlapping.
#[derive(Default, Debug)]
pub(crate) struct BlockMap {
    pub(crate) extents: Vec<Extent>,
    /// Blocks that hold the tree itself.
    pub(crate) tree_blocks: Vec<u64>,
}

impl BlockMap {
    fn position(&self, logical: u32) -> usize {
        self.extents.partition_point(|extent| extent.end() <= logical)
    }

    /// The extent that holds `logical`, or the start of the next one.
    pub(crate) fn find(&self, logical: u32) -> core::result::Result<Extent, Option<u32>> {
        match self.extents.get(self.position(logical)) {
            Some(extent) if extent.logical <= logical => Ok(*extent),
            next => Err(next.map(|extent| extent.logical)),
        }
    }

    /// The mapped blocks before `logical`: where to go on.
    pub(crate) fn goal(&self, logical: u32) -> Option<u64> {
        let before = self.extents.get(self.position(logical).checked_sub(1)?)?;
        Some(before.physical + u64::from(logical - before.logical))
    }

    /// Adds blocks that were not mapped.
    pub(crate) fn insert(&mut self, new: Extent) {
        let at = self.position(new.logical);
        let joins = |a: &Extent, b: &Extent| {
            a.unwritten == b.unwritten
                && a.end() == b.logical
                && a.physical + u64::from(a.len) == b.physical
                && a.len + b.len < MAX_LEN
        };
        if let Some(before) = at.checked_sub(1).and_then(|at| self.extents.get_mut(at))
            && joins(before, &new)
        {
            before.len += new.len;
            return;
        }
        if let Some(after) = self.extents.get_mut(at)
            && joins(&new, after)
        {
            after.logical = new.logical;
            after.physical = new.physical;
            after.len += new.len;
            return;
        }
        self.extents.insert(at, new);
    }

    /// Takes `start..end` out; returns what was mapped there.
    pub(crate) fn remove(&mut self, start: u32, end: u32) -> Vec<Extent> {
        let mut removed = Vec::new();
        let mut at = self.position(start);
        while let Some(extent) = self.extents.get(at).copied()
            && extent.logical < end
        {
            let (from, to) = (extent.logical.max(start), extent.end().min(end));
            let part = |from: u32, to: u32| Extent {
                logical: from,
                len: to - from,
                physical: extent.physical + u64::from(from - extent.logical),
                unwritten: extent.unwritten,
            };
            removed.push(part(from, to));
            let keep = [(extent.logical, from), (to, extent.end())];
            let keep = keep.into_iter().filter(|(a, b)| a < b).map(|(a, b)| part(a, b));
            let kept = keep.clone().count();
            self.extents.splice(at..=at, keep);
            at += kept;
        }
        removed
    }

    /// Whether any of `start..end` has blocks that are not written.
    pub(crate) fn has_unwritten(&self, start: u32, end: u32) -> bool {
        let from = self.extents.iter().skip(self.position(start));
        from.take_while(|e| e.logical < end).any(|e| e.unwritten)
    }

    /// Marks `start..end` as written where it is mapped; whether anything changed.
    pub(crate) fn mark_written(&mut self, start: u32, end: u32) -> bool {
        self.mark(start, end, false)
    }

    /// Makes `start..end` read as zeros where it is mapped; whether anything changed.
    pub(crate) fn mark_unwritten(&mut self, start: u32, end: u32) -> bool {
        self.mark(start, end, true)
    }

    fn mark(&mut self, start: u32, end: u32, unwritten: bool) -> bool {
        let overlaps = |e: &Extent| e.unwritten != unwritten && e.logical < end && e.end() > start;
        if !self
            .extents
            .iter()
            .skip(self.position(start))
            .take_while(|e| e.logical < end)
            .any(overlaps)
        {
            return false;
        }
        for mut part in self.remove(start, end) {
            part.unwritten = unwritten;
            // One with data may be a block longer than one without.
            if unwritten && part.len == MAX_LEN {
                part.len -= 1;
                let physical = part.physical + u64::from(part.len);
                self.insert(Extent { logical: part.end(), len: 1, physical, unwritten });
            }
            self.insert(part);
        }
        true
    }

    /// Takes the unmapped blocks `start..end` out of the file: what is behind moves down.
    pub(crate) fn close_gap(&mut self, start: u32, end: u32) {
        let at = self.position(start);
        let moved = self.extents.split_off(at);
        for mut extent in moved {
            extent.logical -= end - start;
            // May join what is before the gap.
            self.insert(extent);
        }
    }

    /// Moves what is mapped from `start` on up by `count` blocks.
    pub(crate) fn open_gap(&mut self, start: u32, count: u32) {
        let at = self.position(start);
        if let Some(extent) = self.extents.get_mut(at)
            && extent.logical < start
        {
            let kept = start - extent.logical;
            let upper = Extent {
                logical: start,
                len: extent.len - kept,
                physical: extent.physical + u64::from(kept),
                unwritten: extent.unwritten,
            };
            extent.len = kept;
            self.extents.insert(at + 1, upper);
        }
        let from = self.position(start);
        for extent in self.extents.iter_mut().skip(from) {
            extent.logical += count;
        }
    }

    pub(crate) fn block_count(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.len)).sum::<u64>() + self.tree_blocks.len() as u64
    }
}

/// Calls `each(first file block, first device block, length)` for all runs of a file whose super
/// block and buffers are all there is yet: the journal's.
pub(crate) fn walk_tree(
    sb: &Super,
    buffers: &Buffers,
    root: &[u8; 60],
    has_extents: bool,
    each: &mut dyn FnMut(u32, u64, u32),
) -> Result<()> {
    // A block met twice is a map without end.
    let seen = core::cell::RefCell::new(BTreeSet::new());
    let read = |block: u64| {
        let is_new = seen.borrow_mut().insert(block);
        if block <= sb.first_data_block || block >= sb.blocks || !is_new {
            return Err(Errno::EUCLEAN);
        }
        Ok(buffers.get(block)?.copy())
    };
    if has_extents {
        return walk_extents(sb, &read, root, None, each);
    }
    let mut logical = 0;
    for at in 0..15usize {
        let depth = at.saturating_sub(11) as u32;
        walk_indirect(sb, &read, u32_at(root, at * 4), depth, &mut logical, each)?;
    }
    Ok(())
}

type ReadBlock<'a> = &'a dyn Fn(u64) -> Result<Vec<u8>>;

fn walk_extents(
    sb: &Super,
    read: ReadBlock<'_>,
    node: &[u8],
    expected_depth: Option<u16>,
    each: &mut dyn FnMut(u32, u64, u32),
) -> Result<()> {
    let (entries, depth) = (u16_at(node, 2), u16_at(node, 6));
    let wrong_depth = expected_depth.is_some_and(|expected| expected != depth);
    if u16_at(node, 0) != EXTENT_MAGIC || depth > 5 || wrong_depth {
        return Err(Errno::EUCLEAN);
    }
    for entry in node[12..].chunks_exact(12).take(usize::from(entries)) {
        if depth > 0 {
            let block = u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
            walk_extents(sb, read, &read(block)?, Some(depth - 1), each)?;
            continue;
        }
        let len = u32::from(u16_at(entry, 4));
        let physical = u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32;
        if len > MAX_LEN || physical + u64::from(len) > sb.blocks {
            return Err(Errno::EUCLEAN);
        }
        each(u32_at(entry, 0), physical, len);
    }
    Ok(())
}

fn walk_indirect(
    sb: &Super,
    read: ReadBlock<'_>,
    block: u32,
    depth: u32,
    logical: &mut u64,
    each: &mut dyn FnMut(u32, u64, u32),
) -> Result<()> {
    let fan = (sb.block_size / 4) as u64;
    if block == 0 {
        *logical += fan.pow(depth);
        return Ok(());
    }
    if depth == 0 {
        let at = u32::try_from(*logical).map_err(|_| Errno::EUCLEAN)?;
        if u64::from(block) >= sb.blocks {
            return Err(Errno::EUCLEAN);
        }
        each(at, block.into(), 1);
        *logical += 1;
        return Ok(());
    }
    let node = read(block.into())?;
    for at in 0..fan as usize {
        walk_indirect(sb, read, u32_at(&node, at * 4), depth - 1, logical, each)?;
    }
    Ok(())
}

impl Ext4 {
    /// Reads the map of an inode with the extents flag from its 60 bytes of `i_block`.
    pub(crate) fn read_extents(&self, root: &[u8], seed: u32) -> Result<BlockMap> {
        let mut map = BlockMap::default();
        self.read_extent_node(root, seed, None, &mut map, &mut BTreeSet::new())?;
        let sorted = map.extents.windows(2).all(|pair| pair[0].end() <= pair[1].logical);
        let inside = map.extents.iter().all(|e| {
            e.physical > self.sb.first_data_block
                && e.physical + u64::from(e.len) <= self.sb.blocks
                && e.logical.checked_add(e.len).is_some()
        });
        if !sorted || !inside { Err(Errno::EUCLEAN) } else { Ok(map) }
    }

    fn read_extent_node(
        &self,
        node: &[u8],
        seed: u32,
        expected_depth: Option<u16>,
        map: &mut BlockMap,
        seen: &mut BTreeSet<u64>,
    ) -> Result<()> {
        let (entries, max, depth) = (u16_at(node, 2), u16_at(node, 4), u16_at(node, 6));
        let room = (node.len() - 12) / 12;
        if u16_at(node, 0) != EXTENT_MAGIC
            || entries > max
            || usize::from(max) > room
            || depth > 5
            || expected_depth.is_some_and(|expected| expected != depth)
        {
            log::error!("ext4: corrupt extent header");
            return Err(Errno::EUCLEAN);
        }
        if expected_depth.is_some() && self.sb.has_csum() {
            let at = 12 + 12 * usize::from(max);
            if crc32c(seed, node.get(..at).unwrap_or(&[])) != u32_at(node, at) {
                log::error!("ext4: extent block checksum mismatch");
                return Err(Errno::EBADMSG);
            }
        }
        for entry in node[12..].chunks_exact(12).take(usize::from(entries)) {
            if depth == 0 {
                let (raw, high) = (u16_at(entry, 4), u16_at(entry, 6));
                let unwritten = raw > MAX_LEN as u16;
                let len = if unwritten { u32::from(raw) - MAX_LEN } else { u32::from(raw) };
                if len == 0 {
                    return Err(Errno::EUCLEAN);
                }
                let physical = u64::from(u32_at(entry, 8)) | u64::from(high) << 32;
                map.extents.push(Extent { logical: u32_at(entry, 0), len, physical, unwritten });
                continue;
            }
            let block = u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
            if !seen.insert(block) {
                log::error!("ext4: extent block {block} is in its tree twice");
                return Err(Errno::EUCLEAN);
            }
            let child = self.metadata_block(block)?.copy();
            map.tree_blocks.push(block);
            self.read_extent_node(&child, seed, Some(depth - 1), map, seen)?;
        }
        Ok(())
    }

    /// A block of the file system's own, checked to lie inside.
    pub(crate) fn metadata_block(&self, block: u64) -> Result<Arc<Buffer>> {
        if block <= self.sb.first_data_block || block >= self.sb.blocks {
            return Err(Errno::EUCLEAN);
        }
        self.buffers.get(block)
    }

    /// Writes the map as an extent tree; returns the 60 bytes of `i_block`.
    pub(crate) fn write_extents(
        &self,
        map: &mut BlockMap,
        seed: u32,
        goal: u64,
    ) -> Result<[u8; 60]> {
        let mut level: Vec<[u8; 12]> = map
            .extents
            .iter()
            .map(|extent| {
                let mut entry = [0; 12];
                put32(&mut entry, 0, extent.logical);
                let flag = if extent.unwritten { MAX_LEN } else { 0 };
                put16(&mut entry, 4, (extent.len + flag) as u16);
                put16(&mut entry, 6, (extent.physical >> 32) as u16);
                put32(&mut entry, 8, extent.physical as u32);
                entry
            })
            .collect();
        self.resize_tree(map, self.extent_nodes(map.extents.len()), goal)?;
        let mut blocks = map.tree_blocks.iter();
        let mut depth = 0u16;
        while level.len() > 4 {
            level = self.write_level(&level, depth, seed, &mut blocks);
            depth += 1;
        }
        let mut root = [0; 60];
        fill_node(&mut root, &level, 4, depth);
        Ok(root)
    }

    /// How many entries a block of an extent tree holds.
    fn node_room(&self) -> usize {
        (self.sb.block_size - 12 - 4) / 12
    }

    /// How many blocks the tree of so many extents needs besides the root.
    pub(crate) fn extent_nodes(&self, extents: usize) -> usize {
        let (mut nodes, mut width) = (0, extents);
        while width > 4 {
            width = width.div_ceil(self.node_room());
            nodes += width;
        }
        nodes
    }

    /// Gives the map as many blocks for its tree as it is going to need: all of them before the first
    /// is written, for they are the tree that the inode points to, which must stay whole if there are
    /// not enough.
    pub(crate) fn resize_tree(&self, map: &mut BlockMap, count: usize, goal: u64) -> Result<()> {
        while map.tree_blocks.len() < count {
            let (block, _) = self.alloc.take_blocks(&self.sb, &self.buffers, goal, 1)?;
            map.tree_blocks.push(block);
        }
        let mut result = Ok(());
        for block in map.tree_blocks.split_off(count) {
            self.buffers.forget(block);
            result = result.and(self.alloc.give_blocks(&self.sb, &self.buffers, block, 1));
        }
        result
    }

    /// Writes `entries` as nodes of `depth` into the next `blocks`; returns the entries that point to
    /// them.
    fn write_level(
        &self,
        entries: &[[u8; 12]],
        depth: u16,
        seed: u32,
        blocks: &mut core::slice::Iter<'_, u64>,
    ) -> Vec<[u8; 12]> {
        let room = self.node_room();
        let mut above = Vec::new();
        for (chunk, &block) in entries.chunks(room).zip(blocks) {
            let mut bytes = alloc::vec![0; self.sb.block_size];
            fill_node(&mut bytes, chunk, room, depth);
            if self.sb.has_csum() {
                let at = 12 + 12 * room;
                let sum = crc32c(seed, &bytes[..at]);
                put32(&mut bytes, at, sum);
            }
            self.buffers.replace(block, &bytes);
            let mut entry = [0; 12];
            entry[..4].copy_from_slice(&chunk[0][..4]);
            put32(&mut entry, 4, block as u32);
            put16(&mut entry, 8, (block >> 32) as u16);
            above.push(entry);
        }
        above
    }
}

fn fill_node(bytes: &mut [u8], entries: &[[u8; 12]], room: usize, depth: u16) {
    put16(bytes, 0, EXTENT_MAGIC);
    put16(bytes, 2, entries.len() as u16);
    put16(bytes, 4, room as u16);
    put16(bytes, 6, depth);
    for (place, entry) in bytes[12..].chunks_exact_mut(12).zip(entries) {
        place.copy_from_slice(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_extent_without_data_is_two() {
        let mut map = BlockMap::default();
        map.insert(Extent { logical: 0, len: MAX_LEN, physical: 1000, unwritten: false });
        assert!(map.mark_unwritten(0, MAX_LEN));
        assert!(map.extents.iter().all(|e| e.unwritten && e.len < MAX_LEN));
        assert_eq!(map.block_count(), u64::from(MAX_LEN));
        assert_eq!(map.find(MAX_LEN - 1).unwrap().end(), MAX_LEN);
    }

    /// Random changes of a map, beside an array of what each block maps to.
    #[test]
    fn maps_follow_a_model() {
        const LEN: usize = 200;
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |limit: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % limit as u64) as usize
        };
        let mut model: Vec<Option<(u64, bool)>> = vec![None; LEN];
        let mut map = BlockMap::default();
        for step in 0..20_000u64 {
            let start = random(LEN - 20);
            let end = start + 1 + random(19);
            let (first, last) = (start as u32, end as u32);
            match random(6) {
                0 => {
                    map.remove(first, last);
                    model[start..end].fill(None);
                }
                1 => {
                    let unwritten = random(2) == 0;
                    map.mark(first, last, unwritten);
                    for block in model[start..end].iter_mut().flatten() {
                        block.1 = unwritten;
                    }
                }
                2 => {
                    map.remove(first, last);
                    map.close_gap(first, last);
                    model.drain(start..end);
                    model.resize(LEN, None);
                }
                3 if model[LEN - 20..].iter().all(Option::is_none) => {
                    map.open_gap(first, last - first);
                    model.splice(start..start, vec![None; end - start]);
                    model.truncate(LEN);
                }
                _ => {
                    for (at, slot) in model.iter_mut().enumerate().take(end).skip(start) {
                        if slot.is_none() {
                            let physical = (1 + step % 3) * 1000 + at as u64;
                            let unwritten = step % 2 == 0;
                            let logical = at as u32;
                            map.insert(Extent { logical, len: 1, physical, unwritten });
                            *slot = Some((physical, unwritten));
                        }
                    }
                }
            }
            for (at, wanted) in model.iter().enumerate() {
                let found = map.find(at as u32).ok();
                let found =
                    found.map(|e| (e.physical + u64::from(at as u32 - e.logical), e.unwritten));
                assert_eq!(found, *wanted, "block {at} after step {step}");
            }
        }
    }
}
