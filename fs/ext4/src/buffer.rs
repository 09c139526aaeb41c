//! Metadata blocks in memory: the running state of the file system's own structures.
//!
//! The [`Buffer`] is what operations look at and change. With a journal, what is dirty belongs to the
//! running transaction, and a commit takes snapshots of it ([`Buffers::take`]): a block is copied only
//! if it changes while somebody has one. Without, dirty blocks are written when the file system is
//! synced. Blocks go to the device one by one, not through the page cache of the bare device: a page
//! there may hold a neighbour that is file data now.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::Result;
use arch::lock::{LockClass, RwSpinLock, SpinLock};
use block::{Bio, BioFlags, Device, Op, SECTOR_SIZE};
use hashbrown::HashMap;
use sched::{IoWait, WaitQueue};

use crate::io::Writes;
use crate::journal::{Frozen, Transaction};
use crate::seal::{self, Seal};
use crate::shrink;

static DATA: LockClass = LockClass::new("ext4.buffer", 458);
static SHARD: LockClass = LockClass::new("ext4.buffers", 459);
static DIRTY: LockClass = LockClass::new("ext4.dirty_buffers", 459);
const SHARDS: usize = 64;
/// Buffers of a shard from which on unused ones are dropped.
const SHARD_LIMIT: usize = 512;

/// One metadata block.
pub(crate) struct Buffer {
    pub(crate) block: u64,
    /// Shared with the snapshots that were taken since it last changed.
    data: RwSpinLock<Arc<Vec<u8>>>,
    dirty: AtomicBool,
    /// How it is signed when written, and the seed: see [`Buffer::set_seal`].
    seal: AtomicU64,
}

impl Buffer {
    /// Whether it need not be kept: clean, and the table's reference `own` is the only one.
    pub(crate) fn is_unused(own: &Arc<Buffer>) -> bool {
        Arc::strong_count(own) == 1 && !own.dirty.load(Ordering::Acquire)
    }

    /// Looks at the bytes; `look` is short and takes no other buffer.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.data.read())
    }

    /// Says how the block is signed when it is written.
    pub(crate) fn set_seal(&self, seal: Seal, seed: u32) {
        let kind = match seal {
            Seal::None => 0u64,
            Seal::Names => 1,
            Seal::Index => 2,
        };
        // Relaxed: read under the lock of the bytes, after the change that came with the seal.
        self.seal.store(kind << 32 | u64::from(seed), Ordering::Relaxed);
    }

    /// How the block is signed; `None` also means that nobody has looked at it yet.
    pub(crate) fn seal(&self) -> Seal {
        match self.seal.load(Ordering::Relaxed) >> 32 {
            1 => Seal::Names,
            2 => Seal::Index,
            _ => Seal::None,
        }
    }

    /// The bytes as they are now, signed.
    fn snapshot(&self) -> Arc<Vec<u8>> {
        let seal = self.seal();
        if seal == Seal::None {
            return self.data.read().clone();
        }
        let mut bytes = self.data.write();
        let seed = self.seal.load(Ordering::Relaxed) as u32;
        seal::apply(seal, Arc::<Vec<u8>>::make_mut(&mut bytes), seed);
        bytes.clone()
    }

    /// Whether there is a snapshot of the bytes.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.data.read()) > 1
    }

    /// A copy of the bytes.
    pub(crate) fn copy(&self) -> Vec<u8> {
        self.data.read().to_vec()
    }
}

pub(crate) type Shards = Vec<SpinLock<Shard>>;

/// A part of the table of buffers.
pub(crate) struct Shard {
    known: HashMap<u64, Arc<Buffer>>,
    /// How many there are when unused ones are looked for next: twice as many as were left then, so that
    /// those in use cost nobody a search each time.
    sweep_at: usize,
}

impl Shard {
    /// Drops what is unused; how many that were.
    pub(crate) fn sweep(&mut self) -> usize {
        let before = self.known.len();
        self.known.retain(|_, buffer| !Buffer::is_unused(buffer));
        self.sweep_at = (self.known.len() * 2).max(SHARD_LIMIT);
        before - self.known.len()
    }
}

/// All metadata blocks of one file system.
pub(crate) struct Buffers {
    device: Arc<Device>,
    block_size: usize,
    shards: Arc<Shards>,
    dirty: SpinLock<Dirty>,
    /// Told when a write-out has ended.
    written: WaitQueue,
    /// Dirty blocks wait for a commit, not for a write-out.
    is_journaled: AtomicBool,
    /// Blocks that the next commit may have to write: an upper bound.
    pub(crate) charged: AtomicU32,
}

/// What the device does not have yet.
#[derive(Default)]
struct Dirty {
    /// What the next write-out writes, or the running transaction has changed.
    waiting: BTreeMap<u64, Arc<Buffer>>,
    /// Blocks that the running transaction gave up.
    revoked: BTreeSet<u64>,
    /// What the running write-out has yet to copy. A block that changes after its copy waits for the
    /// next one: a device keeps no order between two writes of a block that are on their way.
    leaving: BTreeMap<u64, Arc<Buffer>>,
    /// Blocks on their way.
    writing: BTreeSet<u64>,
}

impl Buffers {
    pub(crate) fn new(device: Arc<Device>, block_size: usize) -> Buffers {
        let empty = || Shard { known: HashMap::new(), sweep_at: SHARD_LIMIT };
        let shards: Shards = (0..SHARDS).map(|_| SpinLock::new(&SHARD, empty())).collect();
        let shards = Arc::new(shards);
        shrink::register(&shards);
        let dirty = SpinLock::new(&DIRTY, Dirty::default());
        Buffers {
            device,
            block_size,
            shards,
            dirty,
            written: WaitQueue::new(),
            is_journaled: AtomicBool::new(false),
            charged: AtomicU32::new(0),
        }
    }

    fn shard(&self, block: u64) -> &SpinLock<Shard> {
        &self.shards[block as usize % SHARDS]
    }

    /// The block, if it is in memory.
    pub(crate) fn known(&self, block: u64) -> Option<Arc<Buffer>> {
        self.shard(block).lock().known.get(&block).cloned()
    }

    fn enter(&self, block: u64, data: Vec<u8>) -> Arc<Buffer> {
        let fresh = Arc::new(Buffer {
            block,
            data: RwSpinLock::new(&DATA, Arc::new(data)),
            dirty: AtomicBool::new(false),
            seal: AtomicU64::new(0),
        });
        let mut shard = self.shard(block).lock();
        if shard.known.len() >= shard.sweep_at {
            shard.sweep();
        }
        shard.known.entry(block).or_insert(fresh).clone()
    }

    /// The block, read if need be.
    pub(crate) fn get(&self, block: u64) -> Result<Arc<Buffer>> {
        if let Some(found) = self.known(block) {
            return Ok(found);
        }
        // For the time of the transfer only, and what waits for it may be on its way to free memory.
        let page = frames::alloc_page(frames::Flags::RESERVE)?;
        let mut bio = Bio::new(Op::Read, self.sector(block), |_| {});
        bio.flags |= BioFlags::META;
        bio.push(page.clone(), 0, self.block_size as u32);
        self.device.submit_and_wait(bio)?;
        let mut data = alloc::vec![0; self.block_size];
        page.copy_out(0, &mut data);
        Ok(self.enter(block, data))
    }

    /// A block whose old contents do not matter: zeros, dirty.
    pub(crate) fn fresh(&self, block: u64) -> Arc<Buffer> {
        self.fresh_with(block, |_| ())
    }

    /// The same with contents: nobody sees the zeros between.
    pub(crate) fn fresh_with(&self, block: u64, fill: impl FnOnce(&mut [u8])) -> Arc<Buffer> {
        let buffer = self.enter(block, alloc::vec![0; self.block_size]);
        self.modify(&buffer, |bytes| {
            bytes.fill(0);
            fill(bytes);
        });
        buffer
    }

    /// Gives a block new contents, all of which `fill` writes.
    pub(crate) fn put(&self, block: u64, fill: impl FnOnce(&mut [u8])) {
        let known = self.known(block);
        let buffer = known.unwrap_or_else(|| self.enter(block, alloc::vec![0; self.block_size]));
        self.modify(&buffer, fill);
    }

    /// Gives a block of which everything is known new contents, if they are others.
    pub(crate) fn replace(&self, block: u64, bytes: &[u8]) {
        let buffer = match self.known(block) {
            Some(known) if known.read(|old| old == bytes) => return,
            Some(known) => known,
            None => self.enter(block, alloc::vec![0; self.block_size]),
        };
        self.modify(&buffer, |place| place.copy_from_slice(bytes));
    }

    /// Changes the bytes and remembers that they must be written. With a journal the caller is in an
    /// operation that it belongs to ([`crate::commit::Handle`]), or is the commit.
    pub(crate) fn modify<R>(&self, buffer: &Arc<Buffer>, change: impl FnOnce(&mut [u8]) -> R) -> R {
        // The memory for a copy is had before the lock, under which nobody may wait for it.
        let copy = buffer.is_shared().then(|| Arc::new(alloc::vec![0; self.block_size]));
        let mut data = buffer.data.write();
        if let Some(mut copy) = copy
            && let Some(place) = Arc::get_mut(&mut copy)
        {
            place.copy_from_slice(&data);
            *data = copy;
        }
        let result = change(Arc::<Vec<u8>>::make_mut(&mut data));
        drop(data);
        if !buffer.dirty.swap(true, Ordering::AcqRel) {
            self.charge(1);
            let mut dirty = self.dirty.lock();
            // In use again, so what is in the log is to be copied after all: this comes last.
            dirty.revoked.remove(&buffer.block);
            dirty.waiting.insert(buffer.block, buffer.clone());
        }
        result
    }

    /// The next commit may have to write so many blocks more.
    pub(crate) fn charge(&self, blocks: u32) {
        // Relaxed: an estimate.
        self.charged.fetch_add(blocks, Ordering::Relaxed);
    }

    /// So many of those it need not write after all.
    pub(crate) fn discharge(&self, blocks: u32) {
        let less = |charged: u32| Some(charged.saturating_sub(blocks));
        let _ = self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// From now on (not any more) dirty blocks wait for a commit.
    pub(crate) fn set_journaled(&self, is_journaled: bool) {
        self.is_journaled.store(is_journaled, Ordering::Release);
    }

    /// Takes what the running transaction has changed. Nobody changes anything meanwhile.
    pub(crate) fn take(&self) -> Transaction {
        let mut dirty = self.dirty.lock();
        let waiting = core::mem::take(&mut dirty.waiting);
        let revoked = core::mem::take(&mut dirty.revoked);
        drop(dirty);
        self.charged.store(0, Ordering::Relaxed);
        let freeze = |(block, buffer): (u64, Arc<Buffer>)| {
            buffer.dirty.store(false, Ordering::Release);
            let bytes = buffer.snapshot();
            Frozen { block, _buffer: buffer, bytes }
        };
        let blocks = waiting.into_iter().map(freeze).collect();
        Transaction { blocks, revoked: revoked.into_iter().collect() }
    }

    /// The block becomes free: what was to be written to it no longer matters. Without a journal, what
    /// is on its way has arrived when this returns, so that it cannot overtake the next owner's data;
    /// with one, nobody gets the block before the commit, which tells recovery of it.
    pub(crate) fn forget(&self, block: u64) {
        let is_journaled = self.is_journaled.load(Ordering::Acquire);
        let mut dirty = self.dirty.lock();
        let waited = dirty.waiting.remove(&block);
        dirty.leaving.remove(&block);
        if is_journaled {
            dirty.revoked.insert(block);
        }
        drop(dirty);
        if let Some(buffer) = waited {
            buffer.dirty.store(false, Ordering::Release);
            self.discharge(1);
        }
        self.shard(block).lock().known.remove(&block);
        if is_journaled {
            return;
        }
        let _waiting = IoWait::begin();
        self.written.wait(|| (!self.dirty.lock().writing.contains(&block)).then_some(()));
    }

    /// The same for a block of file data: the log is told only if it has it. A block that it has and
    /// that is not in its place is always in memory.
    pub(crate) fn forget_data(&self, block: u64) {
        if self.known(block).is_some() {
            self.forget(block);
        }
    }

    fn sector(&self, block: u64) -> u64 {
        block * (self.block_size / SECTOR_SIZE) as u64
    }

    /// Writes what is dirty now and waits for the device to have it. One at a time: callers hold
    /// `ext4.sync`.
    pub(crate) fn write_out(&self) -> Result<()> {
        // Kept until the device has them: a block that is dropped and read again before that would
        // come back as it was, and one that could not be written is dirty still.
        let mut held: Vec<Arc<Buffer>> = Vec::new();
        let mut writes =
            Writes::new(&self.device, self.block_size, BioFlags::META | BioFlags::SYNC);
        let mut outcome = Ok(());
        {
            let mut dirty = self.dirty.lock();
            debug_assert!(dirty.writing.is_empty(), "two write-outs at a time");
            let waiting = core::mem::take(&mut dirty.waiting);
            if dirty.leaving.is_empty() {
                dirty.leaving = waiting;
            } else {
                // The last one ran out of memory.
                dirty.leaving.extend(waiting);
            }
        }
        self.charged.store(0, Ordering::Relaxed);
        while outcome.is_ok() {
            let mut dirty = self.dirty.lock();
            let Some((block, buffer)) = dirty.leaving.pop_first() else { break };
            dirty.writing.insert(block);
            drop(dirty);
            held.push(buffer.clone());
            buffer.dirty.store(false, Ordering::Release);
            outcome = writes.add(block, &buffer.snapshot());
        }
        outcome = outcome.and(writes.wait());
        // Who reads the bare device from now on sees the new blocks.
        for buffer in &held {
            let index = buffer.block * self.block_size as u64 / 4096;
            self.device.mapping().drop_clean(index, index);
        }
        let mut dirty = self.dirty.lock();
        for buffer in &held {
            dirty.writing.remove(&buffer.block);
        }
        drop(dirty);
        self.written.wake_all();
        if outcome.is_ok() {
            return outcome;
        }
        for buffer in &held {
            let known = self.known(buffer.block);
            if known.is_some_and(|known| Arc::ptr_eq(&known, buffer)) {
                self.modify(buffer, |_| ());
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::memory::MemoryDrive;
    use block::{Disk, Driver, Limits, Request};
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Says when a write has arrived and waits to be told to go on.
    struct Slow {
        drive: Arc<MemoryDrive>,
        arrived: Mutex<Sender<()>>,
        proceed: Mutex<Receiver<()>>,
    }

    impl Driver for Slow {
        fn limits(&self) -> Limits {
            self.drive.limits()
        }
        fn submit(&self, queue: usize, request: Request) -> core::result::Result<(), Request> {
            if request.op() == Op::Write {
                self.arrived.lock().unwrap().send(()).unwrap();
                self.proceed.lock().unwrap().recv().unwrap();
            }
            self.drive.submit(queue, request)
        }
    }

    #[test]
    fn a_block_that_changes_on_its_way_is_written_again_only_after_it() {
        frames::init_host(512 << 20);
        let drive = MemoryDrive::new(alloc::vec![0; 1 << 20], Limits::default());
        let (arrived, writes) = channel();
        let (go, proceed) = channel();
        let slow = Slow {
            drive: drive.clone(),
            arrived: Mutex::new(arrived),
            proceed: Mutex::new(proceed),
        };
        let disk = Disk::add("testslow", Arc::new(slow), 2048).unwrap();
        let buffers = Buffers::new(disk.whole().clone(), 4096);
        let buffer = buffers.fresh_with(7, |bytes| bytes.fill(1));
        let at = 7 * 4096;
        std::thread::scope(|scope| {
            let first = scope.spawn(|| buffers.write_out());
            writes.recv().unwrap();
            buffers.modify(&buffer, |bytes| bytes.fill(2));
            // One for each write there is to be, so that a wrong one shows and does not hang.
            go.send(()).unwrap();
            go.send(()).unwrap();
            first.join().unwrap().unwrap();
            assert_eq!(writes.try_iter().count(), 0);
            assert_eq!(drive.contents()[at], 1);
            buffers.write_out().unwrap();
            assert_eq!(drive.contents()[at], 2);
        });
        assert_eq!(writes.try_iter().count(), 1);
        disk.remove();
    }
}
