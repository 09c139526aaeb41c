//! `struct sockaddr_in` and `sockaddr_in6` (ip(7), ipv6(7)).

use abi::socket::{AF_INET, AF_INET6, AF_UNSPEC};
use abi::{Errno, Result};
use netdevice::{Endpoint, Ip};
use socket::Address;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct sockaddr_in`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SockaddrIn {
    family: u16,
    port: [u8; 2],
    addr: [u8; 4],
    zero: [u8; 8],
}

/// `struct sockaddr_in6`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SockaddrIn6 {
    family: u16,
    port: [u8; 2],
    flow: [u8; 4],
    addr: [u8; 16],
    scope: u32,
}

/// The least length of a `sockaddr_in6`: without the scope.
const IN6_MIN: usize = 24;

/// What a program gave as an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) endpoint: Endpoint,
    /// `sin6_scope_id`.
    pub(crate) scope: u32,
}

/// What kind of socket reads an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Of version 4.
    V4,
    /// Of version 6; with `V6ONLY`, no mapped addresses.
    V6 {
        /// `IPV6_V6ONLY`.
        only: bool,
    },
}

/// Reads an address to send or connect to. `EINVAL` if it is short, `EAFNOSUPPORT` for another family.
pub(crate) fn destination(address: &Address, reader: Reader) -> Result<Given> {
    match reader {
        Reader::V4 => {
            if address.len() < size_of::<SockaddrIn>() {
                return Err(Errno::EINVAL);
            }
            if address.family() != AF_INET {
                return Err(Errno::EAFNOSUPPORT);
            }
            v4(address)
        }
        Reader::V6 { only } => {
            if address.family() == AF_INET && address.len() >= size_of::<SockaddrIn>() {
                return if only { Err(Errno::ENETUNREACH) } else { v4(address) };
            }
            v6(address, only, Errno::ENETUNREACH)
        }
    }
}

/// Reads an address to bind to, with the errors of `bind(2)`.
pub(crate) fn local(address: &Address, reader: Reader) -> Result<Given> {
    match reader {
        Reader::V4 => {
            if address.len() < size_of::<SockaddrIn>() {
                return Err(Errno::EINVAL);
            }
            let given = v4(address)?;
            match address.family() {
                AF_INET => Ok(given),
                // ip(7): the wildcard address is taken without a family, for compatibility.
                AF_UNSPEC if given.endpoint.ip.is_any() => Ok(given),
                _ => Err(Errno::EAFNOSUPPORT),
            }
        }
        Reader::V6 { only } => v6(address, only, Errno::EINVAL),
    }
}

fn v4(address: &Address) -> Result<Given> {
    let raw: SockaddrIn = address.read()?;
    let endpoint = Endpoint::new(Ip::v4(raw.addr), u16::from_be_bytes(raw.port));
    Ok(Given { endpoint, scope: 0 })
}

/// An address of version 6; `refused` for a mapped one where only version 6 is spoken.
fn v6(address: &Address, only: bool, refused: Errno) -> Result<Given> {
    if address.len() < IN6_MIN {
        return Err(Errno::EINVAL);
    }
    if address.family() != AF_INET6 {
        return Err(Errno::EAFNOSUPPORT);
    }
    let mut raw = SockaddrIn6::default();
    let len = address.len().min(size_of::<SockaddrIn6>());
    if let (Some(to), Some(from)) = (raw.as_mut_bytes().get_mut(..len), address.bytes().get(..len))
    {
        to.copy_from_slice(from);
    }
    let endpoint = Endpoint::new(Ip::v6(raw.addr), u16::from_be_bytes(raw.port));
    if endpoint.ip.is_v4() && only {
        return Err(refused);
    }
    Ok(Given { endpoint, scope: raw.scope })
}

/// An address as programs of a socket of that version see it.
pub(crate) fn show(endpoint: Endpoint, is_v6: bool, scope: u32) -> Address {
    let port = endpoint.port.to_be_bytes();
    if is_v6 {
        // An any address has no version of its own.
        let addr = if endpoint.ip == Ip::ANY4 && scope == u32::MAX {
            [0; 16]
        } else {
            endpoint.ip.octets6()
        };
        let scope = if endpoint.ip.is_link_local6() { scope } else { 0 };
        let raw = SockaddrIn6 { family: AF_INET6, port, flow: [0; 4], addr, scope };
        return Address::from_struct(&raw);
    }
    let addr = endpoint.ip.octets4();
    Address::from_struct(&SockaddrIn { family: AF_INET, port, addr, zero: [0; 8] })
}
