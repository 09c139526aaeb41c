//! Metadata blocks in memory: the running state of the file system's own structures.
//!
//! The [`Buffer`] is what operations look at and change; dirty ones are copied into pages and
//! written when the file system is synced. That copy is where a journal commit takes its snapshot.
//! Blocks go to the device one by one, not through the page cache of the bare device: a page there
//! may hold a neighbour that is file data now.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, RwSpinLock, SpinLock};
use block::{Bio, BioFlags, Device, Op, SECTOR_SIZE};
use hashbrown::HashMap;
use sched::{Completion, IoWait, WaitQueue};

use crate::seal::{self, Seal};
use crate::shrink;

static DATA: LockClass = LockClass::new("ext4.buffer", 458);
static SHARD: LockClass = LockClass::new("ext4.buffers", 459);
static DIRTY: LockClass = LockClass::new("ext4.dirty_buffers", 459);
const SHARDS: usize = 64;
/// Clean buffers kept per shard before old ones are dropped.
const SHARD_LIMIT: usize = 512;

/// One metadata block.
pub(crate) struct Buffer {
    pub(crate) block: u64,
    data: RwSpinLock<Vec<u8>>,
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

    /// Signs the bytes and hands them to `take`.
    fn signed(&self, take: impl FnOnce(&[u8])) {
        let seal = self.seal();
        if seal == Seal::None {
            return self.read(take);
        }
        let mut bytes = self.data.write();
        seal::apply(seal, &mut bytes, self.seal.load(Ordering::Relaxed) as u32);
        take(&bytes);
    }

    /// A copy of the bytes.
    pub(crate) fn copy(&self) -> Vec<u8> {
        self.data.read().clone()
    }
}

pub(crate) type Shards = Vec<SpinLock<HashMap<u64, Arc<Buffer>>>>;

/// All metadata blocks of one file system.
pub(crate) struct Buffers {
    device: Arc<Device>,
    block_size: usize,
    shards: Arc<Shards>,
    dirty: SpinLock<Dirty>,
    /// Told when a write-out has ended.
    written: WaitQueue,
}

/// What the device does not have yet.
#[derive(Default)]
struct Dirty {
    waiting: BTreeMap<u64, Arc<Buffer>>,
    /// What the running write-out has yet to copy. A block that changes after its copy waits for the
    /// next one: a device keeps no order between two writes of a block that are on their way.
    leaving: BTreeMap<u64, Arc<Buffer>>,
    /// Blocks on their way.
    writing: BTreeSet<u64>,
}

impl Buffers {
    pub(crate) fn new(device: Arc<Device>, block_size: usize) -> Buffers {
        let shards: Shards = (0..SHARDS).map(|_| SpinLock::new(&SHARD, HashMap::new())).collect();
        let shards = Arc::new(shards);
        shrink::register(&shards);
        let dirty = SpinLock::new(&DIRTY, Dirty::default());
        Buffers { device, block_size, shards, dirty, written: WaitQueue::new() }
    }

    fn shard(&self, block: u64) -> &SpinLock<HashMap<u64, Arc<Buffer>>> {
        &self.shards[block as usize % SHARDS]
    }

    fn enter(&self, block: u64, data: Vec<u8>) -> Arc<Buffer> {
        let fresh = Arc::new(Buffer {
            block,
            data: RwSpinLock::new(&DATA, data),
            dirty: AtomicBool::new(false),
            seal: AtomicU64::new(0),
        });
        let mut shard = self.shard(block).lock();
        if shard.len() >= SHARD_LIMIT {
            shard.retain(|_, b| Arc::strong_count(b) > 1 || b.dirty.load(Ordering::Acquire));
        }
        shard.entry(block).or_insert(fresh).clone()
    }

    /// The block, read if need be.
    pub(crate) fn get(&self, block: u64) -> Result<Arc<Buffer>> {
        if let Some(found) = self.shard(block).lock().get(&block) {
            return Ok(found.clone());
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

    /// Changes the bytes and remembers that they must be written.
    pub(crate) fn modify<R>(&self, buffer: &Arc<Buffer>, change: impl FnOnce(&mut [u8]) -> R) -> R {
        let result = change(&mut buffer.data.write());
        if !buffer.dirty.swap(true, Ordering::AcqRel) {
            self.dirty.lock().waiting.insert(buffer.block, buffer.clone());
        }
        result
    }

    /// The block becomes free: what was to be written to it no longer matters, and what is on its
    /// way has arrived when this returns, so that it cannot overtake the next owner's data.
    pub(crate) fn forget(&self, block: u64) {
        let mut dirty = self.dirty.lock();
        dirty.waiting.remove(&block);
        dirty.leaving.remove(&block);
        drop(dirty);
        self.shard(block).lock().remove(&block);
        let _waiting = IoWait::begin();
        self.written.wait(|| (!self.dirty.lock().writing.contains(&block)).then_some(()));
    }

    fn sector(&self, block: u64) -> u64 {
        block * (self.block_size / SECTOR_SIZE) as u64
    }

    /// Writes what is dirty now and waits for the device to have it. One at a time: callers hold
    /// `ext4.sync`.
    pub(crate) fn write_out(&self) -> Result<()> {
        struct Batch {
            left: AtomicUsize,
            failed: AtomicBool,
            done: Completion,
        }
        let batch = Arc::new(Batch {
            left: AtomicUsize::new(1),
            failed: AtomicBool::new(false),
            done: Completion::new(),
        });
        let end = |batch: &Batch, result: Result<()>| {
            if result.is_err() {
                batch.failed.store(true, Ordering::Relaxed);
            }
            // AcqRel: the last one sees the others' failures.
            if batch.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                batch.done.complete();
            }
        };
        let mut outcome = Ok(());
        // Kept until the device has them: a block that is dropped and read again before that would
        // come back as it was, and one that could not be written is dirty still.
        let mut held: Vec<Arc<Buffer>> = Vec::new();
        let mut pending: Option<Bio> = None;
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
        loop {
            let mut dirty = self.dirty.lock();
            let Some((block, buffer)) = dirty.leaving.pop_first() else { break };
            dirty.writing.insert(block);
            drop(dirty);
            held.push(buffer.clone());
            buffer.dirty.store(false, Ordering::Release);
            let page = match frames::alloc_page(frames::Flags::RESERVE) {
                Ok(page) => page,
                Err(error) => {
                    self.modify(&buffer, |_| ());
                    outcome = Err(error.into());
                    break;
                }
            };
            buffer.signed(|bytes| page.copy_in(0, bytes));
            let sector = self.sector(block);
            let follows = pending
                .as_ref()
                .is_some_and(|bio| bio.end_sector() == sector && bio.segments.len() < 64);
            if !follows {
                if let Some(bio) = pending.take() {
                    self.device.submit(bio);
                }
                batch.left.fetch_add(1, Ordering::Relaxed);
                let told = batch.clone();
                let mut bio = Bio::new(Op::Write, sector, move |result| end(&told, result));
                bio.flags |= BioFlags::META | BioFlags::SYNC;
                pending = Some(bio);
            }
            if let Some(bio) = &mut pending {
                bio.push(page, 0, self.block_size as u32);
            }
        }
        if let Some(bio) = pending.take() {
            self.device.submit(bio);
        }
        end(&batch, Ok(()));
        let waiting = IoWait::begin();
        batch.done.wait();
        drop(waiting);
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
        if !batch.failed.load(Ordering::Relaxed) {
            return outcome;
        }
        for buffer in &held {
            let known = self.shard(buffer.block).lock().get(&buffer.block).cloned();
            if known.is_some_and(|known| Arc::ptr_eq(&known, buffer)) {
                self.modify(buffer, |_| ());
            }
        }
        Err(Errno::EIO)
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
