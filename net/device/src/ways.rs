//! The routes of a namespace, and the ways they make.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use alloc::collections::BTreeMap;
use hashbrown::HashMap;

use crate::address::Address;
use crate::devices::{Change, Devices};
use crate::interface::Interface;
use crate::ip::Ip;
use crate::route::{
    Place, RTN_BLACKHOLE, RTN_LOCAL, RTN_PROHIBIT, RTN_THROW, RTN_UNREACHABLE, Route, TABLE_LOCAL,
    TABLE_MAIN, Table,
};

/// How to reach an address.
#[derive(Clone, Debug)]
pub struct Way {
    /// The interface to send on.
    pub interface: Arc<Interface>,
    /// Whom to send the frame to: a router or the address itself.
    pub next_hop: Ip,
    /// The address to send from, unless the sender has one.
    pub source: Ip,
    /// The longest packet.
    pub mtu: u32,
    /// The packet goes to this host, or to all of a network.
    pub kind: Destination,
}

/// Whom a packet reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// This host.
    Local,
    /// Another one.
    Remote,
    /// All hosts of a network.
    Broadcast,
    /// A group.
    Multicast,
}

/// A table of both versions.
#[derive(Default)]
pub(crate) struct Pair {
    v4: Table,
    v6: Table,
}

impl Pair {
    fn of(&self, ip: Ip) -> &Table {
        self.of_version(ip.is_v4())
    }
    fn of_version(&self, is_v4: bool) -> &Table {
        if is_v4 { &self.v4 } else { &self.v6 }
    }
    fn of_version_mut(&mut self, is_v4: bool) -> &mut Table {
        if is_v4 { &mut self.v4 } else { &mut self.v6 }
    }
    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// The tables. What packets take is in two of them; the others are kept for rules.
#[derive(Default)]
pub(crate) struct Routes {
    main: Pair,
    /// What was added to the addresses' own entries, which are in a table of their own.
    local: Pair,
    others: BTreeMap<u32, Pair>,
    /// How many routes have a source, by that address: without it nothing is looked for when it goes.
    sources: HashMap<Ip, usize>,
}

impl Routes {
    fn note_source(&mut self, came: Option<&Route>, went: Option<&Route>) {
        if let Some(source) = came.and_then(|route| route.source) {
            *self.sources.entry(source).or_default() += 1;
        }
        if let Some(source) = went.and_then(|route| route.source)
            && let Some(count) = self.sources.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    fn tables_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        [&mut self.main, &mut self.local].into_iter().chain(self.others.values_mut())
    }

    fn table_mut(&mut self, table: u32) -> &mut Pair {
        match table {
            TABLE_MAIN => &mut self.main,
            TABLE_LOCAL => &mut self.local,
            other => self.others.entry(other).or_default(),
        }
    }
}

impl Devices {
    /// Adds a route; there must be none with its metric for its network.
    pub fn add_route(&self, route: Route) -> Result<()> {
        self.put_route(route, Place::Alone)
    }

    /// Adds a route, or puts it instead of another.
    pub fn put_route(&self, route: Route, place: Place) -> Result<()> {
        {
            let mut routes = self.routes.write();
            let table = routes.table_mut(route.table).of_version_mut(route.to.is_v4());
            let added = table.add(route, place);
            if let Ok(old) = &added {
                routes.note_source(Some(&route), old.as_ref());
            }
            self.note_tables(&mut routes);
            added?;
        }
        self.changed(&Change::Route(route));
        Ok(())
    }

    fn note_tables(&self, routes: &mut Routes) {
        routes.others.retain(|_, pair| !pair.is_empty());
        self.has_local_routes.store(!routes.local.is_empty(), Ordering::Relaxed);
    }

    /// Takes the first route to a network away that is meant; whether there was one.
    pub fn remove_route(
        &self,
        table: u32,
        network: (Ip, u8),
        is_meant: impl Fn(&Route) -> bool,
    ) -> bool {
        let gone = {
            let mut routes = self.routes.write();
            let pair = routes.table_mut(table);
            let gone = pair.of_version_mut(network.0.is_v4()).take(network, is_meant);
            routes.note_source(None, gone.as_ref());
            self.note_tables(&mut routes);
            gone
        };
        gone.iter().for_each(|route| self.changed(&Change::NoRoute(*route)));
        gone.is_some()
    }

    /// Takes routes of one version away; how many.
    pub fn remove_routes(&self, is_v4: bool, is_meant: impl Fn(&Route) -> bool) -> usize {
        let gone = self.take_routes(is_v4, is_meant);
        gone.iter().for_each(|route| self.changed(&Change::NoRoute(*route)));
        gone.len()
    }

    /// Takes routes of one version away, of which the caller tells.
    pub(crate) fn take_routes(&self, is_v4: bool, is_meant: impl Fn(&Route) -> bool) -> Vec<Route> {
        let mut routes = self.routes.write();
        let all = routes.tables_mut();
        let gone: Vec<Route> =
            all.flat_map(|pair| pair.of_version_mut(is_v4).remove(&is_meant)).collect();
        gone.iter().for_each(|route| routes.note_source(None, Some(route)));
        self.note_tables(&mut routes);
        gone
    }

    /// An address is no more this host's: routes of version 4 that send from it go, those of version 6 stay
    /// without it. Looks at routes only if there are such.
    pub(crate) fn drop_source(&self, ip: Ip) {
        if !self.routes.read().sources.contains_key(&ip) {
            return;
        }
        if ip.is_v4() {
            self.take_routes(true, |route| route.source == Some(ip));
            return;
        }
        let mut routes = self.routes.write();
        for pair in routes.tables_mut() {
            pair.v6.each_mut(|route| {
                if route.source == Some(ip) {
                    route.source = None;
                }
            });
        }
        routes.sources.remove(&ip);
    }

    /// The route to an address in the table `main`, over a certain interface if `bound` is not 0.
    pub fn route_to(&self, to: Ip, bound: u32) -> Option<Route> {
        let fits = |route: &Route| route.tos == 0 && (bound == 0 || route.interface == bound);
        self.routes.read().main.of(to).find(to, fits)
    }

    /// The routes beside which one would stand: for its network, with its metric and type of service.
    pub fn rivals(&self, route: &Route) -> Vec<Route> {
        let routes = self.routes.read();
        let table = match route.table {
            TABLE_MAIN => Some(&routes.main),
            TABLE_LOCAL => Some(&routes.local),
            other => routes.others.get(&other),
        };
        table.map_or_else(Vec::new, |pair| pair.of(route.to).rivals(route).to_vec())
    }

    /// Whether there are such.
    pub fn has_rival(&self, route: &Route) -> bool {
        !self.rivals(route).is_empty()
    }

    /// The routes of one version in the table `main`.
    pub fn routes(&self, is_v4: bool) -> Vec<Route> {
        self.routes.read().main.of_version(is_v4).all()
    }

    /// The routes of one version in the other tables, by their numbers.
    pub fn other_routes(&self, is_v4: bool) -> Vec<Route> {
        let routes = self.routes.read();
        let others = routes.others.values().chain([&routes.local]);
        others.flat_map(|pair| pair.of_version(is_v4).all()).collect()
    }

    /// Whether an address is this host's, the interface being up.
    #[inline]
    pub fn is_local(&self, ip: Ip) -> bool {
        self.local_interface(ip).is_some()
    }

    /// The interface of one of this host's addresses.
    pub fn local_interface(&self, ip: Ip) -> Option<Arc<Interface>> {
        let inner = self.inner.read();
        let index = match inner.own.first(ip) {
            Some(index) => index,
            // All of 127.0.0.0/8 is this host's.
            None if ip.is_loopback() && ip.is_v4() => 1,
            None => {
                drop(inner);
                return self.interface_by_local_route(ip);
            }
        };
        let interface = inner.interfaces.get(&index)?;
        // An address answers as long as it is there; the loopback network needs its interface.
        (interface.is_up() || !ip.is_loopback()).then(|| interface.clone())
    }

    /// A route of the table `local` makes its network this host's.
    fn interface_by_local_route(&self, ip: Ip) -> Option<Arc<Interface>> {
        // Relaxed: who adds a route makes those look again who remember a way.
        if !self.has_local_routes.load(Ordering::Relaxed) {
            return None;
        }
        let found = self.routes.read().local.of(ip).find(ip, |route| route.tos == 0)?;
        if found.kind == RTN_LOCAL { self.by_index(found.interface) } else { None }
    }

    /// Whether an address means all hosts of a network here.
    pub fn is_broadcast(&self, ip: Ip) -> bool {
        ip.is_limited_broadcast() || self.inner.read().broadcasts.contains(ip)
    }

    /// Whether a packet of this address can have been sent by another host.
    pub fn is_elsewhere(&self, ip: Ip) -> bool {
        let inner = self.inner.read();
        !ip.is_limited_broadcast() && !inner.own.contains(ip) && !inner.broadcasts.contains(ip)
    }

    /// The way to an address, over a certain interface if `bound` is not 0.
    pub fn way(&self, to: Ip, from: Option<Ip>, bound: u32) -> Result<Way> {
        if !to.is_multicast() && self.is_local(to) {
            let lo = self.loopback().ok_or(Errno::ENETUNREACH)?;
            if !lo.is_up() {
                return Err(Errno::ENETUNREACH);
            }
            let mtu = lo.mtu();
            let source = from.unwrap_or(to);
            return Ok(Way { interface: lo, next_hop: to, source, mtu, kind: Destination::Local });
        }
        let broadcast_to = self.inner.read().broadcasts.first(to);
        let kind = if to.is_multicast() {
            Destination::Multicast
        } else if to.is_limited_broadcast() || broadcast_to.is_some() {
            Destination::Broadcast
        } else {
            Destination::Remote
        };
        let needs_link = to.is_link_local6() || (to.is_multicast() && !to.is_v4());
        let (interface, gateway, source, mtu) = if bound != 0
            && (needs_link || kind != Destination::Remote)
        {
            (self.by_index(bound).ok_or(Errno::ENODEV)?, None, None, 0)
        } else {
            match self.route_to(to, bound) {
                Some(route) => {
                    match route.kind {
                        RTN_UNREACHABLE => return Err(Errno::EHOSTUNREACH),
                        RTN_PROHIBIT => return Err(Errno::EACCES),
                        RTN_BLACKHOLE => return Err(Errno::EINVAL),
                        // No other table is asked after this one.
                        RTN_THROW => return Err(Errno::ENETUNREACH),
                        _ => {}
                    }
                    let interface = self.by_index(route.interface).ok_or(Errno::ENETUNREACH)?;
                    (interface, route.gateway, route.source, route.mtu)
                }
                // A socket that is bound to an interface reaches everything on its link.
                None if bound != 0 => (self.by_index(bound).ok_or(Errno::ENODEV)?, None, None, 0),
                None if broadcast_to.is_some() => {
                    let index = broadcast_to.unwrap_or_default();
                    (self.by_index(index).ok_or(Errno::ENETUNREACH)?, None, None, 0)
                }
                None if kind == Destination::Multicast && from.is_some() => {
                    let from = from.unwrap_or(to);
                    (self.local_interface(from).ok_or(Errno::ENETUNREACH)?, None, None, 0)
                }
                None => return Err(Errno::ENETUNREACH),
            }
        };
        if !interface.is_up() {
            return Err(if bound != 0 { Errno::ENETDOWN } else { Errno::ENETUNREACH });
        }
        // All hosts of a network and groups are on the link, whatever leads there.
        let is_one = kind == Destination::Remote;
        let next_hop = gateway.filter(|_| is_one).unwrap_or(to);
        let source = match from.or(source) {
            Some(source) => source,
            None => self.source_for(&interface, next_hop, to).ok_or(if to.is_v4() {
                Errno::ENETUNREACH
            } else {
                Errno::EADDRNOTAVAIL
            })?,
        };
        let mtu = if mtu == 0 { interface.mtu() } else { mtu };
        Ok(Way { interface, next_hop, source, mtu, kind })
    }

    /// The address of an interface that fits a destination best.
    fn source_for(&self, interface: &Interface, next_hop: Ip, to: Ip) -> Option<Ip> {
        let is_v4 = to.is_v4();
        let of_version = |a: &Address| a.ip.is_v4() == is_v4;
        let same_network =
            |a: &Address| of_version(a) && a.ip.masked(a.prefix) == next_hop.masked(a.prefix);
        if is_v4 {
            let found = interface
                .find_address(same_network)
                .or_else(|| interface.find_address(|a| of_version(a) && a.scope < 254))
                .map(|a| a.ip);
            // What stays on the loopback interface may be from its own address.
            let found = found.or_else(|| {
                let own = interface.is_loopback().then(|| interface.find_address(of_version));
                own.flatten().map(|a| a.ip)
            });
            return found.or_else(|| {
                let all = self.all();
                let mut others = all.iter().filter(|i| i.is_up());
                others.find_map(|i| i.find_address(|a| a.ip.is_v4() && a.scope < 254)).map(|a| a.ip)
            });
        }
        // RFC 6724: an address of the destination's scope first.
        let wants_link = to.is_link_local6() || to.is_multicast();
        let fits = |a: &Address| of_version(a) && a.ip.is_link_local6() == wants_link;
        interface
            .find_address(|a| fits(a) && same_network(a))
            .or_else(|| interface.find_address(fits))
            .or_else(|| interface.find_address(of_version))
            .map(|a| a.ip)
    }
}
