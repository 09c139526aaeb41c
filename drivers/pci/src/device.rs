//! A function and what drivers do with it.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::PhysAddr;
use arch::lock::{LockClass, SpinLock};
use hw::{Mmio, PortRange};

use crate::bar::{self, Bar, BarKind};
use crate::capability::{self, Capability};
use crate::config::{Access, Address};

static DRIVER: LockClass = LockClass::new("pci.bound_driver", 546);

const COMMAND: u16 = 0x04;
const COMMAND_PORTS: u16 = 1;
const COMMAND_MEMORY: u16 = 2;
const COMMAND_MASTER: u16 = 4;
const COMMAND_NO_INTX: u16 = 1 << 10;

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// Vendor.
    pub vendor: u16,
    /// Device, by vendor.
    pub device: u16,
    /// Vendor of the board.
    pub subsystem_vendor: u16,
    /// Board, by vendor.
    pub subsystem: u16,
    /// Class, subclass and programming interface: 0x010802 for NVMe.
    pub class: u32,
    /// Revision.
    pub revision: u8,
}

/// A PCI function.
pub struct Device {
    /// Where it is.
    pub address: Address,
    /// What it is.
    pub id: Id,
    /// Header type without the multi-function bit: 0 device, 1 bridge.
    pub header_type: u8,
    /// The buses behind a bridge: secondary and subordinate.
    pub buses: Option<(u8, u8)>,
    /// The legacy interrupt's pin (1 is INTA) and line, 0 and 255 for none.
    pub interrupt: (u8, u8),
    bars: [Option<Bar>; 6],
    capabilities: Vec<Capability>,
    access: Arc<Access>,
    driver: SpinLock<Option<&'static str>>,
}

impl Device {
    /// Reads the function at `address`, if there is one.
    pub(crate) fn read(access: &Arc<Access>, address: Address) -> Option<Device> {
        let read = |offset| access.read32(address, offset);
        let ids = read(0);
        if matches!(ids as u16, 0 | 0xffff) {
            return None;
        }
        let class = read(8);
        let header_type = (read(0x0c) >> 16) as u8 & 0x7f;
        let subsystem = if header_type == 0 { read(0x2c) } else { 0 };
        let bar_count = match header_type {
            0 => 6,
            1 => 2,
            _ => 0,
        };
        let interrupt = read(0x3c);
        let buses = (header_type == 1).then(|| {
            let buses = read(0x18);
            ((buses >> 8) as u8, (buses >> 16) as u8)
        });
        Some(Device {
            address,
            id: Id {
                vendor: ids as u16,
                device: (ids >> 16) as u16,
                subsystem_vendor: subsystem as u16,
                subsystem: (subsystem >> 16) as u16,
                class: class >> 8,
                revision: class as u8,
            },
            header_type,
            buses,
            interrupt: ((interrupt >> 8) as u8, interrupt as u8),
            bars: bar::read_all(access, address, bar_count),
            capabilities: capability::read_all(access, address),
            access: access.clone(),
            driver: SpinLock::new(&DRIVER, None),
        })
    }

    /// Its name in `/sys/bus/pci/devices`.
    pub fn name(&self) -> String {
        format!("{}", self.address)
    }

    /// Reads a byte of configuration space.
    pub fn read8(&self, offset: u16) -> u8 {
        (self.read32(offset & !3) >> (8 * u32::from(offset & 3))) as u8
    }

    /// Reads a word of configuration space.
    pub fn read16(&self, offset: u16) -> u16 {
        (self.read32(offset & !3) >> (8 * u32::from(offset & 2))) as u16
    }

    /// Reads a double word of configuration space.
    pub fn read32(&self, offset: u16) -> u32 {
        self.access.read32(self.address, offset)
    }

    /// Writes a word of configuration space.
    pub fn write16(&self, offset: u16, value: u16) {
        self.access.write16(self.address, offset, value);
    }

    /// Writes a double word of configuration space.
    pub fn write32(&self, offset: u16, value: u32) {
        self.access.write32(self.address, offset, value);
    }

    /// Bytes of configuration space: 256 or 4096.
    pub fn config_size(&self) -> u16 {
        let is_express = self.find_capability(capability::capability_id::EXPRESS).is_some();
        if is_express { self.access.function_size() } else { 256 }
    }

    /// The capabilities, in the device's order.
    pub fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    /// The first capability of a kind.
    pub fn find_capability(&self, id: u8) -> Option<Capability> {
        self.capabilities.iter().find(|capability| capability.id == id).copied()
    }

    /// The BARs.
    pub fn bars(&self) -> &[Option<Bar>; 6] {
        &self.bars
    }

    /// A memory BAR, claimed and mapped as a whole.
    ///
    /// # Errors
    /// `ENODEV` when there is no such BAR or it lies nowhere, `EBUSY`, `ENOMEM`.
    pub fn map_bar(&self, index: usize) -> Result<Mmio> {
        let bar = self.memory_bar(index)?;
        let size = usize::try_from(bar.size).map_err(|_| Errno::ENOMEM)?;
        Mmio::map(&self.name(), PhysAddr(bar.address), size)
    }

    /// A part of a memory BAR, claimed and mapped.
    ///
    /// # Errors
    /// As [`Device::map_bar`], and `EINVAL` when the part is not inside.
    pub fn map_bar_part(&self, index: usize, offset: u64, len: usize) -> Result<Mmio> {
        let bar = self.memory_bar(index)?;
        let end = offset.checked_add(len as u64).ok_or(Errno::EINVAL)?;
        if end > bar.size {
            return Err(Errno::EINVAL);
        }
        let start = bar.address.checked_add(offset).ok_or(Errno::EINVAL)?;
        Mmio::map(&self.name(), PhysAddr(start), len)
    }

    fn memory_bar(&self, index: usize) -> Result<Bar> {
        let bar = self.bars.get(index).copied().flatten().ok_or(Errno::ENODEV)?;
        match bar.kind {
            BarKind::Memory { .. } if bar.address != 0 => Ok(bar),
            _ => Err(Errno::ENODEV),
        }
    }

    /// A port BAR, claimed.
    ///
    /// # Errors
    /// `ENODEV` when there is no such BAR or it lies nowhere, `EBUSY`.
    pub fn port_bar(&self, index: usize) -> Result<PortRange> {
        let bar = self.bars.get(index).copied().flatten().ok_or(Errno::ENODEV)?;
        if bar.kind != BarKind::Ports || bar.address == 0 {
            return Err(Errno::ENODEV);
        }
        let first = u16::try_from(bar.address).map_err(|_| Errno::ENODEV)?;
        let len = u16::try_from(bar.size).map_err(|_| Errno::ENODEV)?;
        PortRange::claim(&self.name(), first, len)
    }

    fn change_command(&self, set: u16, clear: u16) {
        let old = self.read16(COMMAND);
        let new = old & !clear | set;
        if new != old {
            self.write16(COMMAND, new);
        }
    }

    /// Lets the device decode its BARs and reach memory.
    pub fn enable(&self) {
        self.wake();
        self.change_command(COMMAND_PORTS | COMMAND_MEMORY | COMMAND_MASTER, 0);
    }

    /// Keeps the device from reaching memory.
    pub fn disable_master(&self) {
        self.change_command(0, COMMAND_MASTER);
    }

    /// Switches the legacy interrupt line on or off.
    pub(crate) fn set_legacy_interrupt(&self, is_on: bool) {
        if is_on {
            self.change_command(0, COMMAND_NO_INTX);
        } else {
            self.change_command(COMMAND_NO_INTX, 0);
        }
    }

    /// Brings the device to power state D0.
    fn wake(&self) {
        if let Some(power) = self.find_capability(capability::capability_id::POWER) {
            let state = self.read16(power.offset + 4);
            if state & 3 != 0 {
                self.write16(power.offset + 4, state & !3);
            }
        }
    }

    /// The name of the driver that serves it.
    pub fn driver(&self) -> Option<&'static str> {
        *self.driver.lock()
    }

    pub(crate) fn set_driver(&self, name: Option<&'static str>) {
        *self.driver.lock() = name;
    }
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Device({} {:04x}:{:04x})", self.address, self.id.vendor, self.id.device)
    }
}
