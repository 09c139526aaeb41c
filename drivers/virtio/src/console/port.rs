//! A port: two queues, and what is at our end of them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Result;
use abi::termios::Winsize;
use arch::lock::{IrqLock, LockClass};
use sched::WaitQueue;
use spin::Once;
use tty::serial::InputWorker;
use tty::{Driver, Tty};

use super::ring::{Input, Output, SLOT};
use super::{Control, event};

static PORT: LockClass = LockClass::new("virtio.console", 986);

/// How long a message of the kernel waits for the device: so many looks.
const PATIENCE: u32 = 1_000_000;

/// Which port it is.
#[derive(Clone, Copy)]
pub(super) struct Id {
    /// The number of its device among all virtio devices.
    pub(super) device: u32,
    /// Its number there.
    pub(super) port: u32,
}

/// A port.
pub(super) struct Port {
    pub(super) id: Id,
    /// Where opening and closing is told; nothing of a device with one port.
    pub(super) control: Option<Arc<Control>>,
    pub(super) input: IrqLock<Input>,
    pub(super) output: IrqLock<Output>,
    /// Its queues are in use.
    pub(super) is_live: AtomicBool,
    /// Somebody has it open on the other side.
    pub(super) is_connected: AtomicBool,
    /// A program has it open.
    pub(super) is_open: AtomicBool,
    is_stopped: AtomicBool,
    tty: Once<Arc<Tty>>,
    /// Told of bytes, of room, and when the other side comes and goes.
    pub(super) changed: Arc<WaitQueue>,
    worker: Arc<InputWorker>,
}

impl Port {
    pub(super) fn new(
        id: Id,
        (input, output): (Input, Output),
        control: &Option<Arc<Control>>,
        worker: &Arc<InputWorker>,
    ) -> Self {
        Self {
            id,
            control: control.clone(),
            input: IrqLock::new(&PORT, input),
            output: IrqLock::new(&PORT, output),
            is_live: AtomicBool::new(false),
            is_connected: AtomicBool::new(false),
            is_open: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            tty: Once::new(),
            changed: Arc::new(WaitQueue::new()),
            worker: worker.clone(),
        }
    }

    /// Puts its queues into use. More than once does no harm.
    pub(super) fn start(&self) -> Result<()> {
        self.output.lock().start()?;
        self.input.lock().start()?;
        // Release: the interrupt handler finds the queues as they are now.
        self.is_live.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes it a terminal, which prints the kernel's messages if the command line asks for them.
    pub(super) fn become_terminal(self: &Arc<Self>) -> Result<()> {
        if self.tty.get().is_some() {
            return Ok(());
        }
        let (line, tty) = tty::hvc::add(self.clone())?;
        self.tty.call_once(|| tty.clone());
        log::info!("{}: port {} of a virtio console", tty.name(), self.id.port);
        if tty::console::options_of(tty.name()).is_some() {
            // Consoles are for ever, so is this.
            let console: &'static KernelConsole =
                Box::leak(Box::new(KernelConsole { line, port: self.clone() }));
            klog::register_console(console, klog::Replay::All);
        }
        Ok(())
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.tty.get().is_some()
    }

    /// Tells the other side that a program has opened or closed it.
    pub(super) fn tell_open(&self, is_open: bool) {
        if let Some(control) = &self.control {
            control.tell(self.id.port, event::PORT_OPEN, u16::from(is_open));
        }
    }

    /// Drops what has come and was not read.
    pub(super) fn discard(&self) {
        let mut input = self.input.lock();
        input.collect();
        let mut bytes = [0; SLOT];
        loop {
            let n = input.peek(&mut bytes);
            if n == 0 {
                return;
            }
            input.consume(n);
        }
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) {
        if let Some(tty) = self.tty.get() {
            tty.set_winsize(Winsize { row: rows, col: columns, xpixel: 0, ypixel: 0 });
        }
    }

    /// The device has removed it.
    pub(super) fn remove(&self) {
        self.is_live.store(false, Ordering::Release);
        self.is_connected.store(false, Ordering::Release);
        if let Some(tty) = self.tty.get() {
            tty.hangup();
        }
        self.changed.notify(u32::MAX);
    }

    /// The interrupt of its input.
    pub(super) fn filled(&self) {
        if !self.is_live.load(Ordering::Acquire) {
            return;
        }
        if !self.input.lock().collect() {
            return;
        }
        if self.is_terminal() {
            self.worker.kick();
        } else {
            self.changed.notify(vfs::poll::POLLIN | vfs::poll::POLLRDNORM);
        }
    }

    /// The interrupt of its output.
    pub(super) fn sent(&self) {
        if !self.is_live.load(Ordering::Acquire) {
            return;
        }
        let has_more_room = {
            let mut output = self.output.lock();
            let before = output.room();
            output.collect();
            output.room() > before
        };
        if !has_more_room {
            return;
        }
        match self.tty.get() {
            Some(tty) => {
                tty.wake_writers();
                self.worker.kick();
            }
            None => self.changed.notify(vfs::poll::POLLOUT | vfs::poll::POLLWRNORM),
        }
    }

    /// Carries input to its terminal.
    pub(super) fn deliver(&self) {
        let Some(tty) = self.tty.get().filter(|_| self.is_live.load(Ordering::Acquire)) else {
            return;
        };
        let mut bytes = [0; SLOT];
        loop {
            let n = self.input.lock().peek(&mut bytes);
            if n == 0 {
                break;
            }
            let taken = tty.receive(bytes.get(..n).unwrap_or(&[]));
            if taken == 0 {
                // The terminal is full and calls `throttle(false)` when it is not.
                break;
            }
            self.input.lock().consume(taken);
        }
        tty.received();
        if !self.is_stopped.load(Ordering::Relaxed) {
            tty.wake_writers();
        }
    }

    /// Sends a kernel's message by polling.
    fn print(&self, bytes: &[u8]) {
        // In a panic the owner of the lock may have been stopped: give up.
        let lock = (0..PATIENCE).find_map(|_| {
            core::hint::spin_loop();
            self.output.try_lock()
        });
        let Some(mut output) = lock else { return };
        let mut rest = bytes;
        for _ in 0..PATIENCE {
            let done = output.write(rest);
            rest = rest.get(done..).unwrap_or(&[]);
            if rest.is_empty() {
                return;
            }
            core::hint::spin_loop();
        }
    }

    /// Waits, looking, until the device has sent everything: the machine goes off.
    pub(super) fn drain(&self) {
        for _ in 0..PATIENCE {
            let mut output = self.output.lock();
            output.collect();
            if output.in_flight() == 0 {
                return;
            }
            drop(output);
            core::hint::spin_loop();
        }
    }
}

impl Driver for Port {
    fn write(&self, bytes: &[u8]) -> usize {
        if self.is_stopped.load(Ordering::Relaxed) { 0 } else { self.output.lock().write(bytes) }
    }

    fn write_room(&self) -> usize {
        if self.is_stopped.load(Ordering::Relaxed) { 0 } else { self.output.lock().room() }
    }

    fn buffered(&self) -> usize {
        self.output.lock().in_flight()
    }

    fn set_stopped(&self, is_stopped: bool) {
        self.is_stopped.store(is_stopped, Ordering::Relaxed);
        if !is_stopped {
            self.worker.kick();
        }
    }

    fn throttle(&self, is_throttled: bool) {
        if !is_throttled {
            self.worker.kick();
        }
    }
}

/// The kernel's messages on a port.
struct KernelConsole {
    line: u32,
    port: Arc<Port>,
}

impl klog::Console for KernelConsole {
    fn name(&self) -> &str {
        "hvc"
    }

    fn index(&self) -> u32 {
        self.line
    }

    fn write(&self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match line.split_last() {
                Some((b'\n', text)) => {
                    self.port.print(text);
                    self.port.print(b"\r\n");
                }
                _ => self.port.print(line),
            }
        }
    }

    fn device(&self) -> Option<(u32, u32)> {
        Some((tty::hvc::MAJOR, self.line))
    }
}
