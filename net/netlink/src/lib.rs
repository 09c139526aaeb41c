#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod diag;
mod generic;
mod kernel;
mod ports;
pub mod route;
mod sock;
#[cfg(test)]
mod tests;
pub mod wire;

pub use ports::{has_listeners, multicast};
pub use sock::Netlink;

use abi::socket::AF_NETLINK;
use abi::{Errno, Result};
use alloc::sync::Arc;
use socket::{Call, Family, Kind, Socket};

/// `NETLINK_ROUTE`.
pub const ROUTE: i32 = 0;
/// `NETLINK_SOCK_DIAG`.
pub const SOCK_DIAG: i32 = 4;
/// `NETLINK_AUDIT`.
pub const AUDIT: i32 = 9;
/// `NETLINK_KOBJECT_UEVENT`.
pub const KOBJECT_UEVENT: i32 = 15;
/// `NETLINK_GENERIC`.
pub const GENERIC: i32 = 16;

struct NetlinkFamily;

impl Family for NetlinkFamily {
    fn number(&self) -> u16 {
        AF_NETLINK
    }

    fn create(&self, call: &Call<'_>, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
        if !matches!(kind, Kind::Raw | Kind::Datagram) {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if !matches!(protocol, ROUTE | SOCK_DIAG | AUDIT | KOBJECT_UEVENT | GENERIC) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        Ok(Netlink::new(call.namespace, kind, protocol))
    }
}

/// Makes the family known.
pub fn init() {
    socket::register(&NetlinkFamily);
}
