//! Packets on their way out: to this host, or over a device.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use netdevice::{
    ChecksumRequest, Chunk, Destination, Endpoint, Frame, Header, Interface, Ip, Offloads,
    Segmentation, Spread, Sum, Tuple, Way,
};
use smallvec::SmallVec;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, UdpPacket};

use crate::icmp::{self, ICMP4, ICMP6};
use crate::neighbour::Neighbours;
use crate::raw::Packet;
use crate::rtnetlink::Ends;
use crate::stack::{Inet, count};
use crate::tcp::header;
use crate::tcp::tcb::Segment;
use crate::udp::datagram::Payload;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What the header of a packet says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) from: Ip,
    pub(crate) to: Ip,
    pub(crate) protocol: u8,
    pub(crate) hops: u8,
    pub(crate) tos: u8,
}

/// What a namespace has for devices.
pub(crate) struct Wire {
    pub(crate) neighbours: Neighbours,
    pub(crate) loopback: crate::loopback::Queue,
    pub(crate) fragments: crate::fragments::Fragments,
    pub(crate) ends: Ends,
    next_ident: core::sync::atomic::AtomicU32,
}

impl Wire {
    pub(crate) fn new() -> Wire {
        Wire {
            neighbours: Neighbours::default(),
            loopback: crate::loopback::Queue::default(),
            fragments: crate::fragments::Fragments::default(),
            ends: Ends::default(),
            next_ident: core::sync::atomic::AtomicU32::new(crate::random() as u32),
        }
    }

    fn ident(&self) -> u32 {
        self.next_ident.fetch_add(1, core::sync::atomic::Ordering::Relaxed)
    }

    /// Sends a segment, cut to what the way takes unless the device does that.
    pub(crate) fn send_segment(
        &self,
        inet: &Inet,
        tuple: &Tuple,
        segment: &Segment,
        way: &Way,
        mss: usize,
    ) {
        let offloads = way.interface.device.as_ref().map_or(Offloads::empty(), |d| d.offloads());
        let is_v6 = !tuple.remote.ip.is_v4();
        let cuts = if is_v6 { Offloads::SEGMENT6 } else { Offloads::SEGMENT4 };
        let can_cut = offloads.contains(cuts | Offloads::CHECKSUM);
        let total = segment.payload_len();
        if total <= mss || can_cut {
            let size = if total > mss { mss as u16 } else { 0 };
            self.send_one(inet, tuple, segment, &segment.payload, way, offloads, size);
            return;
        }
        let mut at = 0;
        while at < total {
            let len = mss.min(total - at);
            let mut part = Segment { payload: SmallVec::new(), ..segment.clone() };
            part.seq = segment.seq.wrapping_add(at as u32);
            if at + len < total {
                part.flags &= !(crate::tcp::tcb::flag::FIN | crate::tcp::tcb::flag::PSH);
            }
            let payload = cut(&segment.payload, at, len);
            self.send_one(inet, tuple, &part, &payload, way, offloads, 0);
            at += len;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is needed, once")]
    fn send_one(
        &self,
        inet: &Inet,
        tuple: &Tuple,
        segment: &Segment,
        payload: &SmallVec<[Chunk; 4]>,
        way: &Way,
        offloads: Offloads,
        size: u16,
    ) {
        let ports = (tuple.local.port, tuple.remote.port);
        let mut head = Header::new();
        let Some(len) = header::emit(&mut head, ports, segment) else { return };
        let is_v6 = !tuple.remote.ip.is_v4();
        let mut frame = Frame::new(head, payload.clone());
        frame.segmentation = (size > 0).then_some(Segmentation { is_v6, size });
        let about =
            About { from: tuple.local.ip, to: tuple.remote.ip, protocol: TCP, hops: 64, tos: 0 };
        // A segment that is not sent is a lost one: it is sent again.
        let _ = self.finish(inet, frame, &about, way, offloads, (len, 16));
    }

    /// Sends a datagram over a device.
    pub(crate) fn send_udp(
        &self,
        inet: &Inet,
        from: Endpoint,
        to: Endpoint,
        way: &Way,
        data: &Payload,
        (hops, tos): (u8, u8),
    ) -> Result<()> {
        let mut head = Header::new();
        let bytes = head.push(8).ok_or(Errno::ENOBUFS)?;
        let mut packet = UdpPacket::new_unchecked(bytes);
        packet.set_src_port(from.port);
        packet.set_dst_port(to.port);
        packet.set_len((8 + data.len()) as u16);
        let frame = Frame::new(head, data.chunks()?);
        let about = About { from: from.ip, to: to.ip, protocol: UDP, hops, tos };
        let offloads = way.interface.device.as_ref().map_or(Offloads::empty(), |d| d.offloads());
        self.finish(inet, frame, &about, way, offloads, (8, 6))
    }

    /// Puts the sum into the transport's header (`len` bytes, the sum at `at`) and sends the packet.
    fn finish(
        &self,
        inet: &Inet,
        mut frame: Frame,
        about: &About,
        way: &Way,
        offloads: Offloads,
        (len, at): (usize, usize),
    ) -> Result<()> {
        let total = frame.len();
        let ip_len = if about.to.is_v4() { 20 } else { 40 };
        let is_whole = total + ip_len <= way.mtu as usize || frame.segmentation.is_some();
        let pseudo = Sum::pseudo(about.from, about.to, about.protocol, total);
        let value = if offloads.contains(Offloads::CHECKSUM) && is_whole {
            frame.checksum =
                Some(ChecksumRequest { start: (14 + ip_len) as u16, offset: at as u16 });
            pseudo.folded()
        } else {
            let mut sum = pseudo;
            sum.add(frame.header.bytes());
            frame.payload.iter().for_each(|chunk| sum.add_chunk(chunk));
            match !sum.folded() {
                0 if about.protocol == UDP => 0xffff,
                sum => sum,
            }
        };
        let mut bytes = [0u8; 60];
        let own = bytes.get_mut(..len).ok_or(Errno::ENOBUFS)?;
        own.copy_from_slice(frame.header.bytes());
        if let Some([high, low]) = own.get_mut(at..at + 2) {
            [*high, *low] = value.to_be_bytes();
        }
        let mut head = Header::new();
        head.push(len).ok_or(Errno::ENOBUFS)?.copy_from_slice(own);
        frame.header = head;
        if is_whole {
            self.send_whole(inet, frame, about, way)
        } else {
            self.send_parts(inet, &frame, about, way)
        }
    }

    fn send_whole(&self, inet: &Inet, mut frame: Frame, about: &About, way: &Way) -> Result<()> {
        let len = frame.len();
        count(&inet.counters.ip_out_requests);
        if about.to.is_v4() {
            let bytes = frame.header.push(20).ok_or(Errno::ENOBUFS)?;
            write4(bytes, about, len, self.ident() as u16, (0, false));
        } else {
            let bytes = frame.header.push(40).ok_or(Errno::ENOBUFS)?;
            write6(bytes, about, len, about.protocol);
        }
        self.neighbours.send(inet, &way.interface, way.next_hop, way.kind, frame)
    }

    /// Fragments (RFC 791 §2.3, RFC 8200 §4.5).
    fn send_parts(&self, inet: &Inet, frame: &Frame, about: &About, way: &Way) -> Result<()> {
        let is_v4 = about.to.is_v4();
        let room = (way.mtu as usize).saturating_sub(if is_v4 { 20 } else { 48 }) & !7;
        if room < 8 {
            return Err(Errno::EMSGSIZE);
        }
        let ident = self.ident();
        let first = Chunk::from_bytes(frame.header.bytes()).ok_or(Errno::ENOBUFS)?;
        let mut whole: SmallVec<[Chunk; 4]> = smallvec::smallvec![first];
        whole.extend(frame.payload.iter().cloned());
        let total = frame.len();
        let mut at = 0;
        while at < total {
            let len = room.min(total - at);
            let more = at + len < total;
            let mut head = Header::new();
            if is_v4 {
                let bytes = head.push(20).ok_or(Errno::ENOBUFS)?;
                write4(bytes, about, len, ident as u16, (at as u16, more));
            } else {
                let bytes = head.push(8).ok_or(Errno::ENOBUFS)?;
                let offset = (at as u16 | u16::from(more)).to_be_bytes();
                let [a, b, c, d] = ident.to_be_bytes();
                bytes.copy_from_slice(&[about.protocol, 0, offset[0], offset[1], a, b, c, d]);
                let bytes = head.push(40).ok_or(Errno::ENOBUFS)?;
                write6(bytes, about, len + 8, 44);
            }
            let payload = cut(&whole, at, len);
            let part = Frame::new(head, payload);
            self.neighbours.send(inet, &way.interface, way.next_hop, way.kind, part)?;
            at += len;
        }
        Ok(())
    }

    /// Sends a packet of any protocol.
    pub(crate) fn send_packet(
        &self,
        inet: &Inet,
        about: &About,
        way: &Way,
        payload: Vec<u8>,
    ) -> Result<()> {
        // What the length of a header can say: version 4 counts the header.
        if payload.len() > if about.to.is_v4() { 65515 } else { 65535 } {
            return Err(Errno::EMSGSIZE);
        }
        let is_here = way.kind == Destination::Local || way.interface.is_loopback();
        // Segments and datagrams that programs made by hand find their sockets as from a wire.
        if is_here && !matches!(about.protocol, TCP | UDP) {
            count(&inet.counters.ip_out_requests);
            way.interface.counters.sent(1, payload.len() + 20);
            way.interface.counters.received(1, payload.len() + 20);
            deliver(inet, about, way.interface.index, &payload);
            return Ok(());
        }
        let mut chunks: SmallVec<[Chunk; 4]> = SmallVec::new();
        for part in payload.chunks(4096) {
            chunks.push(Chunk::from_bytes(part).ok_or(Errno::ENOBUFS)?);
        }
        let frame = Frame::new(Header::new(), chunks);
        let ip_len = if about.to.is_v4() { 20 } else { 40 };
        if payload.len() + ip_len <= way.mtu as usize {
            self.send_whole(inet, frame, about, way)
        } else {
            self.send_parts(inet, &frame, about, way)
        }
    }

    /// A packet made here, without a socket: an answer.
    pub(crate) fn answer(
        &self,
        inet: &Inet,
        about: &About,
        interface: &Interface,
        payload: Vec<u8>,
    ) {
        if let Ok(way) = inet.devices.way(about.to, Some(about.from), interface.index) {
            // Nobody is there to be told.
            let _ = self.send_packet(inet, about, &way, payload);
        }
    }
}

/// A range of a payload, sharing its pages.
pub(crate) fn cut(payload: &[Chunk], mut at: usize, mut len: usize) -> SmallVec<[Chunk; 4]> {
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

fn write4(bytes: &mut [u8], about: &About, len: usize, ident: u16, (offset, more): (u16, bool)) {
    let mut packet = Ipv4Packet::new_unchecked(bytes);
    packet.set_version(4);
    packet.set_header_len(20);
    packet.set_dscp(about.tos >> 2);
    packet.set_ecn(about.tos);
    packet.set_total_len((20 + len) as u16);
    packet.set_ident(ident);
    packet.clear_flags();
    packet.set_more_frags(more);
    packet.set_dont_frag(about.protocol == TCP);
    packet.set_frag_offset(offset);
    packet.set_hop_limit(about.hops);
    packet.set_next_header(about.protocol.into());
    packet.set_src_addr(about.from.octets4().into());
    packet.set_dst_addr(about.to.octets4().into());
    packet.fill_checksum();
}

fn write6(bytes: &mut [u8], about: &About, len: usize, next: u8) {
    let mut packet = Ipv6Packet::new_unchecked(bytes);
    packet.set_version(6);
    packet.set_traffic_class(about.tos);
    packet.set_payload_len(len as u16);
    packet.set_next_header(next.into());
    packet.set_hop_limit(about.hops);
    packet.set_src_addr(about.from.octets6().into());
    packet.set_dst_addr(about.to.octets6().into());
}

/// The header of version 4 as raw sockets see it.
pub(crate) fn header4(about: &About, len: usize) -> [u8; 20] {
    let mut header = [0; 20];
    write4(&mut header, about, len, 0, (0, false));
    header
}

/// The header of version 6, likewise.
pub(crate) fn header6(about: &About, len: usize) -> [u8; 40] {
    let mut header = [0; 40];
    write6(&mut header, about, len, about.protocol);
    header
}

/// A packet for this host from this host.
pub(crate) fn deliver(inet: &Inet, about: &About, interface: u32, payload: &[u8]) {
    let mut about = *about;
    let mut owned;
    let mut payload = payload;
    // An answer may be due to what is answered: two turns, and no third.
    for _ in 0..2 {
        count(&inet.counters.ip_in_receives);
        count(&inet.counters.ip_in_delivers);
        if packet::is_listening() {
            let rest = Spread { head: &[], body: &[], chunks: &[] };
            crate::loopback::show(inet, &about, payload, &rest, true);
        }
        let header = header4(&about, payload.len());
        let packet = Packet {
            from: about.from,
            to: about.to,
            protocol: about.protocol,
            interface,
            hops: about.hops,
            tos: about.tos,
            header: if about.to.is_v4() { &header } else { &[] },
            payload,
        };
        inet.raw.deliver(&packet);
        if !matches!(about.protocol, ICMP4 | ICMP6) {
            return;
        }
        let Some((next, answer)) = icmp::receive(inet, &packet) else { return };
        about = next;
        owned = answer;
        payload = &owned;
    }
}

impl Inet {
    /// A packet over a device that is answered.
    pub(crate) fn reply(self: &Arc<Self>, about: &About, interface: &Interface, payload: Vec<u8>) {
        self.wire.answer(self, about, interface, payload);
    }
}
