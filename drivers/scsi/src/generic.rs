//! `SG_IO` and what belongs to it: a program's own commands (`scsi/sg.h`, version 3 of the interface).

use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use block::Asker;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Cdb, Data, Failure, Transport};

/// `ioctl` numbers.
mod cmd {
    pub(super) const GET_TIMEOUT: u32 = 0x2202;
    pub(super) const EMULATED_HOST: u32 = 0x2203;
    pub(super) const GET_RESERVED_SIZE: u32 = 0x2272;
    pub(super) const GET_VERSION: u32 = 0x2282;
    pub(super) const IO: u32 = 0x2285;
    pub(super) const GET_IDENTITY: u32 = 0x5382;
    pub(super) const GET_BUS: u32 = 0x5386;
}

/// Version 3.5.27.
const VERSION: u32 = 30_527;
/// What a reader of it may put into a command at least.
const RESERVED_SIZE: u32 = 128 << 10;
/// The longest command a program may hand over; what is longer than a command can be fails on the way.
const MAX_COMMAND: u8 = 32;

/// Where a device is: host, channel, target and unit, as two calls tell it. `None` for another call.
pub fn answer_address(address: [u32; 4], command: u32, argument: usize) -> Option<Result<usize>> {
    let at = VirtAddr::new(argument as u64);
    let [host, channel, target, unit] = address;
    let told = match command {
        cmd::GET_IDENTITY => {
            let place = target & 0xff | (unit & 0xff) << 8 | (channel & 0xff) << 16 | host << 24;
            user::write_val(at, &[place, host])
        }
        cmd::GET_BUS => user::write_val(at, &host),
        _ => return None,
    };
    Some(told.map(|()| 0).map_err(Errno::from))
}

/// Answers an `ioctl` that all SCSI devices know.
///
/// # Errors
/// As of [`run`], and `ENOTTY` for another one.
pub(crate) fn ioctl(
    transport: &dyn Transport,
    asker: Asker,
    command: u32,
    argument: usize,
) -> Result<usize> {
    let at = VirtAddr::new(argument as u64);
    match command {
        cmd::IO => run(transport, at, asker.may_do_raw_io)?,
        cmd::GET_VERSION => user::write_val(at, &VERSION)?,
        cmd::GET_RESERVED_SIZE => user::write_val(at, &RESERVED_SIZE)?,
        cmd::EMULATED_HOST => user::write_val(at, &1u32)?,
        // No time-out of its own: each command has one.
        cmd::GET_TIMEOUT => {}
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// The most bytes of one command.
const MAX_LEN: usize = 1 << 20;
const DEFAULT_TIMEOUT_NS: u64 = 60_000_000_000;
const LONGEST_TIMEOUT_NS: u64 = 3_600_000_000_000;
const INTERFACE: i32 = b'S' as i32;

const DIRECTION_NONE: i32 = -1;
const DIRECTION_TO_DEVICE: i32 = -2;
const DIRECTION_FROM_DEVICE: i32 = -3;
const DIRECTION_BOTH: i32 = -4;

const STATUS_CHECK_CONDITION: u8 = 2;
/// The driver has sense data.
const DRIVER_SENSE: u16 = 8;
const HOST_TIMED_OUT: u16 = 3;
const HOST_ERROR: u16 = 7;
const INFO_CHECK: u32 = 1;

/// `struct sg_io_hdr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    interface: i32,
    direction: i32,
    command_len: u8,
    max_sense_len: u8,
    vector_count: u16,
    data_len: u32,
    data: u64,
    command: u64,
    sense: u64,
    timeout_ms: u32,
    flags: u32,
    pack: i32,
    hole: u32,
    user: u64,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_len: u8,
    host_status: u16,
    driver_status: u16,
    residue: i32,
    duration_ms: u32,
    info: u32,
    end: u32,
}

/// A piece of the program's memory: address and length.
type Piece = [u64; 2];

/// Runs the command that the header at `at` describes. `may_all`: without it only what asks is allowed.
///
/// # Errors
/// `EINVAL`, `EPERM` (a command that changes something), `EIO` (more data than a command moves), `EFAULT`,
/// `ENOMEM`. What the device says is in the header.
fn run(transport: &dyn Transport, at: VirtAddr, may_all: bool) -> Result<()> {
    let mut header: Header = user::read_val(at)?;
    if header.interface != INTERFACE {
        return Err(Errno::EINVAL);
    }
    if !(1..=MAX_COMMAND).contains(&header.command_len) {
        return Err(Errno::EMSGSIZE);
    }
    let command = user::read_slice::<u8>(VirtAddr::new(header.command), header.command_len.into())?;
    let cdb = Cdb::from_bytes(&command);
    if !may_all && !cdb.is_some_and(|cdb| cdb.is_harmless()) {
        return Err(Errno::EPERM);
    }
    let pieces = pieces(&header)?;
    let len = header.data_len as usize;
    if len > MAX_LEN {
        return Err(Errno::EIO);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    let is_in = matches!(header.direction, DIRECTION_FROM_DEVICE | DIRECTION_BOTH);
    if !is_in || header.direction == DIRECTION_BOTH {
        gather(&pieces, &mut bytes)?;
    }
    let data = match header.direction {
        _ if len == 0 => Data::None,
        DIRECTION_TO_DEVICE => Data::Out(&bytes),
        DIRECTION_FROM_DEVICE | DIRECTION_BOTH => Data::In(&mut bytes),
        _ => return Err(Errno::EINVAL),
    };
    let timeout_ns = match header.timeout_ms {
        0 => DEFAULT_TIMEOUT_NS,
        ms => (u64::from(ms) * 1_000_000).min(LONGEST_TIMEOUT_NS),
    };
    let began = arch::time::now_ns();
    let outcome = match cdb {
        Some(cdb) => transport.execute(&cdb, data, timeout_ns),
        None => Err(Failure::Lost(Errno::EIO)),
    };
    header.duration_ms = (arch::time::now_ns().saturating_sub(began) / 1_000_000) as u32;
    let moved = report(&mut header, outcome)?;
    if is_in {
        scatter(&pieces, bytes.get(..moved).unwrap_or(&bytes))?;
    }
    user::write_val(at, &header)?;
    Ok(())
}

/// Puts the outcome into the header, and the sense data where the program wants it; how many bytes were moved.
fn report(header: &mut Header, outcome: core::result::Result<usize, Failure>) -> Result<usize> {
    (header.status, header.masked_status, header.message_status) = (0, 0, 0);
    (header.sense_len, header.host_status, header.driver_status) = (0, 0, 0);
    header.info = 0;
    let len = header.data_len as usize;
    let moved = match outcome {
        Ok(moved) => moved.min(len),
        Err(Failure::Check(sense)) => {
            let bytes = sense.to_bytes();
            let count = bytes.len().min(header.max_sense_len.into());
            if let Some(part) = bytes.get(..count).filter(|part| !part.is_empty()) {
                user::write_val(VirtAddr::new(header.sense), part)?;
            }
            header.sense_len = count as u8;
            header.status = STATUS_CHECK_CONDITION;
            header.masked_status = STATUS_CHECK_CONDITION >> 1;
            header.driver_status = DRIVER_SENSE;
            header.info = INFO_CHECK;
            0
        }
        Err(Failure::Lost(error)) => {
            let is_late = error == Errno::ETIMEDOUT;
            header.host_status = if is_late { HOST_TIMED_OUT } else { HOST_ERROR };
            header.info = INFO_CHECK;
            0
        }
    };
    header.residue = (len - moved) as i32;
    Ok(moved)
}

/// Where the data is: one piece, or a vector of them.
fn pieces(header: &Header) -> Result<Vec<Piece>> {
    let is_known = matches!(
        header.direction,
        DIRECTION_NONE | DIRECTION_TO_DEVICE | DIRECTION_FROM_DEVICE | DIRECTION_BOTH
    );
    if header.data_len != 0 && (!is_known || header.direction == DIRECTION_NONE) {
        return Err(Errno::EINVAL);
    }
    if header.vector_count == 0 {
        return Ok(alloc::vec![[header.data, header.data_len.into()]]);
    }
    Ok(user::read_slice(VirtAddr::new(header.data), header.vector_count.into())?)
}

/// Calls `each` with the pieces of the program's memory and the places in `len` bytes that belong together.
fn walk(
    pieces: &[Piece],
    len: usize,
    mut each: impl FnMut(VirtAddr, core::ops::Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut at = 0usize;
    for [address, piece_len] in pieces {
        let count = usize::try_from(*piece_len).unwrap_or(usize::MAX).min(len - at);
        if count > 0 {
            each(VirtAddr::new(*address), at..at + count)?;
        }
        at += count;
    }
    Ok(())
}

fn gather(pieces: &[Piece], bytes: &mut [u8]) -> Result<()> {
    walk(pieces, bytes.len(), |address, range| {
        let part = user::read_slice::<u8>(address, range.len())?;
        bytes.get_mut(range).ok_or(Errno::EFAULT)?.copy_from_slice(&part);
        Ok(())
    })
}

fn scatter(pieces: &[Piece], bytes: &[u8]) -> Result<()> {
    walk(pieces, bytes.len(), |address, range| {
        user::write_val(address, bytes.get(range).ok_or(Errno::EFAULT)?)?;
        Ok(())
    })
}
