//! Network interfaces of the namespace that the tree was mounted in: `/sys/class/net`.

use crate::tree::Builder;
use crate::uevents;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicU64, Ordering};
use netdevice::{Attribute, Change, Content, Devices, Interface};
use socket::NetNamespace;

static TOLD: LockClass = LockClass::new("sysfs.told", 545);

/// Changes when interfaces do.
pub(crate) fn generation(namespace: Option<&NetNamespace>) -> u32 {
    let devices = namespace.and_then(|namespace| namespace.part::<Devices>());
    devices.map_or(0, |devices| devices.generation() as u32)
}

pub(crate) fn add(tree: &mut Builder, namespace: Option<&NetNamespace>) {
    tree.dir("class/net");
    let devices = namespace.and_then(|namespace| namespace.part::<Devices>());
    for interface in devices.map(Devices::all).unwrap_or_default() {
        add_interface(tree, &interface);
    }
}

fn mac(bytes: [u8; 6]) -> String {
    let parts = bytes.map(|byte| format!("{byte:02x}"));
    parts.join(":")
}

/// The device that an interface hangs on, if there is one, and its own place.
fn place(interface: &Interface, name: &str) -> (Option<String>, String) {
    let bus = interface.device.as_ref().map(|device| device.bus()).unwrap_or_default();
    let function = || crate::functions::path_of(&bus);
    let parent = (!bus.is_empty()).then(|| crate::functions::inner_device(&function()));
    let path = match &parent {
        Some(parent) => format!("{parent}/net/{name}"),
        None => format!("devices/virtual/net/{name}"),
    };
    (parent, path)
}

/// What its events tell.
fn facts(interface: &Interface, name: &str) -> Vec<String> {
    let kind = interface.device.as_ref().and_then(|device| device.type_name());
    let mut lines: Vec<String> = kind.map(|kind| format!("DEVTYPE={kind}")).into_iter().collect();
    lines.extend([format!("INTERFACE={name}"), format!("IFINDEX={}", interface.index)]);
    lines
}

/// Names of interfaces that were told of, by number.
type Told = BTreeMap<u32, String>;

/// From now on tells of interfaces that come, go and get another name in a namespace.
pub(crate) fn follow(namespace: &Arc<NetNamespace>) {
    let Some(devices) = namespace.part::<Devices>() else { return };
    let known: Told = devices.all().iter().map(|known| (known.index, known.name())).collect();
    let told = SpinLock::new(&TOLD, known);
    let namespace = Arc::downgrade(namespace);
    devices.watch(Arc::new(move |change| {
        let Some(namespace) = namespace.upgrade() else { return };
        match change {
            Change::Interface(interface) => {
                let name = interface.name();
                let old = {
                    let mut told = told.lock();
                    if told.get(&interface.index) == Some(&name) {
                        return;
                    }
                    told.insert(interface.index, name.clone())
                };
                let old = old.map(|old| place(interface, &old).1);
                tell(&namespace, interface, &name, old.as_deref());
            }
            Change::Gone(interface) => {
                let name = told.lock().remove(&interface.index);
                let Some(name) = name else { return };
                let lines = facts(interface, &name).join("\n") + "\n";
                let path = place(interface, &name).1;
                uevents::send(&namespace, "remove", &path, "net", &lines);
            }
            _ => {}
        }
    }));
}

/// Tells of a new interface, or of one that was at another place.
fn tell(namespace: &NetNamespace, interface: &Interface, name: &str, old: Option<&str>) {
    let path = place(interface, name).1;
    let lines = facts(interface, name).join("\n");
    let (action, before) = match old {
        Some(old) => ("move", format!("DEVPATH_OLD=/{old}\n")),
        None => ("add", String::new()),
    };
    let lines = format!("{before}{lines}\n");
    uevents::send(namespace, action, &path, "net", &lines);
}

fn add_interface(tree: &mut Builder, interface: &Arc<Interface>) {
    let name = interface.name();
    let (parent, path) = place(interface, &name);
    tree.set_owner(interface.index.into());
    let line = |tree: &mut Builder, file: &str, text: fn(&Interface) -> String| {
        let interface = interface.clone();
        tree.line(&format!("{path}/{file}"), move || text(&interface));
    };
    line(tree, "address", |i| if i.has_address() { mac(i.mac()) } else { String::new() });
    line(tree, "broadcast", |i| match (i.has_address(), i.is_loopback()) {
        (false, _) => String::new(),
        (true, true) => mac([0; 6]),
        (true, false) => mac([0xff; 6]),
    });
    line(tree, "mtu", |i| i.mtu().to_string());
    line(tree, "flags", |i| format!("{:#x}", i.flags() & 0xffff & !0x40));
    line(tree, "tx_queue_len", |i| i.tx_queue_len().to_string());
    line(tree, "carrier", |i| u8::from(i.is_running()).to_string());
    line(tree, "operstate", |i| {
        let state = match i.oper_state() {
            6 => "up",
            3 => "lowerlayerdown",
            2 => "down",
            _ => "unknown",
        };
        state.to_string()
    });
    line(tree, "type", |i| i.kind().to_string());
    line(tree, "addr_len", |i| if i.has_address() { 6 } else { 0 }.to_string());
    tree.fixed(&format!("{path}/addr_assign_type"), "0");
    tree.fixed(&format!("{path}/dev_id"), "0x0");
    tree.fixed(&format!("{path}/dev_port"), "0");
    tree.fixed(&format!("{path}/dormant"), "0");
    tree.fixed(&format!("{path}/link_mode"), "0");
    line(tree, "ifalias", |i| i.alias());
    line(tree, "iflink", |i| {
        let peer = i.device.as_ref().and_then(|device| device.peer());
        peer.map_or(i.index, |peer| peer.index).to_string()
    });
    tree.fixed(&format!("{path}/ifindex"), interface.index.to_string());
    for (file, counter) in COUNTERS {
        let interface = interface.clone();
        tree.line(&format!("{path}/statistics/{file}"), move || {
            counter(&interface).load(Ordering::Relaxed).to_string()
        });
    }
    add_own(tree, &path, interface);
    tree.uevent(&path, &facts(interface, &name));
    tree.device(&path, "class/net", &name);
    if let Some(parent) = parent {
        tree.link(&format!("{path}/device"), &parent);
    }
}

/// The files that its kind of interface has, and those of whose port it is.
fn add_own(tree: &mut Builder, path: &str, interface: &Interface) {
    let own = interface.device.as_ref().map(|device| device.attributes()).unwrap_or_default();
    add_all(tree, path, interface, own);
    if let Some(upper) = interface.upper() {
        // It may become another's port, or the same one's again.
        tree.set_owner(Arc::as_ptr(&upper).cast::<()>().addr() as u64);
        add_all(tree, path, interface, upper.attributes());
    }
    tree.set_owner(0);
}

fn add_all(tree: &mut Builder, path: &str, interface: &Interface, all: Vec<Attribute>) {
    for attribute in all {
        let at = format!("{path}/{}", attribute.path);
        match attribute.content {
            Content::Folder => tree.dir(&at),
            Content::Line(text, None) => tree.line(&at, text),
            Content::Line(text, Some(set)) => tree.knob(&at, text, set),
            // Those that hang on each other are no hardware, or lie where the link of their name leads.
            Content::Link(name) => {
                let rest = name.split_once('/').map(|(_, rest)| rest);
                let other = name.split('/').next().unwrap_or_default();
                let base = match place_of(interface, other) {
                    Some(base) => base,
                    None => continue,
                };
                let to = rest.map_or(base.clone(), |rest| format!("{base}/{rest}"));
                tree.link(&at, &to);
            }
        }
    }
}

/// The place of another interface of the same namespace.
fn place_of(interface: &Interface, name: &str) -> Option<String> {
    let namespace = interface.namespace()?;
    let other = namespace.part::<Devices>()?.by_name(name)?;
    Some(place(&other, name).1)
}

type Counter = fn(&Interface) -> &AtomicU64;

const COUNTERS: [(&str, Counter); 9] = [
    ("multicast", |i| &i.counters.multicast),
    ("rx_bytes", |i| &i.counters.rx_bytes),
    ("rx_dropped", |i| &i.counters.rx_dropped),
    ("rx_errors", |i| &i.counters.rx_errors),
    ("rx_packets", |i| &i.counters.rx_packets),
    ("tx_bytes", |i| &i.counters.tx_bytes),
    ("tx_dropped", |i| &i.counters.tx_dropped),
    ("tx_errors", |i| &i.counters.tx_errors),
    ("tx_packets", |i| &i.counters.tx_packets),
];
