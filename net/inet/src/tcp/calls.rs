//! How a TCP socket calls: over the loopback interface, over a device, and what becomes of calls that are not
//! answered.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use ::socket::{Call, Flag};
use abi::poll::*;
use abi::{Errno, Result};
use netdevice::{Destination, Endpoint, Ip, Tuple, Way};

use super::direct::Side;
use super::listen::{self, Called, Pending};
use super::socket::{Phase, TcpSocket};
use super::wire::{self, New};
use super::{Conn, Goodbye, State};
use crate::ports::Claim;

impl TcpSocket {
    /// `connect` with `AF_UNSPEC`: the socket is as new, but for a port that was named.
    pub(super) fn disconnect(&self) {
        let old = {
            let mut inner = self.inner.lock();
            if !inner.is_bound {
                inner.local = None;
            }
            let claim = if inner.is_bound { None } else { inner.claim.take() };
            (core::mem::replace(&mut inner.phase, Phase::Idle), claim)
        };
        match old.0 {
            Phase::Connected(conn) => conn.close(Goodbye::Abrupt),
            Phase::Listening(listener) => listener.close(),
            _ => {}
        }
        self.is_told.store(false, Ordering::Relaxed);
        self.readable.notify(POLLHUP | POLLIN);
        self.writable.notify(POLLHUP | POLLOUT);
    }

    pub(super) fn call_to(&self, call: &Call<'_>, to: Endpoint, scope: u32) -> Result<()> {
        let to = match to.ip {
            Ip::ANY4 => Endpoint::new(Ip::LOOPBACK4, to.port),
            Ip::ANY6 => Endpoint::new(
                if self.is_v4_bound() { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 },
                to.port,
            ),
            _ => to,
        };
        if to.ip.is_multicast() || self.inet.devices.is_broadcast(to.ip) {
            return Err(Errno::ENETUNREACH);
        }
        let bound_ip = self.inner.lock().local.map(|local| local.ip).filter(|ip| !ip.is_any());
        if bound_ip.is_some_and(|ip| ip.is_v4() != to.ip.is_v4()) {
            return Err(Errno::EINVAL);
        }
        let mut device = self.common.options.bound_device.load(Ordering::Relaxed).max(0) as u32;
        if device == 0 && to.ip.is_link_local6() {
            device = scope;
            if device == 0 {
                return Err(Errno::EINVAL);
            }
        }
        let way = self.inet.devices.way(to.ip, bound_ip, device)?;
        match way.kind {
            Destination::Local if self.needs_packets(&way, to) => self.call_far(call, to, way),
            Destination::Local => self.call_here(call, way.source, to, way.interface.index),
            Destination::Remote => self.call_far(call, to, way),
            _ => Err(Errno::ENETUNREACH),
        }
    }

    /// Whether a connection on this machine is to be made of packets: somebody looks at them, or filters them.
    fn needs_packets(&self, way: &Way, to: Endpoint) -> bool {
        let filters = || {
            let any = Endpoint::new(way.source, 0);
            let tuple = Tuple { local: any, remote: to };
            self.common.options.filter.is_there()
                || listen::find(&self.inet, &tuple, way.interface.index)
                    .is_some_and(|listener| listener.filter.is_there())
        };
        (packet::is_listening()
            && packet::is_listening_to(&self.common.namespace, way.interface.index))
            || (::socket::filter::is_used() && filters())
    }

    fn is_v4_bound(&self) -> bool {
        self.inner.lock().local.is_some_and(|local| local.ip.is_v4())
    }

    /// Chooses this end's port, if it has none.
    fn own_port(
        &self,
        call: &Call<'_>,
        from: Ip,
        to: Endpoint,
    ) -> Result<(Endpoint, Option<Claim>)> {
        let bound = self.inner.lock().local;
        if let Some(bound) = bound {
            return Ok((Endpoint::new(from, bound.port), None));
        }
        let tcp = &self.inet.tcp;
        let who = self.claimant(Some(call), from, true);
        let claim = tcp.ports.claim_for_connection(self.inet.knobs.port_range(), who, |port| {
            let tuple = Tuple { local: Endpoint::new(from, port), remote: to };
            tcp.is_free(&tuple) && !tcp.time_wait.has(&tuple)
        })?;
        Ok((Endpoint::new(from, claim.port), Some(claim)))
    }

    fn call_here(&self, call: &Call<'_>, from: Ip, to: Endpoint, device: u32) -> Result<()> {
        let (local, claim) = self.own_port(call, from, to)?;
        let tuple = Tuple { local, remote: to };
        if !self.inet.tcp.is_free(&tuple) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let listener = listen::find(&self.inet, &tuple, device).ok_or(Errno::ECONNREFUSED)?;
        // A port that `bind` named stays the socket's; the connection has a claim of its own.
        let claim = match claim {
            Some(claim) => claim,
            None => self.inner.lock().claim.clone().ok_or(Errno::EINVAL)?,
        };
        self.grow_buffers();
        let queues = (self.readable.clone(), self.writable.clone());
        let side = Side { queues, limits: self.limits(), claim };
        let phase = match listener.call(tuple, side)? {
            Called::Answered(conn) => {
                conn.set_owner(self.common.ino, call.creds().euid);
                Phase::Connected(Conn::Direct(conn))
            }
            Called::Unanswered(listener, side) => {
                let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
                let wait = self.options.syn_timeout_ns(&self.inet.knobs);
                let gives_up_ns = arch::time::now_ns().saturating_add(wait);
                let pending = Pending::new(&this, tuple, side, gives_up_ns);
                self.inner.lock().phase = Phase::Calling(pending.clone());
                pending.wait_at(&listener);
                return Ok(());
            }
        };
        let old = core::mem::replace(&mut self.inner.lock().phase, phase);
        drop(old);
        Ok(())
    }

    fn call_far(&self, call: &Call<'_>, to: Endpoint, way: Way) -> Result<()> {
        let (local, claim) = self.own_port(call, way.source, to)?;
        let tuple = Tuple { local, remote: to };
        let claim = match claim {
            Some(claim) => claim,
            None => self.inner.lock().claim.clone().ok_or(Errno::EINVAL)?,
        };
        let queues = (self.readable.clone(), self.writable.clone());
        let new = New { queues, claim, limits: self.limits(), way, listener: None };
        let connection = wire::connect(&self.inet, tuple, new)?;
        connection.set_owner(self.common.ino, call.creds().euid);
        connection.wish(self.wishes());
        connection.filter.copy(&self.common.options.filter);
        let old = core::mem::replace(
            &mut self.inner.lock().phase,
            Phase::Connected(Conn::Wire(connection)),
        );
        drop(old);
        Ok(())
    }

    /// What a connection over a device is to heed.
    pub(super) fn wishes(&self) -> super::tcb::Wishes {
        let is_kept_alive = self.common.options.has(Flag::KEEPALIVE);
        self.options.wishes(&self.inet.knobs, is_kept_alive)
    }

    /// Tells the connection of changed options.
    pub(super) fn pass_wishes(&self) {
        if let Some(Conn::Wire(connection)) = self.conn() {
            connection.wish(self.wishes());
        }
    }

    /// Its call was answered.
    pub(super) fn connected(&self, pending: &Arc<Pending>, conn: Conn) {
        conn.set_owner(self.common.ino, 0);
        let unwanted = {
            let mut inner = self.inner.lock();
            match &inner.phase {
                Phase::Calling(current) if Arc::ptr_eq(current, pending) => {
                    inner.phase = Phase::Connected(conn);
                    None
                }
                _ => Some(conn),
            }
        };
        if let Some(conn) = unwanted {
            return conn.close(Goodbye::Abrupt);
        }
        self.writable.notify(POLLOUT | POLLWRNORM);
        self.readable.tell(POLLOUT | POLLWRNORM);
    }

    /// Its call was refused.
    pub(super) fn connect_failed(&self, pending: &Arc<Pending>, error: Errno) {
        self.call_over(|current| Arc::ptr_eq(current, pending), error);
    }

    /// Nobody answered.
    pub(super) fn connect_timed_out(&self, pending: &Pending) {
        self.call_over(|current| core::ptr::eq(&**current, pending), Errno::ETIMEDOUT);
    }

    fn call_over(&self, is_it: impl Fn(&Arc<Pending>) -> bool, error: Errno) {
        {
            let mut inner = self.inner.lock();
            match &inner.phase {
                Phase::Calling(current) if is_it(current) => inner.phase = Phase::Idle,
                _ => return,
            }
            inner.has_failed = true;
        }
        self.common.set_error(error);
        self.writable.notify(POLLOUT | POLLWRNORM | POLLERR | POLLHUP);
        self.readable.notify(POLLIN | POLLRDNORM | POLLERR | POLLHUP);
    }

    pub(super) fn wait_for_answer(&self, nonblocking: bool) -> Result<()> {
        let is_over = || match self.state() {
            State::SynSent | State::SynReceived => None,
            state => Some(state),
        };
        let waited = self.common.send_patience(nonblocking).wait(&self.writable, is_over);
        match waited {
            Err(Errno::EAGAIN) => Err(Errno::EINPROGRESS),
            Err(error) => Err(error),
            Ok(State::Established | State::CloseWait) => {
                self.is_told.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(_) => {
                let error = self.pending_error().unwrap_or(Errno::ECONNABORTED);
                let mut inner = self.inner.lock();
                inner.has_failed = false;
                // A connection that failed leaves a socket that may call again.
                let old = core::mem::replace(&mut inner.phase, Phase::Idle);
                drop(inner);
                drop(old);
                Err(error)
            }
        }
    }
}
