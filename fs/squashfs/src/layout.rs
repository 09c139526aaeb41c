//! The super block (squashfs binary format, "The Superblock"), and numbers in bytes.

use crate::compress::Compressor;

/// Bytes of the super block.
pub(crate) const SUPER_LEN: usize = 96;
/// `hsqs`.
pub(crate) const MAGIC: u32 = 0x7371_7368;
/// Says that a table is not there.
const NONE: u64 = u64::MAX;
const EXPORTABLE: u16 = 0x80;
const NO_XATTRS: u16 = 0x200;

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([u8_at(bytes, at), u8_at(bytes, at.saturating_add(1))])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at.saturating_add(2))) << 16
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at.saturating_add(4))) << 32
}

/// What the super block says. Places are in bytes of the device.
#[derive(Clone, Debug)]
pub(crate) struct Super {
    pub(crate) inodes: u32,
    pub(crate) block_size: u32,
    pub(crate) fragments: u32,
    pub(crate) compressor: Compressor,
    pub(crate) ids: u16,
    pub(crate) root: u64,
    pub(crate) bytes_used: u64,
    pub(crate) id_table: u64,
    pub(crate) xattr_table: Option<u64>,
    pub(crate) inode_table: u64,
    pub(crate) dir_table: u64,
    pub(crate) fragment_table: u64,
    pub(crate) export_table: Option<u64>,
}

/// Why a super block is none.
type Refusal = &'static str;

impl Super {
    /// Reads a super block, of a device of `len` bytes.
    pub(crate) fn parse(bytes: &[u8], len: u64) -> Result<Super, Refusal> {
        if u32_at(bytes, 0) != MAGIC {
            return Err("Can't find a SQUASHFS superblock");
        }
        if (u16_at(bytes, 28), u16_at(bytes, 30)) != (4, 0) {
            return Err("Major/Minor mismatch, only 4.0 is supported");
        }
        let compressor = Compressor::numbered(u16_at(bytes, 20)).ok_or("unknown compression")?;
        let block_size = u32_at(bytes, 12);
        let is_sound = block_size.is_power_of_two() && (4096..=1 << 20).contains(&block_size);
        if !is_sound || u32::from(u16_at(bytes, 22)) != block_size.trailing_zeros() {
            return Err("bad block size");
        }
        let flags = u16_at(bytes, 24);
        let table = |at: usize| Some(u64_at(bytes, at)).filter(|place| *place != NONE);
        let super_block = Super {
            inodes: u32_at(bytes, 4),
            block_size,
            fragments: u32_at(bytes, 16),
            compressor,
            ids: u16_at(bytes, 26),
            root: u64_at(bytes, 32),
            bytes_used: u64_at(bytes, 40),
            id_table: u64_at(bytes, 48),
            xattr_table: table(56).filter(|_| flags & NO_XATTRS == 0),
            inode_table: u64_at(bytes, 64),
            dir_table: u64_at(bytes, 72),
            fragment_table: u64_at(bytes, 80),
            export_table: table(88).filter(|_| flags & EXPORTABLE != 0),
        };
        if super_block.bytes_used > len || super_block.bytes_used < SUPER_LEN as u64 {
            return Err("the file system is longer than the device");
        }
        let is_ordered = super_block.inode_table < super_block.dir_table
            && super_block.dir_table <= super_block.id_table
            && super_block.id_table < super_block.bytes_used;
        if !is_ordered || super_block.ids == 0 {
            return Err("tables are not in their order");
        }
        Ok(super_block)
    }
}
