//! Sockets that listen, and the connections that wait for `accept`.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use ::socket::{Filter, Patience};
use abi::poll::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use netdevice::{Endpoint, Ip, Tuple};
use sched::WaitQueue;

use super::direct::{self, Direct, Queues, Side};
use super::socket::TcpSocket;
use super::{Conn, Goodbye};
use crate::ports::{Claim, Claimant};
use crate::stack::{Inet, count, knob};
use crate::timers::{self, Expire};

static QUEUE: LockClass = LockClass::new("inet.listener", 523);

struct Queue {
    /// Connections to be accepted.
    ready: VecDeque<Conn>,
    /// Connections that are being made.
    reserved: usize,
    /// Handshakes over devices that have begun.
    handshakes: usize,
    /// Calls that found the queue full, the first first.
    waiting: VecDeque<Weak<Pending>>,
    is_closed: bool,
}

/// A socket that listens.
pub(crate) struct Listener {
    inet: Arc<Inet>,
    pub(crate) endpoint: Endpoint,
    pub(crate) is_v6: bool,
    /// What the port is claimed with.
    who: Claimant,
    queue: SpinLock<Queue>,
    /// Waits for connections.
    pub(crate) readable: Arc<WaitQueue>,
    backlog: AtomicUsize,
    /// Connections that are ready: read without the lock.
    ready: AtomicUsize,
    /// `TCP_DEFER_ACCEPT`.
    pub(crate) is_deferring: AtomicBool,
    /// `SO_SNDBUF` and `SO_RCVBUF`, which connections inherit.
    pub(crate) sndbuf: AtomicI32,
    pub(crate) rcvbuf: AtomicI32,
    /// `SO_ATTACH_FILTER`.
    pub(crate) filter: Filter,
    pub(crate) ino: u64,
    pub(crate) uid: u32,
}

/// The outcome of a call of a socket of this machine.
pub(crate) enum Called {
    /// Connected.
    Answered(Direct),
    /// The listener's queue is full: nobody answers for now.
    Unanswered(Arc<Listener>, Side),
}

impl Listener {
    pub(crate) fn new(
        inet: &Arc<Inet>,
        endpoint: Endpoint,
        is_v6: bool,
        claim: &Claim,
        readable: Arc<WaitQueue>,
        owner: (u64, u32),
    ) -> Arc<Listener> {
        let queue = Queue {
            ready: VecDeque::new(),
            reserved: 0,
            handshakes: 0,
            waiting: VecDeque::new(),
            is_closed: false,
        };
        Arc::new(Listener {
            inet: inet.clone(),
            endpoint,
            is_v6,
            who: *claim.who(),
            queue: SpinLock::new(&QUEUE, queue),
            readable,
            backlog: AtomicUsize::new(0),
            ready: AtomicUsize::new(0),
            is_deferring: AtomicBool::new(false),
            sndbuf: AtomicI32::new(knob(&inet.knobs.tcp_wmem[1])),
            rcvbuf: AtomicI32::new(knob(&inet.knobs.tcp_rmem[1])),
            filter: Filter::new(),
            ino: owner.0,
            uid: owner.1,
        })
    }

    pub(crate) fn set_backlog(&self, backlog: u32) {
        self.backlog.store(backlog as usize, Ordering::Relaxed);
    }

    pub(crate) fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Connections that wait to be accepted.
    #[inline]
    pub(crate) fn ready(&self) -> usize {
        self.ready.load(Ordering::SeqCst)
    }

    /// Begins to answer.
    pub(crate) fn enter(self: &Arc<Self>) {
        self.inet.tcp.listeners.with(&self.endpoint.port, |table| {
            table.entry(self.endpoint.port).or_default().push(self.clone());
        });
    }

    /// Takes a place in the queue; `false` if it is full or closed.
    fn reserve(&self) -> Result<bool> {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return Err(Errno::ECONNREFUSED);
        }
        // listen(2): one more than the backlog fits.
        if queue.ready.len() + queue.reserved > self.backlog() {
            return Ok(false);
        }
        queue.reserved += 1;
        Ok(true)
    }

    /// A handshake over a device begins; `false` if too many have, or the queue is full.
    pub(crate) fn begin_handshake(&self) -> bool {
        let most = knob(&self.inet.knobs.tcp_max_syn_backlog).max(1) as usize;
        let mut queue = self.queue.lock();
        if queue.is_closed || queue.ready.len() > self.backlog() || queue.handshakes >= most {
            return false;
        }
        queue.handshakes += 1;
        true
    }

    /// A handshake is over, whatever came of it.
    pub(crate) fn end_handshake(&self) {
        let mut queue = self.queue.lock();
        queue.handshakes = queue.handshakes.saturating_sub(1);
    }

    /// The buffer sizes of connections.
    pub(crate) fn limits(&self) -> (usize, usize) {
        let limit = |word: &AtomicI32| knob(word).max(0) as usize;
        (limit(&self.sndbuf), limit(&self.rcvbuf))
    }

    /// A claim of the port for a connection with this address.
    pub(crate) fn claim_for(&self, ip: Ip) -> Claim {
        self.inet.tcp.ports.claim_child(self.endpoint.port, self.claimant(ip))
    }

    /// Adds a connection to those to be accepted; it is reset if nobody listens any more.
    pub(crate) fn show(&self, conn: Conn) {
        self.put(conn, 0);
    }

    fn put(&self, conn: Conn, reserved: usize) {
        let refused = {
            let mut queue = self.queue.lock();
            queue.reserved -= reserved;
            if queue.is_closed {
                Some(conn)
            } else {
                queue.ready.push_back(conn);
                self.ready.fetch_add(1, Ordering::SeqCst);
                None
            }
        };
        match refused {
            Some(conn) => conn.close(Goodbye::Abrupt),
            None => {
                // One connection is for one of those that wait; all who poll hear of it.
                self.readable.wake_one();
                self.readable.tell(POLLIN | POLLRDNORM);
            }
        }
    }

    fn claimant(&self, ip: Ip) -> Claimant {
        Claimant { ip, listening: false, ..self.who }
    }

    /// A socket of this machine calls.
    pub(crate) fn call(self: &Arc<Self>, tuple: Tuple, first: Side) -> Result<Called> {
        if !self.reserve()? {
            count(&self.inet.counters.listen_overflows);
            return Ok(Called::Unanswered(self.clone(), first));
        }
        let made = self.answer(tuple, first);
        match made {
            Ok((first, second)) => {
                if self.is_deferring.load(Ordering::Relaxed) {
                    second.defer(self);
                    self.queue.lock().reserved -= 1;
                } else {
                    self.put(Conn::Direct(second), 1);
                }
                Ok(Called::Answered(first))
            }
            Err(error) => {
                self.queue.lock().reserved -= 1;
                Err(error)
            }
        }
    }

    fn answer(&self, tuple: Tuple, first: Side) -> Result<(Direct, Direct)> {
        let tcp = &self.inet.tcp;
        if !tcp.time_wait.give_way(&tuple, true) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        tcp.time_wait.give_way(&tuple.reversed(), false);
        let claim = self.claim_for(tuple.remote.ip);
        let second = Side { queues: new_queues(), limits: self.limits(), claim };
        direct::establish(&self.inet, tuple, first, second)
    }

    /// `accept`: the first connection.
    pub(crate) fn accept(self: &Arc<Self>, wait: Patience) -> Result<Conn> {
        let conn = wait.wait(&self.readable, || self.take())?;
        let conn = conn?;
        self.call_next();
        Ok(conn)
    }

    fn take(&self) -> Option<Result<Conn>> {
        if self.ready() == 0 && !self.queue.lock().is_closed {
            return None;
        }
        let mut queue = self.queue.lock();
        match queue.ready.pop_front() {
            Some(conn) => {
                self.ready.fetch_sub(1, Ordering::SeqCst);
                Some(Ok(conn))
            }
            None if queue.is_closed => Some(Err(Errno::EINVAL)),
            None => None,
        }
    }

    /// There is room: the first who waits calls again.
    fn call_next(self: &Arc<Self>) {
        let next = loop {
            let mut queue = self.queue.lock();
            match queue.waiting.pop_front() {
                None => return,
                Some(pending) => {
                    if let Some(pending) = pending.upgrade() {
                        break pending;
                    }
                }
            }
        };
        next.call_again(self);
    }

    fn add_waiting(&self, pending: &Arc<Pending>) {
        let mut queue = self.queue.lock();
        // Those that gave up are forgotten whenever the queue has doubled.
        if queue.waiting.len() >= 16 && queue.waiting.len().is_power_of_two() {
            queue.waiting.retain(|other| other.strong_count() > 0);
        }
        queue.waiting.push_back(Arc::downgrade(pending));
    }

    /// Answers nobody any more; those that wait to be accepted are reset.
    pub(crate) fn close(self: &Arc<Self>) {
        self.inet.tcp.listeners.with(&self.endpoint.port, |table| {
            if let Some(all) = table.get_mut(&self.endpoint.port) {
                all.retain(|other| !Arc::ptr_eq(other, self));
                if all.is_empty() {
                    table.remove(&self.endpoint.port);
                }
            }
        });
        let (ready, waiting) = {
            let mut queue = self.queue.lock();
            queue.is_closed = true;
            self.ready.store(0, Ordering::SeqCst);
            (core::mem::take(&mut queue.ready), core::mem::take(&mut queue.waiting))
        };
        for conn in ready {
            conn.close(Goodbye::Abrupt);
        }
        for pending in waiting.into_iter().filter_map(|pending| pending.upgrade()) {
            pending.fail(Errno::ECONNREFUSED);
        }
        self.readable.notify(POLLIN | POLLRDNORM | POLLHUP);
    }

    fn score(&self, to: Ip, device: u32) -> Option<u32> {
        let mut score = 0;
        if self.endpoint.ip == to {
            score += 4;
        } else if !self.endpoint.ip.is_any()
            || (self.endpoint.ip.is_v4() && !to.is_v4())
            || (!self.endpoint.ip.is_v4() && to.is_v4() && self.who.v6only)
        {
            return None;
        }
        if self.endpoint.ip.is_v4() == to.is_v4() {
            score += 1;
        }
        if self.who.device != 0 {
            if self.who.device as u32 != device {
                return None;
            }
            score += 2;
        }
        Some(score)
    }
}

/// Queues for a socket that is not there yet.
pub(crate) fn new_queues() -> Queues {
    (Arc::new(WaitQueue::new()), Arc::new(WaitQueue::new()))
}

/// Who listens for calls of these ends: among several of `SO_REUSEPORT` one by the ends' hash.
pub(crate) fn find(inet: &Inet, tuple: &Tuple, device: u32) -> Option<Arc<Listener>> {
    let to = tuple.remote;
    inet.tcp.listeners.with(&to.port, |table| {
        let all = table.get(&to.port)?;
        if let [only] = all.as_slice() {
            return only.score(to.ip, device).map(|_| only.clone());
        }
        let best = all.iter().filter_map(|listener| listener.score(to.ip, device)).max()?;
        let equal: Vec<&Arc<Listener>> =
            all.iter().filter(|listener| listener.score(to.ip, device) == Some(best)).collect();
        let hash = crate::table::Keyed::new(inet.secret).hash_one(tuple);
        let index = (hash >> 32) as usize % equal.len().max(1);
        equal.get(index).map(|listener| (*listener).clone())
    })
}

/// A call that is not answered: a SYN that is sent again and again.
pub(crate) struct Pending {
    socket: Weak<TcpSocket>,
    tuple: Tuple,
    side: SpinLock<Option<Side>>,
    gives_up_ns: u64,
}

impl Pending {
    pub(crate) fn new(
        socket: &Arc<TcpSocket>,
        tuple: Tuple,
        side: Side,
        gives_up_ns: u64,
    ) -> Arc<Pending> {
        let side = SpinLock::new(&QUEUE, Some(side));
        Arc::new(Pending { socket: Arc::downgrade(socket), tuple, side, gives_up_ns })
    }

    /// Waits for room at a listener.
    pub(crate) fn wait_at(self: &Arc<Self>, listener: &Listener) {
        listener.add_waiting(self);
        timers::arm(&(self.clone() as Arc<dyn Expire>), self.gives_up_ns);
    }

    /// The ends of the connection it asks for.
    pub(crate) fn tuple(&self) -> Tuple {
        self.tuple
    }

    fn call_again(self: &Arc<Self>, listener: &Arc<Listener>) {
        let Some(side) = self.side.lock().take() else { return };
        match listener.call(self.tuple, side) {
            Ok(Called::Answered(conn)) => match self.socket.upgrade() {
                Some(socket) => socket.connected(self, Conn::Direct(conn)),
                None => conn.close(Goodbye::Abrupt),
            },
            Ok(Called::Unanswered(listener, side)) => {
                *self.side.lock() = Some(side);
                listener.add_waiting(self);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Nobody will answer.
    pub(crate) fn fail(self: &Arc<Self>, error: Errno) {
        let side = self.side.lock().take();
        drop(side);
        if let Some(socket) = self.socket.upgrade() {
            socket.connect_failed(self, error);
        }
    }
}

impl Expire for Pending {
    fn expire(&self, _now_ns: u64) -> Option<u64> {
        let side = self.side.lock().take()?;
        drop(side);
        if let Some(socket) = self.socket.upgrade() {
            socket.connect_timed_out(self);
        }
        None
    }
}
