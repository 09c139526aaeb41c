//! The device behind an interface.

use alloc::format;
use alloc::string::ToString;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicUsize, Ordering};

use abi::poll::{POLLERR, POLLHUP, POLLOUT, POLLWRNORM};
use abi::tun::{
    IFF_MULTI_QUEUE, IFF_NO_CARRIER, IFF_NO_PI, IFF_PERSIST, IFF_TAP, IFF_TUN, IFF_VNET_HDR,
    TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6,
};
use abi::{Errno, Result};
use arch::lock::{LockClass, RwSpinLock, SpinLock};
use netdevice::{
    ARPHRD_ETHER, ARPHRD_NONE, Attribute, Devices, Frame, Interface, NetDevice, Offloads, flag,
};
use smallvec::SmallVec;
use socket::Filter;
use vfs::{Cap, Creds};

use crate::choose::{self, Wanted};
use crate::queue::Queue;
use crate::wire::{Format, LEAST_HEADER};

static SETTINGS: LockClass = LockClass::new("tun.settings", 542);
static QUEUES: LockClass = LockClass::new("tun.queues", 543);

/// Queues of one device at most.
pub(crate) const MOST_QUEUES: usize = 256;
/// The longest packet, and the longest frame's payload.
const LONGEST: u32 = 65535;
const ETHERNET: u32 = 14;

/// Whose the device is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Owners {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

#[derive(Default)]
struct Settings {
    owners: Owners,
    wanted: Option<Wanted>,
    /// The bytes of `TUNATTACHFILTER`, which are read back.
    fprog: [u8; 16],
}

/// The files of a device.
#[derive(Default)]
struct Queues {
    active: SmallVec<[Arc<Queue>; 1]>,
    disabled: Vec<Arc<Queue>>,
    /// The interface is gone, and nobody joins any more.
    is_closed: bool,
}

/// A device whose wire is a program.
pub(crate) struct Tun {
    pub(crate) is_tap: bool,
    pub(crate) is_multi: bool,
    mac: [u8; 6],
    identifier: [u8; 8],
    /// `IFF_*` of the last `TUNSETIFF`, and `IFF_PERSIST`.
    flags: AtomicU16,
    /// Bytes of the header of `IFF_VNET_HDR`.
    pub(crate) header: AtomicUsize,
    /// `TUN_F_*`.
    pub(crate) offloads: AtomicU32,
    pub(crate) send_buffer: AtomicI32,
    pub(crate) is_little_endian: AtomicBool,
    has_carrier: AtomicBool,
    /// The link came or went at least once, or was told to be gone.
    knows_link: AtomicBool,
    pub(crate) filter: Filter,
    /// Whether [`Settings::wanted`] is there: most frames need no look at it.
    is_choosy: AtomicBool,
    settings: SpinLock<Settings>,
    queues: RwSpinLock<Queues>,
    interface: RwSpinLock<Weak<Interface>>,
}

/// The device as its interface has it.
pub(crate) struct Handle(pub(crate) Arc<Tun>);

impl Tun {
    /// A device for `TUNSETIFF` with these flags, whose first file has this queue.
    pub(crate) fn new(flags: u16, queue: &Arc<Queue>, random: [u8; 16]) -> Arc<Tun> {
        let [a, b, c, d, e, f, _, _, identifier @ ..] = random;
        let has_carrier = flags & IFF_NO_CARRIER == 0;
        let tun = Tun {
            is_tap: flags & IFF_TUN == 0,
            is_multi: flags & IFF_MULTI_QUEUE != 0,
            // RFC 7042 §2.1: an address that nobody has.
            mac: [a & !1 | 2, b, c, d, e, f],
            identifier,
            flags: AtomicU16::new(0),
            header: AtomicUsize::new(LEAST_HEADER),
            offloads: AtomicU32::new(0),
            send_buffer: AtomicI32::new(i32::MAX),
            is_little_endian: AtomicBool::new(false),
            has_carrier: AtomicBool::new(has_carrier),
            knows_link: AtomicBool::new(!has_carrier),
            filter: Filter::new(),
            is_choosy: AtomicBool::new(false),
            settings: SpinLock::new(&SETTINGS, Settings::default()),
            queues: RwSpinLock::new(&QUEUES, Queues::default()),
            interface: RwSpinLock::new(&QUEUES, Weak::new()),
        };
        tun.set_flags(flags);
        tun.queues.write().active.push(queue.clone());
        Arc::new(tun)
    }

    /// The device of an interface, if it is one of these.
    pub(crate) fn of(interface: &Interface) -> Option<Arc<Tun>> {
        let device: &dyn core::any::Any = &**interface.device.as_ref()?;
        device.downcast_ref::<Handle>().map(|handle| handle.0.clone())
    }

    /// Its interface, while there is one.
    pub(crate) fn interface(&self) -> Option<Arc<Interface>> {
        self.interface.read().upgrade()
    }

    /// Whether its interface is up.
    pub(crate) fn is_up(&self) -> bool {
        self.interface().is_some_and(|interface| interface.is_up())
    }

    /// Whether its interface was taken away.
    pub(crate) fn is_gone(&self) -> bool {
        self.queues.read().is_closed
    }

    /// `IFF_*` as they are told: its type, what `TUNSETIFF` said, `IFF_PERSIST`.
    pub(crate) fn flags(&self) -> u16 {
        // Relaxed here and below: lone numbers.
        let kind = if self.is_tap { IFF_TAP } else { IFF_TUN };
        let multi = if self.is_multi { IFF_MULTI_QUEUE } else { 0 };
        self.flags.load(Ordering::Relaxed) | kind | multi
    }

    fn has(&self, flag: u16) -> bool {
        self.flags() & flag != 0
    }

    /// What `TUNSETIFF` says of how packets stand in the file.
    pub(crate) fn set_flags(&self, flags: u16) {
        use abi::tun::{IFF_NAPI, IFF_NAPI_FRAGS, IFF_ONE_QUEUE};
        let kept = IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR | IFF_NAPI | IFF_NAPI_FRAGS;
        let stays = self.flags.load(Ordering::Relaxed) & IFF_PERSIST;
        self.flags.store(flags & kept | stays, Ordering::Relaxed);
    }

    /// Whether it stays without files.
    pub(crate) fn is_persistent(&self) -> bool {
        self.has(IFF_PERSIST)
    }

    /// `TUNSETPERSIST`.
    pub(crate) fn set_persistent(&self, stays: bool) {
        if stays {
            self.flags.fetch_or(IFF_PERSIST, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!IFF_PERSIST, Ordering::Relaxed);
        }
    }

    /// How packets stand in its files.
    pub(crate) fn format(&self) -> Format {
        Format {
            is_tap: self.is_tap,
            has_info: !self.has(IFF_NO_PI),
            header: self.has(IFF_VNET_HDR).then(|| self.header.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn owners(&self) -> Owners {
        self.settings.lock().owners
    }

    pub(crate) fn set_owners(&self, set: impl FnOnce(&mut Owners)) {
        set(&mut self.settings.lock().owners);
    }

    /// `TUNSETTXFILTER`.
    pub(crate) fn set_wanted(&self, wanted: Option<Wanted>) {
        let old = {
            let mut settings = self.settings.lock();
            self.is_choosy.store(wanted.is_some(), Ordering::Relaxed);
            core::mem::replace(&mut settings.wanted, wanted)
        };
        drop(old);
    }

    pub(crate) fn fprog(&self) -> [u8; 16] {
        self.settings.lock().fprog
    }

    pub(crate) fn set_fprog(&self, fprog: [u8; 16]) {
        self.settings.lock().fprog = fprog;
    }

    /// Whether somebody may use it: its owner, who is in its group (case `tun-rights`), anybody if it has neither, and who may
    /// administer the network.
    pub(crate) fn may_be_used(&self, creds: &Creds) -> bool {
        let Owners { user, group } = self.owners();
        let is_meant = user.is_none_or(|user| user == creds.euid)
            && group.is_none_or(|group| creds.in_effective_group(group));
        is_meant
            || self
                .interface()
                .and_then(|own| own.namespace())
                .is_some_and(|namespace| creds.ns_capable(&namespace.user_ns, Cap::NET_ADMIN))
    }

    /// Another file comes.
    ///
    /// # Errors
    /// `EBUSY` if it has one and takes no more, `E2BIG` if it has too many, `EBADFD` if it is gone.
    pub(crate) fn attach(&self, queue: &Arc<Queue>) -> Result<()> {
        let is_first = {
            let mut queues = self.queues.write();
            if queues.is_closed {
                return Err(Errno::EBADFD);
            }
            let count = queues.active.len();
            if count > 0 && !self.is_multi {
                return Err(Errno::EBUSY);
            }
            if count + queues.disabled.len() >= MOST_QUEUES {
                return Err(Errno::E2BIG);
            }
            queue.is_disabled.store(false, Ordering::Relaxed);
            queues.active.push(queue.clone());
            count + queues.disabled.len() == 0
        };
        if is_first {
            self.set_carrier(true);
        }
        Ok(())
    }

    /// A file goes: whether it was the last.
    pub(crate) fn detach(&self, queue: &Arc<Queue>) -> bool {
        let mut queues = self.queues.write();
        queues.active.retain(|other| !Arc::ptr_eq(other, queue));
        queues.disabled.retain(|other| !Arc::ptr_eq(other, queue));
        queues.active.is_empty() && queues.disabled.is_empty()
    }

    /// Takes a queue out of service. `EINVAL` if it is not in service.
    pub(crate) fn disable(&self, queue: &Arc<Queue>) -> Result<()> {
        let mut queues = self.queues.write();
        let at = queues.active.iter().position(|other| Arc::ptr_eq(other, queue));
        let at = at.filter(|_| self.is_multi).ok_or(Errno::EINVAL)?;
        queues.active.remove(at);
        queues.disabled.push(queue.clone());
        queue.is_disabled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes it into service again. `EINVAL` if it is.
    pub(crate) fn enable(&self, queue: &Arc<Queue>) -> Result<()> {
        let mut queues = self.queues.write();
        let at = queues.disabled.iter().position(|other| Arc::ptr_eq(other, queue));
        let at = at.ok_or(Errno::EINVAL)?;
        queues.disabled.swap_remove(at);
        queues.active.push(queue.clone());
        queue.is_disabled.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The link comes or goes.
    pub(crate) fn set_carrier(&self, is_there: bool) {
        if self.has_carrier.swap(is_there, Ordering::SeqCst) == is_there {
            return;
        }
        self.knows_link.store(true, Ordering::Relaxed);
        if let Some((interface, devices)) = self.place() {
            devices.carrier_changed(&interface);
        }
    }

    /// Its interface and where that is.
    fn place(&self) -> Option<(Arc<Interface>, Arc<Devices>)> {
        let interface = self.interface()?;
        let devices = interface.namespace()?.part_arc::<Devices>()?;
        Some((interface, devices))
    }

    /// Its last file went.
    pub(crate) fn leave(&self) {
        if self.is_persistent() {
            return self.set_carrier(false);
        }
        if let Some((interface, devices)) = self.place() {
            // Whoever was faster has done it.
            let _ = devices.remove(interface.index);
        }
        self.close();
    }

    /// The interface is gone: so is what waited, and who waits hears of it.
    pub(crate) fn close(&self) {
        let Queues { active, disabled, .. } = {
            let mut queues = self.queues.write();
            let closed = Queues { is_closed: true, ..Queues::default() };
            core::mem::replace(&mut *queues, closed)
        };
        for queue in active.into_iter().chain(disabled) {
            queue.clear();
            queue.changed.notify(POLLERR | POLLHUP);
        }
        *self.interface.write() = Weak::new();
    }

    /// The queue that a frame goes to.
    fn queue_for(&self, frame: &Frame) -> Option<Arc<Queue>> {
        let queues = self.queues.read();
        match &*queues.active {
            [one] => Some(one.clone()),
            [] => None,
            all => {
                let link = if self.is_tap { ETHERNET as usize } else { 0 };
                all.get(choose::flow(&frame.bytes(), link) % all.len()).cloned()
            }
        }
    }

    /// Whether a frame is wanted by who reads.
    fn passes(&self, frame: &Frame) -> bool {
        if !self.is_tap {
            return true;
        }
        let mut to = [0; 6];
        frame.bytes().copy_out(0, &mut to);
        if self.is_choosy.load(Ordering::Relaxed)
            && self.settings.lock().wanted.as_ref().is_some_and(|wanted| !wanted.has(to))
        {
            return false;
        }
        let bytes = frame.bytes();
        let len = frame.len();
        let packet = || socket::filter::plain(&bytes, len, 0);
        self.filter.pass(len, 0, packet).is_some()
    }
}

impl NetDevice for Handle {
    fn mac(&self) -> [u8; 6] {
        if self.0.is_tap { self.0.mac } else { [0; 6] }
    }
    fn offloads(&self) -> Offloads {
        if !self.0.has(IFF_VNET_HDR) {
            return Offloads::empty();
        }
        let taken = self.0.offloads.load(Ordering::Relaxed);
        let pairs = [
            (TUN_F_CSUM, Offloads::CHECKSUM),
            (TUN_F_TSO4, Offloads::SEGMENT4),
            (TUN_F_TSO6, Offloads::SEGMENT6),
        ];
        let has = pairs.into_iter().filter(|(bit, _)| taken & bit != 0);
        has.fold(Offloads::empty(), |all, (_, offload)| all | offload)
    }
    fn transmit(&self, frame: Frame) -> Result<()> {
        let queue = self.0.queue_for(&frame).ok_or(Errno::ENOBUFS)?;
        if !self.0.passes(&frame) {
            return Err(Errno::ENOBUFS);
        }
        let most = self.0.interface().map_or(0, |interface| interface.tx_queue_len());
        queue.push(frame, most as usize)
    }
    fn has_carrier(&self) -> bool {
        self.0.has_carrier.load(Ordering::Relaxed)
    }
    fn driver(&self) -> &'static str {
        "tun"
    }
    fn max_mtu(&self) -> u32 {
        if self.0.is_tap { LONGEST - ETHERNET } else { LONGEST }
    }
    fn first_mtu(&self) -> u32 {
        1500
    }
    fn first_flags(&self) -> u32 {
        if self.0.is_tap {
            flag::BROADCAST | flag::MULTICAST
        } else {
            flag::POINTOPOINT | flag::NOARP | flag::MULTICAST
        }
    }
    fn first_queue_len(&self) -> u32 {
        // TUN_READQ_SIZE
        if self.0.is_tap { 1000 } else { 500 }
    }
    fn hardware(&self) -> u16 {
        if self.0.is_tap { ARPHRD_ETHER } else { ARPHRD_NONE }
    }
    fn link_len(&self) -> usize {
        if self.0.is_tap { ETHERNET as usize } else { 0 }
    }
    fn identifier(&self) -> Option<[u8; 8]> {
        (!self.0.is_tap).then_some(self.0.identifier)
    }
    fn knows_link(&self) -> bool {
        self.0.knows_link.load(Ordering::Relaxed)
    }
    fn speed_mbps(&self) -> Option<u32> {
        Some(10)
    }
    fn counts_sent(&self) -> bool {
        true
    }
    fn details(&self) -> Vec<(u16, Vec<u8>)> {
        details(&self.0)
    }
    fn attributes(&self) -> Vec<Attribute> {
        let id = |id: Option<u32>| id.map_or(-1, |id| id as i32).to_string();
        let [flags, user, group] = [(); 3].map(|()| self.0.clone());
        [
            Attribute::line("tun_flags", move || format!("{:#x}", flags.flags())),
            Attribute::line("owner", move || id(user.owners().user)),
            Attribute::line("group", move || id(group.owners().group)),
        ]
        .into()
    }
    fn kind(&self) -> Option<&'static str> {
        Some("tun")
    }
    fn attach(&self, interface: &Arc<Interface>) {
        *self.0.interface.write() = Arc::downgrade(interface);
    }
    fn changed(&self) {
        let all: Vec<Arc<Queue>> = self.0.queues.read().active.iter().cloned().collect();
        all.iter().for_each(|queue| queue.changed.notify(POLLOUT | POLLWRNORM));
    }
    fn removed(&self) {
        self.0.close();
    }
}

/// `IFLA_TUN_*`.
fn details(tun: &Tun) -> Vec<(u16, Vec<u8>)> {
    const OWNER: u16 = 1;
    const GROUP: u16 = 2;
    const TYPE: u16 = 3;
    const PI: u16 = 4;
    const VNET_HDR: u16 = 5;
    const PERSIST: u16 = 6;
    const MULTI_QUEUE: u16 = 7;
    const NUM_QUEUES: u16 = 8;
    const NUM_DISABLED_QUEUES: u16 = 9;
    let byte = |kind: u16, value: bool| (kind, Vec::from([u8::from(value)]));
    let word = |kind: u16, value: u32| (kind, value.to_ne_bytes().to_vec());
    let Owners { user, group } = tun.owners();
    let mut all = Vec::from([(TYPE, Vec::from([if tun.is_tap { 2 } else { 1 }]))]);
    all.extend(user.map(|user| word(OWNER, user)));
    all.extend(group.map(|group| word(GROUP, group)));
    all.push(byte(PI, !tun.has(IFF_NO_PI)));
    all.push(byte(VNET_HDR, tun.has(IFF_VNET_HDR)));
    all.push(byte(PERSIST, tun.is_persistent()));
    all.push(byte(MULTI_QUEUE, tun.is_multi));
    if tun.is_multi {
        let queues = tun.queues.read();
        all.push(word(NUM_QUEUES, queues.active.len() as u32));
        all.push(word(NUM_DISABLED_QUEUES, queues.disabled.len() as u32));
    }
    all
}
