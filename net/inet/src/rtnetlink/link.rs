//! `RTM_NEWLINK`, `RTM_SETLINK` and `RTM_DELLINK`: interfaces that programs make, change, move to other
//! namespaces and take away.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use netdevice::{Devices, Dummy, Interface, NetDevice, flag, veth_pair};
use netlink::route::Change;
use netlink::wire::flag as request;
use socket::{NetNamespace, identity};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::Attributes;

/// `struct ifinfomsg`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IfInfo {
    family: u8,
    pad: u8,
    hardware: u16,
    index: i32,
    flags: u32,
    change: u32,
}

const SIZE: usize = size_of::<IfInfo>();
/// `IFLA_*`.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const QUEUE_LEN: u16 = 13;
const INFO: u16 = 18;
const NAMESPACE_PID: u16 = 19;
const ALIAS: u16 = 20;
const NAMESPACE_FD: u16 = 28;
const PROPERTIES: u16 = 52;
const OTHER_NAME: u16 = 53;
/// `IFLA_INFO_KIND`, `IFLA_INFO_DATA`; `VETH_INFO_PEER`.
const KIND: u16 = 1;
const DATA: u16 = 2;
/// `IFLA_INFO_SLAVE_DATA`.
const SLAVE_DATA: u16 = 5;
const PEER: u16 = 1;
/// `ALTIFNAMSIZ`.
const OTHER_NAME_MAX: usize = 128;
/// `IFALIASZ`.
const ALIAS_MAX: usize = 256;

/// What is said of one interface.
struct Wanted<'a> {
    header: IfInfo,
    attributes: Attributes<'a>,
}

fn read<'a>(payload: &'a [u8]) -> Result<Wanted<'a>> {
    let (header, _) = IfInfo::read_from_prefix(payload).map_err(|_| Errno::EINVAL)?;
    Ok(Wanted { header, attributes: Attributes::of(payload, SIZE) })
}

impl<'a> Wanted<'a> {
    fn name(&self) -> Result<Option<&'a str>> {
        Ok(self.attributes.text(NAME)?.filter(|name| !name.is_empty()))
    }

    /// Whether an interface is meant at all.
    fn names_any(&self) -> bool {
        let has = |kind: u16| self.attributes.get(kind).is_some();
        self.header.index != 0 || has(NAME) || has(OTHER_NAME)
    }

    /// The interface that is meant, if it is there.
    fn find(&self, devices: &Devices) -> Result<Option<Arc<Interface>>> {
        if self.header.index < 0 {
            return Err(Errno::EINVAL);
        }
        if self.header.index > 0 {
            return Ok(devices.by_index(self.header.index as u32));
        }
        let name = self.name()?.or(self.attributes.text(OTHER_NAME)?);
        Ok(name.and_then(|name| devices.by_name(name)))
    }

    /// The namespace that it is to be in, if one is named.
    fn namespace(&self) -> Result<Option<Arc<NetNamespace>>> {
        let found = if let Some(pid) = self.attributes.number(NAMESPACE_PID)? {
            identity::namespace_of(pid as i32)?
        } else if let Some(fd) = self.attributes.number(NAMESPACE_FD)? {
            identity::namespace_at(fd as i32)?
        } else {
            return Ok(None);
        };
        let (_, creds) = identity::current().ok_or(Errno::EPERM)?;
        if creds.ns_capable(&found.user_ns, vfs::Cap::NET_ADMIN) {
            Ok(Some(found))
        } else {
            Err(Errno::EPERM)
        }
    }

    /// Sets what an interface has beside its name and namespace.
    fn apply(&self, interface: &Interface) -> Result<bool> {
        let mut is_changed = false;
        if let Some(mac) = self.attributes.mac(ADDRESS)? {
            interface.set_mac(mac)?;
            is_changed = true;
        }
        if let Some(mtu) = self.attributes.number(MTU)? {
            interface.set_mtu(mtu)?;
            is_changed = true;
        }
        if let Some(len) = self.attributes.number(QUEUE_LEN)? {
            interface.set_tx_queue_len(len);
            is_changed = true;
        }
        if let Some(alias) = self.attributes.text(ALIAS)? {
            if alias.len() >= ALIAS_MAX {
                return Err(Errno::EINVAL);
            }
            interface.set_alias(alias);
            is_changed = true;
        }
        Ok(is_changed)
    }

    fn apply_flags(&self, devices: &Devices, interface: &Arc<Interface>) {
        let changeable = flag::UP | flag::PROMISC | flag::ALLMULTI | flag::MULTICAST | flag::NOARP;
        let (flags, mask) = (self.header.flags, self.header.change);
        // Who gives flags and no mask means all of them.
        let mask = if mask == 0 && flags != 0 { u32::MAX } else { mask } & changeable;
        if mask != 0 {
            devices.set_flags(interface, flags & mask, !flags & mask);
        }
    }
}

/// Changes an interface, or makes one.
pub(super) fn new(
    namespace: &Arc<NetNamespace>,
    devices: &Arc<Devices>,
    change: &Change<'_>,
) -> Result<()> {
    let wanted = read(change.payload)?;
    if let Some(interface) = wanted.find(devices)? {
        if change.flags & request::EXCL != 0 {
            return Err(Errno::EEXIST);
        }
        if change.flags & request::REPLACE != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        return change_one(devices, &interface, &wanted);
    }
    if change.flags & request::CREATE == 0 {
        return Err(Errno::ENODEV);
    }
    let info = Attributes::of(wanted.attributes.get(INFO).ok_or(Errno::EOPNOTSUPP)?, 0);
    let home = wanted.namespace()?.unwrap_or_else(|| namespace.clone());
    match info.text(KIND)? {
        Some("dummy") => {
            let made = Made { mac: mac(&wanted)?, pattern: "dummy%d", home };
            made.add(Dummy::new(made.mac), &wanted).map(drop)
        }
        Some("veth") => new_pair(namespace, &wanted, &info, home),
        Some(name) => {
            let kind = netdevice::kind(name).ok_or(Errno::EOPNOTSUPP)?;
            let made = Made { mac: mac(&wanted)?, pattern: kind.pattern(), home };
            made.add(kind.make(made.mac, &details(&info, DATA))?, &wanted).map(drop)
        }
        None => Err(Errno::EOPNOTSUPP),
    }
}

/// What an attribute has in it: attributes of a kind of interface.
fn details<'a>(info: &Attributes<'a>, which: u16) -> Vec<(u16, &'a [u8])> {
    info.get(which).map_or_else(Vec::new, |data| netlink::wire::attributes(data, 0).collect())
}

/// An interface that is being made.
struct Made {
    mac: [u8; 6],
    pattern: &'static str,
    home: Arc<NetNamespace>,
}

impl Made {
    fn add(&self, device: Arc<dyn NetDevice>, wanted: &Wanted<'_>) -> Result<Arc<Interface>> {
        let devices = self.home.part_arc::<Devices>().ok_or(Errno::ENOMEM)?;
        // What listens there hears of it.
        crate::Inet::of(&self.home).ok_or(Errno::ENOMEM)?;
        let name = wanted.name()?.unwrap_or(self.pattern);
        let mut applied = Ok(false);
        let interface =
            devices.add_with(name, wanted.header.index.max(0) as u32, device, |interface| {
                applied = wanted.apply(interface);
            })?;
        if let Err(error) = applied {
            let _ = devices.remove(interface.index);
            return Err(error);
        }
        wanted.apply_flags(&devices, &interface);
        if let Some(master) = wanted.attributes.number(MASTER)?.filter(|master| *master != 0) {
            set_master(&devices, &interface, master)?;
            devices.touch(&interface);
        }
        Ok(interface)
    }
}

/// The hardware address that is asked for, or one that nobody has (RFC 7042 §2.1).
fn mac(wanted: &Wanted<'_>) -> Result<[u8; 6]> {
    if let Some(mac) = wanted.attributes.mac(ADDRESS)? {
        let is_bad = mac[0] & 1 != 0 || mac == [0; 6];
        return if is_bad { Err(Errno::EADDRNOTAVAIL) } else { Ok(mac) };
    }
    let [a, b, c, d, e, f, ..] = crate::random().to_ne_bytes();
    Ok([a & !1 | 2, b, c, d, e, f])
}

/// A pair: the other end first, in a namespace of its own if it says so.
fn new_pair(
    namespace: &Arc<NetNamespace>,
    wanted: &Wanted<'_>,
    info: &Attributes<'_>,
    home: Arc<NetNamespace>,
) -> Result<()> {
    let data = info.get(DATA).map(|data| Attributes::of(data, 0));
    let peer = match data.as_ref().and_then(|data| data.get(PEER)) {
        Some(peer) => read(peer)?,
        None => read(&[0; SIZE])?,
    };
    let peer_home = peer.namespace()?.unwrap_or_else(|| namespace.clone());
    let own = Made { mac: mac(wanted)?, pattern: "veth%d", home };
    let other = Made { mac: mac(&peer)?, pattern: "veth%d", home: peer_home };
    let [own_device, other_device] = veth_pair([own.mac, other.mac]);
    other.add(other_device, &peer)?;
    let made = own.add(own_device.clone(), wanted);
    if made.is_err() {
        // Takes the other end away.
        own_device.removed();
    }
    made.map(drop)
}

/// Changes an interface that there is.
pub(super) fn set(devices: &Arc<Devices>, change: &Change<'_>) -> Result<()> {
    let wanted = read(change.payload)?;
    let interface = wanted.find(devices)?.ok_or(Errno::ENODEV)?;
    change_one(devices, &interface, &wanted)
}

fn change_one(
    devices: &Arc<Devices>,
    interface: &Arc<Interface>,
    wanted: &Wanted<'_>,
) -> Result<()> {
    let (mut devices, mut interface) = (devices.clone(), interface.clone());
    // The name is what it is found by, unless a number says which.
    let name = wanted.name()?.filter(|_| wanted.header.index > 0);
    if let Some(target) = wanted.namespace()? {
        let to = target.part_arc::<Devices>().ok_or(Errno::ENOMEM)?;
        crate::Inet::of(&target).ok_or(Errno::ENOMEM)?;
        if !Arc::ptr_eq(&devices, &to) {
            interface = devices.move_to(&interface, &to, name)?;
            devices = to;
        }
    }
    let mut is_changed = wanted.apply(&interface)?;
    if let Some(name) = name {
        devices.rename(&interface, name)?;
    }
    is_changed |= change_kind(&interface, wanted)?;
    if let Some(master) = wanted.attributes.number(MASTER)? {
        set_master(&devices, &interface, master)?;
        is_changed = true;
    }
    if is_changed {
        devices.touch(&interface);
    }
    wanted.apply_flags(&devices, &interface);
    Ok(())
}

/// What is told of its kind, or of the kind of port it is.
fn change_kind(interface: &Interface, wanted: &Wanted<'_>) -> Result<bool> {
    let Some(info) = wanted.attributes.get(INFO) else { return Ok(false) };
    let info = Attributes::of(info, 0);
    if info.get(DATA).is_some() {
        let name = info.text(KIND)?;
        let own = interface.device.as_ref();
        let own = own.filter(|device| name.is_some() && device.kind() == name);
        own.ok_or(Errno::EOPNOTSUPP)?.set_details(&details(&info, DATA))?;
    }
    // What kind of port it is needs no saying: `ip link set … type bridge_slave` says it as the interface's kind.
    if info.get(SLAVE_DATA).is_some() {
        let upper = interface.upper().ok_or(Errno::EOPNOTSUPP)?;
        upper.set_details(&details(&info, SLAVE_DATA))?;
    }
    Ok(true)
}

/// Makes an interface a port of another one; of none if the number is 0.
fn set_master(devices: &Devices, interface: &Arc<Interface>, master: u32) -> Result<()> {
    let old = interface.upper().and_then(|upper| upper.master());
    if old.as_ref().is_some_and(|old| old.index == master) {
        return Ok(());
    }
    if let Some(device) = old.as_ref().and_then(|old| old.device.as_ref()) {
        device.give_up_port(interface)?;
    }
    if master == 0 {
        return Ok(());
    }
    let master = devices.by_index(master).ok_or(Errno::EINVAL)?;
    master.device.as_ref().ok_or(Errno::EOPNOTSUPP)?.take_port(interface)
}

/// `RTM_NEWLINKPROP`, `RTM_DELLINKPROP`: names beside the own one.
pub(super) fn properties(
    devices: &Devices,
    change: &Change<'_>,
    act: impl Fn(&Devices, &Arc<Interface>, &str) -> Result<()>,
) -> Result<()> {
    let wanted = read(change.payload)?;
    if !wanted.names_any() {
        return Err(Errno::EINVAL);
    }
    let interface = wanted.find(devices)?.ok_or(Errno::ENODEV)?;
    let Some(list) = wanted.attributes.get(PROPERTIES) else { return Ok(()) };
    let names = netlink::wire::attributes(list, 0).filter(|(kind, _)| *kind == OTHER_NAME);
    for (_, name) in names {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if name.len() >= OTHER_NAME_MAX {
            return Err(Errno::ERANGE);
        }
        act(devices, &interface, core::str::from_utf8(name).map_err(|_| Errno::EINVAL)?)?;
    }
    devices.touch(&interface);
    Ok(())
}

/// The number of the interface that a message of `AF_BRIDGE` is about, and what it says.
pub(super) fn of_port<'a>(change: &Change<'a>) -> Result<(u32, Attributes<'a>)> {
    let Wanted { header, attributes } = read(change.payload)?;
    Ok((header.index as u32, attributes))
}

/// Takes an interface away that a program made; the other end of a pair goes with it.
pub(super) fn delete(devices: &Devices, change: &Change<'_>) -> Result<()> {
    let wanted = read(change.payload)?;
    if !wanted.names_any() {
        return Err(Errno::EINVAL);
    }
    let interface = wanted.find(devices)?.ok_or(Errno::ENODEV)?;
    let device = interface.device.clone().filter(|device| device.is_virtual());
    let device = device.ok_or(Errno::EOPNOTSUPP)?;
    devices.remove(interface.index)?;
    device.removed();
    Ok(())
}
