//! Block maps of files without extents (ext2, ext3): twelve direct blocks, then trees of one, two
//! and three levels of blocks of numbers.

use alloc::collections::BTreeSet;

use abi::{Errno, Result};

use crate::bytes::{put32, u32_at};
use crate::extents::{BlockMap, Extent};
use crate::fs::Ext4;
use crate::layout::Super;

/// How many file blocks such a map can hold.
pub(crate) fn capacity(sb: &Super) -> u64 {
    let fan = (sb.block_size / 4) as u64;
    // A block number has 32 bits, whatever the trees could hold.
    (12 + fan + fan * fan + fan * fan * fan).min(u64::from(u32::MAX) - 1)
}

/// How many blocks the tree of a map needs, if each holds `fan` numbers.
pub(crate) fn tree_blocks(map: &BlockMap, fan: u64) -> usize {
    let mut count = 0;
    let (mut singles, mut doubles, mut triples) = (Passed::default(), Passed::default(), false);
    for extent in &map.extents {
        let (first, last) = (u64::from(extent.logical), u64::from(extent.end()) - 1);
        let Some(last) = last.checked_sub(12) else { continue };
        let first = first.saturating_sub(12);
        // Blocks of numbers of blocks: the first is the inode's, the others are in blocks of their own.
        count += singles.pass(first / fan, last / fan);
        if last < fan {
            continue;
        }
        let above = |block: u64| (block / fan).saturating_sub(1) / fan;
        let first = above(first.max(fan));
        count += doubles.pass(first, above(last));
        triples |= above(last) > 0;
    }
    (count + u64::from(triples)) as usize
}

/// Counts numbers that are passed in rising order, each once.
#[derive(Default)]
struct Passed {
    /// Numbers below have been counted.
    next: u64,
}

impl Passed {
    fn pass(&mut self, first: u64, last: u64) -> u64 {
        let first = first.max(self.next);
        self.next = self.next.max(last + 1);
        (last + 1).saturating_sub(first)
    }
}

/// Walks the tree that a map needs.
struct Writer<'a> {
    fs: &'a Ext4,
    map: &'a BlockMap,
    /// The blocks of the tree.
    blocks: &'a [u64],
    /// How many the walk has passed.
    count: usize,
}

impl Writer<'_> {
    /// The number of the block that maps what is below the place `logical` of a tree `depth` high;
    /// what it holds is written.
    fn place(&mut self, depth: u32, logical: u64) -> Result<u32> {
        let fan = (self.fs.sb.block_size / 4) as u64;
        let Ok(first) = u32::try_from(logical) else { return Ok(0) };
        let next = match self.map.find(first) {
            Ok(extent) if depth == 0 => {
                let block = extent.physical + u64::from(first - extent.logical);
                return u32::try_from(block).map_err(|_| Errno::EFBIG);
            }
            Ok(_) => logical,
            Err(next) => next.map_or(u64::MAX, u64::from),
        };
        if depth == 0 || next >= logical + fan.pow(depth) {
            return Ok(0);
        }
        let mut bytes = alloc::vec![0; self.fs.sb.block_size];
        for at in 0..fan {
            let child = self.place(depth - 1, logical + at * fan.pow(depth - 1))?;
            put32(&mut bytes, at as usize * 4, child);
        }
        let at = self.count;
        self.count += 1;
        let block = *self.blocks.get(at).ok_or(Errno::EUCLEAN)?;
        self.fs.buffers.replace(block, &bytes);
        u32::try_from(block).map_err(|_| Errno::EFBIG)
    }

    /// The whole tree; the 60 bytes of `i_block`.
    fn walk(&mut self) -> Result<[u8; 60]> {
        let mut root = [0; 60];
        let (mut logical, fan) = (0, (self.fs.sb.block_size / 4) as u64);
        for at in 0..15usize {
            let depth = at.saturating_sub(11) as u32;
            put32(&mut root, at * 4, self.place(depth, logical)?);
            logical += fan.pow(depth);
        }
        Ok(root)
    }
}

impl Ext4 {
    /// Reads the map of an inode with direct and indirect blocks.
    pub(crate) fn read_indirect(&self, root: &[u8]) -> Result<BlockMap> {
        let mut map = BlockMap::default();
        let mut logical = 0u64;
        let mut seen = BTreeSet::new();
        for at in 0..15usize {
            let block = u32_at(root, at * 4);
            let depth = at.saturating_sub(11) as u32;
            self.read_indirect_node(block, depth, &mut logical, &mut map, &mut seen)?;
        }
        Ok(map)
    }

    fn read_indirect_node(
        &self,
        block: u32,
        depth: u32,
        logical: &mut u64,
        map: &mut BlockMap,
        seen: &mut BTreeSet<u64>,
    ) -> Result<()> {
        let fan = (self.sb.block_size / 4) as u64;
        if block == 0 {
            *logical += fan.pow(depth);
            return Ok(());
        }
        if u64::from(block) >= self.sb.blocks {
            return Err(Errno::EUCLEAN);
        }
        if depth == 0 {
            let at = u32::try_from(*logical).map_err(|_| Errno::EUCLEAN)?;
            map.insert(Extent { logical: at, len: 1, physical: block.into(), unwritten: false });
            *logical += 1;
            return Ok(());
        }
        if !seen.insert(block.into()) {
            log::error!("ext4: indirect block {block} is in its file twice");
            return Err(Errno::EUCLEAN);
        }
        let node = self.metadata_block(block.into())?.copy();
        map.tree_blocks.push(block.into());
        for at in 0..fan as usize {
            self.read_indirect_node(u32_at(&node, at * 4), depth - 1, logical, map, seen)?;
        }
        Ok(())
    }

    /// Writes the map as direct and indirect blocks; returns the 60 bytes of `i_block`.
    pub(crate) fn write_indirect(&self, map: &mut BlockMap, goal: u64) -> Result<[u8; 60]> {
        self.resize_tree(map, tree_blocks(map, (self.sb.block_size / 4) as u64), goal)?;
        Writer { fs: self, map, blocks: &map.tree_blocks, count: 0 }.walk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts as the walk does.
    fn count(map: &BlockMap, fan: u64, depth: u32, logical: u64) -> usize {
        let next = match map.find(logical as u32) {
            Ok(_) => logical,
            Err(next) => next.map_or(u64::MAX, u64::from),
        };
        if depth == 0 || next >= logical + fan.pow(depth) {
            return 0;
        }
        let below =
            (0..fan).map(|at| count(map, fan, depth - 1, logical + at * fan.pow(depth - 1)));
        1 + below.sum::<usize>()
    }

    #[test]
    fn trees_are_counted_without_a_walk() {
        let fan = 5u64;
        let mut seed = 0x1357_9bdf_0246_8aceu64;
        let mut random = move |limit: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % limit
        };
        for _ in 0..3000 {
            let mut map = BlockMap::default();
            let mut at = random(160) as u32;
            for _ in 0..random(6) {
                let len = 1 + random(30) as u32;
                // Not adjacent on the device: each stays an extent of its own.
                let physical = 1000 + random(1 << 30) * 64;
                map.insert(Extent { logical: at, len, physical, unwritten: false });
                at += len + random(12) as u32;
                if at > 12 + 5 + 25 + 90 {
                    break;
                }
            }
            map.extents.retain(|e| u64::from(e.end()) <= 12 + 5 + 25 + 125);
            let wanted = count(&map, fan, 1, 12)
                + count(&map, fan, 2, 12 + fan)
                + count(&map, fan, 3, 12 + fan + fan * fan);
            assert_eq!(tree_blocks(&map, fan), wanted, "{:?}", map.extents);
        }
    }
}
