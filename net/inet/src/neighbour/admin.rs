//! What administrators say of neighbours.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use netdevice::{Interface, Ip};

use crate::stack::Inet;

use super::{
    FAILED, INCOMPLETE, IPV4, IPV6, Known, MOST, Neighbour, Neighbours, REACHABLE, REACHABLE_NS,
    STALE, transmit,
};

/// `NUD_*`: asked soon, being asked, needs no asking, for ever.
const DELAY: u16 = 8;
const PROBE: u16 = 16;
const NOARP: u16 = 64;
const PERMANENT: u16 = 128;

/// What is said of a neighbour.
pub(crate) struct Wanted {
    /// Its address.
    pub(crate) mac: Option<[u8; 6]>,
    /// `NUD_*`.
    pub(crate) state: u16,
    /// `NLM_F_CREATE`.
    pub(crate) may_make: bool,
    /// `NLM_F_EXCL`.
    pub(crate) must_make: bool,
    /// `NLM_F_REPLACE`.
    pub(crate) may_replace: bool,
}

fn known((index, ip): (u32, Ip), neighbour: &Neighbour, now: u64) -> Known {
    Known { index, ip, mac: neighbour.mac, state: neighbour.state(now) }
}

impl Neighbours {
    /// Notes what is said; frames that wait for the address go out.
    pub(crate) fn set(
        &self,
        inet: &Inet,
        interface: &Arc<Interface>,
        ip: Ip,
        wanted: &Wanted,
    ) -> Result<Known> {
        let now = arch::time::now_ns();
        let key = (interface.index, ip);
        let (told, mac, waiting) = {
            let table = &mut self.0.lock().table;
            let old = table.get(&key).and_then(|neighbour| neighbour.mac);
            match table.contains_key(&key) {
                true if wanted.must_make => return Err(Errno::EEXIST),
                false if !wanted.may_make => return Err(Errno::ENOENT),
                false if table.len() >= MOST => return Err(Errno::ENOBUFS),
                _ => {}
            }
            let kept = old.filter(|_| !wanted.may_replace);
            let mac = kept.or(wanted.mac).or(old);
            let is_valid = REACHABLE | STALE | DELAY | PROBE | NOARP | PERMANENT;
            if wanted.state & is_valid != 0 && mac.is_none() {
                return Err(Errno::EINVAL);
            }
            let neighbour = table.entry(key).or_default();
            neighbour.mac = mac.filter(|_| wanted.state & is_valid != 0);
            neighbour.fixed = match wanted.state {
                PERMANENT | NOARP => Some(wanted.state),
                _ => None,
            };
            let is_fresh = wanted.state & (REACHABLE | INCOMPLETE) != 0;
            neighbour.fresh_until = if is_fresh { now + REACHABLE_NS } else { now };
            neighbour.asked = 0;
            let waiting = match neighbour.mac {
                Some(_) => core::mem::take(&mut neighbour.waiting),
                None => Default::default(),
            };
            (known(key, neighbour, now), neighbour.mac, waiting)
        };
        let protocol = if ip.is_v4() { IPV4 } else { IPV6 };
        for frame in waiting {
            if let Some(mac) = mac {
                // What a full queue drops is sent again by who cares.
                let _ = transmit(inet, interface, mac, protocol, frame);
            }
        }
        Ok(told)
    }

    /// Forgets a neighbour; `ENOENT` if nobody knows it.
    pub(crate) fn remove(&self, index: u32, ip: Ip) -> Result<Known> {
        let gone = self.0.lock().table.remove(&(index, ip));
        // As it is seen when it is gone: without an address.
        gone.map(|_| Known { index, ip, mac: None, state: FAILED }).ok_or(Errno::ENOENT)
    }

    /// Forgets all neighbours of an interface; those.
    pub(crate) fn forget(&self, index: u32) -> Vec<Known> {
        let now = arch::time::now_ns();
        let mut gone = Vec::new();
        self.0.lock().table.retain(|key, neighbour| {
            let is_meant = key.0 == index;
            if is_meant {
                gone.push((known(*key, neighbour, now), core::mem::take(&mut neighbour.waiting)));
            }
            !is_meant
        });
        gone.into_iter().map(|(known, _)| known).collect()
    }
}
