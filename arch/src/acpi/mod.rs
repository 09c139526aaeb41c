//! What the firmware's ACPI tables say about the machine.
//!
//! Read once, after the heap is there, with the `acpi` crate for the tables it knows; SRAT, SLIT
//! and the `_S5_` package of the DSDT are read here. The result is a plain description that lives
//! for ever; nothing is interpreted afterwards. A machine without tables is one processor with the
//! interrupt controllers at their usual places.

mod affinity;
#[cfg(target_os = "none")]
mod read;
#[cfg(any(target_os = "none", test))]
mod sleep;

pub use affinity::{Affinity, MemoryNode};

use crate::addr::PhysAddr;
use crate::irq::Trigger;
use alloc::vec::Vec;

/// A processor that the firmware lists as usable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processor {
    /// The id of its local APIC.
    pub apic_id: u32,
    /// Its number in the firmware's other tables.
    pub uid: u32,
}

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Where its registers are.
    pub address: PhysAddr,
    /// The first interrupt line it has.
    pub first_gsi: u32,
}

/// An ISA interrupt that is connected otherwise than one to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IsaOverride {
    /// Its ISA number.
    pub isa: u8,
    /// The line it is on.
    pub gsi: u32,
    /// How it is triggered.
    pub trigger: Trigger,
}

/// A range of PCI buses whose configuration space is in memory (MCFG).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PciSegment {
    /// The configuration space of bus 0, whether that is in the range or not.
    pub base: PhysAddr,
    /// The segment group.
    pub segment: u16,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus.
    pub last_bus: u8,
}

/// A register in a port or in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// An I/O port.
    Port(u16),
    /// A physical address.
    Memory(PhysAddr),
}

/// What power-off, reset and the power button need (FADT, DSDT).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Power {
    /// The interrupt line of ACPI events.
    pub sci_gsi: u32,
    /// The port and value that switch from the firmware's mode to ACPI's; `None` if there is none.
    pub enable: Option<(u16, u8)>,
    /// PM1 event blocks, status register first, enable register after half the length.
    pub event_a: Option<Register>,
    /// See `event_a`.
    pub event_b: Option<Register>,
    /// Length of an event block in bytes.
    pub event_len: u8,
    /// PM1 control registers.
    pub control_a: Option<Register>,
    /// See `control_a`.
    pub control_b: Option<Register>,
    /// The sleep types of state S5 for the two control registers.
    pub s5: Option<(u8, u8)>,
    /// The reset register and the value to write.
    pub reset: Option<(Register, u8)>,
    /// The sleep control register of machines without PM1 (hardware-reduced ACPI).
    pub sleep_control: Option<Register>,
    /// Whether the power button is a fixed event (rather than a device of the DSDT).
    pub has_power_button: bool,
}

/// The machine as the tables describe it.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// The processors; the order is the firmware's.
    pub processors: Vec<Processor>,
    /// The I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// ISA interrupts that are connected otherwise.
    pub overrides: Vec<IsaOverride>,
    /// The high-precision timer's registers.
    pub hpet: Option<PhysAddr>,
    /// Memory-mapped PCI configuration spaces.
    pub pci: Vec<PciSegment>,
    /// NUMA nodes.
    pub affinity: Affinity,
    /// Power-off, reset, power button.
    pub power: Power,
    /// The tables: signature and length.
    pub tables: Vec<([u8; 4], u32)>,
    /// Whether there are legacy devices that may be probed (serial ports, keyboard controller).
    pub has_legacy_devices: bool,
}

static PLATFORM: spin::Once<Platform> = spin::Once::new();
static NOTHING: Platform = Platform {
    processors: Vec::new(),
    io_apics: Vec::new(),
    overrides: Vec::new(),
    hpet: None,
    pci: Vec::new(),
    affinity: Affinity::NONE,
    power: Power {
        sci_gsi: 0,
        enable: None,
        event_a: None,
        event_b: None,
        event_len: 0,
        control_a: None,
        control_b: None,
        s5: None,
        reset: None,
        sleep_control: None,
        has_power_button: false,
    },
    tables: Vec::new(),
    has_legacy_devices: true,
};

/// The machine as the tables describe it; nothing before [`init`] or without tables.
pub fn platform() -> &'static Platform {
    PLATFORM.get().unwrap_or(&NOTHING)
}

/// Reads the tables and hands interrupt controllers and the HPET to their drivers. After
/// `x86::init::interrupts`.
#[cfg(target_os = "none")]
pub fn init(info: &crate::boot::BootInfo) {
    use crate::x86::{clock, ioapic};
    match read::platform(info.rsdp) {
        Ok(platform) => {
            log::info!(
                "acpi: {} tables, {} processors, {} I/O APICs, {} NUMA nodes",
                platform.tables.len(),
                platform.processors.len(),
                platform.io_apics.len(),
                platform.affinity.node_count()
            );
            PLATFORM.call_once(|| platform);
        }
        Err(reason) => log::warn!("acpi: no usable tables: {reason}"),
    }
    let platform = platform();
    for io_apic in &platform.io_apics {
        if ioapic::add(io_apic.address, io_apic.first_gsi).is_err() {
            log::error!("acpi: cannot map the I/O APIC at {:?}", io_apic.address);
        }
    }
    for over in &platform.overrides {
        ioapic::add_override(over.isa, over.gsi, over.trigger);
    }
    if let Some(base) = platform.hpet {
        clock::set_hpet(base);
    }
}
