//! The log while the file system is mounted: transactions are written behind one another, and go to
//! their places when there is time, or no room for more.
//!
//! A block stays pinned in memory, as the last transaction that has it left it, until that is in its
//! place. The log's beginning moves on after the device has been flushed, and is durable itself
//! before anything is written over what it left.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use block::{BioFlags, Device};
use vfs::Time;

use super::Manner;
use super::area::Area;
use super::format::{MAGIC, Tag, is_after};
use crate::buffer::{Buffer, Buffers};
use crate::bytes::{be32_at, put_be32};
use crate::io::{Writes, write_block};
use crate::layout::Super;

/// Blocks pinned at most between two transactions: they are memory that cannot be freed.
const MOST_PINNED: usize = 8192;

/// A block as a transaction left it.
pub(crate) struct Frozen {
    pub(crate) block: u64,
    /// Kept: one that is dropped and read again before it is in its place would come back as it was.
    pub(crate) _buffer: Arc<Buffer>,
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// What a commit writes.
pub(crate) struct Transaction {
    pub(crate) blocks: Vec<Frozen>,
    /// Blocks that were given up: older copies are not to be copied over what is there next.
    pub(crate) revoked: Vec<u64>,
}

impl Transaction {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.revoked.is_empty()
    }
}

/// A transaction that is in the log.
struct Live {
    sequence: u32,
    first: u32,
    len: u32,
}

/// A block that is in the log and not in its place.
struct Pinned {
    /// The last transaction that has it.
    sequence: u32,
    frozen: Frozen,
}

/// The log.
pub(crate) struct Ring {
    area: Area,
    /// Where the next transaction begins.
    head: u32,
    used: u32,
    /// The number of the next transaction.
    sequence: u32,
    live: VecDeque<Live>,
    pinned: BTreeMap<u64, Pinned>,
}

impl Ring {
    /// The log of the file system on `device`; it is empty.
    pub(super) fn open(device: &Arc<Device>, sb: &Super) -> Result<Ring> {
        let buffers = Buffers::new(device.clone(), sb.block_size);
        let area = Area::open(device, sb, &buffers)?;
        if area.start != 0 {
            log::error!("ext4: {}: the journal has data nobody asked for", device.name());
            return Err(Errno::EUCLEAN);
        }
        let (head, sequence) = (area.first, area.sequence);
        let (live, pinned) = (VecDeque::new(), BTreeMap::new());
        Ok(Ring { area, head, used: 0, sequence, live, pinned })
    }

    /// Blocks that transactions can have together; one is left free.
    pub(super) fn capacity(&self) -> u32 {
        self.area.len() - 1
    }

    fn free(&self) -> u32 {
        self.capacity().saturating_sub(self.used)
    }

    /// How much of the log is in use, in percent.
    pub(crate) fn fill(&self) -> u64 {
        u64::from(self.used) * 100 / u64::from(self.capacity().max(1))
    }

    /// Says on the device that transactions may follow.
    pub(super) fn start(&mut self, sb: &Super, manner: Manner) -> Result<()> {
        self.area.upgrade(sb, manner.checksums);
        self.area.barriers = manner.barriers;
        self.head = self.area.first;
        self.area.store(self.head, self.sequence)
    }

    /// From now on, whether order is kept by flushing the drive's cache.
    pub(crate) fn set_barriers(&mut self, barriers: bool) {
        self.area.barriers = barriers;
    }

    /// Copies everything to its place and says on the device that the log is empty.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.checkpoint(u32::MAX)?;
        self.area.store(0, self.sequence)
    }

    /// Blocks in the log that `transaction` takes.
    fn needed(&self, transaction: &Transaction) -> u32 {
        let format = &self.area.format;
        let blocks = transaction.blocks.len();
        let descriptors = blocks.div_ceil(format.tags_per_block());
        let revokes = transaction.revoked.len().div_ceil(format.revokes_per_block());
        u32::try_from(blocks + descriptors + revokes + 1).unwrap_or(u32::MAX)
    }

    /// Writes a transaction behind the others; it is durable when this returns. `settle` waits for the
    /// file data that has to be there before it counts. `EIO`; then nothing more may be written.
    pub(super) fn write(
        &mut self,
        transaction: Transaction,
        settle: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let need = self.needed(&transaction);
        if need > self.capacity() {
            log::error!("ext4: {}: a transaction of {need} blocks", self.area.device.name());
            return Err(Errno::EIO);
        }
        if self.pinned.len() > MOST_PINNED {
            self.checkpoint(u32::MAX)?;
        } else if self.free() < need {
            self.checkpoint(need.max(self.capacity() / 2))?;
        }
        let (first, at) = (self.head, self.write_blocks(&transaction)?);
        settle()?;
        let commit = self.area.format.commit(self.sequence, Time::now());
        write_block(&self.area.device, self.area.home(at)?, &commit, self.area.durably())?;
        self.enter(transaction, first, need);
        self.head = self.area.next(at);
        Ok(())
    }

    /// Writes all but the commit block, which belongs at the place that is returned.
    fn write_blocks(&self, transaction: &Transaction) -> Result<u32> {
        let (area, format, sequence) = (&self.area, &self.area.format, self.sequence);
        let flags = BioFlags::META | BioFlags::SYNC;
        let mut writes = Writes::new(&area.device, format.block_size, flags);
        let mut at = self.head;
        let mut put = |bytes: &[u8]| -> Result<()> {
            writes.add(area.home(at)?, bytes)?;
            at = area.next(at);
            Ok(())
        };
        for blocks in transaction.revoked.chunks(format.revokes_per_block()) {
            put(&format.revoke(sequence, blocks))?;
        }
        for frozen in transaction.blocks.chunks(format.tags_per_block()) {
            let copies: Vec<Escaped<'_>> = frozen.iter().map(|f| Escaped::of(&f.bytes)).collect();
            let tags: Vec<Tag> = frozen
                .iter()
                .zip(&copies)
                .map(|(frozen, copy)| Tag {
                    home: frozen.block,
                    escaped: matches!(copy, Escaped::Yes(_)),
                    checksum: format.data_sum(sequence, copy.bytes()),
                })
                .collect();
            put(&format.descriptor(sequence, &tags))?;
            for copy in &copies {
                put(copy.bytes())?;
            }
        }
        if area.may_tear() {
            // A commit block of which only some sectors arrive has a wrong checksum where older ones are
            // left of what the log had there, and `e2fsck -p` gives the file system up for that. Over
            // zeros it is whole with its first sector.
            writes.add(area.home(at)?, &alloc::vec![0; format.block_size])?;
        }
        writes.wait()?;
        Ok(at)
    }

    /// Notes that a transaction is in the log.
    fn enter(&mut self, transaction: Transaction, first: u32, len: u32) {
        let sequence = self.sequence;
        // What was given up may be somebody's data from here on.
        for block in &transaction.revoked {
            self.pinned.remove(block);
        }
        for frozen in transaction.blocks {
            self.pinned.insert(frozen.block, Pinned { sequence, frozen });
        }
        self.live.push_back(Live { sequence, first, len });
        self.used += len;
        self.sequence = sequence.wrapping_add(1);
    }

    /// Copies the oldest transactions to their places until `wanted` blocks of the log are free.
    pub(crate) fn checkpoint(&mut self, wanted: u32) -> Result<()> {
        let (mut count, mut gained, mut last) = (0, 0, None);
        for live in &self.live {
            if self.free() + gained >= wanted {
                break;
            }
            gained += live.len;
            last = Some(live.sequence);
            count += 1;
        }
        let Some(last) = last else { return Ok(()) };
        let device = &self.area.device;
        let mut writes = Writes::new(device, self.area.format.block_size, BioFlags::META);
        for (&block, pinned) in &self.pinned {
            if !is_after(pinned.sequence, last) {
                writes.add(block, &pinned.frozen.bytes)?;
            }
        }
        writes.wait()?;
        drop(writes);
        let (start, sequence) = match self.live.get(count) {
            Some(next) => (next.first, next.sequence),
            None => (self.head, self.sequence),
        };
        self.area.store(start, sequence)?;
        self.live.drain(..count);
        self.used -= gained;
        let size = self.area.format.block_size as u64;
        let mapping = self.area.device.mapping().clone();
        self.pinned.retain(|&block, pinned| {
            let stays = is_after(pinned.sequence, last);
            if !stays && mapping.cached_pages() != 0 {
                // Who reads the bare device from now on sees the new block.
                mapping.drop_clean(block * size / 4096, block * size / 4096);
            }
            stays
        });
        Ok(())
    }
}

/// The form in which a block is in the log.
enum Escaped<'a> {
    No(&'a [u8]),
    /// It began with the magic number of the journal.
    Yes(Vec<u8>),
}

impl<'a> Escaped<'a> {
    fn of(bytes: &'a [u8]) -> Escaped<'a> {
        if be32_at(bytes, 0) != MAGIC {
            return Escaped::No(bytes);
        }
        let mut copy = bytes.to_vec();
        put_be32(&mut copy, 0, 0);
        Escaped::Yes(copy)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Escaped::No(bytes) => bytes,
            Escaped::Yes(bytes) => bytes,
        }
    }
}
