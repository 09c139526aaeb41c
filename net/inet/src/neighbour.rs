//! The hardware addresses of neighbours: ARP (RFC 826) and neighbour discovery (RFC 4861).
//!
//! One hash table per namespace. A few frames wait while an address is asked for; what is known is asked
//! again when it is old, and used meanwhile.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use netdevice::{Chunk, Destination, Frame, Header, Interface, Ip};
use smallvec::SmallVec;
use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, EthernetFrame, EthernetProtocol, Icmpv6Message,
    Icmpv6Packet,
};

use crate::icmp::{ICMP6, v6};
use crate::ipout::About;
use crate::stack::Inet;
use crate::table::Keyed;

static TABLE: LockClass = LockClass::new("inet.neighbours", 536);

/// Frames that wait for one address.
const WAITING: usize = 64;
/// `gc_thresh3`: neighbours that are remembered.
const MOST: usize = 1024;
const REACHABLE_NS: u64 = 30_000_000_000;
const RETRY_NS: u64 = 1_000_000_000;
const TRIES: u32 = 3;

struct Neighbour {
    mac: Option<[u8; 6]>,
    /// Until when the address is believed without asking.
    fresh_until: u64,
    asked_at: u64,
    asked: u32,
    waiting: VecDeque<Frame>,
}

/// The neighbours of a namespace.
pub(crate) struct Neighbours(SpinLock<HashMap<(u32, Ip), Neighbour, Keyed>>);

impl Default for Neighbours {
    fn default() -> Self {
        Neighbours(SpinLock::new(&TABLE, HashMap::with_hasher(Keyed::new(crate::random()))))
    }
}

const BROADCAST: [u8; 6] = [0xff; 6];

/// RFC 1112 §6.4, RFC 2464 §7.
fn group_mac(ip: Ip) -> [u8; 6] {
    if ip.is_v4() {
        let [_, b, c, d] = ip.octets4();
        [1, 0, 0x5e, b & 0x7f, c, d]
    } else {
        let [.., a, b, c, d] = ip.octets6();
        [0x33, 0x33, a, b, c, d]
    }
}

/// RFC 4291 §2.7.1: the group of those whose address ends like this.
fn solicited(ip: Ip) -> Ip {
    let [.., b, c, d] = ip.octets6();
    Ip::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, b, c, d])
}

fn transmit(interface: &Interface, mac: [u8; 6], protocol: u16, mut frame: Frame) -> Result<()> {
    let device = interface.device.as_ref().ok_or(Errno::ENETDOWN)?;
    let bytes = frame.header.push(14).ok_or(Errno::ENOBUFS)?;
    let mut ethernet = EthernetFrame::new_unchecked(bytes);
    ethernet.set_dst_addr(smoltcp::wire::EthernetAddress(mac));
    ethernet.set_src_addr(smoltcp::wire::EthernetAddress(interface.mac()));
    ethernet.set_ethertype(EthernetProtocol::from(protocol));
    let len = frame.len();
    match device.transmit(frame) {
        Ok(()) => {
            interface.counters.sent(1, len);
            Ok(())
        }
        Err(error) => {
            interface.counters.tx_dropped.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            Err(error)
        }
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

impl Neighbours {
    /// Sends a packet to the next hop, as soon as its address is known.
    pub(crate) fn send(
        &self,
        inet: &Inet,
        interface: &Arc<Interface>,
        hop: Ip,
        kind: Destination,
        frame: Frame,
    ) -> Result<()> {
        let protocol = if hop.is_v4() { IPV4 } else { IPV6 };
        match kind {
            Destination::Multicast => return transmit(interface, group_mac(hop), protocol, frame),
            Destination::Broadcast => return transmit(interface, BROADCAST, protocol, frame),
            _ => {}
        }
        let now = arch::time::now_ns();
        let (mac, must_ask) = {
            let mut table = self.0.lock();
            if table.len() >= MOST && !table.contains_key(&(interface.index, hop)) {
                table.retain(|_, other| other.fresh_until > now || !other.waiting.is_empty());
                if table.len() >= MOST {
                    return Err(Errno::ENOBUFS);
                }
            }
            let neighbour = table.entry((interface.index, hop)).or_insert_with(|| Neighbour {
                mac: None,
                fresh_until: 0,
                asked_at: 0,
                asked: 0,
                waiting: VecDeque::new(),
            });
            let is_old = neighbour.fresh_until <= now;
            let must_ask = is_old && now.saturating_sub(neighbour.asked_at) >= RETRY_NS;
            if must_ask {
                if neighbour.asked >= TRIES && neighbour.mac.is_none() {
                    // Nobody answered: what waited is given up, and asking begins anew.
                    neighbour.waiting.clear();
                    neighbour.asked = 0;
                    neighbour.asked_at = now;
                    return Err(Errno::EHOSTUNREACH);
                }
                if neighbour.asked >= TRIES {
                    neighbour.mac = None;
                    neighbour.asked = 0;
                }
                neighbour.asked += 1;
                neighbour.asked_at = now;
            }
            if neighbour.mac.is_none() {
                if neighbour.waiting.len() >= WAITING {
                    neighbour.waiting.pop_front();
                }
                neighbour.waiting.push_back(frame.clone());
            }
            (neighbour.mac, must_ask)
        };
        if must_ask {
            ask(inet, interface, hop);
        }
        match mac {
            Some(mac) => transmit(interface, mac, protocol, frame),
            None => Ok(()),
        }
    }

    /// A neighbour told its address.
    pub(crate) fn learn(&self, interface: &Arc<Interface>, ip: Ip, mac: [u8; 6], is_wanted: bool) {
        let now = arch::time::now_ns();
        let waiting = {
            let mut table = self.0.lock();
            let key = (interface.index, ip);
            if !is_wanted && !table.contains_key(&key) {
                return;
            }
            if table.len() >= MOST && !table.contains_key(&key) {
                return;
            }
            let neighbour = table.entry(key).or_insert_with(|| Neighbour {
                mac: None,
                fresh_until: 0,
                asked_at: 0,
                asked: 0,
                waiting: VecDeque::new(),
            });
            neighbour.mac = Some(mac);
            neighbour.fresh_until = now + REACHABLE_NS;
            neighbour.asked = 0;
            core::mem::take(&mut neighbour.waiting)
        };
        let protocol = if ip.is_v4() { IPV4 } else { IPV6 };
        for frame in waiting {
            // What a full queue drops is sent again by who cares.
            let _ = transmit(interface, mac, protocol, frame);
        }
    }

    /// All of them, for `/proc/net/arp`.
    pub(crate) fn all(&self) -> Vec<(u32, Ip, Option<[u8; 6]>)> {
        self.0.lock().iter().map(|((index, ip), n)| (*index, *ip, n.mac)).collect()
    }
}

/// Asks who has an address.
fn ask(inet: &Inet, interface: &Arc<Interface>, ip: Ip) {
    let own = interface.find_address(|address| {
        address.ip.is_v4() == ip.is_v4()
            && address.ip.masked(address.prefix) == ip.masked(address.prefix)
    });
    let own = own.or_else(|| interface.find_address(|address| address.ip.is_v4() == ip.is_v4()));
    let Some(own) = own.map(|address| address.ip) else { return };
    if ip.is_v4() {
        let _ = send_arp(interface, ArpOperation::Request, own, (BROADCAST, [0; 6]), ip);
        return;
    }
    let mut message = alloc::vec![135u8, 0, 0, 0, 0, 0, 0, 0];
    message.extend(ip.octets6());
    message.extend([1, 1]);
    message.extend(interface.mac());
    let to = solicited(ip);
    send_v6(inet, interface, own, to, Destination::Multicast, message);
}

fn send_v6(
    inet: &Inet,
    interface: &Arc<Interface>,
    from: Ip,
    to: Ip,
    kind: Destination,
    mut message: Vec<u8>,
) {
    let mut packet = Icmpv6Packet::new_unchecked(&mut message[..]);
    packet.fill_checksum(&v6(from), &v6(to));
    let about = About { from, to, protocol: ICMP6, hops: 255, tos: 0 };
    let way = netdevice::Way {
        interface: interface.clone(),
        next_hop: to,
        source: from,
        mtu: interface.mtu(),
        kind,
    };
    let _ = inet.wire.send_packet(inet, &about, &way, message);
}

fn send_arp(
    interface: &Interface,
    operation: ArpOperation,
    from: Ip,
    (mac, target): ([u8; 6], [u8; 6]),
    to: Ip,
) -> Result<()> {
    let mut bytes = [0u8; 28];
    let mut packet = ArpPacket::new_unchecked(&mut bytes[..]);
    packet.set_hardware_type(ArpHardware::Ethernet);
    packet.set_protocol_type(EthernetProtocol::Ipv4);
    packet.set_hardware_len(6);
    packet.set_protocol_len(4);
    packet.set_operation(operation);
    packet.set_source_hardware_addr(&interface.mac());
    packet.set_source_protocol_addr(&from.octets4());
    packet.set_target_hardware_addr(&target);
    packet.set_target_protocol_addr(&to.octets4());
    let mut header = Header::new();
    header.push(28).ok_or(Errno::ENOBUFS)?.copy_from_slice(&bytes);
    let payload: SmallVec<[Chunk; 4]> = SmallVec::new();
    transmit(interface, mac, ARP, Frame { header, payload, checksum: None, segmentation: None })
}

/// An ARP packet came.
pub(crate) fn receive_arp(inet: &Inet, interface: &Arc<Interface>, bytes: &[u8]) {
    let Ok(packet) = ArpPacket::new_checked(bytes) else { return };
    if packet.hardware_len() != 6 || packet.protocol_len() != 4 {
        return;
    }
    let ip = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ip::v4);
    let Ok(mac) = <[u8; 6]>::try_from(packet.source_hardware_addr()) else { return };
    let Some(from) = ip(packet.source_protocol_addr()) else { return };
    let Some(to) = ip(packet.target_protocol_addr()) else { return };
    let is_for_us =
        inet.devices.local_interface(to).is_some_and(|owner| owner.index == interface.index);
    if !from.is_any() && mac[0] & 1 == 0 {
        inet.wire.neighbours.learn(interface, from, mac, is_for_us);
    }
    if is_for_us && packet.operation() == ArpOperation::Request {
        let _ = send_arp(interface, ArpOperation::Reply, to, (mac, mac), from);
    }
}

/// A message of neighbour discovery came; its hop limit was 255. Whether it was one.
pub(crate) fn receive_v6(
    inet: &Inet,
    interface: &Arc<Interface>,
    from: Ip,
    payload: &[u8],
) -> bool {
    let Ok(packet) = Icmpv6Packet::new_checked(payload) else { return false };
    let target = payload.get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(Ip::v6);
    // Options: a kind, a length in words of eight bytes.
    let option = |wanted: u8| {
        let mut rest = payload.get(24..).unwrap_or(&[]);
        while let [kind, len, ..] = rest {
            let len = usize::from(*len) * 8;
            if len == 0 {
                return None;
            }
            if *kind == wanted {
                return rest.get(2..8).and_then(|mac| <[u8; 6]>::try_from(mac).ok());
            }
            rest = rest.get(len..).unwrap_or(&[]);
        }
        None
    };
    match (packet.msg_type(), target) {
        (Icmpv6Message::NeighborSolicit, Some(target)) => {
            let is_ours = inet
                .devices
                .local_interface(target)
                .is_some_and(|owner| owner.index == interface.index);
            if !is_ours {
                return true;
            }
            if let Some(mac) = option(1) {
                inet.wire.neighbours.learn(interface, from, mac, true);
            }
            let mut message = alloc::vec![136u8, 0, 0, 0, 0x60, 0, 0, 0];
            message.extend(target.octets6());
            message.extend([2, 1]);
            message.extend(interface.mac());
            if from.is_any() {
                let [a, b] = [0xff, 2];
                let all = Ip::v6([a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                send_v6(inet, interface, target, all, Destination::Multicast, message);
            } else {
                send_v6(inet, interface, target, from, Destination::Remote, message);
            }
            true
        }
        (Icmpv6Message::NeighborAdvert, Some(target)) => {
            if let Some(mac) = option(2) {
                inet.wire.neighbours.learn(interface, target, mac, false);
            }
            true
        }
        (Icmpv6Message::RouterSolicit | Icmpv6Message::RouterAdvert, _) => true,
        _ => false,
    }
}
