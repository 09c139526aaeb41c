//! The super block and group descriptors: fields, features, checksums.

use abi::{Errno, Result};
use block::Device;

use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::csum::{crc16, crc32c};
use crate::hash::Hasher;

pub(crate) const MAGIC: u16 = 0xef53;

pub(crate) mod compat {
    pub(crate) const HAS_JOURNAL: u32 = 0x4;
    pub(crate) const DIR_INDEX: u32 = 0x20;
}
pub(crate) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const META_BG: u32 = 0x10;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const BIT64: u32 = 0x80;
    pub(crate) const FLEX_BG: u32 = 0x200;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
    pub(crate) const LARGEDIR: u32 = 0x4000;
    pub(crate) const KNOWN: u32 =
        FILETYPE | META_BG | EXTENTS | BIT64 | FLEX_BG | CSUM_SEED | LARGEDIR;
}
pub(crate) mod ro_compat {
    pub(crate) const GDT_CSUM: u32 = 0x10;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
    pub(crate) const PROJECT: u32 = 0x2000;
    /// Nobody may change it.
    pub(crate) const READONLY: u32 = 0x1000;
    /// sparse_super, large_file, huge_file, gdt_csum, dir_nlink, extra_isize, metadata_csum, project.
    pub(crate) const KNOWN: u32 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400 | PROJECT;
}

/// The super block, as it is on the disk, with what is used often taken out.
pub(crate) struct Super {
    pub(crate) raw: [u8; 1024],
    pub(crate) block_size: usize,
    pub(crate) blocks: u64,
    pub(crate) reserved: u64,
    pub(crate) inodes: u32,
    pub(crate) first_data_block: u64,
    pub(crate) blocks_per_group: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inode_size: usize,
    pub(crate) first_ino: u32,
    pub(crate) desc_size: usize,
    pub(crate) compat: u32,
    pub(crate) incompat: u32,
    pub(crate) ro_compat: u32,
    pub(crate) groups: u32,
    pub(crate) seed: u32,
    /// Where it was found, in bytes.
    pub(crate) found_at: u64,
}

impl Super {
    /// Reads the one that begins after `kib` KiB of the device.
    pub(crate) fn read(device: &Device, kib: u32) -> Result<Super> {
        let at = u64::from(kib) << 10;
        if at + 1024 > device.size() {
            return Err(Errno::EINVAL);
        }
        let mut raw = [0; 1024];
        device.read_at(at, &mut raw)?;
        let mut sb = Super::parse(raw)?;
        sb.found_at = at;
        Ok(sb)
    }

    /// The options that `tune2fs -E mount_opts=` left.
    pub(crate) fn mount_options(&self) -> &[u8] {
        let text = &self.raw[0x200..0x240];
        text.split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// Checks everything later code relies on.
    pub(crate) fn parse(raw: [u8; 1024]) -> Result<Super> {
        let f32 = |at| u32_at(&raw, at);
        if u16_at(&raw, 0x38) != MAGIC {
            return Err(Errno::EINVAL);
        }
        let (compat, incompat, ro_compat) = (f32(0x5c), f32(0x60), f32(0x64));
        let high = |at| if incompat & incompat::BIT64 != 0 { u64::from(f32(at)) << 32 } else { 0 };
        let log = f32(0x18);
        let dynamic = f32(0x4c) >= 1;
        let (inode_size, first_ino) =
            if dynamic { (usize::from(u16_at(&raw, 0x58)), f32(0x54)) } else { (128, 11) };
        let desc_size = match incompat & incompat::BIT64 {
            0 => 32,
            _ => usize::from(u16_at(&raw, 0xfe)),
        };
        let sb = Super {
            block_size: 1024usize.checked_shl(log).unwrap_or(0),
            blocks: u64::from(f32(4)) | high(0x150),
            reserved: u64::from(f32(8)) | high(0x154),
            inodes: f32(0),
            first_data_block: u64::from(f32(0x14)),
            blocks_per_group: f32(0x20),
            inodes_per_group: f32(0x28),
            inode_size,
            first_ino,
            desc_size,
            compat,
            incompat,
            ro_compat,
            groups: 0,
            seed: if incompat & incompat::CSUM_SEED != 0 {
                f32(0x270)
            } else {
                crc32c(!0, &raw[0x68..0x78])
            },
            found_at: 1024,
            raw,
        };
        sb.validate()
    }

    fn validate(mut self) -> Result<Super> {
        let bits = self.block_size * 8;
        let sane = (1024..=4096).contains(&self.block_size)
            && (128..=self.block_size).contains(&self.inode_size)
            && self.inode_size.is_power_of_two()
            && (1..=bits).contains(&(self.blocks_per_group as usize))
            && (1..=bits).contains(&(self.inodes_per_group as usize))
            && (32..=self.block_size).contains(&self.desc_size)
            && self.desc_size.is_power_of_two()
            && self.blocks > self.first_data_block
            && self.first_data_block == u64::from(self.block_size == 1024);
        if !sane {
            log::error!("ext4: the super block makes no sense");
            return Err(Errno::EINVAL);
        }
        if self.has_csum() {
            let computed = crc32c(!0, &self.raw[..0x3fc]);
            let found = u32_at(&self.raw, 0x3fc);
            if computed != found {
                log::error!(
                    "ext4: super block checksum mismatch (found {found:x}, computed {computed:x})"
                );
                return Err(Errno::EBADMSG);
            }
        }
        let groups =
            (self.blocks - self.first_data_block).div_ceil(u64::from(self.blocks_per_group));
        self.groups = u32::try_from(groups).map_err(|_| Errno::EINVAL)?;
        if u64::from(self.groups) * u64::from(self.inodes_per_group) < u64::from(self.inodes) {
            return Err(Errno::EINVAL);
        }
        Ok(self)
    }

    /// The block with the super block, and the byte in it.
    pub(crate) fn place(&self) -> (u64, usize) {
        let size = self.block_size as u64;
        (self.found_at / size, (self.found_at % size) as usize)
    }

    pub(crate) fn has_csum(&self) -> bool {
        self.ro_compat & ro_compat::METADATA_CSUM != 0
    }

    pub(crate) fn descs_per_block(&self) -> usize {
        self.block_size / self.desc_size
    }

    pub(crate) fn desc_blocks(&self) -> u64 {
        u64::from(self.groups).div_ceil(self.descs_per_block() as u64)
    }

    /// Whether there is a journal.
    pub(crate) fn has_journal(&self) -> bool {
        self.compat & compat::HAS_JOURNAL != 0
    }

    /// Whether directories may be hashed.
    pub(crate) fn has_index(&self) -> bool {
        self.compat & compat::DIR_INDEX != 0
    }

    /// How many bytes of fields new inodes have beyond the first 128.
    pub(crate) fn extra_isize(&self) -> u16 {
        let room = (self.inode_size - 128) as u16;
        let wanted = u16_at(&self.raw, 0x15e).max(u16_at(&self.raw, 0x15c));
        wanted.max(32).next_multiple_of(4).min(room)
    }

    /// How a directory of hash version `number` hashes its names.
    pub(crate) fn hasher(&self, number: u8) -> Option<Hasher> {
        let seed = [0, 4, 8, 12].map(|at| u32_at(&self.raw, 0xec + at));
        Hasher::new(number, u32_at(&self.raw, 0x160) & 2 != 0, seed)
    }

    /// The hash version of new directories.
    pub(crate) fn default_hash(&self) -> u8 {
        self.raw[0xfc]
    }

    /// Whether the group holds a copy of the super block.
    pub(crate) fn has_super(&self, group: u32) -> bool {
        if self.compat & 0x200 != 0 {
            // sparse_super2: the first group and two chosen ones.
            return group == 0
                || group == u32_at(&self.raw, 0x24c)
                || group == u32_at(&self.raw, 0x250);
        }
        if self.ro_compat & 1 == 0 || group <= 1 {
            return true;
        }
        [3u32, 5, 7].iter().any(|&base| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        })
    }

    /// First block of a group.
    pub(crate) fn group_start(&self, group: u32) -> u64 {
        self.first_data_block + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// Blocks in a group; the last may be short.
    pub(crate) fn group_len(&self, group: u32) -> u32 {
        (self.blocks - self.group_start(group)).min(u64::from(self.blocks_per_group)) as u32
    }

    /// Where descriptor block number `index` lies.
    pub(crate) fn desc_block(&self, index: u64) -> u64 {
        if self.incompat & incompat::META_BG == 0 || index < u64::from(u32_at(&self.raw, 0x104)) {
            // Beside a copy of the super block there are copies of them.
            return self.place().0 + 1 + index;
        }
        let group = (index * self.descs_per_block() as u64) as u32;
        self.group_start(group) + u64::from(self.has_super(group))
    }

    /// Blocks at the start of a group taken by the super block copy and descriptors.
    pub(crate) fn overhead(&self, group: u32) -> u32 {
        let first_meta = u64::from(u32_at(&self.raw, 0x104));
        let per = self.descs_per_block() as u32;
        let has_super = self.has_super(group);
        let meta = self.incompat & incompat::META_BG != 0;
        if meta && u64::from(group / per) >= first_meta {
            let place = group % per;
            let has_desc = place == 0 || place == 1 || place == per - 1;
            return u32::from(has_super) + u32::from(has_desc);
        }
        if !has_super {
            return 0;
        }
        let descs = if meta { first_meta } else { self.desc_blocks() };
        1 + descs as u32 + u32::from(u16_at(&self.raw, 0xce))
    }
}

/// One group descriptor, decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) used_dirs: u32,
    pub(crate) flags: u16,
    pub(crate) unused_inodes: u32,
    pub(crate) block_csum: u32,
    pub(crate) inode_csum: u32,
}

pub(crate) const INODE_UNINIT: u16 = 1;
pub(crate) const BLOCK_UNINIT: u16 = 2;

impl Group {
    pub(crate) fn parse(b: &[u8]) -> Group {
        let wide = b.len() >= 64;
        let hi32 = |at| if wide { u64::from(u32_at(b, at)) << 32 } else { 0 };
        let hi16 = |at| if wide { u32::from(u16_at(b, at)) << 16 } else { 0 };
        Group {
            block_bitmap: u64::from(u32_at(b, 0)) | hi32(0x20),
            inode_bitmap: u64::from(u32_at(b, 4)) | hi32(0x24),
            inode_table: u64::from(u32_at(b, 8)) | hi32(0x28),
            free_blocks: u32::from(u16_at(b, 0xc)) | hi16(0x2c),
            free_inodes: u32::from(u16_at(b, 0xe)) | hi16(0x2e),
            used_dirs: u32::from(u16_at(b, 0x10)) | hi16(0x30),
            flags: u16_at(b, 0x12),
            unused_inodes: u32::from(u16_at(b, 0x1c)) | hi16(0x32),
            block_csum: u32::from(u16_at(b, 0x18)) | hi16(0x38),
            inode_csum: u32::from(u16_at(b, 0x1a)) | hi16(0x3a),
        }
    }

    /// Writes the changing fields and the checksum.
    pub(crate) fn store(&self, b: &mut [u8], sb: &Super, number: u32) {
        let wide = b.len() >= 64;
        let mut halves = |low, high, value: u32| {
            put16(b, low, value as u16);
            if wide {
                put16(b, high, (value >> 16) as u16);
            }
        };
        halves(0xc, 0x2c, self.free_blocks);
        halves(0xe, 0x2e, self.free_inodes);
        halves(0x10, 0x30, self.used_dirs);
        halves(0x1c, 0x32, self.unused_inodes);
        halves(0x18, 0x38, self.block_csum);
        halves(0x1a, 0x3a, self.inode_csum);
        put16(b, 0x12, self.flags);
        let sum = Self::checksum(b, sb, number);
        put16(b, 0x1e, sum);
    }

    pub(crate) fn checksum(b: &[u8], sb: &Super, number: u32) -> u16 {
        let head = b.get(..0x1e).unwrap_or(&[]);
        let tail = b.get(0x20..).unwrap_or(&[]);
        if sb.has_csum() {
            let crc = crc32c(crc32c(sb.seed, &number.to_le_bytes()), head);
            return crc32c(crc32c(crc, &[0, 0]), tail) as u16;
        }
        if sb.ro_compat & ro_compat::GDT_CSUM != 0 {
            let crc = crc16(crc16(!0, &sb.raw[0x68..0x78]), &number.to_le_bytes());
            return crc16(crc16(crc, head), tail);
        }
        0
    }
}

/// A feature that a super block may lack until a file first needs it: Linux adds these by itself.
pub(crate) enum LateFeature {
    /// There are blocks of extended attributes.
    ExtAttr,
    /// There are files of 2 GiB or more.
    LargeFile,
}

impl LateFeature {
    /// Where its flag is in the super block, and which one it is.
    fn flag(&self) -> (usize, u32) {
        match self {
            LateFeature::ExtAttr => (0x5c, 0x8),
            LateFeature::LargeFile => (0x64, 0x2),
        }
    }

    /// Whether a raw super block has it.
    pub(crate) fn is_in(&self, raw: &[u8]) -> bool {
        let (at, bit) = self.flag();
        u32_at(raw, at) & bit != 0
    }

    /// Adds it to a raw super block and signs that.
    pub(crate) fn add_to(&self, raw: &mut [u8]) {
        let (at, bit) = self.flag();
        put32(raw, at, u32_at(raw, at) | bit);
        sign_super(raw);
    }
}

/// Puts counters and state into the raw super block and signs it.
pub(crate) fn store_super(sb: &Super, raw: &mut [u8], free_blocks: u64, free_inodes: u32) {
    put32(raw, 0xc, free_blocks as u32);
    if sb.incompat & incompat::BIT64 != 0 {
        put32(raw, 0x158, (free_blocks >> 32) as u32);
    }
    put32(raw, 0x10, free_inodes);
    sign_super(raw);
}

/// Says in a raw super block that the journal needs recovery and signs it.
pub(crate) fn set_recovery(raw: &mut [u8]) {
    let incompat = u32_at(raw, 0x60) | incompat::RECOVER;
    put32(raw, 0x60, incompat);
    sign_super(raw);
}

/// Takes the flag that the journal needs recovery out of a raw super block and signs it.
pub(crate) fn clear_recovery(raw: &mut [u8]) {
    let incompat = u32_at(raw, 0x60) & !incompat::RECOVER;
    put32(raw, 0x60, incompat);
    sign_super(raw);
}

/// Puts the first of the files that wait to be deleted into a raw super block.
pub(crate) fn store_orphan(raw: &mut [u8], ino: u32) {
    put32(raw, 0xe8, ino);
    sign_super(raw);
}

pub(crate) fn sign_super(raw: &mut [u8]) {
    if u32_at(raw, 0x64) & ro_compat::METADATA_CSUM != 0 {
        let sum = crc32c(!0, raw.get(..0x3fc).unwrap_or(&[]));
        put32(raw, 0x3fc, sum);
    }
}
