//! Base address registers: PCI Local Bus 3.0 §6.2.5.

use crate::config::{Access, Address};

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Ports,
    /// Memory.
    Memory {
        /// Takes the next BAR as the upper half.
        is_64bit: bool,
        /// Reads have no side effects.
        is_prefetchable: bool,
    },
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Where; 0 when the firmware has not placed it.
    pub address: u64,
    /// How many bytes or ports; a power of two.
    pub size: u64,
}

const FIRST: u16 = 0x10;
const COMMAND: u16 = 0x04;
const DECODES: u32 = 3;

fn sized(access: &Access, at: Address, offset: u16) -> (u32, u32) {
    let old = access.read32(at, offset);
    access.write32(at, offset, !0);
    let mask = access.read32(at, offset);
    access.write32(at, offset, old);
    (old, mask)
}

/// Reads and measures the BARs of a function; decoding is off meanwhile.
pub(crate) fn read_all(access: &Access, at: Address, count: usize) -> [Option<Bar>; 6] {
    let mut bars = [None; 6];
    let command = access.read32(at, COMMAND) as u16;
    access.write16(at, COMMAND, command & !(DECODES as u16));
    let mut index = 0;
    while index < count.min(6) {
        let offset = FIRST + 4 * index as u16;
        let (low, mask) = sized(access, at, offset);
        let is_64bit = low & 7 == 4 && index + 1 < count;
        let bar = match (mask, low & 1) {
            (0 | 0xffff_ffff, _) if !is_64bit => None,
            (_, 1) => ports(low, mask),
            _ if is_64bit => memory64(low, mask, sized(access, at, offset + 4)),
            _ => memory32(low, mask),
        };
        if let Some(slot) = bars.get_mut(index) {
            *slot = bar;
        }
        index += if is_64bit { 2 } else { 1 };
    }
    access.write16(at, COMMAND, command);
    bars
}

fn size_of_mask(mask: u64) -> Option<u64> {
    // The lowest set bit is the size; hostile masks may be anything else above it.
    (mask != 0).then(|| mask & mask.wrapping_neg())
}

fn ports(low: u32, mask: u32) -> Option<Bar> {
    // Devices may leave the upper half unimplemented.
    let size = size_of_mask(u64::from(mask & 0xfffc))?;
    Some(Bar { kind: BarKind::Ports, address: u64::from(low & 0xfffc), size })
}

fn memory32(low: u32, mask: u32) -> Option<Bar> {
    let kind = BarKind::Memory { is_64bit: false, is_prefetchable: low & 8 != 0 };
    let size = size_of_mask(u64::from(mask & !15))?;
    Some(Bar { kind, address: u64::from(low & !15), size })
}

fn memory64(low: u32, mask_low: u32, (high, mask_high): (u32, u32)) -> Option<Bar> {
    let kind = BarKind::Memory { is_64bit: true, is_prefetchable: low & 8 != 0 };
    let size = size_of_mask(u64::from(mask_high) << 32 | u64::from(mask_low & !15))?;
    Some(Bar { kind, address: u64::from(high) << 32 | u64::from(low & !15), size })
}
