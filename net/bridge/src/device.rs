//! The bridge itself.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::lock::{LockClass, RwSpinLock};
use netdevice::{Attribute, Devices, Forwarding, Frame, Interface, NetDevice, Offloads, Received};
use sched::Mutex;
use sched::timer::Timer;

use crate::fdb::{Fdb, Mac, Place, Reason};
use crate::port::{Port, state};
use crate::told;

static CONTROL: LockClass = LockClass::new("bridge.control", 211);
pub(crate) static PLACE: LockClass = LockClass::new("bridge.place", 539);
static PORTS: LockClass = LockClass::new("bridge.ports", 539);

/// Held while ports come and go.
static TURN: Mutex<()> = Mutex::new(&CONTROL, ());

/// Ports of a bridge at most (`BR_MAX_PORTS` and 0).
const MOST: u16 = 1023;
const SECOND_NS: u64 = 1_000_000_000;
/// `ageing_time`: IEEE 802.1D table 7-5.
const AGEING_NS: u64 = 300 * SECOND_NS;
const LONGEST: u32 = 65535;
/// The port number of the bridge itself.
pub(crate) const SELF: u16 = 0;

/// What is set and has no effect without a spanning tree and snooping: times in hundredths of a second.
pub(crate) struct Kept {
    pub(crate) forward_delay: AtomicU32,
    pub(crate) hello_time: AtomicU32,
    pub(crate) max_age: AtomicU32,
    pub(crate) priority: AtomicU16,
    pub(crate) snooping: AtomicBool,
}

/// The ports by their numbers, replaced when one comes or goes.
type Ports = Arc<[Arc<Port>]>;

/// A bridge.
pub(crate) struct Bridge {
    this: Weak<Bridge>,
    first_mac: Mac,
    pub(crate) fdb: Fdb,
    pub(crate) kept: Kept,
    ports: RwSpinLock<Ports>,
    interface: RwSpinLock<Weak<Interface>>,
    /// An administrator gave it its address, its longest packet.
    has_own_mac: AtomicBool,
    has_own_mtu: AtomicBool,
    has_carrier: AtomicBool,
    /// Counts the calls of [`update`](Self::update).
    updates: AtomicU32,
    /// Clears the data base up.
    timer: Arc<Timer>,
    is_armed: AtomicBool,
}

/// The bridge as its interface has it.
pub(crate) struct Handle(pub(crate) Arc<Bridge>);

/// Whom a frame that is flooded is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flood {
    Unknown,
    Group,
    All,
}

/// `01:80:c2:00:00:0x` (IEEE 802.1D table 7-10): what no bridge passes on, but for the first one, which is the
/// spanning tree's and goes where there is none.
fn reserved(to: Mac) -> Option<u8> {
    let [a, b, c, d, e, last] = to;
    ([a, b, c, d, e] == [1, 0x80, 0xc2, 0, 0] && last < 16).then_some(last)
}

impl Bridge {
    pub(crate) fn new(mac: Mac) -> Arc<Bridge> {
        Arc::new_cyclic(|this: &Weak<Bridge>| {
            let weak = this.clone();
            // In an interrupt: a worker does it.
            let timer = Timer::new(move |_| {
                let weak = weak.clone();
                sched::work::queue(move || {
                    if let Some(bridge) = weak.upgrade() {
                        bridge.clear_up();
                    }
                });
            });
            Bridge {
                this: this.clone(),
                first_mac: mac,
                fdb: Fdb::new(AGEING_NS),
                kept: Kept {
                    forward_delay: AtomicU32::new(1500),
                    hello_time: AtomicU32::new(200),
                    max_age: AtomicU32::new(2000),
                    priority: AtomicU16::new(0x8000),
                    snooping: AtomicBool::new(true),
                },
                ports: RwSpinLock::new(&PORTS, Arc::from([])),
                interface: RwSpinLock::new(&PLACE, Weak::new()),
                has_own_mac: AtomicBool::new(false),
                has_own_mtu: AtomicBool::new(false),
                has_carrier: AtomicBool::new(false),
                updates: AtomicU32::new(0),
                timer,
                is_armed: AtomicBool::new(false),
            }
        })
    }

    /// The bridge of an interface, if it is one.
    pub(crate) fn of(interface: &Interface) -> Option<Arc<Bridge>> {
        let device: &dyn core::any::Any = &**interface.device.as_ref()?;
        device.downcast_ref::<Handle>().map(|handle| handle.0.clone())
    }

    /// Its interface, while there is one.
    pub(crate) fn interface(&self) -> Option<Arc<Interface>> {
        self.interface.read().upgrade()
    }

    /// Its ports.
    pub(crate) fn ports(&self) -> Ports {
        self.ports.read().clone()
    }

    /// The port of a number.
    pub(crate) fn port(&self, number: u16) -> Option<Arc<Port>> {
        let ports = self.ports();
        let at = ports.binary_search_by_key(&number, |port| port.number).ok()?;
        ports.get(at).cloned()
    }

    fn port_of(&self, interface: &Interface) -> Option<Arc<Port>> {
        let ports = self.ports();
        ports.iter().find(|port| core::ptr::eq(&*port.interface, interface)).cloned()
    }

    /// `bridge_id`: priority and address.
    pub(crate) fn id(&self) -> [u8; 8] {
        let [a, b] = self.kept.priority.load(Ordering::Relaxed).to_be_bytes();
        let mac = self.interface().map_or(self.first_mac, |interface| interface.mac());
        let [c, d, e, f, g, h] = mac;
        [a, b, c, d, e, f, g, h]
    }

    /// A frame came on a port. What is given back is for the port itself.
    pub(crate) fn receive(&self, port: &Port, frame: Received) -> Option<Received> {
        let mut head = [0; 12];
        if frame.copy_out(0, &mut head) < head.len() {
            return None;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = head;
        let (to, from) = ([a, b, c, d, e, f], [g, h, i, j, k, l]);
        let state = port.state();
        if state == state::DISABLED || from[0] & 1 != 0 || from == [0; 6] {
            return None;
        }
        let is_passed = matches!(reserved(to), None | Some(0));
        // A pause of the link (IEEE 802.3 annex 31B) is nobody's but the hardware's.
        if reserved(to) == Some(1) {
            return None;
        }
        let now = arch::time::now_ns();
        if matches!(state, state::LEARNING | state::FORWARDING)
            && port.switches.learning.load(Ordering::Relaxed)
        {
            self.fdb.learn(from, port.number, now);
            self.arm();
        }
        if !is_passed {
            return Some(frame);
        }
        if state == state::FORWARDING {
            self.forward(port, to, frame, now);
        }
        None
    }

    fn forward(&self, port: &Port, to: Mac, frame: Received, now: u64) {
        let Some(own) = self.interface() else { return };
        if to[0] & 1 != 0 {
            let flood = if to == [0xff; 6] { Flood::All } else { Flood::Group };
            self.flood(Some(port), flood, &frame.clone().into_frame());
            return self.deliver(&own, frame);
        }
        let place = if to == own.mac() { Place::Here } else { self.fdb.find(to, now) };
        if place != Place::Here && own.is_promiscuous() {
            self.deliver(&own, frame.clone());
        }
        match place {
            Place::Here => self.deliver(&own, frame),
            Place::Behind(number) => {
                if let Some(other) = self.port(number) {
                    self.send_on(&other, Some(port), frame.into_frame());
                }
            }
            Place::Unknown => self.flood(Some(port), Flood::Unknown, &frame.into_frame()),
        }
    }

    /// A frame for this host.
    fn deliver(&self, own: &Arc<Interface>, frame: Received) {
        own.receive(&mut core::iter::once(frame));
    }

    /// Sends a frame on every port that takes such.
    fn flood(&self, from: Option<&Port>, flood: Flood, frame: &Frame) {
        for port in self.ports().iter() {
            let switch = match flood {
                Flood::Unknown => &port.switches.flood,
                Flood::Group => &port.switches.mcast_flood,
                Flood::All => &port.switches.bcast_flood,
            };
            // What this host sends to groups and to all is flooded whatever the switches say (case `bridge-own-frames`).
            let is_own = from.is_none() && flood != Flood::Unknown;
            if is_own || switch.load(Ordering::Relaxed) {
                self.send_on(port, from, frame.clone());
            }
        }
    }

    fn send_on(&self, port: &Port, from: Option<&Port>, frame: Frame) {
        if !port.lets_out(from, frame.len(), frame.segmentation.is_some()) {
            return;
        }
        if packet::is_listening()
            && let Some(namespace) = port.interface.namespace()
        {
            let seen = packet::Seen::sent(frame.bytes(), 14, frame.checksum.is_some());
            packet::show(&namespace, &port.interface, &seen);
        }
        // What finds no room is dropped, and counted there.
        let _ = port.interface.send(frame);
    }

    /// A frame of this host.
    fn transmit(&self, frame: &Frame) {
        let mut to = [0; 6];
        frame.bytes().copy_out(0, &mut to);
        if to[0] & 1 != 0 {
            let flood = if to == [0xff; 6] { Flood::All } else { Flood::Group };
            return self.flood(None, flood, frame);
        }
        match self.fdb.find(to, arch::time::now_ns()) {
            Place::Behind(number) => {
                if let Some(port) = self.port(number) {
                    self.send_on(&port, None, frame.clone());
                }
            }
            Place::Unknown => self.flood(None, Flood::Unknown, frame),
            // It does not send to itself.
            Place::Here => {}
        }
    }

    /// The number of the port that an interface is, or of the bridge itself. `EOPNOTSUPP` for others.
    pub(crate) fn number_of(&self, on: &Interface) -> Result<u16> {
        if self.interface().is_some_and(|own| core::ptr::eq(&*own, on)) {
            return Ok(SELF);
        }
        self.port_of(on).map(|port| port.number).ok_or(Errno::EOPNOTSUPP)
    }

    /// Looks at the data base again when its oldest entries may be too old.
    pub(crate) fn arm(&self) {
        if self.is_armed.load(Ordering::Relaxed) || self.is_armed.swap(true, Ordering::SeqCst) {
            return;
        }
        let wait = self.fdb.ageing_ns().clamp(SECOND_NS, AGEING_NS);
        self.timer.arm(arch::time::now_ns().saturating_add(wait));
    }

    fn clear_up(&self) {
        self.fdb.expire(arch::time::now_ns());
        self.is_armed.store(false, Ordering::SeqCst);
        if self.interface().is_some() && self.fdb.has_learned() {
            self.arm();
        }
    }

    /// Sets how long addresses are remembered.
    pub(crate) fn set_ageing_ns(&self, ageing_ns: u64) {
        self.fdb.set_ageing_ns(ageing_ns);
        if self.timer.cancel() {
            self.is_armed.store(false, Ordering::SeqCst);
        }
        self.arm();
    }

    fn take_port(&self, interface: &Arc<Interface>) -> Result<()> {
        let _turn = TURN.lock();
        let this = self.this.upgrade().ok_or(Errno::ENODEV)?;
        // Once it is gone nobody would give the port up.
        self.interface().ok_or(Errno::ENODEV)?;
        if Bridge::of(interface).is_some() {
            return Err(Errno::ELOOP);
        }
        if interface.is_loopback() || !interface.has_address() {
            return Err(Errno::EINVAL);
        }
        let ports = self.ports();
        let is_free = |number: &u16| ports.iter().all(|port| port.number != *number);
        let number = (1..=MOST).find(is_free).ok_or(Errno::EXFULL)?;
        let port = Port::new(number, interface, &this);
        interface.join(port.clone())?;
        // Whoever takes it away from now on finds that it is a port.
        if !is_there(interface) {
            interface.leave();
            return Err(Errno::ENODEV);
        }
        interface.change_promiscuity(1);
        // What another port has is noted there already.
        let _ = self.note(interface.mac(), number);
        let mut list: Vec<Arc<Port>> = ports.to_vec();
        let at = list.partition_point(|other| other.number < number);
        list.insert(at, port);
        self.replace(list);
        self.update();
        Ok(())
    }

    fn give_up_port(&self, interface: &Interface) -> Result<()> {
        let _turn = TURN.lock();
        let port = self.port_of(interface).ok_or(Errno::EINVAL)?;
        let ports = self.ports();
        let others = ports.iter().filter(|other| !Arc::ptr_eq(other, &port)).cloned();
        self.replace(others.collect());
        port.set_state(state::DISABLED);
        interface.leave();
        interface.change_promiscuity(-1);
        self.fdb.forget(|number, _| number == port.number);
        self.update();
        Ok(())
    }

    fn replace(&self, list: Vec<Arc<Port>>) {
        let old = core::mem::replace(&mut *self.ports.write(), Arc::from(list));
        drop(old);
    }

    fn note(&self, mac: Mac, port: u16) -> Result<()> {
        self.fdb.set(mac, (port, Reason::Local), (true, false), arch::time::now_ns())
    }

    /// States, address, longest packet and link follow the ports'. Whoever was overtaken by a change looks again, so
    /// that what it saw before does not last.
    pub(crate) fn update(&self) {
        let mut seen = self.updates.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        loop {
            self.follow_ports();
            let now = self.updates.load(Ordering::SeqCst);
            if now == seen {
                return;
            }
            seen = now;
        }
    }

    fn follow_ports(&self) {
        let Some(own) = self.interface() else { return };
        let ports = self.ports();
        for port in ports.iter() {
            self.update_port(port, own.is_up());
        }
        let mut is_changed = self.follow_mac(&own, &ports);
        let shortest = ports.iter().map(|port| port.interface.mtu()).min().unwrap_or(1500);
        if !self.has_own_mtu.load(Ordering::Relaxed) && own.mtu() != shortest {
            own.follow_mtu(shortest);
            is_changed = true;
        }
        let has_carrier = ports.iter().any(|port| port.state() == state::FORWARDING);
        let is_new = self.has_carrier.swap(has_carrier, Ordering::SeqCst) != has_carrier;
        let devices = own.namespace().and_then(|namespace| namespace.part_arc::<Devices>());
        let Some(devices) = devices else { return };
        if is_new {
            devices.carrier_changed(&own);
        } else if is_changed {
            devices.touch(&own);
        }
    }

    fn update_port(&self, port: &Port, is_up: bool) {
        let is_on = is_up && port.is_operational();
        match (port.was_on.swap(is_on, Ordering::SeqCst), is_on) {
            (false, true) => {
                port.set_state(state::FORWARDING);
            }
            (true, false) => {
                port.set_state(state::DISABLED);
                let number = port.number;
                self.fdb.forget(|behind, why| behind == number && why == Reason::Learned);
            }
            // A state that an administrator set stays.
            _ => {}
        }
        let mac = port.interface.mac();
        let old = core::mem::replace(&mut *port.noted.lock(), mac);
        if old != mac {
            // Who else has it keeps it.
            let _ = self.fdb.remove(old, port.number);
            let _ = self.note(mac, port.number);
        }
    }

    /// The lowest address of its ports (IEEE 802.1D §7.12.5), unless it was given one.
    fn follow_mac(&self, own: &Interface, ports: &[Arc<Port>]) -> bool {
        if self.has_own_mac.load(Ordering::Relaxed) {
            return false;
        }
        let lowest = ports.iter().map(|port| port.interface.mac()).min().unwrap_or([0; 6]);
        let has_had_any = own.mac() != self.first_mac || !ports.is_empty();
        if own.mac() == lowest || !has_had_any {
            return false;
        }
        own.follow_mac(lowest);
        true
    }

    fn close(&self) {
        {
            let _turn = TURN.lock();
            *self.interface.write() = Weak::new();
        }
        for port in self.ports().iter() {
            // Whoever was faster has done it.
            let _ = self.give_up_port(&port.interface);
        }
        self.timer.cancel();
    }
}

/// Whether an interface is in its namespace still.
fn is_there(interface: &Arc<Interface>) -> bool {
    let devices = interface.namespace().and_then(|namespace| namespace.part_arc::<Devices>());
    let found = devices.and_then(|devices| devices.by_index(interface.index));
    found.is_some_and(|found| Arc::ptr_eq(&found, interface))
}

impl NetDevice for Handle {
    fn mac(&self) -> Mac {
        self.0.first_mac
    }
    fn offloads(&self) -> Offloads {
        // What a port's device cannot do is done when the frame leaves there.
        Offloads::CHECKSUM | Offloads::SEGMENT4 | Offloads::SEGMENT6
    }
    fn transmit(&self, frame: Frame) -> Result<()> {
        self.0.transmit(&frame);
        Ok(())
    }
    fn has_carrier(&self) -> bool {
        self.0.has_carrier.load(Ordering::Relaxed)
    }
    fn driver(&self) -> &'static str {
        "bridge"
    }
    fn max_mtu(&self) -> u32 {
        LONGEST
    }
    fn first_mtu(&self) -> u32 {
        1500
    }
    fn kind(&self) -> Option<&'static str> {
        Some("bridge")
    }
    fn type_name(&self) -> Option<&'static str> {
        Some("bridge")
    }
    fn stays(&self) -> bool {
        true
    }
    fn details(&self) -> Vec<(u16, Vec<u8>)> {
        told::details(&self.0)
    }
    fn set_details(&self, details: &[(u16, &[u8])]) -> Result<()> {
        told::set_details(&self.0, details)
    }
    fn attributes(&self) -> Vec<Attribute> {
        told::attributes(&self.0)
    }
    fn take_port(&self, port: &Arc<Interface>) -> Result<()> {
        self.0.take_port(port)
    }
    fn give_up_port(&self, port: &Arc<Interface>) -> Result<()> {
        self.0.give_up_port(port)
    }
    fn forwarding(&self) -> Option<&dyn Forwarding> {
        Some(&*self.0)
    }
    fn address_changed(&self) {
        self.0.has_own_mac.store(true, Ordering::Relaxed);
        let mac = self.0.interface().map(|interface| interface.mac());
        self.0.fdb.forget(|port, why| port == SELF && why == Reason::Local);
        if let Some(mac) = mac {
            // A port's own is noted there already.
            let _ = self.0.note(mac, SELF);
        }
    }
    fn mtu_changed(&self) {
        self.0.has_own_mtu.store(true, Ordering::Relaxed);
    }
    fn attach(&self, interface: &Arc<Interface>) {
        *self.0.interface.write() = Arc::downgrade(interface);
        if self.0.has_own_mac.load(Ordering::Relaxed) {
            let _ = self.0.note(interface.mac(), SELF);
        }
    }
    fn changed(&self) {
        self.0.update();
    }
    fn removed(&self) {
        self.0.close();
    }
}
