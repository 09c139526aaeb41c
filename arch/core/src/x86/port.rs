//! Ports whose use changes no memory but what drivers gave their device.

use crate::x86::regs;

/// A port of a PC's own small devices, of a device that a driver claimed, or one that the firmware's
/// tables name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port(u16);

impl Port {
    /// A port of the interrupt controllers, the timer, the keyboard controller, the clock chip, a
    /// serial line or the chip set's reset register.
    ///
    /// # Panics
    /// For any other port.
    pub const fn legacy(port: u16) -> Port {
        assert!(
            matches!(
                port,
                0x20..=0x21 | 0x40..=0x43 | 0x60..=0x64 | 0x70..=0x71 | 0xa0..=0xa1 | 0xcf9
                    | 0x2e8..=0x2ef | 0x2f8..=0x2ff | 0x3e8..=0x3ef | 0x3f8..=0x3ff
            ),
            "not a port of a legacy device"
        );
        Port(port)
    }

    /// A port that ACPI tables name for power management. The firmware is trusted as the machine is:
    /// it ran before the kernel and could have changed anything.
    pub const fn of_firmware(port: u16) -> Port {
        Port(port)
    }

    /// A register of the 16550 at `base`, which the command line or the firmware named.
    pub const fn of_serial(base: u16, register: u16) -> Port {
        Port(base.wrapping_add(register & 7))
    }

    /// A port of a device whose range its driver claimed: those of the machine's own devices cannot
    /// be claimed, and devices reach memory only through addresses that drivers take from buffers
    /// they hold.
    #[inline]
    pub const fn of_driver(port: u16) -> Port {
        Port(port)
    }

    /// Reads a byte.
    #[inline]
    pub fn read(self) -> u8 {
        // SAFETY: a port of a device that changes no memory.
        unsafe { regs::inb(self.0) }
    }
    /// Writes a byte.
    #[inline]
    pub fn write(self, value: u8) {
        // SAFETY: as in `read`.
        unsafe { regs::outb(self.0, value) };
    }
    /// Reads a half word.
    pub fn read16(self) -> u16 {
        // SAFETY: as in `read`.
        unsafe { regs::inw(self.0) }
    }
    /// Writes a half word.
    pub fn write16(self, value: u16) {
        // SAFETY: as in `read`.
        unsafe { regs::outw(self.0, value) };
    }
    /// Reads a word.
    pub fn read32(self) -> u32 {
        // SAFETY: as in `read`.
        unsafe { regs::inl(self.0) }
    }
    /// Writes a word.
    pub fn write32(self, value: u32) {
        // SAFETY: as in `read`.
        unsafe { regs::outl(self.0, value) };
    }
}
