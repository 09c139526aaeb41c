//! Consoles: Virtio 1.2 §5.3. Ports that are consoles become terminals (`hvc0`), all others byte
//! streams (`vport1p2`), which agents of the host's use.
//!
//! Interrupts only note what has come; a kernel thread carries input to terminals and follows the
//! device's messages about its ports. A device without such messages has one port, a console.

mod file;
mod port;
mod ring;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::Result;
use arch::irq::Handler;
use arch::lock::{IrqLock, LockClass};
use spin::Once;
use tty::serial::{InputSource, InputWorker};

use self::port::{Id, Port};
use self::ring::{Input, Output, SLOT, SLOTS};
use crate::driver::Served;
use crate::transport::{Device, QueueHandler, Transport};

static CONTROL: LockClass = LockClass::new("virtio.console_control", 582);

/// The configuration tells the size of the console's window.
const F_SIZE: u64 = 1;
/// The device has several ports and tells of them.
const F_MULTIPORT: u64 = 1 << 1;

/// The most ports of a device: as many as its queues' numbers allow is more than anybody has.
const PORTS_MAX: u32 = 512;

/// Control messages (§5.3.6.2).
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const PORT_ADD: u16 = 1;
    pub(super) const PORT_REMOVE: u16 = 2;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const RESIZE: u16 = 5;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}
/// Bytes of a control message before what belongs to its kind: port, kind, value.
const HEADER: usize = 8;

/// The messages between driver and a device with several ports.
struct Control {
    input: IrqLock<Input>,
    output: IrqLock<Output>,
}

impl Control {
    /// Sends a message. There is room for more than can be on their way, unless the device does not
    /// take any; then it is lost.
    fn tell(&self, port: u32, event: u16, value: u16) {
        let mut message = [0; HEADER];
        let words = [port.to_le_bytes(), (u32::from(event) | u32::from(value) << 16).to_le_bytes()];
        message.iter_mut().zip(words.as_flattened()).for_each(|(to, from)| *to = *from);
        if self.output.lock().write(&message) == 0 {
            log::warn!("virtio console: the device takes no messages");
        }
    }
}

struct Console {
    device: Device,
    control: Option<Arc<Control>>,
    ports: Vec<Arc<Port>>,
    worker: Arc<InputWorker>,
    has_new_size: AtomicBool,
}

fn worker() -> &'static Arc<InputWorker> {
    static WORKER: Once<Arc<InputWorker>> = Once::new();
    WORKER.call_once(|| InputWorker::start("kvirtconsole"))
}

/// The queues of port `n`: those of control lie between the first port's and the second's.
fn queue_of(port: u32) -> u16 {
    (if port == 0 { 0 } else { 2 + 2 * port }) as u16
}

/// Takes a device into service.
///
/// # Errors
/// `ENODEV`, `ENOMEM`.
pub(crate) fn probe(transport: Arc<dyn Transport>) -> Result<Arc<dyn Served>> {
    let device = Device::begin(transport.clone(), F_SIZE | F_MULTIPORT)?;
    let has_control = device.has(F_MULTIPORT);
    let count = if has_control { transport.config32(4).clamp(1, PORTS_MAX) } else { 1 };
    let shared: Arc<Once<Arc<Console>>> = Arc::new(Once::new());
    let with = |act: fn(&Console, u32), n: u32| -> Handler {
        let shared = shared.clone();
        Arc::new(move || {
            if let Some(console) = shared.get() {
                act(console, n);
            }
        })
    };
    let queue = |name: String, act, n| QueueHandler { name, cpu: None, handler: with(act, n) };
    let mut handlers = Vec::new();
    for port in 0..count {
        handlers.push(queue(format!("input.{port}"), Console::port_filled, port));
        handlers.push(queue(format!("output.{port}"), Console::port_sent, port));
        if port == 0 && has_control {
            handlers.push(queue("control-i".into(), Console::told, 0));
            handlers.push(queue("control-o".into(), Console::heard, 0));
        }
    }
    transport.set_handlers(with(Console::configured, 0), handlers)?;
    let worker = worker();
    let pair = |first: u16| -> Result<(Input, Output)> {
        let input = Input::new(device.queue(first, SLOTS)?);
        Ok((input, Output::new(device.queue(first + 1, SLOTS)?)))
    };
    let control = if has_control {
        let (mut input, mut output) = pair(2)?;
        output.start()?;
        input.start()?;
        let (input, output) = (IrqLock::new(&CONTROL, input), IrqLock::new(&CONTROL, output));
        Some(Arc::new(Control { input, output }))
    } else {
        None
    };
    let mut ports = Vec::new();
    for number in 0..count {
        let id = Id { device: transport.number(), port: number };
        ports.push(Arc::new(Port::new(id, pair(queue_of(number))?, &control, worker)));
    }
    device.finish();
    let console = Arc::new(Console {
        device,
        control,
        ports,
        worker: worker.clone(),
        has_new_size: AtomicBool::new(true),
    });
    shared.call_once(|| console.clone());
    worker.add(console.clone());
    if let Some(control) = &console.control {
        control.tell(u32::MAX, event::DEVICE_READY, 1);
    } else if let Some(port) = console.ports.first() {
        port.start()?;
        port.is_connected.store(true, Ordering::Release);
        port.become_terminal()?;
    }
    Ok(console)
}

impl Served for Console {
    fn transport(&self) -> &dyn Transport {
        &*self.device.transport
    }

    fn quiesce(&self) {
        let live = self.ports.iter().filter(|port| port.is_live.load(Ordering::Acquire));
        live.for_each(|port| port.drain());
    }
}

impl Console {
    fn port(&self, number: u32) -> Option<&Arc<Port>> {
        self.ports.get(number as usize)
    }

    fn port_filled(&self, number: u32) {
        if let Some(port) = self.port(number) {
            port.filled();
        }
    }

    fn port_sent(&self, number: u32) {
        if let Some(port) = self.port(number) {
            port.sent();
        }
    }

    /// The device has sent a control message.
    fn told(&self, _: u32) {
        if let Some(control) = &self.control
            && control.input.lock().collect()
        {
            self.worker.kick();
        }
    }

    /// The device has taken a control message.
    fn heard(&self, _: u32) {
        if let Some(control) = &self.control {
            control.output.lock().collect();
        }
    }

    fn configured(&self, _: u32) {
        self.has_new_size.store(true, Ordering::Release);
        self.worker.kick();
    }

    /// Does what the device's messages say.
    fn follow(&self, control: &Control) {
        let mut message = [0; SLOT];
        loop {
            let len = {
                let mut input = control.input.lock();
                let len = input.peek(&mut message);
                input.consume(len);
                len
            };
            if len == 0 {
                return;
            }
            let Some((header, rest)) =
                message.get(..len).and_then(|message| message.split_first_chunk::<HEADER>())
            else {
                continue;
            };
            let [a, b, c, d, e, f, g, h] = *header;
            let (port, value) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([g, h]));
            self.obey(control, port, u16::from_le_bytes([e, f]), value, rest);
        }
    }

    fn obey(&self, control: &Control, number: u32, event: u16, value: u16, rest: &[u8]) {
        let Some(port) = self.port(number) else {
            if event == event::PORT_ADD {
                control.tell(number, event::PORT_READY, 0);
            }
            return;
        };
        match event {
            event::PORT_ADD => {
                let started = port.start();
                if started.is_ok() {
                    file::add(port);
                }
                control.tell(number, event::PORT_READY, u16::from(started.is_ok()));
            }
            event::PORT_REMOVE => {
                file::remove(port);
                port.remove();
            }
            event::CONSOLE_PORT if value != 0 && port.is_live.load(Ordering::Acquire) => {
                match port.become_terminal() {
                    Ok(()) => control.tell(number, event::PORT_OPEN, 1),
                    Err(error) => log::error!("virtio console: port {number}: {error}"),
                }
            }
            event::RESIZE => {
                if let [a, b, c, d, ..] = *rest {
                    port.resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
                }
            }
            event::PORT_OPEN => {
                port.is_connected.store(value != 0, Ordering::Release);
                port.changed.notify(u32::MAX);
            }
            event::PORT_NAME => file::name(port, rest),
            _ => {}
        }
    }
}

/// The device's part in the input thread.
impl InputSource for Console {
    fn deliver(&self) {
        if let Some(control) = &self.control {
            self.follow(control);
        }
        if self.device.has(F_SIZE) && self.has_new_size.swap(false, Ordering::AcqRel) {
            let (columns, rows) =
                self.device.stable(|device| (device.config16(0), device.config16(2)));
            if let Some(port) = self.ports.first() {
                port.resize(columns, rows);
            }
        }
        self.ports.iter().for_each(|port| port.deliver());
    }
}
