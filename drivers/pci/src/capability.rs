//! The list of capabilities: PCI Local Bus 3.0 §6.7.

use alloc::vec::Vec;

use crate::config::{Access, Address};

/// Numbers of capabilities.
pub mod capability_id {
    /// Power management.
    pub const POWER: u8 = 0x01;
    /// Message signalled interrupts.
    pub const MSI: u8 = 0x05;
    /// Vendor specific; virtio's structures.
    pub const VENDOR: u8 = 0x09;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
}

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is ([`capability_id`]).
    pub id: u8,
    /// Where in configuration space it starts.
    pub offset: u16,
}

const STATUS: u16 = 0x06;
const HAS_LIST: u32 = 1 << 4;
const POINTER: u16 = 0x34;

/// Walks the list. It has at most 48 entries, so a list that is longer is a loop.
pub(crate) fn read_all(access: &Access, at: Address) -> Vec<Capability> {
    let mut all = Vec::new();
    if access.read32(at, STATUS & !3) >> 16 & HAS_LIST == 0 {
        return all;
    }
    let mut next = access.read32(at, POINTER) as u8 & 0xfc;
    while next >= 0x40 && all.len() < 48 {
        let header = access.read32(at, u16::from(next));
        all.push(Capability { id: header as u8, offset: u16::from(next) });
        next = (header >> 8) as u8 & 0xfc;
    }
    all
}
