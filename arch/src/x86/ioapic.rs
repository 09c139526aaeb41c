//! I/O APICs: interrupt lines to vectors. 82093AA data sheet; ACPI 5.2.12 for the tables.

use crate::addr::PhysAddr;
use crate::cpu::CpuId;
use crate::irq::Trigger;
use crate::lock::{IrqLock, LockClass};
use crate::paging::MapError;
use crate::x86::apic;
use alloc::vec::Vec;
use machine::mmio::Registers;
use machine::x86::port::Port;

struct IoApic {
    registers: Registers,
    first_gsi: u32,
    lines: u32,
}

/// An ISA interrupt that is not where and what it was in 1984.
struct Override {
    isa: u8,
    gsi: u32,
    trigger: Trigger,
}

struct State {
    chips: Vec<IoApic>,
    overrides: Vec<Override>,
}

static CLASS: LockClass = LockClass::new("arch.ioapic", 795);
static STATE: IrqLock<State> =
    IrqLock::new(&CLASS, State { chips: Vec::new(), overrides: Vec::new() });

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const ACTIVE_LOW: u64 = 1 << 13;

impl IoApic {
    fn read(&self, register: u32) -> u32 {
        self.registers.write32(0, register);
        self.registers.read32(0x10)
    }
    fn write(&self, register: u32, value: u32) {
        self.registers.write32(0, register);
        self.registers.write32(0x10, value);
    }
    fn set_entry(&self, line: u32, entry: u64) {
        let register = 0x10 + line * 2;
        // Masked first, so that no half-written entry fires.
        self.write(register, MASKED as u32);
        self.write(register + 1, (entry >> 32) as u32);
        self.write(register, entry as u32);
    }
    fn entry_low(&self, line: u32) -> u32 {
        self.read(0x10 + line * 2)
    }
}

/// Adds a chip from the firmware's table and masks its lines.
pub fn add(base: PhysAddr, first_gsi: u32) -> Result<(), MapError> {
    let mut chip = IoApic { registers: Registers::map(base, 0x20)?, first_gsi, lines: 0 };
    let lines = (chip.read(1) >> 16 & 0xff) + 1;
    // The table may say anything: lines that would have no numbers are not there.
    chip.lines = lines.min(u32::MAX - first_gsi);
    (0..chip.lines).for_each(|line| chip.set_entry(line, MASKED));
    log::info!("ioapic: {base:?}, {} lines from {first_gsi} on", chip.lines);
    STATE.lock().chips.push(chip);
    Ok(())
}

/// Notes where an ISA interrupt is connected, from the firmware's table.
pub fn add_override(isa: u8, gsi: u32, trigger: Trigger) {
    STATE.lock().overrides.push(Override { isa, gsi, trigger });
}

/// The line an ISA interrupt is connected to.
pub fn isa_to_gsi(isa: u8) -> u32 {
    let state = STATE.lock();
    state.overrides.iter().find(|o| o.isa == isa).map_or(u32::from(isa), |o| o.gsi)
}

/// How many lines there can be: message numbers begin behind them.
pub(crate) fn line_count() -> u32 {
    let state = STATE.lock();
    state.chips.iter().map(|chip| chip.first_gsi + chip.lines).max().unwrap_or(0).max(16)
}

/// Which line of its chip a connected line is, and how it signals.
pub(crate) struct Route {
    pub(crate) line: u32,
    pub(crate) is_level: bool,
}

/// Connects a line to a vector of a processor; `None` when there is no such line.
pub(crate) fn route(gsi: u32, trigger: Trigger, cpu: CpuId, vector: u8) -> Option<Route> {
    let state = STATE.lock();
    let trigger = match trigger {
        Trigger::Firmware => {
            let listed = state.overrides.iter().find(|o| o.gsi == gsi).map(|o| o.trigger);
            listed.unwrap_or(if gsi < 16 { Trigger::EdgeHigh } else { Trigger::LevelLow })
        }
        given => given,
    };
    let flags = match trigger {
        Trigger::EdgeHigh | Trigger::Firmware => 0,
        Trigger::EdgeLow => ACTIVE_LOW,
        Trigger::LevelLow => LEVEL | ACTIVE_LOW,
        Trigger::LevelHigh => LEVEL,
    };
    let id = u64::from(apic::apic_id(cpu).unwrap_or(0) & 0xff);
    with_line(&state, gsi, |chip, line| {
        chip.set_entry(line, id << 56 | flags | u64::from(vector));
        Route { line, is_level: flags & LEVEL != 0 }
    })
}

/// Masks a line, or lets it through again.
pub fn set_masked(gsi: u32, masked: bool) {
    let state = STATE.lock();
    with_line(&state, gsi, |chip, line| {
        let low = chip.entry_low(line);
        let bit = MASKED as u32;
        chip.write(0x10 + line * 2, if masked { low | bit } else { low & !bit });
    });
}

fn with_line<R>(state: &State, gsi: u32, f: impl FnOnce(&IoApic, u32) -> R) -> Option<R> {
    let chip = state
        .chips
        .iter()
        .find(|chip| (chip.first_gsi..chip.first_gsi + chip.lines).contains(&gsi))?;
    Some(f(chip, gsi - chip.first_gsi))
}

/// Silences the two 8259s: moved away from the exceptions, all lines masked.
pub(crate) fn silence_pic() {
    // The initialisation sequence of the 8259 data sheet; nothing uses the chips after.
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0xf0),
        (0xa1, 0xf8),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0xff),
        (0xa1, 0xff),
    ] {
        Port::legacy(port).write(value);
    }
}
