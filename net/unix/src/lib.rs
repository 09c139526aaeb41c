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

pub use listing::{Shown, find, sockets};
pub use sock::Unix;

use abi::socket::AF_UNIX;
use abi::{Errno, Result};
use alloc::sync::Arc;
use socket::{Call, Family, Kind, Socket};

struct UnixFamily;

impl UnixFamily {
    fn check(kind: Kind) -> Result<Kind> {
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

    fn check_protocol(&self, protocol: i32) -> Result<()> {
        let is_known = protocol == 0 || protocol == i32::from(AF_UNIX);
        if is_known { Ok(()) } else { Err(Errno::EPROTONOSUPPORT) }
    }

    fn create(&self, call: &Call<'_>, kind: Kind, _protocol: i32) -> Result<Arc<dyn Socket>> {
        let kind = Self::check(kind)?;
        Ok(Unix::new(call.namespace, kind))
    }

    fn create_pair(
        &self,
        call: &Call<'_>,
        kind: Kind,
        _protocol: i32,
    ) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
        let kind = Self::check(kind)?;
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
