//! The messages of rtnetlink(7) as bytes.

use alloc::vec::Vec;

use abi::socket::{AF_INET, AF_INET6};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Forwarded, InterfaceAddress, Link, Neighbour, RouteEntry};
use crate::wire::{Header, Message};

/// `struct ifinfomsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct IfInfo {
    pub(super) family: u8,
    pub(super) pad: u8,
    pub(super) hardware: u16,
    pub(super) index: i32,
    pub(super) flags: u32,
    pub(super) change: u32,
}

/// `struct ifaddrmsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct IfAddr {
    pub(super) family: u8,
    pub(super) prefix: u8,
    pub(super) flags: u8,
    pub(super) scope: u8,
    pub(super) index: u32,
}

/// `struct rtmsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RtMsg {
    pub(super) family: u8,
    pub(super) dst_len: u8,
    pub(super) src_len: u8,
    pub(super) tos: u8,
    pub(super) table: u8,
    pub(super) protocol: u8,
    pub(super) scope: u8,
    pub(super) kind: u8,
    pub(super) flags: u32,
}

/// `struct ndmsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct NdMsg {
    pub(super) family: u8,
    pub(super) pad: [u8; 3],
    pub(super) index: i32,
    pub(super) state: u16,
    pub(super) flags: u8,
    pub(super) kind: u8,
}

/// `AF_BRIDGE`: what bridges know and have.
pub(super) const AF_BRIDGE: u16 = 7;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

pub(super) fn family_of(address: &[u8]) -> u16 {
    if address.len() == 16 { AF_INET6 } else { AF_INET }
}

/// `struct ifa_cacheinfo` without the times of its making.
fn lifetimes((preferred, valid): (u32, u32)) -> [u32; 4] {
    [preferred, valid, 0, 0]
}

/// `RTM_NEWLINK` or `RTM_DELLINK`.
pub(super) fn link(link: &Link, kind: u16, flags: u16, request: &Header) -> Vec<u8> {
    let info = IfInfo {
        hardware: link.hardware,
        index: link.index as i32,
        flags: link.flags,
        ..IfInfo::default()
    };
    let mut out = Message::new(kind, flags, request).with(&info);
    out.name(3, &link.name);
    out.number(13, link.tx_queue_len);
    out.attribute(16, &[link.oper_state]);
    out.attribute(17, &[0]);
    out.number(4, link.mtu);
    out.number(50, link.mtu_limits.0);
    out.number(51, link.mtu_limits.1);
    out.number(27, 0);
    out.number(30, link.promiscuity);
    out.number(31, 1);
    out.number(32, 1);
    if let Some(port) = &link.port {
        out.number(10, port.master);
    }
    out.attribute(33, &[u8::from(link.has_carrier)]);
    out.name(6, link.queueing);
    if !link.alias.is_empty() {
        out.name(20, &link.alias);
    }
    if !link.other_names.is_empty() {
        out.nested(52 | NESTED, |list| {
            link.other_names.iter().for_each(|name| list.name(53, name));
        });
    }
    if !link.address.is_empty() {
        out.attribute(1, &link.address);
        out.attribute(2, &link.broadcast);
    }
    // struct rtnl_link_stats64 and rtnl_link_stats: the first eight of 24 words.
    let mut wide = [0u64; 24];
    for (to, from) in wide.iter_mut().zip(link.counters) {
        *to = from;
    }
    out.attribute(23, wide.as_bytes());
    out.attribute(7, wide.map(|count| count as u32).as_bytes());
    if link.made_as.is_some() || link.port.is_some() {
        out.nested(18, |info| link_info(info, link));
    }
    if let Some(namespace) = link.peer_namespace {
        out.number(37, namespace as u32);
    }
    if let Some(peer) = link.peer {
        out.number(5, peer);
    }
    out.finish()
}

/// `RTM_NEWLINK` of a bridge's port.
pub(super) fn port(link: &Link, kind: u16, flags: u16, request: &Header) -> Vec<u8> {
    let info = IfInfo {
        family: AF_BRIDGE as u8,
        hardware: link.hardware,
        index: link.index as i32,
        flags: link.flags,
        ..IfInfo::default()
    };
    let mut out = Message::new(kind, flags, request).with(&info);
    let Some(port) = &link.port else { return out.finish() };
    out.name(3, &link.name);
    out.number(10, port.master);
    out.number(4, link.mtu);
    out.attribute(16, &[link.oper_state]);
    out.attribute(1, &link.address);
    if let Some(peer) = link.peer {
        out.number(5, peer);
    }
    out.nested(12 | NESTED, |data| {
        port.details.iter().for_each(|(kind, value)| data.attribute(*kind, value));
    });
    out.finish()
}

/// `RTM_NEWNEIGH` of an address that a bridge knows.
pub(super) fn forwarded(entry: &Forwarded, kind: u16, flags: u16, request: &Header) -> Vec<u8> {
    let header = NdMsg {
        family: AF_BRIDGE as u8,
        index: entry.index as i32,
        state: entry.state,
        ..NdMsg::default()
    };
    let mut out = Message::new(kind, flags, request).with(&header);
    out.attribute(2, &entry.hardware);
    out.number(9, entry.master);
    // struct nda_cacheinfo, in hundredths of a second: confirmed, used, updated, references.
    let (seen, used) = entry.ages_s;
    let [seen, used] = [seen, used].map(|age| age.saturating_mul(100));
    out.attribute(3, [used, used, seen, 0].as_bytes());
    out.finish()
}

/// `IFLA_LINKINFO`: the kind, and what it tells; the same of whose port it is.
fn link_info(info: &mut Message, link: &Link) {
    let put = |out: &mut Message, details: &[(u16, Vec<u8>)]| {
        details.iter().for_each(|(kind, value)| out.attribute(*kind, value));
    };
    if let Some(made_as) = link.made_as {
        info.name(1, made_as);
        if !link.details.is_empty() {
            info.nested(2, |data| put(data, &link.details));
        }
    }
    if let Some(port) = &link.port {
        info.name(4, port.kind);
        info.nested(5, |data| put(data, &port.details));
    }
}

/// `RTM_NEWADDR` or `RTM_DELADDR`.
pub(super) fn address(
    address: &InterfaceAddress,
    kind: u16,
    flags: u16,
    request: &Header,
) -> Vec<u8> {
    let header = IfAddr {
        family: family_of(&address.local) as u8,
        prefix: address.prefix,
        flags: address.flags as u8,
        scope: address.scope,
        index: address.index,
    };
    let mut out = Message::new(kind, flags, request).with(&header);
    let is_v4 = family_of(&address.local) == AF_INET;
    out.attribute(1, &address.peer);
    if is_v4 || address.peer != address.local {
        out.attribute(2, &address.local);
    }
    if !address.broadcast.is_empty() {
        out.attribute(4, &address.broadcast);
    }
    if !address.label.is_empty() {
        out.name(3, &address.label);
    }
    out.number(8, address.flags);
    out.attribute(6, lifetimes(address.lifetimes).as_bytes());
    out.finish()
}

/// `RTM_NEWROUTE` or `RTM_DELROUTE`.
pub(super) fn route(route: &RouteEntry, kind: u16, flags: u16, request: &Header) -> Vec<u8> {
    let header = RtMsg {
        family: if route.is_v6 { AF_INET6 } else { AF_INET } as u8,
        dst_len: route.prefix,
        src_len: route.from.len() as u8 * 8,
        tos: route.tos,
        // RT_TABLE_COMPAT: the attribute tells.
        table: u8::try_from(route.table).unwrap_or(252),
        protocol: route.protocol,
        scope: route.scope,
        kind: route.kind,
        flags: route.flags,
    };
    let mut out = Message::new(kind, flags, request).with(&header);
    out.number(15, route.table);
    if route.prefix > 0 {
        out.attribute(1, &route.to);
    }
    if !route.from.is_empty() {
        out.attribute(2, &route.from);
    }
    if route.metric != 0 || route.is_v6 {
        out.number(6, route.metric);
    }
    if !route.source.is_empty() {
        out.attribute(7, &route.source);
    }
    if route.mtu != 0 {
        // RTAX_MTU.
        out.nested(8, |metrics| metrics.number(2, route.mtu));
    }
    if !route.gateway.is_empty() {
        out.attribute(5, &route.gateway);
    }
    if route.index != 0 {
        out.number(4, route.index);
    }
    if let Some(uid) = route.uid {
        out.number(25, uid);
    }
    // RTM_F_CLONED.
    if route.is_v6 || route.flags & 0x200 != 0 {
        // struct rta_cacheinfo: nothing is cached.
        out.attribute(12, &[0; 32]);
    }
    if route.is_v6 {
        // ICMPV6_ROUTER_PREF_MEDIUM.
        out.attribute(20, &[0]);
    }
    out.finish()
}

/// `RTM_NEWNEIGH` or `RTM_DELNEIGH`.
pub(super) fn neighbour(neighbour: &Neighbour, kind: u16, flags: u16, request: &Header) -> Vec<u8> {
    let header = NdMsg {
        family: family_of(&neighbour.address) as u8,
        index: neighbour.index as i32,
        state: neighbour.state,
        flags: neighbour.flags,
        kind: 1,
        ..NdMsg::default()
    };
    let mut out = Message::new(kind, flags, request).with(&header);
    out.attribute(1, &neighbour.address);
    if !neighbour.hardware.is_empty() {
        out.attribute(2, &neighbour.hardware);
    }
    out.finish()
}
