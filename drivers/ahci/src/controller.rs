//! A controller: taking it from the firmware, its ports, its interrupt, and its rest at the end.

use abi::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use hw::Mmio;
use pci::Interrupts;
use spin::Once;

use crate::command::Command;
use crate::device::Served;
use crate::engine::OWN_NS;
use crate::port::{Port, State};
use crate::registers::{self, HostRegisters};

/// The BAR with the registers.
const BAR: usize = 5;

/// Hosts are numbered over all controllers, as Linux numbers them.
static NEXT_HOST: AtomicU32 = AtomicU32::new(0);

/// A controller.
pub(crate) struct Controller {
    pub(crate) name: String,
    registers: HostRegisters,
    pub(crate) ports: Vec<Arc<Port>>,
    /// Where in `ports` the port of each number is.
    places: [u8; 32],
    interrupts: Once<Interrupts>,
}

const NOWHERE: u8 = u8::MAX;

impl Controller {
    /// Takes the controller behind a function; [`Controller::bring_up`] finds its devices.
    ///
    /// # Errors
    /// `ENODEV`, `ETIMEDOUT`, `ENOMEM`.
    pub(crate) fn start(function: &Arc<pci::Device>) -> Result<Arc<Controller>> {
        function.enable();
        let bar = function.bars().get(BAR).copied().flatten().ok_or(Errno::ENODEV)?;
        let len = usize::try_from(bar.size).unwrap_or(usize::MAX).min(registers::LEN);
        let this = Self::new(function.name(), function.map_bar_part(BAR, 0, len)?)?;
        let handler = {
            let this = Arc::downgrade(&this);
            Arc::new(move || {
                if let Some(this) = this.upgrade() {
                    this.interrupt();
                }
            })
        };
        let name = format!("ahci[{}]", this.name);
        let interrupts = function.enable_one(&name, handler)?;
        this.interrupts.call_once(|| interrupts);
        Ok(this)
    }

    /// Resets the controller behind these registers and finds its ports.
    pub(crate) fn new(name: String, mmio: Mmio) -> Result<Arc<Controller>> {
        let registers = HostRegisters::new(mmio)?;
        registers.take_over();
        registers.reset()?;
        let (slots, cap) = (registers.slots(), registers.cap);
        let (mut ports, mut places) = (Vec::new(), [NOWHERE; 32]);
        for number in registers.ports() {
            // Registers end before the port: the controller has promised too much.
            let Ok(port) = registers.port(number) else { continue };
            // Relaxed: only uniqueness matters.
            let host = NEXT_HOST.fetch_add(1, Ordering::Relaxed);
            if let Some(place) = places.get_mut(number) {
                *place = ports.len() as u8;
            }
            ports.push(Port::new(host, name.clone(), port, cap, slots)?.place());
        }
        let (major, minor) = registers.version();
        log::info!("ahci {name}: AHCI {major:x}.{minor:x}, {} ports, {slots} slots", ports.len());
        Ok(Arc::new(Controller { name, registers, ports, places, interrupts: Once::new() }))
    }

    /// Finds the devices. All links come up and all disks spin up at once; disks get their names in the order of
    /// the ports.
    pub(crate) fn bring_up(&self) {
        let mut begun = Vec::new();
        for port in &self.ports {
            match port.begin_reset() {
                Ok(()) => begun.push(port.clone()),
                Err(error) => log::warn!("ata{}: no reset: {error}", port.host + 1),
            }
        }
        registers::hold_reset();
        begun.iter().for_each(|port| port.end_reset());
        let reset_ns = arch::time::now_ns();
        self.registers.enable_interrupts();
        for port in &begun {
            find_device(port, reset_ns);
            port.publish();
        }
    }

    /// The controller has raised an interrupt.
    pub(crate) fn interrupt(&self) {
        let pending = self.registers.interrupts();
        // Nothing of ours on a shared line; all ones: the controller is gone.
        if pending == 0 || pending == !0 {
            return;
        }
        let mut left = pending;
        while left != 0 {
            let number = left.trailing_zeros() as usize;
            left &= left - 1;
            let place = self.places.get(number).copied().unwrap_or(NOWHERE);
            if let Some(port) = self.ports.get(usize::from(place)) {
                port.interrupt();
            }
        }
        // After the ports: what they raise from now on raises this again (AHCI 1.3.1 §10.7.2.1).
        self.registers.acknowledge(pending);
    }

    /// Has all disks write their caches, and stops: the machine goes off.
    pub(crate) fn shut_down(&self) {
        self.ports.iter().for_each(shut_down);
        self.registers.disable_interrupts();
    }
}

fn find_device(port: &Arc<Port>, reset_ns: u64) {
    let _guard = port.commander.lock();
    match port.greet(reset_ns).and_then(|kind| port.attach(kind)) {
        Ok(()) => return,
        Err(Errno::ENODEV) => log::info!("ata{}: SATA link down", port.host + 1),
        Err(error) => log::warn!("ata{}: the device cannot be used: {error}", port.host + 1),
    }
    port.rest();
}

fn shut_down(port: &Arc<Port>) {
    let Some(attached) = port.attached.lock().clone() else {
        port.registers.mask();
        // What it may receive goes to memory that nobody uses for something else.
        let _ = port.registers.stop_receiving();
        return;
    };
    let outcome = port.exclusively(attached.number, |port| {
        if let Served::Disk(disk) = &attached.driver {
            if disk.has_write_cache() {
                report(port, "flush", port.own(&disk.flush_command(), None, None, 3 * OWN_NS));
            }
            report(port, "standby", port.own(&Command::standby(), None, None, OWN_NS));
        }
        port.lane.lock().state = State::Off;
        port.registers.mask();
        if port.registers.stop_receiving().is_err() {
            log::warn!("ata{}: the port does not stop", port.host + 1);
        }
    });
    if let Err(error) = outcome {
        log::warn!("ata{}: no end of the shutdown: {error}", port.host + 1);
    }
}

fn report(port: &Port, what: &str, outcome: core::result::Result<usize, crate::engine::Trouble>) {
    if let Err(trouble) = outcome {
        log::warn!("ata{}: {what}: {trouble:?}", port.host + 1);
    }
}
