//! The socket, and its face to the socket layer.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use abi::poll::*;
use abi::socket::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use netdevice::Interface;
use sched::timer::Timer;
use sched::{Mutex, WaitQueue};
use socket::{
    Address, Ancillary, Call, Common, Kind, NetNamespace, OptionIn, OptionOut, RecvMessage,
    SendMessage, Socket, filter,
};
use vfs::{MapArgs, PollTable};
use vm::MapSource;
use zerocopy::IntoBytes;

use crate::capture::{Captured, LinkAddress};
use crate::options::{Memberships, Settings};
use crate::ring::{Arrival, Outcome, RxRing};
use crate::table::{Seen, Table};
use crate::{Whom, options, send};

static CONTROL: LockClass = LockClass::new("packet.control", 209);
static BOUND: LockClass = LockClass::new("packet.bound", 543);
static QUEUE: LockClass = LockClass::new("packet.queue", 544);

/// What a socket listens to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bound {
    /// `ETH_P_*`; 0 listens to nothing.
    pub(crate) protocol: u16,
    /// The interface; 0 is all of them.
    pub(crate) index: u32,
    pub(crate) is_listening: bool,
}

#[derive(Default)]
pub(crate) struct Queue {
    frames: VecDeque<Arc<Captured>>,
    memory: usize,
    pub(crate) ring: Option<RxRing>,
}

/// A packet socket.
pub(crate) struct PacketSocket {
    pub(crate) common: Common,
    pub(crate) uid: u32,
    this: Weak<PacketSocket>,
    bound: SpinLock<Bound>,
    /// The interface it is bound to, for those who look without a lock.
    index: AtomicU32,
    is_down: AtomicBool,
    /// Held while what it is bound to or a membership changes.
    pub(crate) control: Mutex<Memberships>,
    pub(crate) queue: SpinLock<Queue>,
    /// Frames in the queue: read without the lock.
    waiting: AtomicUsize,
    readable: Arc<WaitQueue>,
    pub(crate) settings: Settings,
    /// Frames it got, and those that found no room.
    pub(crate) packets: AtomicU32,
    pub(crate) drops: AtomicU32,
    /// Closes blocks of the ring.
    timer: Arc<Timer>,
}

impl PacketSocket {
    /// A new socket; `protocol` is in network order.
    pub(crate) fn new(
        namespace: &Arc<NetNamespace>,
        kind: Kind,
        protocol: i32,
    ) -> Arc<PacketSocket> {
        let protocol = u16::from_be(protocol as u16);
        let socket = Arc::new_cyclic(|this: &Weak<PacketSocket>| {
            let weak = this.clone();
            // In an interrupt: a worker does it.
            let timer = Timer::new(move |_| {
                let weak = weak.clone();
                sched::work::queue(move || {
                    if let Some(socket) = weak.upgrade() {
                        socket.close_block();
                    }
                });
            });
            PacketSocket {
                common: Common::new(namespace, AF_PACKET, kind, 0),
                uid: socket::identity::current().map_or(0, |(_, creds)| creds.euid),
                this: this.clone(),
                bound: SpinLock::new(&BOUND, Bound::default()),
                index: AtomicU32::new(0),
                is_down: AtomicBool::new(false),
                control: Mutex::new(&CONTROL, Memberships::default()),
                queue: SpinLock::new(&QUEUE, Queue::default()),
                waiting: AtomicUsize::new(0),
                readable: Arc::new(WaitQueue::new()),
                settings: Settings::default(),
                packets: AtomicU32::new(0),
                drops: AtomicU32::new(0),
                timer,
            }
        });
        if let Some(table) = namespace.part::<Table>() {
            table.add(&socket);
        }
        let turn = socket.control.lock();
        socket.listen_to(Bound { protocol, index: 0, is_listening: protocol != 0 });
        drop(turn);
        socket
    }

    pub(crate) fn bound(&self) -> Bound {
        *self.bound.lock()
    }

    /// Whether it wants frames of an interface.
    #[inline]
    pub(crate) fn hears(&self, index: u32) -> bool {
        // Relaxed: a frame that comes while it is bound anew may be the last of the old ones.
        let own = self.index.load(Ordering::Relaxed);
        own == 0 || own == index
    }

    /// Memory that frames take.
    pub(crate) fn memory(&self) -> usize {
        self.queue.lock().memory
    }

    /// Listens to something else. Under the control's lock.
    fn listen_to(&self, new: Bound) {
        let Some(table) = self.common.namespace.part::<Table>() else { return };
        let old = core::mem::replace(&mut *self.bound.lock(), new);
        if old.is_listening {
            table.ignore(self, old.protocol);
        }
        self.index.store(new.index, Ordering::Relaxed);
        if new.is_listening
            && let Some(this) = self.this.upgrade()
        {
            table.listen(&this, new.protocol);
        }
    }

    /// Its interface went down, came up or is gone.
    pub(crate) fn interface_changed(&self, interface: &Interface, is_gone: bool) {
        if self.index.load(Ordering::Relaxed) != interface.index {
            return;
        }
        let is_down = is_gone || !interface.is_up();
        if self.is_down.swap(is_down, Ordering::SeqCst) != is_down && is_down {
            self.common.set_error(Errno::ENETDOWN);
            self.readable.notify(POLLERR);
        }
    }

    /// A frame goes through an interface it hears.
    pub(crate) fn take_in(&self, interface: &Interface, seen: &Seen<'_>, time_ns: u64) {
        if seen.whom == Whom::Outgoing && self.settings.ignores_outgoing() {
            return;
        }
        let is_raw = self.common.kind == Kind::Raw;
        let start = if is_raw { 0 } else { seen.link_len };
        let len = seen.bytes.len().saturating_sub(start);
        let asked = || bpf::Packet {
            start,
            end: seen.bytes.len(),
            network: seen.link_len,
            link: Some(0),
            protocol: seen.protocol(),
            kind: seen.whom as u8,
            interface: Some((interface.index, interface.kind())),
            ..filter::plain(&seen.bytes, 0, 0)
        };
        let Some(kept) = self.common.options.filter.pass(len, 0, asked) else { return };
        let (has_ring, is_full) = {
            let queue = self.queue.lock();
            (queue.ring.is_some(), queue.memory >= self.limit())
        };
        // Relaxed here and below: counters.
        let events = if has_ring {
            let frame = Arrival {
                bytes: seen.bytes,
                start,
                len,
                kept,
                link_len: seen.link_len,
                is_raw,
                address: LinkAddress::of_frame(interface, seen),
                status: seen.sum,
                time_ns,
                is_losing: self.drops.load(Ordering::Relaxed) > 0,
            };
            self.put_in_ring(&frame)
        } else if is_full {
            // Nothing is copied for it.
            self.drops.fetch_add(1, Ordering::Relaxed);
            false
        } else {
            let captured = Captured::new(interface, seen, (start, kept), time_ns);
            captured.is_some_and(|captured| self.push(captured))
        };
        if events {
            self.readable.wake_one();
            self.readable.tell(POLLIN | POLLRDNORM);
        }
    }

    /// Bytes that frames may take in the queue.
    fn limit(&self) -> usize {
        self.common.options.rcvbuf.load(Ordering::Relaxed).max(0) as usize
    }

    fn push(&self, captured: Captured) -> bool {
        let captured = Arc::new(captured);
        let mut queue = self.queue.lock();
        if queue.memory >= self.limit() {
            drop(queue);
            self.drops.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        queue.memory += captured.memory();
        queue.frames.push_back(captured);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.packets.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Whether the program is to be told.
    fn put_in_ring(&self, frame: &Arrival<'_>) -> bool {
        let mut queue = self.queue.lock();
        let Some(ring) = &mut queue.ring else { return false };
        let (outcome, open_ns) = (ring.put(frame), ring.open_ns);
        drop(queue);
        let counter = if outcome == Outcome::Lost { &self.drops } else { &self.packets };
        counter.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Outcome::Shown => true,
            Outcome::Lost => false,
            Outcome::Kept { is_first, has_closed } => {
                if is_first {
                    self.timer.arm(arch::time::now_ns().saturating_add(open_ns));
                }
                has_closed
            }
        }
    }

    /// The time of the block that is open is over.
    fn close_block(&self) {
        let has_closed = self.queue.lock().ring.as_mut().is_some_and(RxRing::expire);
        if has_closed {
            self.readable.wake_one();
            self.readable.tell(POLLIN | POLLRDNORM);
        }
    }

    fn pop(&self) -> Option<Arc<Captured>> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut queue = self.queue.lock();
        let first = queue.frames.pop_front()?;
        queue.memory = queue.memory.saturating_sub(first.memory());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        Some(first)
    }

    /// Forgets the frames of the queue.
    pub(crate) fn forget(&self) {
        while self.pop().is_some() {}
    }

    fn is_readable(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
            || self.queue.lock().ring.as_ref().is_some_and(RxRing::is_readable)
    }
}

impl Socket for PacketSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, _call: &Call<'_>, address: &Address) -> Result<()> {
        let given: LinkAddress = address.read()?;
        if given.family != AF_PACKET {
            return Err(Errno::EINVAL);
        }
        let interface = match given.index {
            0 => None,
            index => Some(self.devices()?.by_index(index as u32).ok_or(Errno::ENODEV)?),
        };
        let _turn = self.control.lock();
        let protocol = match u16::from_be(given.protocol) {
            0 => self.bound().protocol,
            protocol => protocol,
        };
        let is_down = interface.as_ref().is_some_and(|interface| !interface.is_up());
        self.is_down.store(is_down, Ordering::SeqCst);
        let index = interface.map_or(0, |interface| interface.index);
        self.listen_to(Bound { protocol, index, is_listening: protocol != 0 });
        if is_down {
            self.common.set_error(Errno::ENETDOWN);
            self.readable.notify(POLLERR);
        }
        Ok(())
    }

    fn send(&self, source: &mut Source<'_>, message: &mut SendMessage<'_>) -> Result<usize> {
        send::send(self, source, message)
    }

    fn recv(&self, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Result<usize> {
        let flags = message.flags;
        if flags & !(MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_ERRQUEUE) != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        let take = || {
            if flags & MSG_PEEK != 0 {
                self.queue.lock().frames.front().cloned()
            } else {
                self.pop()
            }
        };
        let ready = || {
            if self.common.has_error() {
                return self.common.take_error().map(Err);
            }
            take().map(Ok)
        };
        let patience = self.common.recv_patience(message.is_nonblocking());
        let frame = patience.wait(&self.readable, ready)??;
        let count = frame.put(sink)?;
        if count < frame.kept {
            message.result_flags |= MSG_TRUNC;
        }
        if message.wants_address {
            message.address = Address::from_struct(&frame.address);
        }
        if let Some(stamp) = socket::ancillary::stamp(&self.common, frame.time_ns) {
            message.give(stamp);
        }
        if self.settings.wants_auxiliary() {
            let data = frame.auxiliary().as_bytes().to_vec();
            message.give(Ancillary::Raw { level: SOL_PACKET, kind: options::AUXDATA, data });
        }
        Ok(if flags & MSG_TRUNC != 0 { frame.kept } else { count })
    }

    fn local_address(&self) -> Result<Address> {
        let bound = self.bound();
        let found = self.devices()?.by_index(bound.index);
        let (address, len) = match found {
            Some(interface) => (LinkAddress::of(&interface, bound.protocol), 18),
            None => {
                let index = bound.index as i32;
                let protocol = bound.protocol.to_be();
                (LinkAddress { family: AF_PACKET, protocol, index, ..LinkAddress::default() }, 12)
            }
        };
        Ok(Address::from_bytes(address.as_bytes().get(..len).unwrap_or_default()))
    }

    fn peer_address(&self) -> Result<Address> {
        Err(Errno::EOPNOTSUPP)
    }

    fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.readable);
        let mut events = POLLOUT | POLLWRNORM | POLLWRBAND;
        if self.common.has_error() {
            events |= POLLERR;
        }
        if self.is_readable() {
            events |= POLLIN | POLLRDNORM;
        }
        events
    }

    fn set_option(
        &self,
        _call: &Call<'_>,
        level: i32,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        if level != SOL_PACKET {
            return Err(Errno::ENOPROTOOPT);
        }
        options::set(self, name, value)
    }

    fn get_option(
        &self,
        _call: &Call<'_>,
        level: i32,
        name: i32,
        value: &mut OptionOut<'_>,
    ) -> Result<()> {
        if level != SOL_PACKET {
            return Err(Errno::ENOPROTOOPT);
        }
        options::get(self, name, value)
    }

    fn queue_number(&self, cmd: u32) -> Result<usize> {
        match cmd {
            SIOCINQ => Ok(self.queue.lock().frames.front().map_or(0, |frame| frame.kept)),
            SIOCOUTQ => Ok(0),
            _ => Err(Errno::ENOIOCTLCMD),
        }
    }

    fn mmap(&self, args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        let queue = self.queue.lock();
        let ring = queue.ring.as_ref().ok_or(Errno::EINVAL)?;
        ring.source(args.offset, args.len)
    }

    fn release(&self) {
        {
            let mut memberships = self.control.lock();
            self.listen_to(Bound::default());
            options::drop_all(self, &mut memberships);
        }
        if let Some(table) = self.common.namespace.part::<Table>() {
            table.remove(self);
        }
        self.timer.cancel();
        let ring = self.queue.lock().ring.take();
        drop(ring);
        self.forget();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
