#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod address;
pub mod ancillary;
pub mod common;
pub mod family;
pub mod file;
pub mod filter;
pub mod identity;
pub mod interface;
pub mod namespace;
pub mod options;
pub mod trees;
pub mod wait;

pub use address::Address;
pub use ancillary::{Ancillary, Cred, PeerCred};
pub use common::{Common, Flag, Kind, packet_memory};
pub use family::{Family, create, create_pair, family, register};
pub use file::{file_of, socket_of};
pub use filter::Filter;
pub use interface::{
    Call, OptionIn, OptionOut, RecvMessage, Scm, SendMessage, Shutdown, Socket, set_device_control,
};
pub use namespace::{NamespacePart, NetNamespace, Slot};
pub use wait::Patience;
