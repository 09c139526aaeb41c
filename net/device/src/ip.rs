//! Addresses of both versions in one form, and the keys made of them.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address; one of version 4 is kept in its mapped form (RFC 4291 §2.5.5.2), as a dual-stack socket
/// sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ip(u128);

const V4_PREFIX: u128 = 0xffff << 32;

impl Ip {
    /// `0.0.0.0`.
    pub const ANY4: Ip = Ip(V4_PREFIX);
    /// `::`.
    pub const ANY6: Ip = Ip(0);
    /// `127.0.0.1`.
    pub const LOOPBACK4: Ip = Ip::v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK6: Ip = Ip(1);

    /// An address of version 4.
    pub const fn v4(octets: [u8; 4]) -> Ip {
        Ip(V4_PREFIX | u32::from_be_bytes(octets) as u128)
    }

    /// An address of version 6 (a mapped one is one of version 4).
    pub const fn v6(octets: [u8; 16]) -> Ip {
        Ip(u128::from_be_bytes(octets))
    }

    /// Whether it is of version 4.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == 0xffff
    }

    /// The four octets, for an address of version 4.
    #[inline]
    pub const fn octets4(self) -> [u8; 4] {
        (self.0 as u32).to_be_bytes()
    }

    /// All sixteen octets.
    #[inline]
    pub const fn octets6(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The 128 bits.
    #[inline]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The address of these bits.
    pub const fn from_bits(bits: u128) -> Ip {
        Ip(bits)
    }

    /// Whether it is no address but every one: `0.0.0.0`, `::`.
    #[inline]
    pub const fn is_any(self) -> bool {
        self.0 == 0 || self.0 == V4_PREFIX
    }

    /// Whether it reaches this machine by its nature: `127.0.0.0/8`, `::1`.
    #[inline]
    pub const fn is_loopback(self) -> bool {
        self.0 == 1 || (self.is_v4() && (self.0 as u32) >> 24 == 127)
    }

    /// Whether it names a group.
    pub const fn is_multicast(self) -> bool {
        if self.is_v4() { (self.0 as u32) >> 28 == 0xe } else { self.0 >> 120 == 0xff }
    }

    /// Whether it is `255.255.255.255`.
    pub const fn is_limited_broadcast(self) -> bool {
        self.is_v4() && self.0 as u32 == u32::MAX
    }

    /// Whether it is of one link only: `fe80::/10`.
    pub const fn is_link_local6(self) -> bool {
        self.0 >> 118 == 0x3fa
    }

    /// The first `len` bits, counted in the address's own version.
    pub const fn masked(self, len: u8) -> Ip {
        let keep = if self.is_v4() { 96 + len as u32 } else { len as u32 };
        if keep == 0 {
            return Ip(0);
        }
        if keep >= 128 {
            return self;
        }
        Ip(self.0 & (u128::MAX << (128 - keep)))
    }

    /// The last address of the network of the first `len` bits, counted in the address's own version.
    pub const fn last(self, len: u8) -> Ip {
        let keep = if self.is_v4() { 96 + len as u32 } else { len as u32 };
        if keep >= 128 { self } else { Ip(self.0 | (u128::MAX >> keep)) }
    }

    /// The address in the standard library's form, a mapped one as version 4.
    pub const fn to_std(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from_bits(self.0 as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(self.0))
        }
    }
}

impl From<Ipv4Addr> for Ip {
    fn from(addr: Ipv4Addr) -> Ip {
        Ip::v4(addr.octets())
    }
}

impl From<Ipv6Addr> for Ip {
    fn from(addr: Ipv6Addr) -> Ip {
        Ip::v6(addr.octets())
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_std(), f)
    }
}

impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// The address.
    pub ip: Ip,
    /// The port, in the machine's order.
    pub port: u16,
}

impl Endpoint {
    /// The two together.
    pub const fn new(ip: Ip, port: u16) -> Endpoint {
        Endpoint { ip, port }
    }
}

/// What tells connections apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}

impl Tuple {
    /// As the other end sees it.
    pub const fn reversed(self) -> Tuple {
        Tuple { local: self.remote, remote: self.local }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_masks_and_kinds() {
        let ip = Ip::v4([192, 168, 7, 9]);
        assert!(ip.is_v4() && !ip.is_loopback() && !ip.is_any());
        assert_eq!(ip.masked(16), Ip::v4([192, 168, 0, 0]));
        assert_eq!(ip.masked(0), Ip::ANY4);
        assert_eq!(ip.masked(32), ip);
        assert_eq!(ip.last(16), Ip::v4([192, 168, 255, 255]));
        assert_eq!((ip.last(32), Ip::ANY6.last(0).bits()), (ip, u128::MAX));
        assert_eq!(Ip::LOOPBACK6.masked(0), Ip::ANY6);
        assert!(Ip::v4([127, 9, 9, 9]).is_loopback() && Ip::LOOPBACK6.is_loopback());
        assert!(Ip::v4([224, 0, 0, 1]).is_multicast());
        assert!(Ip::from("ff02::1".parse::<Ipv6Addr>().unwrap()).is_multicast());
        assert!(Ip::from("fe80::1".parse::<Ipv6Addr>().unwrap()).is_link_local6());
        assert_eq!(format!("{ip}"), "192.168.7.9");
    }
}
