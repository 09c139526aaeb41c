//! Ports: who has which, and who may have it too.
//!
//! A port's claims are kept as kinds of claims with a count: thousands of connections accepted on one port
//! are one kind. So a check costs as much as there are different kinds, not sockets.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::lock::LockClass;
use netdevice::Ip;

use crate::table::Sharded;

static PORTS: LockClass = LockClass::new("inet.ports", 525);

/// What a socket claims a port with (ip(7), socket(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claimant {
    /// The address; any means all.
    pub(crate) ip: Ip,
    /// `IPV6_V6ONLY`: an any address of version 6 does not mean those of version 4.
    pub(crate) v6only: bool,
    /// The interface the socket is bound to; 0 is none.
    pub(crate) device: i32,
    /// `SO_REUSEADDR`.
    pub(crate) reuse: bool,
    /// `SO_REUSEPORT`, of this user.
    pub(crate) reuse_port: Option<u32>,
    /// It listens.
    pub(crate) listening: bool,
    /// `connect` chose the port: other connections may have it too.
    pub(crate) chosen: bool,
}

impl Claimant {
    fn overlaps(&self, other: &Claimant) -> bool {
        let covers = |a: &Claimant, b: Ip| {
            a.ip.is_any() && (a.ip.is_v4() == b.is_v4() || (!a.ip.is_v4() && !a.v6only))
        };
        self.ip == other.ip || covers(self, other.ip) || covers(other, self.ip)
    }

    fn conflicts(&self, other: &Claimant, listeners_share: bool) -> bool {
        if self.device != 0 && other.device != 0 && self.device != other.device {
            return false;
        }
        if !self.overlaps(other) {
            return false;
        }
        // Who listens keeps others out; who wants to listen is kept out by those that do.
        let reuse = self.reuse && other.reuse && (listeners_share || !other.listening);
        let reuse_port = self.reuse_port.is_some() && self.reuse_port == other.reuse_port;
        !reuse && !reuse_port
    }
}

struct Kind {
    who: Claimant,
    count: usize,
}

/// The ports of a protocol in a namespace.
pub(crate) struct Ports {
    table: Sharded<u16, Vec<Kind>>,
    /// Where the last search for a port began.
    hint: AtomicU32,
    /// UDP's rule: `SO_REUSEADDR` is enough, listening or not.
    listeners_share: bool,
}

/// A claim of a port, given up when dropped.
pub(crate) struct Claim {
    ports: Arc<Ports>,
    /// The port.
    pub(crate) port: u16,
    who: Claimant,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ports.give_up(self.port, &self.who);
    }
}

impl Clone for Claim {
    fn clone(&self) -> Claim {
        self.ports
            .table
            .with(&self.port, |table| add(table.entry(self.port).or_default(), self.who));
        Claim { ports: self.ports.clone(), port: self.port, who: self.who }
    }
}

fn add(kinds: &mut Vec<Kind>, who: Claimant) {
    match kinds.iter_mut().find(|kind| kind.who == who) {
        Some(kind) => kind.count += 1,
        None => kinds.push(Kind { who, count: 1 }),
    }
}

impl Ports {
    pub(crate) fn new(secret: u64, listeners_share: bool) -> Arc<Ports> {
        let hint = AtomicU32::new((secret >> 17) as u32);
        Arc::new(Ports { table: Sharded::new(&PORTS, secret), hint, listeners_share })
    }

    fn give_up(&self, port: u16, who: &Claimant) {
        self.table.with(&port, |table| {
            let Some(kinds) = table.get_mut(&port) else { return };
            if let Some(at) = kinds.iter().position(|kind| kind.who == *who) {
                let Some(kind) = kinds.get_mut(at) else { return };
                kind.count -= 1;
                if kind.count == 0 {
                    kinds.swap_remove(at);
                }
            }
            if kinds.is_empty() {
                table.remove(&port);
            }
        });
    }

    /// Claims a port. `EADDRINUSE` if somebody has it who does not share it.
    pub(crate) fn claim(self: &Arc<Ports>, port: u16, who: Claimant) -> Result<Claim> {
        self.table.with(&port, |table| {
            let kinds = table.entry(port).or_default();
            if kinds.iter().any(|kind| who.conflicts(&kind.who, self.listeners_share)) {
                return Err(Errno::EADDRINUSE);
            }
            add(kinds, who);
            Ok(Claim { ports: self.clone(), port, who })
        })
    }

    fn candidates(&self, range: (u16, u16), odd: bool) -> impl Iterator<Item = u16> + use<> {
        let (low, high) = (u32::from(range.0), u32::from(range.1));
        let span = high.saturating_sub(low) + 1;
        // Relaxed: any number will do.
        let start = self.hint.fetch_add(0x9e37_79b1, Ordering::Relaxed) % span;
        let parity = u32::from(odd);
        let step = move |first: u32| {
            (0..span.div_ceil(2)).map(move |i| {
                let offset = (start / 2 * 2 + 2 * i) % (span.div_ceil(2) * 2) + first;
                low + offset
            })
        };
        step(parity)
            .chain(step(1 - parity))
            .filter(move |port| *port <= high)
            .map(|port| port as u16)
    }

    /// Claims a port of a range that nobody has with whom there is a conflict.
    pub(crate) fn claim_any(self: &Arc<Ports>, range: (u16, u16), who: Claimant) -> Result<Claim> {
        for port in self.candidates(range, true) {
            // A port that several could share is not chosen for somebody who did not ask for it.
            let alone = Claimant { reuse: false, reuse_port: None, ..who };
            let is_free = self.table.with(&port, |table| {
                let kinds = table.entry(port).or_default();
                let is_free = !kinds.iter().any(|kind| alone.conflicts(&kind.who, false));
                if is_free {
                    add(kinds, who);
                } else if kinds.is_empty() {
                    table.remove(&port);
                }
                is_free
            });
            if is_free {
                return Ok(Claim { ports: self.clone(), port, who });
            }
        }
        Err(Errno::EADDRINUSE)
    }

    /// Claims a port for a connection: one that nobody has but other connections for which it was chosen,
    /// and that `is_unique` accepts.
    pub(crate) fn claim_for_connection(
        self: &Arc<Ports>,
        range: (u16, u16),
        who: Claimant,
        mut is_unique: impl FnMut(u16) -> bool,
    ) -> Result<Claim> {
        for port in self.candidates(range, false) {
            let is_ours = self.table.with(&port, |table| {
                let kinds = table.entry(port).or_default();
                if kinds.iter().any(|kind| !kind.who.chosen) {
                    return false;
                }
                add(kinds, who);
                true
            });
            if !is_ours {
                continue;
            }
            let claim = Claim { ports: self.clone(), port, who };
            if is_unique(port) {
                return Ok(claim);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }

    /// Turns a claim into one of a listener. `EADDRINUSE` if others are in the way of that.
    pub(crate) fn listen(self: &Arc<Ports>, claim: &mut Claim) -> Result<()> {
        let who = Claimant { listening: true, ..claim.who };
        self.table.with(&claim.port, |table| {
            let kinds = table.entry(claim.port).or_default();
            let own = claim.who;
            let in_the_way = kinds.iter().any(|kind| {
                let others = if kind.who == own { kind.count - 1 } else { kind.count };
                others > 0 && who.conflicts(&kind.who, self.listeners_share)
            });
            if in_the_way {
                return Err(Errno::EADDRINUSE);
            }
            if let Some(at) = kinds.iter().position(|kind| kind.who == own)
                && let Some(kind) = kinds.get_mut(at)
            {
                kind.count -= 1;
                if kind.count == 0 {
                    kinds.swap_remove(at);
                }
            }
            add(kinds, who);
            Ok(())
        })?;
        claim.who = who;
        Ok(())
    }

    /// A claim of the same port that is a connection's and not a listener's.
    pub(crate) fn claim_child(self: &Arc<Ports>, port: u16, who: Claimant) -> Claim {
        self.table.with(&port, |table| add(table.entry(port).or_default(), who));
        Claim { ports: self.clone(), port, who }
    }
}

impl Claim {
    /// What it was claimed with.
    pub(crate) fn who(&self) -> &Claimant {
        &self.who
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(ip: Ip) -> Claimant {
        Claimant {
            ip,
            v6only: false,
            device: 0,
            reuse: false,
            reuse_port: None,
            listening: false,
            chosen: false,
        }
    }

    #[test]
    fn conflicts_are_those_of_linux() {
        let ports = Ports::new(7, false);
        let any = who(Ip::ANY4);
        let one = who(Ip::LOOPBACK4);
        let first = ports.claim(80, any).unwrap();
        assert!(ports.claim(80, one).is_err());
        assert!(ports.claim(80, who(Ip::ANY6)).is_err());
        assert!(ports.claim(80, Claimant { v6only: true, ..who(Ip::ANY6) }).is_ok());
        drop(first);
        let reuse = Claimant { reuse: true, ..any };
        let mut a = ports.claim(80, reuse).unwrap();
        let mut b = ports.claim(80, reuse).unwrap();
        assert!(ports.claim(80, any).is_err());
        ports.listen(&mut a).unwrap();
        assert_eq!(ports.listen(&mut b), Err(Errno::EADDRINUSE));
        assert!(ports.claim(80, reuse).is_err());
        drop((a, b));
        let shared = Claimant { reuse_port: Some(5), ..any };
        let mut a = ports.claim(80, shared).unwrap();
        let mut b = ports.claim(80, shared).unwrap();
        ports.listen(&mut a).unwrap();
        ports.listen(&mut b).unwrap();
        assert!(ports.claim(80, Claimant { reuse_port: Some(6), ..any }).is_err());
    }

    #[test]
    fn every_port_of_a_range_is_found() {
        let ports = Ports::new(99, false);
        let range = (40_000, 40_100);
        let all: Vec<Claim> =
            (0..101).map(|_| ports.claim_any(range, who(Ip::ANY4)).unwrap()).collect();
        assert!(ports.claim_any(range, who(Ip::ANY4)).is_err());
        let mut numbers: Vec<u16> = all.iter().map(|claim| claim.port).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 101);
        drop(all);
        let chosen = Claimant { chosen: true, ..who(Ip::LOOPBACK4) };
        let a = ports.claim_for_connection((5, 5), chosen, |_| true).unwrap();
        let b = ports.claim_for_connection((5, 5), chosen, |_| true).unwrap();
        assert_eq!((a.port, b.port), (5, 5));
        assert!(ports.claim_for_connection((5, 5), chosen, |_| false).is_err());
        assert_eq!(ports.table.len(), 1);
    }
}
