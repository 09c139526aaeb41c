//! Switching the machine off, resetting it, and the power button.

use crate::acpi::{self, Register};
use core::arch::asm;

const SCI_ENABLE: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE: u16 = 7 << 10;
const POWER_BUTTON: u16 = 1 << 8;

fn outb(port: u16, value: u8) {
    // SAFETY: ports that the firmware names for this, or that every PC has for reset.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

fn read16(register: Register) -> u16 {
    match register {
        Register::Port(port) => {
            let value: u16;
            // SAFETY: as in `outb`.
            unsafe {
                asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags));
            }
            value
        }
        // SAFETY: a device register that the firmware names, mapped on demand.
        Register::Memory(at) => map(at).map_or(0, |at| unsafe { at.cast::<u16>().read_volatile() }),
    }
}

fn write16(register: Register, value: u16) {
    match register {
        // SAFETY: as in `outb`.
        Register::Port(port) => unsafe {
            asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags));
        },
        Register::Memory(at) => {
            if let Some(at) = map(at) {
                // SAFETY: as in `read16`.
                unsafe { at.cast::<u16>().write_volatile(value) };
            }
        }
    }
}

fn write8(register: Register, value: u8) {
    match register {
        Register::Port(port) => outb(port, value),
        Register::Memory(at) => {
            if let Some(at) = map(at) {
                // SAFETY: as in `read16`.
                unsafe { at.write_volatile(value) };
            }
        }
    }
}

fn map(at: crate::addr::PhysAddr) -> Option<*mut u8> {
    crate::paging::kernel::ioremap(at, 8, crate::paging::PteFlags::UNCACHED).ok()
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
    const RESET_CONTROL: u16 = 0xcf9;
    const KEYBOARD_CONTROLLER: u16 = 0x64;
    if let Some((register, value)) = acpi::platform().power.reset {
        write8(register, value);
        crate::time::delay_us(20_000);
    }
    outb(RESET_CONTROL, 0x02);
    outb(RESET_CONTROL, 0x06);
    crate::time::delay_us(20_000);
    outb(KEYBOARD_CONTROLLER, 0xfe);
    crate::time::delay_us(20_000);
    // SAFETY: without an interrupt table the trap resets the processor, which is the aim.
    unsafe {
        let none = [0u16; 5];
        asm!("lidt [{}]", "int3", in(reg) &raw const none, options(nostack));
    }
    halt()
}

/// Stops this processor for ever.
pub fn halt() -> ! {
    loop {
        // SAFETY: nothing wakes it but an NMI, after which it halts again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
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
