//! Virtio over memory-mapped registers: Virtio 1.2 §4.2, version 2. Virtual machines without PCI
//! (microvm, Firecracker) have it.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::PhysAddr;
use arch::cpu::CpuId;
use arch::irq::{Handler, Trigger, request_gsi};
use hw::Mmio;

use super::Transport;
use crate::queue::{Addresses, Doorbell};

const MAGIC: usize = 0x000;
const VERSION: usize = 0x004;
const DEVICE: usize = 0x008;
const DEVICE_FEATURES: usize = 0x010;
const DEVICE_FEATURES_SELECT: usize = 0x014;
const DRIVER_FEATURES: usize = 0x020;
const DRIVER_FEATURES_SELECT: usize = 0x024;
const QUEUE_SELECT: usize = 0x030;
const QUEUE_SIZE_MAX: usize = 0x034;
const QUEUE_SIZE: usize = 0x038;
const QUEUE_READY: usize = 0x044;
const QUEUE_NOTIFY: usize = 0x050;
const INTERRUPT_STATUS: usize = 0x060;
const INTERRUPT_ACK: usize = 0x064;
const STATUS: usize = 0x070;
const QUEUE_DESCRIPTORS: usize = 0x080;
const QUEUE_AVAILABLE: usize = 0x090;
const QUEUE_USED: usize = 0x0a0;
const GENERATION: usize = 0x0fc;
const CONFIG: usize = 0x100;

/// `virt` in little-endian letters.
const MAGIC_VALUE: u32 = 0x7472_6976;

/// A device behind memory-mapped registers.
pub(crate) struct MmioTransport {
    registers: Mmio,
    gsi: u32,
}

impl MmioTransport {
    /// Maps the registers at `base`.
    ///
    /// # Errors
    /// `ENODEV` when there is no device, or an old one.
    pub(crate) fn new(base: PhysAddr, len: usize, gsi: u32) -> Result<Self> {
        let registers = Mmio::map("virtio-mmio", base, len)?;
        Self::with_registers(registers, gsi)
    }

    pub(crate) fn with_registers(registers: Mmio, gsi: u32) -> Result<Self> {
        let is_virtio = registers.read32(MAGIC) == MAGIC_VALUE && registers.read32(VERSION) == 2;
        if !is_virtio || registers.read32(DEVICE) == 0 {
            return Err(Errno::ENODEV);
        }
        Ok(Self { registers, gsi })
    }
}

impl Transport for MmioTransport {
    fn name(&self) -> String {
        format!("{:x}.virtio_mmio", self.registers.phys().0)
    }

    fn device(&self) -> u32 {
        self.registers.read32(DEVICE)
    }

    fn status(&self) -> u8 {
        self.registers.read32(STATUS) as u8
    }

    fn set_status(&self, status: u8) {
        self.registers.write32(STATUS, u32::from(status));
    }

    fn features(&self) -> u64 {
        self.registers.write32(DEVICE_FEATURES_SELECT, 0);
        let low = self.registers.read32(DEVICE_FEATURES);
        self.registers.write32(DEVICE_FEATURES_SELECT, 1);
        u64::from(self.registers.read32(DEVICE_FEATURES)) << 32 | u64::from(low)
    }

    fn set_features(&self, features: u64) {
        self.registers.write32(DRIVER_FEATURES_SELECT, 0);
        self.registers.write32(DRIVER_FEATURES, features as u32);
        self.registers.write32(DRIVER_FEATURES_SELECT, 1);
        self.registers.write32(DRIVER_FEATURES, (features >> 32) as u32);
    }

    fn queue_size(&self, queue: u16) -> u16 {
        self.registers.write32(QUEUE_SELECT, u32::from(queue));
        self.registers.read32(QUEUE_SIZE_MAX).min(32768) as u16
    }

    fn enable_queue(&self, queue: u16, size: u16, at: Addresses) -> Result<Doorbell> {
        let registers = &self.registers;
        registers.write32(QUEUE_SELECT, u32::from(queue));
        if registers.read32(QUEUE_READY) != 0 {
            return Err(Errno::EBUSY);
        }
        registers.write32(QUEUE_SIZE, u32::from(size));
        let parts = [
            (QUEUE_DESCRIPTORS, at.descriptors),
            (QUEUE_AVAILABLE, at.available),
            (QUEUE_USED, at.used),
        ];
        for (register, address) in parts {
            registers.write32(register, address.0 as u32);
            registers.write32(register + 4, (address.0 >> 32) as u32);
        }
        registers.write32(QUEUE_READY, 1);
        Ok(Doorbell { registers: registers.clone(), offset: QUEUE_NOTIFY, is_wide: true })
    }

    fn config8(&self, offset: usize) -> u8 {
        self.registers.read8(CONFIG + offset)
    }

    fn config16(&self, offset: usize) -> u16 {
        self.registers.read16(CONFIG + offset)
    }

    fn config32(&self, offset: usize) -> u32 {
        self.registers.read32(CONFIG + offset)
    }

    fn config_generation(&self) -> u32 {
        self.registers.read32(GENERATION)
    }

    fn set_handlers(&self, config: Handler, queues: Vec<(Option<CpuId>, Handler)>) -> Result<()> {
        let registers = self.registers.clone();
        let handler = Arc::new(move || {
            let why = registers.read32(INTERRUPT_STATUS);
            registers.write32(INTERRUPT_ACK, why);
            if why & 1 != 0 {
                queues.iter().for_each(|(_, handler)| handler());
            }
            if why & 2 != 0 {
                config();
            }
        });
        request_gsi(self.gsi, Trigger::Firmware, handler)?;
        Ok(())
    }
}
