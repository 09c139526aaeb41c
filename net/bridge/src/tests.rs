//! Frames between ports that are pairs, without a kernel around them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use abi::Errno;
use netdevice::{Chunk, Devices, Frame, Interface, NetDevice, Offloads, Received, Receiver, flag};
use smallvec::smallvec;
use socket::NetNamespace;

use crate::device::{Bridge, Handle};
use crate::port::{Port, state};

/// A device that remembers what it sent.
struct Wire {
    mac: [u8; 6],
    sent: Mutex<Vec<Vec<u8>>>,
}

impl NetDevice for Wire {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }
    fn offloads(&self) -> Offloads {
        Offloads::empty()
    }
    fn transmit(&self, frame: Frame) -> abi::Result<()> {
        let mut bytes = vec![0; frame.len()];
        frame.bytes().copy_out(0, &mut bytes);
        self.sent.lock().unwrap().push(bytes);
        Ok(())
    }
    fn driver(&self) -> &'static str {
        "wire"
    }
    fn kind(&self) -> Option<&'static str> {
        Some("wire")
    }
}

/// What a bridge's own interface got, by its namespace.
static GOT: Mutex<Vec<(u64, usize)>> = Mutex::new(Vec::new());

struct Taker;

impl Receiver for Taker {
    fn receive(&self, interface: &Arc<Interface>, frames: &mut dyn Iterator<Item = Received>) {
        let cookie = interface.namespace().unwrap().cookie;
        for frame in frames {
            match interface.upper() {
                Some(upper) => drop(upper.receive(interface, frame)),
                None => GOT.lock().unwrap().push((cookie, frame.len())),
            }
        }
    }
}

struct Fixture {
    namespace: Arc<NetNamespace>,
    devices: Arc<Devices>,
    own: Arc<Interface>,
    bridge: Arc<Bridge>,
    wires: Vec<(Arc<Interface>, Arc<Wire>)>,
}

fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

const ALL: [u8; 6] = [0xff; 6];

impl Fixture {
    fn new(count: u8) -> Fixture {
        static START: std::sync::Once = std::sync::Once::new();
        START.call_once(|| {
            frames::init_host(64 << 20);
            netdevice::set_receiver(&Taker);
        });
        let namespace = NetNamespace::new(1, vfs::UserNamespace::initial());
        let devices = namespace.part_arc::<Devices>().unwrap();
        let bridge = Bridge::new(mac(0xee));
        let own = devices.add("br%d", Arc::new(Handle(bridge.clone()))).unwrap();
        devices.set_flags(&own, flag::UP, 0);
        let mut all = Fixture { namespace, devices, own, bridge, wires: Vec::new() };
        (0..count).for_each(|number| all.add_port(0x90 - number));
        all
    }

    fn add_port(&mut self, last: u8) {
        let wire = Arc::new(Wire { mac: mac(last), sent: Mutex::new(Vec::new()) });
        let interface = self.devices.add("w%d", wire.clone()).unwrap();
        self.devices.set_flags(&interface, flag::UP, 0);
        self.own.device.as_ref().unwrap().take_port(&interface).unwrap();
        self.wires.push((interface, wire));
    }

    fn port(&self, at: usize) -> Arc<Port> {
        self.bridge.port(at as u16 + 1).unwrap()
    }

    /// A frame comes on a port: on which others it leaves, and whether this host gets it.
    fn comes(&self, at: usize, to: [u8; 6], from: [u8; 6]) -> (Vec<usize>, bool) {
        self.comes_long(at, to, from, 60)
    }

    fn comes_long(&self, at: usize, to: [u8; 6], from: [u8; 6], len: usize) -> (Vec<usize>, bool) {
        let mut bytes = [to, from].concat();
        bytes.resize(len, 0);
        let frame = Received::new(smallvec![Chunk::from_bytes(&bytes).unwrap()], false);
        self.wires[at].0.receive(&mut std::iter::once(frame));
        self.went()
    }

    fn went(&self) -> (Vec<usize>, bool) {
        let sent = |(_, wire): &(_, Arc<Wire>)| {
            !wire.sent.lock().unwrap().drain(..).collect::<Vec<_>>().is_empty()
        };
        let ports = self.wires.iter().enumerate().filter(|(_, wire)| sent(wire));
        let ports = ports.map(|(at, _)| at).collect();
        let mut got = GOT.lock().unwrap();
        let before = got.len();
        got.retain(|(cookie, _)| *cookie != self.namespace.cookie);
        (ports, got.len() < before)
    }
}

#[test]
fn frames_go_where_their_receiver_was_seen() {
    let all = Fixture::new(3);
    assert_eq!(all.comes(0, mac(5), mac(1)), (vec![1, 2], false));
    assert_eq!(all.comes(1, mac(1), mac(2)), (vec![0], false));
    assert_eq!(all.comes(0, mac(2), mac(1)), (vec![1], false));
    // Whoever is on the same link has it already.
    assert_eq!(all.comes(0, mac(1), mac(9)), (vec![], false));
    assert_eq!(all.comes(2, ALL, mac(3)), (vec![0, 1], true));
    assert_eq!(all.comes(2, ALL, mac(1)), (vec![0, 1], true));
    assert_eq!(all.comes(1, mac(1), mac(2)), (vec![2], false));
    assert_eq!(all.comes(1, all.own.mac(), mac(2)), (vec![], true));
    let reserved = |last| [1, 0x80, 0xc2, 0, 0, last];
    assert_eq!(all.comes(0, reserved(0), mac(1)), (vec![1, 2], true));
    for last in 1..16 {
        assert_eq!(all.comes(0, reserved(last), mac(1)), (vec![], false));
    }
    assert_eq!(all.comes(0, reserved(16), mac(1)), (vec![1, 2], true));
    assert_eq!(all.comes(0, mac(5), ALL), (vec![], false));
    assert_eq!(all.comes(0, mac(5), [0; 6]), (vec![], false));
    for len in 0..14 {
        all.comes_long(0, mac(5), mac(6), len);
    }
}

#[test]
fn this_host_sends_through_its_ports() {
    let all = Fixture::new(2);
    let send = |to: [u8; 6]| {
        let mut header = netdevice::Header::new();
        header.push(60).unwrap()[..6].copy_from_slice(&to);
        all.own.send(Frame::new(header, smallvec![])).unwrap();
        all.went().0
    };
    assert_eq!((send(ALL), send(mac(1))), (vec![0, 1], vec![0, 1]));
    all.comes(1, ALL, mac(1));
    assert_eq!((send(mac(1)), send(all.own.mac())), (vec![1], vec![]));
    let off: [(u16, &[u8]); 2] = [(9, &[0]), (30, &[0])];
    crate::told::set_port_details(&all.port(0), &off).unwrap();
    assert_eq!((send(mac(9)), send(ALL)), (vec![1], vec![0, 1]));
}

#[test]
fn ports_have_states_and_switches() {
    let all = Fixture::new(3);
    let set = |at: usize, kind: u16, value: u8| {
        crate::told::set_port_details(&all.port(at), &[(kind, &[value])])
    };
    assert_eq!(all.port(0).state(), state::FORWARDING);
    all.devices.set_flags(&all.wires[0].0, 0, flag::UP);
    assert_eq!(all.port(0).state(), state::DISABLED);
    assert_eq!(set(0, 1, 3), Err(Errno::ENETDOWN));
    assert_eq!(all.comes(0, ALL, mac(1)), (vec![], false));
    all.devices.set_flags(&all.wires[0].0, flag::UP, 0);
    set(0, 1, state::BLOCKING).unwrap();
    assert_eq!(all.port(0).state(), state::FORWARDING);
    set(0, 1, state::LEARNING).unwrap();
    assert_eq!(all.comes(0, ALL, mac(1)), (vec![], false));
    assert_eq!(all.comes(1, ALL, mac(2)), (vec![2], true));
    assert_eq!(set(0, 1, 5), Err(Errno::EINVAL));
    set(0, 1, state::DISABLED).unwrap();
    all.wires[1].0.set_mtu(1400).unwrap();
    assert_eq!(all.port(0).state(), state::DISABLED, "others' changes are not its own");
    set(0, 1, state::FORWARDING).unwrap();
    set(0, 33, 1).unwrap();
    set(1, 33, 1).unwrap();
    assert_eq!(all.comes(0, ALL, mac(1)), (vec![2], true));
    set(0, 33, 0).unwrap();
    set(0, 4, 1).unwrap();
    assert_eq!(all.comes(0, ALL, mac(1)), (vec![0, 1, 2], true));
    assert_eq!(all.comes(0, mac(1), mac(4)), (vec![0], false));
    set(1, 9, 0).unwrap();
    set(1, 30, 0).unwrap();
    assert_eq!(all.comes(2, ALL, mac(7)), (vec![0], true));
    assert_eq!(all.comes(2, mac(99), mac(7)), (vec![0], false));
    set(2, 8, 0).unwrap();
    all.comes(2, ALL, mac(50));
    assert_eq!(all.comes(0, mac(50), mac(1)), (vec![0, 2], false));
    assert_eq!(set(0, 2, 64), Err(Errno::ERANGE));
    assert_eq!(set(0, 5, 1), Err(Errno::EOPNOTSUPP));
    all.devices.set_flags(&all.own, 0, flag::UP);
    assert_eq!(all.comes(0, ALL, mac(1)), (vec![], false));
}

#[test]
fn address_longest_packet_and_link_follow_the_ports() {
    let mut all = Fixture::new(0);
    assert!(all.own.mac() == mac(0xee) && !all.own.is_running());
    all.add_port(0x20);
    assert!(all.own.mac() == mac(0x20) && all.own.is_running());
    all.add_port(0x10);
    assert_eq!(all.own.mac(), mac(0x10));
    all.wires[0].0.set_mtu(600).unwrap();
    assert_eq!(all.own.mtu(), 600);
    assert_eq!(all.comes_long(1, ALL, mac(1), 1400), (vec![], true));
    let lower = all.wires[1].0.clone();
    all.devices.remove(lower.index).unwrap();
    assert!(all.own.mac() == mac(0x20) && lower.upper().is_none());
    all.own.set_mac(mac(0x77)).unwrap();
    all.add_port(0x01);
    assert_eq!(all.own.mac(), mac(0x77));
    assert_eq!(all.comes(0, mac(0x77), mac(1)), (vec![], true));
    let device = all.own.device.clone().unwrap();
    assert_eq!(device.take_port(&all.own), Err(Errno::ELOOP));
    assert_eq!(device.take_port(&all.devices.loopback().unwrap()), Err(Errno::EINVAL));
    assert_eq!(device.take_port(&all.wires[0].0), Err(Errno::EBUSY));
    assert_eq!(device.give_up_port(&lower), Err(Errno::EINVAL));
    all.devices.remove(all.own.index).unwrap();
    device.removed();
    assert!(all.wires.iter().all(|(wire, _)| wire.upper().is_none() && !wire.is_promiscuous()));
    assert_eq!(all.bridge.ports().len(), 0);
}

#[test]
fn what_is_told_can_be_set() {
    let all = Fixture::new(1);
    let set = |kind: u16, value: u32| {
        crate::told::set_details(&all.bridge, &[(kind, &value.to_ne_bytes())])
    };
    assert_eq!((set(5, 0), set(5, 1)), (Ok(()), Err(Errno::EOPNOTSUPP)));
    assert_eq!((set(2, 100), set(2, 99)), (Ok(()), Err(Errno::ERANGE)));
    set(4, 1000).unwrap();
    assert_eq!(all.bridge.fdb.ageing_ns(), 10_000_000_000);
    set(6, 100).unwrap();
    assert_eq!(all.bridge.id()[..2], [0, 100]);
    assert_eq!(crate::told::set_details(&all.bridge, &[(4, &[])]), Err(Errno::ERANGE));
    assert!(!all.port(0).switches.hairpin.load(Ordering::Relaxed));
    let files = crate::told::attributes(&all.bridge);
    assert!(files.iter().any(|file| file.path == "brif/w0"));
}
