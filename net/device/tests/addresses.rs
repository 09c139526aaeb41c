//! Addresses that several interfaces share, and ways on the loopback interface.

use std::sync::Arc;

use abi::Errno;
use netdevice::{Address, Destination, Devices, Frame, Ip, NetDevice, Offloads, Route, flag};

struct Nowhere;

impl NetDevice for Nowhere {
    fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, 1]
    }
    fn offloads(&self) -> Offloads {
        Offloads::empty()
    }
    fn transmit(&self, _: Frame) -> abi::Result<()> {
        Err(Errno::ENOBUFS)
    }
    fn driver(&self) -> &'static str {
        "nowhere"
    }
}

fn address(last: u8) -> Address {
    let broadcast = Some(Ip::v4([10, 0, 0, 255]));
    let ip = Ip::v4([10, 0, 0, last]);
    Address {
        ip,
        prefix: 24,
        broadcast,
        peer: None,
        scope: 0,
        flags: 0x80,
        label: String::new(),
        lifetime: None,
    }
}

#[test]
fn what_another_address_says_too_stays_when_one_goes() {
    let devices = Devices::new();
    let [one, two, three] = [(); 3].map(|()| devices.add("eth%d", Arc::new(Nowhere)).unwrap());
    let broadcast = Ip::v4([10, 0, 0, 255]);
    let own = Ip::v4([10, 0, 0, 1]);
    devices.add_address(&one, address(1)).unwrap();
    devices.add_address(&two, address(1)).unwrap();
    devices.add_address(&three, address(2)).unwrap();
    devices.remove_address(&two, own, None).unwrap();
    assert_eq!(devices.local_interface(own).map(|owner| owner.index), Some(one.index));
    assert!(!devices.is_elsewhere(own) && !devices.is_elsewhere(broadcast));
    devices.remove_address(&one, own, None).unwrap();
    assert!(devices.is_elsewhere(own) && devices.is_broadcast(broadcast));
    devices.remove_address(&three, Ip::v4([10, 0, 0, 2]), None).unwrap();
    assert!(!devices.is_broadcast(broadcast) && devices.is_elsewhere(broadcast));
}

#[test]
fn one_address_may_be_there_with_several_networks() {
    let devices = Devices::new();
    let one = devices.add("eth%d", Arc::new(Nowhere)).unwrap();
    devices.set_flags(&one, flag::UP, 0);
    let own = Ip::v4([10, 0, 0, 1]);
    let with = |prefix| Address { prefix, broadcast: None, ..address(1) };
    devices.add_address(&one, with(24)).unwrap();
    devices.add_address(&one, with(25)).unwrap();
    assert_eq!(devices.add_address(&one, with(25)), Err(Errno::EEXIST));
    let link = Address { scope: 253, ..address(9) };
    assert_eq!(devices.add_address(&one, link), Err(Errno::EINVAL));
    let networks = |devices: &Devices| {
        devices.routes(true).iter().map(|route| route.prefix).collect::<Vec<_>>()
    };
    assert_eq!(networks(&devices), [25, 24]);
    devices.remove_address(&one, own, Some(24)).unwrap();
    assert!(devices.is_local(own) && !devices.is_broadcast(Ip::v4([10, 0, 0, 255])));
    assert_eq!(networks(&devices), [25]);
    let far = Route::via(Ip::ANY4, 0, Ip::v4([10, 0, 0, 7]), one.index);
    devices.add_route(Route { source: Some(own), ..far }).unwrap();
    devices.remove_address(&one, own, None).unwrap();
    assert!(!devices.is_local(own) && networks(&devices).is_empty());
}

#[test]
fn groups_are_reached_on_the_loopback_interface() {
    let devices = Devices::new();
    let lo = devices.loopback().unwrap();
    devices.set_flags(&lo, flag::UP, 0);
    let way = devices.way(Ip::v4([239, 1, 2, 3]), None, lo.index).unwrap();
    assert_eq!((way.interface.index, way.kind), (lo.index, Destination::Multicast));
    assert_eq!(way.source, Ip::LOOPBACK4);
}
