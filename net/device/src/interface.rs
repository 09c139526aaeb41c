//! An interface.

use crate::address::{Address, SECONDARY};
use crate::frame::{Frame, NetDevice, Received, Receiver};
use crate::upper::Upper;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, RwSpinLock, SpinLock};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicU64, Ordering};
use socket::NetNamespace;
use spin::Once;

static CLASS: LockClass = LockClass::new("netdevice.interface", 540);
static UPPER: LockClass = LockClass::new("netdevice.upper", 541);

/// Flags of netdevice(7).
#[expect(missing_docs, reason = "netdevice(7) describes them")]
pub mod flag {
    pub const UP: u32 = 0x1;
    pub const BROADCAST: u32 = 0x2;
    pub const LOOPBACK: u32 = 0x8;
    pub const POINTOPOINT: u32 = 0x10;
    pub const RUNNING: u32 = 0x40;
    pub const NOARP: u32 = 0x80;
    pub const PROMISC: u32 = 0x100;
    pub const ALLMULTI: u32 = 0x200;
    pub const MULTICAST: u32 = 0x1000;
    pub const LOWER_UP: u32 = 0x10000;
}

/// `ARPHRD_ETHER`.
pub const ARPHRD_ETHER: u16 = 1;
/// `ARPHRD_LOOPBACK`.
pub const ARPHRD_LOOPBACK: u16 = 772;
/// `ARPHRD_NONE`: no link's header.
pub const ARPHRD_NONE: u16 = 0xfffe;

/// Counters of an interface (`/proc/net/dev`).
#[derive(Default, Debug)]
#[expect(missing_docs, reason = "named as in /proc/net/dev")]
pub struct Counters {
    pub rx_packets: AtomicU64,
    pub rx_bytes: AtomicU64,
    pub rx_errors: AtomicU64,
    pub rx_dropped: AtomicU64,
    pub tx_packets: AtomicU64,
    pub tx_bytes: AtomicU64,
    pub tx_errors: AtomicU64,
    pub tx_dropped: AtomicU64,
    pub multicast: AtomicU64,
}

impl Counters {
    fn all(&self) -> [&AtomicU64; 9] {
        [
            &self.rx_packets,
            &self.rx_bytes,
            &self.rx_errors,
            &self.rx_dropped,
            &self.tx_packets,
            &self.tx_bytes,
            &self.tx_errors,
            &self.tx_dropped,
            &self.multicast,
        ]
    }

    /// Packets came in.
    #[inline]
    pub fn received(&self, packets: u64, bytes: usize) {
        self.rx_packets.fetch_add(packets, Ordering::Relaxed);
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Packets went out.
    #[inline]
    pub fn sent(&self, packets: u64, bytes: usize) {
        self.tx_packets.fetch_add(packets, Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

struct State {
    name: String,
    addresses: Vec<Address>,
    mac: [u8; 6],
    alias: String,
    /// Other names that it is found by, in the order they were given.
    other_names: Vec<String>,
}

/// A network interface.
pub struct Interface {
    /// Its number: never used again in its namespace.
    pub index: u32,
    /// What sends for it; the loopback interface has none.
    pub device: Option<Arc<dyn NetDevice>>,
    /// What went through it.
    pub counters: Counters,
    namespace: Weak<NetNamespace>,
    kind: AtomicU16,
    flags: AtomicU32,
    mtu: AtomicU32,
    tx_queue_len: AtomicU32,
    promiscuity: AtomicI32,
    has_been_up: AtomicBool,
    /// Whether it is somebody's port: all that a frame of one that is not looks at.
    is_port: AtomicBool,
    upper: RwSpinLock<Option<Arc<dyn Upper>>>,
    state: SpinLock<State>,
}

static RECEIVER: Once<&'static dyn Receiver> = Once::new();

/// Sets what takes the frames of all devices. Once.
pub fn set_receiver(receiver: &'static dyn Receiver) {
    RECEIVER.call_once(|| receiver);
}

impl Interface {
    pub(crate) fn loopback(index: u32, namespace: Weak<NetNamespace>) -> Interface {
        Interface {
            index,
            kind: AtomicU16::new(ARPHRD_LOOPBACK),
            device: None,
            counters: Counters::default(),
            namespace,
            flags: AtomicU32::new(flag::LOOPBACK),
            mtu: AtomicU32::new(65536),
            promiscuity: AtomicI32::new(0),
            tx_queue_len: AtomicU32::new(1000),
            has_been_up: AtomicBool::new(false),
            is_port: AtomicBool::new(false),
            upper: RwSpinLock::new(&UPPER, None),
            state: SpinLock::new(
                &CLASS,
                State {
                    name: String::from("lo"),
                    addresses: Vec::new(),
                    mac: [0; 6],
                    alias: String::new(),
                    other_names: Vec::new(),
                },
            ),
        }
    }

    pub(crate) fn ethernet(
        index: u32,
        name: String,
        device: Arc<dyn NetDevice>,
        namespace: Weak<NetNamespace>,
    ) -> Interface {
        let mac = device.mac();
        Interface {
            index,
            kind: AtomicU16::new(device.hardware()),
            counters: Counters::default(),
            namespace,
            flags: AtomicU32::new(device.first_flags()),
            mtu: AtomicU32::new(device.first_mtu()),
            promiscuity: AtomicI32::new(0),
            tx_queue_len: AtomicU32::new(device.first_queue_len()),
            has_been_up: AtomicBool::new(false),
            is_port: AtomicBool::new(false),
            upper: RwSpinLock::new(&UPPER, None),
            state: SpinLock::new(
                &CLASS,
                State {
                    name,
                    addresses: Vec::new(),
                    mac,
                    alias: String::new(),
                    other_names: Vec::new(),
                },
            ),
            device: Some(device),
        }
    }

    /// Takes over what does not depend on the namespace.
    pub(crate) fn take_over(&self, old: &Interface) {
        // Relaxed: nobody sees this interface yet.
        let copy = |to: &AtomicU32, from: &AtomicU32| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        copy(&self.flags, &old.flags);
        copy(&self.mtu, &old.mtu);
        copy(&self.tx_queue_len, &old.tx_queue_len);
        self.has_been_up.store(old.has_been_up(), Ordering::Relaxed);
        self.set_kind(old.kind());
        let (mac, alias, other_names) = (old.mac(), old.alias(), old.other_names());
        let mut state = self.state.lock();
        (state.mac, state.alias, state.other_names) = (mac, alias, other_names);
        drop(state);
        for (to, from) in self.counters.all().into_iter().zip(old.counters.all()) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The namespace it is in, while that is there.
    pub fn namespace(&self) -> Option<Arc<NetNamespace>> {
        self.namespace.upgrade()
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.state.lock().name.clone()
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.state.lock().name == name
    }

    pub(crate) fn rename(&self, name: &str) {
        self.state.lock().name = String::from(name);
    }

    /// Its hardware address.
    pub fn mac(&self) -> [u8; 6] {
        self.state.lock().mac
    }

    /// Gives it another hardware address. `EADDRNOTAVAIL` for one of a group or of nobody.
    pub fn set_mac(&self, mac: [u8; 6]) -> abi::Result<()> {
        let device = self.device.as_ref().ok_or(abi::Errno::EOPNOTSUPP)?;
        if !device.is_virtual() || !self.has_address() {
            return Err(abi::Errno::EOPNOTSUPP);
        }
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(abi::Errno::EADDRNOTAVAIL);
        }
        self.state.lock().mac = mac;
        device.address_changed();
        if let Some(upper) = self.upper() {
            upper.port_changed();
        }
        Ok(())
    }

    /// Its hardware address is another by itself, not by what an administrator said.
    pub fn follow_mac(&self, mac: [u8; 6]) {
        self.state.lock().mac = mac;
    }

    /// What administrators call it (`ifalias`).
    pub fn alias(&self) -> String {
        self.state.lock().alias.clone()
    }

    /// The other names that it is found by.
    pub fn other_names(&self) -> Vec<String> {
        self.state.lock().other_names.clone()
    }

    pub(crate) fn change_other_names(&self, change: impl FnOnce(&mut Vec<String>)) {
        change(&mut self.state.lock().other_names);
    }

    /// Sets its alias.
    pub fn set_alias(&self, alias: &str) {
        self.state.lock().alias = String::from(alias);
    }

    /// `ARPHRD_*`.
    #[inline]
    pub fn kind(&self) -> u16 {
        self.kind.load(Ordering::Relaxed)
    }

    /// Says that it is of another kind (`TUNSETLINK`), which changes nothing but what is told of it.
    pub fn set_kind(&self, kind: u16) {
        self.kind.store(kind, Ordering::Relaxed);
    }

    /// Whether it is the loopback interface.
    #[inline]
    pub fn is_loopback(&self) -> bool {
        self.device.is_none()
    }

    /// The length of the link's header of its frames.
    #[inline]
    pub fn link_len(&self) -> usize {
        self.device.as_ref().map_or(14, |device| device.link_len())
    }

    /// Whether it has a hardware address.
    #[inline]
    pub fn has_address(&self) -> bool {
        self.link_len() != 0
    }

    /// Whether it is up.
    #[inline]
    pub fn is_up(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & flag::UP != 0
    }

    /// Whether it is up and its link is there.
    pub fn is_running(&self) -> bool {
        self.is_up() && self.device.as_ref().is_none_or(|device| device.has_carrier())
    }

    /// `IF_OPER_*` of linux/if.h: 0 unknown, 2 down, 6 up, 3 down for want of the other end.
    pub fn oper_state(&self) -> u8 {
        // What has no link does not know whether it is there.
        let has_link = self.device.as_ref().is_some_and(|device| device.knows_link());
        let has_peer = self.device.as_ref().is_some_and(|device| device.peer().is_some());
        match (self.is_up(), self.is_running()) {
            (true, true) if has_link => 6,
            (true, true) => 0,
            (true, false) if has_peer => 3,
            _ => 2,
        }
    }

    /// `IFF_*` as programs see them.
    pub fn flags(&self) -> u32 {
        let flags = self.flags.load(Ordering::Relaxed);
        if self.is_running() { flags | flag::RUNNING | flag::LOWER_UP } else { flags }
    }

    /// Whether it was ever up: then packets have a queueing discipline.
    pub fn has_been_up(&self) -> bool {
        self.has_been_up.load(Ordering::Relaxed)
    }

    pub(crate) fn change_flags(&self, set: u32, clear: u32) -> u32 {
        if set & flag::UP != 0 {
            self.has_been_up.store(true, Ordering::Relaxed);
        }
        self.flags.fetch_or(set, Ordering::Relaxed);
        self.flags.fetch_and(!clear, Ordering::Relaxed)
    }

    /// Whether programs see what is for others, too.
    pub fn is_promiscuous(&self) -> bool {
        let flags = self.flags.load(Ordering::Relaxed);
        flags & flag::PROMISC != 0 || self.promiscuity.load(Ordering::Relaxed) > 0
    }

    /// How many want that.
    pub fn promiscuity(&self) -> u32 {
        let asked = u32::from(self.flags.load(Ordering::Relaxed) & flag::PROMISC != 0);
        asked + self.promiscuity.load(Ordering::Relaxed).max(0) as u32
    }

    /// One program more wants that, or one less.
    pub fn change_promiscuity(&self, by: i32) {
        self.promiscuity.fetch_add(by, Ordering::Relaxed);
    }

    /// The longest packet, the link's header not counted.
    #[inline]
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// The shortest and the longest that the longest packet can be; 0 for no limit.
    pub fn mtu_limits(&self) -> (u32, u32) {
        self.device.as_ref().map_or((0, 0), |device| (68, device.max_mtu()))
    }

    /// Sets the longest packet.
    pub fn set_mtu(&self, mtu: u32) -> abi::Result<()> {
        let (min, max) = self.mtu_limits();
        let max = if max == 0 { u32::MAX >> 1 } else { max };
        if !(min..=max).contains(&mtu) {
            return Err(abi::Errno::EINVAL);
        }
        self.follow_mtu(mtu);
        if let Some(device) = &self.device {
            device.mtu_changed();
        }
        if let Some(upper) = self.upper() {
            upper.port_changed();
        }
        Ok(())
    }

    /// The longest packet is another by itself, not by what an administrator said.
    pub fn follow_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// `txqueuelen`.
    pub fn tx_queue_len(&self) -> u32 {
        self.tx_queue_len.load(Ordering::Relaxed)
    }

    /// Sets `txqueuelen`.
    pub fn set_tx_queue_len(&self, len: u32) {
        self.tx_queue_len.store(len, Ordering::Relaxed);
    }

    /// Its addresses, those of version 4 first in the order they were added.
    pub fn addresses(&self) -> Vec<Address> {
        self.state.lock().addresses.clone()
    }

    /// The first address that fits.
    pub fn find_address(&self, fits: impl Fn(&Address) -> bool) -> Option<Address> {
        self.state.lock().addresses.iter().find(|address| fits(address)).cloned()
    }

    /// Adds an address; as it was added.
    ///
    /// Of version 4, as seen in the cases `rtnl-addresses` and `rtnl-address-errors`: whoever comes into a network
    /// that another address is in is a secondary one and has to have its scope; the first ones of networks are
    /// told before secondary ones, the narrower scope first, else in the order they came. Of version 6, as
    /// seen in `rtnl-addresses6`: the wider scope first, then the newer.
    ///
    /// # Errors
    /// `EEXIST` if it is there, `EINVAL` for the scope.
    pub(crate) fn add_address(&self, mut address: Address) -> abi::Result<Address> {
        let mut state = self.state.lock();
        let all = &mut state.addresses;
        if all.iter().any(|other| other.is_same(&address)) {
            return Err(abi::Errno::EEXIST);
        }
        let first_v6 = all.partition_point(|other| other.ip.is_v4());
        let at = if address.ip.is_v4() {
            address.flags &= !SECONDARY;
            if let Some(first) = all.iter().find(|other| other.is_beside(&address)) {
                if first.scope != address.scope {
                    return Err(abi::Errno::EINVAL);
                }
                address.flags |= SECONDARY;
                first_v6
            } else {
                let stays = |other: &Address| {
                    other.ip.is_v4() && !other.is_secondary() && other.scope >= address.scope
                };
                all.partition_point(stays)
            }
        } else {
            let later = all.iter().skip(first_v6).position(|other| other.scope >= address.scope);
            later.map_or(all.len(), |at| first_v6 + at)
        };
        all.insert(at, address.clone());
        Ok(address)
    }

    pub(crate) fn change_address(
        &self,
        like: &Address,
        change: impl Fn(&mut Address),
    ) -> Option<Address> {
        let mut state = self.state.lock();
        let found = state.addresses.iter_mut().find(|own| own.is_same(like))?;
        change(found);
        Some(found.clone())
    }

    /// Takes the first address away that is meant. With the first one of a network of version 4 those go that are
    /// there by it: they come before it.
    pub(crate) fn take_addresses(
        &self,
        is_meant: impl Fn(&Address) -> bool,
    ) -> Option<(Vec<Address>, Address)> {
        let all = &mut self.state.lock().addresses;
        let at = all.iter().position(is_meant)?;
        let first = all.remove(at);
        let mut others = Vec::new();
        if first.ip.is_v4() && !first.is_secondary() {
            all.retain(|other| {
                let goes = other.is_beside(&first);
                if goes {
                    others.push(other.clone());
                }
                !goes
            });
        }
        Some((others, first))
    }

    /// Whose port it is.
    #[inline]
    pub fn upper(&self) -> Option<Arc<dyn Upper>> {
        // Relaxed: a frame on its way while it becomes a port may be the last that the protocols see.
        if self.is_port.load(Ordering::Relaxed) { self.upper.read().clone() } else { None }
    }

    /// It becomes somebody's port. `EBUSY` if it is another's.
    pub fn join(&self, upper: Arc<dyn Upper>) -> abi::Result<()> {
        let mut own = self.upper.write();
        if own.is_some() {
            return Err(abi::Errno::EBUSY);
        }
        *own = Some(upper);
        self.is_port.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// It is nobody's port any more.
    pub fn leave(&self) {
        let gone = {
            let mut own = self.upper.write();
            self.is_port.store(false, Ordering::Relaxed);
            own.take()
        };
        drop(gone);
    }

    /// Sends a frame, the link's header included, and counts it. What the frame asks for and the device cannot do
    /// is done here.
    ///
    /// # Errors
    /// `ENETDOWN` without a device, `ENOBUFS` for a full queue or no memory.
    pub fn send(&self, frame: Frame) -> abi::Result<()> {
        let device = self.device.as_ref().ok_or(abi::Errno::ENETDOWN)?;
        crate::offload::lower(frame, device.offloads(), device.link_len(), &mut |frame| {
            let len = frame.len();
            let sent = device.transmit(frame);
            match sent {
                Ok(()) if device.counts_sent() => {}
                Ok(()) => self.counters.sent(1, len),
                Err(_) => {
                    self.counters.tx_dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            sent
        })
    }

    /// The device delivers frames. In a thread.
    pub fn receive(self: &Arc<Self>, frames: &mut dyn Iterator<Item = Received>) {
        match RECEIVER.get() {
            Some(receiver) => receiver.receive(self, frames),
            None => frames.for_each(drop),
        }
    }
}

impl core::fmt::Debug for Interface {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Interface({} {})", self.index, self.name())
    }
}
