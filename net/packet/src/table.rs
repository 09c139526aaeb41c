//! Which sockets listen to what, and the way by which they are shown frames.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use arch::lock::{LockClass, RwSpinLock};
use hashbrown::HashMap;
use netdevice::{Change, Devices, Interface, Spread};
use smallvec::SmallVec;
use socket::{NamespacePart, NetNamespace, Slot};

use crate::sock::PacketSocket;
use crate::{ALL, Whom};

static SOCKETS: LockClass = LockClass::new("packet.sockets", 542);

/// Sockets of the machine that listen.
static LISTENING: AtomicUsize = AtomicUsize::new(0);

/// A frame that goes through an interface.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Its bytes.
    pub bytes: Spread<'a>,
    /// The length of the link's header, with which they begin.
    pub link_len: usize,
    /// Whom it is for.
    pub whom: Whom,
    /// `TP_STATUS_CSUMNOTREADY`, `TP_STATUS_CSUM_VALID` or nothing.
    pub sum: u32,
    /// `ETH_P_*` where no link's header says it.
    pub told: u16,
}

/// `TP_STATUS_CSUMNOTREADY`: the device is to compute the sum.
pub(crate) const SUM_MISSING: u32 = 8;
/// `TP_STATUS_CSUM_VALID`: the sum was found right.
pub(crate) const SUM_GOOD: u32 = 128;

impl<'a> Seen<'a> {
    /// A frame that is sent; `lacks_sum` if the device is to compute one.
    pub fn sent(bytes: Spread<'a>, link_len: usize, lacks_sum: bool) -> Seen<'a> {
        let sum = if lacks_sum { SUM_MISSING } else { 0 };
        Seen { bytes, link_len, whom: Whom::Outgoing, sum, told: 0 }
    }

    /// A frame that came; `is_sum_good` if the device vouches for its sums.
    pub fn came(bytes: Spread<'a>, interface: &Interface, is_sum_good: bool) -> Seen<'a> {
        let sum = if is_sum_good { SUM_GOOD } else { 0 };
        if !interface.has_address() {
            return Seen { bytes, link_len: 0, whom: Whom::Host, sum, told: 0 };
        }
        let mut to = [0u8; 6];
        bytes.copy_out(0, &mut to);
        let whom = match to {
            // The loopback interface has no address for all.
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] if !interface.is_loopback() => Whom::Broadcast,
            [first, ..] if first & 1 != 0 => Whom::Multicast,
            to if to == interface.mac() => Whom::Host,
            _ => Whom::Other,
        };
        Seen { bytes, link_len: 14, whom, sum, told: 0 }
    }

    /// The same, of a protocol that no link's header says.
    pub fn of_protocol(self, protocol: u16) -> Seen<'a> {
        Seen { told: protocol, ..self }
    }

    /// The same, with a sum that nobody has computed: what stays on this machine needs none.
    pub fn lacking_sum(self) -> Seen<'a> {
        Seen { sum: SUM_MISSING, ..self }
    }

    /// `ETH_P_*` as the header says it; what came with a length is 802.2.
    pub(crate) fn protocol(&self) -> u16 {
        if self.link_len == 0 {
            return self.told;
        }
        let mut kind = [0u8; 2];
        self.bytes.copy_out(self.link_len.saturating_sub(2), &mut kind);
        match u16::from_be_bytes(kind) {
            kind if kind >= 0x600 || self.whom == Whom::Outgoing => kind,
            _ => 4,
        }
    }
}

#[derive(Default)]
struct Inner {
    /// Those that want every protocol, those that leave included.
    all: Vec<Arc<PacketSocket>>,
    by_protocol: HashMap<u16, Vec<Arc<PacketSocket>>>,
    /// Every socket there is by its inode number, for `/proc/net/packet`.
    every: BTreeMap<u64, Weak<PacketSocket>>,
}

/// The packet sockets of a namespace.
pub(crate) struct Table {
    inner: RwSpinLock<Inner>,
}

impl NamespacePart for Table {
    const SLOT: Slot = Slot::Packet;
    fn new(namespace: &Weak<NetNamespace>) -> Table {
        if let Some(devices) = namespace.upgrade().and_then(|n| n.part_arc::<Devices>()) {
            let namespace = namespace.clone();
            devices.watch(Arc::new(move |change| {
                let (interface, is_gone) = match change {
                    Change::Interface(interface) => (interface, false),
                    Change::Gone(interface) => (interface, true),
                    _ => return,
                };
                let Some(namespace) = namespace.upgrade() else { return };
                let every = namespace.try_part::<Table>().map(Table::every).unwrap_or_default();
                every.iter().for_each(|socket| socket.interface_changed(interface, is_gone));
            }));
        }
        Table { inner: RwSpinLock::new(&SOCKETS, Inner::default()) }
    }
}

type Found = SmallVec<[Arc<PacketSocket>; 4]>;

impl Table {
    pub(crate) fn add(&self, socket: &Arc<PacketSocket>) {
        self.inner.write().every.insert(socket.common.ino, Arc::downgrade(socket));
    }

    pub(crate) fn remove(&self, socket: &PacketSocket) {
        self.inner.write().every.remove(&socket.common.ino);
    }

    /// All sockets there are.
    pub(crate) fn every(&self) -> Vec<Arc<PacketSocket>> {
        self.inner.read().every.values().filter_map(Weak::upgrade).collect()
    }

    /// A socket listens to a protocol from now on.
    pub(crate) fn listen(&self, socket: &Arc<PacketSocket>, protocol: u16) {
        let mut inner = self.inner.write();
        if protocol == ALL {
            inner.all.push(socket.clone());
        } else {
            inner.by_protocol.entry(protocol).or_default().push(socket.clone());
        }
        LISTENING.fetch_add(1, Ordering::SeqCst);
    }

    /// It does not any more.
    pub(crate) fn ignore(&self, socket: &PacketSocket, protocol: u16) {
        let is_me = |other: &Arc<PacketSocket>| core::ptr::eq(&**other, socket);
        let gone = {
            let mut inner = self.inner.write();
            let Inner { all, by_protocol, .. } = &mut *inner;
            let mut list = if protocol == ALL { Some(all) } else { by_protocol.get_mut(&protocol) };
            let at = list.as_ref().and_then(|list| list.iter().position(is_me));
            let gone = list.as_mut().zip(at).map(|(list, at)| list.swap_remove(at));
            if protocol != ALL && list.is_some_and(|list| list.is_empty()) {
                by_protocol.remove(&protocol);
            }
            gone
        };
        if gone.is_some() {
            LISTENING.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn find(&self, interface: &Interface, seen: &Seen<'_>) -> Found {
        let inner = self.inner.read();
        let wants = |socket: &&Arc<PacketSocket>| socket.hears(interface.index);
        let mut found: Found = inner.all.iter().filter(wants).cloned().collect();
        // Frames that leave are seen by those that want all protocols alone.
        if seen.whom != Whom::Outgoing {
            let own = inner.by_protocol.get(&seen.protocol());
            found.extend(own.into_iter().flatten().filter(wants).cloned());
        }
        found
    }
}

/// Whether a frame has to be shown: whether anybody in the machine listens.
#[inline]
pub fn is_listening() -> bool {
    // Relaxed: a frame on its way while a program begins to listen may be missed.
    LISTENING.load(Ordering::Relaxed) != 0
}

/// Whether somebody listens to an interface, for frames that would not be made but for that.
pub fn is_listening_to(namespace: &NetNamespace, index: u32) -> bool {
    is_listening()
        && namespace.try_part::<Table>().is_some_and(|table| {
            let inner = table.inner.read();
            let mut listening = inner.all.iter().chain(inner.by_protocol.values().flatten());
            listening.any(|socket| socket.hears(index))
        })
}

/// Shows a frame to those that listen, but not to who sent it.
#[cold]
pub fn show(namespace: &NetNamespace, interface: &Interface, seen: &Seen<'_>) {
    show_but(namespace, interface, seen, None);
}

pub(crate) fn show_but(
    namespace: &NetNamespace,
    interface: &Interface,
    seen: &Seen<'_>,
    sender: Option<&PacketSocket>,
) {
    let Some(table) = namespace.try_part::<Table>() else { return };
    // A device without promiscuous mode does not deliver what is for others.
    if seen.whom == Whom::Other && !interface.is_loopback() && !interface.is_promiscuous() {
        return;
    }
    let time_ns = sched::clock::realtime_ns();
    for socket in table.find(interface, seen) {
        if sender.is_none_or(|sender| !core::ptr::eq(sender, &*socket)) {
            socket.take_in(interface, seen, time_ns);
        }
    }
}
