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
use core::sync::atomic::{AtomicU32, Ordering};
use sched::WaitQueue;

use controller::Controller;
pub use disk::use_fua;

/// Class code of SATA controllers with AHCI.
const CLASS: u32 = 0x01_06_01;

static CONTROLLERS: LockClass = LockClass::new("ahci.controllers", 548);
/// All that were brought up.
static FOUND: SpinLock<Vec<Arc<Controller>>> = SpinLock::new(&CONTROLLERS, Vec::new());

/// Controllers whose devices are looked for, and those where that is over. One comes after the other: disks have
/// their names in the order of the controllers.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static OVER: AtomicU32 = AtomicU32::new(0);
static TURN: WaitQueue = WaitQueue::new();

/// Waits until the devices of all controllers have been looked for, which goes on beside the rest of the boot.
pub fn settle() {
    TURN.wait(|| (OVER.load(Ordering::Acquire) == BEGUN.load(Ordering::Acquire)).then_some(()));
}

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
        FOUND.lock().push(controller.clone());
        let turn = BEGUN.fetch_add(1, Ordering::AcqRel);
        sched::spawn_kernel("ahci", move || {
            TURN.wait(|| (OVER.load(Ordering::Acquire) == turn).then_some(()));
            controller.bring_up();
            // Release: who sees it sees the disks.
            OVER.fetch_add(1, Ordering::AcqRel);
            TURN.wake_all();
        });
        Ok(())
    }

    fn shut_down(&self, device: &pci::Device) {
        settle();
        let (controllers, name) = (FOUND.lock().clone(), device.name());
        controllers.iter().filter(|own| own.name == name).for_each(|own| own.shut_down());
    }
}

/// Registers the driver.
pub fn init() {
    static DRIVER: Ahci = Ahci;
    pci::register_driver(&DRIVER);
}
