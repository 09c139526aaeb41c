//! What rtnetlink (`IFLA_BR_*`, `IFLA_BRPORT_*` of `linux/if_link.h`) and `/sys` tell of bridges and change. Times are in
//! hundredths of a second.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use netdevice::{Attribute, Forwarded, Forwarding, Interface, Kind, NetDevice};

use crate::device::{Bridge, Handle, SELF};
use crate::fdb::{Mac, Reason};
use crate::port::Port;

/// Nanoseconds of a hundredth of a second.
const TICK_NS: u64 = 10_000_000;
/// `ETH_P_8021Q`: what tags would say, were they looked at.
const VLAN: u16 = 0x8100;
/// `BR_GROUPFWD_*`: the spanning tree's address, which no one is told to change.
const GROUP: Mac = [1, 0x80, 0xc2, 0, 0, 0];

/// Makes the kind known. Once, at start-up.
pub fn init() {
    netdevice::register_kind(&BridgeKind);
}

struct BridgeKind;

impl Kind for BridgeKind {
    fn name(&self) -> &'static str {
        "bridge"
    }
    fn pattern(&self) -> &'static str {
        "bridge%d"
    }
    fn make(&self, mac: [u8; 6], details: &[(u16, &[u8])]) -> Result<Arc<dyn NetDevice>> {
        let bridge = Bridge::new(mac);
        set_details(&bridge, details)?;
        Ok(Arc::new(Handle(bridge)))
    }
}

fn byte(kind: u16, value: u8) -> (u16, Vec<u8>) {
    (kind, Vec::from([value]))
}

fn half(kind: u16, value: u16) -> (u16, Vec<u8>) {
    (kind, value.to_ne_bytes().to_vec())
}

fn word(kind: u16, value: u32) -> (u16, Vec<u8>) {
    (kind, value.to_ne_bytes().to_vec())
}

fn long(kind: u16, value: u64) -> (u16, Vec<u8>) {
    (kind, value.to_ne_bytes().to_vec())
}

/// A number of as many bytes as it has. `ERANGE` for another length, as Linux says of what is too short.
fn number(value: &[u8]) -> Result<u32> {
    match *value {
        [a] => Ok(u32::from(a)),
        [a, b] => Ok(u32::from(u16::from_ne_bytes([a, b]))),
        [a, b, c, d, ..] => Ok(u32::from_ne_bytes([a, b, c, d])),
        _ => Err(Errno::ERANGE),
    }
}

/// What is not there can be switched off only.
fn is_off(value: u32) -> Result<()> {
    if value == 0 { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

fn ageing(bridge: &Bridge) -> u32 {
    u32::try_from(bridge.fdb.ageing_ns() / TICK_NS).unwrap_or(u32::MAX)
}

mod br {
    pub(super) const FORWARD_DELAY: u16 = 1;
    pub(super) const HELLO_TIME: u16 = 2;
    pub(super) const MAX_AGE: u16 = 3;
    pub(super) const AGEING_TIME: u16 = 4;
    pub(super) const STP_STATE: u16 = 5;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const VLAN_FILTERING: u16 = 7;
    pub(super) const VLAN_PROTOCOL: u16 = 8;
    pub(super) const GROUP_FWD_MASK: u16 = 9;
    pub(super) const ROOT_ID: u16 = 10;
    pub(super) const BRIDGE_ID: u16 = 11;
    pub(super) const ROOT_PORT: u16 = 12;
    pub(super) const ROOT_PATH_COST: u16 = 13;
    pub(super) const TOPOLOGY_CHANGE: u16 = 14;
    pub(super) const TOPOLOGY_CHANGE_DETECTED: u16 = 15;
    /// The four timers.
    pub(super) const TIMERS: core::ops::RangeInclusive<u16> = 16..=19;
    pub(super) const GROUP_ADDR: u16 = 20;
    pub(super) const FDB_FLUSH: u16 = 21;
    pub(super) const MCAST_SNOOPING: u16 = 23;
    pub(super) const MCAST_QUERY_USE_IFADDR: u16 = 24;
    pub(super) const MCAST_QUERIER: u16 = 25;
    pub(super) const NF_CALL_IPTABLES: u16 = 36;
    pub(super) const NF_CALL_ARPTABLES: u16 = 38;
}

/// `IFLA_INFO_DATA` of a bridge.
pub(crate) fn details(bridge: &Bridge) -> Vec<(u16, Vec<u8>)> {
    // Relaxed here and below: lone numbers.
    let kept = &bridge.kept;
    let mut all: Vec<(u16, Vec<u8>)> = br::TIMERS.map(|kind| long(kind, 0)).collect();
    all.extend([
        word(br::FORWARD_DELAY, kept.forward_delay.load(Ordering::Relaxed)),
        word(br::HELLO_TIME, kept.hello_time.load(Ordering::Relaxed)),
        word(br::MAX_AGE, kept.max_age.load(Ordering::Relaxed)),
        word(br::AGEING_TIME, ageing(bridge)),
        word(br::STP_STATE, 0),
        half(br::PRIORITY, kept.priority.load(Ordering::Relaxed)),
        byte(br::VLAN_FILTERING, 0),
        (br::VLAN_PROTOCOL, VLAN.to_be_bytes().to_vec()),
        half(br::GROUP_FWD_MASK, 0),
        (br::BRIDGE_ID, bridge.id().to_vec()),
        (br::ROOT_ID, bridge.id().to_vec()),
        half(br::ROOT_PORT, 0),
        word(br::ROOT_PATH_COST, 0),
        byte(br::TOPOLOGY_CHANGE, 0),
        byte(br::TOPOLOGY_CHANGE_DETECTED, 0),
        (br::GROUP_ADDR, GROUP.to_vec()),
        byte(br::MCAST_SNOOPING, u8::from(kept.snooping.load(Ordering::Relaxed))),
    ]);
    all
}

/// Changes what is told of a bridge.
pub(crate) fn set_details(bridge: &Bridge, details: &[(u16, &[u8])]) -> Result<()> {
    for (kind, value) in details {
        if *kind == br::FDB_FLUSH {
            bridge.fdb.forget(|_, why| why == Reason::Learned);
            continue;
        }
        set(bridge, *kind, number(value)?)?;
    }
    Ok(())
}

fn within(value: u32, range: core::ops::RangeInclusive<u32>) -> Result<u32> {
    if range.contains(&value) { Ok(value) } else { Err(Errno::ERANGE) }
}

fn set(bridge: &Bridge, kind: u16, value: u32) -> Result<()> {
    let kept = &bridge.kept;
    match kind {
        br::FORWARD_DELAY => kept.forward_delay.store(value, Ordering::Relaxed),
        br::HELLO_TIME => kept.hello_time.store(within(value, 100..=1000)?, Ordering::Relaxed),
        br::MAX_AGE => kept.max_age.store(within(value, 600..=4000)?, Ordering::Relaxed),
        br::AGEING_TIME => bridge.set_ageing_ns(u64::from(value) * TICK_NS),
        br::PRIORITY => kept.priority.store(value as u16, Ordering::Relaxed),
        br::MCAST_SNOOPING => kept.snooping.store(value != 0, Ordering::Relaxed),
        br::STP_STATE
        | br::VLAN_FILTERING
        | br::GROUP_FWD_MASK
        | br::MCAST_QUERY_USE_IFADDR
        | br::MCAST_QUERIER
        | br::NF_CALL_IPTABLES..=br::NF_CALL_ARPTABLES => is_off(value)?,
        br::VLAN_PROTOCOL if value as u16 == VLAN.to_be() => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(())
}

mod brport {
    pub(super) const STATE: u16 = 1;
    pub(super) const PRIORITY: u16 = 2;
    pub(super) const COST: u16 = 3;
    pub(super) const MODE: u16 = 4;
    pub(super) const LEARNING: u16 = 8;
    pub(super) const UNICAST_FLOOD: u16 = 9;
    pub(super) const ROOT_ID: u16 = 13;
    pub(super) const BRIDGE_ID: u16 = 14;
    pub(super) const DESIGNATED_PORT: u16 = 15;
    pub(super) const DESIGNATED_COST: u16 = 16;
    pub(super) const ID: u16 = 17;
    pub(super) const NO: u16 = 18;
    pub(super) const TIMERS: core::ops::RangeInclusive<u16> = 21..=23;
    pub(super) const FLUSH: u16 = 24;
    pub(super) const MULTICAST_ROUTER: u16 = 25;
    pub(super) const MCAST_FLOOD: u16 = 27;
    pub(super) const BCAST_FLOOD: u16 = 30;
    pub(super) const GROUP_FWD_MASK: u16 = 31;
    pub(super) const ISOLATED: u16 = 33;
    /// What is not there, and off: guards of the spanning tree, fast leave, proxies of ARP, acknowledgements, groups to
    /// one, tunnels, suppression, locks.
    pub(super) const OFF: [u16; 12] = [5, 6, 7, 28, 10, 12, 19, 20, 29, 32, 38, 39];
}

/// The switches of a port by their attributes, and their files in `brport`.
fn switches(port: &Port) -> [(u16, &'static str, &AtomicBool); 6] {
    let own = &port.switches;
    [
        (brport::MODE, "hairpin_mode", &own.hairpin),
        (brport::LEARNING, "learning", &own.learning),
        (brport::UNICAST_FLOOD, "unicast_flood", &own.flood),
        (brport::MCAST_FLOOD, "multicast_flood", &own.mcast_flood),
        (brport::BCAST_FLOOD, "broadcast_flood", &own.bcast_flood),
        (brport::ISOLATED, "isolated", &own.isolated),
    ]
}

/// `IFLA_INFO_SLAVE_DATA` of a port.
pub(crate) fn port_details(bridge: &Bridge, port: &Port) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::from([
        byte(brport::STATE, port.state()),
        half(brport::PRIORITY, u16::from(port.priority.load(Ordering::Relaxed))),
        word(brport::COST, port.cost.load(Ordering::Relaxed)),
    ]);
    let switches = switches(port).into_iter();
    all.extend(switches.map(|(kind, _, on)| byte(kind, u8::from(on.load(Ordering::Relaxed)))));
    all.extend(brport::OFF.map(|kind| byte(kind, 0)));
    all.extend([
        (brport::ROOT_ID, bridge.id().to_vec()),
        (brport::BRIDGE_ID, bridge.id().to_vec()),
        half(brport::DESIGNATED_PORT, port.id()),
        half(brport::DESIGNATED_COST, 0),
        half(brport::ID, port.id()),
        half(brport::NO, port.number),
        half(brport::GROUP_FWD_MASK, 0),
        byte(brport::MULTICAST_ROUTER, 1),
    ]);
    all.extend(brport::TIMERS.map(|kind| long(kind, 0)));
    all
}

/// Changes what is told of a port.
pub(crate) fn set_port_details(port: &Port, details: &[(u16, &[u8])]) -> Result<()> {
    for (kind, value) in details {
        match *kind {
            brport::FLUSH => flush(port),
            kind => set_port(port, kind, number(value)?)?,
        }
    }
    Ok(())
}

/// Forgets what was learned behind a port.
fn flush(port: &Port) {
    if let Some(bridge) = port.bridge.upgrade() {
        bridge.fdb.forget(|number, why| number == port.number && why == Reason::Learned);
    }
}

fn set_port(port: &Port, kind: u16, value: u32) -> Result<()> {
    if let Some((_, _, switch)) = switches(port).into_iter().find(|(own, ..)| *own == kind) {
        switch.store(value != 0, Ordering::Relaxed);
        return Ok(());
    }
    match kind {
        brport::STATE => port.set_asked_state(value as u8)?,
        brport::PRIORITY => {
            port.priority.store(within(value, 0..=63)? as u8, Ordering::Relaxed);
        }
        brport::COST => port.cost.store(within(value, 1..=65535)?, Ordering::Relaxed),
        brport::GROUP_FWD_MASK => is_off(value)?,
        kind if brport::OFF.contains(&kind) => is_off(value)?,
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(())
}

/// A number as it is written to a file: decimal, or with a prefix.
fn written(text: &str) -> Result<u32> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    u32::from_str_radix(digits, radix).map_err(|_| Errno::EINVAL)
}

fn id_text(id: [u8; 8]) -> String {
    let [a, b, mac @ ..] = id;
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{a:02x}{b:02x}.{hex}")
}

type Text = fn(&Bridge) -> String;

/// Files of `bridge/` that are read only.
const TEXTS: [(&str, Text); 14] = [
    ("bridge_id", |b| id_text(b.id())),
    ("root_id", |b| id_text(b.id())),
    ("root_port", |_| "0".into()),
    ("root_path_cost", |_| "0".into()),
    ("topology_change", |_| "0".into()),
    ("topology_change_detected", |_| "0".into()),
    ("topology_change_timer", |_| "0".into()),
    ("hello_timer", |_| "0".into()),
    ("tcn_timer", |_| "0".into()),
    ("gc_timer", |_| "0".into()),
    ("group_addr", |_| "01:80:c2:00:00:00".into()),
    ("nf_call_iptables", |_| "0".into()),
    ("nf_call_ip6tables", |_| "0".into()),
    ("nf_call_arptables", |_| "0".into()),
];

/// Files of `bridge/` that are written, with their attributes.
const KNOBS: [(&str, u16, Text); 9] = [
    ("forward_delay", br::FORWARD_DELAY, |b| {
        b.kept.forward_delay.load(Ordering::Relaxed).to_string()
    }),
    ("hello_time", br::HELLO_TIME, |b| b.kept.hello_time.load(Ordering::Relaxed).to_string()),
    ("max_age", br::MAX_AGE, |b| b.kept.max_age.load(Ordering::Relaxed).to_string()),
    ("ageing_time", br::AGEING_TIME, |b| ageing(b).to_string()),
    ("stp_state", br::STP_STATE, |_| "0".into()),
    ("priority", br::PRIORITY, |b| b.kept.priority.load(Ordering::Relaxed).to_string()),
    ("vlan_filtering", br::VLAN_FILTERING, |_| "0".into()),
    ("group_fwd_mask", br::GROUP_FWD_MASK, |_| "0x0".into()),
    ("multicast_snooping", br::MCAST_SNOOPING, |b| {
        u8::from(b.kept.snooping.load(Ordering::Relaxed)).to_string()
    }),
];

/// The files of a bridge in `/sys/class/net`.
pub(crate) fn attributes(bridge: &Arc<Bridge>) -> Vec<Attribute> {
    let mut all = Vec::new();
    for (name, text) in TEXTS {
        let bridge = bridge.clone();
        all.push(Attribute::line(&format!("bridge/{name}"), move || text(&bridge)));
    }
    for (name, kind, text) in KNOBS {
        let (own, changed) = (bridge.clone(), bridge.clone());
        let store = move |given: &str| set(&changed, kind, written(given)?);
        all.push(Attribute::knob(&format!("bridge/{name}"), move || text(&own), store));
    }
    let flushed = bridge.clone();
    all.push(Attribute::knob("bridge/flush", String::new, move |_| {
        flushed.fdb.forget(|_, why| why == Reason::Learned);
        Ok(())
    }));
    all.push(Attribute::folder("brif"));
    for port in bridge.ports().iter() {
        let name = port.interface.name();
        all.push(Attribute::link(&format!("brif/{name}"), &format!("{name}/brport")));
        all.push(Attribute::link(&format!("lower_{name}"), &name));
    }
    all
}

/// The files of a port.
pub(crate) fn port_attributes(bridge: &Arc<Bridge>, port: &Arc<Port>) -> Vec<Attribute> {
    let mut all = Vec::new();
    let id = id_text(bridge.id());
    let fixed = [
        ("port_no", format!("{:#x}", port.number)),
        ("designated_root", id.clone()),
        ("designated_bridge", id),
        ("designated_cost", "0".into()),
        ("change_ack", "0".into()),
        ("config_pending", "0".into()),
        ("hold_timer", "0".into()),
        ("message_age_timer", "0".into()),
        ("forward_delay_timer", "0".into()),
    ];
    for (name, text) in fixed {
        all.push(Attribute::line(&format!("brport/{name}"), move || text.clone()));
    }
    let line = |name: &str, text: fn(&Port) -> String| {
        let port = port.clone();
        Attribute::line(&format!("brport/{name}"), move || text(&port))
    };
    all.push(line("state", |port| port.state().to_string()));
    all.push(line("port_id", |port| format!("{:#x}", port.id())));
    all.push(line("designated_port", |port| port.id().to_string()));
    let knob = |name: &str, kind: u16, text: fn(&Port) -> String| {
        let (own, changed) = (port.clone(), port.clone());
        let store = move |given: &str| set_port(&changed, kind, written(given)?);
        Attribute::knob(&format!("brport/{name}"), move || text(&own), store)
    };
    all.push(knob("priority", brport::PRIORITY, |port| {
        port.priority.load(Ordering::Relaxed).to_string()
    }));
    all.push(knob("path_cost", brport::COST, |port| port.cost.load(Ordering::Relaxed).to_string()));
    for (kind, name, _) in switches(port) {
        let (own, changed) = (port.clone(), port.clone());
        let text = move || {
            let own = switches(&own).into_iter().find(|(known, ..)| *known == kind);
            own.map_or(0, |(_, _, on)| u8::from(on.load(Ordering::Relaxed))).to_string()
        };
        let store = move |given: &str| set_port(&changed, kind, written(given)?);
        all.push(Attribute::knob(&format!("brport/{name}"), text, store));
    }
    if let Some(own) = bridge.interface() {
        let name = own.name();
        all.push(Attribute::link("brport/bridge", &name));
        all.push(Attribute::link("master", &name));
        all.push(Attribute::link(&format!("upper_{name}"), &name));
    }
    all
}

impl Forwarding for Bridge {
    fn entries(&self) -> Vec<Forwarded> {
        let own = self.interface().map(|interface| interface.index);
        let ports = self.ports();
        let index_of = |number: u16| match number {
            SELF => own,
            number => {
                let at = ports.binary_search_by_key(&number, |port| port.number).ok()?;
                ports.get(at).map(|port| port.interface.index)
            }
        };
        let all = self.fdb.all(arch::time::now_ns()).into_iter();
        all.filter_map(|known| {
            Some(Forwarded {
                mac: known.mac,
                interface: index_of(known.port)?,
                is_local: known.reason == Reason::Local,
                is_static: known.reason == Reason::Static,
                seen_ns: known.seen_ns,
                used_ns: known.used_ns,
            })
        })
        .collect()
    }

    fn add(&self, on: &Interface, entry: &Forwarded, how: (bool, bool)) -> Result<()> {
        let reason = match (entry.is_local, entry.is_static) {
            (true, _) => Reason::Local,
            (false, true) => Reason::Static,
            (false, false) => Reason::Learned,
        };
        let port = self.number_of(on)?;
        self.fdb.set(entry.mac, (port, reason), how, arch::time::now_ns())?;
        self.arm();
        Ok(())
    }

    fn remove(&self, on: &Interface, mac: Mac) -> Result<()> {
        self.fdb.remove(mac, self.number_of(on)?)
    }
}
