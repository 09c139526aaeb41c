//! [`Device`]: something with sectors to submit bios to: a whole disk or a partition, with the
//! page cache of its bare contents.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use abi::{Errno, Result};
use arch::addr::{PAGE_SHIFT, PAGE_SIZE};
use arch::uio::Sink;
use pagecache::{Backing, Flusher, Mapping, ReadAhead, ReadRun, WriteRun};
use sched::{Completion, IoWait};

use crate::bio::{Bio, BioFlags, Op, SECTOR_SHIFT, SECTOR_SIZE};
use crate::driver::{Driver, Limits, Purpose};
use crate::flush;
use crate::line::{DeadlineKnobs, Scheduler};
use crate::partition::Partition;
use crate::queue::Core;
use crate::stats::StatsSnapshot;

/// A device number, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// Which driver.
    pub major: u32,
    /// Which device.
    pub minor: u32,
}

/// What all devices of one disk share.
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    pub(crate) flush: Arc<flush::Flusher>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) read_only: AtomicBool,
    /// Bytes of a logical block: what the driver stated, until somebody chose.
    pub(crate) block_size: AtomicU32,
    /// Open files and mounts of the disk and its partitions.
    pub(crate) users: AtomicU32,
}

impl Shared {
    /// Starts a bio whose sectors are the disk's own and in range.
    fn start(self: &Arc<Shared>, mut bio: Bio) {
        let limits = &self.core.limits;
        while let Some(front) = front_limit(&bio, limits) {
            let mut head = bio.split_front(front);
            // Flushing once before the first part and once after the last is enough.
            bio.flags.remove(BioFlags::PREFLUSH);
            if !limits.fua && limits.write_cache {
                head.flags.remove(BioFlags::FUA);
            }
            self.start_one(head);
        }
        self.start_one(bio);
    }

    fn start_one(&self, bio: Bio) {
        if bio.op == Op::Flush || bio.flags.intersects(BioFlags::PREFLUSH | BioFlags::FUA) {
            self.flush.start(&self.core, bio);
        } else {
            self.core.start(bio);
        }
    }
}

/// How many sectors fit into one request, if not all.
fn front_limit(bio: &Bio, limits: &Limits) -> Option<u64> {
    let max = match bio.op {
        Op::Read | Op::Write => u64::from(limits.max_sectors),
        Op::Discard => limits.max_discard_sectors,
        Op::WriteZeroes => limits.max_write_zeroes_sectors,
        Op::Flush => return None,
    };
    let mut allowed = max.max(1);
    if bio.segments.len() > limits.max_segments {
        let bytes: u64 =
            bio.segments.iter().take(limits.max_segments).map(|s| u64::from(s.len)).sum();
        let block = u64::from(limits.logical_block_size >> SECTOR_SHIFT).max(1);
        let sectors = bytes >> SECTOR_SHIFT;
        allowed = allowed.min((sectors - sectors % block).max(1));
    }
    (bio.sectors() > allowed).then_some(allowed)
}

/// A disk or a partition.
pub struct Device {
    shared: Arc<Shared>,
    name: String,
    id: DeviceId,
    /// `None`: the whole disk.
    partition: Option<Partition>,
    sectors: AtomicU64,
    mapping: Arc<Mapping>,
    /// Exclusive holders (mounts); -1: taken exclusively, >0: shared opens for writing.
    claims: AtomicI32,
}

struct DeviceBacking {
    shared: Arc<Shared>,
    start: u64,
}

impl Backing for DeviceBacking {
    fn read(&self, run: ReadRun) {
        transfer(self, Op::Read, run.first(), run.pages().len(), run.mapping().size(), |bio| {
            for page in run.pages() {
                bio.push(page.clone(), 0, PAGE_SIZE as u32);
            }
        })
        .submit(self, move |result| run.complete(result));
    }

    fn write(&self, run: WriteRun) {
        let sync = run.is_sync();
        let mut plan = transfer(
            self,
            Op::Write,
            run.first(),
            run.pages().len(),
            run.mapping().size(),
            |bio| {
                for page in run.pages() {
                    bio.push(page.clone(), 0, PAGE_SIZE as u32);
                }
            },
        );
        if sync {
            plan.bio.flags |= BioFlags::SYNC;
        }
        plan.submit(self, move |result| run.complete(result));
    }

    fn prepare_write(&self, mapping: &Mapping, pos: u64, len: usize) -> Result<()> {
        if pos.saturating_add(len as u64) > mapping.size() {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    fn flusher(&self) -> Option<Arc<Flusher>> {
        Some(self.shared.flusher.clone())
    }

    fn is_device(&self) -> bool {
        true
    }
}

struct Plan {
    bio: Bio,
}

fn transfer(
    backing: &DeviceBacking,
    op: Op,
    first: u64,
    pages: usize,
    size: u64,
    fill: impl FnOnce(&mut Bio),
) -> Plan {
    let start = first << PAGE_SHIFT;
    let mut bio = Bio::new(op, backing.start + (start >> SECTOR_SHIFT), |_| {});
    fill(&mut bio);
    // The device may end within the last page.
    let end = start + ((pages as u64) << PAGE_SHIFT);
    bio.trim(end.saturating_sub(size) >> SECTOR_SHIFT);
    Plan { bio }
}

impl Plan {
    fn submit(mut self, backing: &DeviceBacking, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.bio.set_done(done);
        if self.bio.sectors() == 0 {
            return self.bio.complete(Ok(()));
        }
        backing.shared.start(self.bio);
    }
}

impl Device {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        name: String,
        id: DeviceId,
        partition: Option<Partition>,
        sectors: u64,
    ) -> Arc<Device> {
        let start = partition.as_ref().map_or(0, |partition| partition.start);
        let backing = Arc::new(DeviceBacking { shared: shared.clone(), start });
        let mapping = Mapping::new(backing, sectors << SECTOR_SHIFT);
        Arc::new(Device {
            shared: shared.clone(),
            name,
            id,
            partition,
            sectors: AtomicU64::new(sectors),
            mapping,
            claims: AtomicI32::new(0),
        })
    }

    /// `vda`, `vda1`, `nvme0n1p2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its device number.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The partition it is, if it is one.
    pub fn partition(&self) -> Option<&Partition> {
        self.partition.as_ref()
    }

    /// Length in 512-byte sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.sectors() << SECTOR_SHIFT
    }

    pub(crate) fn set_sectors(&self, sectors: u64) {
        self.sectors.store(sectors, Ordering::Relaxed);
        if let Err(error) = self.mapping.truncate(sectors << SECTOR_SHIFT) {
            log::warn!("{}: cannot adapt the cache to the new size: {error}", self.name);
        }
    }

    /// What the hardware can take.
    pub fn limits(&self) -> &Limits {
        &self.shared.core.limits
    }

    /// Bytes of a logical block: the unit of transfers past the cache.
    pub fn block_size(&self) -> u32 {
        self.shared.block_size.load(Ordering::Relaxed)
    }

    /// Readies the medium for who is about to open the device: where it can be taken out, it is looked at, and
    /// what is cached of another one is forgotten. Sleeps.
    ///
    /// # Errors
    /// `ENOMEDIUM`, `EROFS`, and those of the drive.
    pub fn prepare(&self, purpose: Purpose) -> Result<()> {
        let Some(medium) = self.driver().opened(purpose)? else { return Ok(()) };
        if medium.is_new {
            self.mapping.drop_clean(0, pagecache::MAX_INDEX);
        }
        if let Some(disk) = crate::disk::disk_of(self) {
            disk.set_capacity(medium.sectors);
        }
        Ok(())
    }

    /// Counts as open while this lives; [`Driver::closed`] is told when the last one goes.
    pub fn open(self: &Arc<Device>) -> Use {
        // AcqRel: pairs with the one in `Use::drop`.
        self.shared.users.fetch_add(1, Ordering::AcqRel);
        Use(self.clone())
    }

    /// How many have the disk or a partition of it open.
    pub fn users(&self) -> u32 {
        self.shared.users.load(Ordering::Acquire)
    }

    /// The driver.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.shared.core.driver
    }

    /// The order in which requests of its disk wait for the drive.
    pub fn scheduler(&self) -> Scheduler {
        *self.shared.core.policy.current.lock()
    }

    /// Another order, for what waits already too.
    pub fn set_scheduler(&self, scheduler: Scheduler) {
        self.shared.core.set_scheduler(scheduler);
    }

    /// The knobs of [`Scheduler::Deadline`].
    pub fn deadline_knobs(&self) -> &DeadlineKnobs {
        &self.shared.core.policy.knobs
    }

    /// The disk's counters.
    pub fn stats(&self) -> StatsSnapshot {
        self.shared.core.stats.snapshot()
    }

    /// The page cache of the bare device.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Who writes this disk's files back.
    pub fn flusher(&self) -> &Arc<Flusher> {
        &self.shared.flusher
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.limits().read_only || self.shared.read_only.load(Ordering::Relaxed)
    }

    /// Takes the device for a mount: nobody else may. Dropping the claim gives it back.
    ///
    /// A file system moves its blocks past the cache of the bare device. So what programs wrote into
    /// that goes out here, and what they read is dropped here and in [`Claim::release`].
    pub fn claim(self: &Arc<Device>) -> Result<Claim> {
        self.prepare(Purpose::Read)?;
        self.claims
            .compare_exchange(0, -1, Ordering::AcqRel, Ordering::Relaxed)
            .map_err(|_| Errno::EBUSY)?;
        let claim = Claim { device: self.clone(), _use: self.open() };
        self.mapping.sync()?;
        self.mapping.drop_clean(0, pagecache::MAX_INDEX);
        Ok(claim)
    }

    /// Whether somebody has it exclusively.
    pub fn is_claimed(&self) -> bool {
        self.claims.load(Ordering::Acquire) < 0
    }

    /// Starts a bio; its sectors are relative to this device. Ends with `EIO` if they lie outside,
    /// `EROFS`-like `EPERM` never: callers check [`Device::is_read_only`] at open.
    pub fn submit(&self, mut bio: Bio) {
        if bio.op == Op::Flush {
            return self.shared.start(bio);
        }
        if bio.sectors() == 0 || bio.end_sector() > self.sectors() {
            log::error!("{}: access beyond the end of the device: {}", self.name, bio.sector);
            return bio.complete(Err(Errno::EIO));
        }
        if bio.op.is_write() && self.is_read_only() {
            return bio.complete(Err(Errno::EROFS));
        }
        let supported = match bio.op {
            Op::Discard => self.limits().max_discard_sectors,
            Op::WriteZeroes => self.limits().max_write_zeroes_sectors,
            _ => 1,
        };
        if supported == 0 {
            return bio.complete(Err(Errno::EOPNOTSUPP));
        }
        bio.sector += self.partition.as_ref().map_or(0, |partition| partition.start);
        self.shared.start(bio);
    }

    /// Starts what `build` makes of a completion and sleeps until it ends.
    pub fn submit_and_wait(&self, mut bio: Bio) -> Result<()> {
        struct Outcome {
            done: Completion,
            result: spin::Once<Result<()>>,
        }
        let outcome = Arc::new(Outcome { done: Completion::new(), result: spin::Once::new() });
        let told = outcome.clone();
        bio.flags |= BioFlags::SYNC;
        bio.set_done(move |result| {
            told.result.call_once(|| result);
            told.done.complete();
        });
        self.submit(bio);
        let waiting = IoWait::begin();
        outcome.done.wait();
        drop(waiting);
        outcome.result.get().copied().unwrap_or(Err(Errno::EIO))
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> Result<()> {
        if !self.limits().write_cache {
            return Ok(());
        }
        self.submit_and_wait(Bio::without_data(Op::Flush, 0, 0, |_| {}))
    }

    /// Tells the device that sectors are unused.
    pub fn discard(&self, sector: u64, sectors: u64) -> Result<()> {
        self.submit_and_wait(Bio::without_data(Op::Discard, sector, sectors, |_| {}))
    }

    /// Makes sectors read as zeros: `EOPNOTSUPP` if the device cannot do that by itself.
    pub fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<()> {
        self.submit_and_wait(Bio::without_data(Op::WriteZeroes, sector, sectors, |_| {}))
    }

    /// Reads bytes through the page cache.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let wanted = buffer.len();
        let count = self.mapping.read(offset, &mut Sink::kernel(buffer), &ReadAhead::new())?;
        if count == wanted { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Writes the cache of the bare device and the device's own cache out: `fsync` of `/dev/vda`.
    pub fn sync(&self) -> Result<()> {
        self.mapping.sync()?;
        self.flush()
    }

    /// What file system it holds.
    pub fn probe(&self) -> Result<Option<crate::probe::Probed>> {
        if self.size() < 4096 {
            return Ok(None);
        }
        crate::probe::probe(&|offset, buffer| self.read_at(offset, buffer))
    }

    /// Largest transfer that the caller should build into one bio.
    pub fn max_bio_bytes(&self) -> usize {
        (self.limits().max_sectors as usize * SECTOR_SIZE)
            .min(self.limits().max_segments * PAGE_SIZE)
    }
}

/// A device in use: open or mounted.
pub struct Use(Arc<Device>);

impl Use {
    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if self.0.shared.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.driver().closed();
        }
    }
}

/// Exclusive use of a device.
pub struct Claim {
    device: Arc<Device>,
    /// Dropped after the claim is given back.
    _use: Use,
}

impl Claim {
    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Gives the device back to programs, which then read what the file system has left. Sleeps.
    pub fn release(self) {
        self.device.mapping.drop_clean(0, pagecache::MAX_INDEX);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.device.claims.store(0, Ordering::Release);
    }
}
