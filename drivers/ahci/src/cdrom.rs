//! CD-ROM drives: `sr0`, … Packets (ATA8-ACS §7.24) carry MMC-6 commands.

use abi::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use arch::lock::Once;
use block::{Asker, Limits, Medium, Op, Parent, Purpose, Request, ScsiPlace, TimeoutAction};
use scsi::{Cdb, Cdrom, Data, Failure, Inquiry, NO_MEDIUM_SECTORS, Sense, Transport};

use crate::command::{Command, Direction};
use crate::identify::BYTES;
use crate::port::Port;
use crate::table::{MAX_PIECE, MAX_SEGMENTS};

/// log2 of the sectors of a block of 2,048 bytes.
const BLOCK_SHIFT: u32 = 2;
const BLOCK_LEN: u32 = 2048;
const TIMEOUT_NS: u64 = 30_000_000_000;

/// The way to a drive.
struct Way {
    port: Arc<Port>,
    device: u32,
}

impl Transport for Way {
    fn execute(
        &self,
        cdb: &Cdb,
        data: Data<'_>,
        timeout_ns: u64,
    ) -> core::result::Result<usize, Failure> {
        self.port.packet(self.device, cdb, data, timeout_ns)
    }
}

/// What the drive has said of itself.
struct Answers {
    cdrom: Cdrom,
    inquiry: Inquiry,
    sectors: u64,
}

/// A drive.
pub(crate) struct Drive {
    way: Arc<Way>,
    data: [u8; BYTES],
    answers: Once<Answers>,
}

impl Drive {
    pub(crate) fn new(port: &Arc<Port>, device: u32, data: [u8; BYTES]) -> Drive {
        Drive { way: Arc::new(Way { port: port.clone(), device }), data, answers: Once::new() }
    }

    /// Asks the drive what it is and has. Once, before it becomes a disk.
    pub(crate) fn ask(&self) {
        let mut data = [0; Inquiry::LEN];
        let cdb = Cdb::inquiry(data.len() as u8);
        let moved = self.way.execute(&cdb, Data::In(&mut data), TIMEOUT_NS);
        let inquiry = moved.ok().and_then(|_| Inquiry::parse(&data)).unwrap_or_default();
        let cdrom = Cdrom::new(self.way.clone());
        let sectors = cdrom.sectors().unwrap_or(NO_MEDIUM_SECTORS);
        self.answers.call_once(|| Answers { cdrom, inquiry, sectors });
    }

    fn cdrom(&self) -> Result<&Cdrom> {
        self.answers.get().map(|answers| &answers.cdrom).ok_or(Errno::ENODEV)
    }

    /// Sectors of the medium when the drive was asked.
    pub(crate) fn sectors(&self) -> u64 {
        self.answers.get().map_or(NO_MEDIUM_SECTORS, |answers| answers.sectors)
    }

    /// The drive refused a read for this.
    pub(crate) fn note(&self, sense: Sense) {
        if let Ok(cdrom) = self.cdrom() {
            cdrom.note(sense);
        }
    }
}

impl block::Driver for Drive {
    fn limits(&self) -> Limits {
        Limits {
            queue_depth: self.way.port.slots,
            logical_block_size: BLOCK_LEN,
            physical_block_size: BLOCK_LEN,
            max_segments: MAX_SEGMENTS,
            max_segment_size: MAX_PIECE,
            rotational: true,
            removable: true,
            ..Limits::default()
        }
    }

    fn submit(&self, _: usize, request: Request) -> core::result::Result<(), Request> {
        let sectors_mask = (1u64 << BLOCK_SHIFT) - 1;
        let is_aligned = (request.sector() | request.sectors()) & sectors_mask == 0;
        if request.op() != Op::Read || !is_aligned {
            // What the drive itself would say.
            request.complete(Err(Errno::EREMOTEIO));
            return Ok(());
        }
        let block = request.sector() >> BLOCK_SHIFT;
        let cdb = Cdb::read(block, (request.sectors() >> BLOCK_SHIFT) as u32);
        let command = Command::packet(true, Direction::FromDevice);
        self.way.port.submit(self.way.device, request, &command, Some(cdb.padded()));
        Ok(())
    }

    fn kick(&self, _: usize) {
        self.way.port.kick();
    }

    fn timed_out(&self, _: usize, tag: usize) -> TimeoutAction {
        self.way.port.timed_out(self.way.device, tag)
    }

    fn poll(&self, _: usize) -> usize {
        self.way.port.reap()
    }

    fn parent(&self) -> Option<Parent> {
        Some(self.way.port.parent())
    }

    fn scsi(&self) -> Option<ScsiPlace> {
        let inquiry = &self.answers.get()?.inquiry;
        let (vendor, model, rev) = (&inquiry.vendor, &inquiry.model, &inquiry.revision);
        let mut place = self.way.port.scsi_place(5, vendor, model, rev);
        // One packet at a time.
        place.attributes.push(("queue_depth", String::from("1")));
        place.attributes.push(("queue_type", String::from("none")));
        Some(place)
    }

    fn opened(&self, purpose: Purpose) -> Result<Option<Medium>> {
        self.cdrom()?.opened(purpose)
    }

    fn closed(&self) {
        if let Ok(cdrom) = self.cdrom() {
            cdrom.closed();
        }
    }

    fn ioctl(&self, asker: Asker, command: u32, argument: usize) -> Result<usize> {
        match self.way.port.answer(&self.data, command, argument) {
            Some(answer) => answer,
            None => self.cdrom()?.ioctl(asker, command, argument),
        }
    }
}
