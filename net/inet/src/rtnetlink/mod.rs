//! What rtnetlink(7) tells of interfaces, addresses and routes, and what it changes.

mod address;
mod bridge;
mod link;
mod neighbour;
mod route;

use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use core::sync::atomic::Ordering;
use hashbrown::HashMap;
use netdevice::{
    Address, Destination, Devices, Interface, Ip, RTN_LOCAL, RTN_UNICAST, Route, TABLE_LOCAL,
    TABLE_MAIN, Way,
};
use netlink::route::{
    Change, Event, Forwarded, InterfaceAddress, Link, Neighbour, Network, Port, RouteEntry,
    RouteQuery, notify,
};
use socket::NetNamespace;

pub(crate) use address::Ends;

use crate::neighbour::Known;
use crate::stack::{Inet, knob};

/// `RTM_*`: what there is of each family, and its deletion one more.
mod message {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const DEL_LINK: u16 = 17;
    pub(super) const SET_LINK: u16 = 19;
    pub(super) const NEW_LINK_PROPERTY: u16 = 108;
    pub(super) const DEL_LINK_PROPERTY: u16 = 109;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const DEL_ADDRESS: u16 = 21;
    pub(super) const NEW_ROUTE: u16 = 24;
    pub(super) const DEL_ROUTE: u16 = 25;
    pub(super) const NEW_NEIGHBOUR: u16 = 28;
    pub(super) const DEL_NEIGHBOUR: u16 = 29;
}

/// `RTPROT_KERNEL`; `RT_SCOPE_HOST`, `RT_SCOPE_LINK`.
const KERNEL: u8 = 2;
const HOST: u8 = 254;
const LINK: u8 = 253;
/// `RTN_BROADCAST`, `RTN_MULTICAST`.
const RTN_BROADCAST: u8 = 3;
const RTN_MULTICAST: u8 = 5;
/// `RTM_F_CLONED`; `RTCF_BROADCAST`, `RTCF_MULTICAST`, `RTCF_LOCAL`.
const CLONED: u32 = 0x200;
const TO_BROADCAST: u32 = 0x1000_0000;
const TO_MULTICAST: u32 = 0x2000_0000;
const TO_LOCAL: u32 = 0x8000_0000;
/// `RTNH_F_ONLINK`, `RTNH_F_LINKDOWN`.
const ON_LINK: u32 = 4;
const LINK_DOWN: u32 = 16;

/// The interfaces of a namespace as netlink's owner of them.
pub(crate) struct Told;

fn devices(namespace: &NetNamespace) -> Option<Arc<Devices>> {
    namespace.part_arc::<Devices>()
}

fn bytes(ip: Ip) -> Vec<u8> {
    if ip.is_v4() { ip.octets4().to_vec() } else { ip.octets6().to_vec() }
}

/// Tells programs of what changes in a namespace.
pub(crate) fn watch(devices: &Devices, namespace: Weak<NetNamespace>, inet: Weak<Inet>) {
    devices.watch(Arc::new(move |change| {
        let (Some(namespace), Some(inet)) = (namespace.upgrade(), inet.upgrade()) else { return };
        tell(&namespace, &inet, change);
    }));
}

fn tell(namespace: &NetNamespace, inet: &Inet, change: &netdevice::Change) {
    use netdevice::Change::{
        Address as Came, Gone, Interface as Changed, NoAddress, NoOwnRoutes, NoRoute, OwnRoutes,
    };
    match change {
        Changed(interface) => {
            if !interface.is_up() {
                forget_neighbours(namespace, inet, interface.index);
            }
            notify(namespace, Event::Link(&link(&inet.devices, interface)));
        }
        Gone(interface) => {
            forget_neighbours(namespace, inet, interface.index);
            notify(namespace, Event::NoLink(&link(&inet.devices, interface)));
        }
        Came(interface, own) => {
            notify(namespace, Event::Address(&address(interface, own)));
            let first = interface.find_address(|other| other.is_beside(own));
            let source = first.map_or(own.ip, |first| first.ip);
            for entry in own_routes(interface, own, source).iter().filter(|e| e.kind == RTN_LOCAL) {
                notify(namespace, Event::Route(entry));
            }
        }
        OwnRoutes(interface, own, source) => {
            for entry in own_routes(interface, own, *source).iter().filter(|e| e.kind != RTN_LOCAL)
            {
                notify(namespace, Event::Route(entry));
            }
        }
        NoAddress(interface, own) => {
            inet.wire.ends.forget(interface.index, own);
            notify(namespace, Event::NoAddress(&address(interface, own)));
        }
        NoOwnRoutes(interface, own, source) => {
            // Another network or interface may have the address still.
            let is_left = inet.devices.local_interface(own.ip).is_some();
            for entry in own_routes(interface, own, *source).iter().rev() {
                if entry.kind != RTN_LOCAL || !is_left {
                    notify(namespace, Event::NoRoute(entry));
                }
            }
        }
        netdevice::Change::Route(one) => {
            notify(namespace, Event::Route(&route(&inet.devices, one)))
        }
        NoRoute(one) => notify(namespace, Event::NoRoute(&route(&inet.devices, one))),
    }
}

fn forget_neighbours(namespace: &NetNamespace, inet: &Inet, index: u32) {
    for gone in inet.wire.neighbours.forget(index) {
        notify(namespace, Event::NoNeighbour(&told_neighbour(gone)));
    }
}

fn told_neighbour(known: Known) -> Neighbour {
    Neighbour {
        index: known.index,
        address: bytes(known.ip),
        hardware: known.mac.map_or_else(Vec::new, |mac| mac.to_vec()),
        state: known.state,
        flags: 0,
    }
}

/// What the table `local` has for an address, in the order that it is told when the address comes: the address
/// itself, of the loopback interface its network, and while the interface is up what means all hosts of it.
/// Those of version 6 are there while the interface is up (cases `rtnl-addresses`, `rtnl-addresses-down`).
fn own_routes(interface: &Interface, own: &Address, source: Ip) -> Vec<RouteEntry> {
    let is_v4 = own.ip.is_v4();
    let no_carrier = is_v4 && !interface.is_running();
    let entry = |to: Ip, prefix: u8, kind: u8, scope: u8| RouteEntry {
        is_v6: !is_v4,
        to: bytes(to),
        prefix,
        index: interface.index,
        source: if is_v4 { bytes(source) } else { Vec::new() },
        table: TABLE_LOCAL,
        protocol: KERNEL,
        scope,
        kind,
        flags: if no_carrier && kind == RTN_BROADCAST { LINK_DOWN } else { 0 },
        ..RouteEntry::default()
    };
    let mut all = Vec::new();
    if !is_v4 {
        all.extend(interface.is_up().then(|| entry(own.ip, 128, RTN_LOCAL, 0)));
        return all;
    }
    all.push(entry(own.ip, 32, RTN_LOCAL, HOST));
    if interface.is_loopback() && own.prefix < 32 && !own.is_secondary() {
        all.push(entry(own.network(), own.prefix, RTN_LOCAL, HOST));
    }
    if interface.is_up() {
        all.extend(own.broadcasts().map(|to| entry(to, 32, RTN_BROADCAST, LINK)));
    }
    all
}

/// The table `local` of one version, in the order of networks.
fn local_routes(devices: &Devices, is_v4: bool) -> Vec<RouteEntry> {
    let mut all = Vec::new();
    for interface in devices.all() {
        // The address that was in a network first is the one to send from.
        let addresses = interface.addresses();
        let mut firsts = HashMap::new();
        for own in addresses.iter().filter(|own| own.ip.is_v4() == is_v4) {
            let first = *firsts.entry((own.network(), own.prefix)).or_insert(own.ip);
            all.extend(own_routes(&interface, own, first));
        }
        if !is_v4 && interface.is_up() && !interface.is_loopback() {
            all.push(groups_route(&interface));
        }
    }
    // Several may have an address; the first one is told (cases `rtnl-addresses`, `rtnl-route-order`).
    all.sort_by(|a, b| (&a.to, u8::MAX - a.prefix).cmp(&(&b.to, u8::MAX - b.prefix)));
    all.dedup_by(|b, a| {
        (b.kind, &b.to, b.prefix) == (a.kind, &a.to, a.prefix)
            && (b.kind == RTN_LOCAL || b.index == a.index)
    });
    all
}

/// The way to groups of version 6.
fn groups_route(interface: &Interface) -> RouteEntry {
    RouteEntry {
        is_v6: true,
        to: Vec::from([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        prefix: 8,
        index: interface.index,
        table: TABLE_LOCAL,
        protocol: KERNEL,
        kind: RTN_MULTICAST,
        metric: 256,
        flags: if interface.is_running() { 0 } else { LINK_DOWN },
        ..RouteEntry::default()
    }
}

fn link(devices: &Devices, interface: &Interface) -> Link {
    let flags = interface.flags();
    let count = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &interface.counters;
    let device = interface.device.as_ref();
    let has_address = interface.has_address();
    let made_as = device.and_then(|device| device.kind());
    let upper = interface.upper();
    let port = upper.and_then(|upper| {
        let master = upper.master()?.index;
        Some(Port { master, kind: upper.kind(), details: upper.details() })
    });
    let peer = device.and_then(|device| device.peer());
    let own = interface.namespace();
    let elsewhere = peer
        .as_ref()
        .and_then(|peer| peer.namespace())
        .filter(|other| own.as_ref().is_none_or(|own| !Arc::ptr_eq(own, other)));
    Link {
        index: interface.index,
        name: interface.name(),
        hardware: interface.kind(),
        flags,
        mtu: interface.mtu(),
        address: if has_address { interface.mac().to_vec() } else { Vec::new() },
        broadcast: if interface.is_loopback() { [0; 6] } else { [0xff; 6] }.to_vec(),
        tx_queue_len: interface.tx_queue_len(),
        oper_state: interface.oper_state(),
        has_carrier: device.is_none_or(|device| device.has_carrier()),
        queueing: if interface.has_been_up() { "noqueue" } else { "noop" },
        alias: interface.alias(),
        other_names: interface.other_names(),
        made_as,
        details: device.map_or_else(Vec::new, |device| device.details()),
        promiscuity: interface.promiscuity(),
        mtu_limits: interface.mtu_limits(),
        port,
        peer: peer.map(|peer| peer.index),
        peer_namespace: elsewhere.map(|other| devices.number_of(&other)),
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

/// `IFA_F_DEPRECATED`.
const DEPRECATED: u32 = 0x20;

fn address(interface: &Interface, address: &Address) -> InterfaceAddress {
    let now = arch::time::now_ns();
    let lifetimes = address.lifetime.map_or((u32::MAX, u32::MAX), |lifetime| lifetime.left(now));
    InterfaceAddress {
        index: interface.index,
        local: bytes(address.ip),
        peer: bytes(address.peer.unwrap_or(address.ip)),
        prefix: address.prefix,
        broadcast: address.broadcast.map_or_else(Vec::new, bytes),
        scope: address.scope,
        flags: address.flags | if lifetimes.0 == 0 { DEPRECATED } else { 0 },
        label: if address.ip.is_v4() { address.label.clone() } else { String::new() },
        lifetimes,
    }
}

/// A route as it is told. What leads over a link that is not there says so (case `rtnl-routes-down`).
fn route(devices: &Devices, route: &Route) -> RouteEntry {
    let is_down = |interface: Arc<Interface>| interface.is_up() && !interface.is_running();
    let no_carrier = route.scope < HOST && devices.by_index(route.interface).is_some_and(is_down);
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    RouteEntry {
        is_v6: !route.to.is_v4(),
        to: if route.prefix == 0 { Vec::new() } else { bytes(route.to) },
        prefix: route.prefix,
        gateway: route.gateway.map_or_else(Vec::new, bytes),
        index: route.interface,
        source: route.source.map_or_else(Vec::new, bytes),
        table: route.table,
        protocol: route.protocol,
        scope: route.scope,
        kind: route.kind,
        metric: route.metric,
        tos: route.tos,
        mtu: route.mtu,
        flags: flag(route.is_onlink, ON_LINK) | flag(no_carrier, LINK_DOWN),
        ..RouteEntry::default()
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
        let Some(devices) = devices(namespace) else { return Vec::new() };
        devices.all().iter().map(|interface| link(&devices, interface)).collect()
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
        let mut all = Vec::new();
        for is_v4 in [true, false] {
            let (local, others): (Vec<Route>, Vec<Route>) = devices
                .other_routes(is_v4)
                .into_iter()
                .partition(|route| route.table == TABLE_LOCAL);
            all.extend(others.iter().map(|one| route(&devices, one)));
            all.extend(devices.routes(is_v4).iter().map(|one| route(&devices, one)));
            let mut own = local_routes(&devices, is_v4);
            own.extend(local.iter().map(|one| route(&devices, one)));
            own.sort_by(|a, b| (&a.to, u8::MAX - a.prefix).cmp(&(&b.to, u8::MAX - b.prefix)));
            all.extend(own);
        }
        all
    }

    fn route_to(
        &self,
        namespace: &Arc<NetNamespace>,
        query: &RouteQuery<'_>,
    ) -> Result<RouteEntry> {
        let to = parse(query.to)?;
        let from = query.from.map(parse).transpose()?.filter(|from| !from.is_any());
        let devices = devices(namespace).ok_or(Errno::ENETUNREACH)?;
        if query.index != 0 && devices.by_index(query.index).is_none() {
            return Err(Errno::ENODEV);
        }
        // Packets leave with an address of this host (case `rtnl-route-get`).
        if from.is_some_and(|from| from.is_v4() != to.is_v4() || !devices.is_local(from)) {
            return Err(Errno::EINVAL);
        }
        let way = devices.way(to, from, query.index)?;
        Ok(if to.is_v4() { found4(to, from, &way) } else { found6(&devices, to, from, &way) })
    }

    fn is_forwarding(&self, namespace: &Arc<NetNamespace>) -> bool {
        Inet::of(namespace).is_some_and(|inet| knob(&inet.knobs.ip_forward) != 0)
    }

    fn neighbours(&self, namespace: &Arc<NetNamespace>) -> Vec<Neighbour> {
        let all = Inet::of(namespace).map_or_else(Vec::new, |i| i.wire.neighbours.all());
        all.into_iter().map(told_neighbour).collect()
    }

    fn forwarding(&self, namespace: &Arc<NetNamespace>) -> Vec<Forwarded> {
        devices(namespace).map_or_else(Vec::new, |devices| bridge::forwarding(&devices))
    }

    fn change(&self, namespace: &Arc<NetNamespace>, change: &Change<'_>) -> Result<()> {
        use message::{
            DEL_ADDRESS, DEL_LINK, DEL_LINK_PROPERTY, DEL_NEIGHBOUR, DEL_ROUTE, NEW_ADDRESS,
            NEW_LINK, NEW_LINK_PROPERTY, NEW_NEIGHBOUR, NEW_ROUTE, SET_LINK,
        };
        let inet = Inet::of(namespace).ok_or(Errno::ENOMEM)?;
        if change.payload.first() == Some(&bridge::FAMILY) {
            return match change.kind {
                SET_LINK => bridge::set(&inet.devices, change),
                NEW_NEIGHBOUR => bridge::new(&inet.devices, change),
                DEL_NEIGHBOUR => bridge::delete(&inet.devices, change),
                _ => Err(Errno::EOPNOTSUPP),
            };
        }
        match change.kind {
            NEW_LINK => link::new(namespace, &inet.devices, change),
            SET_LINK => link::set(&inet.devices, change),
            DEL_LINK => link::delete(&inet.devices, change),
            NEW_LINK_PROPERTY => link::properties(&inet.devices, change, Devices::add_other_name),
            DEL_LINK_PROPERTY => {
                link::properties(&inet.devices, change, Devices::remove_other_name)
            }
            NEW_ADDRESS => address::new(&inet, change),
            DEL_ADDRESS => address::delete(&inet.devices, change),
            NEW_ROUTE => route::new(&inet.devices, change),
            DEL_ROUTE => route::delete(&inet.devices, change),
            NEW_NEIGHBOUR => neighbour::new(namespace, &inet, change),
            DEL_NEIGHBOUR => neighbour::delete(namespace, &inet, change),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// What is told of the way to an address of version 4: an entry as of a cache (case `rtnl-route-get`).
fn found4(to: Ip, from: Option<Ip>, way: &Way) -> RouteEntry {
    let (kind, flags) = match way.kind {
        Destination::Local => (RTN_LOCAL, TO_LOCAL),
        Destination::Broadcast => (RTN_BROADCAST, TO_LOCAL | TO_BROADCAST),
        Destination::Multicast => (RTN_MULTICAST, TO_MULTICAST),
        Destination::Remote => (RTN_UNICAST, 0),
    };
    RouteEntry {
        to: bytes(to),
        prefix: 32,
        gateway: if way.next_hop == to { Vec::new() } else { bytes(way.next_hop) },
        index: way.interface.index,
        source: if from.is_some() { Vec::new() } else { bytes(way.source) },
        table: TABLE_MAIN,
        kind,
        flags: CLONED | flags,
        mtu: if way.mtu == way.interface.mtu() { 0 } else { way.mtu },
        from: from.map_or_else(Vec::new, bytes),
        ..RouteEntry::default()
    }
}

/// Of version 6: the route itself, narrowed to the two addresses.
fn found6(devices: &Devices, to: Ip, from: Option<Ip>, way: &Way) -> RouteEntry {
    let route = devices.route_to(to, way.interface.index);
    let (table, kind, metric, protocol) = match (way.kind, route) {
        (Destination::Local, _) => (TABLE_LOCAL, RTN_LOCAL, 0, KERNEL),
        (Destination::Multicast, _) => (TABLE_LOCAL, RTN_MULTICAST, 256, KERNEL),
        (_, Some(route)) => (TABLE_MAIN, RTN_UNICAST, route.metric, route.protocol),
        (_, None) => (TABLE_MAIN, RTN_UNICAST, 256, KERNEL),
    };
    RouteEntry {
        is_v6: true,
        to: bytes(to),
        prefix: 128,
        gateway: if way.next_hop == to { Vec::new() } else { bytes(way.next_hop) },
        index: way.interface.index,
        source: if from.is_some() { Vec::new() } else { bytes(way.source) },
        table,
        kind,
        metric,
        protocol,
        mtu: if way.mtu == way.interface.mtu() { 0 } else { way.mtu },
        from: bytes(from.unwrap_or(Ip::ANY6)),
        ..RouteEntry::default()
    }
}

/// The attributes of a request as a table: the last of a kind counts.
struct Attributes<'a>(Vec<Option<&'a [u8]>>);

impl<'a> Attributes<'a> {
    /// Those after the first `skip` bytes, of kinds up to 63.
    fn of(payload: &'a [u8], skip: usize) -> Attributes<'a> {
        let mut table = alloc::vec![None; 64];
        for (kind, value) in netlink::wire::attributes(payload, skip) {
            if let Some(place) = table.get_mut(usize::from(kind)) {
                *place = Some(value);
            }
        }
        Attributes(table)
    }

    fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.get(usize::from(kind)).copied().flatten()
    }

    /// A number of 32 bits; `EINVAL` for one that is cut short.
    fn number(&self, kind: u16) -> Result<Option<u32>> {
        self.get(kind).map(|value| netlink::wire::number(value).ok_or(Errno::EINVAL)).transpose()
    }

    /// An address of the version that is meant. Linux takes the first bytes of a longer one of version 4
    /// (case `rtnl-address-messages`).
    fn ip(&self, kind: u16, is_v4: bool) -> Result<Option<Ip>> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        if is_v4 {
            return value.get(..4).map(parse).ok_or(Errno::ERANGE)?.map(Some);
        }
        let found = parse(value)?;
        // One of version 6 may be a mapped one, which is none of version 6.
        if found.is_v4() { Err(Errno::EINVAL) } else { Ok(Some(found)) }
    }

    /// `ERANGE` for a name that with its NUL is longer than this.
    fn check_length(&self, kind: u16, most: usize) -> Result<()> {
        let text = self.get(kind).map(|value| value.strip_suffix(&[0]).unwrap_or(value));
        if text.is_some_and(|text| text.len() >= most) { Err(Errno::ERANGE) } else { Ok(()) }
    }

    /// A name, up to its NUL.
    fn text(&self, kind: u16) -> Result<Option<&'a str>> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
        core::str::from_utf8(text).map(Some).map_err(|_| Errno::EINVAL)
    }

    /// A hardware address of Ethernet.
    fn mac(&self, kind: u16) -> Result<Option<[u8; 6]>> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        let found = value.get(..6).and_then(|mac| mac.try_into().ok());
        found.map(Some).ok_or(Errno::EINVAL)
    }
}

/// The header of a request; `EINVAL` if it is cut short.
fn header<T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(
    change: &Change<'_>,
) -> Result<T> {
    T::read_from_prefix(change.payload).map(|(header, _)| header).map_err(|_| Errno::EINVAL)
}

/// The version of the `AF_*` that a request begins with: whether it is 4. `EOPNOTSUPP` for others.
fn version(change: &Change<'_>) -> Result<bool> {
    match change.payload.first().map(|family| u16::from(*family)) {
        Some(abi::socket::AF_INET) => Ok(true),
        Some(abi::socket::AF_INET6) => Ok(false),
        Some(_) => Err(Errno::EOPNOTSUPP),
        None => Err(Errno::EINVAL),
    }
}
