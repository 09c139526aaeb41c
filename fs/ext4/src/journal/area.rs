//! Where the journal is: the blocks of its inode, which are a ring behind a super block.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use block::{BioFlags, Device};

use super::format::{Format, MAGIC, feature, kind, super_sum};
use crate::buffer::Buffers;
use crate::bytes::{be32_at, put_be32, u16_at, u32_at};
use crate::csum::crc32c;
use crate::extents::walk_tree;
use crate::io::write_block;
use crate::layout::Super;

/// Fields of the super block.
mod field {
    pub(super) const KIND: usize = 4;
    pub(super) const BLOCK_SIZE: usize = 0xc;
    pub(super) const LEN: usize = 0x10;
    pub(super) const FIRST: usize = 0x14;
    pub(super) const SEQUENCE: usize = 0x18;
    pub(super) const START: usize = 0x1c;
    pub(super) const ERROR: usize = 0x20;
    pub(super) const COMPAT: usize = 0x24;
    pub(super) const INCOMPAT: usize = 0x28;
    pub(super) const UUID: usize = 0x30;
    pub(super) const USERS: usize = 0x40;
    pub(super) const CSUM_KIND: usize = 0x50;
    pub(super) const CSUM: usize = 0xfc;
}

/// The number of CRC-32C among the kinds of checksums.
const CRC32C: u8 = 4;

/// The journal of a file system.
pub(super) struct Area {
    pub(super) device: Arc<Device>,
    pub(super) format: Format,
    /// Runs of adjacent blocks: first block of the journal, first of the device, length.
    runs: Vec<(u32, u64, u32)>,
    /// The ring is `first..end`.
    pub(super) first: u32,
    pub(super) end: u32,
    /// The oldest transaction that is not in its place: where it begins (0: there is none), and its
    /// number.
    pub(super) start: u32,
    pub(super) sequence: u32,
    /// The block with the super block.
    head: Vec<u8>,
    /// Order is kept by flushing the drive's cache.
    pub(super) barriers: bool,
}

pub(super) fn corrupt(what: &str) -> Errno {
    log::error!("ext4: journal: {what}");
    Errno::EUCLEAN
}

/// The `i_block` of the journal's inode, and whether it is an extent tree.
fn journal_inode(sb: &Super, buffers: &Buffers) -> Result<([u8; 60], bool)> {
    let ino = u32_at(&sb.raw, 0xe0);
    let index = ino.checked_sub(1).filter(|_| ino <= sb.inodes).ok_or(Errno::EUCLEAN)?;
    let group = index / sb.inodes_per_group;
    let per = sb.descs_per_block() as u32;
    let descs = buffers.get(sb.desc_block(u64::from(group / per)))?;
    let at = (group % per) as usize * sb.desc_size;
    let table = descs.read(|block| {
        crate::layout::Group::parse(block.get(at..at + sb.desc_size).unwrap_or(&[])).inode_table
    });
    let at = (index % sb.inodes_per_group) as usize * sb.inode_size;
    let block = table + (at / sb.block_size) as u64;
    if table == 0 || block >= sb.blocks {
        return Err(Errno::EUCLEAN);
    }
    let at = at % sb.block_size;
    buffers.get(block)?.read(|bytes| {
        let raw = bytes.get(at..at + 128).ok_or(Errno::EUCLEAN)?;
        let mut root = [0; 60];
        root.copy_from_slice(&raw[0x28..0x64]);
        let in_use = u16_at(raw, 0) & 0xf000 == 0x8000 && u16_at(raw, 0x1a) != 0;
        if !in_use {
            return Err(corrupt("its inode is not a file"));
        }
        Ok((root, u32_at(raw, 0x20) & crate::node::flags::EXTENTS != 0))
    })
}

impl Area {
    /// Finds the journal and checks its super block.
    pub(super) fn open(device: &Arc<Device>, sb: &Super, buffers: &Buffers) -> Result<Area> {
        let name = device.name();
        if u32_at(&sb.raw, 0xe0) == 0 {
            log::error!("ext4: {name}: the journal is on another device, which is not supported");
            return Err(Errno::EINVAL);
        }
        let (root, has_extents) = journal_inode(sb, buffers)?;
        let mut runs = Vec::new();
        walk_tree(sb, buffers, &root, has_extents, &mut |logical, physical, len| {
            runs.push((logical, physical, len));
        })?;
        runs.sort_unstable();
        let format = Format { block_size: sb.block_size, features: 0, seed: 0, uuid: [0; 16] };
        let mut area = Area {
            device: device.clone(),
            format,
            runs,
            first: 0,
            end: 0,
            start: 0,
            sequence: 0,
            head: Vec::new(),
            barriers: true,
        };
        area.head = area.read(0)?;
        area.check(sb)?;
        Ok(area)
    }

    fn check(&mut self, sb: &Super) -> Result<()> {
        let name = self.device.name();
        let head = &self.head;
        let version = be32_at(head, field::KIND);
        if be32_at(head, 0) != MAGIC || !matches!(version, kind::SUPER_V1 | kind::SUPER_V2) {
            return Err(corrupt("has no super block"));
        }
        if version == kind::SUPER_V2 {
            self.format.features = be32_at(head, field::INCOMPAT);
            self.format.uuid.copy_from_slice(&head[field::UUID..field::UUID + 16]);
            self.format.seed = crc32c(!0, &self.format.uuid);
        }
        let features = self.format.features;
        if features & !feature::KNOWN != 0 {
            log::error!("ext4: {name}: journal has unsupported features ({features:x})");
            return Err(Errno::EINVAL);
        }
        if self.format.has_csum() && super_sum(head) != be32_at(head, field::CSUM) {
            log::error!("ext4: {name}: journal super block checksum mismatch");
            return Err(Errno::EBADMSG);
        }
        self.end = be32_at(head, field::LEN);
        self.first = be32_at(head, field::FIRST);
        self.sequence = be32_at(head, field::SEQUENCE);
        self.start = be32_at(head, field::START);
        if be32_at(head, field::BLOCK_SIZE) as usize != sb.block_size
            || self.first == 0
            || self.first >= self.end
            || self.start >= self.end
            || self.home(self.end - 1).is_err()
        {
            return Err(corrupt("its super block makes no sense"));
        }
        Ok(())
    }

    /// The device's block that is block `block` of the journal.
    pub(super) fn home(&self, block: u32) -> Result<u64> {
        let at = self.runs.partition_point(|run| run.0 <= block);
        let run = at.checked_sub(1).and_then(|at| self.runs.get(at));
        match run {
            Some(&(logical, physical, len)) if block - logical < len => {
                Ok(physical + u64::from(block - logical))
            }
            _ => Err(corrupt("has holes")),
        }
    }

    pub(super) fn read(&self, block: u32) -> Result<Vec<u8>> {
        let size = self.format.block_size;
        let mut bytes = alloc::vec![0; size];
        self.device.read_at(self.home(block)? * size as u64, &mut bytes)?;
        Ok(bytes)
    }

    /// How a block is written that comes after all before it and counts at once.
    pub(super) fn durably(&self) -> BioFlags {
        let flags = BioFlags::META | BioFlags::SYNC;
        if self.barriers { flags | BioFlags::PREFLUSH | BioFlags::FUA } else { flags }
    }

    /// Whether power may fail in the middle of a block, and somebody would see.
    pub(super) fn may_tear(&self) -> bool {
        let whole = self.device.limits().physical_block_size as usize;
        self.format.has_csum() && whole < self.format.block_size
    }

    /// The block of the ring behind `block`.
    pub(super) fn next(&self, block: u32) -> u32 {
        if block + 1 >= self.end { self.first } else { block + 1 }
    }

    /// Blocks in the ring.
    pub(super) fn len(&self) -> u32 {
        self.end - self.first
    }

    /// Gives an empty journal the features that a file system like `sb` has on Linux: of the second
    /// version, with revoke blocks, numbers as wide as the file system's, and checksums if that has
    /// them, or if `checksums` says so. Takes effect with [`Area::store`].
    pub(super) fn upgrade(&mut self, sb: &Super, checksums: Option<bool>) {
        let head = &mut self.head;
        if be32_at(head, field::KIND) == kind::SUPER_V1 {
            if let Some(rest) = head.get_mut(field::COMPAT..) {
                rest.fill(0);
            }
            put_be32(head, field::KIND, kind::SUPER_V2);
            put_be32(head, field::USERS, 1);
            head[field::UUID..field::UUID + 16].copy_from_slice(&sb.raw[0x68..0x78]);
        }
        let compat = be32_at(head, field::COMPAT) & !feature::COMPAT_CHECKSUM;
        put_be32(head, field::COMPAT, compat);
        let mut features = be32_at(head, field::INCOMPAT) | feature::REVOKE;
        if sb.incompat & crate::layout::incompat::BIT64 != 0 {
            features |= feature::BIT64;
        }
        if checksums == Some(false) && !sb.has_csum() {
            features &= !(feature::CSUM_V2 | feature::CSUM_V3);
        }
        if (sb.has_csum() || checksums == Some(true)) && features & feature::CSUM_V2 == 0 {
            features |= feature::CSUM_V3;
        }
        put_be32(head, field::INCOMPAT, features);
        put_be32(head, field::ERROR, 0);
        self.format.features = features;
        self.format.uuid.copy_from_slice(&head[field::UUID..field::UUID + 16]);
        self.format.seed = crc32c(!0, &self.format.uuid);
        if self.format.has_csum() {
            head[field::CSUM_KIND] = CRC32C;
        }
    }

    /// Says in the super block where the log begins now (`start` 0: it is empty). All writes that
    /// ended before are durable when it says so, and it is itself when this returns.
    pub(super) fn store(&mut self, start: u32, sequence: u32) -> Result<()> {
        put_be32(&mut self.head, field::START, start);
        put_be32(&mut self.head, field::SEQUENCE, sequence);
        if self.format.has_csum() {
            let sum = super_sum(&self.head);
            put_be32(&mut self.head, field::CSUM, sum);
        }
        let home = self.home(0)?;
        write_block(&self.device, home, &self.head, self.durably())?;
        // It was read through the cache of the bare device.
        let index = home * self.format.block_size as u64 / 4096;
        self.device.mapping().drop_clean(index, index);
        (self.start, self.sequence) = (start, sequence);
        Ok(())
    }
}
