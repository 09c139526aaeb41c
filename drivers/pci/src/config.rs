//! Configuration space: PCI Local Bus 3.0 §3.2.2.3.2 (ports), PCI Express 4.0 §7.2.2 (ECAM).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use abi::Result;
use arch::PhysAddr;
use arch::lock::{IrqLock, LockClass};
use hw::{Mmio, PortRange};

static CONFIG: LockClass = LockClass::new("pci.config", 595);

/// Where a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Segment group (domain).
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device on the bus, below 32.
    pub device: u8,
    /// Function of the device, below 8.
    pub function: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, bus, device, function } = self;
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// One entry of the firmware's MCFG table.
#[derive(Clone, Copy, Debug)]
pub struct EcamRegion {
    /// Where the configuration space of bus 0 of the segment would lie.
    pub base: u64,
    /// Segment group.
    pub segment: u16,
    /// First bus described.
    pub first_bus: u8,
    /// Last bus described.
    pub last_bus: u8,
}

/// The way to configuration space.
pub(crate) enum Access {
    /// Memory mapped, a bus at a time and when first needed.
    Ecam { regions: Vec<EcamRegion>, buses: IrqLock<BTreeMap<(u16, u8), Mmio>> },
    /// The two ports, which must be used together.
    Ports(IrqLock<PortRange>),
    /// A test's.
    #[cfg(test)]
    Simulated(Arc<dyn Space>),
}

/// A simulated configuration space.
#[cfg(test)]
pub(crate) trait Space: Send + Sync {
    fn read(&self, address: Address, offset: u16) -> u32;
    fn write(&self, address: Address, offset: u16, value: u32);
}

/// Bytes of configuration space per bus.
const BUS_SIZE: usize = 1 << 20;

impl Access {
    /// The ways there are: ECAM if the firmware describes it.
    pub(crate) fn new(regions: &[EcamRegion]) -> Result<Arc<Self>> {
        if !regions.is_empty() {
            let access = Access::Ecam {
                regions: regions.to_vec(),
                buses: IrqLock::new(&CONFIG, BTreeMap::new()),
            };
            let probe = Address { segment: 0, bus: 0, device: 0, function: 0 };
            access.prepare_bus(0, 0);
            if access.read32(probe, 0) != !0 {
                return Ok(Arc::new(access));
            }
            log::warn!("pci: the memory-mapped configuration space does not answer");
        }
        let ports = PortRange::claim("PCI conf1", 0xcf8, 8)?;
        Ok(Arc::new(Access::Ports(IrqLock::new(&CONFIG, ports))))
    }

    /// The buses that can be asked on a segment.
    pub(crate) fn segments(&self) -> Vec<(u16, u8)> {
        match self {
            Access::Ecam { regions, .. } => {
                let mut all: Vec<_> = regions.iter().map(|r| (r.segment, r.first_bus)).collect();
                all.dedup();
                all
            }
            _ => alloc::vec![(0, 0)],
        }
    }

    /// Bytes of configuration space per function.
    pub(crate) fn function_size(&self) -> u16 {
        match self {
            Access::Ecam { .. } => 4096,
            _ => 256,
        }
    }

    /// Maps a bus's configuration space; may wait, so not under a lock.
    pub(crate) fn prepare_bus(&self, segment: u16, bus: u8) {
        let Access::Ecam { regions, buses } = self else { return };
        if buses.lock().contains_key(&(segment, bus)) {
            return;
        }
        let holds =
            |r: &&EcamRegion| r.segment == segment && r.first_bus <= bus && bus <= r.last_bus;
        let Some(region) = regions.iter().find(holds) else { return };
        let base = region.base.saturating_add(u64::from(bus) * BUS_SIZE as u64);
        match Mmio::map("PCI ECAM", PhysAddr(base), BUS_SIZE) {
            Ok(mmio) => {
                buses.lock().insert((segment, bus), mmio);
            }
            Err(error) => log::warn!("pci: no configuration space for bus {bus:02x}: {error:?}"),
        }
    }

    /// Reads an aligned double word; all ones where nobody answers.
    pub(crate) fn read32(&self, at: Address, offset: u16) -> u32 {
        let offset = offset & !3;
        match self {
            Access::Ecam { buses, .. } => {
                let buses = buses.lock();
                let Some(mmio) = buses.get(&(at.segment, at.bus)) else { return !0 };
                mmio.read32(ecam_offset(at, offset))
            }
            Access::Ports(_) if offset >= 256 || at.segment != 0 => !0,
            Access::Ports(ports) => {
                let ports = ports.lock();
                ports.write32(0, port_address(at, offset));
                ports.read32(4)
            }
            #[cfg(test)]
            Access::Simulated(space) => space.read(at, offset),
        }
    }

    /// Writes an aligned double word.
    pub(crate) fn write32(&self, at: Address, offset: u16, value: u32) {
        let offset = offset & !3;
        match self {
            Access::Ecam { buses, .. } => {
                let buses = buses.lock();
                if let Some(mmio) = buses.get(&(at.segment, at.bus)) {
                    mmio.write32(ecam_offset(at, offset), value);
                }
            }
            Access::Ports(_) if offset >= 256 || at.segment != 0 => {}
            Access::Ports(ports) => {
                let ports = ports.lock();
                ports.write32(0, port_address(at, offset));
                ports.write32(4, value);
            }
            #[cfg(test)]
            Access::Simulated(space) => space.write(at, offset, value),
        }
    }

    /// Writes an aligned word without touching its neighbour: status bits clear when written.
    pub(crate) fn write16(&self, at: Address, offset: u16, value: u16) {
        let offset = offset & !1;
        match self {
            Access::Ecam { buses, .. } => {
                let buses = buses.lock();
                if let Some(mmio) = buses.get(&(at.segment, at.bus)) {
                    mmio.write16(ecam_offset(at, offset), value);
                }
            }
            Access::Ports(_) if offset >= 256 || at.segment != 0 => {}
            Access::Ports(ports) => {
                let ports = ports.lock();
                ports.write32(0, port_address(at, offset & !3));
                ports.write16(4 + (offset & 2), value);
            }
            #[cfg(test)]
            Access::Simulated(space) => {
                let shift = u32::from(offset & 2) * 8;
                let old = space.read(at, offset & !3);
                let mask = 0xffff << shift;
                space.write(at, offset & !3, old & !mask | u32::from(value) << shift);
            }
        }
    }
}

fn ecam_offset(at: Address, offset: u16) -> usize {
    usize::from(at.device & 31) << 15 | usize::from(at.function & 7) << 12 | usize::from(offset)
}

fn port_address(at: Address, offset: u16) -> u32 {
    0x8000_0000
        | u32::from(at.bus) << 16
        | u32::from(at.device & 31) << 11
        | u32::from(at.function & 7) << 8
        | u32::from(offset & 0xfc)
}
