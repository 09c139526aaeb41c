//! Interrupts: MSI-X (PCI Local Bus 3.0 §6.8.2), MSI (§6.8.1) and the legacy line.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::cpu::CpuId;
use arch::irq::{self, MsiSource, MsiVector, Trigger};
use hw::Mmio;

use crate::capability::capability_id;
use crate::config::Address;
use crate::device::Device;

/// What an interrupt calls, with interrupts off.
pub type Handler = irq::Handler;

/// A vector that a driver asks for.
#[derive(Clone)]
pub struct Vector {
    /// What it is for, as `/proc/interrupts` names it.
    pub name: String,
    /// Where it should arrive.
    pub cpu: Option<CpuId>,
    /// What it calls.
    pub handler: Handler,
}

const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
const MSIX_ENTRY: usize = 16;
const MSI_ENABLE: u16 = 1;
const MSI_64BIT: u16 = 1 << 7;

/// The interrupts a driver has; given back when dropped.
pub struct Interrupts {
    device: Arc<Device>,
    kind: Kind,
}

enum Kind {
    Msix { table: Mmio, vectors: Vec<MsiVector> },
    Msi(MsiVector),
    Legacy,
}

impl Interrupts {
    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.kind {
            Kind::Msix { vectors, .. } => vectors.len(),
            _ => 1,
        }
    }

    /// Whether each has a vector of its own (MSI-X).
    pub fn is_msix(&self) -> bool {
        matches!(self.kind, Kind::Msix { .. })
    }

    /// Whether the line is shared and level triggered, so that the device must be asked.
    pub fn is_legacy(&self) -> bool {
        matches!(self.kind, Kind::Legacy)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Msix { table, vectors } => {
                if let Some(msix) = self.device.find_capability(capability_id::MSIX) {
                    let control = self.device.read16(msix.offset + 2);
                    self.device.write16(msix.offset + 2, control & !MSIX_ENABLE);
                }
                for (index, vector) in vectors.iter().enumerate() {
                    table.write32(index * MSIX_ENTRY + 12, 1);
                    irq::free_msi(*vector);
                }
            }
            Kind::Msi(vector) => {
                if let Some(msi) = self.device.find_capability(capability_id::MSI) {
                    let control = self.device.read16(msi.offset + 2);
                    self.device.write16(msi.offset + 2, control & !MSI_ENABLE);
                }
                irq::free_msi(*vector);
            }
            Kind::Legacy => self.device.set_legacy_interrupt(false),
        }
    }
}

impl Device {
    /// How many MSI-X vectors the device has; 0 without MSI-X.
    pub fn msix_count(&self) -> usize {
        let Some(msix) = self.find_capability(capability_id::MSIX) else { return 0 };
        usize::from(self.read16(msix.offset + 2) & 0x7ff) + 1
    }

    /// Switches MSI-X on with these vectors.
    ///
    /// # Errors
    /// `ENODEV` without MSI-X or with fewer vectors, `ENOSPC` when the machine has no more.
    pub fn enable_msix(self: &Arc<Self>, wanted: Vec<Vector>) -> Result<Interrupts> {
        let msix = self.find_capability(capability_id::MSIX).ok_or(Errno::ENODEV)?;
        if wanted.len() > self.msix_count() {
            return Err(Errno::ENODEV);
        }
        let place = self.read32(msix.offset + 4);
        let size = self.msix_count() * MSIX_ENTRY;
        let table = self.map_bar_part((place & 7) as usize, u64::from(place & !7), size)?;
        let control = self.read16(msix.offset + 2);
        self.write16(msix.offset + 2, control | MSIX_ENABLE | MSIX_MASK_ALL);
        let kind = Kind::Msix { table: table.clone(), vectors: Vec::new() };
        let mut interrupts = Interrupts { device: self.clone(), kind };
        for index in 0..self.msix_count() {
            table.write32(index * MSIX_ENTRY + 12, 1);
        }
        for (index, Vector { name, cpu, handler }) in wanted.into_iter().enumerate() {
            // An error drops `interrupts`, which gives back what it has.
            let vector = irq::allocate_msi(cpu, self.source(name, index), handler)?;
            let entry = index * MSIX_ENTRY;
            table.write32(entry, vector.address as u32);
            table.write32(entry + 4, (vector.address >> 32) as u32);
            table.write32(entry + 8, vector.data);
            table.write32(entry + 12, 0);
            if let Kind::Msix { vectors, .. } = &mut interrupts.kind {
                vectors.push(vector);
            }
        }
        self.set_legacy_interrupt(false);
        self.write16(msix.offset + 2, control & !MSIX_MASK_ALL | MSIX_ENABLE);
        Ok(interrupts)
    }

    /// Switches on a single interrupt: MSI-X, else MSI, else the legacy line.
    ///
    /// # Errors
    /// `ENODEV` when the device has none, `ENOSPC` when the machine has no more.
    pub fn enable_one(self: &Arc<Self>, name: &str, handler: Handler) -> Result<Interrupts> {
        if self.msix_count() > 0 {
            let vector = Vector { name: name.into(), cpu: None, handler: handler.clone() };
            match self.enable_msix(alloc::vec![vector]) {
                Ok(interrupts) => return Ok(interrupts),
                Err(error) => log::warn!("pci: {}: no MSI-X: {error:?}", self.address),
            }
        }
        if let Some(msi) = self.find_capability(capability_id::MSI) {
            match self.enable_msi(msi.offset, name, handler.clone()) {
                Ok(interrupts) => return Ok(interrupts),
                Err(error) => log::warn!("pci: {}: no MSI: {error:?}", self.address),
            }
        }
        self.enable_legacy(name, handler)
    }

    /// Names message `index` of the device.
    fn source(&self, name: String, index: usize) -> MsiSource {
        let Address { bus, device, function, .. } = self.address;
        let place = u32::from(bus) << 8 | u32::from(device) << 3 | u32::from(function);
        MsiSource { name, number: place << 11 | index as u32 }
    }

    fn enable_msi(self: &Arc<Self>, at: u16, name: &str, handler: Handler) -> Result<Interrupts> {
        let vector = irq::allocate_msi(None, self.source(name.into(), 0), handler)?;
        let control = self.read16(at + 2);
        self.write32(at + 4, vector.address as u32);
        let data_at = if control & MSI_64BIT != 0 {
            self.write32(at + 8, (vector.address >> 32) as u32);
            at + 12
        } else {
            at + 8
        };
        self.write16(data_at, vector.data as u16);
        self.set_legacy_interrupt(false);
        // One message: the multiple-message field is zero.
        self.write16(at + 2, control & !0x70 | MSI_ENABLE);
        Ok(Interrupts { device: self.clone(), kind: Kind::Msi(vector) })
    }

    fn enable_legacy(self: &Arc<Self>, name: &str, handler: Handler) -> Result<Interrupts> {
        let (pin, line) = self.interrupt;
        if pin == 0 || line == 0 || line == 255 {
            return Err(Errno::ENODEV);
        }
        irq::request_gsi(u32::from(line), Trigger::LevelLow, name, handler)?;
        self.set_legacy_interrupt(true);
        Ok(Interrupts { device: self.clone(), kind: Kind::Legacy })
    }
}
