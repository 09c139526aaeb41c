//! Serial ports: the 16550 and its relatives at the PC's four standard places.
//!
//! Sending and receiving are driven by interrupts: the handler moves bytes between the chip's
//! FIFOs and two rings, and a kernel thread carries received bytes to the line discipline, which
//! may echo, signal and wake. Kernel messages ([`klog`]'s console) are sent by polling, so that
//! they also come out of a panic.
//!
//! Locks: `tty.serial` (rank 985, interrupts off) for rings and registers, below `klog`'s own.

mod port;
mod registers;
#[cfg(test)]
mod tests;
mod worker;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use abi::Result;
use abi::termios::*;
use arch::irq::{Trigger, request_gsi};
use hw::PortRange;
use spin::Once;
use vfs::DeviceNumber;

use crate::console;
use crate::termios::{SERIAL, set_speed};
use crate::{Tty, TtyKind, register};

pub use port::SerialPort;
pub use worker::{InputSource, InputWorker};

/// Major number of serial ports; `ttyS0` has minor number 64.
pub const MAJOR: u32 = 4;
const FIRST_MINOR: u32 = 64;

/// How many bytes of input a serial terminal keeps beyond the line discipline's.
const BACKLOG: usize = 4096;

/// The PC's ports: I/O address and interrupt.
const STANDARD: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

static PORTS: Once<Vec<Arc<SerialPort>>> = Once::new();
static SYSRQ: Once<fn(u8)> = Once::new();

/// Sets what a key after a break on the console's serial line does.
pub fn set_sysrq(handler: fn(u8)) {
    SYSRQ.call_once(|| handler);
}

pub(crate) fn sysrq() -> Option<fn(u8)> {
    SYSRQ.get().copied()
}

/// Speed and format of a `console=ttyS0,115200n8r` word, as settings.
fn console_settings(options: &str) -> Termios2 {
    let mut t = SERIAL;
    let digits = options.find(|c: char| !c.is_ascii_digit()).unwrap_or(options.len());
    let (speed, rest) = options.split_at(digits);
    let speed = speed.parse().unwrap_or(9600);
    set_speed(&mut t, speed, speed);
    let mut rest = rest.bytes();
    match rest.next() {
        Some(b'o') => t.cflag |= PARENB | PARODD,
        Some(b'e') => t.cflag |= PARENB,
        _ => {}
    }
    if rest.next() == Some(b'7') {
        t.cflag = t.cflag & !CSIZE | CS7;
    }
    if rest.next() == Some(b'r') {
        t.cflag |= CRTSCTS;
    }
    t
}

/// Finds the serial ports and makes terminals of them. Ports named by a `console=` word also
/// print kernel messages.
///
/// # Errors
/// `ENOMEM`.
pub fn init() -> Result<()> {
    let worker = InputWorker::start("kserial");
    let mut ports = Vec::new();
    for (line, (address, irq)) in (0..).zip(STANDARD) {
        let Ok(regs) = PortRange::claim("serial", address, 8) else { continue };
        let name = format!("ttyS{line}");
        let options = console::options_of(&name);
        let settings = options.as_deref().map_or(SERIAL, console_settings);
        let Some(port) = SerialPort::probe(regs, line, irq, settings)? else { continue };
        let port = Arc::new(port);
        let dev = DeviceNumber::new(MAJOR, FIRST_MINOR + line);
        let tty = Tty::new(name, dev, TtyKind::Serial, settings, BACKLOG, port.clone())?;
        port.attach(&tty, &worker, options.is_some());
        let handler = {
            let port = port.clone();
            Arc::new(move || port.interrupt())
        };
        match request_gsi(irq, Trigger::Firmware, tty.name(), handler) {
            Ok(_) => port.use_interrupts(),
            Err(error) => log::warn!("ttyS{line}: no interrupt ({error:?}), polling"),
        }
        worker.add(port.clone());
        register(&tty);
        log::info!(
            "ttyS{line} at I/O {address:#x} (irq = {irq}, base_baud = 115200) is a {}",
            port.chip()
        );
        if options.is_some() {
            // Consoles are for ever, so is this.
            let console: &'static Arc<SerialPort> = Box::leak(Box::new(port.clone()));
            klog::register_console(&**console, klog::Replay::All);
        }
        ports.push(port);
    }
    PORTS.call_once(|| ports);
    vfs::dev::register_char(
        DeviceNumber::new(MAJOR, FIRST_MINOR),
        STANDARD.len() as u32,
        "ttyS",
        Arc::new(crate::file::Opener),
    )
}

/// Sends what is queued on all ports, by polling: the machine goes off. In any context, and within
/// a time that the speed of the ports and the length of their queues bound; a port whose peer has
/// stopped the flow is given up soon.
pub fn drain() {
    for port in PORTS.get().into_iter().flatten() {
        port.drain();
    }
}

/// The contents of `/proc/tty/driver/serial`.
pub fn describe() -> String {
    let mut text = String::from("serinfo:1.0 driver revision:\n");
    for (line, (address, irq)) in STANDARD.iter().enumerate() {
        let found = PORTS.get().and_then(|ports| ports.iter().find(|p| p.line() as usize == line));
        // Writing to a string does not fail.
        let _ = match found {
            Some(port) => writeln!(text, "{}", port.describe()),
            None => writeln!(text, "{line}: uart:unknown port:{address:08X} irq:{irq}"),
        };
    }
    text
}
