//! A port as the terminal layer sees it: the [`Driver`] of its tty and the source of its input.

use core::sync::atomic::Ordering;

use abi::termios::*;
use abi::{Errno, Result};

use crate::driver::Driver;
use crate::ldisc::Kind;
use crate::serial::registers::*;
use crate::serial::worker::InputSource;
use crate::wait;

use super::*;

impl InputSource for SerialPort {
    fn deliver(&self) {
        let Some(tty) = self.tty.get() else { return };
        if !self.has_interrupt.load(Ordering::Relaxed) {
            self.interrupt();
        }
        let mut bytes = [0; 256];
        loop {
            let (n, special) = {
                let inner = self.inner.lock();
                let n = inner.receive.peek_plain(&mut bytes);
                (n, inner.receive.first().filter(|_| n == 0))
            };
            let taken = match special {
                Some((byte, status)) => {
                    let kind = if status & LSR_BREAK != 0 { Kind::Break } else { Kind::Error };
                    tty.receive_flagged(byte, kind);
                    1
                }
                None if n == 0 => break,
                None => tty.receive(bytes.get(..n).unwrap_or(&[])),
            };
            let mut inner = self.inner.lock();
            inner.receive.consume(taken);
            let reenable = IER_RECEIVE | IER_LINE;
            if inner.ier & reenable != reenable && inner.receive.room() >= RECEIVE_RING / 2 {
                let ier = inner.ier | reenable;
                self.set_ier(&mut inner, ier);
            }
            drop(inner);
            if taken == 0 {
                // The terminal is full and calls `throttle(false)` when it is not.
                break;
            }
        }
        tty.push_echo();
        let is_hung_up = core::mem::take(&mut self.inner.lock().is_hung_up);
        if is_hung_up {
            tty.hangup();
        } else {
            tty.read_wait.wake_all();
        }
    }

    fn must_be_polled(&self) -> bool {
        !self.has_interrupt.load(Ordering::Relaxed)
    }
}

impl Driver for SerialPort {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut inner = self.inner.lock();
        let n = inner.transmit.push(bytes);
        self.start_sending(&mut inner);
        n
    }

    fn write_room(&self) -> usize {
        self.inner.lock().transmit.room()
    }

    fn buffered(&self) -> usize {
        self.inner.lock().transmit.len()
    }

    fn flush_output(&self) {
        self.inner.lock().transmit.clear();
    }

    fn set_stopped(&self, is_stopped: bool) {
        let mut inner = self.inner.lock();
        inner.is_stopped = is_stopped;
        if !is_stopped {
            self.start_sending(&mut inner);
        }
    }

    fn throttle(&self, is_throttled: bool) {
        let Some(tty) = self.tty.get() else { return };
        {
            let mut inner = self.inner.lock();
            inner.is_throttled = is_throttled;
            if inner.has_flow_control {
                inner.mcr = if is_throttled { inner.mcr & !MCR_RTS } else { inner.mcr | MCR_RTS };
                self.regs.write8(MCR, inner.mcr);
            }
        }
        if !is_throttled && let Some(worker) = self.worker.get() {
            worker.kick();
        }
        let _ = tty;
    }

    fn set_termios(&self, new: &mut Termios2, _: &Termios2) {
        self.configure(new);
    }

    fn open(&self, is_first: bool) -> Result<()> {
        if is_first {
            let mut inner = self.inner.lock();
            inner.mcr |= MCR_DTR | MCR_RTS | MCR_OUT2;
            self.regs.write8(MCR, inner.mcr);
        }
        Ok(())
    }

    fn close(&self) {
        let mut inner = self.inner.lock();
        if inner.cflag & HUPCL != 0 && !self.is_console.load(Ordering::Relaxed) {
            inner.mcr &= !(MCR_DTR | MCR_RTS);
            self.regs.write8(MCR, inner.mcr);
        }
    }

    fn hangup(&self) {
        self.flush_output();
    }

    fn has_carrier(&self) -> bool {
        self.regs.read8(MSR) & MSR_DCD != 0
    }

    fn drain_ns(&self) -> u64 {
        if self.regs.read8(LSR) & LSR_EMPTY != 0 {
            return 0;
        }
        let inner = self.inner.lock();
        super::drain::fifo_time_ns(&inner)
    }

    fn set_break(&self, is_on: bool) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.lcr = if is_on { inner.lcr | LCR_BREAK } else { inner.lcr & !LCR_BREAK };
        self.regs.write8(LCR, inner.lcr);
        Ok(())
    }

    fn send_urgent(&self, byte: u8) {
        let mut inner = self.inner.lock();
        inner.urgent = Some(byte);
        self.start_sending(&mut inner);
    }

    fn modem_lines(&self) -> Result<u32> {
        Ok(self.lines())
    }

    fn change_modem_lines(&self, raise: u32, drop: u32) -> Result<()> {
        let mut inner = self.inner.lock();
        for (bit, line) in MODEM_OUTPUTS {
            if raise & line != 0 {
                inner.mcr |= bit;
            }
            // OUT2 carries the interrupt on a PC; it stays.
            if drop & line != 0 && bit != MCR_OUT2 {
                inner.mcr &= !bit;
            }
        }
        self.regs.write8(MCR, inner.mcr);
        Ok(())
    }

    fn wait_modem_change(&self, lines: u32) -> Result<()> {
        let counts = |c: &SerialCounters| {
            let pick = |line: u32, count: i32| if lines & line != 0 { count } else { 0 };
            [
                pick(TIOCM_CTS, c.cts),
                pick(TIOCM_DSR, c.dsr),
                pick(TIOCM_RNG, c.rng),
                pick(TIOCM_CAR, c.dcd),
            ]
        };
        let before = counts(&self.inner.lock().counters);
        let look = || (counts(&self.inner.lock().counters) != before).then_some(());
        wait::until(&self.modem_wait, None, look).map(|_| ())
    }

    fn counters(&self) -> Option<SerialCounters> {
        Some(self.inner.lock().counters)
    }

    fn serial(&self) -> Option<SerialStruct> {
        let inner = self.inner.lock();
        Some(SerialStruct {
            kind: if self.chip == Chip::Ns16550a { PORT_16550A } else { PORT_16450 },
            line: self.line as i32,
            port: u32::from(self.regs.first()),
            irq: self.irq as i32,
            flags: 0x1000_0040,
            xmit_fifo_size: self.fifo_size() as i32,
            custom_divisor: i32::from(inner.custom_divisor),
            baud_base: BASE_BAUD as i32,
            close_delay: inner.close_delay,
            closing_wait: inner.closing_wait,
            io_type: SERIAL_IO_PORT,
            ..SerialStruct::default()
        })
    }

    fn set_serial(&self, serial: &SerialStruct) -> Result<()> {
        let is_same_place = serial.port == u32::from(self.regs.first())
            && serial.irq == self.irq as i32
            && serial.baud_base == BASE_BAUD as i32;
        if !is_same_place {
            return Err(Errno::EINVAL);
        }
        let divisor = u16::try_from(serial.custom_divisor).map_err(|_| Errno::EINVAL)?;
        let mut inner = self.inner.lock();
        inner.custom_divisor = divisor;
        inner.closing_wait = serial.closing_wait;
        inner.close_delay = serial.close_delay;
        Ok(())
    }

    fn is_transmitter_empty(&self) -> Option<bool> {
        Some(self.regs.read8(LSR) & LSR_EMPTY != 0 && self.buffered() == 0)
    }
}
