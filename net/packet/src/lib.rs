#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod capture;
mod listing;
mod options;
mod ring;
mod send;
mod sock;
mod table;

pub use send::set_loopback;
pub use table::{Seen, is_listening, is_listening_to, show};

use abi::socket::AF_PACKET;
use abi::{Errno, Result};
use alloc::sync::Arc;
use socket::{Call, Family, Kind, Socket};
use vfs::Cap;

/// `PACKET_*`: whom a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Whom {
    /// This host.
    Host = 0,
    /// All hosts of the link.
    Broadcast = 1,
    /// A group.
    Multicast = 2,
    /// Another host.
    Other = 3,
    /// It leaves this host.
    Outgoing = 4,
}

/// `ETH_P_ALL`.
pub(crate) const ALL: u16 = 3;

struct PacketFamily;

impl Family for PacketFamily {
    fn number(&self) -> u16 {
        AF_PACKET
    }

    fn create(&self, call: &Call<'_>, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
        if !call.creds().ns_capable(&call.namespace.user_ns, Cap::NET_RAW) {
            return Err(Errno::EPERM);
        }
        if !matches!(kind, Kind::Raw | Kind::Datagram) {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        Ok(sock::PacketSocket::new(call.namespace, kind, protocol))
    }
}

/// Makes the family known.
pub fn init() {
    socket::register(&PacketFamily);
    listing::init();
}
