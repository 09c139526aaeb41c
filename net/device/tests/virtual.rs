//! Interfaces that are no hardware, and namespaces they are in.
#![expect(clippy::unwrap_used, reason = "a test fails where its helpers do")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver as End, Sender, channel};
use std::time::Duration;

use abi::Errno;
use frames::PageRef;
use netdevice::{
    Address, Chunk, Devices, Dummy, Frame, Header, Interface, Ip, Received, Receiver, flag,
    veth_pair,
};
use smallvec::smallvec;
use socket::NetNamespace;

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

fn namespace(id: u64) -> (Arc<NetNamespace>, Arc<Devices>) {
    let namespace = NetNamespace::new(id, vfs::UserNamespace::initial());
    let devices = namespace.part_arc::<Devices>().unwrap();
    (namespace, devices)
}

fn address(last: u8) -> Address {
    let ip = Ip::v4([10, 0, 0, last]);
    Address {
        ip,
        prefix: 24,
        broadcast: None,
        peer: None,
        scope: 0,
        flags: 0x80,
        label: String::new(),
        lifetime: None,
    }
}

#[test]
fn a_second_address_of_a_network_goes_with_the_first() {
    let (_namespace, devices) = namespace(1);
    let dummy = devices.add("dummy%d", Dummy::new(MACS[0])).unwrap();
    devices.set_flags(&dummy, flag::UP, 0);
    for last in 1..=3 {
        devices.add_address(&dummy, address(last)).unwrap();
    }
    assert_eq!(devices.add_address(&dummy, address(2)), Err(Errno::EEXIST));
    let flags: Vec<u32> = dummy.addresses().iter().map(|a| a.flags).take(3).collect();
    assert_eq!(flags, [0x80, 0x81, 0x81]);
    assert_eq!(devices.routes(true).len(), 1);
    devices.remove_address(&dummy, Ip::v4([10, 0, 0, 2]), None).unwrap();
    assert_eq!(devices.routes(true).len(), 1);
    devices.remove_address(&dummy, Ip::v4([10, 0, 0, 1]), None).unwrap();
    assert_eq!(devices.routes(true).len(), 0);
    assert!(dummy.addresses().iter().all(|own| !own.ip.is_v4()));
}

#[test]
fn an_interface_is_found_by_its_other_names() {
    let ((_first, here), (_second, there)) = (namespace(11), namespace(12));
    let one = here.add("dummy%d", Dummy::new(MACS[0])).unwrap();
    let two = here.add("dummy%d", Dummy::new(MACS[1])).unwrap();
    here.add_other_name(&one, "a longer name than most").unwrap();
    here.add_other_name(&one, "second").unwrap();
    assert_eq!(here.add_other_name(&two, "second"), Err(Errno::EEXIST));
    assert_eq!(here.add_other_name(&two, "dummy0"), Err(Errno::EEXIST));
    assert_eq!(here.rename(&two, "second"), Err(Errno::EEXIST));
    let found = |devices: &Devices, name: &str| devices.by_name(name).map(|found| found.index);
    assert_eq!(found(&here, "second"), Some(one.index));
    assert_eq!(here.remove_other_name(&two, "second"), Err(Errno::EINVAL));
    assert_eq!(here.remove_other_name(&one, "dummy0"), Err(Errno::EINVAL));
    assert_eq!(here.remove_other_name(&one, "third"), Err(Errno::ENOENT));
    let moved = here.move_to(&one, &there, None).unwrap();
    assert_eq!((found(&here, "second"), found(&there, "second")), (None, Some(moved.index)));
    there.remove_other_name(&moved, "second").unwrap();
    assert_eq!(moved.other_names(), ["a longer name than most"]);
    there.remove(moved.index).unwrap();
    assert_eq!(found(&there, "a longer name than most"), None);
}

#[test]
fn names_are_unique_and_may_be_given_up() {
    let (_namespace, devices) = namespace(2);
    let [one, two] = MACS.map(|mac| devices.add("d%d", Dummy::new(mac)).unwrap());
    assert_eq!((one.name(), two.name()), ("d0".into(), "d1".into()));
    assert_eq!(devices.rename(&two, "d0"), Err(Errno::EEXIST));
    devices.rename(&one, "other").unwrap();
    devices.rename(&two, "d0").unwrap();
    assert!(devices.by_name("d1").is_none());
    assert_eq!(devices.by_name("d0").map(|found| found.index), Some(two.index));
    devices.remove(two.index).unwrap();
    assert!(devices.by_name("d0").is_none());
    assert_eq!(devices.remove(two.index), Err(Errno::ENODEV));
}

struct Taken(Sender<(u32, Vec<Vec<u8>>, Vec<PageRef>)>);

impl Receiver for Taken {
    fn receive(&self, interface: &Arc<Interface>, frames: &mut dyn Iterator<Item = Received>) {
        for frame in frames {
            let bytes = frame.data.iter().map(|chunk| {
                let mut bytes = vec![0; chunk.len()];
                chunk.copy_out(&mut bytes);
                bytes
            });
            let pages = frame.data.iter().map(|chunk| chunk.page.clone()).collect();
            self.0.send((interface.index, bytes.collect(), pages)).unwrap();
        }
    }
}

fn send(from: &Interface, page: &Chunk, mark: u8) -> abi::Result<()> {
    let mut header = Header::new();
    header.push(14).unwrap().fill(mark);
    let payload = smallvec![page.clone()];
    let frame = Frame::new(header, payload);
    from.device.as_ref().unwrap().transmit(frame)
}

type Seen = End<(u32, Vec<Vec<u8>>, Vec<PageRef>)>;

#[test]
fn frames_pass_a_pair_as_the_pages_they_are() {
    frames::init_host(64 << 20);
    let (taken, seen): (_, Seen) = channel();
    netdevice::set_receiver(Box::leak(Box::new(Taken(taken))));
    let (_one, here) = namespace(3);
    let (two, there) = namespace(4);
    let [first, second] = veth_pair(MACS);
    let first = here.add("veth%d", first).unwrap();
    let second = here.add("veth%d", second).unwrap();
    let moved = here.move_to(&second, &there, Some("other")).unwrap();
    assert!(here.by_index(second.index).is_none());
    assert_eq!((moved.name(), moved.index), ("other".into(), second.index));
    let peer = first.device.as_ref().unwrap().peer().unwrap();
    assert!(Arc::ptr_eq(&peer, &moved));
    let lo = here.loopback().unwrap();
    assert_eq!(here.move_to(&lo, &there, None).map(drop), Err(Errno::EINVAL));

    let page = Chunk::from_bytes(&[7; 1000]).unwrap();
    here.set_flags(&first, flag::UP, 0);
    assert!(!first.is_running() && send(&first, &page, 0) == Err(Errno::ENOBUFS));
    there.set_flags(&moved, flag::UP, 0);
    assert!(first.is_running() && moved.is_running());
    for mark in 0..200 {
        send(&first, &page, mark).unwrap();
    }
    // Threads of the host stand for processors: those of one sender stay in order.
    for mark in 0..200 {
        let (index, bytes, pages) = seen.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((index, bytes.len()), (moved.index, 2));
        assert_eq!((&bytes[0][..], &bytes[1][..]), (&[mark; 14][..], &[7; 1000][..]));
        assert!(pages[1].is_same(&page.page) && !pages[0].is_same(&page.page));
    }

    // A namespace that ends takes the other end with it.
    drop((moved, peer, there, two));
    for _ in 0..500 {
        if here.by_index(first.index).is_none() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the end that was left is still there");
}
