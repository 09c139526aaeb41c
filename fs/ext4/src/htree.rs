//! The index of a hashed directory: a shallow tree from hashes of names to blocks of names.
//!
//! Block 0 is the root (behind the dot entries), below it are index blocks and then leaves, which
//! are ordinary blocks of names. An index entry says where the names with hashes from its own on
//! are; its lowest bit is set if names with that very hash already begin in the leaf before.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use vfs::Inode;
use vfs::file::DirSink;

use crate::buffer::Buffer;
use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::dir::{Entry, Found, needed, scan};
use crate::hash::{Hasher, NameHash};
use crate::layout::incompat;
use crate::node::{Node, flags};
use crate::seal::Seal;

/// Levels of index blocks, the root included.
const MAX_LEVELS: usize = 4;
/// Bytes before the entries of the root and of other index blocks.
const ROOT_BASE: usize = 32;
const NODE_BASE: usize = 8;
/// The cursor behind the last entry.
const END: u64 = i64::MAX as u64;
/// The cursor behind `.` and `..`, which come first.
const DOTS: u64 = 2;

/// One index block on the way to a leaf.
struct Frame {
    buffer: Arc<Buffer>,
    base: usize,
    /// The entry taken.
    at: usize,
    count: usize,
    limit: usize,
}

/// The way from the root to a leaf.
struct Way {
    frames: ArrayVec<Frame, MAX_LEVELS>,
    leaf: u32,
}

fn hash_of(block: &[u8], base: usize, at: usize) -> u32 {
    // The first entry has its limit and count in that place, and stands for everything below.
    if at == 0 { 0 } else { u32_at(block, base + at * 8) }
}

fn child_of(block: &[u8], base: usize, at: usize) -> u32 {
    u32_at(block, base + at * 8 + 4) & 0x0fff_ffff
}

fn cursor_of(hash: NameHash) -> u64 {
    u64::from(hash.major >> 1) << 32 | u64::from(hash.minor)
}

impl Node {
    fn limit(&self, base: usize) -> usize {
        let tail = if self.fs.sb.has_csum() { 8 } else { 0 };
        (self.fs.sb.block_size - base - tail) / 8
    }

    fn max_levels(&self) -> usize {
        if self.fs.sb.incompat & incompat::LARGEDIR != 0 { 3 } else { 2 }
    }

    /// The root block, how names are hashed, and the number of index levels.
    fn index_root(&self) -> Result<(Arc<Buffer>, Hasher, usize)> {
        let root = self.dir_block(0)?;
        let (version, info_len, levels, unused) = root.read(|block| {
            let byte = |at: usize| block.get(at).copied().unwrap_or(0);
            (byte(28), byte(29), byte(30), byte(31))
        });
        let hasher = self.fs.sb.hasher(version).ok_or(Errno::EUCLEAN)?;
        let levels = usize::from(levels) + 1;
        if info_len != 8 || unused & 1 != 0 || levels > self.max_levels() {
            return Err(Errno::EUCLEAN);
        }
        Ok((root, hasher, levels))
    }

    /// Looks at an index block and picks an entry.
    fn frame(
        &self,
        buffer: Arc<Buffer>,
        base: usize,
        pick: impl FnOnce(&[u8], usize) -> usize,
    ) -> Result<(Frame, u32)> {
        let limit = self.limit(base);
        let (at, count, child) = buffer.read(|block| {
            let count = usize::from(u16_at(block, base + 2));
            if usize::from(u16_at(block, base)) != limit || count == 0 || count > limit {
                return Err(Errno::EUCLEAN);
            }
            let at = pick(block, count);
            Ok((at, count, child_of(block, base, at)))
        })?;
        Ok((Frame { buffer, base, at, count, limit }, child))
    }

    fn index_block(&self, logical: u32) -> Result<Arc<Buffer>> {
        if logical == 0 {
            return Err(Errno::EUCLEAN);
        }
        self.dir_block(logical)
    }

    /// The way to the leaf that names with this hash begin in.
    fn descend(&self, root: Arc<Buffer>, levels: usize, major: u32) -> Result<Way> {
        let mut frames = ArrayVec::new();
        let (mut buffer, mut base) = (root, ROOT_BASE);
        loop {
            let (frame, child) = self.frame(buffer, base, |block, count| {
                // The last entry whose hash is not above.
                let (mut low, mut high) = (1, count);
                while low < high {
                    let middle = low.midpoint(high);
                    if hash_of(block, base, middle) > major {
                        high = middle;
                    } else {
                        low = middle + 1;
                    }
                }
                low - 1
            })?;
            frames.push(frame);
            if frames.len() == levels {
                return Ok(Way { frames, leaf: child });
            }
            buffer = self.index_block(child)?;
            base = NODE_BASE;
        }
    }

    /// Moves to the next leaf; returns the hash its index entry has.
    fn next_leaf(&self, way: &mut Way) -> Result<Option<u32>> {
        let levels = way.frames.len();
        let Some(level) = way.frames.iter().rposition(|frame| frame.at + 1 < frame.count) else {
            return Ok(None);
        };
        let frame = &mut way.frames[level];
        frame.at += 1;
        let (base, at) = (frame.base, frame.at);
        let (hash, mut child) =
            frame.buffer.read(|block| (hash_of(block, base, at), child_of(block, base, at)));
        way.frames.truncate(level + 1);
        while way.frames.len() < levels {
            let buffer = self.index_block(child)?;
            let (frame, below) = self.frame(buffer, NODE_BASE, |_, _| 0)?;
            way.frames.push(frame);
            child = below;
        }
        way.leaf = child;
        Ok(Some(hash))
    }

    /// Finds `name` through the index; `EUCLEAN` if the index makes no sense.
    pub(crate) fn index_search(&self, _dir: &Inode, name: &[u8]) -> Result<Option<Found>> {
        let (root, hasher, levels) = self.index_root()?;
        let major = hasher.hash(name).major;
        let mut way = self.descend(root, levels, major)?;
        loop {
            let leaf = self.index_block(way.leaf)?;
            if let Some(found) = self.search_block(&leaf, name)? {
                return Ok(Some(found));
            }
            match self.next_leaf(&mut way)? {
                Some(hash) if hash == major | 1 => {}
                _ => return Ok(None),
            }
        }
    }

    /// Adds an entry to a hashed directory.
    pub(crate) fn index_insert(&self, dir: &Inode, name: &[u8], ino: u32, kind: u8) -> Result<()> {
        // Each round adds a block on the way: a level at most, an index block per level, a leaf.
        for _ in 0..2 * MAX_LEVELS {
            let (root, hasher, levels) = self.index_root()?;
            let way = self.descend(root, levels, hasher.hash(name).major)?;
            let leaf = self.index_block(way.leaf)?;
            let done = self.insert_into(&leaf, name, ino, kind);
            if done.map_err(|_| self.corrupt(way.leaf))? {
                return Ok(());
            }
            match way.frames.iter().rposition(|frame| frame.count < frame.limit) {
                Some(level) if level + 1 == levels => {
                    self.split_leaf(dir, &way.frames[level], &leaf, &hasher)?;
                }
                Some(level) => self.split_index(dir, &way.frames[level], &way.frames[level + 1])?,
                None if levels < self.max_levels() => self.deepen(dir, &way.frames[0])?,
                None => {
                    log::warn!("ext4: directory inode {}: index is full", self.ino);
                    return Err(Errno::ENOSPC);
                }
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Enters a child behind the entry that `frame` took; there is room.
    fn add_child(&self, frame: &Frame, hash: u32, child: u32) {
        let Frame { base, at, count, .. } = *frame;
        self.fs.buffers.modify(&frame.buffer, |block| {
            let place = base + (at + 1) * 8;
            block.copy_within(place..base + count * 8, place + 8);
            put32(block, place, hash);
            put32(block, place + 4, child);
            put16(block, base + 2, count as u16 + 1);
        });
    }

    /// A new index block that holds these raw entries; the first one's hash is understood.
    fn new_index(&self, dir: &Inode, entries: &[u8]) -> Result<u32> {
        let size = self.fs.sb.block_size;
        let (buffer, logical) = self.grow(dir)?;
        self.seal_block(&buffer, Seal::Index);
        self.fs.buffers.modify(&buffer, |block| {
            block.fill(0);
            put16(block, 4, size as u16);
            if let Some(place) = block.get_mut(NODE_BASE..NODE_BASE + entries.len()) {
                place.copy_from_slice(entries);
            }
            put16(block, NODE_BASE, self.limit(NODE_BASE) as u16);
            put16(block, NODE_BASE + 2, (entries.len() / 8) as u16);
        });
        Ok(logical)
    }

    /// Gives the upper half of a full index block a block of its own.
    fn split_index(&self, dir: &Inode, parent: &Frame, full: &Frame) -> Result<()> {
        let keep = full.count / 2;
        let (from, end) = (full.base + keep * 8, full.base + full.count * 8);
        let upper = full.buffer.read(|block| block.get(from..end).map(<[u8]>::to_vec));
        let upper = upper.ok_or(Errno::EUCLEAN)?;
        let hash = u32_at(&upper, 0);
        let child = self.new_index(dir, &upper)?;
        self.fs.buffers.modify(&full.buffer, |block| put16(block, full.base + 2, keep as u16));
        self.add_child(parent, hash, child);
        Ok(())
    }

    /// Puts a level between the root and what is below it.
    fn deepen(&self, dir: &Inode, root: &Frame) -> Result<()> {
        let end = root.base + root.count * 8;
        let all = root.buffer.read(|block| block.get(root.base..end).map(<[u8]>::to_vec));
        let child = self.new_index(dir, &all.ok_or(Errno::EUCLEAN)?)?;
        self.fs.buffers.modify(&root.buffer, |block| {
            if let Some(levels) = block.get_mut(30) {
                *levels += 1;
            }
            put16(block, root.base + 2, 1);
            put32(block, root.base + 4, child);
        });
        Ok(())
    }

    /// Packs entries of `source` into a block of names.
    fn pack(&self, block: &mut [u8], source: &[u8], entries: &[(NameHash, Entry)]) {
        let end = self.usable();
        let mut at = 0;
        for (index, (_, entry)) in entries.iter().enumerate() {
            let name = entry.name(source);
            let len = if index + 1 == entries.len() { end - at } else { needed(name.len()) };
            self.put_entry(block, at, len, entry.ino, entry.kind, name);
            at += len;
        }
        if entries.is_empty() {
            put32(block, 0, 0);
            put16(block, 4, end as u16);
            put16(block, 6, 0);
        }
    }

    /// The names of a block with their hashes, in order of these.
    fn hashed_entries(&self, block: &[u8], hasher: &Hasher) -> Result<Vec<(NameHash, Entry)>> {
        let mut entries = Vec::new();
        scan(block, |entry| {
            if entry.ino != 0 {
                entries.push((hasher.hash(entry.name(block)), *entry));
            }
            None::<()>
        })?;
        entries.sort_by_key(|(hash, entry)| (*hash, entry.at));
        Ok(entries)
    }

    /// Gives the upper half of a full leaf a block of its own.
    fn split_leaf(
        &self,
        dir: &Inode,
        parent: &Frame,
        leaf: &Arc<Buffer>,
        hasher: &Hasher,
    ) -> Result<()> {
        let source = leaf.copy();
        let entries = self.hashed_entries(&source, hasher)?;
        let size = |entry: &Entry| needed(entry.name(&source).len());
        let total: usize = entries.iter().map(|(_, entry)| size(entry)).sum();
        let (mut keep, mut kept) = (0, 0);
        for (_, entry) in &entries {
            if kept + size(entry) / 2 > total / 2 {
                break;
            }
            kept += size(entry);
            keep += 1;
        }
        // A leaf that is only scattered, with one name or none, becomes one free piece.
        let keep = keep.clamp(1.min(entries.len()), entries.len().saturating_sub(1).max(1));
        if entries.len() < 2 {
            self.fs.buffers.modify(leaf, |block| self.pack(block, &source, &entries));
            return Ok(());
        }
        let (lower, upper) = entries.split_at(keep);
        let (Some((last, _)), Some((first, _))) = (lower.last(), upper.first()) else {
            return Err(Errno::EUCLEAN);
        };
        let (first, continued) = (first.major, u32::from(first.major == last.major));
        let (fresh, child) = self.grow(dir)?;
        self.fs.buffers.modify(&fresh, |block| self.pack(block, &source, upper));
        self.fs.buffers.modify(leaf, |block| self.pack(block, &source, lower));
        self.add_child(parent, first + continued, child);
        Ok(())
    }

    /// Gives a directory of one full block an index; `false` if the file system has no hash that
    /// is known.
    pub(crate) fn make_index(&self, dir: &Inode) -> Result<bool> {
        let version = self.fs.sb.default_hash();
        let Some(hasher) = self.fs.sb.hasher(version) else { return Ok(false) };
        let root = self.dir_block(0)?;
        let source = root.copy();
        let is_dot = |at: usize, wanted: &[u8]| {
            Entry::parse(&source, at, source.len()).is_ok_and(|e| e.name(&source) == wanted)
        };
        if u16_at(&source, 4) != 12 || !is_dot(0, b".") || !is_dot(12, b"..") {
            return Err(self.corrupt(0));
        }
        let mut entries = self.hashed_entries(&source, &hasher)?;
        entries.retain(|(_, entry)| entry.at > 12);
        let (leaf, child) = self.grow(dir)?;
        self.fs.buffers.modify(&leaf, |block| self.pack(block, &source, &entries));
        let size = self.fs.sb.block_size;
        self.seal_block(&root, Seal::Index);
        self.fs.buffers.modify(&root, |block| {
            put16(block, 16, (size - 12) as u16);
            if let Some(rest) = block.get_mut(24..) {
                rest.fill(0);
                rest[4..6].copy_from_slice(&[version % 3, 8]);
            }
            put16(block, ROOT_BASE, self.limit(ROOT_BASE) as u16);
            put16(block, ROOT_BASE + 2, 1);
            put32(block, ROOT_BASE + 4, child);
        });
        self.state.lock().flags |= flags::INDEX;
        self.changed();
        Ok(true)
    }

    /// Lists in the order of hashes: a split moves names between blocks, but not in this order, so
    /// that a reader between two calls misses and repeats nothing.
    pub(crate) fn list_hashed(
        &self,
        _dir: &Inode,
        cursor: u64,
        out: &mut dyn DirSink,
    ) -> Result<u64> {
        if cursor >= END {
            return Ok(cursor);
        }
        let mut cursor = cursor;
        let mut leaves = None;
        let hasher = if self.is_indexed() {
            let (root, hasher, levels) = self.index_root()?;
            leaves = Some(self.descend(root, levels, ((cursor >> 32) as u32) << 1)?);
            hasher
        } else {
            // Hashes that order one block need no agreed version.
            self.fs
                .sb
                .hasher(self.fs.sb.default_hash())
                .or_else(|| self.fs.sb.hasher(1))
                .ok_or(Errno::EUCLEAN)?
        };
        if cursor < DOTS {
            let block = self.dir_block(0)?.copy();
            for (at, place) in [(0, 0), (12, 1)] {
                let entry = Entry::parse(&block, at, block.len()).map_err(|_| self.corrupt(0))?;
                if place >= cursor {
                    if !out.emit(&entry.item(&block, place + 1)) {
                        return Ok(cursor);
                    }
                    cursor = place + 1;
                }
            }
        }
        let mut last = DOTS - 1;
        loop {
            let logical = leaves.as_ref().map_or(0, |way| way.leaf);
            // Emitting may fault: the entries are copied first.
            let block = self.dir_block(logical)?.copy();
            let entries =
                self.hashed_entries(&block, &hasher).map_err(|_| self.corrupt(logical))?;
            for (hash, entry) in &entries {
                if matches!(entry.name(&block), b"." | b"..") {
                    continue;
                }
                // Names with equal hashes get places of their own.
                let place = cursor_of(*hash).max(last + 1).min(END - 1);
                last = place;
                if place < cursor {
                    continue;
                }
                if !out.emit(&entry.item(&block, place + 1)) {
                    return Ok(cursor);
                }
                cursor = place + 1;
            }
            let more = match &mut leaves {
                Some(way) => self.next_leaf(way)?.is_some(),
                None => false,
            };
            if !more {
                return Ok(END);
            }
        }
    }
}
