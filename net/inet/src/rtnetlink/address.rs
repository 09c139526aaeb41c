//! `RTM_NEWADDR` and `RTM_DELADDR` (rtnetlink(7), ip-address(8)).
//!
//! The layout is that of `linux/if_addr.h`. Which request is refused with which error is what Linux was seen to
//! do with `ip address` and with raw messages: the cases `rtnl-addresses`, `rtnl-address-errors`,
//! `rtnl-address-messages`, `rtnl-address-lifetimes` and `rtnl-addresses6` of the comparison.

use alloc::string::String;
use alloc::sync::{Arc, Weak};

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use netdevice::{Address, Devices, Interface, Ip, Lifetime, NAME_MAX};
use netlink::route::Change;
use netlink::wire::flag;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Attributes, HOST, LINK, header, version};
use crate::stack::Inet;
use crate::timers::{self, Expire};

static ENDS: LockClass = LockClass::new("inet.ends", 535);

/// `struct ifaddrmsg`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IfAddr {
    family: u8,
    prefix: u8,
    flags: u8,
    scope: u8,
    index: u32,
}

/// `IFA_*`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LABEL: u16 = 3;
const BROADCAST: u16 = 4;
const CACHE_INFO: u16 = 6;
const FLAGS: u16 = 8;
/// `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`, `IFA_F_PERMANENT`: for the kernel to say.
const DEPRECATED: u32 = 0x20;
const TENTATIVE: u32 = 0x40;
const PERMANENT: u32 = 0x80;

/// A request as it is read.
struct Asked<'a> {
    is_v4: bool,
    header: IfAddr,
    attributes: Attributes<'a>,
    interface: Arc<Interface>,
}

impl<'a> Asked<'a> {
    fn read(devices: &Devices, change: &Change<'a>) -> Result<Asked<'a>> {
        let is_v4 = version(change)?;
        let header: IfAddr = header(change)?;
        let attributes = Attributes::of(change.payload, size_of::<IfAddr>());
        attributes.check_length(LABEL, NAME_MAX)?;
        // What is missing is told before an interface that is not there.
        let named = attributes.ip(LOCAL, is_v4)?;
        let is_named = named.is_some() || (!is_v4 && attributes.ip(ADDRESS, is_v4)?.is_some());
        let is_new = change.kind == super::message::NEW_ADDRESS;
        let longest = if is_v4 { 32 } else { 128 };
        if (is_new || !is_v4) && (!is_named || header.prefix > longest) {
            return Err(Errno::EINVAL);
        }
        let interface = devices.by_index(header.index).ok_or(Errno::ENODEV)?;
        Ok(Asked { is_v4, header, attributes, interface })
    }

    /// The address of this host, and the other end's if that is another. Of version 6 one alone is this host's.
    fn addresses(&self) -> Result<(Option<Ip>, Option<Ip>)> {
        let local = self.attributes.ip(LOCAL, self.is_v4)?;
        let address = self.attributes.ip(ADDRESS, self.is_v4)?;
        match (local, address) {
            (None, address) if !self.is_v4 => Ok((address, None)),
            (local, address) => Ok((local, address)),
        }
    }

    fn label(&self) -> Result<Option<&'a str>> {
        Ok(self.attributes.text(LABEL)?.filter(|_| self.is_v4))
    }

    /// `struct ifa_cacheinfo`: seconds it is preferred and valid.
    fn lifetime(&self) -> Result<Lifetime> {
        let since_ns = arch::time::now_ns();
        let for_ever = Lifetime { since_ns, preferred_s: u32::MAX, valid_s: u32::MAX };
        let Some(info) = self.attributes.get(CACHE_INFO) else { return Ok(for_ever) };
        let (words, _) = <[u32; 4]>::read_from_prefix(info).map_err(|_| Errno::EINVAL)?;
        let [preferred_s, valid_s, ..] = words;
        if valid_s == 0 || preferred_s > valid_s {
            return Err(Errno::EINVAL);
        }
        Ok(Lifetime { since_ns, preferred_s, valid_s })
    }

    /// The address that is to be there.
    fn wanted(&self) -> Result<Address> {
        let (local, address) = self.addresses()?;
        let ip = local.ok_or(Errno::EINVAL)?;
        let lifetime = self.lifetime()?;
        let flags = self.attributes.number(FLAGS)?.unwrap_or(u32::from(self.header.flags));
        let mut flags = flags & !(DEPRECATED | TENTATIVE | PERMANENT);
        let Lifetime { preferred_s, valid_s, .. } = lifetime;
        if valid_s == u32::MAX {
            flags |= PERMANENT;
        }
        // Of version 4, what is valid for ever is preferred for ever or never.
        let is_limited = valid_s != u32::MAX || (!self.is_v4 && preferred_s != u32::MAX);
        if !is_limited && preferred_s == 0 {
            flags |= DEPRECATED;
        }
        let label = match self.label()? {
            Some(label) => String::from(label),
            None if self.is_v4 => self.interface.name(),
            None => String::new(),
        };
        Ok(Address {
            ip,
            prefix: self.header.prefix,
            broadcast: if self.is_v4 { self.attributes.ip(BROADCAST, true)? } else { None },
            peer: address.filter(|other| *other != ip),
            scope: if self.is_v4 { self.header.scope } else { scope6(ip) },
            flags,
            label,
            lifetime: is_limited.then_some(lifetime),
        })
    }
}

/// RFC 4007 §6: the scope of an address of version 6, in the numbers of `RT_SCOPE_*`.
fn scope6(ip: Ip) -> u8 {
    if ip.is_loopback() {
        HOST
    } else if ip.is_link_local6() {
        LINK
    } else {
        0
    }
}

/// Gives an interface an address, or changes how long one lasts.
pub(super) fn new(inet: &Arc<Inet>, change: &Change<'_>) -> Result<()> {
    let asked = Asked::read(&inet.devices, change)?;
    let wanted = asked.wanted()?;
    let interface = &asked.interface;
    if asked.is_v4 && wanted.ip.is_any() {
        // Linux acknowledges it and does nothing.
        return Ok(());
    }
    let is_foreign = wanted.ip.is_loopback() && !interface.is_loopback();
    if !asked.is_v4 && (wanted.ip.is_any() || wanted.ip.is_multicast() || is_foreign) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let lifetime = wanted.lifetime;
    let added = match inet.devices.add_address(interface, wanted.clone()) {
        // Who asks for a new one, or not for another in its place, hears that it is there.
        Err(Errno::EEXIST) if change.flags & (flag::EXCL | flag::REPLACE) == flag::REPLACE => {
            inet.devices.change_address(interface, &wanted, |own| {
                own.lifetime = lifetime;
                let told = PERMANENT | DEPRECATED;
                own.flags = own.flags & !told | wanted.flags & told;
            })
        }
        result => result,
    };
    added?;
    inet.wire.ends.set(inet, interface.index, &wanted);
    Ok(())
}

/// Takes an address away. Of version 4 the first that is as the request says: its address, its label, and the
/// prefix with a network that `IFA_ADDRESS` is in, each if it is told. Of version 6 the one of this prefix.
pub(super) fn delete(devices: &Devices, change: &Change<'_>) -> Result<()> {
    let asked = Asked::read(devices, change)?;
    let (local, address) = asked.addresses()?;
    let label = asked.label()?;
    let prefix = asked.header.prefix;
    devices.remove_meant_address(&asked.interface, |own| {
        if own.ip.is_v4() != asked.is_v4 || local.is_some_and(|local| local != own.ip) {
            return false;
        }
        if !asked.is_v4 {
            return own.prefix == prefix;
        }
        let is_there = |other: Ip| own.prefix == prefix && other.masked(prefix) == own.network();
        label.is_none_or(|label| label == own.label) && address.is_none_or(is_there)
    })
}

/// What ends an address that does not last.
struct End {
    devices: Weak<Devices>,
    index: u32,
    ip: Ip,
    prefix: u8,
}

impl Expire for End {
    fn expire(&self, now_ns: u64) -> Option<u64> {
        let devices = self.devices.upgrade()?;
        let interface = devices.by_index(self.index)?;
        let is_meant = |own: &Address| own.ip == self.ip && own.prefix == self.prefix;
        let end_ns = interface.find_address(is_meant)?.lifetime?.end_ns();
        if end_ns > now_ns {
            return Some(end_ns);
        }
        let _ = devices.remove_address(&interface, self.ip, Some(self.prefix));
        None
    }
}

/// The ends of the addresses that do not last, which timers hold weakly.
pub(crate) struct Ends(SpinLock<HashMap<(u32, Ip, u8), Arc<End>>>);

impl Default for Ends {
    fn default() -> Self {
        Ends(SpinLock::new(&ENDS, HashMap::new()))
    }
}

impl Ends {
    /// An address came or changed: its end is looked after, if it has one.
    fn set(&self, inet: &Inet, index: u32, address: &Address) {
        let end_ns = address.lifetime.map_or(u64::MAX, |lifetime| lifetime.end_ns());
        if end_ns == u64::MAX {
            return self.forget(index, address);
        }
        let (ip, prefix) = (address.ip, address.prefix);
        let devices = Arc::downgrade(&inet.devices);
        let end = Arc::new(End { devices, index, ip, prefix });
        let old = self.0.lock().insert((index, ip, prefix), end.clone());
        drop(old);
        timers::arm(&(end as Arc<dyn Expire>), end_ns);
    }

    /// An address went.
    pub(super) fn forget(&self, index: u32, address: &Address) {
        let old = self.0.lock().remove(&(index, address.ip, address.prefix));
        drop(old);
    }
}
