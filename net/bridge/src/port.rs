//! A port of a bridge.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use abi::{Errno, Result};
use netdevice::{Attribute, Interface, Received, Upper};

use crate::device::Bridge;
use crate::told;

/// `BR_STATE_*`.
pub(crate) mod state {
    pub(crate) const DISABLED: u8 = 0;
    pub(crate) const LEARNING: u8 = 2;
    pub(crate) const FORWARDING: u8 = 3;
    pub(crate) const BLOCKING: u8 = 4;
}

/// What a port does with frames, each as its switch of bridge(8).
pub(crate) struct Switches {
    pub(crate) hairpin: AtomicBool,
    pub(crate) isolated: AtomicBool,
    pub(crate) learning: AtomicBool,
    pub(crate) flood: AtomicBool,
    pub(crate) mcast_flood: AtomicBool,
    pub(crate) bcast_flood: AtomicBool,
}

/// A port.
pub(crate) struct Port {
    /// Its number, from 1 on.
    pub(crate) number: u16,
    pub(crate) interface: Arc<Interface>,
    pub(crate) bridge: Weak<Bridge>,
    state: AtomicU8,
    /// Whether it was up, with a link and a bridge that is up, when that was last looked at.
    pub(crate) was_on: AtomicBool,
    pub(crate) priority: AtomicU8,
    pub(crate) cost: AtomicU32,
    pub(crate) switches: Switches,
    /// The address it was noted with in the data base.
    pub(crate) noted: arch::lock::SpinLock<[u8; 6]>,
}

/// The longest frame that is no longer than the link takes: a tag may stand before the protocol.
const AROUND: usize = 14 + 4;

impl Port {
    pub(crate) fn new(number: u16, interface: &Arc<Interface>, bridge: &Arc<Bridge>) -> Arc<Port> {
        let on = || AtomicBool::new(true);
        let off = || AtomicBool::new(false);
        let speed = interface.device.as_ref().and_then(|device| device.speed_mbps());
        Arc::new(Port {
            number,
            interface: interface.clone(),
            bridge: Arc::downgrade(bridge),
            state: AtomicU8::new(state::DISABLED),
            was_on: off(),
            priority: AtomicU8::new(32),
            cost: AtomicU32::new(cost_of(speed)),
            switches: Switches {
                hairpin: off(),
                isolated: off(),
                learning: on(),
                flood: on(),
                mcast_flood: on(),
                bcast_flood: on(),
            },
            noted: arch::lock::SpinLock::new(&crate::device::PLACE, interface.mac()),
        })
    }

    /// `BR_STATE_*`.
    #[inline]
    pub(crate) fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    /// Sets its state; the one before.
    pub(crate) fn set_state(&self, state: u8) -> u8 {
        self.state.swap(state, Ordering::SeqCst)
    }

    /// Whether frames can pass it at all.
    pub(crate) fn is_operational(&self) -> bool {
        self.interface.is_running()
    }

    /// Whether a frame of this length, that came on a port or from this host, may leave here.
    pub(crate) fn lets_out(&self, from: Option<&Port>, len: usize, is_cut: bool) -> bool {
        let is_on = |switch: &AtomicBool| switch.load(Ordering::Relaxed);
        let fits_link = is_cut || len <= self.interface.mtu() as usize + AROUND;
        self.state() == state::FORWARDING
            && fits_link
            && from.is_none_or(|from| {
                let is_back = core::ptr::eq(from, self);
                let are_apart = is_on(&from.switches.isolated) && is_on(&self.switches.isolated);
                (!is_back || is_on(&self.switches.hairpin)) && !are_apart
            })
    }

    /// `port_id`: priority and number.
    pub(crate) fn id(&self) -> u16 {
        u16::from(self.priority.load(Ordering::Relaxed)) << 10 | self.number & 0x3ff
    }

    /// Sets its state as a program says.
    pub(crate) fn set_asked_state(&self, wanted: u8) -> Result<()> {
        if wanted > state::BLOCKING {
            return Err(Errno::EINVAL);
        }
        if !self.is_operational() {
            return Err(Errno::ENETDOWN);
        }
        // Without a spanning tree there is nothing that a port would be blocked for (case `bridge-frames`).
        self.set_state(if wanted == state::BLOCKING { state::FORWARDING } else { wanted });
        Ok(())
    }
}

/// IEEE 802.1D-1998 table 8-5, as far as there are such speeds.
fn cost_of(speed_mbps: Option<u32>) -> u32 {
    match speed_mbps {
        Some(10_000..) => 2,
        Some(1000..) => 4,
        Some(100..) => 19,
        _ => 100,
    }
}

impl Upper for Port {
    fn receive(&self, _: &Arc<Interface>, frame: Received) -> Option<Received> {
        match self.bridge.upgrade() {
            Some(bridge) => bridge.receive(self, frame),
            None => Some(frame),
        }
    }
    fn master(&self) -> Option<Arc<Interface>> {
        self.bridge.upgrade()?.interface()
    }
    fn kind(&self) -> &'static str {
        "bridge"
    }
    fn details(&self) -> Vec<(u16, Vec<u8>)> {
        self.bridge.upgrade().map_or_else(Vec::new, |bridge| told::port_details(&bridge, self))
    }
    fn set_details(&self, details: &[(u16, &[u8])]) -> Result<()> {
        told::set_port_details(self, details)
    }
    fn port_changed(&self) {
        if let Some(bridge) = self.bridge.upgrade() {
            bridge.update();
        }
    }
    fn attributes(&self) -> Vec<Attribute> {
        let bridge = self.bridge.upgrade();
        let port = bridge.as_ref().and_then(|bridge| bridge.port(self.number));
        bridge.zip(port).map_or_else(Vec::new, |(b, p)| told::port_attributes(&b, &p))
    }
}
