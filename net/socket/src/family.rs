//! The protocol families there are.

use alloc::sync::Arc;

use abi::socket::{AF_MAX, SOCK_MAX, SOCK_PACKET};
use abi::{Errno, Result};
use arch::lock::Once;

use crate::common::Kind;
use crate::interface::{Call, Socket};

/// A protocol family.
pub trait Family: Send + Sync {
    /// Its address family.
    fn number(&self) -> u16;
    /// Whether it has a protocol at all, for a family that looks at that before the type.
    fn check_protocol(&self, _protocol: i32) -> Result<()> {
        Ok(())
    }
    /// A socket in the caller's namespace. `ESOCKTNOSUPPORT` for a type, `EPROTONOSUPPORT` for a
    /// protocol that it does not have.
    fn create(&self, call: &Call<'_>, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>>;
    /// Two connected sockets.
    fn create_pair(&self, call: &Call<'_>, kind: Kind, protocol: i32) -> Result<Pair> {
        // As Linux does, it is the type that is asked about first.
        self.create(call, kind, protocol)?.release();
        Err(Errno::EOPNOTSUPP)
    }
}

/// What `socketpair(2)` makes.
pub type Pair = (Arc<dyn Socket>, Arc<dyn Socket>);

static FAMILIES: [Once<&'static dyn Family>; AF_MAX as usize] =
    [const { Once::new() }; AF_MAX as usize];

/// Registers a family.
pub fn register(family: &'static dyn Family) {
    if let Some(slot) = FAMILIES.get(usize::from(family.number())) {
        slot.call_once(|| family);
    }
}

/// The family of a number, if there is one.
pub fn family(number: u16) -> Option<&'static dyn Family> {
    FAMILIES.get(usize::from(number))?.get().copied()
}

fn choose(domain: i32, kind: u32, protocol: i32) -> Result<(&'static dyn Family, Kind)> {
    let number = u16::try_from(domain).ok().filter(|number| *number < AF_MAX);
    let number = number.ok_or(Errno::EAFNOSUPPORT)?;
    if kind >= SOCK_MAX {
        return Err(Errno::EINVAL);
    }
    // packet(7): the obsolete way to a packet socket.
    let is_old_packet = number == abi::socket::AF_INET && kind == SOCK_PACKET;
    let number = if is_old_packet { abi::socket::AF_PACKET } else { number };
    let family = family(number).ok_or(Errno::EAFNOSUPPORT)?;
    family.check_protocol(protocol)?;
    Ok((family, Kind::new(kind).ok_or(Errno::ESOCKTNOSUPPORT)?))
}

/// `socket(2)`; `kind` without flags.
pub fn create(call: &Call<'_>, domain: i32, kind: u32, protocol: i32) -> Result<Arc<dyn Socket>> {
    let (family, kind) = choose(domain, kind, protocol)?;
    family.create(call, kind, protocol)
}

/// `socketpair(2)`; `kind` without flags.
pub fn create_pair(call: &Call<'_>, domain: i32, kind: u32, protocol: i32) -> Result<Pair> {
    let (family, kind) = choose(domain, kind, protocol)?;
    family.create_pair(call, kind, protocol)
}
