//! ATA commands and the FIS that carries them: ATA8-ACS §7, Serial ATA 3.0 §10.3.4 (register, host to device) and
//! §13.6 (native command queuing).

use crate::identify::{Identity, Reach};

/// Bytes of a register FIS.
pub(crate) const FIS_LEN: usize = 20;

const HOST_TO_DEVICE: u8 = 0x27;
/// The FIS has a command, and not the control register.
const IS_COMMAND: u8 = 1 << 7;
/// Blocks are numbered, and not cylinders, heads and sectors.
const DEVICE_LBA: u8 = 1 << 6;
const DEVICE_FUA: u8 = 1 << 7;

mod op {
    pub(super) const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub(super) const READ_DMA_EXT: u8 = 0x25;
    pub(super) const READ_LOG_EXT: u8 = 0x2f;
    pub(super) const WRITE_DMA_EXT: u8 = 0x35;
    pub(super) const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub(super) const READ_FPDMA_QUEUED: u8 = 0x60;
    pub(super) const WRITE_FPDMA_QUEUED: u8 = 0x61;
    pub(super) const PACKET: u8 = 0xa0;
    pub(super) const IDENTIFY_PACKET_DEVICE: u8 = 0xa1;
    pub(super) const READ_DMA: u8 = 0xc8;
    pub(super) const WRITE_DMA: u8 = 0xca;
    pub(super) const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub(super) const FLUSH_CACHE: u8 = 0xe7;
    pub(super) const FLUSH_CACHE_EXT: u8 = 0xea;
    pub(super) const IDENTIFY_DEVICE: u8 = 0xec;
}

/// Feature of DATA SET MANAGEMENT.
const TRIM: u16 = 1;
/// Feature of PACKET: the data goes by DMA.
const PACKET_DMA: u16 = 1;

/// The log that says which queued command failed.
const LOG_NCQ_ERROR: u64 = 0x10;

/// Blocks that one entry of a TRIM's ranges covers, and the entries in 512 bytes.
pub(crate) const TRIM_ENTRY_BLOCKS: u64 = 0xffff;
pub(crate) const TRIM_ENTRIES: u64 = 64;

/// Which way the data of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromDevice,
    ToDevice,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) code: u8,
    pub(crate) features: u16,
    pub(crate) block: u64,
    pub(crate) count: u16,
    pub(crate) device: u8,
    /// It goes to the device's queue.
    pub(crate) is_queued: bool,
    pub(crate) direction: Direction,
    /// The blocks of a TRIM: the first one and how many.
    unused: (u64, u64),
}

impl Command {
    const fn new(code: u8) -> Command {
        Command {
            code,
            features: 0,
            block: 0,
            count: 0,
            device: 0,
            is_queued: false,
            direction: Direction::FromDevice,
            unused: (0, 0),
        }
    }

    pub(crate) const fn identify() -> Command {
        Command::new(op::IDENTIFY_DEVICE)
    }

    pub(crate) const fn identify_packet() -> Command {
        Command::new(op::IDENTIFY_PACKET_DEVICE)
    }

    pub(crate) const fn standby() -> Command {
        Command::new(op::STANDBY_IMMEDIATE)
    }

    /// Reads the page that says which queued command failed.
    pub(crate) const fn read_error_log() -> Command {
        Command { block: LOG_NCQ_ERROR, count: 1, ..Command::new(op::READ_LOG_EXT) }
    }

    /// Announces a packet whose data, if there is some, goes this way.
    pub(crate) const fn packet(has_data: bool, direction: Direction) -> Command {
        let features = if has_data { PACKET_DMA } else { 0 };
        Command { features, direction, ..Command::new(op::PACKET) }
    }

    /// Writes the device's cache to the medium.
    pub(crate) fn flush(identity: &Identity) -> Command {
        let is_long = identity.has_long_flush;
        Command::new(if is_long { op::FLUSH_CACHE_EXT } else { op::FLUSH_CACHE })
    }

    /// Says that these blocks are unused, by a list of 512 bytes ([`Command::ranges`]).
    pub(crate) fn trim(block: u64, blocks: u64) -> Command {
        Command {
            features: TRIM,
            count: 1,
            device: DEVICE_LBA,
            direction: Direction::ToDevice,
            unused: (block, blocks),
            ..Command::new(op::DATA_SET_MANAGEMENT)
        }
    }

    /// The list of a TRIM: as many entries as the blocks need, at most [`TRIM_ENTRIES`].
    pub(crate) fn ranges(&self) -> impl Iterator<Item = u64> + use<> {
        let (block, blocks) = self.unused;
        (0..TRIM_ENTRIES).map_while(move |index| {
            let done = index * TRIM_ENTRY_BLOCKS;
            let count = blocks.checked_sub(done).filter(|left| *left > 0)?.min(TRIM_ENTRY_BLOCKS);
            Some(block.wrapping_add(done) & 0xffff_ffff_ffff | count << 48)
        })
    }

    /// Reads or writes `blocks` blocks; they are in the disk's reach. `tag` names a command of the queue.
    pub(crate) fn transfer(
        reach: Reach,
        tag: Option<usize>,
        direction: Direction,
        block: u64,
        blocks: u32,
        is_durable: bool,
    ) -> Command {
        let is_write = direction == Direction::ToDevice;
        // 65,536 and 256 blocks are 0.
        let count = blocks as u16;
        if let Some(tag) = tag {
            let code = if is_write { op::WRITE_FPDMA_QUEUED } else { op::READ_FPDMA_QUEUED };
            let fua = if is_durable { DEVICE_FUA } else { 0 };
            return Command {
                features: count,
                count: (tag as u16) << 3,
                device: DEVICE_LBA | fua,
                is_queued: true,
                block,
                direction,
                ..Command::new(code)
            };
        }
        let code = match (reach, is_write) {
            (Reach::Short, false) => op::READ_DMA,
            (Reach::Short, true) => op::WRITE_DMA,
            (Reach::Long, false) => op::READ_DMA_EXT,
            (Reach::Long, true) if is_durable => op::WRITE_DMA_FUA_EXT,
            (Reach::Long, true) => op::WRITE_DMA_EXT,
        };
        let (count, device) = match reach {
            // The upper four bits of 28 are in the device register.
            Reach::Short => (count & 0xff, DEVICE_LBA | (block >> 24) as u8 & 15),
            Reach::Long => (count, DEVICE_LBA),
        };
        let block = if reach == Reach::Short { block & 0xff_ffff } else { block };
        Command { block, count, device, direction, ..Command::new(code) }
    }

    /// The FIS.
    pub(crate) fn to_fis(self) -> [u8; FIS_LEN] {
        let [b0, b1, b2, b3, b4, b5, ..] = self.block.to_le_bytes();
        let ([f0, f1], [c0, c1]) = (self.features.to_le_bytes(), self.count.to_le_bytes());
        let (head, device) = ([HOST_TO_DEVICE, IS_COMMAND, self.code, f0], self.device);
        let [h0, h1, h2, h3] = head;
        [h0, h1, h2, h3, b0, b1, b2, device, b3, b4, b5, f1, c0, c1, 0, 0, 0, 0, 0, 0]
    }
}

/// What a device says about a command that failed: the error register (ATA8-ACS §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceError(pub(crate) u8);

impl DeviceError {
    const NO_SUCH_BLOCK: u8 = 1 << 4;
    const UNCORRECTABLE: u8 = 1 << 6;
    const INTERFACE_CRC: u8 = 1 << 7;

    /// Whether trying again may help: the medium is not at fault, and the block exists.
    pub(crate) fn is_retryable(self) -> bool {
        self.0 & (Self::UNCORRECTABLE | Self::NO_SUCH_BLOCK) == 0
    }

    /// Whether the link spoilt the data.
    pub(crate) fn is_of_the_link(self) -> bool {
        self.0 & Self::INTERFACE_CRC != 0
    }
}

impl core::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "error {:#04x}", self.0)
    }
}

/// Bytes of the page that says which queued command failed.
pub(crate) const ERROR_LOG_LEN: usize = 512;

/// The queued command that failed and its error (ATA8-ACS §A.7, log 10h); `None` if it was none of the queue,
/// or the page is damaged.
pub(crate) fn failed_tag(page: &[u8; ERROR_LOG_LEN]) -> Option<(usize, DeviceError)> {
    let sum = page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let [head, _, _, error, ..] = *page;
    let is_unqueued = head & 0x80 != 0;
    (sum == 0 && !is_unqueued).then_some((usize::from(head & 31), DeviceError(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(reach: Reach, tag: Option<usize>, direction: Direction) -> [u8; FIS_LEN] {
        Command::transfer(reach, tag, direction, 0x0123_4567, 8, true).to_fis()
    }

    #[test]
    fn queued_commands_have_count_and_tag_in_each_others_place() {
        let fis = transfer(Reach::Long, Some(17), Direction::ToDevice);
        assert_eq!(fis[..4], [0x27, 0x80, 0x61, 8]);
        assert_eq!(fis[4..8], [0x67, 0x45, 0x23, 0xc0]);
        assert_eq!(fis[8..14], [1, 0, 0, 0, 17 << 3, 0]);
        let all = Command::transfer(Reach::Long, Some(0), Direction::FromDevice, 0, 65536, false);
        assert_eq!((all.to_fis()[3], all.to_fis()[11]), (0, 0));
    }

    #[test]
    fn long_and_short_commands() {
        let fis = transfer(Reach::Long, None, Direction::ToDevice);
        assert_eq!((fis[2], fis[7], fis[8], fis[12]), (0x3d, 0x40, 1, 8));
        let fis = transfer(Reach::Long, None, Direction::FromDevice);
        assert_eq!(fis[2], 0x25);
        let fis = transfer(Reach::Short, None, Direction::ToDevice);
        assert_eq!((fis[2], fis[7], fis[8], fis[12]), (0xca, 0x41, 0, 8));
        let all = Command::transfer(Reach::Short, None, Direction::FromDevice, 0, 256, false);
        assert_eq!((all.to_fis()[2], all.to_fis()[12], all.to_fis()[13]), (0xc8, 0, 0));
    }

    #[test]
    fn ranges_cover_what_is_trimmed() {
        let ranges: Vec<u64> = Command::trim(1000, 70_000).ranges().collect();
        assert_eq!(ranges, [1000 | 0xffff << 48, 66_535 | 4465 << 48]);
        assert_eq!(Command::trim(0, u64::MAX).ranges().count(), 64);
        assert_eq!(Command::trim(5, 0).ranges().count(), 0);
    }

    #[test]
    fn the_error_log_names_a_command() {
        let mut page = [0; ERROR_LOG_LEN];
        (page[0], page[2], page[3]) = (5, 0x41, 0x40);
        page[511] = 0u8.wrapping_sub(5 + 0x41 + 0x40);
        assert_eq!(failed_tag(&page), Some((5, DeviceError(0x40))));
        assert!(!DeviceError(0x40).is_retryable() && DeviceError(0x84).is_retryable());
        page[0] = 0x85;
        page[511] = page[511].wrapping_sub(0x80);
        assert_eq!(failed_tag(&page), None, "it was not of the queue");
        page[0] = 6;
        assert_eq!(failed_tag(&page), None, "the sum is wrong");
    }
}
