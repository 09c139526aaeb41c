#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cdrom;
mod command;
mod controller;
mod device;
mod disk;
mod engine;
mod identify;
mod port;
mod recover;
mod registers;
mod table;
#[cfg(test)]
mod tests;

use abi::Result;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};

use controller::Controller;
pub use disk::use_fua;

/// Class code of SATA controllers with AHCI.
const CLASS: u32 = 0x01_06_01;

static CONTROLLERS: LockClass = LockClass::new("ahci.controllers", 548);
/// All that were brought up.
static FOUND: SpinLock<Vec<Arc<Controller>>> = SpinLock::new(&CONTROLLERS, Vec::new());

struct Ahci;

impl pci::Driver for Ahci {
    fn name(&self) -> &'static str {
        "ahci"
    }

    fn matches(&self, device: &pci::Device) -> bool {
        device.id.class == CLASS
    }

    fn probe(&self, device: &Arc<pci::Device>) -> Result<()> {
        let controller = Controller::start(device)?;
        FOUND.lock().push(controller);
        Ok(())
    }

    fn shut_down(&self, device: &pci::Device) {
        let (controllers, name) = (FOUND.lock().clone(), device.name());
        controllers.iter().filter(|own| own.name == name).for_each(|own| own.shut_down());
    }
}

/// Registers the driver.
pub fn init() {
    static DRIVER: Ahci = Ahci;
    pci::register_driver(&DRIVER);
}
