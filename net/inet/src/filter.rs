//! What filters of internet sockets see (`SO_ATTACH_FILTER`): a packet from its transport's header on (a raw socket
//! of version 4: from the network's header on). Headers of what came without are made anew.

use alloc::sync::Arc;

use ::socket::{Filter, filter};
use netdevice::{Endpoint, Interface, Ip, Spread};
use smallvec::SmallVec;

use crate::ipout::{self, About};
use crate::stack::Inet;
use crate::tcp::header;
use crate::tcp::tcb::Segment;
use crate::udp::datagram::{Datagram, Payload};

/// Headers: of the network, and a transport's.
type Head = SmallVec<[u8; 100]>;

/// The header of the network for a packet with a load of `len` bytes.
fn network(from: Ip, to: Ip, protocol: u8, (hops, tos): (u8, u8), len: usize) -> Head {
    let about = About { from, to, protocol, hops, tos };
    if to.is_v4() {
        SmallVec::from_slice(&ipout::header4(&about, len))
    } else {
        SmallVec::from_slice(&ipout::header6(&about, len))
    }
}

fn kind_of(inet: &Inet, to: Ip) -> u8 {
    match () {
        () if to.is_multicast() => 2,
        () if inet.devices.is_broadcast(to) => 1,
        () => 0,
    }
}

fn ask(
    program: &Filter,
    inet: &Inet,
    spread: &Spread<'_>,
    start: usize,
    (to, interface): (Ip, u32),
    least: usize,
) -> Option<usize> {
    let len = spread.len().saturating_sub(start);
    let found: Option<Arc<Interface>> = inet.devices.by_index(interface);
    program.pass(len, least, || bpf::Packet {
        start,
        end: spread.len(),
        protocol: if to.is_v4() { 0x0800 } else { 0x86dd },
        kind: kind_of(inet, to),
        interface: found.map(|interface| (interface.index, interface.kind())),
        ..filter::plain(spread, 0, 0)
    })
}

/// What of a datagram of UDP a socket is given.
#[cold]
pub(crate) fn udp(program: &Filter, inet: &Inet, datagram: Arc<Datagram>) -> Option<Arc<Datagram>> {
    let len = datagram.data.len();
    let (from, to) = (datagram.from, datagram.to);
    let mut head = network(from.ip, to.ip, 17, (datagram.hops, datagram.tos), len + 8);
    let start = head.len();
    head.extend(from.port.to_be_bytes());
    head.extend(to.port.to_be_bytes());
    head.extend(((len + 8) as u16).to_be_bytes());
    head.extend([0, 0]);
    let kept = {
        let spread = datagram.data.spread(&head);
        ask(program, inet, &spread, start, (to.ip, datagram.interface), 8)? - 8
    };
    if kept == len {
        return Some(datagram);
    }
    Some(Arc::new(datagram.cut(kept)))
}

/// What of a packet a raw socket is given; `start` is 0 if the bytes have the network's header.
#[cold]
pub(crate) fn raw(
    program: &Filter,
    inet: &Inet,
    datagram: Datagram,
    protocol: u8,
    has_header: bool,
) -> Option<Datagram> {
    let len = datagram.data.len();
    let (from, to) = (datagram.from.ip, datagram.to.ip);
    let head = if has_header {
        Head::new()
    } else {
        network(from, to, protocol, (datagram.hops, datagram.tos), len)
    };
    let kept = {
        let spread = datagram.data.spread(&head);
        ask(program, inet, &spread, head.len(), (to, datagram.interface), 1)?
    };
    Some(if kept == len { datagram } else { datagram.cut(kept) })
}

/// Whether a segment that goes from one end to another passes; its payload may be cut.
#[cold]
pub(crate) fn segment(
    program: &Filter,
    inet: &Inet,
    (from, to): (Endpoint, Endpoint),
    segment: &mut Segment,
    interface: u32,
) -> bool {
    let mut own = netdevice::Header::new();
    let Some(header_len) = header::emit(&mut own, (from.port, to.port), segment) else {
        return true;
    };
    let len = segment.payload_len();
    let mut head = network(from.ip, to.ip, 6, (64, 0), header_len + len);
    let start = head.len();
    head.extend_from_slice(own.bytes());
    let spread = Spread { head: &head, body: &[], chunks: &segment.payload };
    let kept = ask(program, inet, &spread, start, (to.ip, interface), header_len);
    let Some(kept) = kept else { return false };
    if kept < header_len + len {
        segment.payload = ipout::cut(&segment.payload, 0, kept - header_len);
    }
    true
}

impl Payload {
    /// The bytes after a head.
    pub(crate) fn spread<'a>(&'a self, head: &'a [u8]) -> Spread<'a> {
        match self {
            Payload::Small(bytes) => Spread { head, body: bytes, chunks: &[] },
            Payload::Pages(chunks, _) => Spread { head, body: &[], chunks },
        }
    }

    fn cut(&self, len: usize) -> Payload {
        match self {
            Payload::Small(bytes) => Payload::of_bytes(bytes.get(..len).unwrap_or(bytes)),
            Payload::Pages(chunks, _) => Payload::of_chunks(ipout::cut(chunks, 0, len)),
        }
    }
}

impl Datagram {
    /// The first `len` bytes of it.
    fn cut(&self, len: usize) -> Datagram {
        let Datagram { from, to, interface, hops, tos, time_ns, .. } = *self;
        Datagram { from, to, interface, hops, tos, data: self.data.cut(len), time_ns }
    }
}
