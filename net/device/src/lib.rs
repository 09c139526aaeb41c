#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod chunk;
mod devices;
mod frame;
mod interface;
mod ip;
mod route;

pub use chunk::{Chunk, Spread};
pub use devices::{Change, Destination, Devices, NAME_MAX, Watcher, Way, announce, set_home};
pub use frame::{
    ChecksumRequest, Frame, HEADER_ROOM, Header, NetDevice, Offloads, Received, Receiver,
    Segmentation,
};
pub use interface::{
    ARPHRD_ETHER, ARPHRD_LOOPBACK, Address, Counters, Interface, flag, set_receiver,
};
pub use ip::{Endpoint, Ip, Tuple};
pub use route::{RTN_BLACKHOLE, RTN_PROHIBIT, RTN_UNICAST, RTN_UNREACHABLE, Route};
