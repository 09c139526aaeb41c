//! The driver on a simulated 16550A.

use super::port::SerialPort;
use super::*;
use crate::Driver;
use crate::file;
use crate::io::Mode;
use arch::uio::Source;
use hw::sim::{Model, add_ports};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
struct Chip {
    registers: [u8; 8],
    divisor: [u8; 2],
    received: VecDeque<(u8, u8)>,
    sent: Vec<u8>,
    modem_delta: u8,
}

struct Uart(Mutex<Chip>);

impl Model for Uart {
    fn read(&self, offset: usize, _: usize) -> u64 {
        let mut chip = self.0.lock().unwrap();
        let chip = &mut *chip;
        let is_latched = chip.registers[3] & 0x80 != 0;
        let value = match offset {
            0 if is_latched => chip.divisor[0],
            1 if is_latched => chip.divisor[1],
            0 => chip.received.pop_front().map_or(0, |(byte, _)| byte),
            2 => {
                let ier = chip.registers[1];
                let wants = (!chip.received.is_empty() && ier & 1 != 0)
                    || ier & 2 != 0
                    || (chip.modem_delta != 0 && ier & 8 != 0);
                0xc0 | u8::from(!wants)
            }
            5 => 0x60 | chip.received.front().map_or(0, |(_, status)| 1 | status),
            6 => 0xb0 | std::mem::take(&mut chip.modem_delta),
            other => chip.registers[other],
        };
        u64::from(value)
    }

    fn write(&self, offset: usize, _: usize, value: u64) {
        let mut chip = self.0.lock().unwrap();
        let value = value as u8;
        let is_latched = chip.registers[3] & 0x80 != 0;
        match offset {
            0 | 1 if is_latched => chip.divisor[offset] = value,
            0 => chip.sent.push(value),
            1 => chip.registers[1] = value & 15,
            _ => chip.registers[offset] = value,
        }
    }
}

/// A port at an address of its own, as tests run side by side.
fn port(address: u16) -> (Arc<Uart>, Arc<SerialPort>, Arc<Tty>) {
    arch::host::init_memory(16 << 20);
    let uart = Arc::new(Uart(Mutex::new(Chip::default())));
    add_ports(address, 8, uart.clone());
    let regs = PortRange::claim("test", address, 8).unwrap();
    let settings = console_settings("115200n8");
    let port = Arc::new(SerialPort::probe(regs, 0, 4, settings).unwrap().unwrap());
    let dev = DeviceNumber::new(MAJOR, FIRST_MINOR);
    let tty =
        Tty::new("ttyS9".into(), dev, TtyKind::Serial, settings, BACKLOG, port.clone()).unwrap();
    port.attach(&tty, &InputWorker::start("test"), false);
    port.use_interrupts();
    (uart, port, tty)
}

fn receive(uart: &Uart, port: &SerialPort, bytes: &[(u8, u8)]) {
    uart.0.lock().unwrap().received.extend(bytes);
    port.interrupt();
    port.deliver();
    port.interrupt();
}

#[test]
fn programs_speed_and_format() {
    let (uart, _, tty) = port(0x1000);
    assert_eq!(uart.0.lock().unwrap().divisor, [1, 0]);
    let mut t = tty.termios();
    set_speed(&mut t, 9600, 9600);
    t.cflag = t.cflag & !CSIZE | CS7 | PARENB | CSTOPB;
    tty.apply(t);
    let chip = uart.0.lock().unwrap();
    assert_eq!(chip.divisor, [12, 0]);
    assert_eq!(chip.registers[3], 2 | 4 | 8 | 0x10);
}

#[test]
fn echoes_and_delivers_lines() {
    let (uart, port, tty) = port(0x1010);
    let bytes: Vec<_> = b"ls\r".iter().map(|b| (*b, 0)).collect();
    receive(&uart, &port, &bytes);
    assert_eq!(uart.0.lock().unwrap().sent, b"ls\r\n");
    assert_eq!(tty.state.lock().ldisc.readable_bytes(), 3);
    assert_eq!(port.counters().unwrap().rx, 3);
}

#[test]
fn sends_more_than_a_fifo() {
    let (uart, port, tty) = port(0x1020);
    let file = file::open(&tty, 2, false).unwrap();
    let text = [b'x'; 1000];
    let mode = Mode { generation: tty.generation(), is_nonblocking: true };
    assert_eq!(tty.write(mode, &mut Source::kernel(&text)), Ok(1000));
    while uart.0.lock().unwrap().sent.len() < 1000 {
        port.interrupt();
    }
    port.interrupt();
    assert_eq!(uart.0.lock().unwrap().registers[1] & 2, 0, "no transmit interrupts when idle");
    drop(file);
}

#[test]
fn sends_the_last_bytes_without_interrupts() {
    let (uart, port, tty) = port(0x1060);
    let file = file::open(&tty, 2, false).unwrap();
    let mode = Mode { generation: tty.generation(), is_nonblocking: true };
    assert_eq!(tty.write(mode, &mut Source::kernel(&[b'y'; 3000])), Ok(3000));
    port.drain();
    assert_eq!(uart.0.lock().unwrap().sent.len(), 3000);
    drop(file);
}

#[test]
fn does_not_wait_for_what_is_written_meanwhile() {
    let (uart, port, _tty) = port(0x1080);
    assert_eq!(crate::Driver::write(&*port, &[b'a'; 3000]), 3000);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                crate::Driver::write(&*port, &[b'b'; 256]);
            }
        });
        while port.buffered() < 4000 {
            std::thread::yield_now();
        }
        let start = std::time::Instant::now();
        port.drain();
        is_over.store(true, Ordering::Relaxed);
        assert!(start.elapsed() < std::time::Duration::from_secs(10));
    });
    let chip = uart.0.lock().unwrap();
    assert_eq!(chip.sent.iter().filter(|byte| **byte == b'a').count(), 3000);
}

#[test]
fn gives_up_a_stopped_flow() {
    let (uart, port, tty) = port(0x1070);
    let file = file::open(&tty, 2, false).unwrap();
    let mode = Mode { generation: tty.generation(), is_nonblocking: true };
    assert_eq!(tty.write(mode, &mut Source::kernel(&[b'z'; 100])), Ok(100));
    crate::Driver::set_stopped(&*port, true);
    let start = std::time::Instant::now();
    port.drain();
    assert!(start.elapsed() < std::time::Duration::from_secs(3));
    assert!(uart.0.lock().unwrap().sent.is_empty());
    drop(file);
}

#[test]
fn breaks_and_errors_reach_the_line_discipline() {
    let (uart, port, tty) = port(0x1030);
    let mut t = tty.termios();
    t.iflag = PARMRK | INPCK;
    t.lflag = 0;
    tty.apply(t);
    receive(&uart, &port, &[(b'a', 0), (b'b', 4), (0, 0x10), (0xff, 0)]);
    let mut out = [0; 20];
    let (n, _) = tty.state.lock().ldisc.read(&mut out);
    assert_eq!(&out[..n], b"a\xff\0b\xff\0\0\xff\xff");
}

#[test]
fn a_mad_chip_does_not_hang() {
    let (uart, port, _) = port(0x1040);
    uart.0.lock().unwrap().received.extend(std::iter::repeat_n((b'z', 2), 100_000));
    port.interrupt();
    port.deliver();
    assert!(port.counters().unwrap().overrun > 0);
}

#[test]
fn loses_carrier() {
    let (uart, port, tty) = port(0x1050);
    let before = tty.generation();
    let mut t = tty.termios();
    t.cflag &= !CLOCAL;
    tty.apply(t);
    struct NoCarrier(Arc<Uart>);
    impl Model for NoCarrier {
        fn read(&self, offset: usize, width: usize) -> u64 {
            if offset == 6 { 8 } else { self.0.read(offset, width) }
        }
        fn write(&self, offset: usize, width: usize, value: u64) {
            self.0.write(offset, width, value);
        }
    }
    uart.0.lock().unwrap().modem_delta = 8;
    add_ports(0x1050, 8, Arc::new(NoCarrier(uart.clone())));
    uart.0.lock().unwrap().received.push_back((b'q', 0));
    port.interrupt();
    port.deliver();
    assert_eq!(tty.generation(), before + 1);
}
