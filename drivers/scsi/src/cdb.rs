//! Command descriptor blocks: SPC-4 §4.3, SBC-3 §5, MMC-6 §6.

/// Operation codes.
pub(crate) mod op {
    pub(crate) const TEST_UNIT_READY: u8 = 0x00;
    pub(crate) const REQUEST_SENSE: u8 = 0x03;
    pub(crate) const INQUIRY: u8 = 0x12;
    pub(crate) const START_STOP_UNIT: u8 = 0x1b;
    pub(crate) const PREVENT_ALLOW: u8 = 0x1e;
    pub(crate) const READ_CAPACITY_10: u8 = 0x25;
    pub(crate) const READ_10: u8 = 0x28;
    pub(crate) const WRITE_10: u8 = 0x2a;
    pub(crate) const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    /// To a disk; to a CD-ROM drive it is another command.
    pub(crate) const UNMAP: u8 = 0x42;
    pub(crate) const READ_SUBCHANNEL: u8 = 0x42;
    pub(crate) const READ_TOC: u8 = 0x43;
    pub(crate) const GET_CONFIGURATION: u8 = 0x46;
    pub(crate) const GET_EVENT_STATUS: u8 = 0x4a;
    pub(crate) const PAUSE_RESUME: u8 = 0x4b;
    pub(crate) const READ_DISC_INFORMATION: u8 = 0x51;
    pub(crate) const READ_TRACK_INFORMATION: u8 = 0x52;
    pub(crate) const MODE_SENSE_6: u8 = 0x1a;
    pub(crate) const MODE_SENSE_10: u8 = 0x5a;
    pub(crate) const READ_16: u8 = 0x88;
    pub(crate) const WRITE_16: u8 = 0x8a;
    pub(crate) const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub(crate) const REPORT_LUNS: u8 = 0xa0;
    pub(crate) const READ_12: u8 = 0xa8;
    pub(crate) const READ_DVD_STRUCTURE: u8 = 0xad;
    pub(crate) const SET_CD_SPEED: u8 = 0xbb;
    pub(crate) const MECHANISM_STATUS: u8 = 0xbd;
    pub(crate) const READ_CD: u8 = 0xbe;
}

const FUA: u8 = 1 << 3;

/// A command descriptor block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; 16],
    len: u8,
}

impl Cdb {
    /// A block of 6, 10, 12 or 16 bytes that begins with these.
    fn new(len: u8, first: &[u8]) -> Cdb {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(first) {
            *to = *from;
        }
        Cdb { bytes, len }
    }

    /// As a program made it; `None` if it is empty or longer than 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Cdb> {
        let len = u8::try_from(bytes.len()).ok().filter(|len| (1..=16).contains(len))?;
        Some(Cdb::new(len, bytes))
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Cdb {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
        self
    }

    /// The bytes that count.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }

    /// All 16, zeros behind those that count.
    pub fn padded(&self) -> [u8; 16] {
        self.bytes
    }

    /// The operation code.
    pub fn operation(&self) -> u8 {
        self.bytes[0]
    }

    /// Whether the device is ready (SPC-4 §6.47).
    pub fn test_unit_ready() -> Cdb {
        Cdb::new(6, &[op::TEST_UNIT_READY])
    }

    /// What the last error was (SPC-4 §6.39).
    pub fn request_sense(len: u8) -> Cdb {
        Cdb::new(6, &[op::REQUEST_SENSE, 0, 0, 0, len])
    }

    /// What the device is (SPC-4 §6.6).
    pub fn inquiry(len: u8) -> Cdb {
        Cdb::new(6, &[op::INQUIRY, 0, 0, 0, len])
    }

    /// A page of vital product data (SPC-4 §7.8).
    pub fn vital_product_data(page: u8, len: u8) -> Cdb {
        Cdb::new(6, &[op::INQUIRY, 1, page, 0, len])
    }

    /// The last block and the size of blocks, where the number fits 32 bits (SBC-3 §5.15).
    pub fn read_capacity_10() -> Cdb {
        Cdb::new(10, &[op::READ_CAPACITY_10])
    }

    /// The same for all devices (SBC-3 §5.16).
    pub fn read_capacity_16(len: u32) -> Cdb {
        Cdb::new(16, &[op::SERVICE_ACTION_IN_16, 0x10]).put(10, &len.to_be_bytes())
    }

    /// The logical units behind a target (SPC-4 §6.33).
    pub fn report_luns(len: u32) -> Cdb {
        Cdb::new(12, &[op::REPORT_LUNS]).put(6, &len.to_be_bytes())
    }

    /// Reads blocks: with 10 bytes if the numbers fit, else with 16 (SBC-3 §5.11, §5.13).
    pub fn read(block: u64, blocks: u32) -> Cdb {
        Cdb::transfer(op::READ_10, op::READ_16, 0, block, blocks)
    }

    /// Writes blocks; `is_durable`: the command ends when they are on the medium (SBC-3 §5.37, §5.39).
    pub fn write(block: u64, blocks: u32, is_durable: bool) -> Cdb {
        let flags = if is_durable { FUA } else { 0 };
        Cdb::transfer(op::WRITE_10, op::WRITE_16, flags, block, blocks)
    }

    fn transfer(short: u8, long: u8, flags: u8, block: u64, blocks: u32) -> Cdb {
        match (u32::try_from(block), u16::try_from(blocks)) {
            (Ok(block), Ok(blocks)) => {
                let cdb = Cdb::new(10, &[short, flags]).put(2, &block.to_be_bytes());
                cdb.put(7, &blocks.to_be_bytes())
            }
            _ => {
                let cdb = Cdb::new(16, &[long, flags]).put(2, &block.to_be_bytes());
                cdb.put(10, &blocks.to_be_bytes())
            }
        }
    }

    /// Writes the device's cache to the medium, all of it (SBC-3 §5.26).
    pub fn synchronize_cache() -> Cdb {
        Cdb::new(10, &[op::SYNCHRONIZE_CACHE_10])
    }

    /// Says that blocks are unused, by a list of `len` bytes (SBC-3 §5.35).
    pub fn unmap(len: u16) -> Cdb {
        Cdb::new(10, &[op::UNMAP]).put(7, &len.to_be_bytes())
    }

    /// Starts or stops the medium; with `is_tray` loads or ejects it (SBC-3 §5.25).
    pub fn start_stop(is_start: bool, is_tray: bool) -> Cdb {
        let action = u8::from(is_tray) << 1 | u8::from(is_start);
        Cdb::new(6, &[op::START_STOP_UNIT, 0, 0, 0, action])
    }

    /// Locks or unlocks the door (SPC-4 §6.14).
    pub fn prevent_removal(is_locked: bool) -> Cdb {
        Cdb::new(6, &[op::PREVENT_ALLOW, 0, 0, 0, u8::from(is_locked)])
    }

    /// What has happened to the medium, asked once (MMC-6 §6.6).
    pub fn get_media_event(len: u16) -> Cdb {
        let cdb = Cdb::new(10, &[op::GET_EVENT_STATUS, 1, 0, 0, 1 << 4]);
        cdb.put(7, &len.to_be_bytes())
    }

    /// The table of contents from a track on (MMC-6 §6.25); format 0 the tracks, 1 the sessions.
    pub fn read_toc(format: u8, is_msf: bool, track: u8, len: u16) -> Cdb {
        let cdb = Cdb::new(10, &[op::READ_TOC, u8::from(is_msf) << 1, format, 0, 0, 0, track]);
        cdb.put(7, &len.to_be_bytes())
    }

    /// Stops sound for a while, or goes on with it (MMC-3 §6.1.8).
    pub fn pause_resume(is_resume: bool) -> Cdb {
        Cdb::new(10, &[op::PAUSE_RESUME, 0, 0, 0, 0, 0, 0, 0, u8::from(is_resume)])
    }

    /// The number of a disc in the catalogues of its makers (MMC-3 §6.1.18, format 2).
    pub fn read_catalogue_number(len: u16) -> Cdb {
        Cdb::new(10, &[op::READ_SUBCHANNEL, 0, 1 << 6, 2]).put(7, &len.to_be_bytes())
    }

    /// A mode page (SPC-4 §6.12).
    pub fn mode_sense(page: u8, len: u16) -> Cdb {
        Cdb::new(10, &[op::MODE_SENSE_10, 0, page]).put(7, &len.to_be_bytes())
    }

    /// Chooses a speed in kB/s for reading and writing; `0xffff` the best (MMC-6 §6.35).
    pub fn set_speed(read: u16) -> Cdb {
        let cdb = Cdb::new(12, &[op::SET_CD_SPEED]).put(2, &read.to_be_bytes());
        cdb.put(4, &u16::MAX.to_be_bytes())
    }

    /// Whether the command only asks, so that who may read the device may send it.
    pub fn is_harmless(&self) -> bool {
        matches!(
            self.operation(),
            op::TEST_UNIT_READY
                | op::REQUEST_SENSE
                | op::INQUIRY
                | op::READ_CAPACITY_10
                | op::READ_10
                | op::READ_12
                | op::READ_16
                | op::READ_CD
                | op::READ_TOC
                | op::GET_CONFIGURATION
                | op::GET_EVENT_STATUS
                | op::READ_DISC_INFORMATION
                | op::READ_TRACK_INFORMATION
                | op::READ_DVD_STRUCTURE
                | op::MECHANISM_STATUS
                | op::MODE_SENSE_6
                | op::MODE_SENSE_10
                | op::SERVICE_ACTION_IN_16
                | op::REPORT_LUNS
                | op::START_STOP_UNIT
        )
    }
}
