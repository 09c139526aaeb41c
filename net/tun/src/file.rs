//! An open `/dev/net/tun`.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::poll::{POLLERR, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use netdevice::Interface;
use sched::Mutex;
use socket::NetNamespace;
use vfs::dev::{DeviceNode, DeviceOpen, Opened};
use vfs::{Context, DeviceNumber, File, FileKind, FileMode, FileOps, Inode, PollTable};

use crate::control;
use crate::device::Tun;
use crate::queue::Queue;
use crate::wire;

static CONTROL: LockClass = LockClass::new("tun.control", 208);
static ATTACHED: LockClass = LockClass::new("tun.attached", 545);

/// Held while files come to devices and go: who makes an interface, and who was its last file, is decided by one at a
/// time.
pub(crate) static TURN: Mutex<()> = Mutex::new(&CONTROL, ());

/// What a file is made for.
pub(crate) struct TunFile {
    /// Where its interface is made or found.
    pub(crate) namespace: Arc<NetNamespace>,
    /// The number that the interface is to have (`TUNSETIFINDEX`); 0 for any.
    pub(crate) index: AtomicU32,
    pub(crate) queue: Arc<Queue>,
    attached: SpinLock<Option<Arc<Tun>>>,
}

impl TunFile {
    pub(crate) fn new(namespace: Arc<NetNamespace>) -> TunFile {
        TunFile {
            namespace,
            index: AtomicU32::new(0),
            queue: Queue::new(),
            attached: SpinLock::new(&ATTACHED, None),
        }
    }

    /// The device it is a file of. `EBADFD` before `TUNSETIFF`, and after the interface is gone.
    pub(crate) fn tun(&self) -> Result<Arc<Tun>> {
        let attached = self.attached.lock().clone();
        attached.filter(|tun| !tun.is_gone()).ok_or(Errno::EBADFD)
    }

    /// It is a file of this device from now on.
    pub(crate) fn set_tun(&self, tun: &Arc<Tun>) {
        let old = self.attached.lock().replace(tun.clone());
        drop(old);
    }

    /// The device's interface.
    pub(crate) fn interface(&self) -> Result<Arc<Interface>> {
        self.tun()?.interface().ok_or(Errno::EBADFD)
    }

    /// Reads one packet.
    pub(crate) fn read(&self, is_nonblocking: bool, sink: &mut Sink<'_>) -> Result<usize> {
        let tun = self.tun()?;
        if sink.is_full() {
            return Ok(0);
        }
        let frame = match self.queue.pop() {
            Some(frame) => frame,
            None if is_nonblocking => return Err(Errno::EAGAIN),
            None => {
                let ready = || match self.queue.pop() {
                    Some(frame) => Some(Ok(frame)),
                    // As Linux does, whatever that has to do with addresses (case `tun-gone`).
                    None => tun.is_gone().then_some(Err(Errno::EFAULT)),
                };
                let waited = self.queue.changed.wait_interruptible(ready, None);
                waited.map_err(|_| Errno::ERESTARTSYS)??
            }
        };
        let count = wire::put(tun.format(), &frame, sink)?;
        if let Some(interface) = tun.interface() {
            interface.counters.sent(1, frame.len());
        }
        Ok(count)
    }

    /// Takes one packet in.
    pub(crate) fn write(&self, source: &mut Source<'_>) -> Result<usize> {
        let tun = self.tun()?;
        let len = source.remaining();
        let packet = wire::take(tun.format(), source)?;
        let interface = tun.interface().ok_or(Errno::EBADFD)?;
        if !interface.is_up() || self.queue.is_disabled.load(Ordering::Relaxed) {
            interface.counters.rx_dropped.fetch_add(1, Ordering::Relaxed);
            return Err(Errno::EIO);
        }
        interface.receive(&mut core::iter::once(packet));
        Ok(len)
    }

    /// `POLL*`.
    pub(crate) fn events(&self) -> u32 {
        let Ok(tun) = self.tun() else { return POLLERR };
        let mut events = if self.queue.is_empty() { 0 } else { POLLIN | POLLRDNORM };
        if tun.is_up() {
            events |= POLLOUT | POLLWRNORM;
        }
        events
    }

    /// The file is closed.
    pub(crate) fn close(&self) {
        let _turn = TURN.lock();
        let tun = self.attached.lock().take();
        if let Some(tun) = tun.filter(|tun| !tun.is_gone())
            && tun.detach(&self.queue)
        {
            tun.leave();
        }
        self.queue.clear();
    }
}

impl FileOps for TunFile {
    fn read_at(&self, file: &File, _: u64, sink: &mut Sink<'_>) -> Result<usize> {
        self.read(file.is_nonblocking(), sink)
    }

    fn write_at(&self, _: &File, _: u64, source: &mut Source<'_>) -> Result<usize> {
        self.write(source)
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.queue.changed);
        self.events()
    }

    fn ioctl(&self, _: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        control::ioctl(self, ctx, cmd, arg)
    }

    fn sends_signals(&self) -> bool {
        true
    }

    fn release(&self, _: &File) {
        self.close();
    }

    fn fdinfo(&self, _: &File, out: &mut dyn fmt::Write) -> fmt::Result {
        let name = self.interface().map(|interface| interface.name()).unwrap_or_default();
        writeln!(out, "iff:\t{name}")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Opener;

impl DeviceOpen for Opener {
    fn open(&self, _: DeviceNumber, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Opened> {
        let namespace = socket::identity::network().ok_or(Errno::ENODEV)?;
        // Positions mean nothing, but calls that have one are fine.
        Ok(Opened { ops: Arc::new(TunFile::new(namespace)), mode: FileMode::POSITIONAL })
    }
}

/// Offers `/dev/net/tun`; `random` makes addresses. Once, at start-up.
pub fn init(random: fn() -> u64) -> Result<()> {
    control::set_random(random);
    // Documentation/admin-guide/devices.txt: misc, 200.
    let dev = DeviceNumber::new(10, 200);
    vfs::dev::register_char(dev, 1, "misc", Arc::new(Opener))?;
    vfs::dev::add_node(DeviceNode {
        name: "net/tun".into(),
        kind: FileKind::CharDevice,
        dev,
        mode: 0o600,
        class: "misc",
        attributes: alloc::vec::Vec::new(),
    });
    Ok(())
}
