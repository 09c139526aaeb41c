//! Directories: blocks of entries. Those of a hashed directory are found through its index, see
//! `htree`; the others are searched one after the other.

use alloc::sync::Arc;

use abi::{Errno, Result};
use vfs::FileKind;
use vfs::Inode;
use vfs::file::{DirEntry, DirSink};

use crate::buffer::Buffer;
use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::layout::incompat;
use crate::node::{Node, flags};
use crate::seal::{self, Seal, TAIL, index_base};

/// Bytes an entry with a name of this length needs.
pub(crate) fn needed(name_len: usize) -> usize {
    (8 + name_len).next_multiple_of(4)
}

pub(crate) fn type_code(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular => 1,
        FileKind::Directory => 2,
        FileKind::CharDevice => 3,
        FileKind::BlockDevice => 4,
        FileKind::Fifo => 5,
        FileKind::Socket => 6,
        FileKind::Symlink => 7,
        FileKind::Anonymous => 0,
    }
}

/// One entry in a block.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) at: usize,
    pub(crate) ino: u32,
    pub(crate) rec_len: usize,
    name_len: usize,
    pub(crate) kind: u8,
}

impl Entry {
    pub(crate) fn parse(block: &[u8], at: usize, end: usize) -> Result<Entry> {
        let entry = Entry {
            at,
            ino: u32_at(block, at),
            rec_len: usize::from(u16_at(block, at + 4)),
            name_len: usize::from(block.get(at + 6).copied().unwrap_or(0)),
            kind: block.get(at + 7).copied().unwrap_or(0),
        };
        let sane = entry.rec_len >= 12
            && entry.rec_len.is_multiple_of(4)
            && at + entry.rec_len <= end
            && needed(entry.name_len) <= entry.rec_len;
        if sane { Ok(entry) } else { Err(Errno::EUCLEAN) }
    }

    /// The name.
    pub(crate) fn name<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        block.get(self.at + 8..self.at + 8 + self.name_len).unwrap_or(&[])
    }

    /// The entry as the VFS takes it.
    pub(crate) fn item<'a>(&self, block: &'a [u8], next: u64) -> DirEntry<'a> {
        const KINDS: [u8; 8] = [0, 8, 4, 2, 6, 1, 12, 10];
        let kind = KINDS.get(usize::from(self.kind)).copied().unwrap_or(0);
        DirEntry { name: self.name(block), ino: self.ino.into(), kind, next }
    }

    /// Bytes that this entry does not use itself.
    fn slack(&self) -> usize {
        if self.ino == 0 { self.rec_len } else { self.rec_len - needed(self.name_len) }
    }
}

/// Calls `each` for every entry, used or not, until it returns something.
pub(crate) fn scan<R>(
    block: &[u8],
    mut each: impl FnMut(&Entry) -> Option<R>,
) -> Result<Option<R>> {
    let mut at = 0;
    while at + 12 <= block.len() {
        let entry = Entry::parse(block, at, block.len())?;
        if let Some(found) = each(&entry) {
            return Ok(Some(found));
        }
        at += entry.rec_len;
    }
    Ok(None)
}

/// Where an entry is.
pub(crate) struct Found {
    pub(crate) buffer: Arc<Buffer>,
    /// The entry before it in the block.
    pub(crate) previous: Option<usize>,
    pub(crate) at: usize,
    pub(crate) rec_len: usize,
    pub(crate) ino: u32,
}

impl Node {
    pub(crate) fn dir_blocks(&self, dir: &Inode) -> u32 {
        (dir.size() / self.fs.sb.block_size as u64).min(u64::from(u32::MAX)) as u32
    }

    /// Whether the directory has an index.
    pub(crate) fn is_indexed(&self) -> bool {
        self.fs.sb.has_index() && self.state.lock().flags & flags::INDEX != 0
    }

    /// A block of the directory, its checksum verified when it is first seen.
    pub(crate) fn dir_block(&self, logical: u32) -> Result<Arc<Buffer>> {
        let buffer = self.block(logical)?.ok_or(Errno::EUCLEAN)?;
        if buffer.seal() == Seal::None && self.fs.sb.has_csum() {
            self.verify_block(&buffer, logical)?;
        }
        Ok(buffer)
    }

    #[cold]
    fn verify_block(&self, buffer: &Arc<Buffer>, logical: u32) -> Result<()> {
        let indexed = self.is_indexed();
        let seal = buffer.read(|block| {
            let index = indexed && (logical == 0 || index_base(block) == 8);
            let seal = if index { Seal::Index } else { Seal::Names };
            seal::holds(seal, block, self.seed).then_some(seal)
        });
        let Some(seal) = seal else {
            log::error!("ext4: directory inode {}: checksum mismatch in block {logical}", self.ino);
            return Err(Errno::EBADMSG);
        };
        buffer.set_seal(seal, self.seed);
        Ok(())
    }

    pub(crate) fn corrupt(&self, logical: u32) -> Errno {
        log::error!("ext4: directory inode {}: corrupt entry in block {logical}", self.ino);
        Errno::EUCLEAN
    }

    /// Says how a block of this directory is signed.
    pub(crate) fn seal_block(&self, buffer: &Buffer, seal: Seal) {
        if self.fs.sb.has_csum() {
            buffer.set_seal(seal, self.seed);
        }
    }

    /// Looks for `name` in one block.
    pub(crate) fn search_block(&self, buffer: &Arc<Buffer>, name: &[u8]) -> Result<Option<Found>> {
        buffer.read(|block| {
            let mut previous = None;
            scan(block, |entry| {
                if entry.ino != 0 && entry.name(block) == name {
                    let Entry { at, rec_len, ino, .. } = *entry;
                    return Some(Found { buffer: buffer.clone(), previous, at, rec_len, ino });
                }
                previous = Some(entry.at);
                None
            })
        })
    }

    /// Finds the entry `name`.
    fn locate(&self, dir: &Inode, name: &[u8]) -> Result<Option<Found>> {
        let dots = name == b"." || name == b"..";
        if !dots && self.is_indexed() {
            match self.index_search(dir, name) {
                Err(Errno::EUCLEAN) => {
                    log::warn!("ext4: directory inode {}: index is unusable", self.ino);
                }
                outcome => return outcome,
            }
        }
        let end = if dots { 1 } else { self.dir_blocks(dir) };
        for logical in 0..end {
            if self.block(logical)?.is_none() {
                continue;
            }
            let buffer = self.dir_block(logical)?;
            match self.search_block(&buffer, name) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(_) => return Err(self.corrupt(logical)),
            }
        }
        Ok(None)
    }

    /// The inode number behind `name`.
    pub(crate) fn find_entry(&self, dir: &Inode, name: &[u8]) -> Result<Option<u32>> {
        Ok(self.locate(dir, name)?.map(|found| found.ino))
    }

    /// Where entries end: before the checksum.
    pub(crate) fn usable(&self) -> usize {
        self.fs.sb.block_size - if self.fs.sb.has_csum() { TAIL } else { 0 }
    }

    pub(crate) fn put_entry(
        &self,
        block: &mut [u8],
        at: usize,
        rec_len: usize,
        ino: u32,
        kind: u8,
        name: &[u8],
    ) {
        put32(block, at, ino);
        put16(block, at + 4, rec_len as u16);
        let kind = if self.fs.sb.incompat & incompat::FILETYPE != 0 { kind } else { 0 };
        put16(block, at + 6, name.len() as u16 | u16::from(kind) << 8);
        if let Some(place) = block.get_mut(at + 8..at + 8 + name.len()) {
            place.copy_from_slice(name);
        }
    }

    /// The first block of a new directory.
    pub(crate) fn init_dir(&self, inode: &Inode, parent: u32) -> Result<()> {
        let buffer = self.add_block(0)?;
        let end = self.usable();
        self.seal_block(&buffer, Seal::Names);
        self.fs.buffers.modify(&buffer, |block| {
            self.put_entry(block, 0, 12, self.ino, 2, b".");
            self.put_entry(block, 12, end - 12, parent, 2, b"..");
            if end < block.len() {
                seal::put_tail(block);
            }
        });
        inode.set_size(self.fs.sb.block_size as u64);
        Ok(())
    }

    /// Another block at the end of the directory, for names.
    pub(crate) fn grow(&self, dir: &Inode) -> Result<(Arc<Buffer>, u32)> {
        let logical = self.dir_blocks(dir);
        let buffer = self.add_block(logical)?;
        let end = self.usable();
        self.seal_block(&buffer, Seal::Names);
        self.fs.buffers.modify(&buffer, |block| {
            put16(block, 4, end as u16);
            if end < block.len() {
                seal::put_tail(block);
            }
        });
        dir.set_size((u64::from(logical) + 1) * self.fs.sb.block_size as u64);
        Ok((buffer, logical))
    }

    /// Puts an entry into the block if it has room.
    pub(crate) fn insert_into(
        &self,
        buffer: &Arc<Buffer>,
        name: &[u8],
        ino: u32,
        kind: u8,
    ) -> Result<bool> {
        let (want, end) = (needed(name.len()), self.usable());
        let place = buffer.read(|block| {
            scan(block.get(..end).unwrap_or(&[]), |entry| {
                (entry.slack() >= want).then_some((entry.at, entry.rec_len, entry.slack()))
            })
        })?;
        let Some((at, rec_len, slack)) = place else { return Ok(false) };
        self.fs.buffers.modify(buffer, |block| {
            let used = rec_len - slack;
            if used > 0 {
                put16(block, at + 4, used as u16);
            }
            self.put_entry(block, at + used, slack, ino, kind, name);
        });
        Ok(true)
    }

    /// Adds an entry; the name is absent.
    pub(crate) fn add_entry(
        &self,
        dir: &Inode,
        name: &[u8],
        ino: u32,
        kind: FileKind,
    ) -> Result<()> {
        let kind = type_code(kind);
        if self.is_indexed() {
            match self.index_insert(dir, name, ino, kind) {
                // Without checksums a bad index can simply be given up: its blocks look empty.
                Err(Errno::EUCLEAN) if !self.fs.sb.has_csum() => {
                    self.state.lock().flags &= !flags::INDEX;
                    self.changed();
                }
                outcome => return outcome,
            }
        }
        let blocks = self.dir_blocks(dir);
        // The last block first: that is where there is room when files are made in a row.
        for logical in (0..blocks).rev() {
            let buffer = self.dir_block(logical)?;
            match self.insert_into(&buffer, name, ino, kind) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => return Err(self.corrupt(logical)),
            }
        }
        if blocks == 1 && self.fs.sb.has_index() && self.make_index(dir)? {
            return self.index_insert(dir, name, ino, kind);
        }
        let (buffer, _) = self.grow(dir)?;
        match self.insert_into(&buffer, name, ino, kind)? {
            true => Ok(()),
            false => Err(Errno::ENOSPC),
        }
    }

    /// Removes an entry.
    pub(crate) fn remove_entry(&self, dir: &Inode, name: &[u8]) -> Result<()> {
        let found = self.locate(dir, name)?.ok_or(Errno::ENOENT)?;
        self.fs.buffers.modify(&found.buffer, |block| match found.previous {
            Some(previous) => {
                let joined = usize::from(u16_at(block, previous + 4)) + found.rec_len;
                put16(block, previous + 4, joined as u16);
            }
            None => put32(block, found.at, 0),
        });
        Ok(())
    }

    /// Lets an entry name another inode.
    pub(crate) fn replace_entry(
        &self,
        dir: &Inode,
        name: &[u8],
        ino: u32,
        kind: FileKind,
    ) -> Result<()> {
        let code = if self.fs.sb.incompat & incompat::FILETYPE != 0 { type_code(kind) } else { 0 };
        let found = self.locate(dir, name)?.ok_or(Errno::ENOENT)?;
        self.fs.buffers.modify(&found.buffer, |block| {
            put32(block, found.at, ino);
            if let Some(byte) = block.get_mut(found.at + 7) {
                *byte = code;
            }
        });
        Ok(())
    }

    /// Whether only `.` and `..` are there.
    pub(crate) fn is_empty_dir(&self, dir: &Inode) -> Result<bool> {
        for logical in 0..self.dir_blocks(dir) {
            if self.block(logical)?.is_none() {
                continue;
            }
            let used = self.dir_block(logical)?.read(|block| {
                scan(block, |entry| {
                    let name = entry.name(block);
                    (entry.ino != 0 && name != b"." && name != b"..").then_some(())
                })
            });
            if used.map_err(|_| self.corrupt(logical))?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lists entries from `cursor` on: by hash where Linux does so, else by position in bytes.
    pub(crate) fn list(&self, dir: &Inode, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        if self.fs.sb.has_index() && (self.is_indexed() || self.dir_blocks(dir) == 1) {
            return self.list_hashed(dir, cursor, out);
        }
        let size = self.fs.sb.block_size;
        let mut cursor = cursor;
        let first = (cursor / size as u64).min(u64::from(u32::MAX)) as u32;
        for logical in first..self.dir_blocks(dir) {
            let base = u64::from(logical) * size as u64;
            if self.block(logical)?.is_none() {
                cursor = base + size as u64;
                continue;
            }
            // Emitting may fault: the entries are copied first.
            let block = self.dir_block(logical)?.copy();
            let mut at = 0;
            while at + 12 <= block.len() {
                let entry = Entry::parse(&block, at, block.len());
                let entry = entry.map_err(|_| self.corrupt(logical))?;
                at += entry.rec_len;
                if entry.ino == 0 || base + (entry.at as u64) < cursor {
                    continue;
                }
                let next = base + at as u64;
                if !out.emit(&entry.item(&block, next)) {
                    return Ok(cursor);
                }
                cursor = next;
            }
            cursor = base + size as u64;
        }
        Ok(cursor)
    }
}
