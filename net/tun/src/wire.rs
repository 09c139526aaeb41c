//! What stands before a packet in what programs read and write: `struct tun_pi`, then `struct virtio_net_hdr`
//! (Virtio 1.2 §5.1.6) with as much behind it as `TUNSETVNETHDRSZ` says.

use abi::tun::TUN_PKT_STRIP;
use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use netdevice::{ChecksumRequest, Chunk, Frame, Received, Segmentation};
use smallvec::SmallVec;

/// Bytes of `struct tun_pi`.
pub(crate) const INFO: usize = 4;
/// Bytes of `struct virtio_net_hdr`.
pub(crate) const LEAST_HEADER: usize = 10;
/// The header of Ethernet.
const ETHERNET: usize = 14;
/// The longest packet that is taken.
const LONGEST: usize = 8 << 20;
/// The longest stretch of a stream: no packet of either version is longer, behind Ethernet's header with a tag.
const LONGEST_STRETCH: usize = 65535 + ETHERNET + 4;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, `VIRTIO_NET_HDR_F_DATA_VALID`.
const NEEDS_CHECKSUM: u8 = 1;
const SUM_IS_GOOD: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_*`.
const WHOLE: u8 = 0;
const TCP4: u8 = 1;
const UDP: u8 = 3;
const TCP6: u8 = 4;
const ECN: u8 = 0x80;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// How packets stand in what a program reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Frames of Ethernet, and not packets.
    pub(crate) is_tap: bool,
    /// `struct tun_pi` comes first.
    pub(crate) has_info: bool,
    /// The bytes of `struct virtio_net_hdr` and what follows it, if they are there.
    pub(crate) header: Option<usize>,
}

/// What a `struct virtio_net_hdr` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NetHeader {
    is_sum_good: bool,
    checksum: Option<ChecksumRequest>,
    segmentation: Option<Segmentation>,
}

impl NetHeader {
    /// Of what stands before `len` bytes. `EINVAL` for what does not fit there.
    fn parse(bytes: [u8; LEAST_HEADER], len: usize) -> Result<NetHeader> {
        let [flags, kind, h0, h1, s0, s1, b0, b1, o0, o1] = bytes;
        let head = usize::from(u16::from_le_bytes([h0, h1]));
        let size = u16::from_le_bytes([s0, s1]);
        let (start, offset) = (u16::from_le_bytes([b0, b1]), u16::from_le_bytes([o0, o1]));
        let needs_sum = flags & NEEDS_CHECKSUM != 0;
        let end = usize::from(start) + usize::from(offset) + 2;
        if head > len || (needs_sum && end > len) {
            return Err(Errno::EINVAL);
        }
        let is_v6 = match kind & !ECN {
            WHOLE => None,
            TCP4 => Some(false),
            TCP6 => Some(true),
            UDP if size > 0 => None,
            _ => return Err(Errno::EINVAL),
        };
        if is_v6.is_some() && size == 0 {
            return Err(Errno::EINVAL);
        }
        let checksum = needs_sum.then_some(ChecksumRequest { start, offset });
        // Without a sum to be computed there is nothing that cuts.
        let segmentation = is_v6.filter(|_| needs_sum).map(|is_v6| Segmentation { is_v6, size });
        let is_sum_good = needs_sum || flags & SUM_IS_GOOD != 0;
        Ok(NetHeader { is_sum_good, checksum, segmentation })
    }

    /// Of a frame that a program reads.
    fn of(frame: &Frame) -> [u8; LEAST_HEADER] {
        let mut bytes = [0; LEAST_HEADER];
        let mut put = |at: usize, value: u16| {
            let value = value.to_le_bytes();
            bytes.iter_mut().skip(at).zip(value).for_each(|(to, from)| *to = from);
        };
        let Some(sum) = frame.checksum else { return bytes };
        put(6, sum.start);
        put(8, sum.offset);
        if let Some(cut) = frame.segmentation {
            put(2, headers_len(frame, sum));
            put(4, cut.size);
            bytes[1] = if cut.is_v6 { TCP6 } else { TCP4 };
        }
        bytes[0] = NEEDS_CHECKSUM;
        bytes
    }
}

/// The bytes of all headers of a stretch of TCP.
fn headers_len(frame: &Frame, sum: ChecksumRequest) -> u16 {
    let mut offset = [0];
    frame.bytes().copy_out(usize::from(sum.start) + 12, &mut offset);
    sum.start.saturating_add(u16::from(offset[0] >> 4) * 4)
}

/// `ETH_P_*` of a packet by its version; 0 for what is none.
fn protocol_of(first: u8) -> u16 {
    match first >> 4 {
        4 => IPV4,
        6 => IPV6,
        _ => 0,
    }
}

/// Takes a packet that a program writes.
///
/// # Errors
/// `EINVAL` for one that is shorter than what it has to have, or no packet; `EFAULT`; `ENOBUFS`.
pub(crate) fn take(format: Format, source: &mut Source<'_>) -> Result<Received> {
    let mut info = [0; INFO];
    if format.has_info {
        take_header(source, &mut info)?;
    }
    let mut told = NetHeader::default();
    if let Some(size) = format.header {
        let mut bytes = [0; LEAST_HEADER];
        let len = source.remaining().checked_sub(size).ok_or(Errno::EINVAL)?;
        source.take_all(&mut bytes)?;
        source.advance(size.saturating_sub(LEAST_HEADER));
        told = NetHeader::parse(bytes, len)?;
    }
    if source.remaining() > LONGEST {
        return Err(Errno::ENOBUFS);
    }
    // What is longer, which Linux takes too, is no packet: one write would be cut to millions of frames.
    told.segmentation = told.segmentation.filter(|_| source.remaining() <= LONGEST_STRETCH);
    if format.is_tap && source.remaining() < ETHERNET {
        return Err(Errno::EINVAL);
    }
    let mut data: SmallVec<[Chunk; 2]> = SmallVec::new();
    while let Some(chunk) = Chunk::from_source(source)? {
        // A source that ends in the middle of a page could not be read.
        let is_short = chunk.len() < 4096 && !source.is_empty();
        data.push(chunk);
        if is_short {
            return Err(Errno::EFAULT);
        }
    }
    let mut received = Received::new(data, told.is_sum_good);
    (received.checksum, received.segmentation) = (told.checksum, told.segmentation);
    if !format.is_tap {
        received.protocol = u16::from_be_bytes([info[2], info[3]]);
    }
    if !format.is_tap && !format.has_info {
        let mut first = [0];
        received.copy_out(0, &mut first);
        received.protocol = protocol_of(first[0]);
        if received.protocol == 0 {
            return Err(Errno::EINVAL);
        }
    }
    Ok(received)
}

fn take_header(source: &mut Source<'_>, to: &mut [u8]) -> Result<()> {
    if source.remaining() < to.len() {
        return Err(Errno::EINVAL);
    }
    source.take_all(to)?;
    Ok(())
}

/// Puts a frame where a program reads it, as much as there is room for; how many bytes.
///
/// # Errors
/// `EINVAL` if there is no room for what stands before it; `EFAULT`.
pub(crate) fn put(format: Format, frame: &Frame, sink: &mut Sink<'_>) -> Result<usize> {
    let before = sink.remaining();
    if format.has_info {
        let whole = INFO + format.header.unwrap_or(0) + frame.len();
        let flags = if before < whole { TUN_PKT_STRIP } else { 0 };
        let [f0, f1] = flags.to_ne_bytes();
        let [p0, p1] = protocol_in(format, frame).to_be_bytes();
        put_header(sink, &[f0, f1, p0, p1], INFO)?;
    }
    if let Some(size) = format.header {
        put_header(sink, &NetHeader::of(frame), size)?;
    }
    let head = frame.header.bytes();
    let len = head.len().min(sink.remaining());
    sink.put_all(head.get(..len).unwrap_or_default())?;
    for chunk in &frame.payload {
        if sink.is_full() {
            break;
        }
        let wanted = chunk.len().min(sink.remaining());
        if chunk.to_sink(sink)? < wanted {
            return Err(Errno::EFAULT);
        }
    }
    Ok(before - sink.remaining())
}

/// Puts a header; what is behind it up to its size is left as it is (case `tun-vnet`).
fn put_header(sink: &mut Sink<'_>, bytes: &[u8], size: usize) -> Result<()> {
    if sink.remaining() < size {
        return Err(Errno::EINVAL);
    }
    sink.put_all(bytes)?;
    sink.advance(size.saturating_sub(bytes.len()));
    Ok(())
}

fn protocol_in(format: Format, frame: &Frame) -> u16 {
    if !format.is_tap {
        return frame.protocol;
    }
    let mut kind = [0; 2];
    frame.bytes().copy_out(ETHERNET - 2, &mut kind);
    u16::from_be_bytes(kind)
}
