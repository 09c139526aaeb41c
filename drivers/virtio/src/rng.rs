//! Entropy devices: Virtio 1.2 §5.4. What they deliver goes to the random number generator, and to
//! readers of `/dev/hwrng`.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use arch::irq::Handler;
use arch::lock::{IrqLock, LockClass};
use arch::uio::Sink;
use hw::{DmaBuffer, entropy};
use sched::WaitQueue;
use spin::Once;
use vfs::dev::{DeviceNode, DeviceOpen, Opened};
use vfs::{Context, DeviceNumber, File, FileKind, FileMode, FileOps, Inode};

use crate::driver::Served;
use crate::queue::{Descriptor, Queue, WRITE};
use crate::transport::{Device, QueueHandler, Transport};

static RING: LockClass = LockClass::new("virtio.rng", 581);

/// How much is asked for at once.
const BATCH: usize = 64;

struct State {
    queue: Queue,
    is_asked: bool,
    /// The machine goes off: the device is not asked again.
    is_off: bool,
    /// Bytes delivered for a reader, and how many of them are left.
    ready: [u8; BATCH],
    left: usize,
    is_reader_waiting: bool,
}

struct Rng {
    device: Device,
    state: IrqLock<State>,
    buffer: DmaBuffer,
    queue: WaitQueue,
}

static FIRST: Once<Arc<Rng>> = Once::new();

/// Takes a device into service.
///
/// # Errors
/// `ENODEV`, `ENOMEM`.
pub(crate) fn probe(transport: Arc<dyn Transport>) -> Result<Arc<dyn Served>> {
    let device = Device::begin(transport.clone(), 0)?;
    let shared: Arc<Once<Arc<Rng>>> = Arc::new(Once::new());
    let handler: Handler = {
        let shared = shared.clone();
        Arc::new(move || {
            if let Some(rng) = shared.get() {
                rng.delivered();
            }
        })
    };
    let input = QueueHandler { name: "input".into(), cpu: None, handler };
    transport.set_handlers(Arc::new(|| ()), alloc::vec![input])?;
    let queue = device.queue(0, 8)?;
    device.finish();
    let state = State {
        queue,
        is_asked: false,
        is_off: false,
        ready: [0; BATCH],
        left: 0,
        is_reader_waiting: false,
    };
    let rng = Arc::new(Rng {
        device,
        state: IrqLock::new(&RING, state),
        buffer: DmaBuffer::new(BATCH)?,
        queue: WaitQueue::new(),
    });
    shared.call_once(|| rng.clone());
    rng.ask(&mut rng.state.lock());
    if FIRST.get().is_none() {
        FIRST.call_once(|| rng.clone());
        offer_device_file()?;
    }
    Ok(rng)
}

impl Served for Rng {
    fn transport(&self) -> &dyn Transport {
        &*self.device.transport
    }

    fn quiesce(&self) {
        self.state.lock().is_off = true;
    }
}

impl Rng {
    fn ask(&self, state: &mut State) {
        if state.is_asked || state.is_off {
            return;
        }
        state.is_asked = true;
        let part =
            Descriptor { addr: self.buffer.phys().0, len: BATCH as u32, flags: WRITE, next: 0 };
        state.queue.set(0, part);
        state.queue.enable_interrupts();
        state.queue.publish(0);
        state.queue.notify();
    }

    /// The interrupt handler.
    fn delivered(&self) {
        let mut bytes = [0; BATCH];
        let mut n = 0;
        let wake = {
            let mut state = self.state.lock();
            if let Some(done) = state.queue.take() {
                n = (done.written as usize).min(BATCH);
                self.buffer.copy_out(0, &mut bytes);
                state.is_asked = false;
            }
            let is_for_reader = n > 0 && state.is_reader_waiting;
            if is_for_reader {
                state.ready = bytes;
                state.left = n;
                state.is_reader_waiting = false;
            }
            is_for_reader
        };
        if wake {
            self.queue.wake_all();
            return;
        }
        if n > 0 {
            // Half of the bits are believed: the host's quality is not known.
            entropy::add(bytes.get(..n).unwrap_or(&[]), n * 4);
        }
        if n > 0 && entropy::is_wanted() && entropy::has_pool() {
            self.ask(&mut self.state.lock());
        }
    }

    /// Takes delivered bytes, or asks for some.
    fn take(&self, out: &mut [u8; BATCH]) -> Option<usize> {
        let mut state = self.state.lock();
        if state.left == 0 {
            state.is_reader_waiting = true;
            self.ask(&mut state);
            return None;
        }
        let n = core::mem::take(&mut state.left);
        *out = core::mem::replace(&mut state.ready, [0; BATCH]);
        Some(n)
    }
}

struct HwRng;

impl DeviceOpen for HwRng {
    fn open(&self, _: DeviceNumber, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Opened> {
        Ok(Opened { ops: Arc::new(HwRng), mode: FileMode::empty() })
    }
}

impl FileOps for HwRng {
    fn read_at(&self, file: &File, _: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let rng = FIRST.get().ok_or(Errno::ENODEV)?;
        let asked = sink.remaining();
        while sink.remaining() > 0 {
            let mut bytes = [0; BATCH];
            let n = match rng.take(&mut bytes) {
                Some(n) => n,
                None if file.is_nonblocking() && sink.remaining() == asked => {
                    return Err(Errno::EAGAIN);
                }
                None if file.is_nonblocking() => break,
                None => match rng.queue.wait_interruptible(|| rng.take(&mut bytes), None) {
                    Ok(n) => n,
                    Err(_) if sink.remaining() < asked => break,
                    Err(_) => return Err(Errno::ERESTARTSYS),
                },
            };
            let n = n.min(sink.remaining());
            sink.put_all(bytes.get(..n).unwrap_or(&[])).map_err(|_| Errno::EFAULT)?;
        }
        Ok(asked - sink.remaining())
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn offer_device_file() -> Result<()> {
    static IS_OFFERED: AtomicBool = AtomicBool::new(false);
    if IS_OFFERED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let dev = DeviceNumber::new(10, 183);
    vfs::dev::register_char(dev, 1, "misc", Arc::new(HwRng))?;
    vfs::dev::add_node(DeviceNode {
        name: "hwrng".into(),
        kind: FileKind::CharDevice,
        dev,
        mode: 0o600,
        class: "misc",
        attributes: alloc::vec::Vec::new(),
    });
    Ok(())
}
