//! Finding virtio devices and handing them to their drivers.

use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::PhysAddr;

use crate::transport::{MmioTransport, PciTransport, Transport, device};
use crate::{blk, rng};

struct Virtio;

impl pci::Driver for Virtio {
    fn name(&self) -> &'static str {
        "virtio-pci"
    }

    fn matches(&self, function: &pci::Device) -> bool {
        crate::transport::device_of(function)
            .is_some_and(|id| matches!(id, device::BLOCK | device::ENTROPY))
    }

    fn probe(&self, function: &Arc<pci::Device>) -> Result<()> {
        probe(Arc::new(PciTransport::new(function)?))
    }
}

fn probe(transport: Arc<dyn Transport>) -> Result<()> {
    match transport.device() {
        device::BLOCK => blk::probe(transport),
        device::ENTROPY => rng::probe(transport),
        _ => Err(Errno::ENODEV),
    }
}

/// Registers the drivers for virtio functions on PCI.
pub fn init() {
    static DRIVER: Virtio = Virtio;
    pci::register_driver(&DRIVER);
}

/// Takes a memory-mapped device into service: its registers at `base`, its interrupt `gsi`.
///
/// # Errors
/// `ENODEV` when there is none, or nobody serves it.
pub fn probe_mmio(base: u64, len: usize, gsi: u32) -> Result<()> {
    probe(Arc::new(MmioTransport::new(PhysAddr(base), len, gsi)?))
}
