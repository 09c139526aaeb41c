//! Extended attributes: in the space behind the inode's fields, and in a block of their own.
//!
//! A value goes into the inode if it fits there, else into the block. A block may be shared by
//! several inodes (Linux does that with equal sets); whoever changes it takes a copy.

use alloc::vec::Vec;

use abi::fcntl::{XATTR_CREATE, XATTR_REPLACE};
use abi::{Errno, Result};

use crate::acl;
use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::csum::crc32c;
use crate::fs::Ext4;
use crate::layout::LateFeature;
use crate::node::{Node, State, sign};
use crate::options::Flags;

const MAGIC: u32 = 0xea02_0000;
/// Bytes before the entries of a block.
const HEADER: usize = 32;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
const USER: u8 = 1;
/// Name spaces by index; an ACL's name is its space's.
const PREFIXES: [(u8, &[u8]); 6] = [
    (ACL_ACCESS, b"system.posix_acl_access"),
    (ACL_DEFAULT, b"system.posix_acl_default"),
    (USER, b"user."),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
];

/// One attribute: index of the name space, rest of the name, value.
struct Attr {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// An attribute as it lies in an area.
struct Raw<'a> {
    index: u8,
    name: &'a [u8],
    value: &'a [u8],
}

impl Attr {
    fn entry_len(&self) -> usize {
        (ENTRY + self.name.len()).next_multiple_of(4)
    }

    fn len(&self) -> usize {
        self.entry_len() + self.value.len().next_multiple_of(4)
    }
}

/// The index and the rest of a full name.
fn split(name: &[u8]) -> Result<(u8, &[u8])> {
    for (index, prefix) in PREFIXES {
        let is_acl = matches!(index, ACL_ACCESS | ACL_DEFAULT);
        match name.strip_prefix(prefix) {
            Some(rest) if is_acl && !rest.is_empty() => {}
            // Programs do not make attributes of the file system's own name space.
            Some(_) if index == 7 => return Err(Errno::EOPNOTSUPP),
            Some([]) if !is_acl => return Err(Errno::EINVAL),
            Some(rest) => return Ok((index, rest)),
            None => {}
        }
    }
    Err(Errno::EOPNOTSUPP)
}

fn prefix(index: u8) -> Option<&'static [u8]> {
    PREFIXES.iter().find(|(known, _)| *known == index).map(|(_, prefix)| *prefix)
}

/// Calls `each` for the attributes whose entries begin at `at` until it returns something; values
/// lie at offsets from the area's start.
fn walk<R>(
    area: &[u8],
    mut at: usize,
    mut each: impl FnMut(Raw<'_>) -> Result<Option<R>>,
) -> Result<Option<R>> {
    while at + 4 <= area.len() && u32_at(area, at) != 0 {
        let name_len = usize::from(area.get(at).copied().unwrap_or(0));
        let index = area.get(at + 1).copied().unwrap_or(0);
        let name = area.get(at + ENTRY..at + ENTRY + name_len).ok_or(Errno::EUCLEAN)?;
        let start = usize::from(u16_at(area, at + 2));
        let end = start.checked_add(u32_at(area, at + 8) as usize).ok_or(Errno::EUCLEAN)?;
        // A value in an inode of its own needs a feature that is not mounted.
        let value = match u32_at(area, at + 4) {
            0 if start == end => &[],
            0 => area.get(start..end).ok_or(Errno::EUCLEAN)?,
            _ => return Err(Errno::EUCLEAN),
        };
        if let Some(found) = each(Raw { index, name, value })? {
            return Ok(Some(found));
        }
        at += (ENTRY + name_len).next_multiple_of(4);
    }
    Ok(None)
}

fn collect(area: &[u8], at: usize) -> Result<Vec<Attr>> {
    let mut all = Vec::new();
    walk(area, at, |raw| {
        all.push(Attr { index: raw.index, name: raw.name.to_vec(), value: raw.value.to_vec() });
        Ok(None::<()>)
    })?;
    Ok(all)
}

/// The hash of an entry of a block.
fn entry_hash(attr: &Attr) -> u32 {
    let name = attr.name.iter().fold(0u32, |hash, &c| hash.rotate_left(5) ^ u32::from(c));
    attr.value.chunks(4).fold(name, |hash, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// Lays the attributes out in an area: entries from `at`, values from the end.
fn lay_out(area: &mut [u8], at: usize, attrs: &[Attr], hashed: bool) {
    if let Some(rest) = area.get_mut(at..) {
        rest.fill(0);
    }
    let (mut at, mut end) = (at, area.len());
    for attr in attrs {
        let len = attr.value.len();
        end -= len.next_multiple_of(4);
        let header = [attr.name.len() as u8, attr.index];
        area[at..at + 2].copy_from_slice(&header);
        put16(area, at + 2, if len == 0 { 0 } else { end as u16 });
        put32(area, at + 8, len as u32);
        put32(area, at + 12, if hashed { entry_hash(attr) } else { 0 });
        area[at + ENTRY..at + ENTRY + attr.name.len()].copy_from_slice(&attr.name);
        area[end..end + len].copy_from_slice(&attr.value);
        at += attr.entry_len();
    }
}

/// Whether the attributes and the word that ends their entries fit.
fn fits(attrs: &[Attr], room: usize) -> bool {
    attrs.iter().map(Attr::len).sum::<usize>() + 4 <= room
}

fn seal_block(fs: &Ext4, block: u64, bytes: &mut [u8]) {
    if fs.sb.has_csum() {
        put32(bytes, 16, 0);
        let sum = crc32c(crc32c(fs.sb.seed, &block.to_le_bytes()), bytes);
        put32(bytes, 16, sum);
    }
}

/// Where attributes begin in a raw inode: behind the fields it says it has.
fn body_at(raw: &[u8]) -> Option<usize> {
    let extra = usize::from(u16_at(raw, 0x80));
    (raw.len() > 128 && extra != 0 && 128 + extra + 8 <= raw.len()).then_some(128 + extra)
}

impl Node {
    /// Looks at the raw inode.
    fn with_raw<R>(&self, look: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
        let fs = &self.fs;
        let (block, at) = fs.alloc.inode_place(&fs.sb, self.ino)?;
        fs.metadata_block(block)?
            .read(|b| look(b.get(at..at + fs.sb.inode_size).ok_or(Errno::EUCLEAN)?))
    }

    /// Calls `each` for every attribute until it returns something.
    fn walk_xattrs<R>(
        &self,
        mut each: impl FnMut(Raw<'_>) -> Result<Option<R>>,
    ) -> Result<Option<R>> {
        // Held so that a value is not missed while it moves between inode and block.
        let state = self.state.lock();
        let found = self.with_raw(|raw| match body_at(raw) {
            Some(at) if u32_at(raw, at) == MAGIC => {
                walk(raw.get(at + 4..).unwrap_or(&[]), 0, &mut each)
            }
            _ => Ok(None),
        })?;
        if found.is_some() || state.acl_block == 0 {
            return Ok(found);
        }
        self.xattr_block(state.acl_block)?.read(|area| walk(area, HEADER, &mut each))
    }

    fn xattr_block(&self, block: u64) -> Result<alloc::sync::Arc<crate::buffer::Buffer>> {
        let buffer = self.fs.metadata_block(block)?;
        let is_one = buffer.read(|area| u32_at(area, 0) == MAGIC && u32_at(area, 8) == 1);
        if !is_one {
            log::error!("ext4: inode {}: corrupt attribute block {block}", self.ino);
            return Err(Errno::EUCLEAN);
        }
        Ok(buffer)
    }

    /// Whether the mount options allow attributes of this name space.
    fn check_allowed(&self, index: u8) -> Result<()> {
        let wanted = match index {
            ACL_ACCESS | ACL_DEFAULT => Flags::ACL,
            USER => Flags::USER_XATTR,
            _ => return Ok(()),
        };
        if self.fs.has(wanted) { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    /// Reads an attribute.
    pub(crate) fn read_xattr(&self, name: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (index, rest) = split(name)?;
        self.check_allowed(index)?;
        let found = self.walk_xattrs(|raw| {
            if raw.index != index || raw.name != rest {
                return Ok(None);
            }
            if matches!(index, ACL_ACCESS | ACL_DEFAULT) {
                out.extend_from_slice(&acl::from_disk(raw.value)?);
            } else {
                out.extend_from_slice(raw.value);
            }
            Ok(Some(()))
        })?;
        found.ok_or(Errno::ENODATA)
    }

    /// Appends the names of all attributes, each with a NUL.
    pub(crate) fn xattr_names(&self, out: &mut Vec<u8>) -> Result<()> {
        self.walk_xattrs(|raw| {
            if let Some(prefix) = prefix(raw.index)
                && self.check_allowed(raw.index).is_ok()
            {
                out.extend_from_slice(prefix);
                out.extend_from_slice(raw.name);
                out.push(0);
            }
            Ok(None::<()>)
        })
        .map(|_| ())
    }

    /// Which ACLs a raw inode has, as far as that shows without its attribute block.
    pub(crate) fn acls_in_body(raw: &[u8]) -> (bool, bool) {
        let (mut access, mut default) = (false, false);
        if let Some(at) = body_at(raw)
            && u32_at(raw, at) == MAGIC
        {
            let area = raw.get(at + 4..).unwrap_or(&[]);
            // A corrupt area is reported when it is used.
            let _ = walk(area, 0, |raw| {
                access |= raw.index == ACL_ACCESS;
                default |= raw.index == ACL_DEFAULT;
                Ok(None::<()>)
            });
        }
        (access, default)
    }

    /// Sets (`Some`) or removes an attribute; `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
    pub(crate) fn write_xattr(&self, name: &[u8], value: Option<&[u8]>, flags: u32) -> Result<()> {
        let (index, rest) = split(name)?;
        self.check_allowed(index)?;
        let fs = &self.fs;
        let value = match value {
            Some(value) if matches!(index, ACL_ACCESS | ACL_DEFAULT) => Some(acl::to_disk(value)?),
            other => other.map(<[u8]>::to_vec),
        };
        let mut state = self.state.lock();
        let (mut body, room) = self.with_raw(|raw| {
            let Some(at) = body_at(raw) else { return Ok((Vec::new(), 0)) };
            let area = raw.get(at + 4..).unwrap_or(&[]);
            let attrs = if u32_at(raw, at) == MAGIC { collect(area, 0)? } else { Vec::new() };
            Ok((attrs, area.len()))
        })?;
        let mut outer = match state.acl_block {
            0 => Vec::new(),
            block => self.xattr_block(block)?.read(|area| collect(area, HEADER))?,
        };
        let is_it = |attr: &Attr| attr.index == index && attr.name == rest;
        let was_in_body = body.iter().any(is_it);
        let was_in_block = outer.iter().any(is_it);
        match (was_in_body || was_in_block, &value) {
            (true, Some(_)) if flags & XATTR_CREATE != 0 => return Err(Errno::EEXIST),
            (false, Some(_)) if flags & XATTR_REPLACE != 0 => return Err(Errno::ENODATA),
            (false, None) => return Err(Errno::ENODATA),
            _ => {}
        }
        body.retain(|attr| !is_it(attr));
        outer.retain(|attr| !is_it(attr));
        let mut to_block = false;
        if let Some(value) = value {
            let attr = Attr { index, name: rest.to_vec(), value };
            body.push(attr);
            if !fits(&body, room) {
                outer.extend(body.pop());
                to_block = true;
                if !fits(&outer, fs.sb.block_size - HEADER) {
                    return Err(Errno::ENOSPC);
                }
            }
        }
        // Values of a damaged image may overlap: apart they do not fit any more.
        let block_room = fs.sb.block_size - HEADER;
        if !outer.is_empty() && !fits(&outer, block_room) || !body.is_empty() && !fits(&body, room)
        {
            return Err(Errno::EUCLEAN);
        }
        if was_in_block || to_block {
            self.store_block(&mut state, outer)?;
        }
        if was_in_body || !to_block {
            self.store_body(&body)?;
        }
        if let Some(inode) = self.me.upgrade() {
            self.count_blocks(&state);
            inode.bump_version();
        }
        drop(state);
        self.changed();
        Ok(())
    }

    fn store_body(&self, attrs: &[Attr]) -> Result<()> {
        let fs = &self.fs;
        let (block, at) = fs.alloc.inode_place(&fs.sb, self.ino)?;
        let buffer = fs.metadata_block(block)?;
        fs.buffers.modify(&buffer, |bytes| {
            let Some(raw) = bytes.get_mut(at..at + fs.sb.inode_size) else { return };
            let Some(body) = body_at(raw) else { return };
            put32(raw, body, if attrs.is_empty() { 0 } else { MAGIC });
            if let Some(area) = raw.get_mut(body + 4..) {
                lay_out(area, 0, attrs, false);
            }
            sign(fs, raw, self.seed);
        });
        Ok(())
    }

    fn store_block(&self, state: &mut State, mut attrs: Vec<Attr>) -> Result<()> {
        let fs = &self.fs;
        let old = state.acl_block;
        if attrs.is_empty() {
            state.acl_block = 0;
            return if old == 0 { Ok(()) } else { release_block(fs, old) };
        }
        let shared = old != 0 && self.xattr_block(old)?.read(|area| u32_at(area, 4)) > 1;
        let (block, buffer) = if old == 0 || shared {
            let group = (self.ino - 1) / fs.sb.inodes_per_group;
            if fs.alloc.available() == 0 {
                return Err(Errno::ENOSPC);
            }
            let goal = fs.sb.group_start(group);
            fs.need(&LateFeature::ExtAttr)?;
            let (block, _) = fs.alloc.take_blocks(&fs.sb, &fs.buffers, goal, 1)?;
            (block, fs.buffers.fresh(block))
        } else {
            (old, fs.metadata_block(old)?)
        };
        // Linux searches blocks in this order.
        attrs.sort_by(|a, b| {
            (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name))
        });
        let hash = attrs.iter().map(entry_hash).try_fold(0u32, |hash, entry| match entry {
            0 => None,
            entry => Some(hash.rotate_left(16) ^ entry),
        });
        fs.buffers.modify(&buffer, |bytes| {
            bytes.fill(0);
            put32(bytes, 0, MAGIC);
            put32(bytes, 4, 1);
            put32(bytes, 8, 1);
            put32(bytes, 12, hash.unwrap_or(0));
            lay_out(bytes, HEADER, &attrs, true);
            seal_block(fs, block, bytes);
        });
        state.acl_block = block;
        if shared {
            release_block(fs, old)?;
        }
        Ok(())
    }
}

/// A file with an attribute block is gone, or took a copy: the block loses a user.
pub(crate) fn release_block(fs: &Ext4, block: u64) -> Result<()> {
    let buffer = fs.metadata_block(block)?;
    let users = buffer.read(|bytes| u32_at(bytes, 4));
    if users > 1 {
        fs.buffers.modify(&buffer, |bytes| {
            put32(bytes, 4, users - 1);
            seal_block(fs, block, bytes);
        });
        return Ok(());
    }
    fs.buffers.forget(block);
    fs.alloc.give_blocks(&fs.sb, &fs.buffers, block, 1)
}
