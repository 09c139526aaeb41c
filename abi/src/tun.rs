//! Commands, flags and structures of `/dev/net/tun` (`linux/if_tun.h`) and of interfaces (netdevice(7)).

#![expect(missing_docs, reason = "the names are Linux's; the headers document them")]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const TUNSETNOCSUM: u32 = 0x4004_54c8;
pub const TUNSETDEBUG: u32 = 0x4004_54c9;
pub const TUNSETIFF: u32 = 0x4004_54ca;
pub const TUNSETPERSIST: u32 = 0x4004_54cb;
pub const TUNSETOWNER: u32 = 0x4004_54cc;
pub const TUNSETLINK: u32 = 0x4004_54cd;
pub const TUNSETGROUP: u32 = 0x4004_54ce;
pub const TUNGETFEATURES: u32 = 0x8004_54cf;
pub const TUNSETOFFLOAD: u32 = 0x4004_54d0;
pub const TUNSETTXFILTER: u32 = 0x4004_54d1;
pub const TUNGETIFF: u32 = 0x8004_54d2;
pub const TUNGETSNDBUF: u32 = 0x8004_54d3;
pub const TUNSETSNDBUF: u32 = 0x4004_54d4;
pub const TUNATTACHFILTER: u32 = 0x4010_54d5;
pub const TUNDETACHFILTER: u32 = 0x4010_54d6;
pub const TUNGETVNETHDRSZ: u32 = 0x8004_54d7;
pub const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
pub const TUNSETQUEUE: u32 = 0x4004_54d9;
pub const TUNSETIFINDEX: u32 = 0x4004_54da;
pub const TUNGETFILTER: u32 = 0x8010_54db;
pub const TUNSETVNETLE: u32 = 0x4004_54dc;
pub const TUNGETVNETLE: u32 = 0x8004_54dd;
pub const TUNSETSTEERINGEBPF: u32 = 0x8004_54e0;
pub const TUNSETFILTEREBPF: u32 = 0x8004_54e1;
pub const TUNSETCARRIER: u32 = 0x4004_54e2;
pub const TUNGETDEVNETNS: u32 = 0x54e3;

pub const SIOCGIFHWADDR: u32 = 0x8927;
pub const SIOCSIFHWADDR: u32 = 0x8924;
pub const SIOCGSKNS: u32 = 0x894c;

pub const IFF_TUN: u16 = 0x1;
pub const IFF_TAP: u16 = 0x2;
pub const IFF_NAPI: u16 = 0x10;
pub const IFF_NAPI_FRAGS: u16 = 0x20;
pub const IFF_NO_CARRIER: u16 = 0x40;
pub const IFF_MULTI_QUEUE: u16 = 0x100;
pub const IFF_ATTACH_QUEUE: u16 = 0x200;
pub const IFF_DETACH_QUEUE: u16 = 0x400;
pub const IFF_PERSIST: u16 = 0x800;
pub const IFF_NO_PI: u16 = 0x1000;
pub const IFF_ONE_QUEUE: u16 = 0x2000;
pub const IFF_VNET_HDR: u16 = 0x4000;
pub const IFF_TUN_EXCL: u16 = 0x8000;

pub const TUN_F_CSUM: u32 = 1;
pub const TUN_F_TSO4: u32 = 2;
pub const TUN_F_TSO6: u32 = 4;
pub const TUN_F_TSO_ECN: u32 = 8;
pub const TUN_F_UFO: u32 = 16;

pub const TUN_PKT_STRIP: u16 = 1;
pub const TUN_FLT_ALLMULTI: u16 = 1;

pub const IFNAMSIZ: usize = 16;

/// `struct ifreq`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IfReq {
    pub name: [u8; IFNAMSIZ],
    pub data: [u8; 24],
}

impl IfReq {
    /// `ifr_flags`.
    pub fn flags(&self) -> u16 {
        let [low, high, ..] = self.data;
        u16::from_ne_bytes([low, high])
    }

    /// Sets `ifr_flags`.
    pub fn set_flags(&mut self, flags: u16) {
        let [low, high] = flags.to_ne_bytes();
        self.data = [0; 24];
        (self.data[0], self.data[1]) = (low, high);
    }

    /// `ifr_hwaddr`: what it is an address of, and six bytes.
    pub fn hardware(&self) -> (u16, [u8; 6]) {
        let [low, high, a, b, c, d, e, f, ..] = self.data;
        (u16::from_ne_bytes([low, high]), [a, b, c, d, e, f])
    }

    /// Sets `ifr_hwaddr`.
    pub fn set_hardware(&mut self, kind: u16, mac: [u8; 6]) {
        self.set_flags(kind);
        self.data.iter_mut().skip(2).zip(mac).for_each(|(to, from)| *to = from);
    }

    /// Sets `ifr_name`, cut to what there is room for.
    pub fn set_name(&mut self, name: &str) {
        self.name = [0; IFNAMSIZ];
        let bytes = name.bytes().take(IFNAMSIZ - 1);
        self.name.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    /// `ifr_name` up to its zero, the last byte being one.
    pub fn name_bytes(&self) -> &[u8] {
        let name = self.name.get(..IFNAMSIZ - 1).unwrap_or_default();
        name.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}
