//! Finding virtio devices and handing them to their drivers.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};

use crate::transport::{PciTransport, Transport, device};
use crate::{blk, console, net, rng};

static SERVED: LockClass = LockClass::new("virtio.served", 548);
/// All devices in service.
static FOUND: SpinLock<Vec<Arc<dyn Served>>> = SpinLock::new(&SERVED, Vec::new());

/// A device in service.
pub(crate) trait Served: Send + Sync {
    /// How it is reached.
    fn transport(&self) -> &dyn Transport;

    /// Keeps what comes from now on from the device, and waits for what it works on.
    fn quiesce(&self);
}

struct Virtio;

impl pci::Driver for Virtio {
    fn name(&self) -> &'static str {
        "virtio-pci"
    }

    fn matches(&self, function: &pci::Device) -> bool {
        crate::transport::device_of(function).is_some_and(|id| {
            matches!(id, device::NET | device::BLOCK | device::CONSOLE | device::ENTROPY)
        })
    }

    fn probe(&self, function: &Arc<pci::Device>) -> Result<()> {
        probe(Arc::new(PciTransport::new(function)?))
    }

    fn shut_down(&self, function: &pci::Device) {
        stop(|name| name == function.name());
    }
}

fn probe(transport: Arc<dyn Transport>) -> Result<()> {
    let served: Arc<dyn Served> = match transport.device() {
        device::NET => net::probe(transport)?,
        device::BLOCK => blk::probe(transport)?,
        device::CONSOLE => console::probe(transport)?,
        device::ENTROPY => rng::probe(transport)?,
        _ => return Err(Errno::ENODEV),
    };
    FOUND.lock().push(served);
    Ok(())
}

/// Resets the devices with such names: they use no memory afterwards.
fn stop(is_meant: impl Fn(&str) -> bool) {
    let found = FOUND.lock().clone();
    for served in found.iter().filter(|served| is_meant(&served.transport().name())) {
        served.quiesce();
        let transport = served.transport();
        if let Err(error) = crate::transport::reset(transport) {
            log::warn!("virtio {}: does not reset: {error:?}", transport.name());
        }
    }
}

/// Registers the drivers for virtio functions on PCI.
pub fn init() {
    static DRIVER: Virtio = Virtio;
    pci::register_driver(&DRIVER);
}
