//! What rtnetlink(7) tells of interfaces, addresses and routes, and what it changes.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use core::sync::atomic::Ordering;
use netdevice::{Address, Destination, Devices, Interface, Ip, Route, flag};
use netlink::route::{
    Change, InterfaceAddress, Link, Neighbour, Network, RouteEntry, find_name, find_number,
};
use socket::NetNamespace;

use crate::neighbour::Known;

/// `RTM_NEWLINK`.
const NEW_LINK: u16 = 16;
/// `struct ifinfomsg`: its length, and where the number, the flags and their mask are.
const INFO: (usize, usize, usize, usize) = (16, 4, 8, 12);
/// `IFLA_IFNAME`, `IFLA_MTU`.
const NAME: u16 = 3;
const MTU: u16 = 4;
/// `NLM_F_CREATE`.
const CREATE: u16 = 0x400;
/// `RT_TABLE_MAIN`, `RT_TABLE_LOCAL`.
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// The interfaces of a namespace as netlink's owner of them.
pub(crate) struct Told;

fn devices(namespace: &NetNamespace) -> Option<Arc<Devices>> {
    namespace.part_arc::<Devices>()
}

fn bytes(ip: Ip) -> Vec<u8> {
    if ip.is_v4() { ip.octets4().to_vec() } else { ip.octets6().to_vec() }
}

fn link(interface: &Interface) -> Link {
    let flags = interface.flags();
    let count = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &interface.counters;
    let oper_state = match (interface.is_running(), interface.is_loopback()) {
        (true, true) => 0,
        (true, false) => 6,
        (false, _) => 2,
    };
    Link {
        index: interface.index,
        name: interface.name(),
        hardware: interface.kind,
        flags,
        mtu: interface.mtu(),
        address: interface.mac().to_vec(),
        broadcast: if interface.is_loopback() { [0; 6] } else { [0xff; 6] }.to_vec(),
        tx_queue_len: interface.tx_queue_len(),
        oper_state,
        has_carrier: interface.is_loopback() || interface.is_running(),
        queueing: if interface.is_up() { "noqueue" } else { "noop" },
        counters: [
            count(&counters.rx_packets),
            count(&counters.tx_packets),
            count(&counters.rx_bytes),
            count(&counters.tx_bytes),
            count(&counters.rx_errors),
            count(&counters.tx_errors),
            count(&counters.rx_dropped),
            count(&counters.tx_dropped),
        ],
    }
}

fn address(interface: &Interface, address: &Address) -> InterfaceAddress {
    InterfaceAddress {
        index: interface.index,
        local: bytes(address.ip),
        peer: bytes(address.peer.unwrap_or(address.ip)),
        prefix: address.prefix,
        broadcast: address.broadcast.map_or_else(Vec::new, bytes),
        scope: address.scope,
        flags: address.flags,
        label: if address.ip.is_v4() { address.label.clone() } else { String::new() },
        lifetimes: (u32::MAX, u32::MAX),
    }
}

fn route(route: &Route) -> RouteEntry {
    RouteEntry {
        is_v6: !route.to.is_v4(),
        to: if route.prefix == 0 { Vec::new() } else { bytes(route.to) },
        prefix: route.prefix,
        gateway: route.gateway.map_or_else(Vec::new, bytes),
        index: route.interface,
        source: route.source.map_or_else(Vec::new, bytes),
        table: MAIN,
        protocol: route.protocol,
        scope: route.scope,
        kind: route.kind,
        metric: route.metric,
    }
}

/// An address of 4 or 16 bytes.
fn parse(octets: &[u8]) -> Result<Ip> {
    match octets.len() {
        4 => Ok(Ip::v4(octets.try_into().map_err(|_| Errno::EINVAL)?)),
        16 => Ok(Ip::v6(octets.try_into().map_err(|_| Errno::EINVAL)?)),
        _ => Err(Errno::EINVAL),
    }
}

impl Network for Told {
    fn links(&self, namespace: &Arc<NetNamespace>) -> Vec<Link> {
        let all = devices(namespace).map_or_else(Vec::new, |devices| devices.all());
        all.iter().map(|interface| link(interface)).collect()
    }

    fn addresses(&self, namespace: &Arc<NetNamespace>) -> Vec<InterfaceAddress> {
        let all = devices(namespace).map_or_else(Vec::new, |devices| devices.all());
        let mut list = Vec::new();
        for is_v4 in [true, false] {
            for interface in &all {
                let addresses = interface.addresses();
                let wanted = addresses.iter().filter(|address| address.ip.is_v4() == is_v4);
                list.extend(wanted.map(|one| address(interface, one)));
            }
        }
        list
    }

    fn routes(&self, namespace: &Arc<NetNamespace>) -> Vec<RouteEntry> {
        let Some(devices) = devices(namespace) else { return Vec::new() };
        let all = [true, false].into_iter().flat_map(|is_v4| devices.routes(is_v4));
        all.map(|one| route(&one)).collect()
    }

    fn route_to(&self, namespace: &Arc<NetNamespace>, to: &[u8]) -> Result<RouteEntry> {
        let to = parse(to)?;
        let way = devices(namespace).ok_or(Errno::ENETUNREACH)?.way(to, None, 0)?;
        let (table, kind) = match way.kind {
            Destination::Local => (LOCAL, 2),
            Destination::Broadcast => (LOCAL, 3),
            Destination::Multicast => (MAIN, 5),
            Destination::Remote => (MAIN, 1),
        };
        let is_direct = way.next_hop == to;
        Ok(RouteEntry {
            is_v6: !to.is_v4(),
            to: bytes(to),
            prefix: if to.is_v4() { 32 } else { 128 },
            gateway: if is_direct { Vec::new() } else { bytes(way.next_hop) },
            index: way.interface.index,
            source: bytes(way.source),
            table,
            protocol: 0,
            scope: 0,
            kind,
            metric: 0,
        })
    }

    fn neighbours(&self, namespace: &Arc<NetNamespace>) -> Vec<Neighbour> {
        let all = crate::Inet::of(namespace).map_or_else(Vec::new, |i| i.wire.neighbours.all());
        let told = |known: Known| Neighbour {
            index: known.index,
            address: bytes(known.ip),
            hardware: known.mac.map_or_else(Vec::new, |mac| mac.to_vec()),
            state: known.state,
            flags: 0,
        };
        all.into_iter().map(told).collect()
    }

    /// Flags and the longest packet of an interface that there is.
    fn change(&self, namespace: &Arc<NetNamespace>, change: &Change<'_>) -> Result<()> {
        if change.kind != NEW_LINK {
            return Err(Errno::EOPNOTSUPP);
        }
        let (len, at, flags_at, mask_at) = INFO;
        let word = |at: usize| {
            let found: Option<[u8; 4]> =
                change.payload.get(at..at + 4).and_then(|word| word.try_into().ok());
            found.map(u32::from_ne_bytes).ok_or(Errno::EINVAL)
        };
        let (index, flags, mask) = (word(at)?, word(flags_at)?, word(mask_at)?);
        let devices = devices(namespace).ok_or(Errno::ENODEV)?;
        let found = match find_name(change.payload, len, NAME) {
            Some(name) if index == 0 => devices.by_name(name),
            _ => devices.by_index(index),
        };
        // No kind of interface can be made.
        let is_creating = change.flags & CREATE != 0;
        let interface = found.ok_or(if is_creating { Errno::EOPNOTSUPP } else { Errno::ENODEV })?;
        if let Some(mtu) = find_number(change.payload, len, MTU) {
            interface.set_mtu(mtu)?;
        }
        let changeable = flag::UP | flag::PROMISC | flag::ALLMULTI | flag::MULTICAST | flag::NOARP;
        let mask = mask & changeable;
        devices.set_flags(&interface, flags & mask, !flags & mask);
        Ok(())
    }
}
