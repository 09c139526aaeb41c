//! A TCP socket as programs see it.

use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use ::socket::{
    Address, Call, Common, Flag, Kind, OptionIn, OptionOut, RecvMessage, SendMessage, Shutdown,
    Socket,
};
use abi::poll::*;
use abi::socket::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use netdevice::{Endpoint, Ip};
use sched::WaitQueue;
use vfs::PollTable;

use super::direct::LOOPBACK_SNDBUF;
use super::listen::{self, Listener, Pending};
use super::options::TcpOptions;
use super::{Conn, Facts, Goodbye, State, Wanted};
use crate::ipopts::{IpOptions, want};
use crate::ports::{Claim, Claimant};
use crate::sockaddr::{self, Reader};
use crate::stack::{Inet, knob};

static STATE: LockClass = LockClass::new("inet.socket", 521);

/// What a socket is.
pub(super) enum Phase {
    /// Not connected.
    Idle,
    /// Its call is not answered yet.
    Calling(Arc<Pending>),
    Listening(Arc<Listener>),
    Connected(Conn),
}

pub(super) struct Inner {
    pub(super) phase: Phase,
    /// The address and port it is bound to.
    pub(super) local: Option<Endpoint>,
    pub(super) claim: Option<Claim>,
    /// `bind` named the port.
    pub(super) is_bound: bool,
    /// A call failed: `connect` tells it once, then the socket is as new.
    pub(super) has_failed: bool,
}

/// A TCP socket.
pub(crate) struct TcpSocket {
    pub(super) common: Common,
    pub(super) inet: Arc<Inet>,
    pub(super) is_v6: bool,
    pub(super) this: Weak<TcpSocket>,
    pub(super) readable: Arc<WaitQueue>,
    pub(super) writable: Arc<WaitQueue>,
    pub(super) inner: SpinLock<Inner>,
    /// It was connected, and `connect` has said so.
    pub(super) is_told: AtomicBool,
    pub(super) options: TcpOptions,
    pub(super) ip: IpOptions,
}

impl TcpSocket {
    /// A new socket.
    pub(crate) fn create(inet: &Arc<Inet>, common: Common) -> Arc<TcpSocket> {
        let (sndbuf, rcvbuf) = (knob(&inet.knobs.tcp_wmem[1]), knob(&inet.knobs.tcp_rmem[1]));
        common.options.sndbuf.store(sndbuf, Ordering::Relaxed);
        common.options.rcvbuf.store(rcvbuf, Ordering::Relaxed);
        let queues = listen::new_queues();
        Self::with(inet, common, queues, Phase::Idle, None, None)
    }

    fn with(
        inet: &Arc<Inet>,
        common: Common,
        queues: super::direct::Queues,
        phase: Phase,
        ip: Option<IpOptions>,
        options: Option<TcpOptions>,
    ) -> Arc<TcpSocket> {
        let is_v6 = common.family == AF_INET6;
        let inner = Inner { phase, local: None, claim: None, is_bound: false, has_failed: false };
        Arc::new_cyclic(|this| TcpSocket {
            ip: ip.unwrap_or_else(|| IpOptions::new(&inet.knobs)),
            options: options.unwrap_or_else(TcpOptions::new),
            common,
            inet: inet.clone(),
            is_v6,
            this: this.clone(),
            readable: queues.0,
            writable: queues.1,
            inner: SpinLock::new(&STATE, inner),
            is_told: AtomicBool::new(false),
        })
    }

    fn reader(&self) -> Reader {
        if self.is_v6 { Reader::V6 { only: self.ip.is_v6only() } } else { Reader::V4 }
    }

    /// The connection, if it is connected.
    #[inline]
    pub(super) fn conn(&self) -> Option<Conn> {
        match &self.inner.lock().phase {
            Phase::Connected(conn) => Some(conn.clone()),
            _ => None,
        }
    }

    pub(super) fn listener(&self) -> Option<Arc<Listener>> {
        match &self.inner.lock().phase {
            Phase::Listening(listener) => Some(listener.clone()),
            _ => None,
        }
    }

    pub(super) fn claimant(&self, call: Option<&Call<'_>>, ip: Ip, chosen: bool) -> Claimant {
        let options = &self.common.options;
        let uid = call.map_or(0, |call| call.creds().euid);
        Claimant {
            ip,
            v6only: self.is_v6 && self.ip.is_v6only(),
            device: options.bound_device.load(Ordering::Relaxed),
            reuse: options.has(Flag::REUSEADDR),
            reuse_port: options.has(Flag::REUSEPORT).then_some(uid),
            listening: false,
            chosen,
        }
    }

    fn any(&self) -> Ip {
        if self.is_v6 { Ip::ANY6 } else { Ip::ANY4 }
    }

    pub(super) fn limits(&self) -> (usize, usize) {
        let options = &self.common.options;
        (knob(&options.sndbuf).max(0) as usize, knob(&options.rcvbuf).max(0) as usize)
    }

    /// On a connection over the loopback interface the send buffer has its full size at once.
    pub(super) fn grow_buffers(&self) {
        let options = &self.common.options;
        if !options.has(Flag::SNDBUF_LOCKED) {
            let most = knob(&self.inet.knobs.tcp_wmem[2]);
            let size = LOOPBACK_SNDBUF.min(most).max(knob(&options.sndbuf));
            options.sndbuf.store(size, Ordering::Relaxed);
        }
    }

    /// The state `TCP_INFO` shows.
    pub(super) fn state(&self) -> State {
        match &self.inner.lock().phase {
            Phase::Idle => State::Closed,
            Phase::Calling(_) => State::SynSent,
            Phase::Listening(_) => State::Listen,
            Phase::Connected(conn) => conn.state(),
        }
    }

    pub(super) fn knobs(&self) -> &crate::stack::Knobs {
        &self.inet.knobs
    }

    pub(super) fn facts(&self) -> Option<Facts> {
        self.conn().map(|conn| conn.facts())
    }

    pub(super) fn pending_error(&self) -> Option<Errno> {
        self.common.take_error().or_else(|| self.conn().and_then(|conn| conn.take_error()))
    }

    fn to_idle_port(&self, call: &Call<'_>) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.claim.is_some() {
            return Ok(());
        }
        let ip = self.any();
        let who = self.claimant(Some(call), ip, false);
        let claim = self.inet.tcp.ports.claim_any(self.inet.knobs.port_range(), who)?;
        inner.local = Some(Endpoint::new(ip, claim.port));
        inner.claim = Some(claim);
        Ok(())
    }

    /// Tells the connection or the listener of changed buffer sizes.
    fn pass_limits(&self) {
        let (sndbuf, rcvbuf) = self.limits();
        if let Some(conn) = self.conn() {
            conn.set_limits(sndbuf, rcvbuf);
        }
        if let Some(listener) = self.listener() {
            listener.sndbuf.store(sndbuf as i32, Ordering::Relaxed);
            listener.rcvbuf.store(rcvbuf as i32, Ordering::Relaxed);
        }
    }

    /// Tells the connection or the listener of a changed filter.
    pub(super) fn pass_filter(&self) {
        let own = &self.common.options.filter;
        if let Some(Conn::Wire(connection)) = self.conn() {
            connection.filter.copy(own);
        }
        if let Some(listener) = self.listener() {
            listener.filter.copy(own);
        }
    }

    fn endpoints(&self) -> (Option<Endpoint>, Option<Endpoint>) {
        let inner = self.inner.lock();
        match &inner.phase {
            Phase::Connected(conn) => (Some(conn.tuple().local), Some(conn.tuple().remote)),
            Phase::Calling(pending) => (Some(pending.tuple().local), None),
            Phase::Listening(listener) => (Some(listener.endpoint), None),
            Phase::Idle => (inner.local, None),
        }
    }
}

impl Socket for TcpSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, call: &Call<'_>, address: &Address) -> Result<()> {
        let given = sockaddr::local(address, self.reader())?;
        let Endpoint { ip, port } = given.endpoint;
        if ip.is_multicast() || self.inet.devices.is_broadcast(ip) {
            return Err(if ip.is_v4() { Errno::EADDRNOTAVAIL } else { Errno::EINVAL });
        }
        if !self.ip.wants(want::FREEBIND | want::TRANSPARENT) {
            crate::check_bindable(&self.inet, ip)?;
        }
        crate::check_port(&self.inet, &self.common, call, port)?;
        let mut inner = self.inner.lock();
        if !matches!(inner.phase, Phase::Idle) || inner.claim.is_some() {
            return Err(Errno::EINVAL);
        }
        let who = self.claimant(Some(call), ip, false);
        let ports = &self.inet.tcp.ports;
        let claim = match port {
            0 => ports.claim_any(self.inet.knobs.port_range(), who)?,
            port => ports.claim(port, who)?,
        };
        inner.local = Some(Endpoint::new(ip, claim.port));
        inner.is_bound = true;
        inner.claim = Some(claim);
        Ok(())
    }

    fn listen(&self, call: &Call<'_>, backlog: u32) -> Result<()> {
        if let Some(listener) = self.listener() {
            listener.set_backlog(backlog);
            return Ok(());
        }
        if !matches!(self.inner.lock().phase, Phase::Idle) {
            return Err(Errno::EINVAL);
        }
        self.to_idle_port(call)?;
        let mut inner = self.inner.lock();
        let local = inner.local.ok_or(Errno::EINVAL)?;
        let claim = inner.claim.as_mut().ok_or(Errno::EINVAL)?;
        self.inet.tcp.ports.listen(claim)?;
        let owner = (self.common.ino, call.creds().euid);
        let listener =
            Listener::new(&self.inet, local, self.is_v6, claim, self.readable.clone(), owner);
        listener.set_backlog(backlog);
        listener.is_deferring.store(self.options.is_deferring(), Ordering::Relaxed);
        let (sndbuf, rcvbuf) = self.limits();
        listener.sndbuf.store(sndbuf as i32, Ordering::Relaxed);
        listener.rcvbuf.store(rcvbuf as i32, Ordering::Relaxed);
        inner.phase = Phase::Listening(listener.clone());
        drop(inner);
        self.common.set_listening(true);
        listener.filter.copy(&self.common.options.filter);
        listener.enter();
        Ok(())
    }

    fn accept(&self, call: &Call<'_>, nonblocking: bool) -> Result<Arc<dyn Socket>> {
        let listener = self.listener().ok_or(Errno::EINVAL)?;
        let conn = listener.accept(self.common.recv_patience(nonblocking))?;
        let common =
            Common::new(&self.common.namespace, self.common.family, Kind::Stream, IPPROTO_TCP);
        common.options.inherit(&self.common.options);
        conn.set_owner(common.ino, call.creds().euid);
        let queues = conn.queues();
        let socket = Self::with(
            &self.inet,
            common,
            queues,
            Phase::Connected(conn),
            Some(self.ip.duplicate()),
            Some(self.options.duplicate()),
        );
        socket.is_told.store(true, Ordering::Relaxed);
        if matches!(socket.conn(), Some(Conn::Direct(_))) {
            socket.grow_buffers();
        }
        socket.pass_limits();
        socket.pass_wishes();
        Ok(socket)
    }

    fn connect(&self, call: &Call<'_>, address: &Address, nonblocking: bool) -> Result<()> {
        if address.len() < 2 {
            return Err(Errno::EINVAL);
        }
        if address.family() == AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        {
            let mut inner = self.inner.lock();
            match &inner.phase {
                Phase::Listening(_) => return Err(Errno::EISCONN),
                Phase::Calling(_) if nonblocking => return Err(Errno::EALREADY),
                Phase::Calling(_) => {
                    drop(inner);
                    return self.wait_for_answer(false);
                }
                Phase::Connected(conn) => {
                    let state = conn.state();
                    drop(inner);
                    if self.is_told.load(Ordering::Relaxed) {
                        return Err(Errno::EISCONN);
                    }
                    if nonblocking && state == State::SynSent {
                        return Err(Errno::EALREADY);
                    }
                    return self.wait_for_answer(nonblocking);
                }
                Phase::Idle => {
                    if core::mem::take(&mut inner.has_failed) {
                        drop(inner);
                        return Err(self.pending_error().unwrap_or(Errno::ECONNABORTED));
                    }
                }
            }
        }
        let given = sockaddr::destination(address, self.reader())?;
        match self.call_to(call, given.endpoint, given.scope) {
            // As over a wire, the answer comes later than a call that must not wait.
            Err(Errno::ECONNREFUSED) if nonblocking => {
                self.inner.lock().has_failed = true;
                self.common.set_error(Errno::ECONNREFUSED);
                self.writable.notify(POLLOUT | POLLWRNORM | POLLERR | POLLHUP);
                return Err(Errno::EINPROGRESS);
            }
            called => called?,
        }
        // Nobody waits for what is there already.
        if self.state() == State::Established {
            self.is_told.store(true, Ordering::Relaxed);
            return if nonblocking { self.connected_at_once() } else { Ok(()) };
        }
        self.wait_for_answer(nonblocking)
    }

    #[inline]
    fn send(&self, source: &mut Source<'_>, message: &mut SendMessage<'_>) -> Result<usize> {
        if message.flags & MSG_FASTOPEN != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let wait = self.common.send_patience(message.is_nonblocking());
        let conn = match self.conn() {
            Some(conn) => conn,
            None => {
                if self.state() == State::SynSent {
                    if message.is_nonblocking() {
                        return Err(Errno::EAGAIN);
                    }
                    self.wait_for_answer(false)?;
                }
                self.common.check_error()?;
                self.conn().ok_or(Errno::EPIPE)?
            }
        };
        conn.send(source, message.flags, wait)
    }

    #[inline]
    fn recv(&self, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Result<usize> {
        let flags = message.flags;
        if flags & MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        let Some(conn) = self.conn() else {
            self.common.check_error()?;
            return match self.state() {
                State::SynSent if message.is_nonblocking() => Err(Errno::EAGAIN),
                State::SynSent => {
                    self.wait_for_answer(false)?;
                    self.recv(sink, message)
                }
                _ => Err(Errno::ENOTCONN),
            };
        };
        let inline = self.common.options.has(Flag::OOBINLINE);
        if flags & MSG_OOB != 0 {
            if inline {
                return Err(Errno::EINVAL);
            }
            let byte = conn.take_urgent(flags & MSG_PEEK != 0)?;
            message.result_flags |= MSG_OOB;
            if sink.is_full() {
                message.result_flags |= MSG_TRUNC;
                return Ok(0);
            }
            sink.put_all(&[byte])?;
            return Ok(1);
        }
        if sink.is_full() {
            return Ok(0);
        }
        let wanted = Wanted {
            target: self.common.recv_target(sink.remaining(), flags),
            flags,
            inline,
            patience: self.common.recv_patience(message.is_nonblocking()),
        };
        conn.recv(sink, &wanted)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        if let Some(listener) = self.listener() {
            if how.reads() {
                self.inner.lock().phase = Phase::Idle;
                self.common.set_listening(false);
                listener.close();
            }
            return Ok(());
        }
        match self.conn() {
            Some(conn) if conn.state() != State::Closed => {
                conn.shutdown(how);
                Ok(())
            }
            None if self.state() == State::SynSent => {
                self.disconnect();
                Ok(())
            }
            _ => Err(Errno::ENOTCONN),
        }
    }

    fn local_address(&self) -> Result<Address> {
        let any = Endpoint::new(self.any(), 0);
        Ok(sockaddr::show(self.endpoints().0.unwrap_or(any), self.is_v6, 0))
    }

    fn peer_address(&self) -> Result<Address> {
        match (self.state(), self.endpoints().1) {
            (State::Closed | State::SynSent, _) | (_, None) => Err(Errno::ENOTCONN),
            (_, Some(remote)) => Ok(sockaddr::show(remote, self.is_v6, 0)),
        }
    }

    fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32 {
        if let Some(table) = table {
            table.add(&self.readable);
            table.add(&self.writable);
        }
        let error = if self.common.has_error() { POLLERR } else { 0 };
        let conn = match &self.inner.lock().phase {
            Phase::Listening(listener) => {
                return if listener.ready() > 0 { POLLIN | POLLRDNORM } else { 0 };
            }
            Phase::Calling(_) => return error,
            Phase::Idle if error != 0 => {
                return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM | POLLRDHUP | POLLHUP | POLLERR;
            }
            Phase::Idle => return POLLOUT | POLLWRNORM | POLLHUP,
            Phase::Connected(conn) => conn.clone(),
        };
        let lowat = knob(&self.common.options.rcvlowat).max(1) as usize;
        conn.poll(lowat) | error
    }

    fn set_socket_option(
        &self,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        ::socket::options::set(&self.common, call, name, value)?;
        if matches!(name, SO_SNDBUF | SO_RCVBUF | SO_SNDBUFFORCE | SO_RCVBUFFORCE) {
            self.pass_limits();
        }
        if name == SO_KEEPALIVE {
            self.pass_wishes();
        }
        if matches!(name, SO_ATTACH_FILTER | SO_DETACH_FILTER) {
            self.pass_filter();
        }
        Ok(())
    }

    fn get_socket_option(
        &self,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionOut<'_>,
    ) -> Result<()> {
        if name == SO_ERROR {
            return value.int(self.pending_error().map_or(0, Errno::raw));
        }
        ::socket::options::get(&self.common, call, name, value)
    }

    fn set_option(
        &self,
        call: &Call<'_>,
        level: i32,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        match level {
            SOL_TCP => {
                self.set_tcp_option(call, name, value)?;
                self.pass_wishes();
                Ok(())
            }
            SOL_IP => self.ip.set_v4(&self.common, call, name, value),
            SOL_IPV6 if self.is_v6 => {
                let is_bound = self.inner.lock().claim.is_some();
                self.ip.set_v6(&self.common, call, name, value, is_bound)
            }
            SOL_IPV6 => Err(Errno::ENOPROTOOPT),
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
        match level {
            SOL_TCP => self.get_tcp_option(name, value),
            SOL_IP => self.ip.get_v4(name, value, self.conn().is_some()),
            SOL_IPV6 if self.is_v6 => self.ip.get_v6(name, value, self.conn().is_some()),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn queue_number(&self, cmd: u32) -> Result<usize> {
        let conn = self.conn();
        Ok(match cmd {
            SIOCINQ if self.listener().is_some() => return Err(Errno::EINVAL),
            SIOCOUTQ | SIOCOUTQNSD if self.listener().is_some() => return Err(Errno::EINVAL),
            SIOCINQ => conn.map_or(0, |conn| conn.inq()),
            SIOCOUTQ | SIOCOUTQNSD => conn.map_or(0, |conn| conn.outq()),
            SIOCATMARK => usize::from(conn.is_some_and(|conn| conn.is_at_mark())),
            _ => return Err(Errno::ENOIOCTLCMD),
        })
    }

    fn release(&self) {
        let phase = {
            let mut inner = self.inner.lock();
            let claim = inner.claim.take();
            (core::mem::replace(&mut inner.phase, Phase::Idle), claim)
        };
        match phase.0 {
            Phase::Connected(conn) => {
                let options = &self.common.options;
                let is_abrupt = options.has(Flag::LINGER) && knob(&options.linger_s) == 0;
                conn.close(if is_abrupt { Goodbye::Abrupt } else { Goodbye::Orderly });
            }
            Phase::Listening(listener) => listener.close(),
            Phase::Calling(_) | Phase::Idle => {}
        }
    }

    fn fdinfo(&self, _out: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl TcpSocket {
    /// A call that must not wait says `EINPROGRESS`, as over a wire, though the answer is there.
    fn connected_at_once(&self) -> Result<()> {
        self.is_told.store(false, Ordering::Relaxed);
        Err(Errno::EINPROGRESS)
    }
}

/// `IPPROTO_TCP`.
pub(crate) const IPPROTO_TCP: i32 = 6;
