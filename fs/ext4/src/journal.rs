//! Recovery of the journal (jbd2) at mount: what was committed before a crash is copied to its
//! place, what was not is forgotten.
//!
//! The log is a ring of blocks in the journal's inode. Each transaction is descriptor blocks with
//! the data blocks they name, revoke blocks, and a commit block; all carry the transaction's number.
//! Recovery reads the ring three times: to find the last complete transaction, to collect what was
//! revoked, and to copy. Nothing is written before the log has been verified.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use block::Device;

use crate::buffer::Buffers;
use crate::bytes::{be32_at, put_be32, u16_at, u32_at};
use crate::csum::crc32c;
use crate::extents::walk_tree;
use crate::layout::Super;

const MAGIC: u32 = 0xc03b_3998;

mod kind {
    pub(super) const DESCRIPTOR: u32 = 1;
    pub(super) const COMMIT: u32 = 2;
    pub(super) const SUPER_V1: u32 = 3;
    pub(super) const SUPER_V2: u32 = 4;
    pub(super) const REVOKE: u32 = 5;
}

mod feature {
    pub(super) const REVOKE: u32 = 1;
    pub(super) const BIT64: u32 = 2;
    pub(super) const CSUM_V2: u32 = 8;
    pub(super) const CSUM_V3: u32 = 16;
    pub(super) const KNOWN: u32 = REVOKE | BIT64 | CSUM_V2 | CSUM_V3;
}

mod tag {
    /// The block began with the magic number, which was replaced by zeros.
    pub(super) const ESCAPED: u32 = 1;
    /// No identifier of the file system follows.
    pub(super) const SAME_ID: u32 = 2;
    pub(super) const LAST: u32 = 8;
}

/// Blocks written to their places before the device is asked to take them.
const BATCH: usize = 2048;

/// The journal of a file system, for recovery.
struct Log<'a> {
    device: &'a Device,
    block_size: usize,
    /// Runs of adjacent blocks: first block of the journal, first of the device, length.
    runs: Vec<(u32, u64, u32)>,
    features: u32,
    seed: u32,
    /// The ring is `first..end`.
    first: u32,
    end: u32,
    start: u32,
    sequence: u32,
}

/// A data block that a descriptor names.
struct Tag {
    /// Where it belongs.
    home: u64,
    escaped: bool,
    checksum: u32,
}

fn corrupt(what: &str) -> Errno {
    log::error!("ext4: journal: {what}");
    Errno::EUCLEAN
}

impl Log<'_> {
    fn has_csum(&self) -> bool {
        self.features & (feature::CSUM_V2 | feature::CSUM_V3) != 0
    }

    fn home(&self, block: u32) -> Result<u64> {
        let at = self.runs.partition_point(|run| run.0 <= block);
        let run = at.checked_sub(1).and_then(|at| self.runs.get(at));
        match run {
            Some(&(logical, physical, len)) if block - logical < len => {
                Ok(physical + u64::from(block - logical))
            }
            _ => Err(corrupt("has holes")),
        }
    }

    fn read(&self, block: u32) -> Result<Vec<u8>> {
        let mut bytes = alloc::vec![0; self.block_size];
        self.device.read_at(self.home(block)? * self.block_size as u64, &mut bytes)?;
        Ok(bytes)
    }

    fn next(&self, block: u32) -> u32 {
        if block + 1 >= self.end { self.first } else { block + 1 }
    }

    /// Whether the checksum in the last four bytes of a descriptor or revoke block is right.
    fn tail_holds(&self, block: &[u8]) -> bool {
        let at = block.len() - 4;
        let body = crc32c(self.seed, block.get(..at).unwrap_or(&[]));
        !self.has_csum() || crc32c(body, &[0; 4]) == be32_at(block, at)
    }

    fn commit_holds(&self, block: &[u8]) -> bool {
        if !self.has_csum() {
            return true;
        }
        let head = crc32c(self.seed, block.get(..16).unwrap_or(&[]));
        let sum = crc32c(crc32c(head, &[0; 4]), block.get(20..).unwrap_or(&[]));
        sum == be32_at(block, 16)
    }

    fn data_holds(&self, sequence: u32, data: &[u8], tag: &Tag) -> bool {
        if !self.has_csum() {
            return true;
        }
        let sum = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), data);
        let mask = if self.features & feature::CSUM_V3 != 0 { !0 } else { 0xffff };
        sum & mask == tag.checksum & mask
    }

    /// The tags of a descriptor block.
    fn tags(&self, block: &[u8]) -> Result<Vec<Tag>> {
        let wide = self.features & feature::BIT64 != 0;
        let v3 = self.features & feature::CSUM_V3 != 0;
        let len = if v3 { 16 } else { 8 + if wide { 4 } else { 0 } };
        let end = block.len() - if self.has_csum() { 4 } else { 0 };
        let mut tags = Vec::new();
        let mut at = 12;
        loop {
            if at + len > end {
                // A descriptor without a last tag ends where the next would not fit.
                return Ok(tags);
            }
            let (flags, checksum, high) = if v3 {
                (be32_at(block, at + 4), be32_at(block, at + 12), be32_at(block, at + 8))
            } else {
                let word = be32_at(block, at + 4);
                (word & 0xffff, word >> 16, if wide { be32_at(block, at + 8) } else { 0 })
            };
            let high = if wide { u64::from(high) << 32 } else { 0 };
            let home = u64::from(be32_at(block, at)) | high;
            tags.push(Tag { home, escaped: flags & tag::ESCAPED != 0, checksum });
            at += len + if flags & tag::SAME_ID == 0 { 16 } else { 0 };
            if flags & tag::LAST != 0 {
                return Ok(tags);
            }
        }
    }

    /// Goes through the log up to (not including) transaction `stop`, or up to where it ends, and
    /// hands each descriptor (with the place of its first data block) and revoke block to `visit`.
    /// Returns the number of the first transaction that is not complete.
    fn walk(
        &self,
        stop: Option<u32>,
        visit: &mut dyn FnMut(u32, &Record<'_>) -> Result<()>,
    ) -> Result<u32> {
        let (mut at, mut sequence) = (self.start, self.sequence);
        let mut budget = self.end - self.first;
        while stop != Some(sequence) && budget > 0 {
            let block = self.read(at)?;
            if be32_at(&block, 0) != MAGIC || be32_at(&block, 8) != sequence {
                break;
            }
            at = self.next(at);
            budget -= 1;
            match be32_at(&block, 4) {
                kind::DESCRIPTOR if self.tail_holds(&block) => {
                    let tags = self.tags(&block)?;
                    let Some(left) = budget.checked_sub(tags.len() as u32) else { break };
                    budget = left;
                    visit(sequence, &Record::Data { tags: &tags, first: at })?;
                    for _ in &tags {
                        at = self.next(at);
                    }
                }
                kind::REVOKE if self.tail_holds(&block) => {
                    visit(sequence, &Record::Revoke(&block))?;
                }
                kind::COMMIT if self.commit_holds(&block) => {
                    sequence = sequence.wrapping_add(1);
                }
                // What was being written at the crash.
                _ => break,
            }
        }
        Ok(sequence)
    }

    /// The blocks a revoke block names.
    fn revoked<'b>(&self, block: &'b [u8]) -> impl Iterator<Item = u64> + use<'b> {
        let wide = self.features & feature::BIT64 != 0;
        let size = if wide { 8 } else { 4 };
        let used = (be32_at(block, 12) as usize).min(block.len());
        let entries = block.get(16..used).unwrap_or(&[]);
        entries.chunks_exact(size).map(move |entry| {
            let first = u64::from(be32_at(entry, 0));
            if wide { first << 32 | u64::from(be32_at(entry, 4)) } else { first }
        })
    }

    /// Copies everything complete to its place; returns the number of blocks and the number of the
    /// next transaction.
    fn replay(&self, sb: &Super, buffers: &Buffers) -> Result<(usize, u32)> {
        let after = |a: u32, b: u32| (a.wrapping_sub(b) as i32) > 0;
        let stop = self.walk(None, &mut |_, _| Ok(()))?;
        let mut revoked: BTreeMap<u64, u32> = BTreeMap::new();
        self.walk(Some(stop), &mut |sequence, record| {
            match record {
                Record::Revoke(block) => {
                    for home in self.revoked(block) {
                        let last = revoked.entry(home).or_insert(sequence);
                        if after(sequence, *last) {
                            *last = sequence;
                        }
                    }
                }
                Record::Data { tags, first } => {
                    let mut at = *first;
                    for tag in *tags {
                        if tag.home >= sb.blocks {
                            return Err(corrupt("names a block outside the file system"));
                        }
                        if self.has_csum() && !self.data_holds(sequence, &self.read(at)?, tag) {
                            log::error!("ext4: journal: checksum mismatch of block {}", tag.home);
                            return Err(Errno::EBADMSG);
                        }
                        at = self.next(at);
                    }
                }
            }
            Ok(())
        })?;
        let mut copied = 0;
        self.walk(Some(stop), &mut |sequence, record| {
            let Record::Data { tags, first } = record else { return Ok(()) };
            let mut at = *first;
            for tag in *tags {
                let place = at;
                at = self.next(at);
                if revoked.get(&tag.home).is_some_and(|&last| !after(sequence, last)) {
                    continue;
                }
                let mut data = self.read(place)?;
                if tag.escaped {
                    put_be32(&mut data, 0, MAGIC);
                }
                let buffer = buffers.fresh(tag.home);
                buffers.modify(&buffer, |bytes| bytes.copy_from_slice(&data));
                copied += 1;
                if copied % BATCH == 0 {
                    buffers.write_out()?;
                }
            }
            Ok(())
        })?;
        buffers.write_out()?;
        Ok((copied, stop))
    }
}

/// What the walk through the log meets.
enum Record<'a> {
    Data { tags: &'a [Tag], first: u32 },
    Revoke(&'a [u8]),
}

/// The `i_block` and size of the journal's inode: from the inode, or its copy in the super block.
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

/// Recovers the file system on `device`, whose super block says that it must be, and says in the
/// journal and the super block that it was.
pub(crate) fn recover(device: &Arc<Device>, sb: &Super) -> Result<()> {
    let name = device.name();
    if u32_at(&sb.raw, 0xe0) == 0 {
        log::error!("ext4: {name}: the journal is on another device, which is not supported");
        return Err(Errno::EINVAL);
    }
    if device.is_read_only() {
        log::error!("ext4: {name}: the journal must be recovered, but the device is read-only");
        return Err(Errno::EROFS);
    }
    let buffers = Buffers::new(device.clone(), sb.block_size);
    let (root, has_extents) = journal_inode(sb, &buffers)?;
    let mut runs = Vec::new();
    walk_tree(sb, &buffers, &root, has_extents, &mut |logical, physical, len| {
        runs.push((logical, physical, len));
    })?;
    runs.sort_unstable();
    let mut log = Log {
        device,
        block_size: sb.block_size,
        runs,
        features: 0,
        seed: 0,
        first: 0,
        end: 0,
        start: 0,
        sequence: 0,
    };
    let head = log.read(0)?;
    let version = be32_at(&head, 4);
    if be32_at(&head, 0) != MAGIC || !matches!(version, kind::SUPER_V1 | kind::SUPER_V2) {
        return Err(corrupt("has no super block"));
    }
    if version == kind::SUPER_V2 {
        log.features = be32_at(&head, 0x28);
        log.seed = crc32c(!0, head.get(0x30..0x40).unwrap_or(&[]));
    }
    if log.features & !feature::KNOWN != 0 {
        log::error!("ext4: {name}: journal has unsupported features ({:x})", log.features);
        return Err(Errno::EINVAL);
    }
    let sum = |head: &[u8]| {
        let start = crc32c(!0, head.get(..0xfc).unwrap_or(&[]));
        crc32c(crc32c(start, &[0; 4]), head.get(0x100..1024).unwrap_or(&[]))
    };
    if log.has_csum() && sum(&head) != be32_at(&head, 0xfc) {
        log::error!("ext4: {name}: journal super block checksum mismatch");
        return Err(Errno::EBADMSG);
    }
    log.end = be32_at(&head, 0x10);
    log.first = be32_at(&head, 0x14);
    log.sequence = be32_at(&head, 0x18);
    log.start = be32_at(&head, 0x1c);
    if be32_at(&head, 0xc) as usize != sb.block_size
        || log.first == 0
        || log.first >= log.end
        || log.start >= log.end
        || log.home(log.end - 1).is_err()
    {
        return Err(corrupt("its super block makes no sense"));
    }
    let (mut copied, mut next) = (0, log.sequence);
    if log.start != 0 {
        (copied, next) = log.replay(sb, &buffers)?;
        // The copies must be durable before the log that could make them again is given up.
        device.flush()?;
    }
    finish(&log, sb, &buffers, next.wrapping_add(1), &sum)?;
    log::info!("ext4: {name}: recovered the journal: {copied} blocks");
    Ok(())
}

/// Empties the log, and clears the flag that recovery is needed.
fn finish(
    log: &Log<'_>,
    sb: &Super,
    buffers: &Buffers,
    next: u32,
    sum: &dyn Fn(&[u8]) -> u32,
) -> Result<()> {
    let head = buffers.get(log.home(0)?)?;
    buffers.modify(&head, |bytes| {
        put_be32(bytes, 0x18, next);
        put_be32(bytes, 0x1c, 0);
        if log.has_csum() {
            let sum = sum(bytes);
            put_be32(bytes, 0xfc, sum);
        }
    });
    buffers.write_out()?;
    log.device.flush()?;
    // The log may have replaced the super block: its copy in memory is used for its place only.
    let (block, at) = sb.place();
    let buffer = buffers.get(block)?;
    buffers.modify(&buffer, |bytes| {
        if let Some(raw) = bytes.get_mut(at..at + 1024) {
            crate::layout::clear_recovery(raw);
        }
    });
    buffers.write_out()?;
    log.device.flush()
}
