//! Routes: the longest prefix wins, then the smallest metric.

use crate::ip::Ip;
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
    /// The interface.
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
}

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
    /// By length of prefix: bit `n` of `lengths` tells whether there is one of length `n`.
    by_length: HashMap<u8, HashMap<Ip, Vec<Route>>>,
    lengths: Vec<u8>,
}

impl Table {
    /// Adds a route; `false` if there is one for the network with that metric.
    pub(crate) fn add(&mut self, route: Route) -> bool {
        let routes = self.by_length.entry(route.prefix).or_default().entry(route.to).or_default();
        if routes.iter().any(|r| r.metric == route.metric) {
            return false;
        }
        let at = routes.partition_point(|r| r.metric < route.metric);
        routes.insert(at, route);
        let at = self.lengths.partition_point(|length| *length > route.prefix);
        if self.lengths.get(at) != Some(&route.prefix) {
            self.lengths.insert(at, route.prefix);
        }
        true
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

    /// All routes, the shortest prefix first.
    pub(crate) fn all(&self) -> Vec<Route> {
        let mut all: Vec<Route> =
            self.by_length.values().flat_map(HashMap::values).flatten().copied().collect();
        all.sort_by_key(|r| (r.prefix != 0, r.to, r.prefix, r.metric));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_then_the_metric() {
        let mut table = Table::default();
        let ip = |last| Ip::v4([10, 0, 0, last]);
        assert!(table.add(Route::via(Ip::ANY4, 0, ip(1), 2)));
        assert!(table.add(Route { metric: 5, ..Route::on_link(ip(0), 24, 2) }));
        assert!(table.add(Route { metric: 3, ..Route::on_link(ip(0), 24, 3) }));
        assert!(table.add(Route::on_link(ip(7), 32, 4)));
        assert!(!table.add(Route::on_link(ip(7), 32, 5)));
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
}
