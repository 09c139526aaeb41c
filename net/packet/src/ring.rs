//! `PACKET_RX_RING` (Documentation/networking/packet_mmap, `linux/if_packet.h`): frames in memory that the program
//! maps.
//!
//! `TPACKET_V1` and `TPACKET_V2` have slots of one size, `TPACKET_V3` blocks of frames that lie behind each
//! other. Who owns a slot or block tells its status word. What the program writes there is believed as far
//! as that: a wrong word loses frames of its own.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result};
use aio::ring::Ring;
use netdevice::Spread;
use vm::{Description, MapSource};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::capture::LinkAddress;

/// `TP_STATUS_USER`: the program's.
const USER: u32 = 1;
/// `TP_STATUS_LOSING`.
const LOSING: u32 = 4;
/// `TP_STATUS_BLK_TMO`: the block was closed because its time was over.
const TIMED_OUT: u32 = 32;
/// `TP_STATUS_TS_SOFTWARE`.
const SOFTWARE_TIME: u32 = 1 << 29;
/// `TPACKET_ALIGNMENT`.
const ALIGN: usize = 16;
/// The header of a block.
const BLOCK_HEADER: usize = 48;
/// How long a block is open when the program does not say.
const DEFAULT_OPEN_MS: u32 = 8;

/// `TPACKET_V*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Version {
    V1,
    V2,
    V3,
}

impl Version {
    pub(crate) fn new(number: i32) -> Result<Version> {
        Ok(match number {
            0 => Version::V1,
            1 => Version::V2,
            2 => Version::V3,
            _ => return Err(Errno::EINVAL),
        })
    }

    /// The size of the header of a frame (`PACKET_HDRLEN`).
    pub(crate) fn header_len(self) -> usize {
        if self == Version::V3 { 48 } else { 32 }
    }

    /// The header, and the address behind it.
    fn reserved(self) -> usize {
        self.header_len().next_multiple_of(ALIGN) + size_of::<LinkAddress>()
    }
}

/// `struct tpacket_req` and `tpacket_req3`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Request {
    pub(crate) block_size: u32,
    pub(crate) block_nr: u32,
    pub(crate) frame_size: u32,
    pub(crate) frame_nr: u32,
    /// The rest is of version 3.
    pub(crate) open_ms: u32,
    pub(crate) private_len: u32,
    pub(crate) features: u32,
}

/// A block that is being filled.
struct Open {
    /// Where the next frame goes.
    next: usize,
    /// Where the last one is.
    last: usize,
    count: u32,
    first_ns: u64,
    last_ns: u64,
}

/// A frame for a ring.
pub(crate) struct Arrival<'a> {
    pub(crate) bytes: Spread<'a>,
    /// Where what the program gets begins, how much of it there was, and how much is wanted.
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) kept: usize,
    /// The link's header among it.
    pub(crate) link_len: usize,
    pub(crate) is_raw: bool,
    pub(crate) address: LinkAddress,
    pub(crate) status: u32,
    pub(crate) time_ns: u64,
    /// Frames were lost before.
    pub(crate) is_losing: bool,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The program can read it.
    Shown,
    /// It lies in a block that is open; whether the block was opened for it.
    Kept {
        /// The block is to be closed after a while.
        is_first: bool,
        /// The block before was closed.
        has_closed: bool,
    },
    /// There is no room.
    Lost,
}

/// A ring.
pub(crate) struct RxRing {
    memory: Ring,
    mapped: Arc<AtomicUsize>,
    version: Version,
    reserve: usize,
    block_size: usize,
    frame_size: usize,
    frames_per_block: usize,
    frame_nr: usize,
    block_nr: usize,
    private_len: usize,
    /// How long a block is open.
    pub(crate) open_ns: u64,
    /// The next slot, or the block that is or will be open.
    head: usize,
    open: Option<Open>,
    sequence: u64,
    /// The program has all blocks.
    is_frozen: bool,
    pub(crate) freezes: u32,
}

impl RxRing {
    /// A ring as `request` wants it; a block of none is no ring.
    pub(crate) fn new(
        request: &Request,
        version: Version,
        reserve: usize,
    ) -> Result<Option<RxRing>> {
        let of = |number: u32| i32::try_from(number).map(|n| n as usize).map_err(|_| Errno::EINVAL);
        let (block_nr, frame_nr) = (of(request.block_nr)?, of(request.frame_nr)?);
        if block_nr == 0 {
            return if frame_nr == 0 { Ok(None) } else { Err(Errno::EINVAL) };
        }
        let (block_size, frame_size) = (of(request.block_size)?, of(request.frame_size)?);
        let private_len = (request.private_len as usize).next_multiple_of(8);
        let least = version.reserved() + reserve;
        let is_bad = block_size == 0
            || !block_size.is_multiple_of(4096)
            || frame_size < least
            || !frame_size.is_multiple_of(ALIGN)
            || frame_size > block_size
            || (version == Version::V3 && block_size <= BLOCK_HEADER + private_len + least);
        if is_bad {
            return Err(Errno::EINVAL);
        }
        let frames_per_block = block_size / frame_size;
        if frames_per_block.checked_mul(block_nr) != Some(frame_nr) {
            return Err(Errno::EINVAL);
        }
        let total = block_size.checked_mul(block_nr).filter(|total| *total <= 1 << 40);
        let open_ms = if request.open_ms == 0 { DEFAULT_OPEN_MS } else { request.open_ms };
        let ring = RxRing {
            memory: Ring::new(total.ok_or(Errno::ENOMEM)?)?,
            mapped: Arc::new(AtomicUsize::new(0)),
            version,
            reserve,
            block_size,
            frame_size,
            frames_per_block,
            frame_nr,
            block_nr,
            private_len,
            open_ns: u64::from(open_ms) * 1_000_000,
            head: 0,
            open: None,
            sequence: 0,
            is_frozen: false,
            freezes: 0,
        };
        Ok(Some(ring))
    }

    /// Whether a program has it mapped.
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire) > 0
    }

    pub(crate) fn is_v3(&self) -> bool {
        self.version == Version::V3
    }

    /// What a program maps: all of it.
    pub(crate) fn source(&self, offset: u64, len: u64) -> Result<Arc<dyn MapSource>> {
        if offset != 0 || len != (self.block_size * self.block_nr) as u64 {
            return Err(Errno::EINVAL);
        }
        Ok(Arc::new(Window { inner: self.memory.source("socket:"), mapped: self.mapped.clone() }))
    }

    /// Where the link's and the network's header of a frame lie in its slot.
    fn places(&self, link_len: usize, is_raw: bool) -> (usize, usize) {
        let reserved = self.version.reserved();
        if is_raw {
            let network = (reserved + link_len.max(16)).next_multiple_of(ALIGN) + self.reserve;
            (network - link_len, network)
        } else {
            let network = reserved.next_multiple_of(ALIGN) + 16 + self.reserve;
            (network, network)
        }
    }

    fn slot(&self, index: usize) -> usize {
        index / self.frames_per_block * self.block_size
            + index % self.frames_per_block * self.frame_size
    }

    /// The status word of the block's or slot's.
    fn status_at(&self, index: usize) -> usize {
        match self.version {
            Version::V3 => index * self.block_size + 8,
            _ => self.slot(index),
        }
    }

    /// Whether there is something to read.
    pub(crate) fn is_readable(&self) -> bool {
        let count = if self.is_v3() { self.block_nr } else { self.frame_nr };
        let last = (self.head + count - 1) % count;
        self.memory.load(self.status_at(last)) != 0
    }

    /// Takes a frame in.
    pub(crate) fn put(&mut self, frame: &Arrival<'_>) -> Outcome {
        if self.is_v3() { self.put_in_block(frame) } else { self.put_in_slot(frame) }
    }

    fn put_in_slot(&mut self, frame: &Arrival<'_>) -> Outcome {
        let at = self.slot(self.head);
        if self.memory.load(at) != 0 {
            return Outcome::Lost;
        }
        let (mac, net) = self.places(frame.link_len, frame.is_raw);
        let Some(room) = self.frame_size.checked_sub(mac) else { return Outcome::Lost };
        let snaplen = frame.kept.min(room);
        self.copy(at + mac, frame, snaplen);
        self.memory.write(at + self.version.header_len(), frame.address);
        let (seconds, rest) =
            (frame.time_ns / 1_000_000_000, (frame.time_ns % 1_000_000_000) as u32);
        let offsets = (mac as u32) | (net as u32) << 16;
        let (len, snaplen) = (frame.len as u32, snaplen as u32);
        let words = if self.version == Version::V1 {
            // `unsigned long tp_status` is two words.
            [
                (4, 0),
                (8, len),
                (12, snaplen),
                (16, offsets),
                (20, seconds as u32),
                (24, rest / 1000),
            ]
        } else {
            [(4, len), (8, snaplen), (12, offsets), (16, seconds as u32), (20, rest), (24, 0)]
        };
        words.iter().for_each(|(place, word)| self.memory.write(at + place, *word));
        let losing = if frame.is_losing { LOSING } else { 0 };
        self.memory.store(at, USER | frame.status | losing | SOFTWARE_TIME);
        self.head = (self.head + 1) % self.frame_nr;
        Outcome::Shown
    }

    fn put_in_block(&mut self, frame: &Arrival<'_>) -> Outcome {
        let (mac, net) = self.places(frame.link_len, frame.is_raw);
        let first = BLOCK_HEADER + self.private_len;
        let Some(room) = self.block_size.checked_sub(first + mac) else { return Outcome::Lost };
        let snaplen = frame.kept.min(room);
        let size = (mac + snaplen).next_multiple_of(8).min(self.block_size - first);
        let mut has_closed = false;
        if self.open.as_ref().is_some_and(|open| open.next + size > self.block_size) {
            self.close(0);
            has_closed = true;
        }
        let is_first = self.open.is_none();
        if is_first && !self.open(frame.time_ns) {
            return Outcome::Lost;
        }
        let base = self.head * self.block_size;
        let Some(open) = &mut self.open else { return Outcome::Lost };
        let at = base + open.next;
        (open.last, open.next) = (at, open.next + size);
        open.count += 1;
        open.last_ns = frame.time_ns;
        self.copy(at + mac, frame, snaplen);
        self.memory.write(at + self.version.header_len(), frame.address);
        let (seconds, rest) =
            (frame.time_ns / 1_000_000_000, (frame.time_ns % 1_000_000_000) as u32);
        let status = USER | frame.status | SOFTWARE_TIME;
        let words = [
            size as u32,
            seconds as u32,
            rest,
            snaplen as u32,
            frame.len as u32,
            status,
            (mac as u32) | (net as u32) << 16,
            0,
            0,
            0,
        ];
        words.iter().enumerate().for_each(|(n, word)| self.memory.write(at + n * 4, *word));
        Outcome::Kept { is_first, has_closed }
    }

    /// Whether the program has the next block, too.
    fn is_stuck(&mut self) -> bool {
        let is_stuck = self.memory.load(self.head * self.block_size + 8) != 0;
        if is_stuck && !self.is_frozen {
            self.freezes = self.freezes.saturating_add(1);
        }
        self.is_frozen = is_stuck;
        is_stuck
    }

    /// Opens the next block, if it is not the program's.
    fn open(&mut self, now_ns: u64) -> bool {
        if self.is_stuck() {
            return false;
        }
        let base = self.head * self.block_size;
        let next = BLOCK_HEADER + self.private_len;
        self.open = Some(Open { next, last: base, count: 0, first_ns: now_ns, last_ns: now_ns });
        true
    }

    /// Gives the open block to the program.
    fn close(&mut self, status: u32) {
        let Some(open) = self.open.take() else { return };
        let base = self.head * self.block_size;
        self.sequence += 1;
        // The last frame is followed by none.
        self.memory.write(open.last, 0u32);
        let stamp = |ns: u64| [(ns / 1_000_000_000) as u32, (ns % 1_000_000_000) as u32];
        let ([first_s, first_ns], [last_s, last_ns]) = (stamp(open.first_ns), stamp(open.last_ns));
        let words = [
            (0, self.version as u32),
            (4, BLOCK_HEADER as u32),
            (12, open.count),
            (16, (BLOCK_HEADER + self.private_len) as u32),
            (20, open.next as u32),
            (24, self.sequence as u32),
            (28, (self.sequence >> 32) as u32),
            (32, first_s),
            (36, first_ns),
            (40, last_s),
            (44, last_ns),
        ];
        words.iter().for_each(|(place, word)| self.memory.write(base + place, *word));
        self.memory.store(base + 8, USER | status);
        self.head = (self.head + 1) % self.block_nr;
        self.is_stuck();
    }

    /// The time of a block that was opened at `first_ns` or before is over; whether there was one.
    pub(crate) fn expire(&mut self) -> bool {
        let is_open = self.open.is_some();
        self.close(TIMED_OUT);
        is_open
    }

    fn copy(&self, at: usize, frame: &Arrival<'_>, len: usize) {
        let mut buffer = [0; 256];
        let mut done = 0;
        while done < len {
            let count = buffer.len().min(len - done);
            let piece = buffer.get_mut(..count).unwrap_or_default();
            if frame.bytes.copy_out(frame.start + done, piece) == 0 {
                break;
            }
            self.memory.copy_in(at + done, piece);
            done += count;
        }
    }
}

/// The mapped memory, which counts how often it is mapped.
struct Window {
    inner: Arc<dyn MapSource>,
    mapped: Arc<AtomicUsize>,
}

impl MapSource for Window {
    fn mapping(&self) -> Option<Arc<pagecache::Mapping>> {
        self.inner.mapping()
    }

    fn opened(&self) {
        self.mapped.fetch_add(1, Ordering::AcqRel);
    }

    fn closed(&self) {
        self.mapped.fetch_sub(1, Ordering::AcqRel);
    }

    fn describe(&self) -> Description {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame<'a>(bytes: &'a [u8], time_ns: u64) -> Arrival<'a> {
        Arrival {
            bytes: Spread { head: bytes, body: &[], chunks: &[] },
            start: 0,
            len: bytes.len(),
            kept: bytes.len(),
            link_len: 14,
            is_raw: true,
            address: LinkAddress { len: 6, ..LinkAddress::default() },
            status: 0,
            time_ns,
            is_losing: false,
        }
    }

    #[test]
    fn slots_are_filled_in_turn_until_the_program_has_them_all() {
        frames::init_host(64 << 20);
        let request = Request {
            block_size: 4096,
            block_nr: 1,
            frame_size: 2048,
            frame_nr: 2,
            ..Request::default()
        };
        let mut ring = RxRing::new(&request, Version::V2, 0).unwrap().unwrap();
        let bytes: Vec<u8> = (0..100).collect();
        assert!(!ring.is_readable());
        assert_eq!(ring.put(&frame(&bytes, 5_000_000_007)), Outcome::Shown);
        assert!(ring.is_readable());
        assert_eq!(ring.put(&frame(&bytes, 6)), Outcome::Shown);
        assert_eq!(ring.put(&frame(&bytes, 7)), Outcome::Lost);
        let words: [u32; 6] = ring.memory.read(0);
        assert_eq!(words[0] & 0xff, USER);
        assert_eq!(words[1..], [100, 100, 66 | 80 << 16, 5, 7]);
        assert_eq!(ring.memory.read::<[u8; 4]>(66), [0, 1, 2, 3]);
        ring.memory.store(0, 0);
        assert_eq!(ring.put(&frame(&bytes, 8)), Outcome::Shown);
    }

    #[test]
    fn blocks_are_closed_when_full_or_when_their_time_is_over() {
        frames::init_host(64 << 20);
        let request = Request {
            block_size: 4096,
            block_nr: 2,
            frame_size: 2048,
            frame_nr: 4,
            ..Request::default()
        };
        let mut ring = RxRing::new(&request, Version::V3, 0).unwrap().unwrap();
        let bytes = [7; 1500];
        assert_eq!(
            ring.put(&frame(&bytes, 1)),
            Outcome::Kept { is_first: true, has_closed: false }
        );
        assert_eq!(
            ring.put(&frame(&bytes, 2)),
            Outcome::Kept { is_first: false, has_closed: false }
        );
        assert!(!ring.is_readable());
        assert_eq!(ring.put(&frame(&bytes, 3)), Outcome::Kept { is_first: true, has_closed: true });
        assert!(ring.is_readable());
        assert!(ring.expire() && !ring.expire());
        let words: [u32; 6] = ring.memory.read(0);
        assert_eq!(words[..5], [2, 48, USER, 2, 48]);
        assert_eq!(ring.memory.load(4096 + 8), USER | TIMED_OUT);
        assert_eq!(ring.put(&frame(&bytes, 4)), Outcome::Lost);
        assert_eq!(ring.freezes, 1);
        ring.memory.store(8, 0);
        assert!(matches!(ring.put(&frame(&bytes, 5)), Outcome::Kept { .. }));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        frames::init_host(64 << 20);
        let good = Request {
            block_size: 4096,
            block_nr: 1,
            frame_size: 2048,
            frame_nr: 2,
            ..Request::default()
        };
        let is_bad = |request: Request| RxRing::new(&request, Version::V1, 0).is_err();
        assert!(!is_bad(good));
        assert!(is_bad(Request { block_size: 100, ..good }));
        assert!(is_bad(Request { block_size: 0, ..good }));
        assert!(is_bad(Request { frame_size: 16, ..good }));
        assert!(is_bad(Request { frame_size: 2040, ..good }));
        assert!(is_bad(Request { frame_nr: 3, ..good }));
        assert!(is_bad(Request { block_nr: 0, ..good }));
        assert!(is_bad(Request { block_nr: u32::MAX, ..good }));
    }
}
