//! Virtio over PCI: Virtio 1.2 §4.1, the modern interface only.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::irq::Handler;
use arch::lock::{LockClass, SpinLock};
use hw::Mmio;
use pci::{Interrupts, Vector, capability_id};

use super::{QueueHandler, Transport};
use crate::queue::{Addresses, Doorbell};

static INTERRUPTS: LockClass = LockClass::new("virtio.interrupts", 549);

/// The vendor of every virtio function.
pub(crate) const VENDOR: u16 = 0x1af4;

const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;

const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const CONFIG_VECTOR: usize = 0x10;
const STATUS: usize = 0x14;
const GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
const QUEUE_DESCRIPTORS: usize = 0x20;
const QUEUE_AVAILABLE: usize = 0x28;
const QUEUE_USED: usize = 0x30;
const COMMON_SIZE: usize = 0x38;

const NO_VECTOR: u16 = 0xffff;

/// A virtio function.
pub(crate) struct PciTransport {
    function: Arc<pci::Device>,
    /// Among all that were found.
    number: u32,
    device: u32,
    common: Mmio,
    notify: Mmio,
    notify_multiplier: u32,
    isr: Mmio,
    config: Option<Mmio>,
    interrupts: SpinLock<Option<Vectors>>,
}

/// Which vector serves which queue.
struct Vectors {
    queues: usize,
    /// Keeps the vectors.
    interrupts: Interrupts,
}

impl Vectors {
    fn of_queue(&self, queue: u16) -> u16 {
        let count = self.interrupts.count();
        if !self.interrupts.is_msix() || count == 0 {
            return NO_VECTOR;
        }
        if count > self.queues {
            return queue + 1;
        }
        // All queues share the last one.
        (count - 1) as u16
    }
}

/// Which virtio device a function is (§4.1.2); `None` if it is none.
pub(crate) fn device_of(function: &pci::Device) -> Option<u32> {
    if function.id.vendor != VENDOR {
        return None;
    }
    match function.id.device {
        0x1000 => Some(super::device::NET),
        0x1001 => Some(super::device::BLOCK),
        0x1003 => Some(super::device::CONSOLE),
        0x1005 => Some(super::device::ENTROPY),
        id @ 0x1040..=0x107f => Some(u32::from(id) - 0x1040),
        _ => None,
    }
}

impl PciTransport {
    /// Maps the function's structures.
    ///
    /// # Errors
    /// `ENODEV` when it has no modern interface.
    pub(crate) fn new(function: &Arc<pci::Device>) -> Result<Self> {
        static FOUND: AtomicU32 = AtomicU32::new(0);
        let device = device_of(function).ok_or(Errno::ENODEV)?;
        function.enable();
        let (common, _) = structure(function, COMMON)?.ok_or(Errno::ENODEV)?;
        let (notify, at) = structure(function, NOTIFY)?.ok_or(Errno::ENODEV)?;
        let (isr, _) = structure(function, ISR)?.ok_or(Errno::ENODEV)?;
        let config = structure(function, DEVICE)?.map(|(config, _)| config);
        if common.len() < COMMON_SIZE {
            return Err(Errno::ENODEV);
        }
        Ok(Self {
            function: function.clone(),
            number: FOUND.fetch_add(1, Ordering::Relaxed),
            device,
            common,
            notify,
            notify_multiplier: function.read32(at + 16),
            isr,
            config,
            interrupts: SpinLock::new(&INTERRUPTS, None),
        })
    }

    fn vector(&self, part: &str, handler: &Handler) -> Vector {
        let name = format!("virtio{}-{part}", self.number);
        Vector { name, cpu: None, handler: handler.clone() }
    }

    fn single_handler(&self, config: &Handler, queues: &[QueueHandler]) -> Handler {
        let isr = self.isr.clone();
        let config = config.clone();
        let queues: Vec<Handler> = queues.iter().map(|queue| queue.handler.clone()).collect();
        Arc::new(move || {
            // Reading it acknowledges the interrupt.
            let why = isr.read8(0);
            if why & 1 != 0 {
                queues.iter().for_each(|handler| handler());
            }
            if why & 2 != 0 {
                config();
            }
        })
    }
}

/// Maps the first usable structure of a kind (§4.1.4); also where its capability lies.
fn structure(function: &pci::Device, kind: u8) -> Result<Option<(Mmio, u16)>> {
    for capability in function.capabilities() {
        let at = capability.offset;
        if capability.id != capability_id::VENDOR || function.read8(at + 3) != kind {
            continue;
        }
        let bar = usize::from(function.read8(at + 4));
        let offset = u64::from(function.read32(at + 8));
        let len = function.read32(at + 12) as usize;
        match function.map_bar_part(bar, offset, len) {
            Ok(mmio) => return Ok(Some((mmio, at))),
            Err(Errno::ENOMEM) => return Err(Errno::ENOMEM),
            // §4.1.4: an offer the driver cannot use is skipped.
            Err(_) => continue,
        }
    }
    Ok(None)
}

impl Transport for PciTransport {
    fn name(&self) -> String {
        self.function.name()
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn device(&self) -> u32 {
        self.device
    }

    fn status(&self) -> u8 {
        self.common.read8(STATUS)
    }

    fn set_status(&self, status: u8) {
        self.common.write8(STATUS, status);
    }

    fn features(&self) -> u64 {
        self.common.write32(DEVICE_FEATURE_SELECT, 0);
        let low = self.common.read32(DEVICE_FEATURE);
        self.common.write32(DEVICE_FEATURE_SELECT, 1);
        u64::from(self.common.read32(DEVICE_FEATURE)) << 32 | u64::from(low)
    }

    fn set_features(&self, features: u64) {
        self.common.write32(DRIVER_FEATURE_SELECT, 0);
        self.common.write32(DRIVER_FEATURE, features as u32);
        self.common.write32(DRIVER_FEATURE_SELECT, 1);
        self.common.write32(DRIVER_FEATURE, (features >> 32) as u32);
    }

    fn queue_size(&self, queue: u16) -> u16 {
        self.common.write16(QUEUE_SELECT, queue);
        self.common.read16(QUEUE_SIZE)
    }

    fn enable_queue(&self, queue: u16, size: u16, at: Addresses) -> Result<Doorbell> {
        let vector =
            self.interrupts.lock().as_ref().map_or(NO_VECTOR, |vectors| vectors.of_queue(queue));
        let common = &self.common;
        common.write16(QUEUE_SELECT, queue);
        common.write16(QUEUE_SIZE, size);
        common.write16(QUEUE_VECTOR, vector);
        if vector != NO_VECTOR && common.read16(QUEUE_VECTOR) != vector {
            return Err(Errno::ENOSPC);
        }
        let parts = [
            (QUEUE_DESCRIPTORS, at.descriptors),
            (QUEUE_AVAILABLE, at.available),
            (QUEUE_USED, at.used),
        ];
        for (register, address) in parts {
            common.write32(register, address.0 as u32);
            common.write32(register + 4, (address.0 >> 32) as u32);
        }
        let offset = u64::from(common.read16(QUEUE_NOTIFY_OFFSET))
            .checked_mul(u64::from(self.notify_multiplier))
            .and_then(|offset| usize::try_from(offset).ok())
            .ok_or(Errno::EINVAL)?;
        common.write16(QUEUE_ENABLE, 1);
        if offset.checked_add(2).is_none_or(|end| end > self.notify.len()) {
            return Err(Errno::EINVAL);
        }
        Ok(Doorbell { registers: self.notify.clone(), offset })
    }

    fn config8(&self, offset: usize) -> u8 {
        self.config.as_ref().map_or(0, |config| config.read8(offset))
    }

    fn config16(&self, offset: usize) -> u16 {
        self.config.as_ref().map_or(0, |config| config.read16(offset))
    }

    fn config32(&self, offset: usize) -> u32 {
        self.config.as_ref().map_or(0, |config| config.read32(offset))
    }

    fn config_generation(&self) -> u32 {
        u32::from(self.common.read8(GENERATION))
    }

    fn set_handlers(&self, config: Handler, queues: Vec<QueueHandler>) -> Result<()> {
        let count = queues.len();
        let vectors = self.function.msix_count();
        let interrupts = if vectors > count {
            let mut wanted = alloc::vec![self.vector("config", &config)];
            wanted.extend(queues.iter().map(|queue| Vector {
                cpu: queue.cpu,
                ..self.vector(&queue.name, &queue.handler)
            }));
            self.function.enable_msix(wanted)
        } else if vectors >= 2 {
            let shared: Vec<Handler> = queues.iter().map(|queue| queue.handler.clone()).collect();
            let all: Handler = Arc::new(move || shared.iter().for_each(|handler| handler()));
            let wanted = [self.vector("config", &config), self.vector("virtqueues", &all)];
            self.function.enable_msix(wanted.into())
        } else {
            Err(Errno::ENODEV)
        };
        let interrupts = match interrupts {
            Ok(interrupts) => interrupts,
            Err(_) => {
                let name = format!("virtio{}", self.number);
                self.function.enable_one(&name, self.single_handler(&config, &queues))?
            }
        };
        let vector = if interrupts.is_msix() { 0 } else { NO_VECTOR };
        self.common.write16(CONFIG_VECTOR, vector);
        *self.interrupts.lock() = Some(Vectors { queues: count, interrupts });
        Ok(())
    }
}
