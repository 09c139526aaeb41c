//! The memory of a port: list of commands, received FISes, and for each slot the table with the command's FIS,
//! its packet, and where its data is (AHCI 1.3.1 §4.2).
//!
//! A slot's table is written by who has the slot: the request whose tag it is. So no lock is needed for that.

use abi::{Errno, Result};
use block::{Op, Request};
use hw::DmaBuffer;
use spin::Once;

use crate::command::{Command, Direction};

/// Slots that a port may have.
pub(crate) const SLOTS: usize = 32;

/// Pieces of memory that a command may have.
pub(crate) const MAX_SEGMENTS: usize = 168;
/// The most bytes of a piece: its length has 22 bits.
pub(crate) const MAX_PIECE: u32 = 1 << 22;

const HEADER_LEN: usize = 32;
const FIS_WORDS: u32 = 5;
const HEADER_ATAPI: u32 = 1 << 5;
const HEADER_WRITE: u32 = 1 << 6;

const PACKET: usize = 0x40;
const PIECES: usize = 0x80;
const PIECE_LEN: usize = 16;
/// A table, a multiple of 128 bytes.
const TABLE_LEN: usize = PIECES + MAX_SEGMENTS * PIECE_LEN;
/// Where in its table a TRIM has its list: no other piece is needed then.
const RANGES: usize = 0x200;
pub(crate) const RANGES_LEN: usize = 512;

/// Where the received FISes are, behind the list of commands, and the table for the port's own commands.
const RECEIVED: usize = 0x400;
const OWN_TABLE: usize = 0x500;

/// A slot's entry in the list of commands, as far as it says something.
pub(crate) type Header = [u64; 2];

/// The memory of a port.
pub(crate) struct Tables {
    /// List of commands, received FISes, the port's own table.
    head: DmaBuffer,
    /// There once the port has had a device.
    tables: Once<DmaBuffer>,
    /// The controller reaches only the first 4 GiB.
    is_low: bool,
}

fn allocate(len: usize, is_low: bool) -> Result<DmaBuffer> {
    if is_low { DmaBuffer::new_low(len) } else { DmaBuffer::new(len) }
}

impl Tables {
    pub(crate) fn new(is_low: bool) -> Result<Tables> {
        Ok(Tables { head: allocate(4096, is_low)?, tables: Once::new(), is_low })
    }

    /// Sees to it that there are tables for so many slots.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn make(&self, slots: usize) -> Result<()> {
        let make = || allocate(slots * TABLE_LEN, self.is_low);
        self.tables.try_call_once(make).map(|_| ())
    }

    /// Where the port finds its commands and puts what it receives.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        let base = self.head.phys().0;
        (base, base + RECEIVED as u64)
    }

    /// Memory for a command's data that the device can reach.
    pub(crate) fn buffer(&self, len: usize) -> Result<DmaBuffer> {
        allocate(len, self.is_low)
    }

    /// The bytes that the device has moved for a slot's command.
    pub(crate) fn moved(&self, slot: usize) -> usize {
        self.head.read::<u32>(slot * HEADER_LEN + 4) as usize
    }

    /// Memory in the place of a request's own, where the controller does not reach that; what is written is in it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn bounce(&self, request: &Request) -> Result<Option<DmaBuffer>> {
        if !self.is_low {
            return Ok(None);
        }
        let mut is_reached = true;
        request.for_each_phys(MAX_PIECE, |address, len| {
            is_reached &= address.0 + u64::from(len) <= 1 << 32;
        });
        if is_reached {
            return Ok(None);
        }
        let len = u32::try_from(request.len_bytes()).map_err(|_| Errno::EINVAL)?;
        let buffer = self.buffer(len as usize)?;
        if request.op() == Op::Write {
            copy(request, |at, bytes| buffer.copy_in(at, bytes));
        }
        Ok(Some(buffer))
    }

    /// Writes a request's command into its slot's table; the header to go with it ([`Tables::set_header`]).
    ///
    /// # Errors
    /// `EIO` for more pieces than a table has room for.
    pub(crate) fn put(
        &self,
        slot: usize,
        command: &Command,
        packet: Option<[u8; 16]>,
        request: &Request,
        bounce: Option<&DmaBuffer>,
    ) -> Result<Header> {
        let tables = self.tables.get().ok_or(Errno::EIO)?;
        let base = slot * TABLE_LEN;
        let address = tables.phys().0 + base as u64;
        write_fis(tables, base, command, packet);
        let pieces = match (request.op(), bounce) {
            (Op::Read | Op::Write, None) => put_memory(tables, base, request)?,
            (Op::Read | Op::Write, Some(buffer)) => {
                put_run(tables, base, buffer.phys().0, request.len_bytes() as u32)
            }
            (Op::Discard, _) => {
                put_ranges(tables, base, command.ranges());
                put_piece(tables, base, 0, address + RANGES as u64, RANGES_LEN as u32);
                1
            }
            (Op::Flush | Op::WriteZeroes, _) => 0,
        };
        Ok(header(address, command, packet.is_some(), pieces))
    }

    /// The header of slot 0, which a command of the port's own takes.
    pub(crate) fn first_header(&self) -> Header {
        [self.head.read(0), self.head.read(8)]
    }

    /// Puts a slot's header into the list of commands. Under the port's lock: see [`crate::port::Lane::kept`].
    pub(crate) fn set_header(&self, slot: usize, [flags, table]: Header) {
        let at = slot * HEADER_LEN;
        self.head.write(at, flags);
        self.head.write(at + 8, table);
    }

    /// Writes a command of the port's own into slot 0, whose request is not with the device. Under the port's lock.
    pub(crate) fn put_own(
        &self,
        command: &Command,
        packet: Option<[u8; 16]>,
        data: Option<(&DmaBuffer, usize)>,
    ) {
        write_fis(&self.head, OWN_TABLE, command, packet);
        let pieces = data
            .map_or(0, |(buffer, len)| put_run(&self.head, OWN_TABLE, buffer.phys().0, len as u32));
        let table = self.head.phys().0 + OWN_TABLE as u64;
        self.set_header(0, header(table, command, packet.is_some(), pieces));
    }
}

fn header(table: u64, command: &Command, has_packet: bool, pieces: usize) -> Header {
    let atapi = if has_packet { HEADER_ATAPI } else { 0 };
    let is_write = command.direction == Direction::ToDevice && pieces > 0;
    let write = if is_write { HEADER_WRITE } else { 0 };
    // In the upper half the bytes that were moved are counted.
    [u64::from(FIS_WORDS | atapi | write | (pieces as u32) << 16), table]
}

fn write_fis(memory: &DmaBuffer, base: usize, command: &Command, packet: Option<[u8; 16]>) {
    let fis = command.to_fis();
    for (index, word) in fis.chunks_exact(4).enumerate() {
        if let Some(word) = word.first_chunk() {
            memory.write(base + index * 4, u32::from_le_bytes(*word));
        }
    }
    if let Some(packet) = packet {
        let [low, high] = [packet.first_chunk::<8>(), packet.last_chunk::<8>()];
        for (at, half) in [(PACKET, low), (PACKET + 8, high)] {
            memory.write(base + at, half.map_or(0, |half| u64::from_le_bytes(*half)));
        }
    }
}

fn put_piece(memory: &DmaBuffer, base: usize, index: usize, address: u64, len: u32) {
    let at = base + PIECES + index * PIECE_LEN;
    memory.write(at, address);
    // The length is one less than it says, and even bytes come in pairs.
    memory.write(at + 8, u64::from(len.wrapping_sub(1) & (MAX_PIECE - 1)) << 32);
}

/// Writes the list of a TRIM.
fn put_ranges(tables: &DmaBuffer, base: usize, mut ranges: impl Iterator<Item = u64>) {
    for at in (0..RANGES_LEN).step_by(8) {
        tables.write(base + RANGES + at, ranges.next().unwrap_or(0));
    }
}

/// Pieces for a request's memory; how many.
fn put_memory(tables: &DmaBuffer, base: usize, request: &Request) -> Result<usize> {
    let mut count = 0;
    request.for_each_phys(MAX_PIECE, |address, len| {
        if count < MAX_SEGMENTS {
            put_piece(tables, base, count, address.0, len);
        }
        count += 1;
    });
    if count > MAX_SEGMENTS { Err(Errno::EIO) } else { Ok(count) }
}

/// Pieces for contiguous memory; how many.
fn put_run(memory: &DmaBuffer, base: usize, address: u64, len: u32) -> usize {
    let mut count = 0;
    for offset in (0..len).step_by(MAX_PIECE as usize).take(MAX_SEGMENTS) {
        put_piece(memory, base, count, address + u64::from(offset), (len - offset).min(MAX_PIECE));
        count += 1;
    }
    count
}

/// Hands out the request's memory in parts that fit on the stack.
fn copy(request: &Request, mut each: impl FnMut(usize, &[u8])) {
    let mut at = 0;
    let mut bytes = [0; 512];
    for segment in request.segments() {
        for offset in (0..segment.len).step_by(512) {
            let n = (segment.len - offset).min(512) as usize;
            let Some(part) = bytes.get_mut(..n) else { continue };
            segment.page.copy_out((segment.offset + offset) as usize, part);
            each(at, part);
            at += n;
        }
    }
}

/// Copies what was read through a bounce buffer to where it belongs.
pub(crate) fn unbounce(request: &Request, buffer: &DmaBuffer) {
    let mut at = 0;
    let mut bytes = [0; 512];
    for segment in request.segments() {
        for offset in (0..segment.len).step_by(512) {
            let n = (segment.len - offset).min(512) as usize;
            let Some(part) = bytes.get_mut(..n) else { continue };
            buffer.copy_out(at, part);
            segment.page.copy_in((segment.offset + offset) as usize, part);
            at += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> DmaBuffer {
        frames::init_host(256 << 20);
        DmaBuffer::new(TABLE_LEN).unwrap()
    }

    fn piece(memory: &DmaBuffer, index: usize) -> (u64, u32, u32) {
        let at = PIECES + index * PIECE_LEN;
        (memory.read(at), memory.read(at + 8), memory.read(at + 12))
    }

    #[test]
    fn long_runs_are_cut_at_four_mebibytes() {
        let memory = memory();
        assert_eq!(put_run(&memory, 0, 1 << 33, MAX_PIECE), 1);
        assert_eq!(piece(&memory, 0), (1 << 33, 0, 0x3f_ffff));
        assert_eq!(put_run(&memory, 0, 1 << 33, MAX_PIECE + 512), 2);
        assert_eq!(piece(&memory, 1), ((1 << 33) + (1 << 22), 0, 511));
        assert_eq!(put_run(&memory, 0, 0, 0), 0);
    }

    #[test]
    fn tables_lie_as_the_controller_wants_them() {
        assert!(TABLE_LEN.is_multiple_of(128) && OWN_TABLE.is_multiple_of(128));
        assert!(RECEIVED.is_multiple_of(256) && RECEIVED >= SLOTS * HEADER_LEN);
        const { assert!(RANGES + RANGES_LEN <= TABLE_LEN && RANGES >= PIECES + PIECE_LEN) };
        frames::init_host(256 << 20);
        let tables = Tables::new(true).unwrap();
        let (commands, received) = tables.addresses();
        assert!(commands.is_multiple_of(1024) && received.is_multiple_of(256));
        let buffer = tables.buffer(512).unwrap();
        tables.put_own(
            &Command::packet(true, Direction::FromDevice),
            Some([7; 16]),
            Some((&buffer, 96)),
        );
        assert_eq!(tables.head.read::<u32>(0), 5 | 1 << 5 | 1 << 16);
        assert_eq!(tables.head.read::<u64>(8), commands + OWN_TABLE as u64);
        assert_eq!(tables.head.read::<u64>(OWN_TABLE + PACKET + 8), 0x0707_0707_0707_0707);
        assert_eq!(tables.head.read::<u32>(OWN_TABLE + PIECES + 12), 95);
    }
}
