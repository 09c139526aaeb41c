//! A request: what a driver gets. One or more bios of the same kind on adjacent sectors.

use abi::Result;
use arch::addr::PhysAddr;
use smallvec::SmallVec;

use crate::bio::{Bio, BioFlags, Op, SECTOR_SHIFT, Segment};
use crate::driver::Limits;
use crate::queue::Slot;

/// A tagged unit of work for one hardware queue.
///
/// [`Request::complete`] (or dropping it, which fails it with `EIO`) ends every bio in it, gives the
/// tag back and restarts the queue if requests were waiting for a tag.
pub struct Request {
    pub(crate) bios: SmallVec<[Bio; 1]>,
    pub(crate) sectors: u64,
    pub(crate) slot: Option<Slot>,
}

impl Request {
    pub(crate) fn new(bio: Bio) -> Request {
        let sectors = bio.sectors();
        let mut bios = SmallVec::new();
        bios.push(bio);
        Request { bios, sectors, slot: None }
    }

    fn head(&self) -> Option<&Bio> {
        self.bios.first()
    }

    /// What to do.
    pub fn op(&self) -> Op {
        self.head().map_or(Op::Flush, |bio| bio.op)
    }

    /// Modifier flags; `PREFLUSH` never reaches a driver, `FUA` only if its limits offer it.
    pub fn flags(&self) -> BioFlags {
        self.head().map_or(BioFlags::empty(), |bio| bio.flags)
    }

    /// First sector (512-byte units) on the disk.
    pub fn sector(&self) -> u64 {
        self.head().map_or(0, |bio| bio.sector)
    }

    /// Number of sectors (512-byte units).
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Number of bytes.
    pub fn len_bytes(&self) -> u64 {
        self.sectors << SECTOR_SHIFT
    }

    /// The tag: unique among the requests in flight on this hardware queue and below the queue depth
    /// of [`Limits`]. Drivers index their command tables by it.
    pub fn tag(&self) -> usize {
        self.slot.as_ref().map_or(0, |slot| slot.tag())
    }

    /// The pieces of memory in order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.bios.iter().flat_map(|bio| bio.segments.iter())
    }

    /// Number of memory pieces before physical merging.
    pub fn segment_count(&self) -> usize {
        self.bios.iter().map(|bio| bio.segments.len()).sum()
    }

    /// Calls `each(address, bytes)` for every physically contiguous piece, at most `max_len` long.
    pub fn for_each_phys(&self, max_len: u32, mut each: impl FnMut(PhysAddr, u32)) {
        let mut run: Option<(u64, u32)> = None;
        for segment in self.segments() {
            let start = segment.page.phys().as_u64() + u64::from(segment.offset);
            run = match run {
                Some((base, len))
                    if base + u64::from(len) == start
                        && len.checked_add(segment.len).is_some_and(|sum| sum <= max_len) =>
                {
                    Some((base, len + segment.len))
                }
                previous => {
                    if let Some((base, len)) = previous {
                        each(PhysAddr::new(base), len);
                    }
                    Some((start, segment.len))
                }
            };
        }
        if let Some((base, len)) = run {
            each(PhysAddr::new(base), len);
        }
    }

    /// Tries to append `bio`; gives it back if it does not fit behind this request.
    pub(crate) fn try_append(
        &mut self,
        bio: Bio,
        limits: &Limits,
    ) -> core::result::Result<(), Bio> {
        let fits = matches!(self.op(), Op::Read | Op::Write)
            && bio.op == self.op()
            && bio.flags.difference(BioFlags::SYNC) == self.flags().difference(BioFlags::SYNC)
            && !bio.flags.intersects(BioFlags::PREFLUSH | BioFlags::FUA)
            && bio.sector == self.sector().saturating_add(self.sectors)
            && self.sectors + bio.sectors() <= u64::from(limits.max_sectors)
            && self.segment_count() + bio.segments.len() <= limits.max_segments;
        if !fits {
            return Err(bio);
        }
        self.sectors += bio.sectors();
        self.bios.push(bio);
        Ok(())
    }

    /// Tries to prepend `bio`; gives it back if it does not fit before this request.
    pub(crate) fn try_prepend(
        &mut self,
        bio: Bio,
        limits: &Limits,
    ) -> core::result::Result<(), Bio> {
        let fits = matches!(self.op(), Op::Read | Op::Write)
            && bio.op == self.op()
            && bio.flags.difference(BioFlags::SYNC) == self.flags().difference(BioFlags::SYNC)
            && !bio.flags.intersects(BioFlags::PREFLUSH | BioFlags::FUA)
            && bio.end_sector() == self.sector()
            && self.sectors + bio.sectors() <= u64::from(limits.max_sectors)
            && self.segment_count() + bio.segments.len() <= limits.max_segments;
        if !fits {
            return Err(bio);
        }
        self.sectors += bio.sectors();
        self.bios.insert(0, bio);
        Ok(())
    }

    /// Ends the request: all bios get `result`, the tag returns to its queue.
    pub fn complete(mut self, result: Result<()>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<()>) {
        let (op, sectors, bios) = (self.op(), self.sectors, self.bios.len());
        let slot = self.slot.take();
        if let Some(slot) = &slot {
            slot.account(op, sectors, bios);
        }
        // The tag goes back first so that the next request is on its way while owners are told.
        drop(slot);
        for bio in self.bios.drain(..) {
            bio.complete(result);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.slot.is_some() || !self.bios.is_empty() {
            self.finish(Err(abi::Errno::EIO));
        }
    }
}
