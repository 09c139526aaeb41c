//! How a virtio device is reached, and how it is brought up (Virtio 1.2 §3.1).

mod pci;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::cpu::CpuId;
use arch::irq::Handler;

use crate::queue::{Addresses, Doorbell, Queue};

pub(crate) use pci::{PciTransport, device_of};

/// Bits of the device status.
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    pub(crate) const DRIVER: u8 = 2;
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 64;
    pub(crate) const FAILED: u8 = 128;
}

/// Feature bits every device may have.
pub(crate) mod feature {
    pub(crate) const INDIRECT: u64 = 1 << 28;
    pub(crate) const EVENT_INDEX: u64 = 1 << 29;
    pub(crate) const VERSION_1: u64 = 1 << 32;
    pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// Numbers of devices (§5).
pub(crate) mod device {
    pub(crate) const NET: u32 = 1;
    pub(crate) const BLOCK: u32 = 2;
    pub(crate) const CONSOLE: u32 = 3;
    pub(crate) const ENTROPY: u32 = 4;
}

/// The registers of a device.
pub(crate) trait Transport: Send + Sync {
    /// What the device is, for messages: `0000:00:04.0`.
    fn name(&self) -> String;
    /// Its number among all virtio devices.
    fn number(&self) -> u32;
    /// Which device it is ([`device`]).
    fn device(&self) -> u32;
    fn status(&self) -> u8;
    fn set_status(&self, status: u8);
    fn features(&self) -> u64;
    fn set_features(&self, features: u64);
    /// The largest size of a queue, 0 when there is no such queue.
    fn queue_size(&self, queue: u16) -> u16;
    /// Puts a queue into service; returns its notification register.
    fn enable_queue(&self, queue: u16, size: u16, at: Addresses) -> Result<Doorbell>;
    /// Reads a byte of the device's configuration.
    fn config8(&self, offset: usize) -> u8;
    fn config16(&self, offset: usize) -> u16;
    fn config32(&self, offset: usize) -> u32;
    /// Changes when the configuration does.
    fn config_generation(&self) -> u32;
    /// Installs the interrupt handlers: one for changes of the configuration, and one per queue.
    /// To be called before the queues are enabled.
    fn set_handlers(&self, config: Handler, queues: Vec<QueueHandler>) -> Result<()>;
}

/// What serves a queue.
pub(crate) struct QueueHandler {
    /// The queue's name among those of its device.
    pub(crate) name: String,
    /// The processor that should get its interrupts.
    pub(crate) cpu: Option<CpuId>,
    pub(crate) handler: Handler,
}

/// A device with agreed features.
pub(crate) struct Device {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) features: u64,
}

impl Device {
    /// Resets the device and agrees on those of its features that are in `wanted`.
    pub(crate) fn begin(transport: Arc<dyn Transport>, wanted: u64) -> Result<Self> {
        reset(&*transport)?;
        transport.set_status(status::ACKNOWLEDGE);
        transport.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let offered = transport.features();
        if offered & feature::VERSION_1 == 0 {
            transport.set_status(status::FAILED);
            return Err(Errno::ENODEV);
        }
        let general = feature::VERSION_1
            | feature::ACCESS_PLATFORM
            | feature::INDIRECT
            | feature::EVENT_INDEX;
        let features = offered & (wanted | general);
        transport.set_features(features);
        let agreed = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        transport.set_status(agreed);
        if transport.status() & status::FEATURES_OK == 0 {
            transport.set_status(status::FAILED);
            return Err(Errno::ENODEV);
        }
        Ok(Self { transport, features })
    }

    pub(crate) fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Makes a queue of at most `limit` descriptors and puts it into service.
    pub(crate) fn queue(&self, index: u16, limit: u16) -> Result<Queue> {
        let offered = self.transport.queue_size(index);
        if offered == 0 {
            return Err(Errno::ENODEV);
        }
        // A power of two, also when the device's maximum is none.
        let size = 1 << offered.min(limit).max(1).ilog2();
        let mut queue = Queue::new(index, size, self.has(feature::EVENT_INDEX))?;
        let notify = self.transport.enable_queue(index, size, queue.addresses())?;
        queue.set_notify(notify);
        Ok(queue)
    }

    /// The device may work from now on.
    pub(crate) fn finish(&self) {
        let status = self.transport.status();
        self.transport.set_status(status | status::DRIVER_OK);
    }

    /// Reads configuration that must belong together: again while it changes.
    pub(crate) fn stable<R>(&self, read: impl Fn(&dyn Transport) -> R) -> R {
        for _ in 0..16 {
            let before = self.transport.config_generation();
            let result = read(&*self.transport);
            if self.transport.config_generation() == before {
                return result;
            }
        }
        read(&*self.transport)
    }

    /// A double word of eight bytes.
    pub(crate) fn config64(&self, offset: usize) -> u64 {
        self.stable(|t| u64::from(t.config32(offset + 4)) << 32 | u64::from(t.config32(offset)))
    }
}

/// Resets a device and waits until it says that it has.
pub(crate) fn reset(transport: &dyn Transport) -> Result<()> {
    transport.set_status(0);
    for _ in 0..1_000_000 {
        if transport.status() == 0 {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(Errno::ETIMEDOUT)
}
