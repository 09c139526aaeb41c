//! Switching the machine off, resetting it, and the power button.

use crate::acpi::{self, Register};
use crate::addr::PhysAddr;
use machine::mmio::Registers;
use machine::x86::port::Port;
use machine::x86::regs;

const SCI_ENABLE: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE: u16 = 7 << 10;
const POWER_BUTTON: u16 = 1 << 8;

fn outb(port: u16, value: u8) {
    Port::of_firmware(port).write(value);
}

fn map(at: PhysAddr) -> Option<Registers> {
    Registers::map(at, 8).ok()
}

fn read16(register: Register) -> u16 {
    match register {
        Register::Port(port) => Port::of_firmware(port).read16(),
        Register::Memory(at) => map(at).map_or(0, |registers| registers.read16(0)),
    }
}

fn write16(register: Register, value: u16) {
    match register {
        Register::Port(port) => Port::of_firmware(port).write16(value),
        Register::Memory(at) => {
            if let Some(registers) = map(at) {
                registers.write16(0, value);
            }
        }
    }
}

fn write8(register: Register, value: u8) {
    match register {
        Register::Port(port) => outb(port, value),
        Register::Memory(at) => {
            if let Some(registers) = map(at) {
                registers.write8(0, value);
            }
        }
    }
}

/// Leaves the firmware's mode: events come as interrupts, the sleep registers are ours.
fn enter_acpi_mode() {
    let power = &acpi::platform().power;
    let (Some(control), Some((port, value))) = (power.control_a, power.enable) else { return };
    if read16(control) & SCI_ENABLE != 0 {
        return;
    }
    outb(port, value);
    for _ in 0..3000 {
        if read16(control) & SCI_ENABLE != 0 {
            return;
        }
        crate::time::delay_us(100);
    }
    log::warn!("acpi: the firmware does not hand over");
}

/// Whether the firmware says how the machine is switched off.
pub fn can_power_off() -> bool {
    let power = &acpi::platform().power;
    power.s5.is_some() && (power.sleep_control.is_some() || power.control_a.is_some())
}

/// Switches the machine off. Comes back only when the machine cannot.
pub fn power_off() {
    let power = &acpi::platform().power;
    let Some((type_a, type_b)) = power.s5 else { return };
    if let Some(register) = power.sleep_control {
        write8(register, type_a << 2 | 1 << 5);
    }
    enter_acpi_mode();
    for (register, kind) in [(power.control_a, type_a), (power.control_b, type_b)] {
        let Some(register) = register else { continue };
        let value = read16(register) & !(SLEEP_TYPE | SLEEP_ENABLE) | u16::from(kind) << 10;
        write16(register, value);
        write16(register, value | SLEEP_ENABLE);
    }
    crate::time::delay_us(100_000);
}

/// Resets the machine: by the firmware's register, the chip set, the keyboard controller, and at
/// last by a triple fault.
pub fn reset() -> ! {
    const RESET_CONTROL: Port = Port::legacy(0xcf9);
    const KEYBOARD_CONTROLLER: Port = Port::legacy(0x64);
    if let Some((register, value)) = acpi::platform().power.reset {
        write8(register, value);
        crate::time::delay_us(20_000);
    }
    RESET_CONTROL.write(0x02);
    RESET_CONTROL.write(0x06);
    crate::time::delay_us(20_000);
    KEYBOARD_CONTROLLER.write(0xfe);
    crate::time::delay_us(20_000);
    regs::triple_fault()
}

/// Stops this processor for ever.
pub fn halt() -> ! {
    regs::halt_forever()
}

/// The enable register of an event block follows its status register.
fn enable_register(status: Register, len: u8) -> Register {
    let half = u16::from(len / 2);
    match status {
        Register::Port(port) => Register::Port(port.wrapping_add(half)),
        Register::Memory(at) => Register::Memory(at + u64::from(half)),
    }
}

/// Lets the power button interrupt. Answers the interrupt line (level-triggered) on which
/// [`take_power_button`] is to be called; `None` where there is no such button.
pub fn enable_power_button() -> Option<u32> {
    let power = &acpi::platform().power;
    let status = power.event_a.filter(|_| power.has_power_button && power.event_len >= 4)?;
    enter_acpi_mode();
    write16(status, POWER_BUTTON);
    let enable = enable_register(status, power.event_len);
    write16(enable, read16(enable) | POWER_BUTTON);
    Some(crate::x86::ioapic::isa_to_gsi(power.sci_gsi as u8))
}

/// In the interrupt: clears the event; whether it was the button.
pub fn take_power_button() -> bool {
    let Some(status) = acpi::platform().power.event_a else { return false };
    let events = read16(status);
    write16(status, events);
    events & POWER_BUTTON != 0
}
