#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod chunk;
mod devices;
mod frame;
mod home;
mod interface;
mod ip;
mod names;
mod offload;
mod route;
mod upper;
mod virt;
mod ways;

pub use address::{Address, Lifetime};
pub use chunk::{Chunk, Spread};
pub use devices::{Change, Devices, NAME_MAX, Watcher};
pub use frame::{
    ChecksumRequest, Frame, HEADER_ROOM, Header, NetDevice, Offloads, Received, Receiver,
    Segmentation,
};
pub use home::{announce, set_home};
pub use interface::{
    ARPHRD_ETHER, ARPHRD_LOOPBACK, ARPHRD_NONE, Counters, Interface, flag, set_receiver,
};
pub use ip::{Endpoint, Ip, Tuple};
pub use offload::{Sum, lower};
pub use route::{
    Place, RTN_BLACKHOLE, RTN_LOCAL, RTN_PROHIBIT, RTN_THROW, RTN_UNICAST, RTN_UNREACHABLE, Route,
    SCOPE_HOST, SCOPE_LINK, TABLE_LOCAL, TABLE_MAIN,
};
pub use upper::{
    Attribute, Content, Forwarded, Forwarding, Kind, Setter, Upper, kind, register_kind,
};
pub use virt::{Dummy, veth_pair};
pub use ways::{Destination, Way};
