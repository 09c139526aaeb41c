//! Enumeration, and the meeting of devices and drivers.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use arch::lock::{LockClass, SpinLock};

use crate::config::{Access, Address, EcamRegion};
use crate::device::Device;

static DEVICES: LockClass = LockClass::new("pci.devices", 544);
static DRIVERS: LockClass = LockClass::new("pci.drivers", 545);

static FOUND: SpinLock<Vec<Arc<Device>>> = SpinLock::new(&DEVICES, Vec::new());
static KNOWN: SpinLock<Vec<&'static dyn Driver>> = SpinLock::new(&DRIVERS, Vec::new());

/// A driver of PCI functions.
pub trait Driver: Send + Sync {
    /// Its name in `/sys/bus/pci/drivers`.
    fn name(&self) -> &'static str;

    /// Whether it serves this function.
    fn matches(&self, device: &Device) -> bool;

    /// Takes the function into service.
    ///
    /// # Errors
    /// Why it cannot; the function stays without a driver.
    fn probe(&self, device: &Arc<Device>) -> Result<()>;

    /// Brings a function in service to rest, for ever: the machine goes off or is reset. It writes
    /// what it holds to its medium and reaches memory no more. What is asked of it afterwards is
    /// not done. May sleep, and ends within seconds.
    fn shut_down(&self, _device: &Device) {}
}

/// Finds all functions. `regions` are the entries of the firmware's MCFG table; without them the
/// ports are used.
///
/// # Errors
/// `EBUSY` when somebody else has the ports.
pub fn init(regions: &[EcamRegion]) -> Result<()> {
    let access = Access::new(regions)?;
    let mut scan = Scan { access: access.clone(), seen: BTreeSet::new(), found: Vec::new() };
    for (segment, bus) in access.segments() {
        scan.bus(segment, bus);
    }
    let mut found = scan.found;
    found.sort_by_key(|device| device.address);
    for device in &found {
        report(device);
    }
    FOUND.lock().extend(found.iter().cloned());
    let drivers = KNOWN.lock().clone();
    for device in &found {
        for driver in &drivers {
            offer(*driver, device);
        }
    }
    Ok(())
}

fn report(device: &Device) {
    let id = &device.id;
    log::info!(
        "pci {}: [{:04x}:{:04x}] type {:02x} class {:#08x}",
        device.address,
        id.vendor,
        id.device,
        device.header_type,
        id.class
    );
    for (index, bar) in device.bars().iter().enumerate() {
        if let Some(bar) = bar
            && bar.address == 0
        {
            log::warn!("pci {}: BAR {index} ({:#x} bytes) is unassigned", device.address, bar.size);
        }
    }
}

fn offer(driver: &'static dyn Driver, device: &Arc<Device>) {
    if device.driver().is_some() || !driver.matches(device) {
        return;
    }
    device.set_driver(Some(driver.name()));
    if let Err(error) = driver.probe(device) {
        log::warn!("{} {}: probe failed: {error:?}", driver.name(), device.address);
        device.set_driver(None);
    }
}

/// Makes a driver known and offers it the functions without one.
pub fn register_driver(driver: &'static dyn Driver) {
    KNOWN.lock().push(driver);
    for device in devices() {
        offer(driver, &device);
    }
}

/// Brings all functions in service to rest, those found last first: the machine goes off.
pub fn shut_down() {
    let drivers = KNOWN.lock().clone();
    for device in devices().iter().rev() {
        let Some(name) = device.driver() else { continue };
        if let Some(driver) = drivers.iter().find(|driver| driver.name() == name) {
            driver.shut_down(device);
        }
    }
}

/// All functions, by address.
pub fn devices() -> Vec<Arc<Device>> {
    FOUND.lock().clone()
}

pub(crate) struct Scan {
    pub(crate) access: Arc<Access>,
    /// Buses already scanned: bridges of a hostile machine may form loops.
    pub(crate) seen: BTreeSet<(u16, u8)>,
    pub(crate) found: Vec<Arc<Device>>,
}

impl Scan {
    pub(crate) fn bus(&mut self, segment: u16, first: u8) {
        let mut waiting = alloc::vec![first];
        while let Some(bus) = waiting.pop() {
            if !self.seen.insert((segment, bus)) {
                continue;
            }
            self.access.prepare_bus(segment, bus);
            for device in 0..32 {
                self.slot(Address { segment, bus, device, function: 0 }, &mut waiting);
            }
        }
    }

    fn slot(&mut self, first: Address, waiting: &mut Vec<u8>) {
        let Some(device) = Device::read(&self.access, first) else { return };
        let has_more = self.access.read32(first, 0x0c) >> 23 & 1 != 0;
        self.add(device, waiting);
        if !has_more {
            return;
        }
        for function in 1..8 {
            if let Some(device) = Device::read(&self.access, Address { function, ..first }) {
                self.add(device, waiting);
            }
        }
    }

    fn add(&mut self, device: Device, waiting: &mut Vec<u8>) {
        if let Some((secondary, subordinate)) = device.buses
            && secondary > device.address.bus
            && secondary <= subordinate
        {
            waiting.push(secondary);
        }
        self.found.push(Arc::new(device));
    }
}
