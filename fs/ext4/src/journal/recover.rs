//! Recovery of the journal at mount: what was committed before a crash is copied to its place, what
//! was not is forgotten.
//!
//! The ring is read three times: to find the last complete transaction, to collect what was revoked,
//! and to copy. Nothing is written before the log has been verified.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use abi::{Errno, Result};
use block::Device;

use super::area::{Area, corrupt};
use super::format::{MAGIC, Tag, is_after, kind};
use crate::buffer::Buffers;
use crate::bytes::{be32_at, put_be32};
use crate::layout::Super;

/// Blocks written to their places before the device is asked to take them.
const BATCH: usize = 2048;

/// What the walk through the log meets.
enum Record<'a> {
    Data { tags: &'a [Tag], first: u32 },
    Revoke(&'a [u8]),
}

impl Area {
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
                kind::DESCRIPTOR if self.format.tail_holds(&block) => {
                    let tags = self.format.tags(&block)?;
                    let Some(left) = budget.checked_sub(tags.len() as u32) else { break };
                    budget = left;
                    visit(sequence, &Record::Data { tags: &tags, first: at })?;
                    for _ in &tags {
                        at = self.next(at);
                    }
                }
                kind::REVOKE if self.format.tail_holds(&block) => {
                    visit(sequence, &Record::Revoke(&block))?;
                }
                kind::COMMIT if self.format.commit_holds(&block) => {
                    sequence = sequence.wrapping_add(1);
                }
                // What was being written at the crash.
                _ => break,
            }
        }
        Ok(sequence)
    }

    /// Copies everything complete to its place; returns the number of blocks and the number of the
    /// next transaction.
    fn replay(&self, sb: &Super, buffers: &Buffers) -> Result<(usize, u32)> {
        let stop = self.walk(None, &mut |_, _| Ok(()))?;
        let mut revoked: BTreeMap<u64, u32> = BTreeMap::new();
        self.walk(Some(stop), &mut |sequence, record| {
            match record {
                Record::Revoke(block) => {
                    for home in self.format.revoked(block) {
                        let last = revoked.entry(home).or_insert(sequence);
                        if is_after(sequence, *last) {
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
                        if self.format.has_csum()
                            && self.format.data_sum(sequence, &self.read(at)?) != tag.checksum
                        {
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
                if revoked.get(&tag.home).is_some_and(|&last| !is_after(sequence, last)) {
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

/// Recovers the file system on `device`, whose super block says that it must be, and says in the
/// journal and the super block that it was.
pub(crate) fn recover(device: &Arc<Device>, sb: &Super) -> Result<()> {
    let name = device.name();
    if device.is_read_only() {
        log::error!("ext4: {name}: the journal must be recovered, but the device is read-only");
        return Err(Errno::EROFS);
    }
    let buffers = Buffers::new(device.clone(), sb.block_size);
    let mut area = Area::open(device, sb, &buffers)?;
    let (mut copied, mut next) = (0, area.sequence);
    if area.start != 0 {
        (copied, next) = area.replay(sb, &buffers)?;
    }
    // With this the copies are durable before the log that could make them again is given up.
    area.store(0, next.wrapping_add(1))?;
    // The log may have replaced the super block: its copy in memory is used for its place only.
    let (block, at) = sb.place();
    let buffer = buffers.get(block)?;
    buffers.modify(&buffer, |bytes| {
        if let Some(raw) = bytes.get_mut(at..at + 1024) {
            crate::damage::keep(&sb.raw, raw);
            crate::layout::clear_recovery(raw);
        }
    });
    buffers.write_out()?;
    device.flush()?;
    log::info!("ext4: {name}: recovered the journal: {copied} blocks");
    Ok(())
}
