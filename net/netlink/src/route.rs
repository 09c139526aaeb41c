//! `NETLINK_ROUTE` (rtnetlink(7)): interfaces, addresses, routes and neighbours as whoever owns them
//! tells. Names, numbers and layouts are those of rtnetlink(3) and `linux/rtnetlink.h`.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::{AF_INET, AF_INET6, AF_UNSPEC};
use abi::{Errno, Result};
use arch::lock::Once;
use socket::NetNamespace;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel::{Outcome, Request};
use crate::sock::Netlink;
use crate::wire::{Header, Message, attributes, flag, number};

const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const GETNEIGH: u16 = 30;
const GETTCLASS: u16 = 42;
const GETTFILTER: u16 = 46;
const GETACTION: u16 = 50;
const GETNSID: u16 = 90;
const GETCHAIN: u16 = 102;

/// An interface.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `ARPHRD_*`.
    pub hardware: u16,
    /// `IFF_*`.
    pub flags: u32,
    /// The longest packet.
    pub mtu: u32,
    /// The hardware address.
    pub address: Vec<u8>,
    /// The hardware address of everybody.
    pub broadcast: Vec<u8>,
    /// Packets that wait to be sent at most.
    pub tx_queue_len: u32,
    /// RFC 2863: 0 unknown, 2 down, 6 up.
    pub oper_state: u8,
    /// Whether the cable is in.
    pub has_carrier: bool,
    /// What orders its packets.
    pub queueing: &'static str,
    /// Received and sent: packets, bytes, errors, dropped, in pairs.
    pub counters: [u64; 8],
}

/// An address of an interface. Addresses are 4 or 16 bytes.
#[derive(Clone, Debug, Default)]
pub struct InterfaceAddress {
    /// The interface.
    pub index: u32,
    /// The address itself.
    pub local: Vec<u8>,
    /// The other end of a point-to-point link; elsewhere the same.
    pub peer: Vec<u8>,
    /// Bits of the network.
    pub prefix: u8,
    /// The address of everybody; empty for none.
    pub broadcast: Vec<u8>,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
    /// A name; empty for none.
    pub label: String,
    /// Seconds it is preferred and valid; `u32::MAX` for ever.
    pub lifetimes: (u32, u32),
}

/// A route.
#[derive(Clone, Debug, Default)]
pub struct RouteEntry {
    /// Whether it is IPv6.
    pub is_v6: bool,
    /// The network; empty for all.
    pub to: Vec<u8>,
    /// Bits of it.
    pub prefix: u8,
    /// The next router; empty for none.
    pub gateway: Vec<u8>,
    /// The interface; 0 for none.
    pub index: u32,
    /// The address to send from; empty for none.
    pub source: Vec<u8>,
    /// `RT_TABLE_*`: 254 main, 255 local.
    pub table: u32,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// Among routes of one network the smallest wins.
    pub metric: u32,
}

/// A neighbour.
#[derive(Clone, Debug, Default)]
pub struct Neighbour {
    /// The interface.
    pub index: u32,
    /// Its address.
    pub address: Vec<u8>,
    /// Its hardware address; empty if unknown.
    pub hardware: Vec<u8>,
    /// `NUD_*`.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
}

/// A request that changes something: rtnetlink's type, flags and payload, for its owner to read with
/// [`attributes`].
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// `RTM_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// Who owns interfaces, addresses and routes.
pub trait Network: Send + Sync {
    /// The interfaces, in the order of their numbers.
    fn links(&self, namespace: &Arc<NetNamespace>) -> Vec<Link>;
    /// The addresses: IPv4 first.
    fn addresses(&self, namespace: &Arc<NetNamespace>) -> Vec<InterfaceAddress>;
    /// The routes: IPv4 first.
    fn routes(&self, namespace: &Arc<NetNamespace>) -> Vec<RouteEntry>;
    /// The route to an address.
    fn route_to(&self, namespace: &Arc<NetNamespace>, to: &[u8]) -> Result<RouteEntry>;
    /// The neighbours.
    fn neighbours(&self, namespace: &Arc<NetNamespace>) -> Vec<Neighbour>;
    /// Serves a request that changes something; the caller may administer the namespace.
    /// `EOPNOTSUPP` for what is not there.
    fn change(&self, namespace: &Arc<NetNamespace>, change: &Change<'_>) -> Result<()>;
}

static NETWORK: Once<&'static dyn Network> = Once::new();

/// Registers who owns interfaces, addresses and routes.
pub fn set_network(network: &'static dyn Network) {
    NETWORK.call_once(|| network);
}

/// `struct ifinfomsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IfInfo {
    family: u8,
    pad: u8,
    hardware: u16,
    index: i32,
    flags: u32,
    change: u32,
}

/// `struct ifaddrmsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IfAddr {
    family: u8,
    prefix: u8,
    flags: u8,
    scope: u8,
    index: u32,
}

/// `struct rtmsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RtMsg {
    family: u8,
    dst_len: u8,
    src_len: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

/// `struct ndmsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NdMsg {
    family: u8,
    pad: [u8; 3],
    index: i32,
    state: u16,
    flags: u8,
    kind: u8,
}

fn family_of(address: &[u8]) -> u16 {
    if address.len() == 16 { AF_INET6 } else { AF_INET }
}

fn encode_link(link: &Link, flags: u16, request: &Header) -> Vec<u8> {
    let info = IfInfo {
        hardware: link.hardware,
        index: link.index as i32,
        flags: link.flags,
        ..IfInfo::default()
    };
    let mut out = Message::new(NEWLINK, flags, request).with(&info);
    out.name(3, &link.name);
    out.number(13, link.tx_queue_len);
    out.attribute(16, &[link.oper_state]);
    out.attribute(17, &[0]);
    out.number(4, link.mtu);
    out.number(27, 0);
    out.number(30, 0);
    out.number(31, 1);
    out.number(32, 1);
    out.attribute(33, &[u8::from(link.has_carrier)]);
    out.name(6, link.queueing);
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
    out.finish()
}

fn encode_address(address: &InterfaceAddress, flags: u16, request: &Header) -> Vec<u8> {
    let header = IfAddr {
        family: family_of(&address.local) as u8,
        prefix: address.prefix,
        flags: address.flags as u8,
        scope: address.scope,
        index: address.index,
    };
    let mut out = Message::new(NEWADDR, flags, request).with(&header);
    out.attribute(1, &address.peer);
    if family_of(&address.local) == AF_INET {
        out.attribute(2, &address.local);
        if !address.broadcast.is_empty() {
            out.attribute(4, &address.broadcast);
        }
        if !address.label.is_empty() {
            out.name(3, &address.label);
        }
    }
    out.number(8, address.flags);
    let (preferred, valid) = address.lifetimes;
    out.attribute(6, [preferred, valid, 0, 0].as_bytes());
    out.finish()
}

fn encode_route(route: &RouteEntry, flags: u16, request: &Header) -> Vec<u8> {
    let header = RtMsg {
        family: if route.is_v6 { AF_INET6 } else { AF_INET } as u8,
        dst_len: route.prefix,
        // RT_TABLE_COMPAT: the attribute tells.
        table: u8::try_from(route.table).unwrap_or(252),
        protocol: route.protocol,
        scope: route.scope,
        kind: route.kind,
        ..RtMsg::default()
    };
    let mut out = Message::new(NEWROUTE, flags, request).with(&header);
    out.number(15, route.table);
    if route.prefix > 0 {
        out.attribute(1, &route.to);
    }
    if route.metric != 0 || route.is_v6 {
        out.number(6, route.metric);
    }
    if !route.source.is_empty() {
        out.attribute(7, &route.source);
    }
    if !route.gateway.is_empty() {
        out.attribute(5, &route.gateway);
    }
    if route.index != 0 {
        out.number(4, route.index);
    }
    out.finish()
}

fn encode_neighbour(neighbour: &Neighbour, flags: u16, request: &Header) -> Vec<u8> {
    let header = NdMsg {
        family: family_of(&neighbour.address) as u8,
        index: neighbour.index as i32,
        state: neighbour.state,
        flags: neighbour.flags,
        kind: 1,
        ..NdMsg::default()
    };
    let mut out = Message::new(NEWNEIGH, flags, request).with(&header);
    out.attribute(1, &neighbour.address);
    if !neighbour.hardware.is_empty() {
        out.attribute(2, &neighbour.hardware);
    }
    out.finish()
}

/// A dump of what is in a list.
fn dump<T: Send + Sync + 'static>(
    list: Vec<T>,
    request: Header,
    encode: fn(&T, u16, &Header) -> Vec<u8>,
) -> Outcome {
    let messages = list.into_iter().map(move |entry| encode(&entry, flag::MULTI, &request));
    Outcome::Dump(Box::new(messages))
}

fn get_link(namespace: &Arc<NetNamespace>, request: &Request<'_>) -> Result<Outcome> {
    let links = NETWORK.get().map_or_else(Vec::new, |network| network.links(namespace));
    if request.is_dump() {
        return Ok(dump(links, request.header, encode_link));
    }
    let info: IfInfo = request.read()?;
    let name = attributes(request.payload, size_of::<IfInfo>())
        .find(|(kind, _)| *kind == 3)
        .and_then(|(_, value)| value.split(|byte| *byte == 0).next());
    let found = links.iter().find(|link| match name {
        _ if info.index > 0 => link.index == info.index as u32,
        Some(name) => link.name.as_bytes() == name,
        None => false,
    });
    if info.index <= 0 && name.is_none() {
        return Err(Errno::EINVAL);
    }
    let found = found.ok_or(Errno::ENODEV)?;
    Ok(Outcome::Answer([encode_link(found, 0, &request.header)].to_vec()))
}

/// The family that a dump is limited to, from the first byte of the payload.
fn family_wanted(request: &Request<'_>) -> u16 {
    request.payload.first().map_or(AF_UNSPEC, |family| u16::from(*family))
}

fn get_route(namespace: &Arc<NetNamespace>, request: &Request<'_>) -> Result<Outcome> {
    let network = NETWORK.get();
    let wanted = family_wanted(request);
    if request.is_dump() {
        let mut routes = network.map_or_else(Vec::new, |network| network.routes(namespace));
        routes.retain(|route| match wanted {
            AF_INET => !route.is_v6,
            AF_INET6 => route.is_v6,
            _ => true,
        });
        return Ok(dump(routes, request.header, encode_route));
    }
    let _: RtMsg = request.read()?;
    let to = attributes(request.payload, size_of::<RtMsg>()).find(|(kind, _)| *kind == 1);
    let network = network.ok_or(Errno::ENETUNREACH)?;
    let (_, to) = to.ok_or(Errno::EINVAL)?;
    let route = network.route_to(namespace, to)?;
    Ok(Outcome::Answer([encode_route(&route, 0, &request.header)].to_vec()))
}

/// Serves a request of rtnetlink.
pub(crate) fn serve(socket: &Netlink, request: &Request<'_>) -> Result<Outcome> {
    let namespace = socket.namespace();
    let network = NETWORK.get();
    let wanted = family_wanted(request);
    match request.header.kind {
        GETLINK => get_link(namespace, request),
        GETADDR if request.is_dump() => {
            let mut list = network.map_or_else(Vec::new, |network| network.addresses(namespace));
            let index = request.read::<IfAddr>().map_or(0, |header| header.index);
            let is_strict = socket.has_option(12);
            list.retain(|address| {
                (wanted == AF_UNSPEC || wanted == family_of(&address.local))
                    && (!is_strict || index == 0 || index == address.index)
            });
            Ok(dump(list, request.header, encode_address))
        }
        GETROUTE => get_route(namespace, request),
        GETNEIGH if request.is_dump() => {
            let mut list = network.map_or_else(Vec::new, |network| network.neighbours(namespace));
            list.retain(|entry| wanted == AF_UNSPEC || wanted == family_of(&entry.address));
            Ok(dump(list, request.header, encode_neighbour))
        }
        // Types come in fours: new, delete, get, set.
        kind if kind % 4 != 2 => change(socket, request),
        // There is none of these.
        GETTCLASS | GETTFILTER | GETACTION | GETNSID | GETCHAIN if request.is_dump() => {
            Ok(dump(Vec::<Link>::new(), request.header, encode_link))
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn change(socket: &Netlink, request: &Request<'_>) -> Result<Outcome> {
    let (_, creds) = socket::identity::current().ok_or(Errno::EPERM)?;
    if !creds.ns_capable(&socket.namespace().user_ns, vfs::Cap::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let network = NETWORK.get().ok_or(Errno::EOPNOTSUPP)?;
    let Header { kind, flags, .. } = request.header;
    let change = Change { kind, flags, payload: request.payload };
    network.change(socket.namespace(), &change)?;
    Ok(Outcome::Done)
}

/// The value of a numeric attribute, for those who serve [`Change`]s.
pub fn find_number(payload: &[u8], skip: usize, wanted: u16) -> Option<u32> {
    attributes(payload, skip).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| number(value))
}

/// The value of an attribute that is a name.
pub fn find_name(payload: &[u8], skip: usize, wanted: u16) -> Option<&str> {
    let (_, value) = attributes(payload, skip).find(|(kind, _)| *kind == wanted)?;
    let name = value.split(|byte| *byte == 0).next()?;
    core::str::from_utf8(name).ok()
}
