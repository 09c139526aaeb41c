//! What a frame asks of a device, done for a device that cannot: sums, and segments of TCP.
//!
//! A frame that never left this machine's memory has no sum yet, and may be a stretch of a stream longer than the
//! link takes. The pieces of a payload are shared by the segments, whose headers are copies.

use abi::{Errno, Result};
use smallvec::SmallVec;

use crate::Chunk;
use crate::frame::{ChecksumRequest, Frame, Offloads, Segmentation};
use crate::ip::Ip;

/// A sum of RFC 1071 in the making.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    total: u64,
    is_odd: bool,
}

impl Sum {
    /// Adds bytes that follow those before.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.is_odd
            && let Some((first, others)) = rest.split_first()
        {
            self.total += u64::from(*first);
            self.is_odd = false;
            rest = others;
        }
        // Words of 32 bits have the same remainder by 65535 as their halves have together (RFC 1071 §2).
        let mut longs = rest.chunks_exact(8);
        for long in &mut longs {
            if let Ok(long) = long.try_into() {
                let long = u64::from_be_bytes(long);
                self.total += (long >> 32) + (long & 0xffff_ffff);
            }
        }
        let mut words = longs.remainder().chunks_exact(2);
        for word in &mut words {
            if let [high, low] = word {
                self.total += u64::from(u16::from_be_bytes([*high, *low]));
            }
        }
        if let [last] = words.remainder() {
            self.total += u64::from(*last) << 8;
            self.is_odd = true;
        }
    }

    /// Adds the bytes of a piece of a page.
    pub fn add_chunk(&mut self, chunk: &Chunk) {
        let mut at = 0;
        let mut buffer = [0; 512];
        while at < chunk.len() {
            let count = chunk.part(at, buffer.len()).copy_out(&mut buffer);
            self.add(buffer.get(..count).unwrap_or(&[]));
            at += count.max(1);
        }
    }

    /// The pseudo header of TCP and UDP.
    pub fn pseudo(from: Ip, to: Ip, protocol: u8, len: usize) -> Sum {
        let mut sum = Sum::default();
        if to.is_v4() {
            sum.add(&from.octets4());
            sum.add(&to.octets4());
        } else {
            sum.add(&from.octets6());
            sum.add(&to.octets6());
        }
        sum.total += u64::from(protocol) + (len as u64 & 0xffff) + (len as u64 >> 16);
        sum
    }

    /// The sum, folded.
    pub fn folded(self) -> u16 {
        let mut total = self.total;
        while total > 0xffff {
            total = (total >> 16) + (total & 0xffff);
        }
        total as u16
    }
}

/// Sends a frame as a device with these offloads and a link's header of `link` bytes can: at once, or with its sum
/// computed, or cut to segments.
///
/// # Errors
/// Those of `send`; `EINVAL` for headers that are not what they say, `ENOBUFS`.
#[inline]
pub fn lower(
    frame: Frame,
    offloads: Offloads,
    link: usize,
    send: &mut dyn FnMut(Frame) -> Result<()>,
) -> Result<()> {
    let asks = match frame.segmentation {
        Some(Segmentation { is_v6: true, .. }) => Offloads::SEGMENT6 | Offloads::CHECKSUM,
        Some(_) => Offloads::SEGMENT4 | Offloads::CHECKSUM,
        None if frame.checksum.is_some() => Offloads::CHECKSUM,
        None => return send(frame),
    };
    if offloads.contains(asks) {
        return send(frame);
    }
    match frame.segmentation {
        Some(cut) => segment(&frame, cut, offloads, link, send),
        None => send(finish(frame)?),
    }
}

/// Computes the sum that is asked for.
fn finish(frame: Frame) -> Result<Frame> {
    let Some(ChecksumRequest { start, offset }) = frame.checksum else { return Ok(frame) };
    let at = usize::from(start) + usize::from(offset);
    // Who writes the sum changes the header alone: pages are shared.
    let is_there = frame.header.len() >= at + 2;
    let mut frame =
        if is_there { frame } else { frame.with_header(at + 2).ok_or(Errno::EINVAL)? };
    let mut sum = Sum::default();
    sum.add(frame.header.bytes().get(usize::from(start)..).ok_or(Errno::EINVAL)?);
    frame.payload.iter().for_each(|chunk| sum.add_chunk(chunk));
    let value = match !sum.folded() {
        // RFC 768: no sum at all is another thing than a sum of nothing.
        0 => 0xffff,
        value => value,
    };
    put16(frame.header.bytes_mut(), at, value).ok_or(Errno::EINVAL)?;
    frame.checksum = None;
    Ok(frame)
}

fn put16(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// Where the headers of a stretch of a stream are.
#[derive(Clone, Copy)]
struct Places {
    ip: usize,
    tcp: usize,
    end: usize,
}

/// Finds the headers; `None` if they are not of TCP over the version that is said, or lie beyond the header's room.
fn places(frame: &Frame, is_v6: bool, link: usize) -> Option<Places> {
    let mut head = [0; crate::HEADER_ROOM];
    let len = frame.bytes().copy_out(0, &mut head);
    let head = head.get(..len)?;
    // A tag of IEEE 802.1Q lies before the protocol.
    let has_tag = link == 14 && get16(head, 12)? == 0x8100;
    let ip = if has_tag { link + 4 } else { link };
    let first = *head.get(ip)?;
    if first >> 4 != if is_v6 { 6 } else { 4 } {
        return None;
    }
    let least = if is_v6 { 40 } else { usize::from(first & 15) * 4 };
    let tcp = frame.checksum.map_or(ip + least, |asked| usize::from(asked.start));
    let end = tcp + usize::from(*head.get(tcp + 12)? >> 4) * 4;
    let is_sane = least >= 20 && tcp >= ip + least && end >= tcp + 20 && end <= len;
    is_sane.then_some(Places { ip, tcp, end })
}

/// The bits of the flags of TCP that only the last segment has (FIN, PSH), and only the first (CWR; RFC 3168 §6.1.2).
const LAST: u8 = 1 | 8;
const FIRST: u8 = 0x80;

fn segment(
    frame: &Frame,
    cut: Segmentation,
    offloads: Offloads,
    link: usize,
    send: &mut dyn FnMut(Frame) -> Result<()>,
) -> Result<()> {
    let size = usize::from(cut.size);
    let places = places(frame, cut.is_v6, link).filter(|_| size > 0).ok_or(Errno::EINVAL)?;
    let whole = frame.with_header(places.end).ok_or(Errno::ENOBUFS)?;
    let total = whole.len() - places.end;
    let (mut at, mut number) = (0, 0u16);
    while at == 0 || at < total {
        let len = size.min(total - at);
        let mut part = Frame::new(whole.header.clone(), part_of(&whole.payload, at, len));
        part.protocol = whole.protocol;
        let ends = (at == 0, at + len >= total);
        write_headers(part.header.bytes_mut(), places, cut.is_v6, (at, len), number, ends)
            .ok_or(Errno::EINVAL)?;
        part.checksum = Some(ChecksumRequest { start: places.tcp as u16, offset: 16 });
        let has_sums = offloads.contains(Offloads::CHECKSUM);
        send(if has_sums { part } else { finish(part)? })?;
        at += len.max(1);
        number = number.wrapping_add(1);
    }
    Ok(())
}

fn part_of(payload: &[Chunk], mut at: usize, mut len: usize) -> SmallVec<[Chunk; 4]> {
    let mut out = SmallVec::new();
    for chunk in payload {
        if at >= chunk.len() {
            at -= chunk.len();
            continue;
        }
        if len == 0 {
            break;
        }
        let part = chunk.part(core::mem::take(&mut at), len);
        len -= part.len();
        out.push(part);
    }
    out
}

/// Makes the headers of a stretch those of a segment of `len` bytes from `at` on.
fn write_headers(
    head: &mut [u8],
    places: Places,
    is_v6: bool,
    (at, len): (usize, usize),
    number: u16,
    (is_first, is_last): (bool, bool),
) -> Option<()> {
    let Places { ip, tcp, end } = places;
    let load = u16::try_from(end - tcp + len).ok()?;
    let mut sum = Sum::default();
    if is_v6 {
        put16(head, ip + 4, u16::try_from(end - ip - 40 + len).ok()?)?;
        sum.add(head.get(ip + 8..ip + 40)?);
    } else {
        put16(head, ip + 2, u16::try_from(end - ip + len).ok()?)?;
        let ident = get16(head, ip + 4)?.wrapping_add(number);
        put16(head, ip + 4, ident)?;
        put16(head, ip + 10, 0)?;
        let mut own = Sum::default();
        own.add(head.get(ip..ip + usize::from(head.get(ip)? & 15) * 4)?);
        put16(head, ip + 10, !own.folded())?;
        sum.add(head.get(ip + 12..ip + 20)?);
    }
    let [a, b] = load.to_be_bytes();
    sum.add(&[0, 6, a, b]);
    let seq = u32::from_be_bytes(head.get(tcp + 4..tcp + 8)?.try_into().ok()?);
    let seq = seq.wrapping_add(at as u32);
    head.get_mut(tcp + 4..tcp + 8)?.copy_from_slice(&seq.to_be_bytes());
    let flags = head.get_mut(tcp + 13)?;
    if !is_last {
        *flags &= !LAST;
    }
    if !is_first {
        *flags &= !FIRST;
    }
    // What stands where the sum goes is the sum of the pseudo header.
    put16(head, tcp + 16, sum.folded())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Header;

    #[test]
    fn sums_are_those_of_words_however_the_bytes_are_cut() {
        let bytes: Vec<u8> =
            (0..3001u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut plain = 0u64;
        for pair in bytes.chunks(2) {
            plain += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
        let plain = Sum { total: plain, is_odd: false }.folded();
        for step in [1, 2, 3, 7, 8, 9, 100, 4000] {
            let mut sum = Sum::default();
            bytes.chunks(step).for_each(|part| sum.add(part));
            assert_eq!(sum.folded(), plain, "{step}");
        }
        let mut most = Sum::default();
        most.add(&[0xff; 65536]);
        assert_eq!(most.folded(), 0xffff);
    }

    /// A stretch of a stream over Ethernet, of `len` bytes.
    fn stretch(is_v6: bool, len: usize) -> Frame {
        frames::init_host(64 << 20);
        let mut bytes = vec![0; 12];
        bytes.extend(if is_v6 { [0x86, 0xdd] } else { [8, 0] });
        if is_v6 {
            bytes.extend([0x60, 0, 0, 0, 0, 0, 6, 64]);
            bytes.extend([1; 16]);
            bytes.extend([2; 16]);
        } else {
            bytes.extend([0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let tcp = bytes.len();
        bytes.extend([0, 80, 0, 81, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        let mut header = Header::new();
        header.push(bytes.len()).unwrap().copy_from_slice(&bytes);
        let data: Vec<u8> = (0..len).map(|at| (at / 3) as u8).collect();
        let payload = data.chunks(1000).map(|part| Chunk::from_bytes(part).unwrap()).collect();
        let mut frame = Frame::new(header, payload);
        frame.checksum = Some(ChecksumRequest { start: tcp as u16, offset: 16 });
        frame.segmentation = Some(Segmentation { is_v6, size: 700 });
        frame
    }

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        let mut all = vec![0; frame.len()];
        frame.bytes().copy_out(0, &mut all);
        all
    }

    fn sent(frame: Frame, offloads: Offloads) -> Vec<Frame> {
        let mut all = Vec::new();
        lower(frame, offloads, 14, &mut |frame| {
            all.push(frame);
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn a_stretch_is_cut_to_segments_with_right_sums() {
        for is_v6 in [false, true] {
            let whole = stretch(is_v6, 2000);
            let ip = if is_v6 { 40 } else { 20 };
            let tcp = 14 + ip;
            let parts = sent(whole.clone(), Offloads::empty());
            assert_eq!(parts.len(), 3);
            let mut data: Vec<u8> = Vec::new();
            for (number, part) in parts.iter().enumerate() {
                let bytes = bytes_of(part);
                let flags = bytes[tcp + 13];
                assert_eq!(flags & LAST, if number == 2 { LAST } else { 0 });
                assert_eq!(flags & FIRST, if number == 0 { FIRST } else { 0 });
                let seq = u32::from_be_bytes(bytes[tcp + 4..tcp + 8].try_into().unwrap());
                assert_eq!(seq, 0xffff_ff00u32.wrapping_add(700 * number as u32));
                let load = bytes.len() - tcp;
                let (from, to) = if is_v6 {
                    assert_eq!(usize::from(get16(&bytes, 18).unwrap()), load);
                    (Ip::v6([1; 16]), Ip::v6([2; 16]))
                } else {
                    assert_eq!(usize::from(get16(&bytes, 16).unwrap()), load + 20);
                    assert_eq!(get16(&bytes, 18), Some(9 + number as u16));
                    let mut own = Sum::default();
                    own.add(&bytes[14..34]);
                    assert_eq!(own.folded(), 0xffff);
                    (Ip::v4([10, 0, 0, 1]), Ip::v4([10, 0, 0, 2]))
                };
                let mut sum = Sum::pseudo(from, to, 6, load);
                sum.add(&bytes[tcp..]);
                assert_eq!(sum.folded(), 0xffff);
                data.extend(&bytes[tcp + 20..]);
            }
            assert_eq!(data, bytes_of(&whole)[tcp + 20..]);
        }
    }

    #[test]
    fn what_a_device_can_do_is_left_to_it() {
        let whole = stretch(false, 2000);
        let all = Offloads::CHECKSUM | Offloads::SEGMENT4;
        let left = sent(whole.clone(), all);
        assert!(left.len() == 1 && left[0].segmentation.is_some() && left[0].checksum.is_some());
        let cut = sent(whole.clone(), Offloads::CHECKSUM);
        assert!(cut.len() == 3 && cut.iter().all(|part| part.checksum.is_some()));
        let short = Frame { segmentation: None, ..stretch(false, 10) };
        let summed = sent(short, Offloads::empty());
        assert!(summed.len() == 1 && summed[0].checksum.is_none());
        assert_eq!(sent(stretch(true, 0), Offloads::empty()).len(), 1);
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let refused = |change: &dyn Fn(&mut Frame)| {
            let mut frame = stretch(false, 2000);
            change(&mut frame);
            lower(frame, Offloads::empty(), 14, &mut |_| Ok(())).err()
        };
        let start = |start| Some(ChecksumRequest { start, offset: 16 });
        assert_eq!(refused(&|frame| frame.checksum = start(9)), Some(Errno::EINVAL));
        assert_eq!(refused(&|frame| frame.checksum = start(60000)), Some(Errno::EINVAL));
        let cut = |is_v6, size| Some(Segmentation { is_v6, size });
        assert_eq!(refused(&|frame| frame.segmentation = cut(true, 700)), Some(Errno::EINVAL));
        assert_eq!(refused(&|frame| frame.segmentation = cut(false, 0)), Some(Errno::EINVAL));
        assert_eq!(refused(&|frame| frame.header = Header::new()), Some(Errno::EINVAL));
        let far = ChecksumRequest { start: 65535, offset: 65535 };
        let mut frame = Frame { segmentation: None, ..stretch(false, 10) };
        frame.checksum = Some(far);
        assert_eq!(lower(frame, Offloads::empty(), 14, &mut |_| Ok(())), Err(Errno::EINVAL));
    }

    #[test]
    fn a_frame_that_came_leaves_as_it_is() {
        frames::init_host(64 << 20);
        let bytes: Vec<u8> = (0..5000u32).map(|at| at as u8).collect();
        for size in [3, 100, 128, 700, 4096] {
            let data = bytes.chunks(size).map(|part| Chunk::from_bytes(part).unwrap()).collect();
            let frame = crate::Received::new(data, false).into_frame();
            assert_eq!(frame.header.len(), 128);
            assert_eq!(bytes_of(&frame), bytes);
            for len in [0, 1, 14, 100, 128] {
                let other = frame.with_header(len).unwrap();
                assert!(other.header.len() == len && bytes_of(&other) == bytes);
            }
            assert!(frame.with_header(129).is_none());
        }
    }
}
