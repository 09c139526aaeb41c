//! Blocks on their way to the device, one after the other: copies in pages, adjacent ones in one bio.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::{Errno, Result};
use block::{Bio, BioFlags, Device, Op, SECTOR_SIZE};
use frames::PageRef;
use sched::{Completion, IoWait};

/// Blocks under way at most: their copies take memory.
const IN_FLIGHT: usize = 256;
/// Blocks in one bio at most.
const IN_BIO: usize = 64;
/// How often, and how long after, one asks again for a page where memory is short: what is written here
/// may be what is to be freed, and giving up can mean giving up the file system.
const ATTEMPTS: usize = 300;
const PAUSE_NS: u64 = 10_000_000;

/// A page with a copy of `bytes`. Sleeps; `ENOMEM` only after a long time.
fn page_with(bytes: &[u8]) -> Result<PageRef> {
    let mut attempts = 0;
    let page = loop {
        match frames::alloc_page(frames::Flags::RESERVE) {
            Ok(page) => break page,
            Err(error) if attempts == ATTEMPTS => return Err(error.into()),
            Err(_) => sched::timer::sleep_ns(PAUSE_NS),
        }
        attempts += 1;
    };
    page.copy_in(0, bytes);
    Ok(page)
}

struct Batch {
    left: AtomicUsize,
    failed: AtomicBool,
    done: Completion,
}

impl Batch {
    fn new() -> Arc<Batch> {
        let left = AtomicUsize::new(1);
        Arc::new(Batch { left, failed: AtomicBool::new(false), done: Completion::new() })
    }

    fn part_done(&self, result: Result<()>) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        // AcqRel: the last one sees the others' failures.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.complete();
        }
    }
}

/// Writes of blocks that end together.
pub(crate) struct Writes<'a> {
    device: &'a Device,
    block_size: usize,
    flags: BioFlags,
    batch: Arc<Batch>,
    pending: Option<Bio>,
    count: usize,
}

impl<'a> Writes<'a> {
    /// None yet.
    pub(crate) fn new(device: &'a Device, block_size: usize, flags: BioFlags) -> Writes<'a> {
        Writes { device, block_size, flags, batch: Batch::new(), pending: None, count: 0 }
    }

    /// Starts writing `bytes`, one block, to the device's block `block`. Sleeps while many are under
    /// way. `ENOMEM`, or `EIO` if one of those before failed.
    pub(crate) fn add(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        if self.count == IN_FLIGHT {
            self.wait()?;
        }
        let page = page_with(bytes)?;
        let sector = block * (self.block_size / SECTOR_SIZE) as u64;
        let follows = self
            .pending
            .as_ref()
            .is_some_and(|bio| bio.end_sector() == sector && bio.segments.len() < IN_BIO);
        if !follows {
            self.submit();
        }
        let flags = self.flags;
        let batch = &self.batch;
        let bio = self.pending.get_or_insert_with(|| {
            batch.left.fetch_add(1, Ordering::Relaxed);
            let told = batch.clone();
            Bio::new(Op::Write, sector, move |result| told.part_done(result)).with_flags(flags)
        });
        bio.push(page, 0, self.block_size as u32);
        self.count += 1;
        Ok(())
    }

    fn submit(&mut self) {
        if let Some(bio) = self.pending.take() {
            self.device.submit(bio);
        }
    }

    /// Waits until the device has those added so far; `EIO` if it refused one.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.submit();
        let batch = core::mem::replace(&mut self.batch, Batch::new());
        self.count = 0;
        batch.part_done(Ok(()));
        let waiting = IoWait::begin();
        batch.done.wait();
        drop(waiting);
        if batch.failed.load(Ordering::Relaxed) { Err(Errno::EIO) } else { Ok(()) }
    }
}

impl Drop for Writes<'_> {
    fn drop(&mut self) {
        // After an error: nobody is to find blocks under way.
        if self.count > 0 {
            let _ = self.wait();
        }
    }
}

/// Writes one block and waits for it; `flags` say what is durable then.
pub(crate) fn write_block(
    device: &Device,
    block: u64,
    bytes: &[u8],
    flags: BioFlags,
) -> Result<()> {
    let page = page_with(bytes)?;
    let sector = block * (bytes.len() / SECTOR_SIZE) as u64;
    let mut bio = Bio::new(Op::Write, sector, |_| {}).with_flags(flags);
    bio.push(page, 0, bytes.len() as u32);
    device.submit_and_wait(bio)
}

/// Changes one block on the device at once, past everything in memory.
pub(crate) fn change_block(
    device: &Device,
    block: u64,
    block_size: usize,
    change: impl FnOnce(&mut [u8]),
) -> Result<()> {
    let mut bytes = alloc::vec![0; block_size];
    let sector = block * (block_size / SECTOR_SIZE) as u64;
    let page = page_with(&bytes)?;
    let mut bio = Bio::new(Op::Read, sector, |_| {});
    bio.push(page.clone(), 0, block_size as u32);
    device.submit_and_wait(bio)?;
    page.copy_out(0, &mut bytes);
    change(&mut bytes);
    write_block(device, block, &bytes, BioFlags::META | BioFlags::SYNC | BioFlags::FUA)
}
