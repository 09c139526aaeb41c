//! Bringing a port's device up (AHCI 1.3.1 §10.1), and commands of the driver's own, which sleep until they end.

use abi::{Errno, Result};
use hw::DmaBuffer;
use scsi::{Cdb, Data, Failure, Sense};

use crate::command::{Command, DeviceError, Direction};
use crate::identify::BYTES;
use crate::port::{Lane, Port, State};
use crate::registers::{cap, event, status, wait};

/// A disk may spin up for half a minute (ATA8-ACS names no limit; drives state up to that).
const READY_NS: u64 = 30_000_000_000;
/// How long a command of the driver's own takes at most.
pub(crate) const OWN_NS: u64 = 10_000_000_000;
/// How long a device may work on what it has before a command of the driver's own goes.
const DRAIN_NS: u64 = 60_000_000_000;
/// The longest sense data that is asked for.
const SENSE_LEN: u8 = 18;

const SIGNATURE_ATAPI: u32 = 0xeb14_0101;
const SIGNATURE_MULTIPLIER: u32 = 0x9669_0101;
const SIGNATURE_ENCLOSURE: u32 = 0xc33c_0101;

/// What kind of device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Disk,
    Packets,
}

/// Why a command of the driver's own failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The device says no.
    Device(DeviceError),
    /// It says nothing, or is gone.
    Way(Errno),
}

impl Trouble {
    pub(crate) fn to_errno(self) -> Errno {
        match self {
            Trouble::Device(_) => Errno::EIO,
            Trouble::Way(error) => error,
        }
    }
}

/// A packet and its data.
struct Packet<'a> {
    cdb: &'a Cdb,
    direction: Direction,
    data: Option<(&'a DmaBuffer, usize)>,
    timeout_ns: u64,
}

impl Port {
    /// Begins to bring the port up: it has memory and power, and its link is being reset until [`Port::end_reset`].
    ///
    /// # Errors
    /// `ETIMEDOUT` if the port does not stop.
    pub(crate) fn begin_reset(&self) -> Result<()> {
        self.registers.mask();
        self.registers.stop_receiving()?;
        let (commands, received) = self.tables.addresses();
        self.registers.set_memory(commands, received);
        self.registers.power_up();
        self.registers.begin_reset();
        Ok(())
    }

    /// Ends the reset of the link, a millisecond after it began.
    pub(crate) fn end_reset(&self) {
        self.registers.end_reset();
    }

    /// After a reset that ended then: waits for the device and tells what it is.
    ///
    /// # Errors
    /// `ENODEV` without a device that is known here, `ETIMEDOUT` if it does not become ready.
    pub(crate) fn greet(&self, reset_ns: u64) -> Result<Kind> {
        let link = self.registers.wait_for_link(reset_ns);
        // The first FIS of the device is taken when the change that it comes with is acknowledged (§10.4.2).
        self.registers.clear_errors();
        link?;
        self.registers.wait_until_ready(READY_NS)?;
        let kind = match self.registers.signature() {
            SIGNATURE_MULTIPLIER | SIGNATURE_ENCLOSURE => {
                log::warn!("ata{}: a port multiplier or enclosure is left alone", self.host + 1);
                return Err(Errno::ENODEV);
            }
            SIGNATURE_ATAPI => Kind::Packets,
            _ => Kind::Disk,
        };
        self.registers.start(kind == Kind::Packets);
        Ok(kind)
    }

    /// Resets the link and with it the device. The port has stopped, or is made to.
    ///
    /// # Errors
    /// As of [`Port::greet`].
    pub(crate) fn reset(&self) -> Result<Kind> {
        // A port that does not stop is reset all the same (§10.4.2 wants it stopped).
        let stopped = self.registers.stop();
        self.registers.reset_link();
        stopped.or_else(|_| self.registers.stop())?;
        self.greet(arch::time::now_ns())
    }

    /// What the device says of itself.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn identify(&self, kind: Kind) -> Result<[u8; BYTES]> {
        let command = match kind {
            Kind::Disk => Command::identify(),
            Kind::Packets => Command::identify_packet(),
        };
        let mut data = [0; BYTES];
        self.read_own(&command, &mut data)?;
        Ok(data)
    }

    /// A command of the driver's own that reads.
    pub(crate) fn read_own(&self, command: &Command, data: &mut [u8]) -> Result<()> {
        let buffer = self.tables.buffer(data.len())?;
        let outcome = self.own(command, None, Some((&buffer, data.len())), OWN_NS);
        if let Err(Trouble::Way(_)) = outcome {
            self.keep_from(buffer);
        } else {
            buffer.copy_out(0, data);
        }
        outcome.map(|_| ()).map_err(Trouble::to_errno)
    }

    /// Gives memory back once the port cannot use it; never if it does not stop.
    fn keep_from(&self, buffer: DmaBuffer) {
        if self.registers.stop().is_err() {
            buffer.leak();
        }
    }

    /// Runs a command in slot 0; the bytes that were moved. The caller is the commander, and no request is with
    /// the device.
    pub(crate) fn own(
        &self,
        command: &Command,
        packet: Option<[u8; 16]>,
        data: Option<(&DmaBuffer, usize)>,
        timeout_ns: u64,
    ) -> core::result::Result<usize, Trouble> {
        let registers = &self.registers;
        registers.mask();
        {
            let mut lane = self.lane.lock();
            lane.kept = Some(self.tables.first_header());
            self.tables.put_own(command, packet, data);
        }
        // Until the device has taken the command, the task file says what the one before came to.
        registers.take_events();
        registers.issue(1);
        let has_failed = || registers.has_raised(event::TASK_FILE);
        let is_over = |issued| issued & 1 == 0 || has_failed() || !registers.is_linked();
        let outcome = wait(timeout_ns, || registers.issued(), is_over);
        let task_file = registers.task_file();
        let moved = self.tables.moved(0);
        {
            let mut lane = self.lane.lock();
            if let Some(header) = lane.kept.take() {
                self.tables.set_header(0, header);
            }
        }
        if let Err(error) = outcome {
            return Err(Trouble::Way(error));
        }
        if !registers.is_linked() {
            return Err(Trouble::Way(Errno::ENODEV));
        }
        let events = registers.take_events();
        if task_file & (status::ERROR | status::FAULT) != 0 {
            self.restart(packet.is_some()).map_err(Trouble::Way)?;
            return Err(Trouble::Device(DeviceError((task_file >> 8) as u8)));
        }
        if events & event::WAY != 0 {
            return Err(Trouble::Way(Errno::EIO));
        }
        Ok(moved)
    }

    /// Has the port work again after a command that failed (§6.2.2.1).
    ///
    /// # Errors
    /// `ETIMEDOUT`, `EIO`: the link has to be reset.
    pub(crate) fn restart(&self, is_atapi: bool) -> Result<()> {
        let registers = &self.registers;
        registers.stop()?;
        registers.clear_errors();
        if registers.is_busy() {
            if self.cap & cap::CLEAR_BUSY == 0 {
                return Err(Errno::EIO);
            }
            registers.override_busy()?;
        }
        registers.start(is_atapi);
        Ok(())
    }

    /// Runs `work` while no request is with the device, and none is issued.
    ///
    /// # Errors
    /// `ENODEV` if the device is gone, `EIO` when the machine goes off, `ETIMEDOUT`.
    pub(crate) fn exclusively<R>(&self, device: u32, work: impl FnOnce(&Port) -> R) -> Result<R> {
        let end = arch::time::now_ns().saturating_add(DRAIN_NS);
        loop {
            let guard = self.commander.lock();
            if self.pause(device, end)? {
                let result = work(self);
                self.go_on();
                return Ok(result);
            }
            drop(guard);
            // The thread of the port repairs something.
            let is_over = || (self.lane.lock().state != State::Recovering).then_some(());
            self.idle.wait_deadline(end, is_over).ok_or(Errno::ETIMEDOUT)?;
        }
    }

    /// Whether the device has nothing to do now, nor will get something.
    fn pause(&self, device: u32, end_ns: u64) -> Result<bool> {
        {
            let mut lane = self.lane.lock();
            match lane.state {
                _ if lane.device != device => return Err(Errno::ENODEV),
                State::Live => lane.state = State::Paused,
                State::Recovering => return Ok(false),
                State::Empty | State::Paused => return Err(Errno::ENODEV),
                State::Off => return Err(Errno::EIO),
            }
        }
        let look = || {
            let lane = self.lane.lock();
            let is_settled = lane.state != State::Paused || lane.turns.issued == 0;
            is_settled.then_some(lane.state == State::Paused)
        };
        let outcome = self.idle.wait_deadline(end_ns, look);
        if outcome.is_none() {
            self.go_on();
        }
        outcome.ok_or(Errno::ETIMEDOUT)
    }

    /// Requests may go to the device again.
    fn go_on(&self) {
        let mut lane = self.lane.lock();
        if lane.state != State::Paused {
            return;
        }
        self.set_live(&mut lane);
        drop(lane);
        // What happened meanwhile raised no interrupt.
        if !self.registers.is_linked() {
            self.stumble(event::LINK);
        }
    }

    pub(crate) fn set_live(&self, lane: &mut Lane) {
        lane.state = State::Live;
        self.registers.unmask();
        self.issue(lane);
    }

    /// Asks a drive of packets why it refused one. The caller is the commander.
    pub(crate) fn sense(&self) -> core::result::Result<Sense, Errno> {
        let mut data = [0; SENSE_LEN as usize];
        let buffer = self.tables.buffer(data.len())?;
        let packet = Packet {
            cdb: &Cdb::request_sense(SENSE_LEN),
            direction: Direction::FromDevice,
            data: Some((&buffer, data.len())),
            timeout_ns: OWN_NS,
        };
        match self.run_packet(&packet) {
            Ok(_) => buffer.copy_out(0, &mut data),
            Err(Trouble::Device(_)) => return Err(Errno::EIO),
            Err(Trouble::Way(error)) => {
                self.keep_from(buffer);
                return Err(error);
            }
        }
        Sense::parse(&data).ok_or(Errno::EIO)
    }

    fn run_packet(&self, packet: &Packet<'_>) -> core::result::Result<usize, Trouble> {
        let command = Command::packet(packet.data.is_some(), packet.direction);
        self.own(&command, Some(packet.cdb.padded()), packet.data, packet.timeout_ns)
    }

    /// Runs a packet of a program or of the driver, while no request is with the drive.
    ///
    /// # Errors
    /// The drive's sense data, `EINVAL` for a packet that is too long, `ENOMEM`, and those of the way there.
    pub(crate) fn packet(
        &self,
        device: u32,
        cdb: &Cdb,
        data: Data<'_>,
        timeout_ns: u64,
    ) -> core::result::Result<usize, Failure> {
        let len = data.len();
        let buffer = match len {
            0 => None,
            // The controller moves even numbers of bytes.
            _ => Some(self.tables.buffer(len.next_multiple_of(2)).map_err(Failure::Lost)?),
        };
        if let (Data::Out(bytes), Some(buffer)) = (&data, &buffer) {
            buffer.copy_in(0, bytes);
        }
        let direction = match data {
            Data::Out(_) => Direction::ToDevice,
            _ => Direction::FromDevice,
        };
        let memory = buffer.as_ref().map(|buffer| (buffer, len.next_multiple_of(2)));
        let packet = Packet { cdb, direction, data: memory, timeout_ns };
        let outcome = self.exclusively(device, |port| match port.run_packet(&packet) {
            Ok(moved) => (Ok(moved.min(len)), false),
            Err(Trouble::Device(_)) => {
                let why = port.sense();
                if why.is_err() {
                    // The port may have been stopped for that.
                    port.stumble(event::WAY);
                }
                (Err(why.map_or_else(Failure::Lost, Failure::Check)), false)
            }
            Err(Trouble::Way(error)) => {
                let is_stuck = port.registers.stop().is_err();
                port.stumble(event::WAY);
                (Err(Failure::Lost(error)), is_stuck)
            }
        });
        // Without the port to itself nothing was issued.
        let (outcome, is_stuck) =
            outcome.unwrap_or_else(|error| (Err(Failure::Lost(error)), false));
        match (&outcome, buffer) {
            (Err(_), Some(buffer)) if is_stuck => buffer.leak(),
            (Ok(moved), Some(buffer)) => {
                if let Data::In(bytes) = data
                    && let Some(part) = bytes.get_mut(..*moved)
                {
                    buffer.copy_out(0, part);
                }
            }
            _ => {}
        }
        outcome
    }
}
