//! Directories: blocks of entries. A hashed directory keeps its entries in the same leaf blocks; it
//! is searched block by block, and loses its index when it is first changed.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::FileKind;
use vfs::Inode;
use vfs::file::{DirEntry, DirSink};

use crate::buffer::Buffer;
use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::csum::crc32c;
use crate::layout::incompat;
use crate::node::{Node, flags};

/// Bytes of the checksum entry at the end of a block.
const TAIL: usize = 12;

/// Bytes an entry with a name of this length needs.
fn needed(name_len: usize) -> usize {
    (8 + name_len).next_multiple_of(4)
}

fn type_code(kind: FileKind) -> u8 {
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
struct Entry {
    at: usize,
    ino: u32,
    rec_len: usize,
    name_len: usize,
    kind: u8,
}

impl Entry {
    fn parse(block: &[u8], at: usize, end: usize) -> Result<Entry> {
        let entry = Entry {
            at,
            ino: u32_at(block, at),
            rec_len: usize::from(u16_at(block, at + 4)),
            name_len: usize::from(block.get(at + 6).copied().unwrap_or(0)),
            kind: block.get(at + 7).copied().unwrap_or(0),
        };
        let sane = entry.rec_len >= 12
            && entry.rec_len % 4 == 0
            && at + entry.rec_len <= end
            && needed(entry.name_len) <= entry.rec_len;
        if sane { Ok(entry) } else { Err(Errno::EUCLEAN) }
    }

    fn name<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        block.get(self.at + 8..self.at + 8 + self.name_len).unwrap_or(&[])
    }

    /// Bytes that this entry does not use itself.
    fn slack(&self) -> usize {
        if self.ino == 0 { self.rec_len } else { self.rec_len - needed(self.name_len) }
    }
}

/// Calls `each` for every entry, used or not, until it returns something.
fn scan<R>(block: &[u8], mut each: impl FnMut(&Entry) -> Option<R>) -> Result<Option<R>> {
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

impl Node {
    fn dir_blocks(&self, dir: &Inode) -> u32 {
        (dir.size() / self.fs.sb.block_size as u64).min(u64::from(u32::MAX)) as u32
    }

    fn dir_block(&self, logical: u32) -> Result<Arc<Buffer>> {
        self.block(logical)?.ok_or(Errno::EUCLEAN)
    }

    fn corrupt(&self, logical: u32) -> Errno {
        log::error!("ext4: directory inode {}: corrupt entry in block {logical}", self.ino);
        Errno::EUCLEAN
    }

    /// The inode number behind `name`.
    pub(crate) fn find_entry(&self, dir: &Inode, name: &[u8]) -> Result<Option<u32>> {
        for logical in 0..self.dir_blocks(dir) {
            let Some(buffer) = self.block(logical)? else { continue };
            let found = buffer.read(|block| {
                scan(block, |entry| {
                    (entry.ino != 0 && entry.name(block) == name).then_some(entry.ino)
                })
            });
            match found {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(_) => return Err(self.corrupt(logical)),
            }
        }
        Ok(None)
    }

    /// Where entries end: before the checksum.
    fn usable(&self) -> usize {
        self.fs.sb.block_size - if self.fs.sb.has_csum() { TAIL } else { 0 }
    }

    fn sign_block(&self, block: &mut [u8]) {
        if !self.fs.sb.has_csum() {
            return;
        }
        let at = self.usable();
        put32(block, at, 0);
        put16(block, at + 4, TAIL as u16);
        put16(block, at + 6, 0xde00);
        let sum = crc32c(self.seed, block.get(..at).unwrap_or(&[]));
        put32(block, at + 8, sum);
    }

    fn put_entry(
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
        let buffer = self.add_block(inode, 0)?;
        let end = self.usable();
        self.fs.buffers.modify(&buffer, |block| {
            self.put_entry(block, 0, 12, self.ino, 2, b".");
            self.put_entry(block, 12, end - 12, parent, 2, b"..");
            self.sign_block(block);
        });
        inode.set_size(self.fs.sb.block_size as u64);
        Ok(())
    }

    /// Turns a hashed directory into a plain one: its index blocks become empty blocks of entries.
    fn drop_index(&self, dir: &Inode) -> Result<()> {
        if self.state.lock().flags & flags::INDEX == 0 {
            return Ok(());
        }
        let (size, end) = (self.fs.sb.block_size, self.usable());
        for logical in 0..self.dir_blocks(dir) {
            let buffer = self.dir_block(logical)?;
            let is_index = buffer.read(|block| {
                logical == 0 || u32_at(block, 0) == 0 && usize::from(u16_at(block, 4)) == size
            });
            if !is_index {
                continue;
            }
            self.fs.buffers.modify(&buffer, |block| {
                if logical == 0 {
                    put16(block, 16, (end - 12) as u16);
                    block[24..].fill(0);
                } else {
                    block.fill(0);
                    put16(block, 4, end as u16);
                }
                self.sign_block(block);
            });
        }
        self.state.lock().flags &= !flags::INDEX;
        self.changed();
        Ok(())
    }

    /// Adds an entry; the name is absent.
    pub(crate) fn add_entry(
        &self,
        dir: &Inode,
        name: &[u8],
        ino: u32,
        kind: FileKind,
    ) -> Result<()> {
        self.drop_index(dir)?;
        let want = needed(name.len());
        let blocks = self.dir_blocks(dir);
        // The last block first: that is where there is room when files are made in a row.
        for logical in (0..blocks).rev() {
            let buffer = self.dir_block(logical)?;
            let end = self.usable();
            let place = buffer.read(|block| {
                scan(block.get(..end).unwrap_or(&[]), |entry| {
                    (entry.slack() >= want).then_some((entry.at, entry.rec_len, entry.slack()))
                })
            });
            let Some((at, rec_len, slack)) = place.map_err(|_| self.corrupt(logical))? else {
                continue;
            };
            self.fs.buffers.modify(&buffer, |block| {
                let used = rec_len - slack;
                if used > 0 {
                    put16(block, at + 4, used as u16);
                }
                self.put_entry(block, at + used, slack, ino, type_code(kind), name);
                self.sign_block(block);
            });
            return Ok(());
        }
        let buffer = self.add_block(dir, blocks)?;
        let end = self.usable();
        self.fs.buffers.modify(&buffer, |block| {
            self.put_entry(block, 0, end, ino, type_code(kind), name);
            self.sign_block(block);
        });
        dir.set_size((u64::from(blocks) + 1) * self.fs.sb.block_size as u64);
        Ok(())
    }

    /// Finds `name` and lets `change(block, previous entry, entry offset, length)` edit it.
    fn edit_entry(
        &self,
        dir: &Inode,
        name: &[u8],
        change: impl FnOnce(&mut [u8], Option<usize>, usize, usize),
    ) -> Result<()> {
        self.drop_index(dir)?;
        for logical in 0..self.dir_blocks(dir) {
            let buffer = self.dir_block(logical)?;
            let end = self.usable();
            let found = buffer.read(|block| {
                let mut previous = None;
                scan(block.get(..end).unwrap_or(&[]), |entry| {
                    if entry.ino != 0 && entry.name(block) == name {
                        return Some((previous, entry.at, entry.rec_len));
                    }
                    previous = Some(entry.at);
                    None
                })
            });
            let Some((previous, at, len)) = found.map_err(|_| self.corrupt(logical))? else {
                continue;
            };
            self.fs.buffers.modify(&buffer, |block| {
                change(block, previous, at, len);
                self.sign_block(block);
            });
            return Ok(());
        }
        Err(Errno::ENOENT)
    }

    /// Removes an entry.
    pub(crate) fn remove_entry(&self, dir: &Inode, name: &[u8]) -> Result<()> {
        self.edit_entry(dir, name, |block, previous, at, len| match previous {
            Some(previous) => {
                let joined = usize::from(u16_at(block, previous + 4)) + len;
                put16(block, previous + 4, joined as u16);
            }
            None => put32(block, at, 0),
        })
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
        self.edit_entry(dir, name, |block, _, at, _| {
            put32(block, at, ino);
            if let Some(byte) = block.get_mut(at + 7) {
                *byte = code;
            }
        })
    }

    /// Whether only `.` and `..` are there.
    pub(crate) fn is_empty_dir(&self, dir: &Inode) -> Result<bool> {
        for logical in 0..self.dir_blocks(dir) {
            let Some(buffer) = self.block(logical)? else { continue };
            let used = buffer.read(|block| {
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

    /// Lists entries from `cursor` (a byte position) on.
    pub(crate) fn list(&self, dir: &Inode, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        const KINDS: [u8; 8] = [0, 8, 4, 2, 6, 1, 12, 10];
        let size = self.fs.sb.block_size;
        let mut cursor = cursor;
        let first = (cursor / size as u64) as u32;
        for logical in first..self.dir_blocks(dir) {
            let base = u64::from(logical) * size as u64;
            let Some(buffer) = self.block(logical)? else {
                cursor = base + size as u64;
                continue;
            };
            // Emitting may fault: the entries are copied first.
            let block = buffer.copy();
            let mut entries: Vec<(usize, Entry)> = Vec::new();
            scan(&block, |entry| {
                if entry.ino != 0 && base + entry.at as u64 >= cursor {
                    let Entry { at, ino, rec_len, name_len, kind } = *entry;
                    entries.push((at + rec_len, Entry { at, ino, rec_len, name_len, kind }));
                }
                None::<()>
            })
            .map_err(|_| self.corrupt(logical))?;
            for (next, entry) in entries {
                let next = base + next as u64;
                let kind = KINDS.get(usize::from(entry.kind)).copied().unwrap_or(0);
                let item = DirEntry { name: entry.name(&block), ino: entry.ino.into(), kind, next };
                if !out.emit(&item) {
                    return Ok(cursor);
                }
                cursor = next;
            }
            cursor = base + size as u64;
        }
        Ok(cursor)
    }
}
