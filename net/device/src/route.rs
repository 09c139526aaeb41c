//! Routes: the longest prefix wins, then the smallest metric.
//!
//! One hash table per length of prefix that occurs, of the routes to each network in the order they are tried.

use crate::ip::Ip;
use abi::{Errno, Result};
use alloc::vec::Vec;
use hashbrown::HashMap;

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub to: Ip,
    /// The length of its prefix.
    pub prefix: u8,
    /// The next router; none on the link itself.
    pub gateway: Option<Ip>,
    /// The interface; 0 where packets go nowhere.
    pub interface: u32,
    /// The address to send from.
    pub source: Option<Ip>,
    /// Among routes of one network the smallest wins.
    pub metric: u32,
    /// `RTN_*`: 1 unicast, 7 unreachable, …
    pub kind: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTPROT_*`: who made it.
    pub protocol: u8,
    /// The longest packet this way, if it is not the interface's.
    pub mtu: u32,
    /// `RT_TABLE_*`: which of the tables it is in.
    pub table: u32,
    /// Which type of service it is for; 0 for all.
    pub tos: u8,
    /// The router is taken to be on the link (`RTNH_F_ONLINK`).
    pub is_onlink: bool,
}

/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`.
pub const TABLE_LOCAL: u32 = 255;
/// `RTN_LOCAL`.
pub const RTN_LOCAL: u8 = 2;
/// `RTN_THROW`.
pub const RTN_THROW: u8 = 9;

/// `RT_SCOPE_LINK`.
pub const SCOPE_LINK: u8 = 253;
/// `RT_SCOPE_HOST`.
pub const SCOPE_HOST: u8 = 254;

/// `RTN_UNICAST`.
pub const RTN_UNICAST: u8 = 1;
/// `RTN_BLACKHOLE`.
pub const RTN_BLACKHOLE: u8 = 6;
/// `RTN_UNREACHABLE`.
pub const RTN_UNREACHABLE: u8 = 7;
/// `RTN_PROHIBIT`.
pub const RTN_PROHIBIT: u8 = 8;

impl Route {
    /// A way straight onto the link.
    pub fn on_link(to: Ip, prefix: u8, interface: u32) -> Route {
        Route {
            to: to.masked(prefix),
            prefix,
            gateway: None,
            interface,
            source: None,
            metric: 0,
            kind: RTN_UNICAST,
            scope: 253,
            protocol: 2,
            mtu: 0,
            table: TABLE_MAIN,
            tos: 0,
            is_onlink: false,
        }
    }

    /// A way through a router.
    pub fn via(to: Ip, prefix: u8, gateway: Ip, interface: u32) -> Route {
        let link = Route::on_link(to, prefix, interface);
        Route { gateway: Some(gateway), scope: 0, protocol: 3, ..link }
    }
}

/// The routes of one version.
#[derive(Default)]
pub(crate) struct Table {
    by_length: HashMap<u8, HashMap<Ip, Vec<Route>>>,
    /// The lengths that occur, the longest first.
    lengths: Vec<u8>,
}

/// Where a route goes among those for the same network with the same metric and type of service: its rivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There must be none.
    Alone,
    /// Before them.
    First,
    /// After them.
    Last,
    /// Instead of the first.
    Instead {
        /// Whether it may be the first one.
        may_make: bool,
    },
}

/// Routes for a type of service come before those for all, then the smallest metric (case `rtnl-route-order`).
fn order(route: &Route) -> (u8, u32) {
    (u8::MAX - route.tos, route.metric)
}

impl Table {
    /// Adds a route; the one it replaced. `EEXIST` beside one it must not be beside, or its like; `ENOENT` if
    /// there is none to replace.
    pub(crate) fn add(&mut self, route: Route, place: Place) -> Result<Option<Route>> {
        let networks = self.by_length.get_mut(&route.prefix);
        if let Some(routes) = networks.and_then(|networks| networks.get_mut(&route.to)) {
            let first = routes.partition_point(|r| order(r) < order(&route));
            let end = routes.partition_point(|r| order(r) <= order(&route));
            let rivals = routes.get_mut(first..end).unwrap_or_default();
            let is_there = rivals.contains(&route);
            let at = match (place, rivals) {
                (Place::Alone, [_, ..]) => return Err(Errno::EEXIST),
                (Place::Instead { .. }, [old, ..]) if *old == route => return Ok(Some(route)),
                (_, [_, ..]) if is_there => return Err(Errno::EEXIST),
                (Place::Instead { .. }, [old, ..]) => {
                    return Ok(Some(core::mem::replace(old, route)));
                }
                (Place::Instead { may_make: false }, []) => return Err(Errno::ENOENT),
                (Place::Last, _) => end,
                _ => first,
            };
            routes.insert(at, route);
            return Ok(None);
        }
        if place == (Place::Instead { may_make: false }) {
            return Err(Errno::ENOENT);
        }
        let networks = self.by_length.entry(route.prefix).or_default();
        networks.insert(route.to, Vec::from([route]));
        let at = self.lengths.partition_point(|length| *length > route.prefix);
        if self.lengths.get(at) != Some(&route.prefix) {
            self.lengths.insert(at, route.prefix);
        }
        Ok(None)
    }

    /// The routes for the same network with the same metric and type of service.
    pub(crate) fn rivals(&self, route: &Route) -> &[Route] {
        let networks = self.by_length.get(&route.prefix);
        let Some(routes) = networks.and_then(|networks| networks.get(&route.to)) else {
            return &[];
        };
        let first = routes.partition_point(|r| order(r) < order(route));
        let end = routes.partition_point(|r| order(r) <= order(route));
        routes.get(first..end).unwrap_or_default()
    }

    /// Changes all routes; not where they are.
    pub(crate) fn each_mut(&mut self, change: impl FnMut(&mut Route)) {
        let networks = self.by_length.values_mut().flat_map(HashMap::values_mut);
        networks.flatten().for_each(change);
    }

    /// Whether there is no route.
    pub(crate) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Takes the first route to a network away that is meant.
    pub(crate) fn take(
        &mut self,
        (to, prefix): (Ip, u8),
        is_meant: impl Fn(&Route) -> bool,
    ) -> Option<Route> {
        let networks = self.by_length.get_mut(&prefix)?;
        let routes = networks.get_mut(&to)?;
        let at = routes.iter().position(is_meant)?;
        let gone = routes.remove(at);
        if routes.is_empty() {
            networks.remove(&to);
        }
        if networks.is_empty() {
            self.by_length.remove(&prefix);
            self.lengths.retain(|length| *length != prefix);
        }
        Some(gone)
    }

    /// Takes the routes away that are meant; those.
    pub(crate) fn remove(&mut self, is_meant: impl Fn(&Route) -> bool) -> Vec<Route> {
        let mut gone = Vec::new();
        for networks in self.by_length.values_mut() {
            networks.retain(|_, routes| {
                routes.retain(|route| {
                    let stays = !is_meant(route);
                    if !stays {
                        gone.push(*route);
                    }
                    stays
                });
                !routes.is_empty()
            });
        }
        self.by_length.retain(|_, networks| !networks.is_empty());
        let by_length = &self.by_length;
        self.lengths.retain(|length| by_length.contains_key(length));
        gone
    }

    /// The best route to an address that `fits`.
    pub(crate) fn find(&self, to: Ip, fits: impl Fn(&Route) -> bool) -> Option<Route> {
        self.lengths.iter().find_map(|length| {
            let routes = self.by_length.get(length)?.get(&to.masked(*length))?;
            routes.iter().find(|route| fits(route)).copied()
        })
    }

    /// All routes as Linux tells them: of version 4 by networks, the longest prefix first; of version 6
    /// networks before the one they are in (cases `rtnl-route-order`, `rtnl-routes6`).
    pub(crate) fn all(&self) -> Vec<Route> {
        let mut networks: Vec<&Vec<Route>> =
            self.by_length.values().flat_map(HashMap::values).collect();
        networks.sort_unstable_by_key(|routes| {
            routes.first().map(|r| {
                let place = if r.to.is_v4() { r.to } else { r.to.last(r.prefix) };
                (place, u8::MAX - r.prefix)
            })
        });
        networks.into_iter().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_then_the_metric() {
        let mut table = Table::default();
        let ip = |last| Ip::v4([10, 0, 0, last]);
        let mut add = |route| table.add(route, Place::Alone);
        assert_eq!(add(Route::via(Ip::ANY4, 0, ip(1), 2)), Ok(None));
        assert_eq!(add(Route { metric: 5, ..Route::on_link(ip(0), 24, 2) }), Ok(None));
        assert_eq!(add(Route { metric: 3, ..Route::on_link(ip(0), 24, 3) }), Ok(None));
        assert_eq!(add(Route::on_link(ip(7), 32, 4)), Ok(None));
        assert_eq!(add(Route::on_link(ip(7), 32, 5)), Err(Errno::EEXIST));
        let way = |to| table.find(to, |_| true).map(|r| r.interface);
        assert_eq!(way(ip(7)), Some(4));
        assert_eq!(way(ip(8)), Some(3));
        assert_eq!(way(Ip::v4([8, 8, 8, 8])), Some(2));
        assert_eq!(way(Ip::LOOPBACK6), None);
        assert_eq!(table.find(ip(8), |r| r.interface == 2).map(|r| r.metric), Some(5));
        assert_eq!(table.remove(|r| r.prefix == 24).len(), 2);
        assert_eq!(table.find(ip(8), |_| true).map(|r| r.prefix), Some(0));
        assert_eq!(table.all().len(), 2);
    }

    #[test]
    fn routes_of_one_network_stand_where_they_were_put() {
        let mut table = Table::default();
        let ip = |last| Ip::v4([10, 0, 0, last]);
        let via = |last| Route::via(ip(0), 24, ip(last), 2);
        let instead = |may_make| Place::Instead { may_make };
        assert_eq!(table.add(via(1), instead(false)), Err(Errno::ENOENT));
        assert_eq!(table.add(via(1), instead(true)), Ok(None));
        assert_eq!(table.add(via(2), Place::Last), Ok(None));
        assert_eq!(table.add(via(2), Place::First), Err(Errno::EEXIST));
        assert_eq!(table.add(via(3), Place::First), Ok(None));
        let order = |table: &Table| table.all().iter().map(|r| r.gateway).collect::<Vec<_>>();
        assert_eq!(order(&table), [3, 1, 2].map(|last| Some(ip(last))));
        assert_eq!(table.add(via(4), instead(false)), Ok(Some(via(3))));
        assert_eq!(table.take((ip(0), 24), |r| r.gateway == Some(ip(1))), Some(via(1)));
        assert_eq!(table.take((ip(0), 24), |r| r.gateway == Some(ip(1))), None);
        assert_eq!(table.add(via(2), instead(false)), Err(Errno::EEXIST));
        assert_eq!(table.add(via(4), instead(false)), Ok(Some(via(4))));
        assert_eq!(order(&table), [4, 2].map(|last| Some(ip(last))));
        table.take((ip(0), 24), |_| true);
        assert!(!table.is_empty());
        table.take((ip(0), 24), |_| true);
        assert!(table.is_empty());
    }
}
