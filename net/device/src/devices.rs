//! The interfaces of a namespace, and its routes.

use crate::frame::NetDevice;
use crate::interface::{Address, Interface, flag};
use crate::ip::Ip;
use crate::route::{Route, Table};
use abi::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, RwSpinLock};
use core::sync::atomic::{AtomicU64, Ordering};
use hashbrown::HashMap;

static CLASS: LockClass = LockClass::new("netdevice.devices", 538);
static ROUTES: LockClass = LockClass::new("netdevice.routes", 539);

/// `IFNAMSIZ` with the zero at the end.
pub const NAME_MAX: usize = 16;

#[derive(Default)]
struct Inner {
    interfaces: BTreeMap<u32, Arc<Interface>>,
    last_index: u32,
    /// Addresses of this host, with their interface.
    own: HashMap<Ip, u32>,
    /// Addresses that mean all hosts of a network.
    broadcasts: HashMap<Ip, u32>,
}

impl Inner {
    fn has_name(&self, name: &str) -> bool {
        self.interfaces.values().any(|interface| interface.is_named(name))
    }

    /// The first interface with such an address.
    fn who(&self, fits: impl Fn(&Address) -> bool) -> Option<u32> {
        let has = |interface: &&Arc<Interface>| interface.find_address(&fits).is_some();
        self.interfaces.values().find(has).map(|interface| interface.index)
    }
}

#[derive(Default)]
struct Routes {
    v4: Table,
    v6: Table,
}

impl Routes {
    fn of(&self, ip: Ip) -> &Table {
        if ip.is_v4() { &self.v4 } else { &self.v6 }
    }
    fn of_mut(&mut self, ip: Ip) -> &mut Table {
        if ip.is_v4() { &mut self.v4 } else { &mut self.v6 }
    }
}

/// What changed, for those who listen (`RTMGRP_*`).
#[derive(Clone, Debug)]
pub enum Change {
    /// An interface came or changed.
    Interface(Arc<Interface>),
    /// An interface went.
    Gone(Arc<Interface>),
    /// An address came.
    Address(Arc<Interface>, Address),
    /// An address went.
    NoAddress(Arc<Interface>, Address),
    /// A route came.
    Route(Route),
    /// A route went.
    NoRoute(Route),
}

/// Hears of changes.
pub type Watcher = Arc<dyn Fn(&Change) + Send + Sync>;

/// The interfaces of a namespace.
pub struct Devices {
    inner: RwSpinLock<Inner>,
    routes: RwSpinLock<Routes>,
    generation: AtomicU64,
    watchers: RwSpinLock<Vec<Watcher>>,
}

/// How to reach an address.
#[derive(Clone, Debug)]
pub struct Way {
    /// The interface to send on.
    pub interface: Arc<Interface>,
    /// Whom to send the frame to: a router or the address itself.
    pub next_hop: Ip,
    /// The address to send from, unless the sender has one.
    pub source: Ip,
    /// The longest packet.
    pub mtu: u32,
    /// The packet goes to this host, or to all of a network.
    pub kind: Destination,
}

/// Whom a packet reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// This host.
    Local,
    /// Another one.
    Remote,
    /// All hosts of a network.
    Broadcast,
    /// A group.
    Multicast,
}

impl socket::NamespacePart for Devices {
    const SLOT: socket::Slot = socket::Slot::Devices;
    fn new(_: &alloc::sync::Weak<socket::NetNamespace>) -> Devices {
        Devices::new()
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

impl Devices {
    /// A namespace with its loopback interface, which is down.
    pub fn new() -> Devices {
        let mut inner = Inner { last_index: 1, ..Inner::default() };
        inner.interfaces.insert(1, Arc::new(Interface::loopback(1)));
        Devices {
            inner: RwSpinLock::new(&CLASS, inner),
            routes: RwSpinLock::new(&ROUTES, Routes::default()),
            generation: AtomicU64::new(1),
            watchers: RwSpinLock::new(&CLASS, Vec::new()),
        }
    }

    /// Changes whenever interfaces, addresses or routes do.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds somebody who hears of changes.
    pub fn watch(&self, watcher: Watcher) {
        self.watchers.write().push(watcher);
    }

    fn changed(&self, change: &Change) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let watchers = self.watchers.read().clone();
        watchers.iter().for_each(|watcher| watcher(change));
    }

    /// All interfaces, by number.
    pub fn all(&self) -> Vec<Arc<Interface>> {
        self.inner.read().interfaces.values().cloned().collect()
    }

    /// The interface of a number.
    pub fn by_index(&self, index: u32) -> Option<Arc<Interface>> {
        self.inner.read().interfaces.get(&index).cloned()
    }

    /// The interface of a name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Interface>> {
        let all = self.all();
        all.into_iter().find(|interface| interface.is_named(name))
    }

    /// The loopback interface.
    pub fn loopback(&self) -> Option<Arc<Interface>> {
        self.by_index(1)
    }

    /// Makes an interface for a device; `pattern%d` gets the first number that is free.
    pub fn add(&self, pattern: &str, device: Arc<dyn NetDevice>) -> Result<Arc<Interface>> {
        let interface = {
            // Two that come at once get two names.
            let mut inner = self.inner.write();
            let name = match pattern.strip_suffix("%d") {
                Some(stem) => (0u32..)
                    .map(|number| alloc::format!("{stem}{number}"))
                    .find(|name| !inner.has_name(name))
                    .ok_or(Errno::ENFILE)?,
                None => String::from(pattern),
            };
            check_name(&name)?;
            if inner.has_name(&name) {
                return Err(Errno::EEXIST);
            }
            inner.last_index += 1;
            let index = inner.last_index;
            let interface = Arc::new(Interface::ethernet(index, name, device));
            inner.interfaces.insert(index, interface.clone());
            interface
        };
        self.changed(&Change::Interface(interface.clone()));
        Ok(interface)
    }

    /// Takes an interface away, with its addresses and routes.
    pub fn remove(&self, index: u32) -> Result<()> {
        let interface = self.by_index(index).ok_or(Errno::ENODEV)?;
        self.set_flags(&interface, 0, flag::UP);
        for address in interface.addresses() {
            let _ = self.remove_address(&interface, address.ip, Some(address.prefix));
        }
        self.inner.write().interfaces.remove(&index);
        self.changed(&Change::Gone(interface));
        Ok(())
    }

    /// Gives an interface another name.
    pub fn rename(&self, interface: &Arc<Interface>, name: &str) -> Result<()> {
        check_name(name)?;
        {
            let inner = self.inner.write();
            if inner.has_name(name) {
                return Err(Errno::EEXIST);
            }
            if interface.is_up() {
                return Err(Errno::EBUSY);
            }
            interface.rename(name);
        }
        self.changed(&Change::Interface(interface.clone()));
        Ok(())
    }

    /// Sets and clears flags; with `UP` the routes of its addresses come and go.
    pub fn set_flags(&self, interface: &Arc<Interface>, set: u32, clear: u32) {
        let was_up = interface.is_up();
        interface.change_flags(set, clear);
        let is_up = interface.is_up();
        if is_up && !was_up {
            if interface.is_loopback() {
                let _ = self.add_address(interface, loopback_address(Ip::LOOPBACK4, 8));
                let _ = self.add_address(interface, loopback_address(Ip::LOOPBACK6, 128));
            } else if let Some(address) = link_local(interface) {
                let _ = self.add_address(interface, address);
            }
            for address in interface.addresses() {
                self.add_network_route(interface, &address);
            }
        }
        if was_up && !is_up {
            let meant = |route: &Route| route.interface == interface.index;
            self.remove_routes(true, meant);
            self.remove_routes(false, meant);
            // Addresses of version 6 go with the interface.
            for address in interface.addresses().into_iter().filter(|a| !a.ip.is_v4()) {
                let _ = self.remove_address(interface, address.ip, Some(address.prefix));
            }
        }
        self.changed(&Change::Interface(interface.clone()));
    }

    /// Tells those who listen that something about an interface changed.
    pub fn touch(&self, interface: &Arc<Interface>) {
        self.changed(&Change::Interface(interface.clone()));
    }

    /// Adds an address, and the route to its network while the interface is up.
    pub fn add_address(&self, interface: &Arc<Interface>, address: Address) -> Result<()> {
        let longest = if address.ip.is_v4() { 32 } else { 128 };
        if address.prefix > longest {
            return Err(Errno::EINVAL);
        }
        if !interface.add_address(address.clone()) {
            return Err(Errno::EEXIST);
        }
        {
            let mut inner = self.inner.write();
            inner.own.insert(address.ip, interface.index);
            if let Some(broadcast) = address.broadcast {
                inner.broadcasts.insert(broadcast, interface.index);
            }
        }
        if interface.is_up() {
            self.add_network_route(interface, &address);
        }
        self.changed(&Change::Address(interface.clone(), address));
        Ok(())
    }

    fn add_network_route(&self, interface: &Interface, address: &Address) {
        let whole = if address.ip.is_v4() { 32 } else { 128 };
        // Networks of one host are in the table of own addresses already.
        if interface.is_loopback() || address.prefix >= whole {
            return;
        }
        let mut route = Route::on_link(address.ip, address.prefix, interface.index);
        if address.ip.is_v4() {
            route.source = Some(address.ip);
        } else {
            route.metric = 256;
            route.scope = 0;
        }
        let _ = self.add_route(route);
    }

    /// Takes an address away.
    pub fn remove_address(
        &self,
        interface: &Arc<Interface>,
        ip: Ip,
        prefix: Option<u8>,
    ) -> Result<()> {
        let gone = interface.take_addresses(|address| {
            address.ip == ip && prefix.is_none_or(|p| p == address.prefix)
        });
        if gone.is_empty() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        for address in gone {
            let is_left = interface.find_address(|a| a.ip == ip).is_some();
            {
                let mut inner = self.inner.write();
                // Another address, on this interface or on another one, may say the same.
                let owner = inner.who(|a| a.ip == ip);
                put_or_remove(&mut inner.own, ip, owner);
                if let Some(broadcast) = address.broadcast {
                    let owner = inner.who(|a| a.broadcast == Some(broadcast));
                    put_or_remove(&mut inner.broadcasts, broadcast, owner);
                }
            }
            let network = address.ip.masked(address.prefix);
            self.remove_routes(ip.is_v4(), |route| {
                route.interface == interface.index
                    && (route.source == Some(ip)
                        || (!ip.is_v4()
                            && !is_left
                            && route.protocol == 2
                            && route.to == network
                            && route.prefix == address.prefix))
            });
            self.changed(&Change::NoAddress(interface.clone(), address));
        }
        Ok(())
    }

    /// Adds a route.
    pub fn add_route(&self, route: Route) -> Result<()> {
        if !self.routes.write().of_mut(route.to).add(route) {
            return Err(Errno::EEXIST);
        }
        self.changed(&Change::Route(route));
        Ok(())
    }

    /// Takes routes of one version away; how many.
    pub fn remove_routes(&self, is_v4: bool, is_meant: impl Fn(&Route) -> bool) -> usize {
        let gone = {
            let mut routes = self.routes.write();
            let table = if is_v4 { &mut routes.v4 } else { &mut routes.v6 };
            table.remove(is_meant)
        };
        gone.iter().for_each(|route| self.changed(&Change::NoRoute(*route)));
        gone.len()
    }

    /// The routes of one version.
    pub fn routes(&self, is_v4: bool) -> Vec<Route> {
        let routes = self.routes.read();
        if is_v4 { routes.v4.all() } else { routes.v6.all() }
    }

    /// Whether an address is this host's, the interface being up.
    #[inline]
    pub fn is_local(&self, ip: Ip) -> bool {
        self.local_interface(ip).is_some()
    }

    /// The interface of one of this host's addresses.
    pub fn local_interface(&self, ip: Ip) -> Option<Arc<Interface>> {
        let inner = self.inner.read();
        let index = match inner.own.get(&ip) {
            Some(index) => *index,
            // All of 127.0.0.0/8 is this host's.
            None if ip.is_loopback() && ip.is_v4() => 1,
            None => return None,
        };
        let interface = inner.interfaces.get(&index)?;
        // An address answers as long as it is there; the loopback network needs its interface.
        (interface.is_up() || !ip.is_loopback()).then(|| interface.clone())
    }

    /// Whether an address means all hosts of a network here.
    pub fn is_broadcast(&self, ip: Ip) -> bool {
        ip.is_limited_broadcast() || self.inner.read().broadcasts.contains_key(&ip)
    }

    /// Whether a packet of this address can have been sent by another host.
    pub fn is_elsewhere(&self, ip: Ip) -> bool {
        let inner = self.inner.read();
        !ip.is_limited_broadcast()
            && !inner.own.contains_key(&ip)
            && !inner.broadcasts.contains_key(&ip)
    }

    /// The way to an address, over a certain interface if `bound` is not 0.
    pub fn way(&self, to: Ip, from: Option<Ip>, bound: u32) -> Result<Way> {
        if !to.is_multicast() && self.is_local(to) {
            let lo = self.loopback().ok_or(Errno::ENETUNREACH)?;
            if !lo.is_up() {
                return Err(Errno::ENETUNREACH);
            }
            let mtu = lo.mtu();
            let source = from.unwrap_or(to);
            return Ok(Way { interface: lo, next_hop: to, source, mtu, kind: Destination::Local });
        }
        let broadcast_to = self.inner.read().broadcasts.get(&to).copied();
        let kind = if to.is_multicast() {
            Destination::Multicast
        } else if to.is_limited_broadcast() || broadcast_to.is_some() {
            Destination::Broadcast
        } else {
            Destination::Remote
        };
        let needs_link = to.is_link_local6() || (to.is_multicast() && !to.is_v4());
        let (interface, gateway, source, mtu) = if bound != 0
            && (needs_link || kind != Destination::Remote)
        {
            (self.by_index(bound).ok_or(Errno::ENODEV)?, None, None, 0)
        } else {
            let found = {
                let routes = self.routes.read();
                routes.of(to).find(to, |route| bound == 0 || route.interface == bound)
            };
            match found {
                Some(route) => {
                    match route.kind {
                        crate::route::RTN_UNREACHABLE => return Err(Errno::EHOSTUNREACH),
                        crate::route::RTN_PROHIBIT => return Err(Errno::EACCES),
                        crate::route::RTN_BLACKHOLE => return Err(Errno::EINVAL),
                        _ => {}
                    }
                    let interface = self.by_index(route.interface).ok_or(Errno::ENETUNREACH)?;
                    (interface, route.gateway, route.source, route.mtu)
                }
                // A socket that is bound to an interface reaches everything on its link.
                None if bound != 0 => (self.by_index(bound).ok_or(Errno::ENODEV)?, None, None, 0),
                None if kind == Destination::Multicast && from.is_some() => {
                    let from = from.unwrap_or(to);
                    (self.local_interface(from).ok_or(Errno::ENETUNREACH)?, None, None, 0)
                }
                None => return Err(Errno::ENETUNREACH),
            }
        };
        if !interface.is_up() {
            return Err(if bound != 0 { Errno::ENETDOWN } else { Errno::ENETUNREACH });
        }
        let next_hop = gateway.unwrap_or(to);
        let source = match from.or(source) {
            Some(source) => source,
            None => self.source_for(&interface, next_hop, to).ok_or(if to.is_v4() {
                Errno::ENETUNREACH
            } else {
                Errno::EADDRNOTAVAIL
            })?,
        };
        let mtu = if mtu == 0 { interface.mtu() } else { mtu };
        Ok(Way { interface, next_hop, source, mtu, kind })
    }

    /// The address of an interface that fits a destination best.
    fn source_for(&self, interface: &Interface, next_hop: Ip, to: Ip) -> Option<Ip> {
        let is_v4 = to.is_v4();
        let of_version = |a: &Address| a.ip.is_v4() == is_v4;
        let same_network =
            |a: &Address| of_version(a) && a.ip.masked(a.prefix) == next_hop.masked(a.prefix);
        if is_v4 {
            let found = interface
                .find_address(same_network)
                .or_else(|| interface.find_address(|a| of_version(a) && a.scope < 254))
                .map(|a| a.ip);
            // What stays on the loopback interface may be from its own address.
            let found = found.or_else(|| {
                let own = interface.is_loopback().then(|| interface.find_address(of_version));
                own.flatten().map(|a| a.ip)
            });
            return found.or_else(|| {
                let all = self.all();
                let mut others = all.iter().filter(|i| i.is_up());
                others.find_map(|i| i.find_address(|a| a.ip.is_v4() && a.scope < 254)).map(|a| a.ip)
            });
        }
        // RFC 6724: an address of the destination's scope first.
        let wants_link = to.is_link_local6() || to.is_multicast();
        let fits = |a: &Address| of_version(a) && a.ip.is_link_local6() == wants_link;
        interface
            .find_address(|a| fits(a) && same_network(a))
            .or_else(|| interface.find_address(fits))
            .or_else(|| interface.find_address(of_version))
            .map(|a| a.ip)
    }
}

fn put_or_remove(table: &mut HashMap<Ip, u32>, ip: Ip, owner: Option<u32>) {
    match owner {
        Some(owner) => table.insert(ip, owner),
        None => table.remove(&ip),
    };
}

fn check_name(name: &str) -> Result<()> {
    let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if name.is_empty()
        || name.len() >= NAME_MAX
        || name == "."
        || name == ".."
        || name.contains(is_bad)
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn loopback_address(ip: Ip, prefix: u8) -> Address {
    let label = if ip.is_v4() { String::from("lo") } else { String::new() };
    Address { ip, prefix, broadcast: None, peer: None, scope: 254, flags: 0x80, label }
}

/// RFC 4291 appendix A: the address of the link made of the hardware's.
fn link_local(interface: &Interface) -> Option<Address> {
    let [a, b, c, d, e, f] = interface.mac();
    if [a, b, c, d, e, f] == [0; 6] {
        return None;
    }
    let ip = Ip::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let label = String::new();
    Some(Address { ip, prefix: 64, broadcast: None, peer: None, scope: 253, flags: 0x80, label })
}

/// Devices that drivers found, and the namespace they appear in.
mod home {
    use super::Devices;
    use crate::{Interface, NetDevice};
    use alloc::boxed::Box;
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use arch::lock::{LockClass, SpinLock};
    use spin::Once;

    static CLASS: LockClass = LockClass::new("netdevice.found", 537);

    type Told = Box<dyn FnOnce(&Arc<Interface>) + Send>;

    struct Found {
        pattern: &'static str,
        device: Arc<dyn NetDevice>,
        told: Told,
    }

    static FOUND: SpinLock<Vec<Found>> = SpinLock::new(&CLASS, Vec::new());
    static HOME: Once<Arc<Devices>> = Once::new();

    /// A driver has a device. `told` gets its interface, as soon as there is one.
    pub fn announce(
        pattern: &'static str,
        device: Arc<dyn NetDevice>,
        told: impl FnOnce(&Arc<Interface>) + Send + 'static,
    ) {
        FOUND.lock().push(Found { pattern, device, told: Box::new(told) });
        if let Some(home) = HOME.get() {
            take_in(home);
        }
    }

    /// Says where devices appear, and takes in those that were found.
    pub fn set_home(devices: &Arc<Devices>) {
        HOME.call_once(|| devices.clone());
        take_in(devices);
    }

    fn take_in(home: &Devices) {
        loop {
            let first = {
                let mut found = FOUND.lock();
                if found.is_empty() { None } else { Some(found.remove(0)) }
            };
            let Some(Found { pattern, device, told }) = first else { return };
            match home.add(pattern, device) {
                Ok(interface) => told(&interface),
                Err(error) => log::error!("{pattern}: no interface: {error:?}"),
            }
        }
    }
}

pub use home::{announce, set_home};
