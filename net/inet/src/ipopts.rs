//! Options of ip(7) and ipv6(7).

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use abi::{Errno, Result};
use netdevice::Ip;
use socket::{Call, Common, Kind, OptionIn, OptionOut};
use vfs::Cap;

use crate::stack::{Knobs, knob};

const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_HDRINCL: i32 = 3;
const IP_OPTIONS: i32 = 4;
const IP_RECVOPTS: i32 = 6;
const IP_RETOPTS: i32 = 7;
const IP_PKTINFO: i32 = 8;
const IP_MTU_DISCOVER: i32 = 10;
const IP_RECVERR: i32 = 11;
const IP_RECVTTL: i32 = 12;
const IP_RECVTOS: i32 = 13;
const IP_MTU: i32 = 14;
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
const IP_RECVORIGDSTADDR: i32 = 20;
const IP_MINTTL: i32 = 21;
const IP_NODEFRAG: i32 = 22;
const IP_CHECKSUM: i32 = 23;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IP_MULTICAST_IF: i32 = 32;
const IP_MULTICAST_TTL: i32 = 33;
const IP_MULTICAST_LOOP: i32 = 34;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_DROP_MEMBERSHIP: i32 = 36;
const IP_MULTICAST_ALL: i32 = 49;
const IP_UNICAST_IF: i32 = 50;

const IPV6_ADDRFORM: i32 = 1;
const IPV6_CHECKSUM: i32 = 7;
const IPV6_UNICAST_HOPS: i32 = 16;
const IPV6_MULTICAST_IF: i32 = 17;
const IPV6_MULTICAST_HOPS: i32 = 18;
const IPV6_MULTICAST_LOOP: i32 = 19;
const IPV6_ADD_MEMBERSHIP: i32 = 20;
const IPV6_DROP_MEMBERSHIP: i32 = 21;
const IPV6_MTU_DISCOVER: i32 = 23;
const IPV6_MTU: i32 = 24;
const IPV6_RECVERR: i32 = 25;
const IPV6_V6ONLY: i32 = 26;
const IPV6_AUTOFLOWLABEL: i32 = 70;
const IPV6_RECVPKTINFO: i32 = 49;
const IPV6_RECVHOPLIMIT: i32 = 51;
const IPV6_RECVTCLASS: i32 = 66;
const IPV6_TCLASS: i32 = 67;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_UNICAST_IF: i32 = 76;
const IPV6_FREEBIND: i32 = 78;

/// Bits of [`IpOptions::wants`].
pub(crate) mod want {
    pub(crate) const PKTINFO: u32 = 1;
    pub(crate) const TTL: u32 = 2;
    pub(crate) const TOS: u32 = 4;
    pub(crate) const ERRORS4: u32 = 8;
    pub(crate) const PKTINFO6: u32 = 16;
    pub(crate) const HOPLIMIT6: u32 = 32;
    pub(crate) const TCLASS6: u32 = 64;
    pub(crate) const ERRORS6: u32 = 128;
    pub(crate) const ORIGDST: u32 = 256;
    pub(crate) const OPTIONS: u32 = 512;
    pub(crate) const FREEBIND: u32 = 1024;
    pub(crate) const TRANSPARENT: u32 = 2048;
    pub(crate) const NO_PORT: u32 = 4096;
    pub(crate) const HEADER: u32 = 8192;
    pub(crate) const MULTICAST_LOOP: u32 = 1 << 14;
    pub(crate) const MULTICAST_LOOP6: u32 = 1 << 15;
    pub(crate) const MULTICAST_ALL: u32 = 1 << 16;
    pub(crate) const RETOPTS: u32 = 1 << 17;
    pub(crate) const NODEFRAG: u32 = 1 << 18;
    pub(crate) const CHECKSUM: u32 = 1 << 19;
    pub(crate) const AUTOFLOW: u32 = 1 << 20;
}

/// The values.
pub(crate) struct IpOptions {
    pub(crate) tos: AtomicI32,
    /// -1: the system's default, here and below.
    pub(crate) ttl: AtomicI32,
    pub(crate) hops6: AtomicI32,
    pub(crate) tclass6: AtomicI32,
    pub(crate) multicast_ttl: AtomicI32,
    pub(crate) multicast_hops6: AtomicI32,
    pub(crate) multicast_if: AtomicU32,
    pub(crate) multicast_if6: AtomicU32,
    pub(crate) unicast_if: AtomicU32,
    pub(crate) mtu_discover: AtomicI32,
    mtu_discover6: AtomicI32,
    min_ttl: AtomicI32,
    default_ttl: i32,
    v6only: AtomicBool,
    wants: AtomicU32,
}

impl IpOptions {
    pub(crate) fn new(knobs: &Knobs) -> IpOptions {
        let int = AtomicI32::new;
        IpOptions {
            tos: int(0),
            ttl: int(-1),
            hops6: int(-1),
            tclass6: int(0),
            multicast_ttl: int(1),
            multicast_hops6: int(1),
            multicast_if: AtomicU32::new(0),
            multicast_if6: AtomicU32::new(0),
            unicast_if: AtomicU32::new(0),
            mtu_discover: int(1),
            mtu_discover6: int(1),
            min_ttl: int(0),
            default_ttl: knob(&knobs.ip_default_ttl),
            v6only: AtomicBool::new(knob(&knobs.bindv6only) != 0),
            wants: AtomicU32::new(
                want::MULTICAST_LOOP | want::MULTICAST_LOOP6 | want::MULTICAST_ALL,
            ),
        }
    }

    /// A copy, for an accepted socket.
    pub(crate) fn duplicate(&self) -> IpOptions {
        let int = |word: &AtomicI32| AtomicI32::new(knob(word));
        let word = |word: &AtomicU32| AtomicU32::new(word.load(Ordering::Relaxed));
        IpOptions {
            tos: int(&self.tos),
            ttl: int(&self.ttl),
            hops6: int(&self.hops6),
            tclass6: int(&self.tclass6),
            multicast_ttl: int(&self.multicast_ttl),
            multicast_hops6: int(&self.multicast_hops6),
            multicast_if: word(&self.multicast_if),
            multicast_if6: word(&self.multicast_if6),
            unicast_if: word(&self.unicast_if),
            mtu_discover: int(&self.mtu_discover),
            mtu_discover6: int(&self.mtu_discover6),
            min_ttl: int(&self.min_ttl),
            default_ttl: self.default_ttl,
            v6only: AtomicBool::new(self.is_v6only()),
            wants: word(&self.wants),
        }
    }

    /// `IPV6_V6ONLY`.
    pub(crate) fn is_v6only(&self) -> bool {
        self.v6only.load(Ordering::Relaxed)
    }

    /// Whether one of these is on.
    #[inline]
    pub(crate) fn wants(&self, bits: u32) -> bool {
        self.wants.load(Ordering::Relaxed) & bits != 0
    }

    fn want(&self, bits: u32, on: bool) {
        if on {
            self.wants.fetch_or(bits, Ordering::Relaxed);
        } else {
            self.wants.fetch_and(!bits, Ordering::Relaxed);
        }
    }

    /// The hop limit of a packet.
    pub(crate) fn hop_limit(&self, to: Ip) -> u8 {
        let own = match (to.is_multicast(), to.is_v4()) {
            (true, true) => knob(&self.multicast_ttl),
            (true, false) => knob(&self.multicast_hops6),
            (false, true) => knob(&self.ttl),
            (false, false) => knob(&self.hops6),
        };
        u8::try_from(own).unwrap_or(self.default_ttl as u8)
    }

    fn flag4(name: i32) -> Option<u32> {
        Some(match name {
            IP_PKTINFO => want::PKTINFO,
            IP_RECVTTL => want::TTL,
            IP_RECVTOS => want::TOS,
            IP_RECVERR => want::ERRORS4,
            IP_RECVOPTS => want::OPTIONS,
            IP_RETOPTS => want::RETOPTS,
            IP_RECVORIGDSTADDR => want::ORIGDST,
            IP_FREEBIND => want::FREEBIND,
            IP_TRANSPARENT => want::TRANSPARENT,
            IP_BIND_ADDRESS_NO_PORT => want::NO_PORT,
            IP_MULTICAST_LOOP => want::MULTICAST_LOOP,
            IP_MULTICAST_ALL => want::MULTICAST_ALL,
            IP_CHECKSUM => want::CHECKSUM,
            _ => return None,
        })
    }

    fn flag6(name: i32) -> Option<u32> {
        Some(match name {
            IPV6_RECVPKTINFO => want::PKTINFO6,
            IPV6_RECVHOPLIMIT => want::HOPLIMIT6,
            IPV6_RECVTCLASS => want::TCLASS6,
            IPV6_RECVERR => want::ERRORS6,
            IPV6_FREEBIND => want::FREEBIND,
            IPV6_TRANSPARENT => want::TRANSPARENT,
            IPV6_MULTICAST_LOOP => want::MULTICAST_LOOP6,
            IPV6_AUTOFLOWLABEL => want::AUTOFLOW,
            _ => return None,
        })
    }

    /// `setsockopt` of level `SOL_IP`.
    pub(crate) fn set_v4(
        &self,
        common: &Common,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        if matches!(name, IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP | IP_MULTICAST_IF) {
            return self.set_group_option(common, name, value);
        }
        if name == IP_OPTIONS {
            return if value.is_empty() { Ok(()) } else { Err(Errno::EINVAL) };
        }
        // ip(7): these take a byte as well as an int.
        let number = if value.len() >= 4 {
            value.int()?
        } else if !value.is_empty() {
            let mut byte = [0];
            value.bytes(&mut byte)?;
            i32::from(byte[0])
        } else {
            0
        };
        let may = |cap| call.creds().ns_capable(&common.namespace.user_ns, cap);
        if let Some(flag) = Self::flag4(name) {
            if flag == want::TRANSPARENT
                && number != 0
                && !may(Cap::NET_RAW)
                && !may(Cap::NET_ADMIN)
            {
                return Err(Errno::EPERM);
            }
            if name == IP_MULTICAST_ALL && !(0..=1).contains(&number) {
                return Err(Errno::EINVAL);
            }
            self.want(flag, number != 0);
            return Ok(());
        }
        let set = |word: &AtomicI32, value: i32| word.store(value, Ordering::Relaxed);
        match name {
            IP_TOS => {
                // TCP keeps the two bits of explicit congestion notification for itself.
                let tos = number & 0xff;
                set(&self.tos, if common.kind == Kind::Stream { tos & !3 } else { tos });
            }
            IP_TTL if number == -1 || (1..=255).contains(&number) => set(&self.ttl, number),
            IP_MINTTL if (0..=255).contains(&number) => set(&self.min_ttl, number),
            IP_MTU_DISCOVER if (0..=5).contains(&number) => set(&self.mtu_discover, number),
            IP_MULTICAST_TTL if common.kind == Kind::Stream => return Err(Errno::EINVAL),
            IP_MULTICAST_TTL if number == -1 => set(&self.multicast_ttl, 1),
            IP_MULTICAST_TTL if (0..=255).contains(&number) => set(&self.multicast_ttl, number),
            IP_TTL | IP_MINTTL | IP_MTU_DISCOVER | IP_MULTICAST_TTL => return Err(Errno::EINVAL),
            IP_HDRINCL if common.kind == Kind::Raw => self.want(want::HEADER, number != 0),
            IP_NODEFRAG if common.kind == Kind::Raw => self.want(want::NODEFRAG, number != 0),
            IP_UNICAST_IF => {
                self.unicast_if.store(u32::from_be(number as u32), Ordering::Relaxed);
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn set_group_option(&self, common: &Common, name: i32, value: &mut OptionIn<'_>) -> Result<()> {
        if common.kind == Kind::Stream {
            return Err(if name == IP_MULTICAST_IF { Errno::EINVAL } else { Errno::EPROTO });
        }
        // `struct in_addr`, `ip_mreq` or `ip_mreqn`.
        let mut bytes = [0u8; 12];
        let least = if name == IP_MULTICAST_IF { 4 } else { 8 };
        if value.len() < least {
            return Err(Errno::EINVAL);
        }
        let len = value.bytes(&mut bytes)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let (group, address) = (Ip::v4([a, b, c, d]), Ip::v4([e, f, g, h]));
        let inet = crate::Inet::of(&common.namespace).ok_or(Errno::ENODEV)?;
        let by_address = |ip: Ip| match ip {
            Ip::ANY4 => Some(0),
            ip => inet.devices.local_interface(ip).map(|interface| interface.index),
        };
        let index = match (len, name) {
            (12, _) if u32::from_ne_bytes([i, j, k, l]) != 0 => u32::from_ne_bytes([i, j, k, l]),
            (4, IP_MULTICAST_IF) => by_address(group).ok_or(Errno::EADDRNOTAVAIL)?,
            (_, IP_MULTICAST_IF) => by_address(address).ok_or(Errno::EADDRNOTAVAIL)?,
            _ => by_address(address).ok_or(Errno::ENODEV)?,
        };
        if index != 0 && inet.devices.by_index(index).is_none() {
            return Err(if name == IP_MULTICAST_IF { Errno::EADDRNOTAVAIL } else { Errno::ENODEV });
        }
        if name == IP_MULTICAST_IF {
            self.multicast_if.store(index, Ordering::Relaxed);
            return Ok(());
        }
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        crate::groups::change(&inet, common, group, index, name == IP_ADD_MEMBERSHIP)
    }

    /// `setsockopt` of level `SOL_IPV6`.
    pub(crate) fn set_v6(
        &self,
        common: &Common,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionIn<'_>,
        is_bound: bool,
    ) -> Result<()> {
        if matches!(name, IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP) {
            if common.kind == Kind::Stream {
                return Err(Errno::EPROTO);
            }
            let bytes: [u8; 20] = value.read()?;
            let (mut addr, mut index) = ([0; 16], [0; 4]);
            addr.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
            index.iter_mut().zip(bytes.iter().skip(16)).for_each(|(to, from)| *to = *from);
            let group = Ip::v6(addr);
            if !group.is_multicast() {
                return Err(Errno::EINVAL);
            }
            let inet = crate::Inet::of(&common.namespace).ok_or(Errno::ENODEV)?;
            let index = u32::from_ne_bytes(index);
            if index != 0 && inet.devices.by_index(index).is_none() {
                return Err(Errno::ENODEV);
            }
            return crate::groups::change(&inet, common, group, index, name == IPV6_ADD_MEMBERSHIP);
        }
        let number = value.int()?;
        let set = |word: &AtomicI32, value: i32| word.store(value, Ordering::Relaxed);
        if let Some(flag) = Self::flag6(name) {
            let may = |cap| call.creds().ns_capable(&common.namespace.user_ns, cap);
            if flag == want::TRANSPARENT
                && number != 0
                && !may(Cap::NET_RAW)
                && !may(Cap::NET_ADMIN)
            {
                return Err(Errno::EPERM);
            }
            self.want(flag, number != 0);
            return Ok(());
        }
        match name {
            IPV6_V6ONLY if is_bound => return Err(Errno::EINVAL),
            IPV6_V6ONLY => self.v6only.store(number != 0, Ordering::Relaxed),
            IPV6_UNICAST_HOPS if (-1..=255).contains(&number) => set(&self.hops6, number),
            IPV6_MULTICAST_HOPS if common.kind == Kind::Stream => return Err(Errno::ENOPROTOOPT),
            IPV6_MULTICAST_HOPS if number == -1 => set(&self.multicast_hops6, 1),
            IPV6_MULTICAST_HOPS if (0..=255).contains(&number) => {
                set(&self.multicast_hops6, number);
            }
            IPV6_TCLASS if (-1..=255).contains(&number) => set(&self.tclass6, number.max(0)),
            IPV6_MTU_DISCOVER if (0..=5).contains(&number) => set(&self.mtu_discover6, number),
            IPV6_MULTICAST_IF if common.kind == Kind::Stream => return Err(Errno::ENOPROTOOPT),
            IPV6_MULTICAST_IF => {
                let inet = crate::Inet::of(&common.namespace).ok_or(Errno::ENODEV)?;
                let index = number as u32;
                if index != 0 && inet.devices.by_index(index).is_none() {
                    return Err(Errno::ENODEV);
                }
                self.multicast_if6.store(index, Ordering::Relaxed);
            }
            IPV6_UNICAST_IF => {
                self.unicast_if.store(u32::from_be(number as u32), Ordering::Relaxed);
            }
            IPV6_MTU if number != 0 && number < 1280 => return Err(Errno::EINVAL),
            IPV6_MTU => {}
            IPV6_UNICAST_HOPS | IPV6_MULTICAST_HOPS | IPV6_TCLASS | IPV6_MTU_DISCOVER => {
                return Err(Errno::EINVAL);
            }
            IPV6_ADDRFORM | IPV6_CHECKSUM => return Err(Errno::ENOPROTOOPT),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// `getsockopt` of level `SOL_IP`.
    pub(crate) fn get_v4(
        &self,
        name: i32,
        value: &mut OptionOut<'_>,
        is_connected: bool,
    ) -> Result<()> {
        if let Some(flag) = Self::flag4(name) {
            return put(value, i32::from(self.wants(flag)));
        }
        let number = match name {
            IP_TOS => knob(&self.tos),
            IP_TTL => i32::from(self.hop_limit(Ip::LOOPBACK4)),
            IP_MINTTL => knob(&self.min_ttl),
            IP_MTU_DISCOVER => knob(&self.mtu_discover),
            IP_MULTICAST_TTL => knob(&self.multicast_ttl),
            IP_HDRINCL => i32::from(self.wants(want::HEADER)),
            IP_NODEFRAG => i32::from(self.wants(want::NODEFRAG)),
            IP_UNICAST_IF => self.unicast_if.load(Ordering::Relaxed).to_be() as i32,
            IP_MTU if is_connected => 65536,
            IP_MTU => return Err(Errno::ENOTCONN),
            IP_OPTIONS => {
                value.tell_len(0);
                return Ok(());
            }
            IP_MULTICAST_IF => return value.bytes(&[0; 4]),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        put(value, number)
    }

    /// `getsockopt` of level `SOL_IPV6`.
    pub(crate) fn get_v6(
        &self,
        name: i32,
        value: &mut OptionOut<'_>,
        is_connected: bool,
    ) -> Result<()> {
        if let Some(flag) = Self::flag6(name) {
            return value.int(i32::from(self.wants(flag)));
        }
        value.int(match name {
            IPV6_V6ONLY => i32::from(self.is_v6only()),
            IPV6_UNICAST_HOPS => i32::from(self.hop_limit(Ip::LOOPBACK6)),
            IPV6_MULTICAST_HOPS => knob(&self.multicast_hops6),
            IPV6_TCLASS => knob(&self.tclass6),
            IPV6_MTU_DISCOVER => knob(&self.mtu_discover6),
            IPV6_MULTICAST_IF => self.multicast_if6.load(Ordering::Relaxed) as i32,
            IPV6_UNICAST_IF => self.unicast_if.load(Ordering::Relaxed).to_be() as i32,
            IPV6_MTU if is_connected => 65536,
            IPV6_MTU => return Err(Errno::ENOTCONN),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }
}

/// ip(7): a caller with room for less than an int gets a byte, if the value fits one.
fn put(value: &mut OptionOut<'_>, number: i32) -> Result<()> {
    match u8::try_from(number) {
        Ok(byte) if (1..4).contains(&value.room()) => value.bytes(&[byte]),
        _ => value.int(number),
    }
}
