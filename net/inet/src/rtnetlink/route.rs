//! `RTM_NEWROUTE` and `RTM_DELROUTE` (rtnetlink(7), ip-route(8)).
//!
//! The layout is that of `linux/rtnetlink.h`. Which request is refused with which error, and which route a deletion
//! means, is what Linux was seen to do with `ip route` and with raw messages: the cases `rtnl-routes`,
//! `rtnl-route-errors`, `rtnl-route-messages`, `rtnl-route-order`, `rtnl-route-delete` and `rtnl-routes6`.

use alloc::sync::Arc;

use abi::{Errno, Result};
use netdevice::{
    Devices, Interface, Ip, Place, RTN_BLACKHOLE, RTN_LOCAL, RTN_PROHIBIT, RTN_THROW, RTN_UNICAST,
    RTN_UNREACHABLE, Route, SCOPE_HOST, SCOPE_LINK, TABLE_LOCAL, TABLE_MAIN,
};
use netlink::route::Change;
use netlink::wire::flag;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Attributes, header, version};

/// `struct rtmsg`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RtMsg {
    family: u8,
    prefix: u8,
    from_prefix: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

/// `RTA_*`.
const TO: u16 = 1;
const INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const SOURCE: u16 = 7;
const METRICS: u16 = 8;
const MULTIPATH: u16 = 9;
const TABLE: u16 = 15;
const VIA: u16 = 18;
const ENCAPSULATION: u16 = 22;
const NEXT_HOP: u16 = 30;
/// `RTAX_MTU` and the last one there is, `RTAX_FASTOPEN_NO_COOKIE`.
const METRIC_MTU: u16 = 2;
const METRIC_LAST: u16 = 17;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;
/// `RT_SCOPE_NOWHERE`: in a deletion, any.
const NOWHERE: u8 = 255;
/// `RTN_MULTICAST`, the last type that a route over an interface can have.
const LAST_OVER_INTERFACE: u8 = 5;
/// `IP6_RT_PRIO_USER` as ip-route(8) tells it: the metric of a route of version 6 that has none.
const METRIC6: u32 = 1024;

/// A request as it is read.
struct Asked<'a> {
    is_v4: bool,
    header: RtMsg,
    attributes: Attributes<'a>,
    to: Ip,
    table: u32,
}

impl<'a> Asked<'a> {
    fn read(change: &Change<'a>) -> Result<Asked<'a>> {
        let is_v4 = version(change)?;
        let header: RtMsg = header(change)?;
        let attributes = Attributes::of(change.payload, size_of::<RtMsg>());
        let (longest, none) = if is_v4 { (32, Ip::ANY4) } else { (128, Ip::ANY6) };
        if header.prefix > longest || (is_v4 && header.tos & 3 != 0) {
            return Err(Errno::EINVAL);
        }
        let to = attributes.ip(TO, is_v4)?.unwrap_or(none);
        let network = to.masked(header.prefix);
        // Of version 6, bits beyond the prefix mean nothing.
        if is_v4 && network != to {
            return Err(Errno::EINVAL);
        }
        let to = if network.is_any() { none } else { network };
        let table = attributes.number(TABLE)?.unwrap_or(u32::from(header.table));
        let table = if table == 0 { TABLE_MAIN } else { table };
        Ok(Asked { is_v4, header, attributes, to, table })
    }

    fn gateway(&self) -> Result<Option<Ip>> {
        Ok(self.attributes.ip(GATEWAY, self.is_v4)?.filter(|gateway| !gateway.is_any()))
    }

    /// `RTA_METRICS`: the longest packet this way. What else it tells is not kept.
    fn mtu(&self) -> Result<u32> {
        let Some(metrics) = self.attributes.get(METRICS) else { return Ok(0) };
        let mut mtu = 0;
        for (kind, value) in netlink::wire::attributes(metrics, 0) {
            match kind {
                0 => {}
                METRIC_MTU => mtu = netlink::wire::number(value).ok_or(Errno::EINVAL)?,
                1..=METRIC_LAST => return Err(Errno::EOPNOTSUPP),
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(mtu)
    }

    /// The route that is to be there.
    fn wanted(&self, devices: &Devices) -> Result<Route> {
        let kind = match self.header.kind {
            0 if !self.is_v4 => RTN_UNICAST,
            kind => kind,
        };
        // Several next hops, and what is named or tunnelled, are not there.
        let unknown = [MULTIPATH, VIA, ENCAPSULATION, NEXT_HOP];
        if unknown.iter().any(|kind| self.attributes.get(*kind).is_some()) {
            return Err(Errno::EOPNOTSUPP);
        }
        let metric = self.attributes.number(PRIORITY)?.unwrap_or(0);
        let route = Route {
            metric: if metric == 0 && !self.is_v4 { METRIC6 } else { metric },
            kind,
            scope: if self.is_v4 { self.header.scope } else { 0 },
            protocol: self.header.protocol,
            mtu: self.mtu()?,
            table: self.table,
            tos: if self.is_v4 { self.header.tos } else { 0 },
            is_onlink: self.header.flags & ONLINK != 0,
            interface: 0,
            ..Route::on_link(self.to, self.header.prefix, 0)
        };
        let is_dead = matches!(kind, RTN_BLACKHOLE | RTN_UNREACHABLE | RTN_PROHIBIT | RTN_THROW);
        let route = if is_dead { self.dead(devices, route)? } else { self.over(devices, route)? };
        let source = self.attributes.ip(SOURCE, self.is_v4)?.filter(|source| !source.is_any());
        if source.is_some_and(|source| !devices.is_local(source)) {
            return Err(Errno::EINVAL);
        }
        Ok(Route { source, ..route })
    }

    /// A route that leads nowhere has no interface; of version 6 it is told with the loopback interface.
    fn dead(&self, devices: &Devices, route: Route) -> Result<Route> {
        if !self.is_v4 {
            let interface = devices.loopback().map_or(0, |lo| lo.index);
            return Ok(Route { interface, ..route });
        }
        let is_over = self.attributes.get(INTERFACE).is_some() || self.gateway()?.is_some();
        if is_over || route.scope == NOWHERE { Err(Errno::EINVAL) } else { Ok(route) }
    }

    /// A route over an interface. `EINVAL` for a type that needs another scope or that there is none of.
    fn over(&self, devices: &Devices, route: Route) -> Result<Route> {
        if self.is_v4 {
            let has_scope = match route.kind {
                RTN_LOCAL => route.scope >= SCOPE_HOST,
                RTN_UNICAST..=LAST_OVER_INTERFACE => true,
                _ => false,
            };
            if !has_scope || route.scope == NOWHERE {
                return Err(Errno::EINVAL);
            }
        } else if route.kind > RTN_THROW {
            return Err(Errno::EINVAL);
        }
        // Packets to this host are looked for in the table `local`, groups and broadcasts elsewhere.
        if !matches!((route.kind, self.table), (RTN_UNICAST, _) | (RTN_LOCAL, TABLE_LOCAL)) {
            return Err(Errno::EOPNOTSUPP);
        }
        let index = self.attributes.number(INTERFACE)?.filter(|index| *index != 0);
        let named = index.map(|index| devices.by_index(index).ok_or(Errno::ENODEV)).transpose()?;
        let gateway = self.gateway()?;
        let interface = match (gateway, named) {
            (None, named) => named.ok_or(Errno::ENODEV)?,
            (Some(_), named) if route.is_onlink => named.ok_or(Errno::ENODEV)?,
            (Some(gateway), named) if self.is_v4 => {
                // What goes through a router reaches farther than its link.
                if route.scope >= SCOPE_LINK {
                    return Err(Errno::ENETUNREACH);
                }
                router4(devices, gateway, named)?
            }
            (Some(gateway), named) => router6(devices, gateway, named)?,
        };
        if !interface.is_up() {
            return Err(Errno::ENETDOWN);
        }
        Ok(Route { gateway, interface: interface.index, ..route })
    }
}

/// The interface on whose link a router is. A route through another router does not lead to it, and no
/// broadcast is one.
fn router4(
    devices: &Devices,
    gateway: Ip,
    named: Option<Arc<Interface>>,
) -> Result<Arc<Interface>> {
    let bound = named.as_ref().map_or(0, |interface| interface.index);
    if devices.is_broadcast(gateway) {
        return Err(Errno::EINVAL);
    }
    // This host's own addresses are on the link of their interface.
    if let Some(own) = devices.local_interface(gateway) {
        return if bound == 0 || bound == own.index { Ok(own) } else { Err(Errno::ENETUNREACH) };
    }
    match devices.route_to(gateway, bound) {
        Some(route) if route.kind == RTN_UNICAST && route.gateway.is_none() => {
            devices.by_index(route.interface).ok_or(Errno::ENETUNREACH)
        }
        _ => Err(Errno::ENETUNREACH),
    }
}

/// Likewise; an address of a link needs its interface told.
fn router6(
    devices: &Devices,
    gateway: Ip,
    named: Option<Arc<Interface>>,
) -> Result<Arc<Interface>> {
    if devices.is_local(gateway) || gateway.is_multicast() {
        return Err(Errno::EINVAL);
    }
    if gateway.is_link_local6() {
        return named.ok_or(Errno::EINVAL);
    }
    let bound = named.as_ref().map_or(0, |interface| interface.index);
    match devices.route_to(gateway, bound) {
        Some(route) if route.kind == RTN_UNICAST && route.gateway.is_none() => {
            devices.by_index(route.interface).ok_or(Errno::EHOSTUNREACH)
        }
        _ => Err(Errno::EHOSTUNREACH),
    }
}

/// Where a new route goes, by the request's flags (netlink(7)).
fn place(asked: &Asked<'_>, flags: u16) -> Place {
    let may_make = flags & flag::CREATE != 0;
    if flags & flag::EXCL != 0 {
        Place::Alone
    } else if flags & flag::REPLACE != 0 {
        Place::Instead { may_make }
    } else if flags & flag::APPEND != 0 || !asked.is_v4 {
        Place::Last
    } else {
        Place::First
    }
}

/// Adds a route, or puts it in another's place.
pub(super) fn new(devices: &Devices, change: &Change<'_>) -> Result<()> {
    let asked = Asked::read(change)?;
    let route = asked.wanted(devices)?;
    let place = place(&asked, change.flags);
    // Of version 4, nothing is made that need not be; of version 6, only replacing asks for it.
    let is_replacing = matches!(place, Place::Instead { .. });
    if asked.is_v4 && change.flags & flag::CREATE == 0 && !is_replacing {
        let is_there = place == Place::Alone && devices.has_rival(&route);
        return Err(if is_there { Errno::EEXIST } else { Errno::ENOENT });
    }
    if !asked.is_v4 && place == Place::Last && devices.has_rival(&route) {
        // Together they would be one route with several next hops.
        let is_like =
            |other: &Route| (other.interface, other.gateway) == (route.interface, route.gateway);
        let is_there = devices.rivals(&route).iter().any(is_like);
        return Err(if is_there { Errno::EEXIST } else { Errno::EOPNOTSUPP });
    }
    devices.put_route(route, place)
}

/// Takes the first route to a network away that is as the request says, where it says anything.
pub(super) fn delete(devices: &Devices, change: &Change<'_>) -> Result<()> {
    let asked = Asked::read(change)?;
    let header = &asked.header;
    let gateway = asked.gateway()?;
    let index = asked.attributes.number(INTERFACE)?.unwrap_or(0);
    let metric = asked.attributes.number(PRIORITY)?.unwrap_or(0);
    let source = asked.attributes.ip(SOURCE, asked.is_v4)?;
    let is_meant = |route: &Route| {
        (!asked.is_v4 || (route.tos == header.tos))
            && (!asked.is_v4 || header.scope == NOWHERE || header.scope == route.scope)
            && (header.kind == 0 || header.kind == route.kind)
            && (header.protocol == 0 || header.protocol == route.protocol)
            && (metric == 0 || metric == route.metric)
            && (index == 0 || index == route.interface)
            && (gateway.is_none() || gateway == route.gateway)
            && (source.is_none() || source == route.source)
    };
    if devices.remove_route(asked.table, (asked.to, header.prefix), is_meant) {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}
