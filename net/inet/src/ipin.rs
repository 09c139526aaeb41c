//! Frames that devices deliver: to ARP, to the protocols, to nobody.

use alloc::sync::Arc;
use alloc::vec::Vec;

use netdevice::{Chunk, Endpoint, Interface, Ip, Received, Receiver, Spread, Sum, Tuple};
use packet::Seen;
use smallvec::SmallVec;
use smoltcp::wire::{EthernetFrame, Ipv4Packet, Ipv6Packet, UdpPacket};

use crate::icmp::{self, ICMP4, ICMP6};
use crate::ipout::cut;
use crate::neighbour;
use crate::raw::Packet;
use crate::stack::{Inet, count};
use crate::tcp::tcb::Segment;
use crate::tcp::wire::{self, Connection};
use crate::tcp::{Conn, header, listen};
use crate::udp::datagram::{Datagram, Payload};

/// Headers that are looked at: all of them fit.
const HEAD: usize = 160;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Takes the frames of all devices to the protocols of their namespaces.
struct Input;

/// From now on the protocols take what devices deliver.
pub(crate) fn start() {
    netdevice::set_receiver(&Input);
}

impl Receiver for Input {
    fn receive(&self, interface: &Arc<Interface>, frames: &mut dyn Iterator<Item = Received>) {
        let inet = interface.namespace().and_then(|namespace| Inet::of(&namespace));
        for frame in frames {
            let len: usize = frame.data.iter().map(Chunk::len).sum();
            interface.counters.received(1, len);
            if let Some(inet) = &inet
                && interface.is_up()
            {
                inet.receive_frame(interface, frame);
            }
        }
    }
}

/// What is left of a frame for the interface itself: a master takes those of its ports.
#[inline]
fn pass_up(interface: &Arc<Interface>, frame: Received) -> Option<Received> {
    match interface.upper() {
        Some(upper) => upper.receive(interface, frame),
        None => Some(frame),
    }
}

/// The start of a frame, copied to where it can be read.
struct Head {
    bytes: [u8; HEAD],
    len: usize,
}

impl Head {
    fn of(data: &[Chunk]) -> Head {
        let mut head = Head { bytes: [0; HEAD], len: 0 };
        for chunk in data {
            let Some(room) = head.bytes.get_mut(head.len..) else { break };
            head.len += chunk.copy_out(room);
            if head.len == HEAD {
                break;
            }
        }
        head
    }

    fn from(&self, at: usize) -> &[u8] {
        self.bytes.get(at..self.len).unwrap_or(&[])
    }
}

pub(crate) fn len_of(data: &[Chunk]) -> usize {
    data.iter().map(Chunk::len).sum()
}

pub(crate) fn to_vec(data: &[Chunk]) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in data {
        let at = all.len();
        all.resize(at + chunk.len(), 0);
        chunk.copy_out(all.get_mut(at..).unwrap_or_default());
    }
    all
}

/// A packet on its way up.
pub(crate) struct Incoming {
    pub(crate) from: Ip,
    pub(crate) to: Ip,
    pub(crate) protocol: u8,
    pub(crate) hops: u8,
    pub(crate) tos: u8,
    pub(crate) is_sum_good: bool,
    /// The header of version 4.
    pub(crate) header: SmallVec<[u8; 60]>,
    pub(crate) payload: SmallVec<[Chunk; 4]>,
}

impl Inet {
    pub(crate) fn receive_frame(self: &Arc<Self>, interface: &Arc<Interface>, frame: Received) {
        if packet::is_listening() {
            self.show_frame(interface, &frame);
        }
        let Some(frame) = pass_up(interface, frame) else { return };
        let head = Head::of(&frame.data);
        if !interface.has_address() {
            return self.receive_protocol(interface, frame.protocol, (&head, 0), &frame);
        }
        let Ok(ethernet) = EthernetFrame::new_checked(head.from(0)) else { return };
        let to = ethernet.dst_addr().0;
        if to[0] & 1 == 0 && to != interface.mac() {
            return;
        }
        self.receive_protocol(interface, ethernet.ethertype().into(), (&head, 14), &frame);
    }

    /// A frame that is for this host, whose packet begins at a place.
    fn receive_protocol(
        self: &Arc<Self>,
        interface: &Arc<Interface>,
        protocol: u16,
        (head, at): (&Head, usize),
        frame: &Received,
    ) {
        match protocol {
            0x0806 if at != 0 => neighbour::receive_arp(self, interface, head.from(at)),
            0x0800 => self.receive_v4(interface, (head, at), frame),
            0x86dd => self.receive_v6(interface, (head, at), frame),
            _ => {}
        }
    }

    /// Shows a frame that came to the programs that listen.
    #[cold]
    fn show_frame(&self, interface: &Interface, frame: &Received) {
        let Some(namespace) = self.namespace() else { return };
        let bytes = Spread { head: &[], body: &[], chunks: &frame.data };
        let is_sum_good = frame.is_sum_good && !interface.is_loopback();
        let seen = Seen::came(bytes, interface, is_sum_good).of_protocol(frame.protocol);
        packet::show(&namespace, interface, &seen);
    }

    fn receive_v4(
        self: &Arc<Self>,
        interface: &Arc<Interface>,
        (head, at): (&Head, usize),
        frame: &Received,
    ) {
        count(&self.counters.ip_in_receives);
        let bytes = head.from(at);
        let available = len_of(&frame.data).saturating_sub(at);
        // The whole packet is not in the head: what it says of its length is checked here.
        let packet = Ipv4Packet::new_unchecked(bytes);
        if bytes.len() < 20 || packet.version() != 4 {
            return count(&self.counters.ip_in_header_errors);
        }
        let (header_len, total) =
            (usize::from(packet.header_len()), usize::from(packet.total_len()));
        let is_sane = header_len >= 20
            && header_len <= bytes.len()
            && total >= header_len
            && total <= available;
        if !is_sane || !packet.verify_checksum() {
            return count(&self.counters.ip_in_header_errors);
        }
        let incoming = Incoming {
            from: Ip::from(packet.src_addr()),
            to: Ip::from(packet.dst_addr()),
            protocol: packet.next_header().into(),
            hops: packet.hop_limit(),
            tos: bytes.get(1).copied().unwrap_or(0),
            is_sum_good: frame.is_sum_good,
            header: bytes.get(..header_len).unwrap_or(&[]).into(),
            payload: cut(&frame.data, at + header_len, total - header_len),
        };
        if !self.is_for_us(interface, &incoming) {
            return count(&self.counters.ip_in_discards);
        }
        if packet.more_frags() || packet.frag_offset() != 0 {
            let key = (incoming.from, incoming.to, u32::from(packet.ident()), incoming.protocol);
            let place = (usize::from(packet.frag_offset()), packet.more_frags());
            if let Some(whole) = self.wire.fragments.add(key, place, incoming) {
                self.receive_packet(interface, whole);
            }
            return;
        }
        self.receive_packet(interface, incoming);
    }

    fn receive_v6(
        self: &Arc<Self>,
        interface: &Arc<Interface>,
        (head, link): (&Head, usize),
        frame: &Received,
    ) {
        count(&self.counters.ip_in_receives);
        let bytes = head.from(link);
        let available = len_of(&frame.data).saturating_sub(link);
        let packet = Ipv6Packet::new_unchecked(bytes);
        if bytes.len() < 40 || packet.version() != 6 {
            return count(&self.counters.ip_in_header_errors);
        }
        let len = usize::from(packet.payload_len());
        if 40 + len > available {
            return count(&self.counters.ip_in_header_errors);
        }
        let mut incoming = Incoming {
            from: Ip::from(packet.src_addr()),
            to: Ip::from(packet.dst_addr()),
            protocol: packet.next_header().into(),
            hops: packet.hop_limit(),
            tos: packet.traffic_class(),
            is_sum_good: frame.is_sum_good,
            header: SmallVec::new(),
            payload: SmallVec::new(),
        };
        // Mapped addresses are no addresses of packets (RFC 4038 §4.2): here they would be version 4's.
        let is_mapped = incoming.from.is_v4() || incoming.to.is_v4();
        if is_mapped || !self.is_for_us(interface, &incoming) {
            return count(&self.counters.ip_in_discards);
        }
        // Extension headers (RFC 8200 §4): skipped, but for fragments.
        let mut at = 40;
        let mut fragment = None;
        for _ in 0..8 {
            let Some(next) = bytes.get(at..) else { return };
            match (incoming.protocol, next) {
                (0 | 43 | 60, [protocol, words, ..]) => {
                    incoming.protocol = *protocol;
                    at += (usize::from(*words) + 1) * 8;
                }
                (44, [protocol, _, high, low, a, b, c, d, ..]) => {
                    let field = u16::from_be_bytes([*high, *low]);
                    let ident = u32::from_be_bytes([*a, *b, *c, *d]);
                    incoming.protocol = *protocol;
                    at += 8;
                    fragment = Some((ident, usize::from(field & !7), field & 1 != 0));
                    break;
                }
                _ => break,
            }
        }
        let Some(rest) = (40 + len).checked_sub(at) else { return };
        incoming.payload = cut(&frame.data, link + at, rest);
        if let Some((ident, offset, more)) = fragment
            && (offset != 0 || more)
        {
            let key = (incoming.from, incoming.to, ident, incoming.protocol);
            if let Some(whole) = self.wire.fragments.add(key, (offset, more), incoming) {
                self.receive_packet(interface, whole);
            }
            return;
        }
        self.receive_packet(interface, incoming);
    }

    fn is_for_us(&self, interface: &Interface, incoming: &Incoming) -> bool {
        let (from, to) = (incoming.from, incoming.to);
        // What the protocols here sent over the loopback interface is vouched for; what programs did is not.
        if interface.is_loopback() && incoming.is_sum_good {
            return to.is_multicast() || self.devices.is_local(to);
        }
        // RFC 1122 §3.2.1.3, RFC 4291 §2.5.2, §2.5.3: nobody is called so. This host's packets do not come
        // from elsewhere either. Who has no address yet talks to all or to a group.
        let is_nobody = from.is_loopback()
            || from.is_multicast()
            || !self.devices.is_elsewhere(from)
            || (from.is_any() && !to.is_multicast() && !self.devices.is_broadcast(to));
        if is_nobody {
            return false;
        }
        if to.is_multicast() {
            // Discovery's groups are always heard; others are filtered at the sockets.
            return true;
        }
        // RFC 1122 §3.2.1.3: the loopback network never comes over a wire.
        !to.is_loopback()
            && (self.devices.is_local(to)
                || self.devices.is_broadcast(to)
                || interface.find_address(|_| true).is_none())
    }

    fn receive_packet(self: &Arc<Self>, interface: &Arc<Interface>, incoming: Incoming) {
        count(&self.counters.ip_in_delivers);
        let has_raw = self.raw.listens(incoming.protocol);
        let is_icmp = matches!(incoming.protocol, ICMP4 | ICMP6);
        let mut is_taken = false;
        if has_raw || is_icmp {
            let payload = to_vec(&incoming.payload);
            let packet = Packet {
                from: incoming.from,
                to: incoming.to,
                protocol: incoming.protocol,
                interface: interface.index,
                hops: incoming.hops,
                tos: incoming.tos,
                header: &incoming.header,
                payload: &payload,
            };
            is_taken = has_raw && self.raw.deliver(&packet);
            if is_icmp {
                let is_discovery = incoming.protocol == ICMP6
                    && incoming.hops == 255
                    && neighbour::receive_v6(self, interface, incoming.from, &payload);
                if !is_discovery && let Some((about, answer)) = icmp::receive(self, &packet) {
                    self.reply(&about, interface, answer);
                }
                return;
            }
        }
        match incoming.protocol {
            TCP => self.receive_segment(interface, incoming),
            UDP => self.receive_datagram(interface, incoming),
            _ if !is_taken => self.refuse(interface, &incoming, 2),
            _ => {}
        }
    }

    fn is_sum_right(incoming: &Incoming) -> bool {
        if incoming.is_sum_good {
            return true;
        }
        let len = len_of(&incoming.payload);
        let mut sum = Sum::pseudo(incoming.from, incoming.to, incoming.protocol, len);
        incoming.payload.iter().for_each(|chunk| sum.add_chunk(chunk));
        sum.folded() == 0xffff
    }

    fn receive_segment(self: &Arc<Self>, interface: &Arc<Interface>, incoming: Incoming) {
        count(&self.counters.tcp_in_segs);
        let head = Head::of(&incoming.payload);
        // The options are in the head; what follows is the payload.
        let Some(mut parsed) = header::parse(head.from(0)) else {
            return count(&self.counters.tcp_in_errors);
        };
        if !Self::is_sum_right(&incoming) || incoming.to.is_multicast() {
            return count(&self.counters.tcp_in_errors);
        }
        let local = Endpoint::new(incoming.to, parsed.to_port);
        let remote = Endpoint::new(incoming.from, parsed.from_port);
        let tuple = Tuple { local, remote };
        let data = &incoming.payload;
        let len = len_of(data).saturating_sub(parsed.header_len);
        parsed.segment.payload = cut(data, parsed.header_len, len);
        let found = self.tcp.connections.get(&tuple);
        let passes = |filter: &socket::Filter, segment: &mut Segment| {
            let ends = (remote, local);
            !filter.is_there()
                || crate::filter::segment(filter, self, ends, segment, interface.index)
        };
        if let Some(Conn::Wire(connection)) = found
            && !(wire::is_call(&parsed.segment) && connection.gives_way(&parsed.segment))
        {
            if passes(&connection.filter, &mut parsed.segment) {
                connection.receive(parsed.segment);
            }
            return;
        }
        if wire::is_call(&parsed.segment)
            && let Some(listener) = listen::find(self, &tuple.reversed(), interface.index)
            && let Ok(way) = self.devices.way(remote.ip, Some(local.ip), 0)
        {
            if passes(&listener.filter, &mut parsed.segment) {
                Connection::answer(self, &listener, tuple, &parsed.segment, way);
            }
            return;
        }
        if let Some(reset) = header::refusal(&parsed.segment)
            && let Ok(way) = self.devices.way(remote.ip, Some(local.ip), 0)
        {
            count(&self.counters.tcp_out_resets);
            self.wire.send_segment(self, &tuple, &reset, &way, 536);
        }
    }

    fn receive_datagram(self: &Arc<Self>, interface: &Arc<Interface>, incoming: Incoming) {
        let head = Head::of(&incoming.payload);
        let bytes = head.from(0);
        let packet = UdpPacket::new_unchecked(bytes);
        let available = len_of(&incoming.payload);
        if bytes.len() < 8 {
            return count(&self.counters.udp_in_errors);
        }
        let len = match usize::from(packet.len()) {
            0 => available,
            len => len,
        };
        // RFC 768: no sum at all is fine with version 4.
        let has_sum = packet.checksum() != 0 || !incoming.to.is_v4();
        if len < 8 || len > available || (has_sum && !Self::is_sum_right(&incoming)) {
            return count(&self.counters.udp_in_errors);
        }
        let payload = cut(&incoming.payload, 8, len - 8);
        // A short datagram does not hold a page for itself.
        let payload = if len <= 1024 {
            Payload::of_bytes(&to_vec(&payload))
        } else {
            Payload::of_chunks(payload)
        };
        let is_for_many = incoming.to.is_multicast() || self.devices.is_broadcast(incoming.to);
        let datagram = Datagram {
            from: Endpoint::new(incoming.from, packet.src_port()),
            to: Endpoint::new(incoming.to, packet.dst_port()),
            interface: interface.index,
            hops: incoming.hops,
            tos: incoming.tos,
            data: payload,
            time_ns: sched::clock::realtime_ns(),
        };
        if self.udp.deliver(self, datagram, is_for_many).is_some() {
            self.refuse(interface, &incoming, 3);
        }
    }

    /// Tells the sender that a packet could not be delivered: of version 4 with this code.
    fn refuse(self: &Arc<Self>, interface: &Arc<Interface>, incoming: &Incoming, code: u8) {
        if incoming.to.is_multicast() || self.devices.is_broadcast(incoming.to) {
            return;
        }
        let (how, mut quoted) = if incoming.to.is_v4() {
            ((3, code), incoming.header.to_vec())
        } else {
            let mut header = alloc::vec![0u8; 40];
            let mut packet = Ipv6Packet::new_unchecked(&mut header[..]);
            packet.set_version(6);
            packet.set_payload_len(len_of(&incoming.payload) as u16);
            packet.set_next_header(incoming.protocol.into());
            packet.set_hop_limit(incoming.hops);
            packet.set_src_addr(incoming.from.octets6().into());
            packet.set_dst_addr(incoming.to.octets6().into());
            (if code == 3 { (1, 4) } else { (4, 1) }, header)
        };
        quoted.extend(to_vec(&cut(&incoming.payload, 0, icmp::MOST_QUOTED)));
        let complaint = icmp::complain(incoming.to, incoming.from, how, quoted);
        let Some((about, quoted)) = complaint else { return };
        count(&self.counters.icmp_out);
        self.reply(&about, interface, quoted);
    }
}
