//! A UDP socket as programs see it (udp(7)).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ::socket::{
    Address, Call, Common, Flag, OptionIn, OptionOut, RecvMessage, SendMessage, Shutdown, Socket,
};
use abi::poll::*;
use abi::socket::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use netdevice::{Destination, Endpoint, Ip, Tuple, Way};
use vfs::PollTable;

use super::Entry;
use super::datagram::{self, Datagram, Payload, Queue};
use crate::errors::{Errors, Told};
use crate::ipopts::{IpOptions, want};
use crate::ports::{Claim, Claimant};
use crate::sockaddr::{self, Reader};
use crate::stack::{Inet, count, knob};

static STATE: LockClass = LockClass::new("inet.udp_socket", 522);

/// The most data of a datagram of version 4; of version 6 the header is no part of the length.
pub(super) const MAX4: usize = 65507;
const MAX6: usize = 65527;

const DEAF: u32 = 1;
const MUTE: u32 = 2;

/// Where a connected socket's datagrams go, as long as no route changes.
#[derive(Clone)]
struct Remembered {
    generation: u64,
    way: Way,
}

#[derive(Default)]
pub(super) struct Inner {
    local: Option<Endpoint>,
    pub(super) remote: Option<Endpoint>,
    scope: u32,
    claim: Option<Claim>,
    /// `bind` named the address.
    is_bound: bool,
    remembered: Option<Remembered>,
    /// Data that waits for the rest of its datagram (`MSG_MORE`, `UDP_CORK`).
    pub(super) corked: Option<(Endpoint, Vec<u8>)>,
    is_released: bool,
}

/// A UDP socket.
pub(crate) struct UdpSocket {
    common: Common,
    pub(super) inet: Arc<Inet>,
    is_v6: bool,
    this: Weak<UdpSocket>,
    queue: Queue,
    errors: Errors,
    pub(super) inner: SpinLock<Inner>,
    shut: AtomicU32,
    pub(super) corks: AtomicBool,
    pub(super) no_check6: AtomicU32,
    ip: IpOptions,
}

impl UdpSocket {
    /// A new socket.
    pub(crate) fn create(inet: &Arc<Inet>, common: Common) -> Arc<UdpSocket> {
        Arc::new_cyclic(|this| UdpSocket {
            is_v6: common.family == AF_INET6,
            common,
            inet: inet.clone(),
            this: this.clone(),
            queue: Queue::new(),
            errors: Errors::default(),
            inner: SpinLock::new(&STATE, Inner::default()),
            shut: AtomicU32::new(0),
            corks: AtomicBool::new(false),
            no_check6: AtomicU32::new(0),
            ip: IpOptions::new(&inet.knobs),
        })
    }

    fn reader(&self) -> Reader {
        if self.is_v6 { Reader::V6 { only: self.ip.is_v6only() } } else { Reader::V4 }
    }

    fn any(&self) -> Ip {
        if self.is_v6 { Ip::ANY6 } else { Ip::ANY4 }
    }

    /// Both ends, for `/proc/net/udp`.
    pub(crate) fn ends(&self) -> (Endpoint, Option<Endpoint>) {
        let inner = self.inner.lock();
        (inner.local.unwrap_or(Endpoint::new(self.any(), 0)), inner.remote)
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.is_v6
    }

    /// Memory of what was not received, and datagrams that found no room.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.queue.weight(), self.queue.dropped.load(Ordering::Relaxed))
    }

    fn claimant(&self, uid: u32, ip: Ip) -> Claimant {
        let options = &self.common.options;
        Claimant {
            ip,
            v6only: self.is_v6 && self.ip.is_v6only(),
            device: options.bound_device.load(Ordering::Relaxed),
            reuse: options.has(Flag::REUSEADDR),
            reuse_port: options.has(Flag::REUSEPORT).then_some(uid),
            listening: false,
            chosen: false,
        }
    }

    fn entry(&self, this: &Arc<UdpSocket>, ip: Ip) -> Entry {
        Entry {
            socket: this.clone(),
            ip,
            v6only: self.is_v6 && self.ip.is_v6only(),
            device: knob(&self.common.options.bound_device).max(0) as u32,
            is_shared: self.common.options.has(Flag::REUSEPORT),
        }
    }

    /// Puts the socket where datagrams find it. Under its lock.
    fn enter(&self, inner: &Inner) {
        let (Some(this), Some(local)) = (self.this.upgrade(), inner.local) else { return };
        let udp = &self.inet.udp;
        match inner.remote {
            Some(remote) => {
                let tuple = Tuple { local, remote };
                udp.connected.with(&tuple, |table| table.insert(tuple, this));
            }
            None => udp.by_port.with(&local.port, |table| {
                table.entry(local.port).or_default().push(self.entry(&this, local.ip));
            }),
        }
    }

    /// Takes it away from there. Under its lock.
    fn leave(&self, inner: &Inner) {
        let Some(local) = inner.local else { return };
        let is_me = |other: &Arc<UdpSocket>| core::ptr::eq(&**other, self);
        let udp = &self.inet.udp;
        if let Some(remote) = inner.remote {
            let tuple = Tuple { local, remote };
            udp.connected.with(&tuple, |table| {
                if table.get(&tuple).is_some_and(is_me) {
                    table.remove(&tuple);
                }
            });
        }
        udp.by_port.with(&local.port, |table| {
            if let Some(all) = table.get_mut(&local.port) {
                all.retain(|entry| !is_me(&entry.socket));
                if all.is_empty() {
                    table.remove(&local.port);
                }
            }
        });
    }

    fn bind_to(&self, inner: &mut Inner, uid: u32, ip: Ip, port: u16) -> Result<()> {
        let who = self.claimant(uid, ip);
        let ports = &self.inet.udp.ports;
        let claim = match port {
            0 => {
                ports.claim_any(self.inet.knobs.port_range(), who).map_err(|_| Errno::EADDRINUSE)?
            }
            port => ports.claim(port, who)?,
        };
        inner.local = Some(Endpoint::new(ip, claim.port));
        inner.claim = Some(claim);
        self.enter(inner);
        Ok(())
    }

    fn need_port(&self, inner: &mut Inner) -> Result<()> {
        if inner.local.is_some() {
            return Ok(());
        }
        self.bind_to(inner, 0, self.any(), 0).map_err(|_| Errno::EAGAIN)
    }

    /// Whether it hears what goes to a group.
    pub(crate) fn hears(&self, inet: &Inet, group: Ip, interface: u32) -> bool {
        match crate::groups::is_member(inet, self.common.ino, group, interface) {
            Some(is_member) => is_member,
            None => self.ip.wants(want::MULTICAST_ALL),
        }
    }

    /// A datagram came for it.
    pub(crate) fn take_in(&self, inet: &Inet, datagram: Arc<Datagram>) {
        let mut datagram = datagram;
        let filter = &self.common.options.filter;
        if filter.is_there() {
            match crate::filter::udp(filter, inet, datagram) {
                Some(passed) => datagram = passed,
                None => return count(&inet.counters.udp_in_errors),
            }
        }
        let limit = knob(&self.common.options.rcvbuf).max(0) as usize;
        if self.queue.push(datagram, limit) {
            count(&inet.counters.udp_in_datagrams);
        } else {
            count(&inet.counters.udp_in_errors);
            count(&inet.counters.udp_receive_buffer_errors);
        }
    }

    /// An error of the network about what it sent.
    pub(crate) fn fail(&self, told: &Told<'_>, to: Endpoint) {
        let wants = self.ip.wants(if self.is_v6 { want::ERRORS6 } else { want::ERRORS4 });
        if wants {
            self.errors.push(&self.common, told, to, 8);
        }
        if wants || self.inner.lock().remote.is_some() {
            self.common.set_error(told.error);
            self.queue.readable.notify(POLLERR | POLLIN | POLLOUT);
        }
    }

    /// The way to a destination.
    fn way(&self, to: Endpoint, from: Option<Ip>, scope: u32) -> Result<Way> {
        let mut device = knob(&self.common.options.bound_device).max(0) as u32;
        if device == 0 {
            device = if to.ip.is_multicast() {
                let own =
                    if to.ip.is_v4() { &self.ip.multicast_if } else { &self.ip.multicast_if6 };
                match own.load(Ordering::Relaxed) {
                    0 => scope,
                    own => own,
                }
            } else {
                match self.ip.unicast_if.load(Ordering::Relaxed) {
                    0 => scope,
                    own => own,
                }
            };
        }
        if device == 0 && to.ip.is_link_local6() {
            return Err(Errno::EINVAL);
        }
        self.inet.devices.way(to.ip, from, device)
    }

    pub(super) fn connected_way(&self) -> Result<(Endpoint, Endpoint, Way)> {
        let generation = self.inet.devices.generation();
        let (local, remote, scope) = {
            let inner = self.inner.lock();
            let remote = inner.remote.ok_or(Errno::EDESTADDRREQ)?;
            let local = inner.local.ok_or(Errno::EDESTADDRREQ)?;
            if let Some(remembered) = &inner.remembered
                && remembered.generation == generation
            {
                return Ok((local, remote, remembered.way.clone()));
            }
            (local, remote, inner.scope)
        };
        let way = self.way(remote, Some(local.ip).filter(|ip| !ip.is_any()), scope)?;
        self.inner.lock().remembered = Some(Remembered { generation, way: way.clone() });
        Ok((local, remote, way))
    }

    pub(super) fn transmit(
        &self,
        from: Endpoint,
        to: Endpoint,
        way: &Way,
        data: Payload,
    ) -> Result<()> {
        let hops = self.ip.hop_limit(to.ip);
        let tos = if to.ip.is_v4() { &self.ip.tos } else { &self.ip.tclass6 };
        let tos = knob(tos) as u8;
        count(&self.inet.counters.udp_out_datagrams);
        let loops = match way.kind {
            Destination::Local => true,
            Destination::Multicast if way.interface.is_loopback() => true,
            Destination::Multicast => {
                let bit = if to.ip.is_v4() { want::MULTICAST_LOOP } else { want::MULTICAST_LOOP6 };
                self.ip.wants(bit)
            }
            Destination::Broadcast => true,
            Destination::Remote => false,
        };
        let is_for_many = matches!(way.kind, Destination::Multicast | Destination::Broadcast);
        if !way.interface.is_loopback() && way.kind != Destination::Local {
            self.inet.wire.send_udp(&self.inet, from, to, way, &data, (hops, tos))?;
        }
        if loops {
            let len = data.len() + if to.ip.is_v4() { 28 } else { 48 };
            way.interface.counters.sent(1, len);
            way.interface.counters.received(1, len);
            let time_ns = sched::clock::realtime_ns();
            let interface = way.interface.index;
            if packet::is_listening() && way.interface.is_loopback() {
                self.show(from, to, (hops, tos), &data);
            }
            let datagram = Datagram { from, to, interface, hops, tos, data, time_ns };
            let refused = self.inet.udp.deliver(&self.inet, datagram, is_for_many);
            if let Some(datagram) = refused {
                self.refuse(from, to, (hops, tos), &datagram.data);
            }
        }
        Ok(())
    }
}

impl Socket for UdpSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, call: &Call<'_>, address: &Address) -> Result<()> {
        let given = sockaddr::local(address, self.reader())?;
        let Endpoint { ip, port } = given.endpoint;
        if !ip.is_multicast()
            && !self.inet.devices.is_broadcast(ip)
            && !self.ip.wants(want::FREEBIND | want::TRANSPARENT)
        {
            crate::check_bindable(&self.inet, ip)?;
        }
        crate::check_port(&self.inet, &self.common, call, port)?;
        let mut inner = self.inner.lock();
        if inner.local.is_some() {
            return Err(Errno::EINVAL);
        }
        self.bind_to(&mut inner, call.creds().euid, ip, port)?;
        inner.is_bound = true;
        Ok(())
    }

    fn connect(&self, _call: &Call<'_>, address: &Address, _nonblocking: bool) -> Result<()> {
        if address.len() < 2 {
            return Err(Errno::EINVAL);
        }
        if address.family() == AF_UNSPEC {
            let mut inner = self.inner.lock();
            self.leave(&inner);
            inner.remote = None;
            inner.remembered = None;
            if inner.is_bound {
                self.enter(&inner);
            } else {
                inner.local = None;
                inner.claim = None;
            }
            return Ok(());
        }
        let given = sockaddr::destination(address, self.reader())?;
        let mut to = given.endpoint;
        if to.ip.is_any() {
            let is_v4 = to.ip.is_v4();
            to.ip = if is_v4 { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
        }
        let bound = self.inner.lock().local.map(|local| local.ip).filter(|ip| !ip.is_any());
        if bound.is_some_and(|ip| ip.is_v4() != to.ip.is_v4()) {
            return Err(Errno::EINVAL);
        }
        let way = self.way(to, bound, given.scope)?;
        if way.kind == Destination::Broadcast && !self.common.options.has(Flag::BROADCAST) {
            return Err(Errno::EACCES);
        }
        let mut inner = self.inner.lock();
        self.need_port(&mut inner)?;
        self.leave(&inner);
        if let Some(local) = &mut inner.local
            && local.ip.is_any()
        {
            local.ip = way.source;
        }
        inner.remote = Some(to);
        inner.scope = given.scope;
        inner.remembered = None;
        self.enter(&inner);
        Ok(())
    }

    fn send(&self, source: &mut Source<'_>, message: &mut SendMessage<'_>) -> Result<usize> {
        self.common.check_error()?;
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = source.remaining();
        let (mut from, to, way) = match message.address {
            None => self.connected_way()?,
            Some(address) => {
                let given = sockaddr::destination(address, self.reader())?;
                let mut to = given.endpoint;
                if to.port == 0 {
                    return Err(Errno::EINVAL);
                }
                if to.ip.is_any() {
                    to.ip = if to.ip.is_v4() { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
                }
                let local = {
                    let mut inner = self.inner.lock();
                    self.need_port(&mut inner)?;
                    inner.local.ok_or(Errno::EAGAIN)?
                };
                let (wanted, device) = if message.control.is_empty() {
                    (None, 0)
                } else {
                    datagram::wanted_source(&message.control)?
                };
                let bound = Some(local.ip).filter(|ip| !ip.is_any() && !ip.is_multicast());
                if bound.is_some_and(|ip| ip.is_v4() != to.ip.is_v4()) {
                    return Err(Errno::EINVAL);
                }
                let scope = if given.scope == 0 { device } else { given.scope };
                let way = self.way(to, wanted.or(bound), scope)?;
                (Endpoint::new(wanted.unwrap_or(local.ip), local.port), to, way)
            }
        };
        if len > if to.ip.is_v4() { MAX4 } else { MAX6 } {
            return Err(Errno::EMSGSIZE);
        }
        if way.kind == Destination::Broadcast && !self.common.options.has(Flag::BROADCAST) {
            return Err(Errno::EACCES);
        }
        if self.shut.load(Ordering::Relaxed) & MUTE != 0 {
            return Err(Errno::EPIPE);
        }
        if from.ip.is_any() || from.ip.is_multicast() {
            from.ip = way.source;
        }
        let more = message.flags & MSG_MORE != 0 || self.corks.load(Ordering::Relaxed);
        if more || self.inner.lock().corked.is_some() {
            return self.send_corked(source, from, to, &way, more);
        }
        let data = Payload::take(source)?;
        if message.flags & MSG_PROBE == 0 {
            self.transmit(from, to, &way, data)?;
        }
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
                None if self.shut.load(Ordering::SeqCst) & DEAF != 0 => Some(Ok(None)),
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
        let wanted = datagram::control(&self.common, &self.ip, &datagram);
        wanted.into_iter().for_each(|control| message.give(control));
        Ok(if flags & MSG_TRUNC != 0 { len } else { count })
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let is_connected = self.inner.lock().remote.is_some();
        let mut bits = 0;
        if how.reads() {
            bits |= DEAF;
        }
        if how.writes() {
            bits |= MUTE;
        }
        self.shut.fetch_or(bits, Ordering::SeqCst);
        self.queue.readable.notify(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP);
        if is_connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    fn local_address(&self) -> Result<Address> {
        Ok(sockaddr::show(self.ends().0, self.is_v6, 0))
    }

    fn peer_address(&self) -> Result<Address> {
        let inner = self.inner.lock();
        let remote = inner.remote.ok_or(Errno::ENOTCONN)?;
        Ok(sockaddr::show(remote, self.is_v6, inner.scope))
    }

    fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32 {
        if let Some(table) = table {
            table.add(&self.queue.readable);
        }
        let mut events = POLLOUT | POLLWRNORM;
        let shut = self.shut.load(Ordering::SeqCst);
        if self.common.has_error() || !self.errors.is_empty() {
            events |= POLLERR;
        }
        if !self.queue.is_empty() {
            events |= POLLIN | POLLRDNORM;
        }
        if shut & DEAF != 0 {
            events |= POLLIN | POLLRDNORM | POLLRDHUP;
        }
        if shut == DEAF | MUTE {
            events |= POLLHUP;
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
            SOL_UDP => self.set_udp_option(name, value.int()?),
            SOL_IP => self.ip.set_v4(&self.common, call, name, value),
            SOL_IPV6 if self.is_v6 => {
                let is_bound = self.inner.lock().local.is_some();
                self.ip.set_v6(&self.common, call, name, value, is_bound)
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
        let is_connected = self.inner.lock().remote.is_some();
        match level {
            SOL_UDP => self.get_udp_option(name, value),
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
        let claim = {
            let mut inner = self.inner.lock();
            self.leave(&inner);
            inner.is_released = true;
            (inner.claim.take(), inner.corked.take())
        };
        drop(claim);
        crate::groups::leave_all(&self.inet, self.common.ino);
        while self.queue.pop().is_some() {}
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
