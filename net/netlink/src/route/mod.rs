//! `NETLINK_ROUTE` (rtnetlink(7)): interfaces, addresses, routes and neighbours as whoever owns them
//! tells. Names, numbers and layouts are those of rtnetlink(3) and `linux/rtnetlink.h`.

mod encode;
mod fixed;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::{AF_INET, AF_INET6, AF_UNSPEC};
use abi::{Errno, Result};
use arch::lock::Once;
use socket::NetNamespace;

use crate::kernel::{Outcome, Request};
use crate::sock::Netlink;
use crate::wire::{Header, attributes, flag, number};
use encode::{AF_BRIDGE, IfAddr, IfInfo, NdMsg, RtMsg, family_of};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const GETNEIGH: u16 = 30;
const GETRULE: u16 = 34;
const GETQDISC: u16 = 38;
const GETTCLASS: u16 = 42;
const GETTFILTER: u16 = 46;
const GETACTION: u16 = 50;
const GETNEIGHTBL: u16 = 66;
const GETNETCONF: u16 = 82;
const GETNSID: u16 = 90;
const GETCHAIN: u16 = 102;

/// `RTNLGRP_*`: who hears of what.
mod group {
    pub(super) const LINK: u32 = 1;
    pub(super) const NEIGH: u32 = 3;
    pub(super) const IPV4_IFADDR: u32 = 5;
    pub(super) const IPV4_ROUTE: u32 = 7;
    pub(super) const IPV6_IFADDR: u32 = 9;
    pub(super) const IPV6_ROUTE: u32 = 11;
}

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
    /// `IF_OPER_*`: 0 unknown, 2 down, 3 for want of what is below, 6 up.
    pub oper_state: u8,
    /// Whether the cable is in.
    pub has_carrier: bool,
    /// What orders its packets.
    pub queueing: &'static str,
    /// Received and sent: packets, bytes, errors, dropped, in pairs.
    pub counters: [u64; 8],
    /// Names that it is found by beside its own.
    pub other_names: Vec<String>,
    /// What administrators call it; empty for nothing.
    pub alias: String,
    /// The kind of interface it was made as, by a program.
    pub made_as: Option<&'static str>,
    /// What that kind tells of it, by `IFLA_*` numbers of the kind.
    pub details: Vec<(u16, Vec<u8>)>,
    /// How many want to see what is for others.
    pub promiscuity: u32,
    /// The least and the greatest that [`mtu`](Self::mtu) can be; 0 for no limit.
    pub mtu_limits: (u32, u32),
    /// Whose port it is.
    pub port: Option<Port>,
    /// The interface at its other end.
    pub peer: Option<u32>,
    /// The number of the namespace where that one is, if it is another.
    pub peer_namespace: Option<i32>,
}

/// What an interface is as a port of another.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// The other interface.
    pub master: u32,
    /// The kind of port.
    pub kind: &'static str,
    /// What is told of it, by `IFLA_*` numbers of the kind.
    pub details: Vec<(u16, Vec<u8>)>,
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
    /// The type of service it is for; 0 for all.
    pub tos: u8,
    /// The longest packet; 0 for the interface's.
    pub mtu: u32,
    /// `RTM_F_*` and `RTCF_*`.
    pub flags: u32,
    /// Where a packet comes from that this is the answer for; empty for anywhere.
    pub from: Vec<u8>,
    /// Whose packet that is.
    pub uid: Option<u32>,
}

/// Whose route is asked for. Addresses are 4 or 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteQuery<'a> {
    /// Where to.
    pub to: &'a [u8],
    /// Where from, if that is given.
    pub from: Option<&'a [u8]>,
    /// The interface it is to leave by; 0 for any.
    pub index: u32,
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

/// An address that a bridge knows, behind an interface.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forwarded {
    /// The interface.
    pub index: u32,
    /// The bridge.
    pub master: u32,
    /// The address.
    pub hardware: [u8; 6],
    /// `NUD_*`.
    pub state: u16,
    /// Seconds since a frame came from it, and since one went there.
    pub ages_s: (u32, u32),
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
    fn route_to(&self, namespace: &Arc<NetNamespace>, query: &RouteQuery<'_>)
    -> Result<RouteEntry>;
    /// Whether packets for others are passed on.
    fn is_forwarding(&self, namespace: &Arc<NetNamespace>) -> bool;
    /// The neighbours.
    fn neighbours(&self, namespace: &Arc<NetNamespace>) -> Vec<Neighbour>;
    /// What the bridges know.
    fn forwarding(&self, namespace: &Arc<NetNamespace>) -> Vec<Forwarded>;
    /// Serves a request that changes something; the caller may administer the namespace.
    /// `EOPNOTSUPP` for what is not there.
    fn change(&self, namespace: &Arc<NetNamespace>, change: &Change<'_>) -> Result<()>;
}

static NETWORK: Once<&'static dyn Network> = Once::new();

/// Registers who owns interfaces, addresses and routes.
pub fn set_network(network: &'static dyn Network) {
    NETWORK.call_once(|| network);
}

/// What changed, for the groups that listen (`RTNLGRP_*`).
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// An interface came or changed.
    Link(&'a Link),
    /// An interface went.
    NoLink(&'a Link),
    /// An address came or changed.
    Address(&'a InterfaceAddress),
    /// An address went.
    NoAddress(&'a InterfaceAddress),
    /// A route came.
    Route(&'a RouteEntry),
    /// A route went.
    NoRoute(&'a RouteEntry),
    /// A neighbour came or changed.
    Neighbour(&'a Neighbour),
    /// A neighbour went.
    NoNeighbour(&'a Neighbour),
}

impl Event<'_> {
    /// The groups one of which it is for.
    fn groups(&self) -> &'static [u32] {
        match self {
            Event::Link(_) | Event::NoLink(_) => &[group::LINK],
            Event::Address(_) | Event::NoAddress(_) => &[group::IPV4_IFADDR, group::IPV6_IFADDR],
            Event::Route(_) | Event::NoRoute(_) => &[group::IPV4_ROUTE, group::IPV6_ROUTE],
            Event::Neighbour(_) | Event::NoNeighbour(_) => &[group::NEIGH],
        }
    }
}

/// Tells a change to those who listen.
pub fn notify(namespace: &NetNamespace, event: Event<'_>) {
    if !event.groups().iter().any(|group| crate::has_listeners(namespace, crate::ROUTE, *group)) {
        return;
    }
    let header = &Header::default();
    let (group, bytes) = match event {
        Event::Link(link) => (group::LINK, encode::link(link, NEWLINK, 0, header)),
        Event::NoLink(link) => (group::LINK, encode::link(link, DELLINK, 0, header)),
        Event::Address(address) | Event::NoAddress(address) => {
            let is_v6 = family_of(&address.local) == AF_INET6;
            let kind = if matches!(event, Event::Address(_)) { NEWADDR } else { DELADDR };
            let group = if is_v6 { group::IPV6_IFADDR } else { group::IPV4_IFADDR };
            (group, encode::address(address, kind, 0, header))
        }
        Event::Route(route) | Event::NoRoute(route) => {
            let kind = if matches!(event, Event::Route(_)) { NEWROUTE } else { DELROUTE };
            let group = if route.is_v6 { group::IPV6_ROUTE } else { group::IPV4_ROUTE };
            (group, encode::route(route, kind, 0, header))
        }
        Event::Neighbour(entry) => (group::NEIGH, encode::neighbour(entry, NEWNEIGH, 0, header)),
        Event::NoNeighbour(entry) => (group::NEIGH, encode::neighbour(entry, DELNEIGH, 0, header)),
    };
    crate::multicast(namespace, crate::ROUTE, group, &bytes);
}

type Encode<T> = fn(&T, u16, u16, &Header) -> Vec<u8>;

/// A dump of what is in a list.
fn dump<T: Send + Sync + 'static>(
    list: Vec<T>,
    request: Header,
    kind: u16,
    encode: Encode<T>,
) -> Outcome {
    let messages = list.into_iter().map(move |entry| encode(&entry, kind, flag::MULTI, &request));
    Outcome::Dump(Box::new(messages))
}

/// What the bridges know: of one port (`ndm_ifindex`), of one bridge (`NDA_MASTER`), or all.
fn get_forwarding(namespace: &Arc<NetNamespace>, request: &Request<'_>) -> Outcome {
    let mut list = NETWORK.get().map_or_else(Vec::new, |network| network.forwarding(namespace));
    let port = request.read::<NdMsg>().map_or(0, |header| header.index as u32);
    let master = find_number(request.payload, size_of::<NdMsg>(), 9).unwrap_or(0);
    let is_meant = |asked: u32, own: u32| asked == 0 || asked == own;
    list.retain(|entry| is_meant(port, entry.index) && is_meant(master, entry.master));
    list.sort_by_key(|entry| (entry.index, entry.hardware));
    dump(list, request.header, NEWNEIGH, encode::forwarded)
}

fn get_link(namespace: &Arc<NetNamespace>, request: &Request<'_>) -> Result<Outcome> {
    let mut links = NETWORK.get().map_or_else(Vec::new, |network| network.links(namespace));
    if request.is_dump() && family_wanted(request) == AF_BRIDGE {
        links.retain(|link| link.port.is_some());
        return Ok(dump(links, request.header, NEWLINK, encode::port));
    }
    if request.is_dump() {
        // IFLA_LINKINFO with an IFLA_INFO_KIND limits it to interfaces of that kind.
        let mut all = attributes(request.payload, size_of::<IfInfo>());
        if let Some((_, info)) = all.find(|(kind, _)| *kind == 18)
            && let Some(wanted) = find_name(info, 0, 1)
        {
            links.retain(|link| link.made_as == Some(wanted));
        }
        return Ok(dump(links, request.header, NEWLINK, encode::link));
    }
    let info: IfInfo = request.read()?;
    let name = attributes(request.payload, size_of::<IfInfo>())
        .find(|(kind, _)| matches!(kind, 3 | 53))
        .and_then(|(_, value)| value.split(|byte| *byte == 0).next());
    let found = links.iter().find(|link| match name {
        _ if info.index > 0 => link.index == info.index as u32,
        Some(name) => {
            let mut all = link.other_names.iter().chain([&link.name]);
            all.any(|own| own.as_bytes() == name)
        }
        None => false,
    });
    if info.index <= 0 && name.is_none() {
        return Err(Errno::EINVAL);
    }
    let found = found.ok_or(Errno::ENODEV)?;
    Ok(Outcome::Answer([encode::link(found, NEWLINK, 0, &request.header)].to_vec()))
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
        return Ok(dump(routes, request.header, NEWROUTE, encode::route));
    }
    let _: RtMsg = request.read()?;
    let find = |wanted: u16| {
        let mut all = attributes(request.payload, size_of::<RtMsg>());
        all.find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    };
    let network = network.ok_or(Errno::ENETUNREACH)?;
    let query = RouteQuery {
        to: find(1).ok_or(Errno::EINVAL)?,
        from: find(2),
        index: find(4).and_then(number).unwrap_or(0),
    };
    let mut route = network.route_to(namespace, &query)?;
    let uid = socket::identity::current().map(|(_, creds)| creds.euid);
    route.uid = uid.filter(|_| !route.is_v6);
    Ok(Outcome::Answer([encode::route(&route, NEWROUTE, 0, &request.header)].to_vec()))
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
            Ok(dump(list, request.header, NEWADDR, encode::address))
        }
        GETROUTE => get_route(namespace, request),
        GETNEIGH if request.is_dump() && wanted == AF_BRIDGE => {
            Ok(get_forwarding(namespace, request))
        }
        GETNEIGH if request.is_dump() => {
            let mut list = network.map_or_else(Vec::new, |network| network.neighbours(namespace));
            list.retain(|entry| wanted == AF_UNSPEC || wanted == family_of(&entry.address));
            Ok(dump(list, request.header, NEWNEIGH, encode::neighbour))
        }
        GETRULE if request.is_dump() => Ok(fixed::rules(wanted, request.header)),
        GETQDISC if request.is_dump() => {
            let links = network.map_or_else(Vec::new, |network| network.links(namespace));
            Ok(fixed::disciplines(&links, request.header))
        }
        GETNEIGHTBL if request.is_dump() => {
            let links = network.map_or_else(Vec::new, |network| network.links(namespace));
            Ok(fixed::neighbour_tables(wanted, &links, request.header))
        }
        GETNETCONF => {
            let links = network.map_or_else(Vec::new, |network| network.links(namespace));
            let forwards = network.is_some_and(|network| network.is_forwarding(namespace));
            fixed::configuration(wanted, &links, forwards, request)
        }
        // Types come in fours: new, delete, get, set.
        kind if kind % 4 != 2 => change(socket, request),
        // There is none of these.
        GETTCLASS | GETTFILTER | GETACTION | GETNSID | GETCHAIN if request.is_dump() => {
            Ok(dump(Vec::<Link>::new(), request.header, NEWLINK, encode::link))
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn change(socket: &Netlink, request: &Request<'_>) -> Result<Outcome> {
    // Linux acknowledges a request without a family and does nothing (case `rtnl-link-messages`).
    if request.payload.is_empty() {
        return Ok(Outcome::Done);
    }
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
