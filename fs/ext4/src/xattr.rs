//! Extended attributes: reading those in the inode and in the attribute block.

use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::bytes::{put32, u16_at, u32_at};
use crate::csum::crc32c;
use crate::fs::Ext4;
use crate::node::Node;

const MAGIC: u32 = 0xea02_0000;
const PREFIXES: [&[u8]; 9] = [
    b"",
    b"user.",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"trusted.",
    b"",
    b"security.",
    b"system.",
    b"system.richacl",
];

/// Calls `each(full name, value)` for the attributes of one area; values are at offsets from
/// `values`.
fn walk(
    area: &[u8],
    mut at: usize,
    values: usize,
    each: &mut dyn FnMut(Vec<u8>, &[u8]) -> bool,
) -> Result<bool> {
    while at + 4 <= area.len() && u32_at(area, at) != 0 {
        let name_len = usize::from(area.get(at).copied().unwrap_or(0));
        let prefix = PREFIXES.get(usize::from(area.get(at + 1).copied().unwrap_or(0)));
        let name = area.get(at + 16..at + 16 + name_len).ok_or(Errno::EUCLEAN)?;
        let start = values + usize::from(u16_at(area, at + 2));
        let size = u32_at(area, at + 8) as usize;
        let in_inode = u32_at(area, at + 4) != 0;
        if let Some(prefix) = prefix
            && !in_inode
        {
            let end = start.checked_add(size).ok_or(Errno::EUCLEAN)?;
            let value = area.get(start..end).ok_or(Errno::EUCLEAN)?;
            if each([prefix, name].concat(), value) {
                return Ok(true);
            }
        }
        at += (16 + name_len).next_multiple_of(4);
    }
    Ok(false)
}

impl Node {
    /// Calls `each` for every attribute until it returns `true`.
    pub(crate) fn each_xattr(&self, each: &mut dyn FnMut(Vec<u8>, &[u8]) -> bool) -> Result<()> {
        let fs = &self.fs;
        let (block, at) = fs.alloc.inode_place(&fs.sb, self.ino)?;
        let size = fs.sb.inode_size;
        let raw = fs.metadata_block(block)?.read(|b| b.get(at..at + size).map(<[u8]>::to_vec));
        let raw = raw.ok_or(Errno::EUCLEAN)?;
        let body = 128 + usize::from(u16_at(&raw, 0x80));
        if size > 128 && u32_at(&raw, body) == MAGIC {
            let area = raw.get(body + 4..).unwrap_or(&[]);
            if walk(area, 0, 0, each)? {
                return Ok(());
            }
        }
        let acl = u64::from(u32_at(&raw, 0x68)) | u64::from(u16_at(&raw, 0x76)) << 32;
        if acl == 0 {
            return Ok(());
        }
        let area = fs.metadata_block(acl)?.copy();
        if u32_at(&area, 0) != MAGIC {
            return Err(Errno::EUCLEAN);
        }
        walk(&area, 32, 0, each).map(|_| ())
    }
}

/// A file with an attribute block is gone: the block loses a user.
pub(crate) fn release_block(fs: &Ext4, block: u64) -> Result<()> {
    let buffer = fs.metadata_block(block)?;
    let users = buffer.read(|bytes| u32_at(bytes, 4));
    if users > 1 {
        fs.buffers.modify(&buffer, |bytes| {
            put32(bytes, 4, users - 1);
            if fs.sb.has_csum() {
                put32(bytes, 16, 0);
                let sum = crc32c(crc32c(fs.sb.seed, &block.to_le_bytes()), bytes);
                put32(bytes, 16, sum);
            }
        });
        return Ok(());
    }
    fs.buffers.forget(block);
    fs.alloc.give_blocks(&fs.sb, &fs.buffers, block, 1)
}
