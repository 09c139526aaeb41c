//! The forwarding data base: behind which port an address is.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, RwSpinLock};
use hashbrown::HashMap;

static FDB: LockClass = LockClass::new("bridge.fdb", 539);

/// Parts, each under a lock of its own.
const PARTS: usize = 256;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// Why an entry is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Frames from the address came; it ages.
    Learned,
    /// An administrator said so: for good.
    Static,
    /// It is this host's.
    Local,
}

/// What is known of an address.
#[derive(Debug)]
struct Entry {
    /// The port's number; 0 is the bridge itself.
    port: u16,
    reason: Reason,
    /// When it was seen there, or said to be.
    seen_ns: AtomicU64,
    /// When a frame went there.
    used_ns: AtomicU64,
}

/// An entry as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) mac: Mac,
    pub(crate) port: u16,
    pub(crate) reason: Reason,
    pub(crate) seen_ns: u64,
    pub(crate) used_ns: u64,
}

/// Where a frame for an address goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Here,
    Behind(u16),
    Unknown,
}

type Part = HashMap<Mac, Entry>;

/// The data base.
pub(crate) struct Fdb {
    parts: Vec<RwSpinLock<Part>>,
    ageing_ns: AtomicU64,
}

impl Fdb {
    pub(crate) fn new(ageing_ns: u64) -> Fdb {
        let part = |_| RwSpinLock::new(&FDB, Part::default());
        Fdb { parts: (0..PARTS).map(part).collect(), ageing_ns: AtomicU64::new(ageing_ns) }
    }

    fn part(&self, mac: Mac) -> Option<&RwSpinLock<Part>> {
        // FNV-1a: who fills one part with addresses fills a hash table, which has a keyed hash.
        let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let hash = mac.into_iter().fold(0x811c_9dc5, step);
        self.parts.get((hash ^ hash >> 16) as usize % PARTS)
    }

    /// How long an address that is not seen is remembered.
    pub(crate) fn ageing_ns(&self) -> u64 {
        self.ageing_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ageing_ns(&self, ageing_ns: u64) {
        self.ageing_ns.store(ageing_ns, Ordering::Relaxed);
    }

    fn is_old(&self, entry: &Entry, now: u64) -> bool {
        // Relaxed: a lone instant.
        let seen = entry.seen_ns.load(Ordering::Relaxed);
        entry.reason == Reason::Learned && now.saturating_sub(seen) >= self.ageing_ns()
    }

    /// A frame from an address came on a port.
    pub(crate) fn learn(&self, mac: Mac, port: u16, now: u64) {
        let Some(part) = self.part(mac) else { return };
        if let Some(entry) = part.read().get(&mac) {
            // This host's addresses stay where they are, whoever sends in their name.
            if entry.reason == Reason::Local {
                return;
            }
            if entry.port == port {
                return entry.seen_ns.store(now, Ordering::Relaxed);
            }
        }
        let mut part = part.write();
        if let Some(entry) = part.get_mut(&mac) {
            if entry.reason != Reason::Local {
                entry.port = port;
                entry.seen_ns.store(now, Ordering::Relaxed);
            }
        } else if part.try_reserve(1).is_ok() {
            part.insert(mac, entry(port, Reason::Learned, now));
        }
    }

    /// Where an address is.
    pub(crate) fn find(&self, mac: Mac, now: u64) -> Place {
        let Some(part) = self.part(mac) else { return Place::Unknown };
        match part.read().get(&mac) {
            Some(entry) if entry.reason == Reason::Local => Place::Here,
            Some(entry) if !self.is_old(entry, now) => {
                entry.used_ns.store(now, Ordering::Relaxed);
                Place::Behind(entry.port)
            }
            _ => Place::Unknown,
        }
    }

    /// Notes what an administrator, or the bridge itself, says of an address.
    ///
    /// # Errors
    /// `EEXIST` if it is there and `may_replace` does not hold, `ENOENT` if it is not and `may_make` does not;
    /// `ENOMEM`.
    pub(crate) fn set(
        &self,
        mac: Mac,
        (port, reason): (u16, Reason),
        (may_make, may_replace): (bool, bool),
        now: u64,
    ) -> Result<()> {
        let mut part = self.part(mac).ok_or(Errno::EINVAL)?.write();
        match part.contains_key(&mac) {
            true if !may_replace => return Err(Errno::EEXIST),
            false if !may_make => return Err(Errno::ENOENT),
            _ => {}
        }
        part.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        part.insert(mac, entry(port, reason, now));
        Ok(())
    }

    /// Forgets an address behind a port. `ENOENT` if it is not known there.
    pub(crate) fn remove(&self, mac: Mac, port: u16) -> Result<()> {
        let mut part = self.part(mac).ok_or(Errno::ENOENT)?.write();
        if part.get(&mac).is_none_or(|entry| entry.port != port) {
            return Err(Errno::ENOENT);
        }
        part.remove(&mac);
        Ok(())
    }

    /// Forgets entries.
    pub(crate) fn forget(&self, is_meant: impl Fn(u16, Reason) -> bool) {
        for part in &self.parts {
            part.write().retain(|_, entry| !is_meant(entry.port, entry.reason));
        }
    }

    /// Clears away what is too old.
    pub(crate) fn expire(&self, now: u64) {
        for part in &self.parts {
            let mut part = part.write();
            part.retain(|_, entry| !self.is_old(entry, now));
            if part.is_empty() {
                part.shrink_to_fit();
            }
        }
    }

    /// Whether anything is there that ages.
    pub(crate) fn has_learned(&self) -> bool {
        let learned = |entry: &Entry| entry.reason == Reason::Learned;
        self.parts.iter().any(|part| part.read().values().any(learned))
    }

    /// All entries that are not too old.
    pub(crate) fn all(&self, now: u64) -> Vec<Known> {
        let mut all = Vec::new();
        for part in &self.parts {
            let part = part.read();
            let fresh = part.iter().filter(|(_, entry)| !self.is_old(entry, now));
            all.extend(fresh.map(|(mac, entry)| Known {
                mac: *mac,
                port: entry.port,
                reason: entry.reason,
                seen_ns: entry.seen_ns.load(Ordering::Relaxed),
                used_ns: entry.used_ns.load(Ordering::Relaxed),
            }));
        }
        all
    }
}

fn entry(port: u16, reason: Reason, now: u64) -> Entry {
    Entry { port, reason, seen_ns: AtomicU64::new(now), used_ns: AtomicU64::new(now) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SECOND: u64 = 1_000_000_000;

    fn mac(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        [2, 0, a, b, c, d]
    }

    #[test]
    fn addresses_are_learned_move_and_age() {
        let fdb = Fdb::new(300 * SECOND);
        fdb.learn(mac(1), 7, 0);
        assert_eq!(fdb.find(mac(1), 299 * SECOND), Place::Behind(7));
        assert_eq!(fdb.find(mac(1), 300 * SECOND), Place::Unknown);
        fdb.learn(mac(1), 7, 300 * SECOND);
        assert_eq!(fdb.find(mac(1), 400 * SECOND), Place::Behind(7));
        fdb.learn(mac(1), 8, 400 * SECOND);
        assert_eq!(fdb.find(mac(1), 400 * SECOND), Place::Behind(8));
        assert_eq!(fdb.find(mac(2), 0), Place::Unknown);
        fdb.expire(500 * SECOND);
        assert!(fdb.has_learned());
        fdb.expire(700 * SECOND);
        assert!(!fdb.has_learned() && fdb.all(0).is_empty());
        fdb.set_ageing_ns(0);
        fdb.learn(mac(1), 7, SECOND);
        assert_eq!(fdb.find(mac(1), SECOND), Place::Unknown);
    }

    #[test]
    fn what_is_said_is_kept() {
        let fdb = Fdb::new(300 * SECOND);
        let local = (3, Reason::Local);
        fdb.set(mac(1), local, (true, false), 0).unwrap();
        assert_eq!(fdb.set(mac(1), local, (true, false), 0), Err(Errno::EEXIST));
        assert_eq!(fdb.set(mac(2), local, (false, true), 0), Err(Errno::ENOENT));
        fdb.learn(mac(1), 9, 0);
        assert_eq!(fdb.find(mac(1), 1000 * SECOND), Place::Here);
        fdb.set(mac(2), (4, Reason::Static), (true, false), 0).unwrap();
        assert_eq!(fdb.find(mac(2), 1000 * SECOND), Place::Behind(4));
        fdb.expire(1000 * SECOND);
        assert_eq!(fdb.all(1000 * SECOND).len(), 2);
        assert_eq!(fdb.remove(mac(2), 5), Err(Errno::ENOENT));
        assert_eq!(fdb.remove(mac(2), 4), Ok(()));
        fdb.forget(|port, _| port == 3);
        assert!(fdb.all(0).is_empty());
    }

    #[test]
    fn a_million_entries_cost_no_more_than_few() {
        let fdb = Fdb::new(300 * SECOND);
        let per_look = |count: u32| {
            let began = Instant::now();
            let turns = 200_000u32;
            for turn in 0..turns {
                let found = fdb.find(mac(turn.wrapping_mul(7919) % count), 1);
                assert_eq!(found, Place::Behind(1));
            }
            began.elapsed() / turns
        };
        (0..1000).for_each(|number| fdb.learn(mac(number), 1, 0));
        let few = per_look(1000);
        (0..1_000_000).for_each(|number| fdb.learn(mac(number), 1, 0));
        let many = per_look(1_000_000);
        // Caches miss more; nothing is walked.
        assert!(many < few * 40 + std::time::Duration::from_micros(2), "{few:?} {many:?}");
        assert_eq!(fdb.all(1).len(), 1_000_000);
        fdb.expire(400 * SECOND);
        assert!(fdb.all(1).is_empty());
    }
}
