//! ATA disks: `sda`, `sdb`, …

use abi::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use block::{Asker, BioFlags, Limits, Op, Parent, Request, ScsiPlace, TimeoutAction};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::command::{Command, Direction, TRIM_ENTRIES, TRIM_ENTRY_BLOCKS};
use crate::identify::{BYTES, Identity, Reach};
use crate::port::Port;
use crate::registers::cap;
use crate::table::{MAX_PIECE, MAX_SEGMENTS, SLOTS};

/// 1,280 KiB a request, as far as the disk takes that.
const MAX_SECTORS: u64 = 2560;

/// Whether writes may be made durable one by one.
static USES_FUA: AtomicBool = AtomicBool::new(false);

/// From the next disk on, writes are made durable by themselves where a disk says that it does that. Without this
/// by a flush behind them: there are disks, and emulators of disks, that take such a write for a plain one. Before
/// [`crate::init`]; the word on the command line is `libata.fua=1`.
pub fn use_fua() {
    USES_FUA.store(true, Ordering::Relaxed);
}

/// A disk.
pub(crate) struct AtaDisk {
    port: Arc<Port>,
    device: u32,
    identity: Identity,
    data: [u8; BYTES],
    /// Commands go to the device's queue.
    is_queued: bool,
    slots: usize,
    /// log2 of the sectors of a block.
    block_shift: u32,
    uses_fua: bool,
}

impl AtaDisk {
    pub(crate) fn new(
        port: &Arc<Port>,
        device: u32,
        identity: Identity,
        data: [u8; BYTES],
    ) -> AtaDisk {
        let is_queued =
            port.cap & cap::NCQ != 0 && identity.queue_depth > 0 && identity.reach == Reach::Long;
        let slots = match is_queued {
            true => port.slots.min(identity.queue_depth),
            false => port.slots,
        };
        AtaDisk {
            port: port.clone(),
            device,
            data,
            is_queued,
            slots: slots.clamp(1, SLOTS),
            block_shift: identity.logical.trailing_zeros().saturating_sub(9),
            uses_fua: identity.has_fua && USES_FUA.load(Ordering::Relaxed),
            identity,
        }
    }

    /// The length in sectors of 512 bytes: at most 2^48 blocks of 4,096 bytes.
    pub(crate) fn sectors(&self) -> u64 {
        self.identity.blocks << self.block_shift
    }

    pub(crate) fn has_write_cache(&self) -> bool {
        self.identity.has_write_cache
    }

    pub(crate) fn flush_command(&self) -> Command {
        Command::flush(&self.identity)
    }

    fn transfer(&self, request: &Request, direction: Direction) -> Command {
        let tag = self.is_queued.then(|| request.tag());
        let block = request.sector() >> self.block_shift;
        let blocks = (request.sectors() >> self.block_shift) as u32;
        let is_durable = request.flags().contains(BioFlags::FUA);
        Command::transfer(self.identity.reach, tag, direction, block, blocks, is_durable)
    }

    fn command(&self, request: &Request) -> Option<Command> {
        match request.op() {
            Op::Read => Some(self.transfer(request, Direction::FromDevice)),
            Op::Write => Some(self.transfer(request, Direction::ToDevice)),
            Op::Flush => Some(self.flush_command()),
            Op::Discard => {
                let shift = self.block_shift;
                Some(Command::trim(request.sector() >> shift, request.sectors() >> shift))
            }
            Op::WriteZeroes => None,
        }
    }
}

impl block::Driver for AtaDisk {
    fn limits(&self) -> Limits {
        let identity = &self.identity;
        let per_block = 1u64 << self.block_shift;
        let blocks: u64 = if identity.reach == Reach::Long { 65536 } else { 256 };
        let trim = if identity.trim_blocks > 0 { TRIM_ENTRIES * TRIM_ENTRY_BLOCKS } else { 0 };
        Limits {
            queues: 1,
            queue_depth: self.slots,
            logical_block_size: identity.logical,
            physical_block_size: identity.physical,
            max_sectors: (blocks * per_block).min(MAX_SECTORS) as u32,
            max_segments: MAX_SEGMENTS,
            max_segment_size: MAX_PIECE,
            write_cache: identity.has_write_cache,
            fua: self.uses_fua,
            max_discard_sectors: trim * per_block,
            rotational: identity.is_rotational,
            ..Limits::default()
        }
    }

    fn submit(&self, _: usize, request: Request) -> core::result::Result<(), Request> {
        match self.command(&request) {
            Some(command) if request.tag() < self.slots => {
                self.port.submit(self.device, request, &command, None);
            }
            Some(_) => request.complete(Err(Errno::EIO)),
            None => request.complete(Err(Errno::EOPNOTSUPP)),
        }
        Ok(())
    }

    fn kick(&self, _: usize) {
        self.port.kick();
    }

    fn timed_out(&self, _: usize, tag: usize) -> TimeoutAction {
        self.port.timed_out(self.device, tag)
    }

    fn poll(&self, _: usize) -> usize {
        self.port.reap()
    }

    fn parent(&self) -> Option<Parent> {
        Some(self.port.parent())
    }

    fn scsi(&self) -> Option<ScsiPlace> {
        let name = &self.identity.name;
        // As a SCSI device it has four characters for the firmware: the last four, if they say something.
        let firmware = name.firmware.as_str();
        let last = firmware.len().saturating_sub(4);
        let rev = firmware.get(last..).unwrap_or(firmware);
        let mut place = self.port.scsi_place(0, "ATA", &name.model, rev);
        place.attributes.push(("queue_type", String::from("simple")));
        place.attributes.push(("queue_depth", alloc::format!("{}", self.slots)));
        Some(place)
    }

    fn ioctl(&self, _: Asker, command: u32, argument: usize) -> Result<usize> {
        self.port.answer(&self.data, command, argument).unwrap_or(Err(Errno::ENOTTY))
    }
}
