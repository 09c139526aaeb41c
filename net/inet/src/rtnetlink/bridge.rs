//! Messages of the family `AF_BRIDGE`: what bridges know, and flags of their ports (bridge(8)).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use netdevice::{Devices, Interface};
use netlink::route::{Change, Forwarded};

use super::neighbour::NdMsg;
use super::{Attributes, header, link};

const NDMSG: usize = size_of::<NdMsg>();
/// `AF_BRIDGE`.
pub(super) const FAMILY: u8 = 7;
/// `NDA_LLADDR`, `NDA_VLAN`.
const HARDWARE: u16 = 2;
const VLAN: u16 = 5;
/// `NTF_SELF`, `NTF_MASTER`.
const TO_SELF: u8 = 2;
const TO_MASTER: u8 = 4;
/// `NUD_REACHABLE`, `NUD_STALE`, `NUD_NOARP`, `NUD_PERMANENT`.
const REACHABLE: u16 = 2;
const STALE: u16 = 4;
const NOARP: u16 = 64;
const PERMANENT: u16 = 128;
/// `IFLA_PROTINFO`.
const PROTINFO: u16 = 12;

/// What the bridges of a namespace know.
pub(super) fn forwarding(devices: &Devices) -> Vec<Forwarded> {
    let now = arch::time::now_ns();
    let age = |at: u64| u32::try_from(now.saturating_sub(at) / 1_000_000_000).unwrap_or(u32::MAX);
    let mut all = Vec::new();
    for interface in devices.all() {
        let device = interface.device.as_ref();
        let Some(known) = device.and_then(|device| device.forwarding()) else { continue };
        all.extend(known.entries().into_iter().map(|entry| Forwarded {
            index: entry.interface,
            master: interface.index,
            hardware: entry.mac,
            state: match (entry.is_local, entry.is_static) {
                (true, _) => PERMANENT,
                (false, true) => NOARP,
                (false, false) => REACHABLE,
            },
            ages_s: (age(entry.seen_ns), age(entry.used_ns)),
        }));
    }
    all
}

/// The interface that is meant, and the one whose data base is: the bridge's itself, or that of a port.
fn find(devices: &Devices, message: &NdMsg) -> Result<(Arc<Interface>, Arc<Interface>)> {
    let interface = devices.by_index(message.index as u32).ok_or(Errno::ENODEV)?;
    if interface.is_loopback() {
        return Err(Errno::EINVAL);
    }
    let upper = interface.upper().and_then(|upper| upper.master());
    let master = match (message.flags & TO_MASTER != 0, upper) {
        (true, Some(master)) => master,
        (true, None) => return Err(Errno::EOPNOTSUPP),
        (false, _) => interface.clone(),
    };
    Ok((interface, master))
}

fn address(attributes: &Attributes<'_>) -> Result<[u8; 6]> {
    let given = attributes.get(HARDWARE).filter(|value| value.len() == 6);
    let mac = given.and_then(|value| value.try_into().ok()).ok_or(Errno::EINVAL)?;
    // There are no parts of links.
    if attributes.get(VLAN).is_some() || mac == [0; 6] {
        return Err(Errno::EINVAL);
    }
    Ok(mac)
}

/// `RTM_NEWNEIGH`.
pub(super) fn new(devices: &Devices, change: &Change<'_>) -> Result<()> {
    use netlink::wire::flag;
    let message: NdMsg = header(change)?;
    let mac = address(&Attributes::of(change.payload, NDMSG))?;
    let (interface, master) = find(devices, &message)?;
    let known = master.device.as_ref().and_then(|device| device.forwarding());
    let entry = netdevice::Forwarded {
        mac,
        interface: interface.index,
        is_local: message.state & PERMANENT != 0 || message.flags & TO_SELF != 0,
        is_static: message.state & NOARP != 0,
        seen_ns: 0,
        used_ns: 0,
    };
    if message.state & (PERMANENT | NOARP | REACHABLE | STALE) == 0 {
        return Err(Errno::EINVAL);
    }
    let how = (change.flags & flag::CREATE != 0, change.flags & flag::EXCL == 0);
    known.ok_or(Errno::EOPNOTSUPP)?.add(&interface, &entry, how)
}

/// `RTM_DELNEIGH`.
pub(super) fn delete(devices: &Devices, change: &Change<'_>) -> Result<()> {
    let message: NdMsg = header(change)?;
    let mac = address(&Attributes::of(change.payload, NDMSG))?;
    let (interface, master) = find(devices, &message)?;
    let known = master.device.as_ref().and_then(|device| device.forwarding());
    known.ok_or(Errno::EOPNOTSUPP)?.remove(&interface, mac)
}

/// `RTM_SETLINK`: what is told of a port.
pub(super) fn set(devices: &Devices, change: &Change<'_>) -> Result<()> {
    let (index, attributes) = link::of_port(change)?;
    let interface = devices.by_index(index).ok_or(Errno::ENODEV)?;
    let upper = interface.upper().ok_or(Errno::EOPNOTSUPP)?;
    let told = attributes.get(PROTINFO).ok_or(Errno::EOPNOTSUPP)?;
    let told: Vec<(u16, &[u8])> = netlink::wire::attributes(told, 0).collect();
    upper.set_details(&told)?;
    devices.touch(&interface);
    Ok(())
}
