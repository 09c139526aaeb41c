//! UDP (RFC 768): sockets by port, and those that are connected by both ends.

pub(crate) mod datagram;
mod handover;
mod options;
pub(crate) mod socket;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use arch::lock::LockClass;
use netdevice::{Endpoint, Ip, Tuple};

use crate::ports::Ports;
use crate::stack::{Inet, count};
use crate::table::{Keyed, Sharded};
use datagram::Datagram;
use socket::UdpSocket;

static BY_PORT: LockClass = LockClass::new("inet.udp_ports", 530);
static CONNECTED: LockClass = LockClass::new("inet.udp_connected", 531);

/// A socket with a port.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) ip: Ip,
    pub(crate) v6only: bool,
    pub(crate) device: u32,
    /// `SO_REUSEPORT`.
    pub(crate) is_shared: bool,
}

impl Entry {
    fn score(&self, to: Ip, device: u32) -> Option<u32> {
        let mut score = 0;
        if self.ip == to {
            score += 4;
        } else if !self.ip.is_any()
            || (self.ip.is_v4() && !to.is_v4())
            || (!self.ip.is_v4() && to.is_v4() && self.v6only)
        {
            return None;
        }
        if self.ip.is_v4() == to.is_v4() {
            score += 1;
        }
        if self.device != 0 {
            if self.device != device {
                return None;
            }
            score += 2;
        }
        Some(score)
    }
}

/// The UDP of a namespace.
pub(crate) struct Udp {
    pub(crate) ports: Arc<Ports>,
    /// Sockets that are not connected.
    pub(crate) by_port: Sharded<u16, Vec<Entry>>,
    pub(crate) connected: Sharded<Tuple, Arc<UdpSocket>>,
}

impl Udp {
    pub(crate) fn new(ports: Arc<Ports>, secret: u64) -> Udp {
        Udp {
            ports,
            by_port: Sharded::new(&BY_PORT, secret),
            connected: Sharded::new(&CONNECTED, secret),
        }
    }

    /// Who receives what goes from one end to another.
    pub(crate) fn find(&self, from: Endpoint, to: Endpoint, device: u32) -> Option<Arc<UdpSocket>> {
        let tuple = Tuple { local: to, remote: from };
        if let Some(socket) = self.connected.get(&tuple) {
            return Some(socket);
        }
        self.by_port.with(&to.port, |table| {
            let all = table.get(&to.port)?;
            let best = all.iter().filter_map(|entry| entry.score(to.ip, device)).max()?;
            let mut equal = all.iter().filter(|entry| entry.score(to.ip, device) == Some(best));
            // The one that came last has the port, unless they share it.
            let last = equal.clone().next_back()?;
            if !last.is_shared {
                return Some(last.socket.clone());
            }
            let hash = Keyed::new(0x5bd1_e995).hash_one(tuple);
            let index = (hash >> 32) as usize % equal.clone().count().max(1);
            equal.nth(index).map(|entry| entry.socket.clone())
        })
    }

    /// Everybody who receives what goes to a group or to all hosts.
    pub(crate) fn find_all(&self, inet: &Inet, datagram: &Datagram) -> Vec<Arc<UdpSocket>> {
        let to = datagram.to;
        let mut found: Vec<Arc<UdpSocket>> = self.by_port.with(&to.port, |table| {
            let Some(all) = table.get(&to.port) else { return Vec::new() };
            let fits = |entry: &&Entry| entry.score(to.ip, datagram.interface).is_some();
            all.iter().filter(fits).map(|entry| entry.socket.clone()).collect()
        });
        for ip in [to.ip, Ip::ANY4, Ip::ANY6] {
            let tuple = Tuple { local: Endpoint::new(ip, to.port), remote: datagram.from };
            found.extend(self.connected.get(&tuple));
        }
        if to.ip.is_multicast() {
            found.retain(|socket| socket.hears(inet, to.ip, datagram.interface));
        }
        found
    }

    /// Gives a datagram that reached this host to its socket; back if there is none.
    pub(crate) fn deliver(
        &self,
        inet: &Inet,
        datagram: Datagram,
        is_for_many: bool,
    ) -> Option<Datagram> {
        if is_for_many {
            let datagram = Arc::new(datagram);
            for socket in self.find_all(inet, &datagram) {
                socket.take_in(inet, datagram.clone());
            }
            return None;
        }
        match self.find(datagram.from, datagram.to, datagram.interface) {
            Some(socket) => {
                socket.take_in(inet, Arc::new(datagram));
                None
            }
            None => {
                count(&inet.counters.udp_no_ports);
                Some(datagram)
            }
        }
    }
}
