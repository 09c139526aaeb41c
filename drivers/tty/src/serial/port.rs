//! One 16550: finding it, its interrupts, what it sends and receives.

mod drain;
mod driver;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Result;
use abi::termios::*;
use arch::lock::{IrqLock, LockClass};
use hw::PortRange;
use sched::WaitQueue;
use spin::Once;

use super::registers::*;
use super::worker::InputWorker;
use crate::Tty;
use crate::ring::Ring;
use crate::termios::set_speed;

static PORT: LockClass = LockClass::new("tty.serial", 985);

const TRANSMIT_RING: usize = 4096;
const RECEIVE_RING: usize = 4096;

/// The most interrupts' worth of work at once: a chip gone mad must not hang the machine.
const PATIENCE: usize = 256;

/// How long a polled byte may take: 100,000 looks.
const POLL_PATIENCE: u32 = 100_000;

/// A key counts as a sysrq this long after a break.
const SYSRQ_WINDOW_NS: u64 = 5_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chip {
    /// Without FIFOs.
    Ns16450,
    Ns16550a,
}

/// Received bytes with what the chip said of them.
struct ReceiveRing {
    data: Box<[(u8, u8)]>,
    head: usize,
    tail: usize,
}

impl ReceiveRing {
    fn new() -> Self {
        Self { data: vec![(0, 0); RECEIVE_RING].into_boxed_slice(), head: 0, tail: 0 }
    }

    fn push(&mut self, byte: u8, status: u8) -> bool {
        if self.head.wrapping_sub(self.tail) >= RECEIVE_RING {
            return false;
        }
        if let Some(slot) = self.data.get_mut(self.head % RECEIVE_RING) {
            *slot = (byte, status);
        }
        self.head = self.head.wrapping_add(1);
        true
    }

    fn room(&self) -> usize {
        RECEIVE_RING - self.head.wrapping_sub(self.tail)
    }

    fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    fn first(&self) -> Option<(u8, u8)> {
        if self.is_empty() {
            return None;
        }
        self.data.get(self.tail % RECEIVE_RING).copied()
    }

    /// Copies ordinary bytes from the front, without removing them.
    fn peek_plain(&self, out: &mut [u8]) -> usize {
        let mut n = 0;
        for slot in out {
            let position = self.tail.wrapping_add(n);
            if position == self.head {
                break;
            }
            match self.data.get(position % RECEIVE_RING) {
                Some((byte, 0)) => *slot = *byte,
                _ => break,
            }
            n += 1;
        }
        n
    }

    fn consume(&mut self, n: usize) {
        self.tail = self.tail.wrapping_add(n);
    }
}

struct Inner {
    transmit: Ring,
    receive: ReceiveRing,
    urgent: Option<u8>,
    /// What the interrupt enable register holds.
    ier: u8,
    mcr: u8,
    lcr: u8,
    divisor: u16,
    custom_divisor: u16,
    counters: SerialCounters,
    /// Status bits of received bytes that are not to be reported.
    ignored: u8,
    has_flow_control: bool,
    is_local: bool,
    is_stopped: bool,
    is_throttled: bool,
    is_hung_up: bool,
    cflag: u32,
    speed: u32,
    closing_wait: u16,
    close_delay: u16,
    break_at_ns: Option<u64>,
}

/// A serial port.
pub struct SerialPort {
    regs: PortRange,
    line: u32,
    irq: u32,
    chip: Chip,
    inner: IrqLock<Inner>,
    tty: Once<Arc<Tty>>,
    worker: Once<Arc<InputWorker>>,
    modem_wait: WaitQueue,
    has_interrupt: AtomicBool,
    is_console: AtomicBool,
}

impl SerialPort {
    /// Looks for a chip and prepares it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn probe(regs: PortRange, line: u32, irq: u32, settings: Termios2) -> Result<Option<Self>> {
        // The upper four bits of the interrupt enable register are always zero.
        regs.write8(IER, 0);
        let absent = regs.read8(IER) != 0 || regs.read8(LSR) == 0xff;
        regs.write8(SCR, 0x5a);
        if absent || regs.read8(SCR) != 0x5a {
            return Ok(None);
        }
        regs.write8(FCR, FCR_ENABLE | FCR_CLEAR_RECEIVE | FCR_CLEAR_TRANSMIT | FCR_TRIGGER_8);
        let chip = if regs.read8(IIR) >> 6 == 3 { Chip::Ns16550a } else { Chip::Ns16450 };
        let inner = Inner {
            transmit: Ring::new(TRANSMIT_RING)?,
            receive: ReceiveRing::new(),
            urgent: None,
            ier: 0,
            mcr: MCR_DTR | MCR_RTS | MCR_OUT2,
            lcr: 3,
            divisor: 12,
            custom_divisor: 0,
            counters: SerialCounters::default(),
            ignored: 0,
            has_flow_control: false,
            is_local: true,
            is_stopped: false,
            is_throttled: false,
            is_hung_up: false,
            cflag: settings.cflag,
            speed: settings.ospeed,
            closing_wait: 3000,
            close_delay: 50,
            break_at_ns: None,
        };
        let port = Self {
            regs,
            line,
            irq,
            chip,
            inner: IrqLock::new(&PORT, inner),
            tty: Once::new(),
            worker: Once::new(),
            modem_wait: WaitQueue::new(),
            has_interrupt: AtomicBool::new(false),
            is_console: AtomicBool::new(false),
        };
        let mut t = settings;
        port.configure(&mut t);
        Ok(Some(port))
    }

    /// Connects the port with its terminal.
    pub fn attach(&self, tty: &Arc<Tty>, worker: &Arc<InputWorker>, is_console: bool) {
        self.tty.call_once(|| tty.clone());
        self.worker.call_once(|| worker.clone());
        self.is_console.store(is_console, Ordering::Release);
    }

    /// The interrupt handler is in place: no polling from now on.
    pub fn use_interrupts(&self) {
        self.has_interrupt.store(true, Ordering::Release);
        let mut inner = self.inner.lock();
        self.set_ier(&mut inner, IER_RECEIVE | IER_LINE | IER_MODEM);
    }

    /// Which of the standard ports it is.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// What the chip is called.
    pub fn chip(&self) -> &'static str {
        match self.chip {
            Chip::Ns16450 => "16450",
            Chip::Ns16550a => "16550A",
        }
    }

    /// Its line in `/proc/tty/driver/serial`.
    pub fn describe(&self) -> String {
        let counters = self.inner.lock().counters;
        let mut text = format!(
            "{}: uart:{} port:{:08X} irq:{} tx:{} rx:{}",
            self.line,
            self.chip(),
            self.regs.first(),
            self.irq,
            counters.tx,
            counters.rx
        );
        let errors = [
            (counters.frame, "fe"),
            (counters.parity, "pe"),
            (counters.brk, "brk"),
            (counters.overrun, "oe"),
        ];
        for (count, name) in errors {
            if count != 0 {
                text += &format!(" {name}:{count}");
            }
        }
        let lines = self.lines();
        let names = [
            (TIOCM_RTS, "RTS"),
            (TIOCM_CTS, "CTS"),
            (TIOCM_DTR, "DTR"),
            (TIOCM_DSR, "DSR"),
            (TIOCM_CAR, "CD"),
            (TIOCM_RNG, "RI"),
        ];
        let mut separator = ' ';
        for (line, name) in names {
            if lines & line != 0 {
                text.push(separator);
                text += name;
                separator = '|';
            }
        }
        text
    }

    fn set_ier(&self, inner: &mut Inner, ier: u8) {
        if inner.ier != ier {
            inner.ier = ier;
            if self.has_interrupt.load(Ordering::Relaxed) {
                self.regs.write8(IER, ier);
            }
        }
    }

    fn fifo_size(&self) -> usize {
        if self.chip == Chip::Ns16550a { FIFO_SIZE } else { 1 }
    }

    fn may_send(inner: &Inner, msr: impl FnOnce() -> u8) -> bool {
        !inner.is_stopped && (!inner.has_flow_control || msr() & MSR_CTS != 0)
    }

    /// Moves bytes to the chip, which has room for a FIFO's worth. Returns whether the ring has
    /// become short.
    fn fill(&self, inner: &mut Inner) -> bool {
        if let Some(byte) = inner.urgent.take() {
            self.regs.write8(DATA, byte);
            inner.counters.tx = inner.counters.tx.wrapping_add(1);
            return false;
        }
        if inner.transmit.is_empty() || !Self::may_send(inner, || self.regs.read8(MSR)) {
            let ier = inner.ier & !IER_TRANSMIT;
            self.set_ier(inner, ier);
            return false;
        }
        let before = inner.transmit.len();
        let mut bytes = [0; FIFO_SIZE];
        let room = self.fifo_size();
        let n = inner.transmit.pop(bytes.get_mut(..room).unwrap_or(&mut []));
        for byte in bytes.iter().take(n) {
            self.regs.write8(DATA, *byte);
        }
        inner.counters.tx = inner.counters.tx.wrapping_add(n as i32);
        let after = inner.transmit.len();
        let limit = TRANSMIT_RING / 4;
        after == 0 || (before > limit && after <= limit)
    }

    fn start_sending(&self, inner: &mut Inner) {
        if inner.transmit.is_empty() && inner.urgent.is_none() {
            return;
        }
        if !self.has_interrupt.load(Ordering::Relaxed) {
            self.send_by_polling(inner);
            return;
        }
        if inner.ier & IER_TRANSMIT == 0 {
            // Enabling it raises the interrupt at once when the chip is idle.
            let ier = inner.ier | IER_TRANSMIT;
            self.set_ier(inner, ier);
        }
    }

    fn send_by_polling(&self, inner: &mut Inner) {
        while !inner.transmit.is_empty() || inner.urgent.is_some() {
            if !self.poll_room() {
                return;
            }
            let before = inner.transmit.len() + usize::from(inner.urgent.is_some());
            self.fill(inner);
            if before == inner.transmit.len() + usize::from(inner.urgent.is_some()) {
                return;
            }
        }
    }

    /// Waits, looking, until the chip can take a byte.
    fn poll_room(&self) -> bool {
        (0..POLL_PATIENCE).any(|_| self.regs.read8(LSR) & LSR_THRE != 0)
    }

    /// The interrupt handler.
    pub fn interrupt(&self) {
        let mut has_received = false;
        let mut has_sent = false;
        let mut has_changed = false;
        let mut sysrq = None;
        {
            let mut inner = self.inner.lock();
            for _ in 0..PATIENCE {
                if self.regs.read8(IIR) & IIR_NONE != 0 {
                    break;
                }
                let lsr = self.regs.read8(LSR);
                if lsr & (LSR_DATA | LSR_BREAK) != 0 {
                    has_received |= self.take(&mut inner, lsr, &mut sysrq);
                }
                has_changed |= self.look_at_modem(&mut inner);
                if lsr & LSR_THRE != 0 && inner.ier & IER_TRANSMIT != 0 {
                    has_sent |= self.fill(&mut inner);
                }
            }
        }
        if has_changed {
            self.modem_wait.wake_all();
        }
        if has_sent && let Some(tty) = self.tty.get() {
            tty.wake_writers();
        }
        if (has_received || has_sent || has_changed)
            && let Some(worker) = self.worker.get()
        {
            worker.kick();
        }
        if let (Some(key), Some(handler)) = (sysrq, super::sysrq()) {
            handler(key);
        }
    }

    /// Takes what the chip has received. A ring that is full leaves the rest in the chip.
    fn take(&self, inner: &mut Inner, lsr: u8, sysrq: &mut Option<u8>) -> bool {
        let mut lsr = lsr;
        for _ in 0..PATIENCE {
            if lsr & (LSR_DATA | LSR_BREAK) == 0 {
                break;
            }
            if inner.receive.room() == 0 {
                let ier = inner.ier & !(IER_RECEIVE | IER_LINE);
                self.set_ier(inner, ier);
                break;
            }
            let byte = self.regs.read8(DATA);
            self.note_byte(inner, byte, lsr, sysrq);
            lsr = self.regs.read8(LSR);
        }
        true
    }

    fn note_byte(&self, inner: &mut Inner, byte: u8, lsr: u8, sysrq: &mut Option<u8>) {
        let counters = &mut inner.counters;
        counters.rx = counters.rx.wrapping_add(1);
        if lsr & LSR_OVERRUN != 0 {
            counters.overrun = counters.overrun.wrapping_add(1);
        }
        if lsr & LSR_BREAK != 0 {
            counters.brk = counters.brk.wrapping_add(1);
            let is_console = self.is_console.load(Ordering::Relaxed);
            if is_console && super::sysrq().is_some() && inner.break_at_ns.is_none() {
                inner.break_at_ns = Some(arch::time::now_ns());
                return;
            }
            inner.break_at_ns = None;
        } else if lsr & LSR_PARITY != 0 {
            counters.parity = counters.parity.wrapping_add(1);
        } else if lsr & LSR_FRAME != 0 {
            counters.frame = counters.frame.wrapping_add(1);
        }
        if let Some(at) = inner.break_at_ns.take()
            && byte != 0
            && arch::time::now_ns().saturating_sub(at) < SYSRQ_WINDOW_NS
        {
            *sysrq = Some(byte);
            return;
        }
        if inner.cflag & CREAD == 0 {
            return;
        }
        let status = lsr & (LSR_BREAK | LSR_PARITY | LSR_FRAME) & !inner.ignored;
        if !inner.receive.push(byte, status) {
            inner.counters.buf_overrun = inner.counters.buf_overrun.wrapping_add(1);
        }
    }

    fn look_at_modem(&self, inner: &mut Inner) -> bool {
        let msr = self.regs.read8(MSR);
        let counters = &mut inner.counters;
        let changes = [
            (MSR_DELTA_CTS, &mut counters.cts),
            (MSR_DELTA_DSR, &mut counters.dsr),
            (MSR_RING_END, &mut counters.rng),
            (MSR_DELTA_DCD, &mut counters.dcd),
        ];
        let mut has_changed = false;
        for (bit, counter) in changes {
            if msr & bit != 0 {
                *counter = counter.wrapping_add(1);
                has_changed = true;
            }
        }
        if msr & MSR_DELTA_DCD != 0 && msr & MSR_DCD == 0 && !inner.is_local {
            inner.is_hung_up = true;
        }
        if msr & MSR_DELTA_CTS != 0 && inner.has_flow_control && msr & MSR_CTS != 0 {
            self.start_sending(inner);
        }
        has_changed
    }

    /// Programs speed and format, and corrects the settings to what the chip can do.
    fn configure(&self, t: &mut Termios2) {
        let mut inner = self.inner.lock();
        let wanted = if t.ospeed == 0 { 0 } else { t.ospeed.clamp(2, BASE_BAUD) };
        let divisor = match wanted {
            0 => inner.divisor,
            38_400 if inner.custom_divisor != 0 => inner.custom_divisor,
            _ => ((BASE_BAUD + wanted / 2) / wanted).clamp(1, 0xffff) as u16,
        };
        if wanted != t.ospeed {
            set_speed(t, wanted, wanted);
        }
        let mut lcr = match t.cflag & CSIZE {
            CS5 => 0,
            CS6 => 1,
            CS7 => 2,
            _ => 3,
        };
        let bits = [(CSTOPB, LCR_STOP2), (PARENB, LCR_PARITY), (CMSPAR, LCR_STICK)];
        for (flag, bit) in bits {
            if t.cflag & flag != 0 {
                lcr |= bit;
            }
        }
        if t.cflag & PARODD == 0 {
            lcr |= LCR_EVEN;
        }
        inner.ignored = 0;
        if t.iflag & INPCK == 0 {
            inner.ignored |= LSR_PARITY | LSR_FRAME;
        }
        inner.has_flow_control = t.cflag & CRTSCTS != 0;
        inner.is_local = t.cflag & CLOCAL != 0;
        inner.cflag = t.cflag;
        inner.speed = t.ospeed;
        inner.lcr = lcr;
        inner.divisor = divisor;
        inner.mcr |= MCR_OUT2;
        if wanted == 0 {
            inner.mcr &= !(MCR_DTR | MCR_RTS);
        } else {
            inner.mcr |= MCR_DTR | MCR_RTS;
        }
        self.regs.write8(LCR, lcr | LCR_DIVISOR);
        self.regs.write8(DATA, divisor as u8);
        self.regs.write8(IER, (divisor >> 8) as u8);
        self.regs.write8(LCR, lcr);
        if self.chip == Chip::Ns16550a {
            self.regs.write8(FCR, FCR_ENABLE | FCR_TRIGGER_8);
        }
        self.regs.write8(MCR, inner.mcr);
        let ier = inner.ier;
        self.regs.write8(IER, ier);
        self.start_sending(&mut inner);
    }

    fn lines(&self) -> u32 {
        let msr = self.regs.read8(MSR);
        let mcr = self.inner.lock().mcr;
        let inputs = [
            (MSR_CTS, TIOCM_CTS),
            (MSR_DSR, TIOCM_DSR),
            (MSR_RING, TIOCM_RNG),
            (MSR_DCD, TIOCM_CAR),
        ];
        let outputs = MODEM_OUTPUTS.iter().filter(|(bit, _)| mcr & bit != 0);
        let inputs = inputs.iter().filter(|(bit, _)| msr & bit != 0);
        outputs.chain(inputs).fold(0, |lines, (_, line)| lines | line)
    }

    /// Prints by polling: the kernel's messages.
    fn print(&self, bytes: &[u8]) {
        // In a panic the owner of the lock may have been stopped: go on without it.
        let _guard = (0..POLL_PATIENCE).find_map(|_| {
            let guard = self.inner.try_lock();
            if guard.is_none() {
                core::hint::spin_loop();
            }
            guard
        });
        for &byte in bytes {
            if byte == b'\n' {
                self.print_byte(b'\r');
            }
            self.print_byte(byte);
        }
    }

    fn print_byte(&self, byte: u8) {
        self.poll_room();
        self.regs.write8(DATA, byte);
    }
}

const MODEM_OUTPUTS: [(u8, u32); 5] = [
    (MCR_DTR, TIOCM_DTR),
    (MCR_RTS, TIOCM_RTS),
    (MCR_OUT1, TIOCM_OUT1),
    (MCR_OUT2, TIOCM_OUT2),
    (MCR_LOOP, TIOCM_LOOP),
];

impl klog::Console for SerialPort {
    fn name(&self) -> &str {
        "ttyS"
    }

    fn index(&self) -> u32 {
        self.line
    }

    fn write(&self, bytes: &[u8]) {
        self.print(bytes);
    }

    fn device(&self) -> Option<(u32, u32)> {
        Some((super::MAJOR, super::FIRST_MINOR + self.line))
    }
}
