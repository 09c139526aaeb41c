//! Reading the tables through the `acpi` crate.

use super::{IoApic, IsaOverride, PciSegment, Platform, Power, Processor, Register, sleep};
use crate::addr::PhysAddr;
use crate::irq::Trigger;
use acpi::address::{AddressSpace, GenericAddress};
use acpi::fadt::Fadt;
use acpi::hpet::HpetTable;
use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiError, AcpiTables, PhysicalMapping};
use alloc::format;
use alloc::string::String;
use machine::firmware::{Mapper, Slit, Srat, bytes, bytes_at, tables};

/// A processor entry that may be used; and one that may be, once it is switched on.
const ENABLED: u32 = 1;

/// Everything the tables say.
pub(super) fn platform(rsdp: Option<PhysAddr>) -> Result<Platform, String> {
    let tables = tables(rsdp).map_err(|error| format!("{error:?}"))?;
    let mut platform = Platform { has_legacy_devices: true, ..Platform::default() };
    for header in tables.headers() {
        let mut name = [b' '; 4];
        let signature = header.signature;
        name.iter_mut().zip(signature.as_str().bytes()).for_each(|(to, from)| *to = from);
        platform.tables.push((name, header.length));
    }
    if let Ok(madt) = tables.find_table::<Madt>() {
        read_madt(&mut platform, &madt);
    }
    if let Ok(hpet) = tables.find_table::<HpetTable>() {
        read_hpet(&mut platform, bytes(&hpet));
    }
    if let Ok(mcfg) = tables.find_table::<Mcfg>() {
        for entry in mcfg.entries() {
            platform.pci.push(PciSegment {
                base: PhysAddr(entry.base_address),
                segment: entry.pci_segment_group,
                first_bus: entry.bus_number_start,
                last_bus: entry.bus_number_end,
            });
        }
    }
    if let Ok(srat) = tables.find_table::<Srat>() {
        platform.affinity.read_srat(bytes(&srat));
    }
    if let Ok(slit) = tables.find_table::<Slit>() {
        platform.affinity.read_slit(bytes(&slit));
    }
    if let Ok(fadt) = tables.find_table::<Fadt>() {
        platform.power = power(&tables, &fadt);
        // The byte at 109 is IAPC_BOOT_ARCH, bit 0 of it "legacy devices"; in revision 1 reserved.
        let flags = bytes(&fadt);
        let revision = flags.get(8).copied().unwrap_or(0);
        let has = flags.get(109).is_some_and(|flags| flags & 1 != 0);
        platform.has_legacy_devices = revision < 2 || has;
    }
    Ok(platform)
}

fn read_madt(platform: &mut Platform, madt: &PhysicalMapping<Mapper, Madt>) {
    for entry in madt.get().entries() {
        match entry {
            MadtEntry::LocalApic(entry) if entry.flags & ENABLED != 0 && entry.apic_id != 0xff => {
                let (apic_id, uid) = (u32::from(entry.apic_id), u32::from(entry.processor_id));
                add_processor(platform, Processor { apic_id, uid });
            }
            MadtEntry::LocalX2Apic(entry) if entry.flags & ENABLED != 0 => {
                let (apic_id, uid) = (entry.x2apic_id, entry.processor_uid);
                add_processor(platform, Processor { apic_id, uid });
            }
            MadtEntry::IoApic(entry) => platform.io_apics.push(IoApic {
                address: PhysAddr(u64::from(entry.io_apic_address)),
                first_gsi: entry.global_system_interrupt_base,
            }),
            MadtEntry::InterruptSourceOverride(entry) => platform.overrides.push(IsaOverride {
                isa: entry.irq,
                gsi: entry.global_system_interrupt,
                trigger: trigger(entry.flags),
            }),
            _ => {}
        }
    }
}

/// Firmware may list a processor as xAPIC and as x2APIC; it is one.
fn add_processor(platform: &mut Platform, processor: Processor) {
    if !platform.processors.iter().any(|known| known.apic_id == processor.apic_id) {
        platform.processors.push(processor);
    }
}

/// MPS INTI flags: polarity in bits 1..0, trigger in 3..2; 0 is what the bus (ISA) does.
fn trigger(flags: u16) -> Trigger {
    let is_low = flags & 3 == 3;
    let is_level = flags >> 2 & 3 == 3;
    match (is_level, is_low) {
        (false, false) => Trigger::EdgeHigh,
        (false, true) => Trigger::EdgeLow,
        (true, false) => Trigger::LevelHigh,
        (true, true) => Trigger::LevelLow,
    }
}

/// The base address is a generic address at 40: space, width, offset, access size, 64-bit address.
fn read_hpet(platform: &mut Platform, table: &[u8]) {
    let base = table.get(44..52).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    platform.hpet = base.filter(|base| *base != 0).map(PhysAddr);
}

fn power(tables: &AcpiTables<Mapper>, fadt: &Fadt) -> Power {
    let optional = |address: Result<Option<GenericAddress>, AcpiError>| {
        address.ok().flatten().and_then(register)
    };
    let has_enable = fadt.smi_cmd_port != 0 && fadt.acpi_enable != 0;
    let port = fadt.smi_cmd_port as u16;
    let event = fadt.pm1a_event_block().ok();
    let has_reset = { fadt.flags }.supports_system_reset_via_fadt();
    let reset = fadt.reset_register().ok().filter(|_| has_reset).and_then(register);
    Power {
        sci_gsi: u32::from(fadt.sci_interrupt),
        enable: has_enable.then_some((port, fadt.acpi_enable)),
        event_len: event.map_or(0, |event| event.bit_width / 8),
        event_a: event.and_then(register),
        event_b: optional(fadt.pm1b_event_block()),
        control_a: fadt.pm1a_control_block().ok().and_then(register),
        control_b: optional(fadt.pm1b_control_block()),
        s5: s5(tables),
        reset: reset.map(|register| (register, fadt.reset_value)),
        sleep_control: optional(fadt.sleep_control_register()),
        has_power_button: !{ fadt.flags }.power_button_is_control_method(),
    }
}

fn register(address: GenericAddress) -> Option<Register> {
    match address.address_space {
        _ if address.address == 0 => None,
        AddressSpace::SystemIo => Some(Register::Port(address.address as u16)),
        AddressSpace::SystemMemory => Some(Register::Memory(PhysAddr(address.address))),
        _ => None,
    }
}

/// The sleep types of S5, from the DSDT or, failing that, an SSDT.
fn s5(tables: &AcpiTables<Mapper>) -> Option<(u8, u8)> {
    tables.dsdt().ok().into_iter().chain(tables.ssdts()).find_map(|table| {
        let aml = bytes_at(PhysAddr(table.address as u64), table.length as usize)?;
        sleep::find_s5(aml)
    })
}
