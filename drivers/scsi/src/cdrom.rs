//! A CD-ROM drive: its medium, its door, and what programs ask of it (`linux/cdrom.h`; the kernel's
//! documents `ioctl/cdrom.rst` and `cdrom-standard.rst` say what each call does and which errors it has).

use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::lock::LockClass;
use arch::user;
use block::{Asker, Medium, Purpose};
use core::sync::atomic::{AtomicU32, Ordering};
use sched::Mutex;

use crate::contents::{self, LEAD_OUT};
use crate::sense::{Condition, Sense};
use crate::{Cdb, Data, Failure, Transport, generic};

static CDROM: LockClass = LockClass::new("scsi.cdrom", 546);

/// The sectors of 512 bytes that a drive without a medium shows.
pub const NO_MEDIUM_SECTORS: u64 = 0x1f_ffff;

const TIMEOUT_NS: u64 = 30_000_000_000;
/// How often a command is given again that a unit attention came before.
const ATTEMPTS: usize = 5;
/// How long who opens a drive waits while that says it becomes ready, and how long between two looks.
const SPIN_UP_NS: u64 = 15_000_000_000;
const LOOK_NS: u64 = 100_000_000;

/// `ioctl` numbers.
mod cmd {
    pub(super) const READ_TOC_HEADER: u32 = 0x5305;
    pub(super) const READ_TOC_ENTRY: u32 = 0x5306;
    pub(super) const STOP: u32 = 0x5307;
    pub(super) const START: u32 = 0x5308;
    pub(super) const EJECT: u32 = 0x5309;
    pub(super) const EJECT_SOFTWARE: u32 = 0x530f;
    pub(super) const MULTISESSION: u32 = 0x5310;
    pub(super) const GET_MCN: u32 = 0x5311;
    pub(super) const PAUSE: u32 = 0x5301;
    pub(super) const RESUME: u32 = 0x5302;
    pub(super) const NEXT_WRITABLE: u32 = 0x5394;
    pub(super) const LAST_WRITTEN: u32 = 0x5395;
    pub(super) const RESET: u32 = 0x5312;
    pub(super) const CLOSE_TRAY: u32 = 0x5319;
    pub(super) const SET_OPTIONS: u32 = 0x5320;
    pub(super) const CLEAR_OPTIONS: u32 = 0x5321;
    pub(super) const SELECT_SPEED: u32 = 0x5322;
    pub(super) const SELECT_DISC: u32 = 0x5323;
    pub(super) const MEDIA_CHANGED: u32 = 0x5325;
    pub(super) const DRIVE_STATUS: u32 = 0x5326;
    pub(super) const DISC_STATUS: u32 = 0x5327;
    pub(super) const SLOTS: u32 = 0x5328;
    pub(super) const LOCK_DOOR: u32 = 0x5329;
    pub(super) const DEBUG: u32 = 0x5330;
    pub(super) const GET_CAPABILITY: u32 = 0x5331;
}

/// `CDC_*`: what a drive can do.
mod can {
    pub(super) const CLOSE_TRAY: u32 = 0x1;
    pub(super) const OPEN_TRAY: u32 = 0x2;
    pub(super) const LOCK: u32 = 0x4;
    pub(super) const SELECT_SPEED: u32 = 0x8;
    pub(super) const SELECT_DISC: u32 = 0x10;
    pub(super) const MULTI_SESSION: u32 = 0x20;
    pub(super) const MCN: u32 = 0x40;
    pub(super) const MEDIA_CHANGED: u32 = 0x80;
    pub(super) const PLAY_AUDIO: u32 = 0x100;
    pub(super) const RESET: u32 = 0x200;
    pub(super) const DRIVE_STATUS: u32 = 0x800;
    pub(super) const GENERIC_PACKET: u32 = 0x1000;
    pub(super) const CD_R: u32 = 0x2000;
    pub(super) const CD_RW: u32 = 0x4000;
    pub(super) const DVD: u32 = 0x8000;
    pub(super) const DVD_R: u32 = 0x1_0000;
    pub(super) const DVD_RAM: u32 = 0x2_0000;
    /// Mount Rainier, read and written, and random writing: told until somebody tries.
    pub(super) const REWRITES: u32 = 0x38_0000;
}

/// `CDO_*`: what happens by itself.
mod option {
    pub(super) const AUTO_CLOSE: u32 = 0x1;
    pub(super) const AUTO_EJECT: u32 = 0x2;
    pub(super) const USE_FLAGS: u32 = 0x4;
    pub(super) const LOCK: u32 = 0x8;
    pub(super) const ALL: u32 = 0x1f;
}

/// `CDS_*`: what is in the drive.
mod state {
    pub(super) const NO_INFORMATION: usize = 0;
    pub(super) const NO_DISC: usize = 1;
    pub(super) const TRAY_OPEN: usize = 2;
    pub(super) const NOT_READY: usize = 3;
    pub(super) const DISC_OK: usize = 4;
    pub(super) const AUDIO: usize = 100;
    pub(super) const DATA: usize = 101;
    pub(super) const MIXED: usize = 105;
}

const LBA: u8 = 1;
const MSF: u8 = 2;

/// What a call returns when the drive refused its command: the status CHECK CONDITION.
const REFUSED: usize = 2;
/// Blocks behind the last one written that are left free before the next track.
const RUN_OUT: u64 = 7;

struct Door {
    options: u32,
    /// We have locked it.
    is_locked: bool,
    /// A program wants it to stay so.
    stays_locked: bool,
    /// The count of changes that a program was told of last, and that the one who opened the drive last saw.
    told: u32,
    seen: u32,
}

/// A CD-ROM drive.
pub struct Cdrom {
    transport: Arc<dyn Transport>,
    capabilities: u32,
    door: Mutex<Door>,
    /// How often there may have been another medium.
    changes: AtomicU32,
}

impl Cdrom {
    /// Takes a drive into service: asks what it can do.
    pub fn new(transport: Arc<dyn Transport>) -> Cdrom {
        let options = option::AUTO_CLOSE | option::USE_FLAGS | option::LOCK;
        let door = Door { options, is_locked: false, stays_locked: false, told: 0, seen: 0 };
        let door = Mutex::new(&CDROM, door);
        let capabilities = capabilities(&*transport);
        Cdrom { transport, capabilities, door, changes: AtomicU32::new(1) }
    }

    /// The length of the medium in the drive in sectors of 512 bytes, if it is ready now.
    ///
    /// # Errors
    /// `ENOMEDIUM`, and the errors of the way to the drive.
    pub fn sectors(&self) -> Result<u64> {
        self.sectors_within(0)
    }

    fn sectors_within(&self, patience_ns: u64) -> Result<u64> {
        self.wait_until_ready(patience_ns)?;
        let mut data = [0; 8];
        match self.retry(&Cdb::read_capacity_10(), &mut data) {
            Ok(_) => Ok(capacity(&data)),
            Err(Failure::Check(sense)) if sense.is_without_medium() => Err(Errno::ENOMEDIUM),
            // A medium that cannot be measured: an audio CD, or one to be written.
            Err(Failure::Check(_)) => Ok(NO_MEDIUM_SECTORS),
            Err(Failure::Lost(error)) => Err(error),
        }
    }

    /// Somebody opens the drive. To use the medium there has to be one; an open tray is closed for that, and
    /// the door is locked until [`Cdrom::closed`]. The medium if it was looked at.
    ///
    /// # Errors
    /// As of [`Cdrom::sectors`]; `EROFS` for who wants to write.
    pub fn opened(&self, purpose: Purpose) -> Result<Option<Medium>> {
        match purpose {
            Purpose::Look => return Ok(None),
            Purpose::Write => return Err(Errno::EROFS),
            Purpose::Read => {}
        }
        let mut door = self.door.lock();
        let sectors = match self.sectors_within(SPIN_UP_NS) {
            Err(Errno::ENOMEDIUM) if self.closes_itself(&door) => {
                self.simple(&Cdb::start_stop(true, true))?;
                self.sectors_within(SPIN_UP_NS)?
            }
            other => other?,
        };
        if self.has(can::LOCK) && door.options & option::LOCK != 0 {
            door.is_locked |= self.simple(&Cdb::prevent_removal(true)).is_ok();
        }
        // Relaxed: the lock orders who opens the drive.
        let changes = self.changes.load(Ordering::Relaxed);
        let is_new = core::mem::replace(&mut door.seen, changes) != changes;
        Ok(Some(Medium { sectors, is_new }))
    }

    /// Nobody has the drive open any more.
    pub fn closed(&self) {
        let mut door = self.door.lock();
        if door.is_locked && !door.stays_locked {
            self.unlock(&mut door);
        }
        if door.options & option::AUTO_EJECT != 0 && !door.stays_locked && self.has(can::OPEN_TRAY)
        {
            // Who closed the drive is told of nothing.
            let _ = self.simple(&Cdb::start_stop(false, true));
        }
    }

    fn unlock(&self, door: &mut Door) {
        door.is_locked = self.simple(&Cdb::prevent_removal(false)).is_err();
    }

    fn closes_itself(&self, door: &Door) -> bool {
        self.has(can::CLOSE_TRAY)
            && door.options & option::AUTO_CLOSE != 0
            && self.status() == state::TRAY_OPEN
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities & capability != 0
    }

    fn needs(&self, capability: u32) -> Result<()> {
        if self.has(capability) { Ok(()) } else { Err(Errno::ENOTTY) }
    }

    /// A command that reads, again after what the drive only wanted to tell.
    fn retry(&self, cdb: &Cdb, data: &mut [u8]) -> core::result::Result<usize, Failure> {
        let mut outcome = Err(Failure::Lost(Errno::EIO));
        for _ in 0..ATTEMPTS {
            outcome = self.transport.execute(cdb, Data::In(data), TIMEOUT_NS);
            let Err(Failure::Check(sense)) = outcome else { break };
            self.note(sense);
            if sense.condition() != Condition::Again {
                break;
            }
        }
        outcome
    }

    /// Counts what may mean another medium.
    pub fn note(&self, sense: Sense) {
        if sense.is_medium_changed() || sense.is_without_medium() {
            // Relaxed: only the number matters.
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn simple(&self, cdb: &Cdb) -> Result<()> {
        self.retry(cdb, &mut [])?;
        Ok(())
    }

    fn wait_until_ready(&self, patience_ns: u64) -> Result<()> {
        let end = arch::time::now_ns().saturating_add(patience_ns);
        loop {
            match self.retry(&Cdb::test_unit_ready(), &mut []) {
                Ok(_) => return Ok(()),
                Err(Failure::Lost(error)) => return Err(error),
                Err(Failure::Check(sense)) => match sense.condition() {
                    Condition::Recovered => return Ok(()),
                    Condition::Soon if arch::time::now_ns() < end => {
                        sched::timer::sleep_ns(LOOK_NS);
                    }
                    Condition::Soon => return Err(Errno::ENOMEDIUM),
                    _ => return Err(sense.to_errno()),
                },
            }
        }
    }

    /// What is in the drive, as `CDROM_DRIVE_STATUS` tells it.
    fn status(&self) -> usize {
        match self.retry(&Cdb::test_unit_ready(), &mut []) {
            Ok(_) => return state::DISC_OK,
            Err(Failure::Lost(_)) => return state::NO_INFORMATION,
            Err(Failure::Check(sense)) => match sense.condition() {
                Condition::Recovered => return state::DISC_OK,
                Condition::Soon => return state::NOT_READY,
                _ if sense.is_tray_open() => return state::TRAY_OPEN,
                _ => {}
            },
        }
        // Header of four bytes; the kind of event in its third; then the event and the state of the medium.
        let mut data = [0; 8];
        match self.retry(&Cdb::get_media_event(data.len() as u16), &mut data) {
            Ok(8..) if data[2] & 7 == 4 && data[5] & 2 != 0 => state::DISC_OK,
            Ok(8..) if data[2] & 7 == 4 && data[5] & 1 != 0 => state::TRAY_OPEN,
            _ => state::NO_DISC,
        }
    }

    /// Whether another medium came since the last time.
    fn take_change(&self) -> usize {
        let mut door = self.door.lock();
        // What it says does not matter, but whether it tells of a change.
        let _ = self.retry(&Cdb::test_unit_ready(), &mut []);
        let changes = self.changes.load(Ordering::Relaxed);
        usize::from(core::mem::replace(&mut door.told, changes) != changes)
    }

    /// What is on the disc, as `CDROM_DISC_STATUS` tells it.
    fn disc(&self) -> usize {
        match contents::count_tracks(&*self.transport) {
            Ok((0, 0)) => state::NO_INFORMATION,
            Ok((_, 0)) => state::DATA,
            Ok((0, _)) => state::AUDIO,
            Ok(_) => state::MIXED,
            Err(Errno::ENOMEDIUM) => state::NO_DISC,
            Err(_) => state::NO_INFORMATION,
        }
    }

    /// Opens or closes the tray, without a look at who uses the drive: it refuses while its door is locked.
    fn move_tray(&self, is_closed: bool) -> Result<usize> {
        let _door = self.door.lock();
        match self.retry(&Cdb::start_stop(is_closed, true), &mut []) {
            Ok(_) => Ok(0),
            Err(Failure::Check(_)) => Ok(REFUSED),
            Err(Failure::Lost(error)) => Err(error),
        }
    }

    fn set_auto_eject(&self, is_on: bool) -> Result<()> {
        self.needs(can::OPEN_TRAY)?;
        let mut door = self.door.lock();
        if door.stays_locked {
            return Err(Errno::EBUSY);
        }
        let both = option::AUTO_CLOSE | option::AUTO_EJECT;
        door.options = if is_on { door.options | both } else { door.options & !both };
        Ok(())
    }

    fn set_lock(&self, asker: Asker, is_locked: bool) -> Result<()> {
        if !self.has(can::LOCK) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut door = self.door.lock();
        if asker.users != 1 && !is_locked && !asker.may_administer {
            return Err(Errno::EBUSY);
        }
        self.simple(&Cdb::prevent_removal(is_locked))?;
        (door.is_locked, door.stays_locked) = (is_locked, is_locked);
        Ok(())
    }

    fn change_options(&self, change: impl FnOnce(u32) -> u32) -> usize {
        let mut door = self.door.lock();
        door.options = change(door.options) & option::ALL;
        door.options as usize
    }

    fn toc_header(&self, at: VirtAddr) -> Result<()> {
        let (first, last) = contents::header(&*self.transport)?;
        user::write_val(at, &[first, last])?;
        Ok(())
    }

    /// `struct cdrom_tocentry`: number, kind and format, the address from its fourth byte on, and a mode.
    fn toc_entry(&self, at: VirtAddr) -> Result<()> {
        let mut entry: [u8; 12] = user::read_val(at)?;
        let [number, _, format, ..] = entry;
        if !matches!(format, LBA | MSF) {
            return Err(Errno::EINVAL);
        }
        let track = contents::track(&*self.transport, number, format == MSF)?;
        if track.number != number && number != LEAD_OUT {
            return Err(Errno::EINVAL);
        }
        entry[1] = track.adr | track.control << 4;
        entry[4..8].copy_from_slice(&address(track.address, format));
        entry[8] = u8::from(track.is_data());
        user::write_val(at, &entry)?;
        Ok(())
    }

    /// `struct cdrom_multisession`: the address, whether there is more than one session, and the format.
    fn multisession(&self, at: VirtAddr) -> Result<()> {
        self.needs(can::MULTI_SESSION)?;
        let mut asked: [u8; 8] = user::read_val(at)?;
        let format = asked[5];
        if !matches!(format, LBA | MSF) {
            return Err(Errno::EINVAL);
        }
        let (track, has_more) = contents::last_session(&*self.transport, format == MSF)?;
        asked[..4].copy_from_slice(&address(track.address, format));
        asked[4] = u8::from(has_more);
        user::write_val(at, &asked)?;
        Ok(())
    }

    /// `struct cdrom_mcn`: thirteen digits and a zero.
    fn catalogue_number(&self, at: VirtAddr) -> Result<()> {
        let mut data = [0; 24];
        self.retry(&Cdb::read_catalogue_number(data.len() as u16), &mut data)?;
        let mut number = [0; 14];
        // Behind eight bytes and one that says whether there is a number.
        number.copy_from_slice(data.get(9..23).unwrap_or(&[0; 14]));
        number[13] = 0;
        user::write_val(at, &number)?;
        Ok(())
    }

    /// The end of the last track, which is the last block of a disc that was written at once.
    fn last_written(&self) -> Result<u64> {
        let end = contents::track(&*self.transport, LEAD_OUT, false)?;
        Ok(u32::from_be_bytes(end.address).into())
    }

    /// Answers an `ioctl`.
    ///
    /// # Errors
    /// `EBUSY` while the door is kept locked or others have the drive open, `EACCES`, `EINVAL`, `EFAULT`, `EOPNOTSUPP`,
    /// `ENOTTY` for what the drive cannot do and for what no CD-ROM drive knows.
    pub fn ioctl(&self, asker: Asker, command: u32, argument: usize) -> Result<usize> {
        let at = VirtAddr::new(argument as u64);
        match command {
            cmd::EJECT_SOFTWARE => self.set_auto_eject(argument != 0)?,
            cmd::LOCK_DOOR => self.set_lock(asker, argument != 0)?,
            cmd::START => self.simple(&Cdb::start_stop(true, false))?,
            cmd::STOP => self.simple(&Cdb::start_stop(false, false))?,
            cmd::READ_TOC_HEADER => self.toc_header(at)?,
            cmd::READ_TOC_ENTRY => self.toc_entry(at)?,
            cmd::MULTISESSION => self.multisession(at)?,
            cmd::SELECT_SPEED => {
                self.needs(can::SELECT_SPEED)?;
                self.simple(&Cdb::set_speed(speed(argument)))?;
            }
            cmd::SELECT_DISC => self.needs(can::SELECT_DISC)?,
            cmd::RESET if !asker.may_administer => return Err(Errno::EACCES),
            cmd::RESET => self.needs(can::RESET)?,
            cmd::DEBUG if !asker.may_administer => return Err(Errno::EACCES),
            cmd::DEBUG => return Ok(usize::from(argument != 0)),
            cmd::GET_MCN => self.catalogue_number(at)?,
            cmd::PAUSE => self.simple(&Cdb::pause_resume(false))?,
            cmd::RESUME => self.simple(&Cdb::pause_resume(true))?,
            cmd::LAST_WRITTEN => user::write_val(at, &self.last_written()?)?,
            cmd::NEXT_WRITABLE => user::write_val(at, &(self.last_written()? + RUN_OUT))?,
            _ => return self.answer(asker, command, argument),
        }
        Ok(0)
    }

    /// Calls whose answer is what they return.
    fn answer(&self, asker: Asker, command: u32, argument: usize) -> Result<usize> {
        match command {
            cmd::EJECT => self.move_tray(false),
            cmd::CLOSE_TRAY => self.move_tray(true),
            cmd::GET_CAPABILITY => Ok(self.capabilities as usize),
            cmd::DRIVE_STATUS => Ok(self.status()),
            cmd::DISC_STATUS => Ok(self.disc()),
            cmd::MEDIA_CHANGED => Ok(self.take_change()),
            cmd::SLOTS => Ok(1),
            cmd::SET_OPTIONS => Ok(self.change_options(|old| old | argument as u32)),
            cmd::CLEAR_OPTIONS => Ok(self.change_options(|old| old & !(argument as u32))),
            _ => generic::ioctl(&*self.transport, asker, command, argument),
        }
    }
}

/// Multiples of the speed of sound in kB/s; 0 for the best.
fn speed(argument: usize) -> u16 {
    match argument {
        0 => u16::MAX,
        times => u16::try_from(times.saturating_mul(177)).unwrap_or(u16::MAX),
    }
}

/// A block as the `int` that programs know, or minute, second and frame.
fn address(bytes: [u8; 4], format: u8) -> [u8; 4] {
    match format {
        MSF => [bytes[1], bytes[2], bytes[3], 0],
        _ => u32::from_be_bytes(bytes).to_le_bytes(),
    }
}

/// Sectors from the data of READ CAPACITY: the last block and the bytes of a block.
fn capacity(data: &[u8; 8]) -> u64 {
    let [a, b, c, d, e, f, g, h] = *data;
    let blocks = u64::from(u32::from_be_bytes([a, b, c, d])) + 1;
    match u32::from_be_bytes([e, f, g, h]) {
        512 => blocks,
        // What the drive says of raw blocks is not what it reads.
        0 | 2048 | 2336 | 2340 | 2352 => blocks * 4,
        _ => NO_MEDIUM_SECTORS,
    }
}

/// What the drive can do, from its capabilities page (MMC-3 §5.5.10).
fn capabilities(transport: &dyn Transport) -> u32 {
    let always = can::SELECT_SPEED
        | can::MULTI_SESSION
        | can::MCN
        | can::MEDIA_CHANGED
        | can::RESET
        | can::DRIVE_STATUS
        | can::GENERIC_PACKET
        | can::REWRITES;
    let mut data = [0; 128];
    let cdb = Cdb::mode_sense(0x2a, data.len() as u16);
    let Ok(moved) = transport.execute(&cdb, Data::In(&mut data), TIMEOUT_NS) else {
        return always | can::CLOSE_TRAY | can::OPEN_TRAY | can::LOCK;
    };
    let descriptors = usize::from(u16::from_be_bytes([data[6], data[7]]));
    let page = data.get(..moved.min(128)).and_then(|data| data.get(8 + descriptors..));
    let byte = |at: usize| page.and_then(|page| page.get(at)).copied().unwrap_or(0);
    let (reads, writes, plays, mechanism) = (byte(2), byte(3), byte(4), byte(6));
    let loading = mechanism >> 5;
    let rows = [
        (reads & 8 != 0, can::DVD),
        (writes & 1 != 0, can::CD_R),
        (writes & 2 != 0, can::CD_RW),
        (writes & 0x10 != 0, can::DVD_R),
        (writes & 0x20 != 0, can::DVD_RAM),
        (plays & 1 != 0, can::PLAY_AUDIO),
        (mechanism & 1 != 0, can::LOCK),
        (mechanism & 8 != 0, can::OPEN_TRAY),
        // A caddy and a slot cannot be closed.
        (loading == 1, can::CLOSE_TRAY),
    ];
    rows.iter().filter(|(is_able, _)| *is_able).fold(always, |sum, (_, flag)| sum | flag)
}
