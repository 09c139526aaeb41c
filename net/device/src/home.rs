//! Devices that drivers found, and the namespace they appear in.

use crate::{Devices, Interface, NetDevice};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use spin::Once;

static CLASS: LockClass = LockClass::new("netdevice.found", 537);

type Told = Box<dyn FnOnce(&Arc<Interface>) + Send>;

struct Found {
    pattern: &'static str,
    device: Arc<dyn NetDevice>,
    told: Told,
}

static FOUND: SpinLock<Vec<Found>> = SpinLock::new(&CLASS, Vec::new());
static HOME: Once<Arc<Devices>> = Once::new();

/// A driver has a device. `told` gets its interface, as soon as there is one.
pub fn announce(
    pattern: &'static str,
    device: Arc<dyn NetDevice>,
    told: impl FnOnce(&Arc<Interface>) + Send + 'static,
) {
    FOUND.lock().push(Found { pattern, device, told: Box::new(told) });
    if let Some(home) = HOME.get() {
        take_in(home);
    }
}

/// Says where devices appear, and takes in those that were found.
pub fn set_home(devices: &Arc<Devices>) {
    HOME.call_once(|| devices.clone());
    take_in(devices);
}

fn take_in(home: &Devices) {
    loop {
        let first = {
            let mut found = FOUND.lock();
            if found.is_empty() { None } else { Some(found.remove(0)) }
        };
        let Some(Found { pattern, device, told }) = first else { return };
        match home.add(pattern, device) {
            Ok(interface) => told(&interface),
            Err(error) => log::error!("{pattern}: no interface: {error:?}"),
        }
    }
}
