//! Raw sockets (raw(7)) and the sockets for echo requests (`SOCK_DGRAM` with `IPPROTO_ICMP`, icmp(7)).

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use abi::poll::*;
use abi::socket::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, RwSpinLock, SpinLock};
use arch::uio::{Sink, Source};
use netdevice::{Destination, Endpoint, Ip, Sum};
use smoltcp::wire::Ipv4Packet;
use socket::{
    Address, Call, Common, Flag, Kind, OptionIn, OptionOut, RecvMessage, SendMessage, Shutdown,
    Socket,
};
use vfs::PollTable;
use zerocopy::IntoBytes;

use crate::errors::{Errors, Told};
use crate::family::IPPROTO_UDP;
use crate::icmp;
use crate::ipopts::{IpOptions, want};
use crate::sockaddr::{self, Reader};
use crate::stack::{Inet, knob};
use crate::udp::datagram::{self, Datagram, Payload, Queue};

static SOCKETS: LockClass = LockClass::new("inet.raw", 530);
static STATE: LockClass = LockClass::new("inet.raw_socket", 522);

const IPPROTO_ICMP: i32 = 1;
const IPPROTO_ICMPV6: i32 = 58;
const IPPROTO_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
/// RFC 3542 §3.2, §3.1.
const ICMP6_FILTER: i32 = 1;
const IPV6_CHECKSUM: i32 = 7;
/// Where the sum of ICMPv6 is.
const ICMP6_SUM: i32 = 2;

#[derive(Default)]
struct Sockets {
    by_protocol: BTreeMap<i32, Vec<Arc<RawSocket>>>,
    /// Those for echo requests, by identifier.
    by_ident: BTreeMap<u16, Arc<RawSocket>>,
}

/// The raw sockets of a namespace, and those for echo requests.
pub(crate) struct Raw {
    sockets: RwSpinLock<Sockets>,
}

impl Default for Raw {
    fn default() -> Self {
        Raw { sockets: RwSpinLock::new(&SOCKETS, Sockets::default()) }
    }
}

#[derive(Clone, Copy, Default)]
struct Inner {
    local: Option<Ip>,
    /// Of a socket for echo requests: their identifier.
    ident: u16,
    remote: Option<Endpoint>,
    is_deaf: bool,
    is_mute: bool,
    /// `ICMP6_FILTER`: a bit for each type that is not wanted.
    blocked6: [u32; 8],
}

/// A raw socket, or one for echo requests.
pub(crate) struct RawSocket {
    common: Common,
    inet: Arc<Inet>,
    this: Weak<RawSocket>,
    is_v6: bool,
    queue: Queue,
    errors: Errors,
    inner: SpinLock<Inner>,
    /// `ICMP_FILTER`: types that are not wanted.
    filter: AtomicU32,
    /// `IPV6_CHECKSUM`: where in what is sent the sum belongs; negative for no sum.
    sum_at: AtomicI32,
    ip: IpOptions,
}

impl RawSocket {
    /// A new socket.
    pub(crate) fn create(inet: &Arc<Inet>, common: Common) -> Arc<RawSocket> {
        let is_icmp6 = common.family == AF_INET6 && common.protocol == IPPROTO_ICMPV6;
        let socket = Arc::new_cyclic(|this| RawSocket {
            is_v6: common.family == AF_INET6,
            common,
            inet: inet.clone(),
            this: this.clone(),
            queue: Queue::new(),
            errors: Errors::default(),
            inner: SpinLock::new(&STATE, Inner::default()),
            filter: AtomicU32::new(0),
            sum_at: AtomicI32::new(if is_icmp6 { ICMP6_SUM } else { -1 }),
            ip: IpOptions::new(&inet.knobs),
        });
        if socket.common.kind == Kind::Raw {
            let mut all = inet.raw.sockets.write();
            all.by_protocol.entry(socket.common.protocol).or_default().push(socket.clone());
        }
        socket
    }

    fn is_ping(&self) -> bool {
        self.common.kind == Kind::Datagram
    }

    /// Whether it has the options of ICMPv6.
    fn is_icmp6(&self) -> bool {
        self.is_v6 && !self.is_ping() && self.common.protocol == IPPROTO_ICMPV6
    }

    /// Computes the sum a program wants in what it sends.
    fn put_sum(&self, bytes: &mut [u8], from: Ip, to: Ip) -> Result<()> {
        let Ok(at) = usize::try_from(self.sum_at.load(Ordering::Relaxed)) else { return Ok(()) };
        let protocol = self.common.protocol as u8;
        let mut sum = Sum::pseudo(from, to, protocol, bytes.len());
        let place = at.checked_add(2).and_then(|end| bytes.get_mut(at..end));
        place.ok_or(Errno::EINVAL)?.fill(0);
        sum.add(bytes);
        let value = match !sum.folded() {
            0 if self.common.protocol == IPPROTO_UDP => 0xffff,
            value => value,
        };
        if let Some([high, low]) = bytes.get_mut(at..at + 2) {
            [*high, *low] = value.to_be_bytes();
        }
        Ok(())
    }

    /// Whether the sum is right, or none is wanted.
    fn trusts(&self, packet: &Packet<'_>) -> bool {
        if !self.is_v6 || self.sum_at.load(Ordering::Relaxed) < 0 {
            return true;
        }
        let mut sum = Sum::pseudo(packet.from, packet.to, packet.protocol, packet.payload.len());
        sum.add(packet.payload);
        sum.folded() == 0xffff
    }

    fn reader(&self) -> Reader {
        if self.is_v6 { Reader::V6 { only: true } } else { Reader::V4 }
    }

    /// Both ends and the load, for `/proc/net/raw`.
    pub(crate) fn ends(&self) -> (Ip, Option<Ip>, usize) {
        let inner = *self.inner.lock();
        let any = if self.is_v6 { Ip::ANY6 } else { Ip::ANY4 };
        (inner.local.unwrap_or(any), inner.remote.map(|r| r.ip), self.queue.weight())
    }

    /// Gives a socket for echo requests an identifier that no other has.
    fn need_ident(&self, wanted: u16) -> Result<u16> {
        let mut inner = self.inner.lock();
        if inner.ident != 0 {
            return Ok(inner.ident);
        }
        let mut all = self.inet.raw.sockets.write();
        let is_taken = |ident: &u16| all.by_ident.contains_key(ident);
        let ident = match wanted {
            0 => (1..=u16::MAX)
                .map(|step| step.wrapping_add(self.common.ino as u16).max(1))
                .find(|ident| !is_taken(ident))
                .ok_or(Errno::EADDRINUSE)?,
            wanted if is_taken(&wanted) => return Err(Errno::EADDRINUSE),
            wanted => wanted,
        };
        inner.ident = ident;
        if let Some(this) = self.this.upgrade() {
            all.by_ident.insert(ident, this);
        }
        Ok(ident)
    }

    fn wants(&self, from: Ip, to: Ip) -> bool {
        let inner = *self.inner.lock();
        self.is_v6 != to.is_v4()
            && inner.local.is_none_or(|local| local.is_any() || local == to)
            && inner.remote.is_none_or(|remote| remote.ip == from)
            && !inner.is_deaf
    }

    fn take_in(&self, datagram: Datagram) {
        let mut datagram = datagram;
        let filter = &self.common.options.filter;
        if filter.is_there() {
            let protocol = self.common.protocol as u8;
            let has_header = !self.is_v6 && !self.is_ping();
            match crate::filter::raw(filter, &self.inet, datagram, protocol, has_header) {
                Some(passed) => datagram = passed,
                None => return,
            }
        }
        let limit = knob(&self.common.options.rcvbuf).max(0) as usize;
        self.queue.push(Arc::new(datagram), limit);
    }

    /// The network says that a packet of its did not arrive.
    fn fail(&self, told: &Told<'_>) {
        let inner = *self.inner.lock();
        let is_ours = self.is_v6 != told.to.is_v4()
            && inner.local.is_none_or(|local| local.is_any() || local == told.from)
            && inner.remote.is_none_or(|remote| remote.ip == told.to);
        let wants = self.ip.wants(if self.is_v6 { want::ERRORS6 } else { want::ERRORS4 });
        if !is_ours || (!wants && inner.remote.is_none()) {
            return;
        }
        if wants {
            self.errors.push(&self.common, told, Endpoint::new(told.to, 0), 0);
        }
        self.common.set_error(told.error);
        self.queue.readable.notify(POLLERR | POLLIN | POLLOUT);
    }

    fn control_of(&self, datagram: &Datagram) -> Vec<socket::Ancillary> {
        datagram::control(&self.common, &self.ip, datagram)
    }
}

/// A packet that reached this host.
pub(crate) struct Packet<'a> {
    pub(crate) from: Ip,
    pub(crate) to: Ip,
    pub(crate) protocol: u8,
    pub(crate) interface: u32,
    pub(crate) hops: u8,
    pub(crate) tos: u8,
    /// The whole packet, of version 4 with its header.
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Packet<'_> {
    fn datagram(&self, is_whole: bool) -> Datagram {
        let mut bytes = Vec::new();
        if is_whole {
            bytes.extend_from_slice(self.header);
        }
        bytes.extend_from_slice(self.payload);
        Datagram {
            from: Endpoint::new(self.from, 0),
            to: Endpoint::new(self.to, 0),
            interface: self.interface,
            hops: self.hops,
            tos: self.tos,
            data: Payload::Small(bytes.into_boxed_slice()),
            time_ns: sched::clock::realtime_ns(),
        }
    }
}

impl Raw {
    /// All raw sockets.
    pub(crate) fn all(&self) -> Vec<Arc<RawSocket>> {
        self.sockets.read().by_protocol.values().flatten().cloned().collect()
    }

    /// Whether anybody listens to a protocol: others need not be looked at.
    pub(crate) fn listens(&self, protocol: u8) -> bool {
        self.sockets.read().by_protocol.contains_key(&i32::from(protocol))
    }

    /// Gives copies of a packet to the raw sockets that want it; whether one did.
    pub(crate) fn deliver(&self, packet: &Packet<'_>) -> bool {
        let mut is_wanted = false;
        let listening = self.sockets.read().by_protocol.get(&i32::from(packet.protocol)).cloned();
        for socket in listening.into_iter().flatten() {
            if !socket.wants(packet.from, packet.to) {
                continue;
            }
            let kind = packet.payload.first().copied().unwrap_or(0);
            let is_icmp = socket.common.protocol == IPPROTO_ICMP && kind < 32;
            if is_icmp && socket.filter.load(Ordering::Relaxed) & (1 << kind) != 0 {
                continue;
            }
            let blocked = socket.inner.lock().blocked6;
            let word = blocked.get(usize::from(kind >> 5)).copied().unwrap_or(0);
            if (socket.is_icmp6() && word >> (kind & 31) & 1 != 0) || !socket.trusts(packet) {
                continue;
            }
            is_wanted = true;
            socket.take_in(packet.datagram(!socket.is_v6));
        }
        is_wanted
    }

    /// Tells the sockets that may have sent a packet what the network says of it.
    pub(crate) fn tell(&self, told: &Told<'_>) {
        let (sent, asked) = {
            let all = self.sockets.read();
            let sent = all.by_protocol.get(&i32::from(told.protocol)).cloned();
            // The identifier of an echo request.
            let asked = match told.quoted {
                [8 | 128, _, _, _, a, b, ..]
                    if matches!(told.protocol, icmp::ICMP4 | icmp::ICMP6) =>
                {
                    all.by_ident.get(&u16::from_be_bytes([*a, *b])).cloned()
                }
                _ => None,
            };
            (sent, asked)
        };
        sent.into_iter().flatten().chain(asked).for_each(|socket| socket.fail(told));
    }

    /// Gives an echo reply to the socket that asked.
    pub(crate) fn deliver_echo(&self, packet: &Packet<'_>, ident: u16) {
        let asked = self.sockets.read().by_ident.get(&ident).cloned();
        if let Some(socket) = asked.filter(|socket| socket.wants(packet.from, packet.to)) {
            socket.take_in(packet.datagram(false));
        }
    }
}

impl Socket for RawSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, _call: &Call<'_>, address: &Address) -> Result<()> {
        let given = sockaddr::local(address, self.reader())?;
        if !given.endpoint.ip.is_multicast() {
            crate::check_bindable(&self.inet, given.endpoint.ip)?;
        }
        if self.is_ping() {
            if self.inner.lock().ident != 0 {
                return Err(Errno::EINVAL);
            }
            self.need_ident(given.endpoint.port)?;
        }
        self.inner.lock().local = Some(given.endpoint.ip);
        Ok(())
    }

    fn connect(&self, _call: &Call<'_>, address: &Address, _nonblocking: bool) -> Result<()> {
        if address.family() == AF_UNSPEC {
            self.inner.lock().remote = None;
            return Ok(());
        }
        let given = sockaddr::destination(address, self.reader())?;
        let device = knob(&self.common.options.bound_device).max(0) as u32;
        let way = self.inet.devices.way(given.endpoint.ip, None, device)?;
        if self.is_ping() {
            self.need_ident(0)?;
        }
        let mut inner = self.inner.lock();
        inner.local.get_or_insert(way.source);
        inner.remote = Some(given.endpoint);
        Ok(())
    }

    fn send(&self, source: &mut Source<'_>, message: &mut SendMessage<'_>) -> Result<usize> {
        self.common.check_error()?;
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = source.remaining();
        if len > 65535 {
            return Err(Errno::EMSGSIZE);
        }
        let inner = *self.inner.lock();
        if inner.is_mute {
            return Err(Errno::EPIPE);
        }
        let (to, scope) = match message.address {
            Some(address) => {
                let given = sockaddr::destination(address, self.reader())?;
                (given.endpoint, given.scope)
            }
            None => (inner.remote.ok_or(Errno::EDESTADDRREQ)?, 0),
        };
        let mut to = to.ip;
        if to.is_any() {
            to = if to.is_v4() { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
        }
        let mut bytes = Payload::take(source)?.to_vec();
        let device = knob(&self.common.options.bound_device).max(0) as u32;
        let device = if device == 0 { scope } else { device };
        let local = inner.local.filter(|ip| !ip.is_any() && !ip.is_multicast());
        let way = self.inet.devices.way(to, local, device)?;
        if way.kind == Destination::Broadcast && !self.common.options.has(Flag::BROADCAST) {
            return Err(Errno::EACCES);
        }
        let mut hops = self.ip.hop_limit(to);
        let mut tos = knob(&self.ip.tos) as u8;
        let mut protocol = self.common.protocol as u8;
        if self.is_ping() {
            let ident = self.need_ident(0)?;
            icmp::finish_echo(&mut bytes, ident, way.source, to)?;
        } else if self.is_v6 {
            self.put_sum(&mut bytes, way.source, to)?;
        }
        let mut from = way.source;
        let has_header = self.ip.wants(want::HEADER) || self.common.protocol == IPPROTO_RAW;
        if has_header && !self.is_v6 {
            // raw(7): the program wrote the header; what it left empty is filled in.
            let total = bytes.len() as u16;
            if let Some([high, low]) = bytes.get_mut(2..4) {
                [*high, *low] = total.to_be_bytes();
            }
            let packet = Ipv4Packet::new_checked(&bytes[..]).map_err(|_| Errno::EINVAL)?;
            if packet.header_len() < 20 {
                return Err(Errno::EINVAL);
            }
            protocol = packet.next_header().into();
            hops = packet.hop_limit();
            tos = packet.dscp() << 2 | packet.ecn();
            if !packet.src_addr().is_unspecified() {
                from = Ip::from(packet.src_addr());
            }
            bytes = packet.payload().to_vec();
        }
        let about = crate::ipout::About { from, to, protocol, hops, tos };
        self.inet.wire.send_packet(&self.inet, &about, &way, bytes)?;
        Ok(len)
    }

    fn recv(&self, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Result<usize> {
        let flags = message.flags;
        if flags & MSG_ERRQUEUE != 0 {
            return self.errors.recv(&self.common, sink, message);
        }
        if flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let take = || if flags & MSG_PEEK != 0 { self.queue.peek() } else { self.queue.pop() };
        let ready = || {
            if self.common.has_error() {
                return self.common.take_error().map(Err);
            }
            match take() {
                Some(datagram) => Some(Ok(Some(datagram))),
                None if self.inner.lock().is_deaf => Some(Ok(None)),
                None => None,
            }
        };
        let patience = self.common.recv_patience(message.is_nonblocking());
        let Some(datagram) = patience.wait(&self.queue.readable, ready)?? else { return Ok(0) };
        let len = datagram.data.len();
        let count = datagram.data.put(sink)?;
        if count < len {
            message.result_flags |= MSG_TRUNC;
        }
        if message.wants_address {
            message.address = sockaddr::show(datagram.from, self.is_v6, datagram.interface);
        }
        message.control = self.control_of(&datagram);
        Ok(if flags & MSG_TRUNC != 0 { len } else { count })
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.remote.is_none() {
            return Err(Errno::ENOTCONN);
        }
        inner.is_deaf |= how.reads();
        inner.is_mute |= how.writes();
        drop(inner);
        self.queue.readable.notify(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP);
        Ok(())
    }

    fn local_address(&self) -> Result<Address> {
        let inner = *self.inner.lock();
        let any = if self.is_v6 { Ip::ANY6 } else { Ip::ANY4 };
        let port = if self.is_ping() { inner.ident } else { self.common.protocol as u16 };
        let port = if self.is_v6 && !self.is_ping() { 0 } else { port };
        Ok(sockaddr::show(Endpoint::new(inner.local.unwrap_or(any), port), self.is_v6, 0))
    }

    fn peer_address(&self) -> Result<Address> {
        let remote = self.inner.lock().remote.ok_or(Errno::ENOTCONN)?;
        Ok(sockaddr::show(remote, self.is_v6, 0))
    }

    fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32 {
        if let Some(table) = table {
            table.add(&self.queue.readable);
        }
        let mut events = POLLOUT | POLLWRNORM;
        if self.common.has_error() || !self.errors.is_empty() {
            events |= POLLERR;
        }
        if !self.queue.is_empty() || self.inner.lock().is_deaf {
            events |= POLLIN | POLLRDNORM;
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
        match level {
            SOL_RAW if name == ICMP_FILTER && self.common.protocol == IPPROTO_ICMP => {
                self.filter.store(value.int()? as u32, Ordering::Relaxed);
                Ok(())
            }
            IPPROTO_ICMPV6 if self.is_icmp6() && name == ICMP6_FILTER => {
                // Copied without the lock: user memory may not be there.
                let mut blocked = self.inner.lock().blocked6;
                value.bytes(blocked.as_mut_bytes())?;
                self.inner.lock().blocked6 = blocked;
                Ok(())
            }
            IPPROTO_ICMPV6 if self.is_v6 && !self.is_icmp6() => Err(Errno::EOPNOTSUPP),
            SOL_RAW | SOL_IPV6 if name == IPV6_CHECKSUM && self.is_v6 && !self.is_ping() => {
                let at = value.int()?;
                if (level == SOL_IPV6 && self.is_icmp6()) || (at > 0 && at % 2 != 0) {
                    return Err(Errno::EINVAL);
                }
                self.sum_at.store(at.max(-1), Ordering::Relaxed);
                Ok(())
            }
            SOL_IP => self.ip.set_v4(&self.common, call, name, value),
            SOL_IPV6 if self.is_v6 => self.ip.set_v6(&self.common, call, name, value, false),
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
        let is_connected = self.inner.lock().remote.is_some();
        match level {
            SOL_RAW if name == ICMP_FILTER && self.common.protocol == IPPROTO_ICMP => {
                value.int(self.filter.load(Ordering::Relaxed) as i32)
            }
            IPPROTO_ICMPV6 if self.is_icmp6() && name == ICMP6_FILTER => {
                let blocked = self.inner.lock().blocked6;
                value.value(&blocked)
            }
            IPPROTO_ICMPV6 if self.is_icmp6() => Err(Errno::ENOPROTOOPT),
            SOL_RAW | SOL_IPV6 if name == IPV6_CHECKSUM && self.is_v6 && !self.is_ping() => {
                value.int(self.sum_at.load(Ordering::Relaxed))
            }
            SOL_IP => self.ip.get_v4(name, value, is_connected),
            SOL_IPV6 if self.is_v6 => self.ip.get_v6(name, value, is_connected),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn queue_number(&self, cmd: u32) -> Result<usize> {
        match cmd {
            SIOCINQ => Ok(self.queue.first_len()),
            SIOCOUTQ => Ok(0),
            _ => Err(Errno::ENOIOCTLCMD),
        }
    }

    fn release(&self) {
        let is_me = |other: &Arc<RawSocket>| core::ptr::eq(&**other, self);
        let (ident, protocol) = (self.inner.lock().ident, self.common.protocol);
        let gone = {
            let mut all = self.inet.raw.sockets.write();
            let own = all.by_protocol.entry(protocol).or_default();
            let raw = own.iter().position(is_me).map(|at| own.swap_remove(at));
            if own.is_empty() {
                all.by_protocol.remove(&protocol);
            }
            // An identifier is its own alone.
            (raw, all.by_ident.remove(&ident))
        };
        drop(gone);
        crate::groups::leave_all(&self.inet, self.common.ino);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
