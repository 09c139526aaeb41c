//! The interfaces of a namespace, and its routes.

use crate::address::Address;
use crate::frame::NetDevice;
use crate::interface::{Interface, flag};
use crate::ip::Ip;
use crate::route::{Place, Route, SCOPE_HOST};
use crate::ways::Routes;
use abi::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, RwSpinLock};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hashbrown::HashMap;
use smallvec::SmallVec;
use socket::NetNamespace;

static CLASS: LockClass = LockClass::new("netdevice.devices", 538);
static ROUTES: LockClass = LockClass::new("netdevice.routes", 539);

/// `IFA_F_NOPREFIXROUTE`.
const NO_PREFIX_ROUTE: u32 = 0x200;
/// `IFNAMSIZ` with the zero at the end.
pub const NAME_MAX: usize = 16;

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) interfaces: BTreeMap<u32, Arc<Interface>>,
    last_index: u32,
    pub(crate) names: HashMap<String, u32>,
    /// The numbers that other namespaces, by their cookies, have here (`NETNSA_NSID`).
    others: HashMap<u64, i32>,
    /// Addresses of this host, with their interfaces.
    pub(crate) own: Owners,
    /// Addresses that mean all hosts of a network.
    pub(crate) broadcasts: Owners,
}

impl Inner {
    /// The number `wanted` if it is free, or the next.
    fn choose_index(&mut self, wanted: u32) -> u32 {
        let is_free = wanted > 0 && !self.interfaces.contains_key(&wanted);
        let index = if is_free { wanted } else { self.last_index + 1 };
        self.last_index = self.last_index.max(index);
        index
    }

    fn insert(&mut self, interface: &Arc<Interface>) {
        self.names.insert(interface.name(), interface.index);
        for name in interface.other_names() {
            self.names.entry(name).or_insert(interface.index);
        }
        self.interfaces.insert(interface.index, interface.clone());
    }

    fn note_address(&mut self, index: u32, address: &Address) {
        self.own.add(address.ip, index);
        address.broadcasts().for_each(|all| self.broadcasts.add(all, index));
    }

    fn forget_address(&mut self, index: u32, address: &Address) {
        self.own.remove(address.ip, index);
        address.broadcasts().for_each(|all| self.broadcasts.remove(all, index));
    }
}

/// Which interfaces have an address: several may, and one may have it with several networks.
#[derive(Default)]
pub(crate) struct Owners(HashMap<Ip, SmallVec<[u32; 1]>>);

impl Owners {
    fn add(&mut self, ip: Ip, index: u32) {
        self.0.entry(ip).or_default().push(index);
    }

    fn remove(&mut self, ip: Ip, index: u32) {
        let Some(owners) = self.0.get_mut(&ip) else { return };
        if let Some(at) = owners.iter().position(|owner| *owner == index) {
            owners.remove(at);
        }
        if owners.is_empty() {
            self.0.remove(&ip);
        }
    }

    /// The interface that had it first.
    #[inline]
    pub(crate) fn first(&self, ip: Ip) -> Option<u32> {
        self.0.get(&ip)?.first().copied()
    }

    #[inline]
    pub(crate) fn contains(&self, ip: Ip) -> bool {
        self.0.contains_key(&ip)
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
    /// The routes are there that an address makes, with the address its network is told by.
    OwnRoutes(Arc<Interface>, Address, Ip),
    /// They went.
    NoOwnRoutes(Arc<Interface>, Address, Ip),
    /// A route came.
    Route(Route),
    /// A route went.
    NoRoute(Route),
}

/// Hears of changes.
pub type Watcher = Arc<dyn Fn(&Change) + Send + Sync>;

/// The interfaces of a namespace.
pub struct Devices {
    pub(crate) inner: RwSpinLock<Inner>,
    pub(crate) routes: RwSpinLock<Routes>,
    pub(crate) has_local_routes: AtomicBool,
    /// The namespace; none in tests.
    namespace: Weak<NetNamespace>,
    generation: AtomicU64,
    watchers: RwSpinLock<Vec<Watcher>>,
}

impl socket::NamespacePart for Devices {
    const SLOT: socket::Slot = socket::Slot::Devices;
    fn new(namespace: &Weak<NetNamespace>) -> Devices {
        Devices::of(namespace.clone())
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Devices {
    /// What is not hardware ends with its namespace; so does the other end of a pair, elsewhere.
    fn drop(&mut self) {
        for interface in self.all() {
            if let Some(device) = interface.device.clone().filter(|device| device.is_virtual()) {
                // Whoever drops a namespace may hold locks.
                sched::work::queue(move || device.removed());
            }
        }
    }
}

impl Devices {
    /// Interfaces without a namespace.
    pub fn new() -> Devices {
        Self::of(Weak::new())
    }

    /// Those of a namespace: its loopback interface, which is down.
    fn of(namespace: Weak<NetNamespace>) -> Devices {
        let mut inner = Inner { last_index: 1, ..Inner::default() };
        inner.insert(&Arc::new(Interface::loopback(1, namespace.clone())));
        Devices {
            inner: RwSpinLock::new(&CLASS, inner),
            routes: RwSpinLock::new(&ROUTES, Routes::default()),
            has_local_routes: AtomicBool::new(false),
            namespace,
            generation: AtomicU64::new(1),
            watchers: RwSpinLock::new(&CLASS, Vec::new()),
        }
    }

    /// The number that another namespace has here, given to it when first asked for.
    pub fn number_of(&self, other: &NetNamespace) -> i32 {
        let mut inner = self.inner.write();
        let next = i32::try_from(inner.others.len()).unwrap_or(i32::MAX);
        *inner.others.entry(other.cookie).or_insert(next)
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

    pub(crate) fn changed(&self, change: &Change) {
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
        let inner = self.inner.read();
        inner.names.get(name).and_then(|index| inner.interfaces.get(index)).cloned()
    }

    /// The loopback interface.
    pub fn loopback(&self) -> Option<Arc<Interface>> {
        self.by_index(1)
    }

    /// Makes an interface for a device; `pattern%d` gets the first number that is free.
    pub fn add(&self, pattern: &str, device: Arc<dyn NetDevice>) -> Result<Arc<Interface>> {
        self.add_with(pattern, 0, device, |_| {})
    }

    /// Makes an interface, with a number of its own unless that is taken, and changes it with `prepare` before
    /// anybody sees it.
    pub fn add_with(
        &self,
        pattern: &str,
        index: u32,
        device: Arc<dyn NetDevice>,
        prepare: impl FnOnce(&Interface),
    ) -> Result<Arc<Interface>> {
        let interface = {
            // Two that come at once get two names.
            let mut inner = self.inner.write();
            let name = inner.choose_name(pattern)?;
            if index != 0 && inner.interfaces.contains_key(&index) {
                return Err(Errno::EBUSY);
            }
            let index = inner.choose_index(index);
            let interface = Interface::ethernet(index, name, device, self.namespace.clone());
            prepare(&interface);
            let interface = Arc::new(interface);
            inner.insert(&interface);
            interface
        };
        self.started(&interface);
        Ok(interface)
    }

    fn started(&self, interface: &Arc<Interface>) {
        if let Some(device) = &interface.device {
            device.attach(interface);
        }
        self.changed(&Change::Interface(interface.clone()));
    }

    /// Takes an interface away, with its addresses and routes.
    pub fn remove(&self, index: u32) -> Result<()> {
        let interface = self.by_index(index).ok_or(Errno::ENODEV)?;
        self.strip(&interface);
        // Those of scope host stay when it goes down, but not when it goes away.
        for is_v4 in [true, false] {
            self.take_routes(is_v4, |route| route.interface == index);
        }
        {
            let mut inner = self.inner.write();
            // Somebody else may have been faster, and another interface have the number or the names by now.
            let found = inner.interfaces.get(&index);
            if found.is_none_or(|found| !Arc::ptr_eq(found, &interface)) {
                return Err(Errno::ENODEV);
            }
            inner.interfaces.remove(&index);
            for name in interface.other_names().into_iter().chain([interface.name()]) {
                if inner.names.get(&name) == Some(&index) {
                    inner.names.remove(&name);
                }
            }
        }
        // Of a master that took it meanwhile, too.
        leave_master(&interface);
        self.changed(&Change::Gone(interface));
        Ok(())
    }

    fn strip(&self, interface: &Arc<Interface>) {
        leave_master(interface);
        if interface.is_up() {
            self.set_flags(interface, 0, flag::UP);
        }
        for address in interface.addresses() {
            let _ = self.remove_address(interface, address.ip, Some(address.prefix));
        }
    }

    /// Moves an interface to another namespace, where it may get another name and number and is down.
    ///
    /// # Errors
    /// `EINVAL` for an interface that stays where it is, `EEXIST` if its name is taken there.
    pub fn move_to(
        &self,
        interface: &Arc<Interface>,
        to: &Devices,
        name: Option<&str>,
    ) -> Result<Arc<Interface>> {
        let device = interface.device.clone();
        let device = device.filter(|device| device.is_virtual() && !device.stays());
        let device = device.ok_or(Errno::EINVAL)?;
        let own_name = interface.name();
        let pattern = name.unwrap_or(&own_name);
        {
            let inner = to.inner.read();
            inner.choose_name(pattern)?;
            if interface.other_names().iter().any(|name| inner.has_name(name)) {
                return Err(Errno::EEXIST);
            }
        }
        self.remove(interface.index)?;
        let moved = {
            let mut inner = to.inner.write();
            // Whoever took the name meanwhile has it.
            let name = inner.choose_name(pattern).or_else(|_| inner.choose_name("dev%d"))?;
            let index = inner.choose_index(interface.index);
            let moved = Interface::ethernet(index, name, device, to.namespace.clone());
            moved.take_over(interface);
            let moved = Arc::new(moved);
            inner.insert(&moved);
            moved
        };
        to.started(&moved);
        Ok(moved)
    }

    /// Sets and clears flags; with `UP` the routes of its addresses come and go.
    pub fn set_flags(&self, interface: &Arc<Interface>, set: u32, clear: u32) {
        let was_up = interface.is_up();
        interface.change_flags(set, clear);
        let is_up = interface.is_up();
        if was_up && !is_up {
            // Nobody hears of routes of version 4 that go like this, as `ip monitor` shows.
            self.drop_routes(interface);
        }
        self.changed(&Change::Interface(interface.clone()));
        if is_up && !was_up {
            self.went_up(interface);
        }
        if was_up && !is_up {
            self.went_down(interface);
        }
        if was_up != is_up
            && let Some(device) = &interface.device
        {
            device.changed();
        }
        if was_up != is_up
            && let Some(upper) = interface.upper()
        {
            upper.port_changed();
        }
    }

    fn went_up(&self, interface: &Arc<Interface>) {
        for address in interface.addresses() {
            self.add_network_routes(interface, &address);
        }
        if interface.is_loopback() {
            let _ = self.add_address(interface, loopback_address(Ip::LOOPBACK4, 8));
            let _ = self.add_address(interface, loopback_address(Ip::LOOPBACK6, 128));
        }
        self.join_link(interface);
    }

    /// RFC 4862 §5.3: an interface whose link is there has an address of the link.
    fn join_link(&self, interface: &Arc<Interface>) {
        let has_one = || interface.find_address(|own| own.ip.is_link_local6()).is_some();
        if interface.is_running()
            && !interface.is_loopback()
            && !has_one()
            && let Some(address) = link_local(interface)
        {
            let _ = self.add_address(interface, address);
        }
    }

    /// With an interface that goes down go the routes over it, but for those of version 4 of scope host, and its
    /// addresses of version 6 (cases `rtnl-routes-down`, `rtnl-addresses-down`).
    fn went_down(&self, interface: &Arc<Interface>) {
        self.remove_routes(false, |route| route.interface == interface.index);
        for address in interface.addresses().into_iter().filter(|own| !own.ip.is_v4()) {
            let _ = self.remove_address(interface, address.ip, Some(address.prefix));
        }
    }

    fn drop_routes(&self, interface: &Interface) {
        self.take_routes(true, |route| {
            route.interface == interface.index && route.scope < SCOPE_HOST
        });
    }

    /// The link of an interface came or went.
    pub fn carrier_changed(&self, interface: &Arc<Interface>) {
        self.join_link(interface);
        if let Some(upper) = interface.upper() {
            upper.port_changed();
        }
        self.touch(interface);
    }

    /// Tells those who listen that something about an interface changed.
    pub fn touch(&self, interface: &Arc<Interface>) {
        self.changed(&Change::Interface(interface.clone()));
    }

    /// Adds an address, and the routes to its network while the interface is up.
    ///
    /// # Errors
    /// `EINVAL` for a prefix that is too long or a scope that its network does not have, `EEXIST`.
    pub fn add_address(&self, interface: &Arc<Interface>, address: Address) -> Result<()> {
        let longest = if address.ip.is_v4() { 32 } else { 128 };
        if address.prefix > longest {
            return Err(Errno::EINVAL);
        }
        let address = interface.add_address(address)?;
        self.inner.write().note_address(interface.index, &address);
        self.changed(&Change::Address(interface.clone(), address.clone()));
        if interface.is_up() {
            self.add_network_routes(interface, &address);
        }
        Ok(())
    }

    /// Changes an address that there is: its flags and how long it lasts.
    pub fn change_address(
        &self,
        interface: &Arc<Interface>,
        like: &Address,
        change: impl Fn(&mut Address),
    ) -> Result<()> {
        let changed = interface.change_address(like, change);
        let changed = changed.ok_or(Errno::EADDRNOTAVAIL)?;
        self.changed(&Change::Address(interface.clone(), changed));
        Ok(())
    }

    fn add_network_routes(&self, interface: &Arc<Interface>, address: &Address) {
        for route in network_routes(interface, address) {
            // Another interface may have the same one; it was there first, and stays first.
            let _ = self.put_route(route, Place::Last);
        }
        self.changed(&Change::OwnRoutes(interface.clone(), address.clone(), address.ip));
    }

    /// Takes an address away, with any prefix if none is given.
    pub fn remove_address(
        &self,
        interface: &Arc<Interface>,
        ip: Ip,
        prefix: Option<u8>,
    ) -> Result<()> {
        self.remove_meant_address(interface, |own| {
            own.ip == ip && prefix.is_none_or(|prefix| prefix == own.prefix)
        })
    }

    /// Takes the first address away that is meant, and with the first address of a network of version 4 those
    /// that were there by it (`promote_secondaries` of ip-sysctl being 0). `EADDRNOTAVAIL` if there is none.
    pub fn remove_meant_address(
        &self,
        interface: &Arc<Interface>,
        is_meant: impl Fn(&Address) -> bool,
    ) -> Result<()> {
        let (others, first) = interface.take_addresses(is_meant).ok_or(Errno::EADDRNOTAVAIL)?;
        let source = first.ip;
        for address in others.into_iter().chain([first]) {
            self.inner.write().forget_address(interface.index, &address);
            self.changed(&Change::NoAddress(interface.clone(), address.clone()));
            self.drop_network_routes(interface, &address);
            self.changed(&Change::NoOwnRoutes(interface.clone(), address, source));
        }
        Ok(())
    }

    /// What an address that went leaves: the routes to its network go, unless another address makes them; so do
    /// routes of version 4 whose source it was (those of version 6 lose the source) and, with the last address
    /// of version 4, all that its interface had (cases `rtnl-address-routes`, `rtnl-addresses6`).
    fn drop_network_routes(&self, interface: &Arc<Interface>, address: &Address) {
        let others = interface.addresses();
        for route in network_routes(interface, address) {
            let is_made = |other: &Address| network_routes(interface, other).any(|r| r == route);
            if !others.iter().any(is_made) {
                self.remove_route(route.table, (route.to, route.prefix), |known| *known == route);
            }
        }
        if !self.is_own(address.ip) {
            self.drop_source(address.ip);
        }
        if address.ip.is_v4() && !others.iter().any(|other| other.ip.is_v4()) {
            self.drop_routes(interface);
        }
    }

    fn is_own(&self, ip: Ip) -> bool {
        self.inner.read().own.contains(ip)
    }
}

/// It is nobody's port any more.
fn leave_master(interface: &Arc<Interface>) {
    if let Some(master) = interface.upper().and_then(|upper| upper.master())
        && let Some(device) = &master.device
    {
        // Whoever was faster has done it.
        let _ = device.give_up_port(interface);
    }
}

/// The routes that an address makes while its interface is up: to its network; of version 6 to the other end,
/// too. The loopback interface's are in the table `local`, as are those of one host of version 4 and of groups.
fn network_routes(interface: &Interface, address: &Address) -> impl Iterator<Item = Route> + use<> {
    let is_v4 = address.ip.is_v4();
    let link = |to: Ip, prefix: u8| {
        let route = Route::on_link(to, prefix, interface.index);
        if is_v4 {
            Route { source: Some(address.ip), ..route }
        } else {
            Route { metric: 256, scope: 0, ..route }
        }
    };
    let is_alone = is_v4 && address.prefix >= 32 && address.peer.is_none();
    let has_none = is_alone
        || (is_v4 && (address.is_secondary() || address.ip.is_multicast() || address.prefix == 0))
        || interface.is_loopback()
        || address.flags & NO_PREFIX_ROUTE != 0;
    let network = if is_v4 { address.network() } else { address.ip };
    let first = (!has_none).then(|| link(network, address.prefix));
    let peer = address.peer.filter(|_| !is_v4 && !interface.is_loopback());
    first.into_iter().chain(peer.map(|peer| link(peer, 128)))
}

fn loopback_address(ip: Ip, prefix: u8) -> Address {
    let label = if ip.is_v4() { String::from("lo") } else { String::new() };
    Address {
        ip,
        prefix,
        broadcast: None,
        peer: None,
        scope: 254,
        flags: 0x80,
        label,
        lifetime: None,
    }
}

/// RFC 4291 appendix A: the address of the link made of the hardware's.
fn link_local(interface: &Interface) -> Option<Address> {
    let [a, b, c, d, e, f] = interface.mac();
    let own = interface.device.as_ref().and_then(|device| device.identifier());
    let [i, j, k, l, m, n, o, p] = match own {
        Some(own) => own,
        None if [a, b, c, d, e, f] == [0; 6] => return None,
        None => [a ^ 2, b, c, 0xff, 0xfe, d, e, f],
    };
    let ip = Ip::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, i, j, k, l, m, n, o, p]);
    let label = String::new();
    Some(Address {
        ip,
        prefix: 64,
        broadcast: None,
        peer: None,
        scope: 253,
        flags: 0x80,
        label,
        lifetime: None,
    })
}
