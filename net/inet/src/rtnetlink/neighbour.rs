//! `RTM_NEWNEIGH` and `RTM_DELNEIGH`.

use alloc::sync::Arc;

use abi::{Errno, Result};
use netdevice::{Interface, Ip};
use netlink::route::{Change, Event, notify};
use netlink::wire::flag;
use socket::NetNamespace;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Attributes, header, told_neighbour, version};
use crate::neighbour::admin::Wanted;
use crate::stack::Inet;

/// `struct ndmsg`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct NdMsg {
    family: u8,
    pad: [u8; 3],
    pub(super) index: i32,
    pub(super) state: u16,
    pub(super) flags: u8,
    kind: u8,
}

const SIZE: usize = size_of::<NdMsg>();
/// `NDA_*`.
const ADDRESS: u16 = 1;
const HARDWARE: u16 = 2;
/// `NTF_PROXY`.
const PROXY: u8 = 8;

fn read<'a>(
    inet: &Inet,
    change: &Change<'a>,
) -> Result<(NdMsg, Attributes<'a>, Ip, Arc<Interface>)> {
    let is_v4 = version(change)?;
    let header: NdMsg = header(change)?;
    let attributes = Attributes::of(change.payload, SIZE);
    let ip = attributes.ip(ADDRESS, is_v4)?.ok_or(Errno::EINVAL)?;
    if header.index == 0 {
        return Err(Errno::EINVAL);
    }
    let interface = inet.devices.by_index(header.index as u32).ok_or(Errno::ENODEV)?;
    // Answering for others is not there.
    if header.flags & PROXY != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok((header, attributes, ip, interface))
}

/// Notes a neighbour's address.
pub(super) fn new(namespace: &NetNamespace, inet: &Inet, change: &Change<'_>) -> Result<()> {
    let (header, attributes, ip, interface) = read(inet, change)?;
    let wanted = Wanted {
        mac: attributes.mac(HARDWARE)?,
        state: header.state,
        may_make: change.flags & flag::CREATE != 0,
        must_make: change.flags & flag::EXCL != 0,
        may_replace: change.flags & flag::REPLACE != 0,
    };
    let known = inet.wire.neighbours.set(inet, &interface, ip, &wanted)?;
    notify(namespace, Event::Neighbour(&told_neighbour(known)));
    Ok(())
}

/// Forgets a neighbour.
pub(super) fn delete(namespace: &NetNamespace, inet: &Inet, change: &Change<'_>) -> Result<()> {
    let (_, _, ip, interface) = read(inet, change)?;
    let gone = inet.wire.neighbours.remove(interface.index, ip)?;
    // First its address is no more known, then it is gone, as `ip monitor` shows.
    let gone = told_neighbour(gone);
    notify(namespace, Event::Neighbour(&gone));
    notify(namespace, Event::NoNeighbour(&gone));
    Ok(())
}
