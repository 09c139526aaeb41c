//! The console of the first and the last moments: a polled 16550 at the first COM port.
//!
//! Used before the real serial driver runs and by panics. It takes no lock and needs no memory;
//! callers that can collide (the log) serialise themselves. Missing hardware is noticed by its
//! line status reading as all ones, and output is then dropped.

use core::fmt;

#[cfg(target_os = "none")]
mod port {
    use core::sync::atomic::{AtomicU16, Ordering};
    use machine::x86::port::Port;

    const DATA: u16 = 0;
    const INTERRUPT_ENABLE: u16 = 1;
    const FIFO_CONTROL: u16 = 2;
    const LINE_CONTROL: u16 = 3;
    const MODEM_CONTROL: u16 = 4;
    const LINE_STATUS: u16 = 5;
    const DLAB: u8 = 0x80;
    const TRANSMIT_EMPTY: u8 = 0x20;
    /// How often the line status is read before a byte is given up.
    const PATIENCE: u32 = 200_000;

    static BASE: AtomicU16 = AtomicU16::new(0x3f8);

    fn outb(base: u16, register: u16, value: u8) {
        Port::of_serial(base, register).write(value);
    }

    pub(super) fn select(base: u16) {
        BASE.store(base, Ordering::Relaxed);
    }

    pub(super) fn set_up(baud: u32) {
        let base = BASE.load(Ordering::Relaxed);
        let divisor = (115_200 / baud.clamp(50, 115_200)) as u16;
        outb(base, INTERRUPT_ENABLE, 0);
        outb(base, LINE_CONTROL, DLAB | 3);
        outb(base, DATA, divisor as u8);
        outb(base, INTERRUPT_ENABLE, (divisor >> 8) as u8);
        outb(base, LINE_CONTROL, 3);
        outb(base, FIFO_CONTROL, 0xc7);
        outb(base, MODEM_CONTROL, 0x0b);
    }

    pub(super) fn put(byte: u8) {
        let base = BASE.load(Ordering::Relaxed);
        if base == 0 {
            return;
        }
        for _ in 0..PATIENCE {
            match Port::of_serial(base, LINE_STATUS).read() {
                0xff => return,
                status if status & TRANSMIT_EMPTY != 0 => {
                    outb(base, DATA, byte);
                    return;
                }
                _ => core::hint::spin_loop(),
            }
        }
    }
}

/// Programs the port for 8N1 at `baud`.
#[cfg(target_os = "none")]
pub fn set_up(baud: u32) {
    port::set_up(baud);
}

/// Uses the 16550 at this I/O port from now on; 0 turns the early console off.
#[cfg(target_os = "none")]
pub fn select_port(base: u16) {
    port::select(base);
}

/// Prints bytes, a line feed as carriage return and line feed.
pub fn early_write(bytes: &[u8]) {
    #[cfg(target_os = "none")]
    for &byte in bytes {
        if byte == b'\n' {
            port::put(b'\r');
        }
        port::put(byte);
    }
    #[cfg(not(target_os = "none"))]
    {
        use std::io::Write;
        // Nobody can be told that standard error is gone.
        let _ = std::io::stderr().write_all(bytes);
    }
}

/// Prints text.
pub fn early_print(text: &str) {
    early_write(text.as_bytes());
}

/// The early console as a [`fmt::Write`].
pub struct EarlyConsole;

impl fmt::Write for EarlyConsole {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        early_print(text);
        Ok(())
    }
}
