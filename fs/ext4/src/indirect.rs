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

/// Walks the tree that a map needs.
struct Writer<'a> {
    fs: &'a Ext4,
    map: &'a BlockMap,
    /// The blocks of the tree; none yet when it is only counted.
    blocks: Option<&'a [u64]>,
    /// How many the walk has passed.
    count: usize,
}

impl Writer<'_> {
    /// The number of the block that maps what is below the place `logical` of a tree `depth` high;
    /// what it holds is written, unless the walk only counts.
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
        let Some(blocks) = self.blocks else { return Ok(0) };
        let block = *blocks.get(at).ok_or(Errno::EUCLEAN)?;
        self.fs.buffers.fresh_with(block, |place| place.copy_from_slice(&bytes));
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
        let mut counter = Writer { fs: self, map, blocks: None, count: 0 };
        counter.walk()?;
        let count = counter.count;
        self.resize_tree(map, count, goal)?;
        Writer { fs: self, map, blocks: Some(&map.tree_blocks), count: 0 }.walk()
    }
}
