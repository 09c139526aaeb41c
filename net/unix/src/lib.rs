#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod connect;
mod listing;
mod name;
mod packet;
mod rights;
mod sock;
mod stream;
#[cfg(test)]
mod tests;

pub use listing::{Shown, sockets};
pub use sock::Unix;

use abi::socket::AF_UNIX;
use abi::{Errno, Result};
use alloc::sync::Arc;
use socket::{Call, Family, Kind, Socket};

struct UnixFamily;

impl UnixFamily {
    fn check(kind: Kind, protocol: i32) -> Result<Kind> {
        if protocol != 0 && protocol != i32::from(AF_UNIX) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        match kind {
            Kind::Stream | Kind::Datagram | Kind::SeqPacket => Ok(kind),
            // A raw one is a datagram socket, as it always was.
            Kind::Raw => Ok(Kind::Datagram),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        }
    }
}

impl Family for UnixFamily {
    fn number(&self) -> u16 {
        AF_UNIX
    }

    fn create(&self, call: &Call<'_>, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
        let kind = Self::check(kind, protocol)?;
        Ok(Unix::new(call.namespace, kind))
    }

    fn create_pair(
        &self,
        call: &Call<'_>,
        kind: Kind,
        protocol: i32,
    ) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
        let kind = Self::check(kind, protocol)?;
        let (first, second) = (Unix::new(call.namespace, kind), Unix::new(call.namespace, kind));
        connect::join(&first, &second);
        Ok((first, second))
    }
}

/// Makes the family known.
pub fn init() {
    socket::register(&UnixFamily);
    listing::init();
}
