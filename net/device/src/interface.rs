//! An interface.

use crate::frame::{NetDevice, Received, Receiver};
use crate::ip::Ip;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use spin::Once;

static CLASS: LockClass = LockClass::new("netdevice.interface", 540);

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

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: Ip,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// The address for all hosts of that network.
    pub broadcast: Option<Ip>,
    /// The other end of a point-to-point link.
    pub peer: Option<Ip>,
    /// `RT_SCOPE_*`: 0 everywhere, 253 on the link, 254 on this host.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
    /// What `ip addr` shows as its label (IPv4).
    pub label: String,
}

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
}

/// A network interface.
pub struct Interface {
    /// Its number: never used again in its namespace.
    pub index: u32,
    /// `ARPHRD_*`.
    pub kind: u16,
    /// What sends for it; the loopback interface has none.
    pub device: Option<Arc<dyn NetDevice>>,
    /// What went through it.
    pub counters: Counters,
    flags: AtomicU32,
    mtu: AtomicU32,
    tx_queue_len: AtomicU32,
    promiscuity: AtomicI32,
    state: SpinLock<State>,
}

static RECEIVER: Once<&'static dyn Receiver> = Once::new();

/// Sets what takes the frames of all devices. Once.
pub fn set_receiver(receiver: &'static dyn Receiver) {
    RECEIVER.call_once(|| receiver);
}

impl Interface {
    pub(crate) fn loopback(index: u32) -> Interface {
        Interface {
            index,
            kind: ARPHRD_LOOPBACK,
            device: None,
            counters: Counters::default(),
            flags: AtomicU32::new(flag::LOOPBACK),
            mtu: AtomicU32::new(65536),
            promiscuity: AtomicI32::new(0),
            tx_queue_len: AtomicU32::new(1000),
            state: SpinLock::new(
                &CLASS,
                State { name: String::from("lo"), addresses: Vec::new(), mac: [0; 6] },
            ),
        }
    }

    pub(crate) fn ethernet(index: u32, name: String, device: Arc<dyn NetDevice>) -> Interface {
        let mac = device.mac();
        Interface {
            index,
            kind: ARPHRD_ETHER,
            counters: Counters::default(),
            flags: AtomicU32::new(flag::BROADCAST | flag::MULTICAST),
            mtu: AtomicU32::new(device.max_mtu()),
            promiscuity: AtomicI32::new(0),
            tx_queue_len: AtomicU32::new(1000),
            state: SpinLock::new(&CLASS, State { name, addresses: Vec::new(), mac }),
            device: Some(device),
        }
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

    /// Whether it is the loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.kind == ARPHRD_LOOPBACK
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

    /// `IFF_*` as programs see them.
    pub fn flags(&self) -> u32 {
        let flags = self.flags.load(Ordering::Relaxed);
        if self.is_running() { flags | flag::RUNNING | flag::LOWER_UP } else { flags }
    }

    pub(crate) fn change_flags(&self, set: u32, clear: u32) -> u32 {
        self.flags.fetch_or(set, Ordering::Relaxed);
        self.flags.fetch_and(!clear, Ordering::Relaxed)
    }

    /// Whether programs see what is for others, too.
    pub fn is_promiscuous(&self) -> bool {
        let flags = self.flags.load(Ordering::Relaxed);
        flags & flag::PROMISC != 0 || self.promiscuity.load(Ordering::Relaxed) > 0
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

    /// Sets the longest packet.
    pub fn set_mtu(&self, mtu: u32) -> abi::Result<()> {
        let max = self.device.as_ref().map_or(u32::MAX >> 1, |device| device.max_mtu());
        let min = if self.device.is_some() { 68 } else { 0 };
        if !(min..=max).contains(&mtu) {
            return Err(abi::Errno::EINVAL);
        }
        self.mtu.store(mtu, Ordering::Relaxed);
        Ok(())
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

    pub(crate) fn add_address(&self, address: Address) -> bool {
        let mut state = self.state.lock();
        if state.addresses.iter().any(|a| a.ip == address.ip && a.prefix == address.prefix) {
            return false;
        }
        state.addresses.push(address);
        true
    }

    pub(crate) fn take_addresses(&self, is_meant: impl Fn(&Address) -> bool) -> Vec<Address> {
        let mut state = self.state.lock();
        let all = core::mem::take(&mut state.addresses);
        let (gone, stay) = all.into_iter().partition(is_meant);
        state.addresses = stay;
        gone
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
