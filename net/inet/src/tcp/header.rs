//! Segments in their wire format (RFC 9293 §3.1), read and written by smoltcp's view of packets.

use netdevice::{Header, Ip};
use smallvec::SmallVec;
use smoltcp::wire::{TcpOption, TcpPacket, TcpSeqNumber};

use super::tcb::{Options, Segment, flag};

/// A segment that came, without its payload.
pub(crate) struct Parsed {
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
    pub(crate) segment: Segment,
    /// The length of its header.
    pub(crate) header_len: usize,
}

/// Reads the header at the start of `bytes`, of which there may be fewer than the whole segment.
pub(crate) fn parse(bytes: &[u8]) -> Option<Parsed> {
    let packet = TcpPacket::new_checked(bytes).ok()?;
    let header_len = usize::from(packet.header_len());
    let mut options = Options::default();
    let mut rest = packet.options();
    while !rest.is_empty() {
        let Ok((next, option)) = TcpOption::parse(rest) else { break };
        match option {
            TcpOption::EndOfList => break,
            TcpOption::MaxSegmentSize(size) => options.mss = Some(size),
            TcpOption::WindowScale(scale) => options.scale = Some(scale),
            TcpOption::SackPermitted => options.may_sack = true,
            TcpOption::SackRange(ranges) => options.sacks.extend(ranges.into_iter().flatten()),
            TcpOption::TimeStamp { tsval, tsecr } => options.stamps = Some((tsval, tsecr)),
            _ => {}
        }
        if next.len() >= rest.len() {
            break;
        }
        rest = next;
    }
    let pairs = [
        (packet.fin(), flag::FIN),
        (packet.syn(), flag::SYN),
        (packet.rst(), flag::RST),
        (packet.psh(), flag::PSH),
        (packet.ack(), flag::ACK),
        (packet.urg(), flag::URG),
    ];
    let flags = pairs.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit);
    Some(Parsed {
        from_port: packet.src_port(),
        to_port: packet.dst_port(),
        segment: Segment {
            seq: packet.seq_number().0 as u32,
            ack: packet.ack_number().0 as u32,
            flags,
            window: packet.window_len(),
            urgent: packet.urgent_at(),
            options,
            payload: SmallVec::new(),
        },
        header_len,
    })
}

/// The options as they are sent, padded to words.
fn options(segment: &Segment) -> SmallVec<[u8; 40]> {
    let mut out = SmallVec::new();
    let options = &segment.options;
    if let Some(mss) = options.mss {
        out.extend([2, 4]);
        out.extend(mss.to_be_bytes());
    }
    if let Some((value, echo)) = options.stamps {
        if options.may_sack {
            out.extend([4, 2]);
        } else {
            out.extend([1, 1]);
        }
        out.extend([8, 10]);
        out.extend(value.to_be_bytes());
        out.extend(echo.to_be_bytes());
    } else if options.may_sack {
        out.extend([1, 1, 4, 2]);
    }
    if let Some(scale) = options.scale {
        out.extend([1, 3, 3, scale]);
    }
    if !options.sacks.is_empty() {
        out.extend([1, 1, 5, (2 + 8 * options.sacks.len()) as u8]);
        for (start, end) in &options.sacks {
            out.extend(start.to_be_bytes());
            out.extend(end.to_be_bytes());
        }
    }
    out
}

/// Writes the header of a segment before what is there; its length. The sum is left to the device or to
/// [`crate::ipout`].
pub(crate) fn emit(header: &mut Header, ports: (u16, u16), segment: &Segment) -> Option<usize> {
    let options = options(segment);
    let len = 20 + options.len();
    let bytes = header.push(len)?;
    if let Some(room) = bytes.get_mut(20..) {
        room.copy_from_slice(&options);
    }
    let mut packet = TcpPacket::new_unchecked(bytes);
    packet.set_src_port(ports.0);
    packet.set_dst_port(ports.1);
    packet.set_seq_number(TcpSeqNumber(segment.seq as i32));
    packet.set_ack_number(TcpSeqNumber(segment.ack as i32));
    packet.clear_flags();
    packet.set_header_len(len as u8);
    packet.set_fin(segment.has(flag::FIN));
    packet.set_syn(segment.has(flag::SYN));
    packet.set_rst(segment.has(flag::RST));
    packet.set_psh(segment.has(flag::PSH));
    packet.set_ack(segment.has(flag::ACK));
    packet.set_urg(segment.has(flag::URG));
    packet.set_window_len(segment.window);
    packet.set_urgent_at(segment.urgent);
    Some(len)
}

/// The answer to a segment that belongs to no connection (RFC 9293 §3.10.7.1).
pub(crate) fn refusal(segment: &Segment) -> Option<Segment> {
    if segment.has(flag::RST) {
        return None;
    }
    let has_ack = segment.has(flag::ACK);
    Some(Segment {
        seq: if has_ack { segment.ack } else { 0 },
        ack: if has_ack { 0 } else { segment.seq.wrapping_add(segment.len() as u32) },
        flags: if has_ack { flag::RST } else { flag::RST | flag::ACK },
        window: 0,
        urgent: 0,
        options: Options::default(),
        payload: SmallVec::new(),
    })
}

/// The payload of a segment on a way: what the headers leave of the MTU.
pub(crate) fn mss_for(mtu: u32, to: Ip) -> u16 {
    // The length of version 4 counts the header: it cannot say what the loopback interface takes.
    let (mtu, headers) = if to.is_v4() { (mtu.min(65535), 40) } else { (mtu, 60) };
    mtu.saturating_sub(headers).clamp(64, 65535) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut options =
            Options { mss: Some(1460), scale: Some(7), may_sack: true, ..Options::default() };
        options.stamps = Some((5, 6));
        let segment = Segment {
            seq: u32::MAX - 3,
            ack: 17,
            flags: flag::SYN | flag::ACK,
            window: 1000,
            urgent: 0,
            options,
            payload: SmallVec::new(),
        };
        let mut header = Header::new();
        assert_eq!(emit(&mut header, (80, 4000), &segment), Some(40));
        let parsed = parse(header.bytes()).unwrap();
        assert_eq!((parsed.from_port, parsed.to_port, parsed.header_len), (80, 4000, 40));
        assert_eq!(parsed.segment.options, segment.options);
        assert_eq!((parsed.segment.seq, parsed.segment.flags), (segment.seq, segment.flags));
        let reset = refusal(&parsed.segment).unwrap();
        assert_eq!((reset.seq, reset.flags), (17, flag::RST));
    }
}
