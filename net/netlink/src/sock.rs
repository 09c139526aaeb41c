//! The socket.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering;

use abi::poll::*;
use abi::socket::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use sched::WaitQueue;
use socket::{
    Address, Ancillary, Call, Common, Cred, Flag, Kind, NetNamespace, OptionIn, OptionOut,
    RecvMessage, Scm, SendMessage, Socket, filter, identity, packet_memory,
};
use vfs::{Cap, PollTable};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{AUDIT, kernel, ports};

static STATE: LockClass = LockClass::new("netlink.socket", 568);

/// `struct sockaddr_nl`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SockAddr {
    family: u16,
    pad: u16,
    port: u32,
    groups: u32,
}

const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const PKTINFO: i32 = 3;
const BROADCAST_ERROR: i32 = 4;
const NO_ENOBUFS: i32 = 5;
const LISTEN_ALL_NSID: i32 = 8;
const LIST_MEMBERSHIPS: i32 = 9;
const CAP_ACK: i32 = 10;
const EXT_ACK: i32 = 11;
const GET_STRICT_CHK: i32 = 12;
/// Groups of a protocol end here.
const GROUPS_MAX: u32 = 1024;
/// A dump is passed on in pieces as large as the program's buffer, but no smaller and no larger than
/// these. The former, as on Linux, leaves some of a page of 4096 bytes.
const PIECE_MIN: usize = 3776;
const PIECE_MAX: usize = 16 * 1024;

/// A message on its way to a program.
pub(crate) struct Incoming {
    pub(crate) bytes: Vec<u8>,
    pub(crate) port: u32,
    pub(crate) group: u32,
    pub(crate) cred: Cred,
}

/// What is left of a dump: finished messages, the last of which says that it is over.
pub(crate) type Dump = Box<dyn Iterator<Item = Vec<u8>> + Send + Sync>;

#[derive(Default)]
struct State {
    queue: VecDeque<Incoming>,
    /// The memory that counts against the buffer.
    used: usize,
    is_closed: bool,
    port: u32,
    is_bound: bool,
    groups: BTreeSet<u32>,
    to_port: u32,
    to_groups: u32,
    dump: Option<core::iter::Peekable<Dump>>,
    /// The largest buffer that the program has received into.
    room: usize,
    options: BTreeSet<i32>,
}

impl State {
    fn push(&mut self, message: Incoming) {
        self.used += packet_memory(message.bytes.len());
        self.queue.push_back(message);
    }
}

/// A socket.
pub struct Netlink {
    common: Common,
    pub(crate) this: Weak<Netlink>,
    queue: Arc<WaitQueue>,
    /// Senders wait here for room in this socket's queue.
    room: WaitQueue,
    state: SpinLock<State>,
}

impl Netlink {
    pub(crate) fn new(namespace: &Arc<NetNamespace>, kind: Kind, protocol: i32) -> Arc<Netlink> {
        Arc::new_cyclic(|this| Netlink {
            common: Common::new(namespace, AF_NETLINK, kind, protocol),
            this: this.clone(),
            queue: Arc::new(WaitQueue::new()),
            room: WaitQueue::new(),
            state: SpinLock::new(&STATE, State::default()),
        })
    }

    pub(crate) fn protocol(&self) -> i32 {
        self.common.protocol
    }

    pub(crate) fn ino(&self) -> u64 {
        self.common.ino
    }

    pub(crate) fn namespace(&self) -> &Arc<NetNamespace> {
        &self.common.namespace
    }

    pub(crate) fn has_option(&self, name: i32) -> bool {
        self.state.lock().options.contains(&name)
    }

    pub(crate) fn caps_acknowledgements(&self) -> bool {
        self.has_option(CAP_ACK)
    }

    /// Whether a message of `len` bytes fits: one does always.
    fn has_room(&self, state: &State, len: usize) -> bool {
        let limit = usize::try_from(self.common.options.rcvbuf.load(Ordering::Relaxed));
        state.used == 0 || state.used.saturating_add(packet_memory(len)) <= limit.unwrap_or(0)
    }

    /// Whether the filter lets a message pass, which may be cut.
    fn passes(&self, bytes: &mut Vec<u8>) -> bool {
        let (len, protocol) = (bytes.len(), self.protocol() as u16);
        let passed = {
            let bytes = bytes.as_slice();
            self.common.options.filter.pass(len, 1, || filter::plain(&bytes, len, protocol))
        };
        bytes.truncate(passed.unwrap_or(0));
        passed.is_some()
    }

    /// Queues a message; gives it back if there is no room. `ECONNREFUSED` when the socket is closed.
    fn offer(&self, message: Incoming) -> Result<Option<Incoming>> {
        let mut message = message;
        if !self.passes(&mut message.bytes) {
            // What a filter drops is lost without a word.
            return Ok(None);
        }
        {
            let mut state = self.state.lock();
            if state.is_closed {
                return Err(Errno::ECONNREFUSED);
            }
            if !self.has_room(&state, message.bytes.len()) {
                return Ok(Some(message));
            }
            state.push(message);
        }
        self.queue.notify_one(POLLIN | POLLRDNORM);
        Ok(None)
    }

    /// Queues a message; one too many is lost, and that is told.
    pub(crate) fn deliver(&self, message: Incoming) {
        let is_lost = matches!(self.offer(message), Ok(Some(_)));
        if is_lost && !self.has_option(NO_ENOBUFS) {
            self.common.set_error(Errno::ENOBUFS);
            self.queue.notify(POLLERR);
        }
    }

    /// Queues a message of another program, which waits for room.
    fn deliver_from(&self, sender: &Common, message: Incoming, nonblocking: bool) -> Result<()> {
        let mut patience = None;
        let mut message = message;
        while let Some(refused) = self.offer(message)? {
            let patience = patience.get_or_insert_with(|| sender.send_patience(nonblocking));
            patience.wait(&self.room, || {
                let state = self.state.lock();
                (state.is_closed || self.has_room(&state, refused.bytes.len())).then_some(())
            })?;
            message = refused;
        }
        Ok(())
    }

    /// An answer of the kernel.
    pub(crate) fn answer(&self, bytes: Vec<u8>) {
        self.deliver(Incoming { bytes, port: 0, group: 0, cred: kernel_cred() });
    }

    /// Starts a dump; `EBUSY` while one goes on.
    pub(crate) fn start_dump(&self, dump: Dump) -> Result<()> {
        {
            let mut state = self.state.lock();
            if state.dump.is_some() {
                return Err(Errno::EBUSY);
            }
            state.dump = Some(dump.peekable());
        }
        self.queue.notify_one(POLLIN | POLLRDNORM);
        Ok(())
    }

    /// Gives the socket a port if it has none.
    fn bind_any(&self) -> Result<u32> {
        {
            let state = self.state.lock();
            if state.is_bound {
                return Ok(state.port);
            }
        }
        let ports = ports::of(self.namespace())?;
        let process = identity::current().map_or(0, |(who, _)| identity::number(&who));
        let port = ports.take_any(self, u32::try_from(process).unwrap_or(0))?;
        Ok(match self.set_port(port) {
            None => port,
            // Another thread was faster.
            Some(own) => {
                ports.give_back(self, port);
                own
            }
        })
    }

    /// Notes the port that was taken, unless there is one already: which.
    fn set_port(&self, port: u32) -> Option<u32> {
        let mut state = self.state.lock();
        if state.is_bound {
            return Some(state.port);
        }
        (state.port, state.is_bound) = (port, true);
        None
    }

    fn read_address(address: &Address) -> Result<SockAddr> {
        let read: SockAddr = address.read()?;
        if read.family != AF_NETLINK { Err(Errno::EINVAL) } else { Ok(read) }
    }

    /// Who may listen to groups: everybody, but to audit records.
    fn may_listen(&self, call: &Call<'_>) -> Result<()> {
        if self.protocol() != AUDIT || call.creds().capable(Cap::AUDIT_READ) {
            return Ok(());
        }
        Err(Errno::EPERM)
    }

    /// Who may send to others than the kernel: who administers the namespace.
    fn may_send(&self, call: Option<&Call<'_>>, to: &SockAddr) -> Result<()> {
        let user_ns = &self.namespace().user_ns;
        let is_admin = call.is_none_or(|call| call.creds().ns_capable(user_ns, Cap::NET_ADMIN));
        if is_admin || (to.port, to.groups) == (0, 0) { Ok(()) } else { Err(Errno::EPERM) }
    }

    pub(crate) fn join(&self, group: u32) -> Result<()> {
        ports::of(self.namespace())?.join(self, group);
        Ok(())
    }

    pub(crate) fn leave(&self, group: u32) -> Result<()> {
        ports::of(self.namespace())?.leave(self, group);
        Ok(())
    }

    /// Notes that the socket is a member of a group or is not, as the tables have it, whose lock is held.
    pub(crate) fn note_group(&self, group: u32, is_member: bool) {
        let mut state = self.state.lock();
        if is_member {
            state.groups.insert(group);
        } else {
            state.groups.remove(&group);
        }
    }

    /// The next message for a buffer of `room` bytes: a queued one, or a piece of the dump.
    fn next(&self, room: usize, is_peek: bool) -> Option<Incoming> {
        let mut state = self.state.lock();
        state.room = state.room.max(room);
        if state.queue.is_empty() && state.dump.is_some() {
            let limit = state.room.clamp(PIECE_MIN, PIECE_MAX);
            let mut bytes = take_piece(&mut state.dump, limit);
            while !self.passes(&mut bytes) {
                state.dump.as_ref()?;
                bytes = take_piece(&mut state.dump, limit);
            }
            state.push(Incoming { bytes, port: 0, group: 0, cred: kernel_cred() });
        }
        if is_peek {
            let first = state.queue.front()?;
            return Some(Incoming {
                bytes: first.bytes.clone(),
                port: first.port,
                group: first.group,
                cred: first.cred.clone(),
            });
        }
        let first = state.queue.pop_front()?;
        state.used = state.used.saturating_sub(packet_memory(first.bytes.len()));
        drop(state);
        self.room.wake_all();
        Some(first)
    }

    fn has_input(&self) -> bool {
        let state = self.state.lock();
        !state.queue.is_empty() || state.dump.is_some()
    }
}

fn kernel_cred() -> Cred {
    Cred { who: None, uid: 0, gid: 0 }
}

/// As many messages as fit into `limit` bytes, one at least; the dump is over when none is left.
fn take_piece(dump: &mut Option<core::iter::Peekable<Dump>>, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(messages) = dump {
        while let Some(next) = messages.peek() {
            if !bytes.is_empty() && bytes.len() + next.len() > limit {
                return bytes;
            }
            if let Some(next) = messages.next() {
                bytes.extend_from_slice(&next);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
        }
    }
    *dump = None;
    bytes
}

impl Socket for Netlink {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, call: &Call<'_>, address: &Address) -> Result<()> {
        let wanted = Self::read_address(address)?;
        if wanted.groups != 0 {
            self.may_listen(call)?;
        }
        let bound = {
            let state = self.state.lock();
            state.is_bound.then_some(state.port)
        };
        match (bound, wanted.port) {
            (Some(port), wanted) if port != wanted => return Err(Errno::EINVAL),
            (Some(_), _) => {}
            (None, 0) => {
                self.bind_any()?;
            }
            (None, port) => {
                let ports = ports::of(self.namespace())?;
                ports.take(self, port)?;
                if self.set_port(port).is_some() {
                    ports.give_back(self, port);
                    return Err(Errno::EINVAL);
                }
            }
        }
        // The first 32 groups are as the mask says.
        for group in 1..=u32::BITS {
            let is_member = self.state.lock().groups.contains(&group);
            match (wanted.groups & 1 << (group - 1) != 0, is_member) {
                (true, false) => self.join(group)?,
                (false, true) => self.leave(group)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn connect(&self, call: &Call<'_>, address: &Address, _nonblocking: bool) -> Result<()> {
        if address.len() < 2 {
            return Err(Errno::EINVAL);
        }
        if address.family() == AF_UNSPEC {
            let mut state = self.state.lock();
            (state.to_port, state.to_groups) = (0, 0);
            return Ok(());
        }
        let to = Self::read_address(address)?;
        self.may_send(Some(call), &to)?;
        self.bind_any()?;
        let mut state = self.state.lock();
        (state.to_port, state.to_groups) = (to.port, to.groups);
        Ok(())
    }

    fn send(&self, source: &mut Source<'_>, message: &mut SendMessage<'_>) -> Result<usize> {
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (to_port, to_groups) = match message.address {
            Some(address) => {
                let to = Self::read_address(address)?;
                self.may_send(message.call, &to)?;
                (to.port, to.groups)
            }
            None => {
                let state = self.state.lock();
                (state.to_port, state.to_groups)
            }
        };
        let port = self.bind_any()?;
        let len = source.remaining();
        let limit = self.common.options.sndbuf.load(Ordering::Relaxed).saturating_sub(32);
        if len > usize::try_from(limit).unwrap_or(0) {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(len, 0);
        source.take_all(&mut bytes)?;
        let cred = message.control.iter().find_map(|control| match control {
            Ancillary::Credentials(cred) => Some(cred.clone()),
            _ => None,
        });
        let cred = cred.unwrap_or_else(Cred::current);
        if to_groups != 0 {
            let group = to_groups.trailing_zeros() + 1;
            for member in ports::of(self.namespace())?.members(self.protocol(), group) {
                if !core::ptr::eq(&*member, self) {
                    let (bytes, cred) = (bytes.clone(), cred.clone());
                    member.deliver(Incoming { bytes, port, group, cred });
                }
            }
        }
        if to_port == 0 {
            kernel::receive(self, port, &bytes);
            return Ok(len);
        }
        let to = ports::of(self.namespace())?.find(self.protocol(), to_port);
        let to = to.ok_or(Errno::ECONNREFUSED)?;
        let nonblocking = message.is_nonblocking();
        to.deliver_from(&self.common, Incoming { bytes, port, group: 0, cred }, nonblocking)?;
        Ok(len)
    }

    fn recv(&self, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Result<usize> {
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let is_peek = message.flags & MSG_PEEK != 0;
        let mut patience = None;
        let incoming = loop {
            self.common.check_error()?;
            if let Some(incoming) = self.next(sink.remaining(), is_peek) {
                break incoming;
            }
            let nonblocking = message.is_nonblocking();
            let patience = patience.get_or_insert_with(|| self.common.recv_patience(nonblocking));
            patience.wait(&self.queue, || {
                (self.has_input() || self.common.has_error()).then_some(())
            })?;
        };
        let count = incoming.bytes.len().min(sink.remaining());
        sink.put_all(incoming.bytes.get(..count).unwrap_or_default())?;
        if count < incoming.bytes.len() {
            message.result_flags |= MSG_TRUNC;
        }
        let groups = if incoming.group == 0 { 0 } else { 1 << ((incoming.group - 1) & 31) };
        message.address = Address::from_struct(&SockAddr {
            family: AF_NETLINK,
            pad: 0,
            port: incoming.port,
            groups,
        });
        if self.has_option(PKTINFO) && message.wants_control {
            let data = incoming.group.to_ne_bytes().to_vec();
            message.control.push(Ancillary::Raw { level: SOL_NETLINK, kind: PKTINFO, data });
        }
        if self.common.options.has(Flag::PASSCRED) {
            message.give(Ancillary::Credentials(incoming.cred));
        }
        Ok(if message.flags & MSG_TRUNC != 0 { incoming.bytes.len() } else { count })
    }

    fn local_address(&self) -> Result<Address> {
        let state = self.state.lock();
        let low = state.groups.range(1..=u32::BITS);
        let groups = low.fold(0, |mask, group| mask | 1 << (group - 1));
        Ok(Address::from_struct(&SockAddr { family: AF_NETLINK, pad: 0, port: state.port, groups }))
    }

    fn peer_address(&self) -> Result<Address> {
        let state = self.state.lock();
        let (port, groups) = (state.to_port, state.to_groups);
        Ok(Address::from_struct(&SockAddr { family: AF_NETLINK, pad: 0, port, groups }))
    }

    fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.queue);
        let mut events = POLLOUT | POLLWRNORM | POLLWRBAND;
        if self.has_input() {
            events |= POLLIN | POLLRDNORM;
        }
        if self.common.has_error() {
            events |= POLLERR;
        }
        events
    }

    fn set_option(
        &self,
        call: &Call<'_>,
        level: i32,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let value = value.int()?;
        match name {
            ADD_MEMBERSHIP | DROP_MEMBERSHIP => {
                self.may_listen(call)?;
                let group = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
                if group == 0 || group > GROUPS_MAX {
                    return Err(Errno::EINVAL);
                }
                if name == ADD_MEMBERSHIP { self.join(group) } else { self.leave(group) }
            }
            LISTEN_ALL_NSID if !call.creds().capable(Cap::NET_ADMIN) => Err(Errno::EPERM),
            PKTINFO | BROADCAST_ERROR | NO_ENOBUFS | LISTEN_ALL_NSID | CAP_ACK | EXT_ACK
            | GET_STRICT_CHK => {
                let mut state = self.state.lock();
                if value != 0 {
                    state.options.insert(name);
                } else {
                    state.options.remove(&name);
                }
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn get_option(
        &self,
        _call: &Call<'_>,
        level: i32,
        name: i32,
        value: &mut OptionOut<'_>,
    ) -> Result<()> {
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        match name {
            PKTINFO | BROADCAST_ERROR | NO_ENOBUFS | LISTEN_ALL_NSID | CAP_ACK | EXT_ACK
            | GET_STRICT_CHK => {
                if value.room() < size_of::<i32>() {
                    return Err(Errno::EINVAL);
                }
                value.int(i32::from(self.has_option(name)))
            }
            LIST_MEMBERSHIPS => {
                let mut words = Vec::new();
                for group in &self.state.lock().groups {
                    let (word, bit) = ((group - 1) as usize / 32, (group - 1) % 32);
                    words.resize(words.len().max(word + 1), 0u32);
                    if let Some(word) = words.get_mut(word) {
                        *word |= 1 << bit;
                    }
                }
                value.bytes(words.as_bytes())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn scm(&self) -> Scm {
        Scm::Credentials
    }

    fn release(&self) {
        let (port, groups) = {
            let mut state = self.state.lock();
            (state.is_bound.then_some(state.port), core::mem::take(&mut state.groups))
        };
        if let Ok(ports) = ports::of(self.namespace()) {
            port.into_iter().for_each(|port| ports.give_back(self, port));
            groups.into_iter().for_each(|group| ports.leave(self, group));
        }
        let closed = State { is_closed: true, ..State::default() };
        let dropped = core::mem::replace(&mut *self.state.lock(), closed);
        drop(dropped);
        self.room.wake_all();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
