//! The socket, and its face to the socket layer.

use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

use abi::poll::*;
use abi::socket::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, Once, SpinLock};
use arch::uio::{Sink, Source};
use sched::rcu::RcuArc;
use sched::{Mutex, WaitQueue};
use socket::interface::Scm;
use socket::{
    Address, Call, Common, Flag, Kind, NetNamespace, OptionIn, OptionOut, RecvMessage, SendMessage,
    Shutdown, Socket,
};
use vfs::{File, PollTable};

use crate::connect::Pending;
use crate::name::Bound;
use crate::packet::PacketInbox;
use crate::stream::StreamInbox;
use crate::{connect, listing, name, packet, rights, stream};

static CONTROL: LockClass = LockClass::new("unix.control", 207);
static INBOX: LockClass = LockClass::new("unix.inbox", 209);
static PENDING: LockClass = LockClass::new("unix.pending", 571);

/// Nothing is received any more.
pub(crate) const RECV_SHUT: u32 = 1;
/// Nothing is sent any more.
pub(crate) const SEND_SHUT: u32 = 2;
pub(crate) const BOTH_SHUT: u32 = RECV_SHUT | SEND_SHUT;
/// A stream or sequenced-packet socket that was connected.
pub(crate) const CONNECTED: u32 = 4;
/// Closed by its program.
pub(crate) const DEAD: u32 = 8;
/// The server's end of a connection that nobody has accepted yet.
pub(crate) const UNACCEPTED: u32 = 16;

/// Events of a queue that has something.
pub(crate) const READABLE: u32 = POLLIN | POLLRDNORM | POLLRDBAND;
/// Events of a queue that has room.
pub(crate) const WRITABLE: u32 = POLLOUT | POLLWRNORM | POLLWRBAND;

/// What has come and is not received yet.
pub(crate) enum Inbox {
    Stream(StreamInbox),
    Packets(PacketInbox),
}

/// A socket.
pub struct Unix {
    pub(crate) common: Common,
    pub(crate) this: Weak<Unix>,
    state: AtomicU32,
    pub(crate) inbox: Mutex<Inbox>,
    /// Bytes of a stream, packets of the others: what is in the inbox, for those who only look.
    pub(crate) unread: AtomicUsize,
    /// What counts against a sender's buffer: of a stream, what is in its inbox; of the others, the
    /// memory that packets of this sender take in inboxes.
    pub(crate) charged: AtomicUsize,
    pub(crate) peer: RcuArc<Unix>,
    /// Waits for data, connections, the end.
    pub(crate) readable: Arc<WaitQueue>,
    /// Waits for room to send into.
    pub(crate) writable: Arc<WaitQueue>,
    /// Others wait here for room in this inbox of packets, or in this listener's queue.
    pub(crate) room: Arc<WaitQueue>,
    /// Held while the name or the connection changes.
    pub(crate) control: Mutex<connect::Control>,
    pub(crate) pending: SpinLock<Pending>,
    pub(crate) bound: Once<Arc<Bound>>,
    pub(crate) file: Once<Weak<File>>,
    /// How often a descriptor of it is in flight.
    pub(crate) in_flight: AtomicUsize,
    /// How many datagrams wait at most for somebody who is not connected to their sender.
    pub(crate) packets_max: AtomicI32,
}

impl Unix {
    /// A socket that is nowhere and nobody's peer.
    pub fn new(namespace: &Arc<NetNamespace>, kind: Kind) -> Arc<Unix> {
        let inbox = match kind {
            Kind::Stream => Inbox::Stream(StreamInbox::new()),
            _ => Inbox::Packets(PacketInbox::new()),
        };
        let socket = Arc::new_cyclic(|this| Unix {
            common: Common::new(namespace, AF_UNIX, kind, 0),
            this: this.clone(),
            state: AtomicU32::new(0),
            inbox: Mutex::new(&INBOX, inbox),
            unread: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
            peer: RcuArc::new(None),
            readable: Arc::new(WaitQueue::new()),
            writable: Arc::new(WaitQueue::new()),
            room: Arc::new(WaitQueue::new()),
            control: Mutex::new(&CONTROL, connect::Control::default()),
            pending: SpinLock::new(&PENDING, Pending::default()),
            bound: Once::new(),
            file: Once::new(),
            in_flight: AtomicUsize::new(0),
            packets_max: AtomicI32::new(name::max_dgram_qlen(namespace)),
        });
        listing::add(&socket);
        socket
    }

    /// The socket of this family behind an interface.
    pub(crate) fn of(socket: &dyn Socket) -> Option<&Unix> {
        socket.as_any().downcast_ref()
    }

    pub(crate) fn state(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    pub(crate) fn add_state(&self, bits: u32) {
        self.state.fetch_or(bits, Ordering::AcqRel);
    }

    pub(crate) fn clear_state(&self, bits: u32) {
        self.state.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(crate) fn has(&self, bits: u32) -> bool {
        self.state() & bits != 0
    }

    pub(crate) fn is_connection(&self) -> bool {
        self.common.kind != Kind::Datagram
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.common.is_listening()
    }

    pub(crate) fn passes_credentials(&self) -> bool {
        self.common.options.has(Flag::PASSCRED)
    }

    /// Whether what comes here is to tell who sent it: whoever accepts the connection may still ask for it.
    pub(crate) fn takes_credentials(&self) -> bool {
        self.passes_credentials() || self.has(UNACCEPTED)
    }

    pub(crate) fn sndbuf(&self) -> usize {
        usize::try_from(self.common.options.sndbuf.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(crate) fn unread(&self) -> usize {
        // Acquire: who sees that something is there finds it under the lock.
        self.unread.load(Ordering::Acquire)
    }

    pub(crate) fn charged(&self) -> usize {
        self.charged.load(Ordering::Acquire)
    }

    /// Something came.
    #[inline]
    pub(crate) fn tell_reader(&self) {
        self.readable.notify_one(READABLE);
    }

    /// Everybody looks again: shut down, connected, closed.
    pub(crate) fn tell_all(&self) {
        self.readable.notify(0);
        self.writable.notify(0);
        self.room.notify(0);
    }

    /// Whether enough room is left to call the socket writable.
    fn is_writable(&self) -> bool {
        if self.is_listening() {
            return false;
        }
        let used = match self.common.kind {
            Kind::Stream => self.peer.get().map_or(0, |peer| peer.charged()),
            _ => self.charged(),
        };
        used.saturating_mul(4) <= self.sndbuf() && !packet::is_peer_full(self)
    }
}

impl Socket for Unix {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, call: &Call<'_>, address: &Address) -> Result<()> {
        name::bind(self, call, address)
    }

    fn listen(&self, _call: &Call<'_>, backlog: u32) -> Result<()> {
        connect::listen(self, backlog)
    }

    fn accept(&self, _call: &Call<'_>, nonblocking: bool) -> Result<Arc<dyn Socket>> {
        connect::accept(self, nonblocking).map(|socket| -> Arc<dyn Socket> { socket })
    }

    fn connect(&self, call: &Call<'_>, address: &Address, nonblocking: bool) -> Result<()> {
        connect::connect(self, call, address, nonblocking)
    }

    fn connect_queue(&self, call: &Call<'_>, address: &Address) -> Result<Option<Arc<WaitQueue>>> {
        Ok(Some(name::find(self, call, address)?.room.clone()))
    }

    fn send(&self, source: &mut Source<'_>, message: &mut SendMessage<'_>) -> Result<usize> {
        if self.common.kind == Kind::Stream {
            stream::send(self, source, message)
        } else {
            packet::send(self, source, message)
        }
    }

    fn recv(&self, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Result<usize> {
        if self.common.kind == Kind::Stream {
            stream::recv(self, sink, message)
        } else {
            packet::recv(self, sink, message)
        }
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        connect::shutdown(self, how);
        Ok(())
    }

    fn local_address(&self) -> Result<Address> {
        Ok(self.bound.get().map_or_else(name::unnamed, |bound| bound.address))
    }

    fn peer_address(&self) -> Result<Address> {
        let peer = self.peer.get().ok_or(Errno::ENOTCONN)?;
        peer.local_address()
    }

    fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32 {
        if let Some(table) = table {
            table.add(&self.readable);
            table.add(&self.writable);
        }
        let state = self.state();
        let mut events = 0;
        if self.common.has_error() {
            events |= POLLERR;
        }
        if state & BOTH_SHUT == BOTH_SHUT {
            events |= POLLHUP;
        }
        if state & RECV_SHUT != 0 {
            events |= POLLRDHUP | POLLIN | POLLRDNORM;
        }
        let has_input =
            if self.is_listening() { self.pending.lock().has_some() } else { self.unread() > 0 };
        if has_input {
            events |= POLLIN | POLLRDNORM;
        }
        if self.is_connection() && state & CONNECTED == 0 && !self.is_listening() {
            events |= POLLHUP;
        }
        if self.is_writable() {
            events |= WRITABLE;
        }
        events
    }

    fn set_socket_option(
        &self,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        match name {
            SO_PEEK_OFF => {
                self.common.options.peek_off.store(value.int()?, Ordering::Relaxed);
                Ok(())
            }
            // SO_REUSEPORT is for AF_INET, SO_ZEROCOPY for what the network takes from pages.
            SO_REUSEPORT => {
                if value.int()? != 0 {
                    Err(Errno::EOPNOTSUPP)
                } else {
                    Ok(())
                }
            }
            SO_ZEROCOPY => value.int().and(Err(Errno::EOPNOTSUPP)),
            _ => {
                socket::options::set(&self.common, call, name, value)?;
                if matches!(name, SO_SNDBUF | SO_SNDBUFFORCE) && self.is_writable() {
                    self.writable.notify(WRITABLE);
                }
                Ok(())
            }
        }
    }

    fn get_socket_option(
        &self,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionOut<'_>,
    ) -> Result<()> {
        match name {
            SO_PEEK_OFF => value.int(self.common.options.peek_off.load(Ordering::Relaxed)),
            SO_PEERNAME => {
                let address = self.peer_address()?;
                if address.len() < value.room() {
                    return Err(Errno::EINVAL);
                }
                value.bytes(address.bytes())
            }
            _ => socket::options::get(&self.common, call, name, value),
        }
    }

    fn queue_number(&self, cmd: u32) -> Result<usize> {
        Ok(match cmd {
            SIOCINQ if self.is_listening() => return Err(Errno::EINVAL),
            SIOCINQ => match &*self.inbox.lock() {
                Inbox::Stream(inbox) => inbox.bytes(),
                Inbox::Packets(inbox) if self.is_connection() => inbox.bytes(),
                Inbox::Packets(inbox) => inbox.first_len(),
            },
            SIOCOUTQ => match self.common.kind {
                Kind::Stream => self.peer.get().map_or(0, |peer| peer.unread()),
                _ => self.charged(),
            },
            _ => return Err(Errno::ENOIOCTLCMD),
        })
    }

    fn scm(&self) -> Scm {
        Scm::Rights
    }

    fn attached(&self, file: &Arc<File>) {
        self.file.call_once(|| Arc::downgrade(file));
    }

    fn release(&self) {
        connect::close(self, connect::Unread::Reset);
        rights::collect_later();
    }

    fn fdinfo(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        if !self.is_connection() {
            return Ok(());
        }
        let rights = match &*self.inbox.lock() {
            Inbox::Stream(inbox) => inbox.rights(),
            Inbox::Packets(inbox) => inbox.rights(),
        };
        writeln!(out, "scm_fds: {rights}")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        listing::remove(self);
    }
}
