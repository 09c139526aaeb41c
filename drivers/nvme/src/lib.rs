#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod controller;
mod namespace;
mod queue;
mod registers;
mod reset;
mod transfer;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::Result;
use arch::lock::{LockClass, SpinLock};

use controller::Controller;

/// Class code of NVM Express controllers.
const CLASS: u32 = 0x01_08_02;

static CONTROLLERS: LockClass = LockClass::new("nvme.controllers", 548);
/// All that were brought up.
static FOUND: SpinLock<Vec<Arc<Controller>>> = SpinLock::new(&CONTROLLERS, Vec::new());

struct Nvme;

impl pci::Driver for Nvme {
    fn name(&self) -> &'static str {
        "nvme"
    }

    fn matches(&self, device: &pci::Device) -> bool {
        device.id.class == CLASS
    }

    fn probe(&self, device: &Arc<pci::Device>) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let controller = Controller::start(device, number)?;
        FOUND.lock().push(controller.clone());
        namespace::add_all(&controller)
    }

    fn shut_down(&self, device: &pci::Device) {
        let controllers = FOUND.lock().clone();
        for controller in controllers.iter().filter(|c| c.function.address == device.address) {
            controller.shut_down();
        }
    }
}

/// Whether writes are made durable by a flush behind them, and not one by one.
static FORGOES_FUA: AtomicBool = AtomicBool::new(false);

/// From the next drive on, no write is asked to be durable by itself: for controllers that do not do what they say
/// (QEMU 7.2's takes such a write for a plain one). Before [`init`].
pub fn forgo_fua() {
    FORGOES_FUA.store(true, Ordering::Relaxed);
}

/// Registers the driver.
pub fn init() {
    static DRIVER: Nvme = Nvme;
    pci::register_driver(&DRIVER);
}
