//! The hardware addresses of neighbours: ARP (RFC 826) and neighbour discovery (RFC 4861).
//!
//! One hash table per namespace. A few frames wait while an address is asked for, three times a second apart;
//! then their senders hear that the host is unreachable. What is known is asked again when it is old, and
//! used meanwhile.

pub(crate) mod admin;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use netdevice::{Chunk, Destination, Frame, Header, Interface, Ip, Spread};
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

/// `NUD_*` of linux/neighbour.h.
const INCOMPLETE: u16 = 1;
const REACHABLE: u16 = 2;
const STALE: u16 = 4;
const FAILED: u16 = 32;

#[derive(Default)]
struct Neighbour {
    mac: Option<[u8; 6]>,
    /// The state it has for good, as an administrator said.
    fixed: Option<u16>,
    /// Until when the address is believed without asking.
    fresh_until: u64,
    asked_at: u64,
    asked: u32,
    /// Frames for it while its address is not known.
    waiting: VecDeque<Frame>,
}

impl Neighbour {
    fn state(&self, now: u64) -> u16 {
        if let Some(state) = self.fixed {
            return state;
        }
        match self.mac {
            Some(_) if self.fresh_until > now => REACHABLE,
            Some(_) => STALE,
            None if self.waiting.is_empty() => FAILED,
            None => INCOMPLETE,
        }
    }
}

/// A neighbour, for `/proc/net/arp` and rtnetlink.
pub(crate) struct Known {
    pub(crate) index: u32,
    pub(crate) ip: Ip,
    pub(crate) mac: Option<[u8; 6]>,
    /// `NUD_*`.
    pub(crate) state: u16,
}

/// What to do for a frame.
struct Next {
    mac: Option<[u8; 6]>,
    must_ask: bool,
    must_arm: bool,
}

struct Inner {
    table: HashMap<(u32, Ip), Neighbour, Keyed>,
    /// A timer runs: somebody was asked.
    is_armed: bool,
}

/// The neighbours of a namespace.
pub(crate) struct Neighbours(SpinLock<Inner>);

impl Default for Neighbours {
    fn default() -> Self {
        let table = HashMap::with_hasher(Keyed::new(crate::random()));
        Neighbours(SpinLock::new(&TABLE, Inner { table, is_armed: false }))
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

/// Shows a frame that leaves to the programs that listen.
#[cold]
fn show(inet: &Inet, interface: &Interface, frame: &Frame) {
    if let Some(namespace) = inet.namespace() {
        let bytes = Spread { head: frame.header.bytes(), body: &[], chunks: &frame.payload };
        let seen = packet::Seen::sent(bytes, interface.link_len(), frame.checksum.is_some());
        let seen = seen.of_protocol(frame.protocol);
        packet::show(&namespace, interface, &seen);
    }
}

fn transmit(
    inet: &Inet,
    interface: &Interface,
    mac: [u8; 6],
    protocol: u16,
    mut frame: Frame,
) -> Result<()> {
    frame.protocol = protocol;
    if interface.has_address() {
        let bytes = frame.header.push(14).ok_or(Errno::ENOBUFS)?;
        let mut ethernet = EthernetFrame::new_unchecked(bytes);
        ethernet.set_dst_addr(smoltcp::wire::EthernetAddress(mac));
        ethernet.set_src_addr(smoltcp::wire::EthernetAddress(interface.mac()));
        ethernet.set_ethertype(EthernetProtocol::from(protocol));
    } else if let Some(sum) = &mut frame.checksum {
        // Places are counted from the start of what is sent.
        sum.start = sum.start.saturating_sub(14);
    }
    if packet::is_listening() {
        show(inet, interface, &frame);
    }
    match interface.send(frame) {
        // send(2): what finds a queue full is dropped, and nobody hears of it.
        Err(Errno::ENOBUFS) => Ok(()),
        sent => sent,
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
            _ if interface.is_loopback() => {
                return crate::loopback::transmit(inet, interface, protocol, frame);
            }
            Destination::Multicast => {
                return transmit(inet, interface, group_mac(hop), protocol, frame);
            }
            Destination::Broadcast => return transmit(inet, interface, BROADCAST, protocol, frame),
            // There is one other end, which needs no address.
            _ if !interface.has_address() => {
                return transmit(inet, interface, [0; 6], protocol, frame);
            }
            _ => {}
        }
        let now = arch::time::now_ns();
        let next = self.queue((interface.index, hop), &frame, now)?;
        if next.must_ask {
            ask(inet, interface, hop);
        }
        if next.must_arm {
            inet.arm_neighbours(now + RETRY_NS);
        }
        match next.mac {
            Some(mac) => transmit(inet, interface, mac, protocol, frame),
            None => Ok(()),
        }
    }

    /// Lets a frame wait if the address is not known.
    fn queue(&self, key: (u32, Ip), frame: &Frame, now: u64) -> Result<Next> {
        let mut inner = self.0.lock();
        let Inner { table, is_armed } = &mut *inner;
        if table.len() >= MOST && !table.contains_key(&key) {
            table.retain(|_, other| {
                other.fixed.is_some() || matches!(other.state(now), REACHABLE | INCOMPLETE)
            });
            if table.len() >= MOST {
                return Err(Errno::ENOBUFS);
            }
        }
        let neighbour = table.entry(key).or_default();
        let mut must_ask = false;
        if neighbour.mac.is_some() && neighbour.state(now) == STALE {
            must_ask = now.saturating_sub(neighbour.asked_at) >= RETRY_NS;
            if must_ask && neighbour.asked >= TRIES {
                neighbour.mac = None;
            }
        }
        if neighbour.mac.is_none() && neighbour.waiting.is_empty() {
            // Asking begins, perhaps anew; the timer asks again.
            (must_ask, neighbour.asked) = (true, 0);
        }
        if must_ask {
            neighbour.asked += 1;
            neighbour.asked_at = now;
        }
        let mut must_arm = false;
        if neighbour.mac.is_none() {
            if neighbour.waiting.len() >= WAITING {
                neighbour.waiting.pop_front();
            }
            neighbour.waiting.push_back(frame.clone());
            must_arm = !core::mem::replace(is_armed, true);
        }
        Ok(Next { mac: neighbour.mac, must_ask, must_arm })
    }

    /// Time has passed: who is to be asked again, and frames whose neighbour did not answer. When to come
    /// again is a second later, if somebody is still waited for.
    fn tick(&self, now: u64) -> (Vec<(u32, Ip)>, Vec<Frame>, Option<u64>) {
        let mut inner = self.0.lock();
        let (mut asks, mut failed) = (Vec::new(), Vec::new());
        for (key, neighbour) in inner.table.iter_mut() {
            let is_late = now.saturating_sub(neighbour.asked_at) >= RETRY_NS;
            if neighbour.waiting.is_empty() || !is_late {
                continue;
            }
            if neighbour.asked < TRIES {
                neighbour.asked += 1;
                neighbour.asked_at = now;
                asks.push(*key);
            } else {
                failed.extend(neighbour.waiting.drain(..));
            }
        }
        inner.is_armed = inner.table.values().any(|other| !other.waiting.is_empty());
        (asks, failed, inner.is_armed.then_some(now + RETRY_NS))
    }

    /// What a second has brought; when the next look is due.
    pub(crate) fn expire(&self, inet: &Inet, now: u64) -> Option<u64> {
        let (asks, failed, next) = self.tick(now);
        for (index, ip) in asks {
            if let Some(interface) = inet.devices.by_index(index) {
                ask(inet, &interface, ip);
            }
        }
        for frame in failed {
            crate::icmp::tell_unreachable(inet, &frame);
        }
        next
    }

    /// A neighbour told its address.
    pub(crate) fn learn(
        &self,
        inet: &Inet,
        interface: &Arc<Interface>,
        ip: Ip,
        mac: [u8; 6],
        is_wanted: bool,
    ) {
        let now = arch::time::now_ns();
        let waiting = {
            let table = &mut self.0.lock().table;
            let key = (interface.index, ip);
            if !is_wanted && !table.contains_key(&key) {
                return;
            }
            if table.len() >= MOST && !table.contains_key(&key) {
                return;
            }
            let neighbour = table.entry(key).or_default();
            if neighbour.fixed.is_some() {
                return;
            }
            neighbour.mac = Some(mac);
            neighbour.fresh_until = now + REACHABLE_NS;
            neighbour.asked = 0;
            core::mem::take(&mut neighbour.waiting)
        };
        let protocol = if ip.is_v4() { IPV4 } else { IPV6 };
        for frame in waiting {
            // What a full queue drops is sent again by who cares.
            let _ = transmit(inet, interface, mac, protocol, frame);
        }
    }

    /// All of them, with their interface.
    pub(crate) fn all(&self) -> Vec<Known> {
        let now = arch::time::now_ns();
        let inner = self.0.lock();
        let known = |(key, neighbour): (&(u32, Ip), &Neighbour)| Known {
            index: key.0,
            ip: key.1,
            mac: neighbour.mac,
            state: neighbour.state(now),
        };
        inner.table.iter().map(known).collect()
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
        let _ = send_arp(inet, interface, ArpOperation::Request, own, (BROADCAST, [0; 6]), ip);
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
    inet: &Inet,
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
    transmit(inet, interface, mac, ARP, Frame::new(header, payload))
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
        inet.wire.neighbours.learn(inet, interface, from, mac, is_for_us);
    }
    if is_for_us && packet.operation() == ArpOperation::Request {
        let _ = send_arp(inet, interface, ArpOperation::Reply, to, (mac, mac), from);
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
            if let Some(mac) = option(1).filter(|mac| mac[0] & 1 == 0 && !from.is_any()) {
                inet.wire.neighbours.learn(inet, interface, from, mac, true);
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
            if let Some(mac) = option(2).filter(|mac| mac[0] & 1 == 0) {
                inet.wire.neighbours.learn(inet, interface, target, mac, false);
            }
            true
        }
        (Icmpv6Message::RouterSolicit | Icmpv6Message::RouterAdvert, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let payload = SmallVec::new();
        Frame::new(Header::new(), payload)
    }

    fn ip(number: u32) -> Ip {
        Ip::v4((0x0a00_0000 + number).to_be_bytes())
    }

    #[test]
    fn who_does_not_answer_is_asked_three_times_and_given_up() {
        let all = Neighbours::default();
        let key = (2, ip(1));
        let first = all.queue(key, &frame(), 0).unwrap();
        assert!(first.must_ask && first.must_arm && first.mac.is_none());
        let second = all.queue(key, &frame(), 1).unwrap();
        assert!(!second.must_ask && !second.must_arm);
        for turn in 1..TRIES as u64 {
            let (asks, failed, next) = all.tick(turn * RETRY_NS);
            assert_eq!((asks, failed.len(), next), (vec![key], 0, Some((turn + 1) * RETRY_NS)));
        }
        let (asks, failed, next) = all.tick(u64::from(TRIES) * RETRY_NS);
        assert_eq!((asks.len(), failed.len(), next), (0, 2, None));
        assert_eq!(all.0.lock().table[&key].state(0), FAILED);
        let again = all.queue(key, &frame(), 9 * RETRY_NS).unwrap();
        assert!(again.must_ask && again.must_arm);
    }

    #[test]
    fn those_that_failed_make_room() {
        let all = Neighbours::default();
        for number in 0..MOST as u32 {
            assert!(all.queue((2, ip(number)), &frame(), 0).is_ok());
        }
        let other = (2, ip(MOST as u32));
        assert_eq!(all.queue(other, &frame(), 0).err(), Some(Errno::ENOBUFS));
        (1..=u64::from(TRIES)).for_each(|turn| drop(all.tick(turn * RETRY_NS)));
        assert!(all.queue(other, &frame(), 0).is_ok());
        assert_eq!(all.0.lock().table.len(), 1);
    }
}
