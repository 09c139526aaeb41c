//! Ports as byte streams: `/dev/vport1p2`.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use core::any::Any;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use spin::Once;
use vfs::dev::{DeviceNode, DeviceOpen, Opened};
use vfs::poll::{POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM, PollTable};
use vfs::{Context, DeviceNumber, File, FileKind, FileMode, FileOps, Inode};

use super::port::Port;
use super::ring::SLOT;

static REGISTRY: LockClass = LockClass::new("virtio.ports", 547);

/// Ports by minor number.
static PORTS: SpinLock<BTreeMap<u32, Arc<Port>>> = SpinLock::new(&REGISTRY, BTreeMap::new());

/// Bits of a minor number that count the ports of a device.
const PORT_BITS: u32 = 9;
/// Minor numbers.
const MINORS: u32 = 1 << 20;

/// The ports' major number; registers it at first.
fn major() -> u32 {
    static MAJOR: Once<u32> = Once::new();
    *MAJOR.call_once(|| {
        let major = vfs::dev::dynamic_major();
        let first = DeviceNumber::new(major, 0);
        if let Err(error) =
            vfs::dev::register_char(first, MINORS, "virtio-portsdev", Arc::new(Opener))
        {
            log::error!("virtio console: major number {major}: {error}");
        }
        major
    })
}

fn dev_of(port: &Port) -> DeviceNumber {
    DeviceNumber::new(major(), (port.id.device << PORT_BITS | port.id.port) % MINORS)
}

/// Makes a port appear in `/dev`. More than once does no harm.
pub(super) fn add(port: &Arc<Port>) {
    let dev = dev_of(port);
    if PORTS.lock().insert(dev.minor(), port.clone()).is_none() {
        vfs::dev::add_node(DeviceNode {
            name: format!("vport{}p{}", port.id.device, port.id.port),
            kind: FileKind::CharDevice,
            dev,
            mode: 0o600,
            class: "virtio-ports",
            attributes: vec![],
        });
    }
}

pub(super) fn remove(port: &Port) {
    let dev = dev_of(port);
    if PORTS.lock().remove(&dev.minor()).is_some() {
        vfs::dev::remove_node(FileKind::CharDevice, dev);
    }
}

/// The host's name of a port becomes an attribute in `/sys`.
pub(super) fn name(port: &Port, name: &[u8]) {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    vfs::dev::set_attribute(FileKind::CharDevice, dev_of(port), "name", name);
}

struct Opener;

impl DeviceOpen for Opener {
    fn open(&self, dev: DeviceNumber, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Opened> {
        let port = PORTS.lock().get(&dev.minor()).cloned().ok_or(Errno::ENXIO)?;
        if port.is_terminal() {
            return Err(Errno::ENXIO);
        }
        if port.is_open.swap(true, Ordering::AcqRel) {
            return Err(Errno::EBUSY);
        }
        port.tell_open(true);
        Ok(Opened { ops: Arc::new(OpenPort(port)), mode: FileMode::empty() })
    }
}

/// A port that a program has open.
struct OpenPort(Arc<Port>);

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.0.tell_open(false);
        // What was for this program is not for the next.
        self.0.discard();
        self.0.is_open.store(false, Ordering::Release);
    }
}

impl OpenPort {
    fn is_live(&self) -> bool {
        self.0.is_live.load(Ordering::Acquire)
    }

    fn is_connected(&self) -> bool {
        self.0.is_connected.load(Ordering::Acquire)
    }

    /// Some input; none when the other side is not there.
    fn take(&self, bytes: &mut [u8]) -> Option<usize> {
        let mut input = self.0.input.lock();
        let n = input.peek(bytes);
        input.consume(n);
        (n > 0 || !self.is_connected()).then_some(n)
    }
}

impl FileOps for OpenPort {
    /// What is there, at most a buffer of the device's; the end when the other side is not there.
    fn read_at(&self, file: &File, _: u64, sink: &mut Sink<'_>) -> Result<usize> {
        if !self.is_live() {
            return Err(Errno::ENODEV);
        }
        let mut bytes = [0; SLOT];
        let len = sink.remaining().min(SLOT);
        let room = bytes.get_mut(..len).unwrap_or_default();
        if room.is_empty() {
            return Ok(0);
        }
        let n = match self.take(room) {
            Some(n) => n,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self
                .0
                .changed
                .wait_interruptible(|| self.take(room), None)
                .map_err(|_| Errno::ERESTARTSYS)?,
        };
        sink.put_all(room.get(..n).unwrap_or_default()).map_err(|_| Errno::EFAULT)?;
        Ok(n)
    }

    /// Waits for the other side, and for room.
    fn write_at(&self, file: &File, _: u64, source: &mut Source<'_>) -> Result<usize> {
        if source.remaining() == 0 {
            return Ok(0);
        }
        let has_room = || {
            let is_ready = self.is_connected() && self.0.output.lock().room() > 0;
            (is_ready || !self.is_live()).then_some(())
        };
        if has_room().is_none() {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            self.0.changed.wait_interruptible(has_room, None).map_err(|_| Errno::ERESTARTSYS)?;
        }
        if !self.is_live() {
            return Err(Errno::ENODEV);
        }
        let mut bytes = [0; SLOT];
        let len = source.remaining().min(SLOT);
        let part = bytes.get_mut(..len).unwrap_or_default();
        let taken = source.take(part).map_err(|_| Errno::EFAULT)?;
        let part = part.get(..taken).unwrap_or_default();
        Ok(self.0.output.lock().write(part))
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.0.changed);
        if !self.is_live() {
            return POLLHUP;
        }
        let mut events = 0;
        if !self.0.input.lock().is_empty() {
            events |= POLLIN | POLLRDNORM;
        }
        if !self.is_connected() {
            events |= POLLHUP;
        } else if self.0.output.lock().room() > 0 {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
