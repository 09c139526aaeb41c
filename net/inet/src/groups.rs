//! Multicast groups that sockets of a namespace joined.

use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use netdevice::Ip;
use socket::Common;

use crate::stack::Inet;
use crate::table::Keyed;

static GROUPS: LockClass = LockClass::new("inet.groups", 534);

/// `igmp_max_memberships`.
const MOST: usize = 20;

/// A group, and the interface it is heard on.
type Membership = (Ip, u32);

/// Memberships by socket.
pub(crate) struct Groups(SpinLock<HashMap<u64, Vec<Membership>, Keyed>>);

impl Groups {
    pub(crate) fn new(secret: u64) -> Groups {
        Groups(SpinLock::new(&GROUPS, HashMap::with_hasher(Keyed::new(secret))))
    }
}

/// A socket joins or leaves a group on an interface; 0 is the one the route names.
pub(crate) fn change(
    inet: &Inet,
    common: &Common,
    group: Ip,
    interface: u32,
    is_join: bool,
) -> Result<()> {
    let index = match interface {
        0 => match inet.devices.way(group, None, 0) {
            Ok(way) => way.interface.index,
            Err(_) => return Err(if is_join { Errno::ENODEV } else { Errno::EADDRNOTAVAIL }),
        },
        index => index,
    };
    let mut groups = inet.groups.0.lock();
    let own = groups.entry(common.ino).or_default();
    let at = own.iter().position(|member| *member == (group, index));
    let result = match (at, is_join) {
        (Some(_), true) => Err(Errno::EADDRINUSE),
        (None, true) if own.len() >= MOST => Err(Errno::ENOBUFS),
        (None, true) => {
            own.push((group, index));
            Ok(())
        }
        (Some(at), false) => {
            own.swap_remove(at);
            Ok(())
        }
        (None, false) => Err(Errno::EADDRNOTAVAIL),
    };
    if own.is_empty() {
        groups.remove(&common.ino);
    }
    result
}

/// Whether a socket is in a group on an interface; `None` if it is in none at all.
pub(crate) fn is_member(inet: &Inet, ino: u64, group: Ip, interface: u32) -> Option<bool> {
    let groups = inet.groups.0.lock();
    Some(groups.get(&ino)?.contains(&(group, interface)))
}

/// A socket is gone.
pub(crate) fn leave_all(inet: &Inet, ino: u64) {
    let gone = inet.groups.0.lock().remove(&ino);
    drop(gone);
}
