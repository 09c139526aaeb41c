//! A connection over a device: the state machine ([`Tcb`]) with its lock, its queue of received data, its
//! timer and the way its segments go.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use ::socket::{Filter, NetNamespace, Patience, Shutdown};
use abi::poll::*;
use abi::socket::{MSG_OOB, MSG_PEEK, MSG_TRUNC};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use netdevice::{Tuple, Way};
use sched::{Mutex, WaitQueue};

use super::config::config;
use super::direct::Queues;
use super::header;
use super::listen::{self, Listener};
use super::tcb::{Segment, Tcb, flag};
use super::{Conn, Facts, Goodbye, State, Wanted};
use crate::lane::{Lane, Writer};
use crate::ports::Claim;
use crate::stack::{Inet, count, knob};
use crate::timers::{self, Expire};

static TCB: LockClass = LockClass::new("inet.tcb", 528);
static CLAIM: LockClass = LockClass::new("inet.claim", 532);
static WRITER: LockClass = LockClass::new("inet.wire_writer", 206);
static READER: LockClass = LockClass::new("inet.wire_reader", 207);

const NEVER: u64 = u64::MAX;

/// A connection over a device.
pub(crate) struct Connection {
    inet: Arc<Inet>,
    tuple: Tuple,
    this: Weak<Connection>,
    tcb: SpinLock<Tcb>,
    lane: Lane,
    readable: Arc<WaitQueue>,
    writable: Arc<WaitQueue>,
    writer: Mutex<Writer>,
    reader: Mutex<()>,
    claim: SpinLock<Option<Claim>>,
    way: SpinLock<(u64, Way)>,
    /// Whom it is shown to when it is established.
    listener: SpinLock<Option<Arc<Listener>>>,
    /// `SO_ATTACH_FILTER`.
    pub(crate) filter: Filter,
    is_orphan: AtomicBool,
    /// Its namespace, which delivers its segments, while it still sends without a program; not the machine's.
    home: SpinLock<Option<Arc<NetNamespace>>>,
    is_deaf: AtomicBool,
    has_left: AtomicBool,
    error: AtomicI32,
    /// When the timer fires.
    armed_ns: AtomicU64,
    ino: AtomicU64,
    uid: AtomicU32,
}

/// What a new connection gets.
pub(crate) struct New {
    pub(crate) queues: Queues,
    pub(crate) claim: Claim,
    pub(crate) limits: (usize, usize),
    pub(crate) way: Way,
    pub(crate) listener: Option<Arc<Listener>>,
}

/// Calls over a device.
pub(crate) fn connect(inet: &Arc<Inet>, tuple: Tuple, new: New) -> Result<Arc<Connection>> {
    let now = arch::time::now_ns();
    let tcb = Tcb::connect(config(inet, &tuple, &new.way, new.limits), now);
    let connection = Connection::enter(inet, tuple, tcb, new).ok_or(Errno::EADDRNOTAVAIL)?;
    count(&inet.counters.tcp_active_opens);
    connection.with(|_, _, _| ());
    Ok(connection)
}

impl Connection {
    fn enter(inet: &Arc<Inet>, tuple: Tuple, tcb: Tcb, new: New) -> Option<Arc<Connection>> {
        let generation = inet.devices.generation();
        let connection = Arc::new_cyclic(|this| Connection {
            inet: inet.clone(),
            tuple,
            this: this.clone(),
            tcb: SpinLock::new(&TCB, tcb),
            lane: Lane::new(),
            readable: new.queues.0,
            writable: new.queues.1,
            writer: Mutex::new(&WRITER, Writer::default()),
            reader: Mutex::new(&READER, ()),
            claim: SpinLock::new(&CLAIM, Some(new.claim)),
            way: SpinLock::new(&CLAIM, (generation, new.way)),
            listener: SpinLock::new(&CLAIM, new.listener),
            filter: Filter::new(),
            is_orphan: AtomicBool::new(false),
            home: SpinLock::new(&CLAIM, None),
            is_deaf: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            error: AtomicI32::new(0),
            armed_ns: AtomicU64::new(NEVER),
            ino: AtomicU64::new(0),
            uid: AtomicU32::new(0),
        });
        inet.tcp.enter(tuple, Conn::Wire(connection.clone())).then_some(connection)
    }

    /// A SYN came for a listener. It is dropped if too many wait already.
    pub(crate) fn answer(
        inet: &Arc<Inet>,
        listener: &Arc<Listener>,
        tuple: Tuple,
        syn: &Segment,
        way: Way,
    ) {
        if !listener.begin_handshake() {
            count(&inet.counters.listen_overflows);
            return;
        }
        let now = arch::time::now_ns();
        let limits = listener.limits();
        let mut config = config(inet, &tuple, &way, limits);
        config.syn_retries = knob(&inet.knobs.tcp_synack_retries).max(0) as u32;
        let tcb = Tcb::answer(config, syn, now);
        let claim = listener.claim_for(tuple.local.ip);
        let queues = listen::new_queues();
        let new = New { queues, claim, limits, way, listener: Some(listener.clone()) };
        match Connection::enter(inet, tuple, tcb, new) {
            Some(connection) => {
                connection.filter.copy(&listener.filter);
                connection.with(|_, _, _| ());
            }
            None => listener.end_handshake(),
        }
    }

    /// Acts on the state machine, then sends what it says and tells who has to know.
    fn with<R>(&self, act: impl FnOnce(&mut Tcb, u64, usize) -> R) -> R {
        let (result, before, after) = {
            let mut tcb = self.tcb.lock();
            // Under the lock: for the state machine time never goes back.
            let now = arch::time::now_ns();
            let before = (tcb.state, tcb.has_room());
            let unread = self.lane.len();
            let sent_again = tcb.retransmits;
            let result = act(&mut tcb, now, unread);
            let sent_again = tcb.retransmits.wrapping_sub(sent_again);
            if sent_again > 0 {
                self.inet.counters.tcp_retrans_segs.fetch_add(sent_again.into(), Ordering::Relaxed);
            }
            while let Some(segment) = tcb.out.pop_front() {
                self.send_segment(&tcb, &segment);
            }
            let arrived = core::mem::take(&mut tcb.arrived);
            let has_data = !arrived.is_empty();
            if has_data {
                let bytes = arrived.iter().map(netdevice::Chunk::len).sum();
                if self.is_orphan.load(Ordering::Relaxed) {
                    // RFC 1122 §4.2.2.13: nobody will read it.
                    tcb.abort();
                    while let Some(segment) = tcb.out.pop_front() {
                        self.send_segment(&tcb, &segment);
                    }
                } else {
                    self.lane.push(arrived.into_iter().collect(), bytes);
                    if core::mem::take(&mut tcb.is_urgent) {
                        self.lane.mark_urgent();
                    }
                }
            }
            if let Some(error) = tcb.error.take() {
                self.error.store(error.raw(), Ordering::SeqCst);
            }
            let deadline = tcb.deadline();
            let after = (tcb.state, tcb.has_room(), has_data, tcb.is_deaf());
            drop(tcb);
            self.arm(deadline);
            (result, before, after)
        };
        self.tell(before, after);
        result
    }

    fn tell(&self, before: (State, bool), after: (State, bool, bool, bool)) {
        let (state, has_room, has_data, is_deaf) = after;
        if before.0 == State::SynReceived && state != State::SynReceived {
            let listener = self.listener.lock().take();
            if let (Some(listener), Some(this)) = (listener, self.this.upgrade()) {
                listener.end_handshake();
                if state != State::Closed {
                    count(&self.inet.counters.tcp_passive_opens);
                    listener.show(Conn::Wire(this));
                }
            }
        }
        if state == State::Closed {
            self.leave();
        }
        if self.is_orphan.load(Ordering::SeqCst)
            && matches!(state, State::FinWait2 | State::TimeWait | State::Closed)
        {
            self.let_home_go();
        }
        if has_data {
            self.readable.notify(POLLIN | POLLRDNORM);
        }
        if before.0 != state {
            if is_deaf {
                self.readable.notify(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP | POLLERR);
            }
            self.writable.notify(POLLOUT | POLLWRNORM | POLLHUP | POLLERR);
        } else if !before.1 && has_room {
            self.writable.notify(POLLOUT | POLLWRNORM);
        }
    }

    fn leave(&self) {
        if !self.has_left.swap(true, Ordering::SeqCst) {
            self.inet.tcp.leave(&self.tuple);
            let claim = self.claim.lock().take();
            drop(claim);
        }
    }

    /// All it had to send has arrived: its namespace may end.
    fn let_home_go(&self) {
        let home = self.home.lock().take();
        if let Some(home) = home {
            // Perhaps the last reference, and this the thread of a device.
            sched::work::queue(move || drop(home));
        }
    }

    /// Its namespace has ended, and nothing comes for it any more.
    pub(super) fn end(&self) {
        self.with(|tcb, _, _| {
            tcb.abort();
            // Nobody is told, as by a machine that is switched off.
            tcb.out.clear();
        });
    }

    /// Sees to it that the timer fires no later than a deadline. It finds out itself if that has moved on.
    fn arm(&self, deadline: Option<u64>) {
        let Some(at) = deadline else { return };
        if at < self.armed_ns.load(Ordering::SeqCst)
            && self.armed_ns.fetch_min(at, Ordering::SeqCst) > at
            && let Some(this) = self.this.upgrade()
        {
            timers::arm(&(this as Arc<dyn Expire>), at);
        }
    }

    fn send_segment(&self, tcb: &Tcb, segment: &Segment) {
        count(&self.inet.counters.tcp_out_segs);
        let way = {
            let generation = self.inet.devices.generation();
            let mut remembered = self.way.lock();
            if remembered.0 != generation {
                let (from, to) = (self.tuple.local.ip, self.tuple.remote.ip);
                if let Ok(way) = self.inet.devices.way(to, Some(from), 0) {
                    *remembered = (generation, way);
                }
            }
            remembered.1.clone()
        };
        self.inet.wire.send_segment(&self.inet, &self.tuple, segment, &way, tcb.mss);
    }

    /// Lets a new call between the same ends take its place if it is over and the call no old duplicate;
    /// whether it does.
    pub(crate) fn gives_way(&self, call: &Segment) -> bool {
        let gives_way = self.tcb.lock().gives_way(call);
        if gives_way {
            self.leave();
        }
        gives_way
    }

    /// A segment came for it.
    pub(crate) fn receive(&self, segment: Segment) {
        self.with(|tcb, now, unread| tcb.receive(segment, now, unread));
    }

    /// ICMP says that a segment of its does not arrive. One that is not on its way was made up.
    pub(crate) fn unreachable(&self, sequence: u32, error: Errno, mtu: Option<u32>) {
        self.with(|tcb, now, unread| match (error, mtu) {
            _ if !tcb.is_in_flight(sequence) => {}
            (Errno::EMSGSIZE, Some(mtu)) => {
                let mss = usize::from(header::mss_for(mtu.max(576), self.tuple.remote.ip));
                tcb.lower_mss(mss.saturating_sub(12), now, unread);
            }
            // RFC 1122 §4.2.3.9: final only for a connection that is not there yet.
            _ if matches!(tcb.state, State::SynSent | State::SynReceived) => {
                tcb.abort();
                tcb.error = Some(error);
            }
            _ => {}
        });
    }

    pub(crate) fn tuple(&self) -> Tuple {
        self.tuple
    }

    pub(crate) fn state(&self) -> State {
        self.tcb.lock().state
    }

    pub(crate) fn queues(&self) -> Queues {
        (self.readable.clone(), self.writable.clone())
    }

    pub(crate) fn set_owner(&self, ino: u64, uid: u32) {
        self.ino.store(ino, Ordering::Relaxed);
        self.uid.store(uid, Ordering::Relaxed);
    }

    pub(crate) fn set_limits(&self, sndbuf: usize, rcvbuf: usize) {
        self.with(|tcb, _, _| {
            tcb.config.sndbuf = tcb.config.sndbuf.max(sndbuf);
            tcb.config.rcvbuf = tcb.config.rcvbuf.max(rcvbuf);
        });
    }

    fn has_error(&self) -> bool {
        self.error.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn take_error(&self) -> Option<Errno> {
        match self.error.swap(0, Ordering::SeqCst) {
            0 => None,
            raw => Some(Errno::from_raw(raw)),
        }
    }

    pub(crate) fn send(
        &self,
        source: &mut Source<'_>,
        flags: u32,
        wait: Patience,
    ) -> Result<usize> {
        let mut total = 0;
        loop {
            {
                let mut writer = self.writer.lock();
                loop {
                    let (may_send, is_new, room) = {
                        let tcb = self.tcb.lock();
                        let is_new = matches!(tcb.state, State::SynSent | State::SynReceived);
                        (tcb.may_send(), is_new, tcb.room())
                    };
                    if self.has_error() || (!may_send && !is_new) {
                        return match self.take_error() {
                            _ if total > 0 => Ok(total),
                            Some(error) => Err(error),
                            None => Err(Errno::EPIPE),
                        };
                    }
                    if room == 0 || is_new {
                        break;
                    }
                    let (pieces, bytes) = match writer.fill(source, room) {
                        Ok(filled) => filled,
                        Err(_) if total > 0 => return Ok(total),
                        Err(error) => return Err(error),
                    };
                    total += bytes;
                    let is_urgent = flags & MSG_OOB != 0 && source.is_empty();
                    self.with(|tcb, now, unread| {
                        tcb.write(pieces, now, unread);
                        if is_urgent {
                            tcb.mark_urgent();
                        }
                    });
                    if source.is_empty() || bytes == 0 {
                        return Ok(total);
                    }
                }
            }
            let ready = || {
                let tcb = self.tcb.lock();
                let is_new = matches!(tcb.state, State::SynSent | State::SynReceived);
                (!is_new && (tcb.has_room() || !tcb.may_send())).then_some(())
            };
            match wait.wait(&self.writable, ready) {
                Ok(()) => {}
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }

    fn hears_nothing(&self) -> bool {
        self.is_deaf.load(Ordering::SeqCst) || self.tcb.lock().is_deaf()
    }

    pub(crate) fn recv(&self, sink: &mut Sink<'_>, wanted: &Wanted) -> Result<usize> {
        if wanted.flags & MSG_TRUNC != 0 {
            let mut nowhere = Sink::discard(sink.remaining());
            let wanted = Wanted { flags: wanted.flags & !MSG_TRUNC, ..*wanted };
            return self.recv(&mut nowhere, &wanted);
        }
        let is_peek = wanted.flags & MSG_PEEK != 0;
        let mut total = 0;
        loop {
            let count = {
                let _turn = self.reader.lock();
                if is_peek {
                    total = 0;
                    self.lane.peek(sink, 0, wanted.inline)
                } else {
                    self.lane.read(sink, wanted.inline)
                }
            };
            match count {
                Ok(count) => {
                    total += count;
                    if count > 0 && !is_peek {
                        self.with(|tcb, now, unread| tcb.has_read(now, unread));
                    }
                }
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error),
            }
            let is_done = total >= wanted.target || sink.is_full() || is_peek;
            if total > 0 && (is_done || self.lane.is_at_mark()) {
                return Ok(total);
            }
            if self.lane.len() == 0 {
                let is_over = self.hears_nothing();
                if total > 0 && (is_over || self.has_error()) {
                    return Ok(total);
                }
                if let Some(error) = self.take_error() {
                    return Err(error);
                }
                if is_over {
                    if self.lane.len() == 0 {
                        return Ok(total);
                    }
                    continue;
                }
            }
            let ready =
                || (self.lane.len() > 0 || self.has_error() || self.hears_nothing()).then_some(());
            match wanted.patience.wait(&self.readable, ready) {
                Ok(()) => {}
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        if how.reads() {
            self.is_deaf.store(true, Ordering::SeqCst);
        }
        if how.writes() {
            self.with(|tcb, now, unread| tcb.finish(now, unread));
        }
        self.readable.notify(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP);
        self.writable.notify(POLLOUT | POLLWRNORM);
    }

    pub(crate) fn close(&self, how: Goodbye) {
        self.is_orphan.store(true, Ordering::SeqCst);
        let is_abrupt = how == Goodbye::Abrupt || self.lane.len() > 0;
        if !is_abrupt {
            // Before the state is looked at: whoever ends it from now on lets it go.
            let home = self.inet.namespace().filter(|home| !home.is_initial());
            *self.home.lock() = home;
        }
        self.with(|tcb, now, unread| {
            if is_abrupt {
                tcb.abort();
            } else {
                tcb.finish(now, unread);
                tcb.orphan(now);
            }
        });
        self.lane.clear();
    }

    pub(crate) fn poll(&self, lowat: usize) -> u32 {
        let (state, has_room, may_send, is_deaf) = {
            let tcb = self.tcb.lock();
            (tcb.state, tcb.has_room(), tcb.may_send(), tcb.is_deaf())
        };
        let mut events = if self.has_error() { POLLERR } else { 0 };
        if matches!(state, State::SynSent | State::SynReceived) {
            return events;
        }
        let is_deaf = is_deaf || self.is_deaf.load(Ordering::SeqCst);
        let len = self.lane.len();
        if len >= lowat.max(1) || is_deaf {
            events |= POLLIN | POLLRDNORM;
        }
        if is_deaf {
            events |= POLLRDHUP;
        }
        if state == State::Closed || (is_deaf && !may_send) {
            events |= POLLHUP;
        }
        if has_room || !may_send {
            events |= POLLOUT | POLLWRNORM;
        }
        if len > 0 && self.lane.has_urgent() {
            events |= POLLPRI;
        }
        events
    }

    pub(crate) fn inq(&self) -> usize {
        self.lane.len()
    }

    pub(crate) fn outq(&self) -> usize {
        self.tcb.lock().unacknowledged()
    }

    pub(crate) fn is_at_mark(&self) -> bool {
        self.lane.is_at_mark()
    }

    pub(crate) fn take_urgent(&self, peek: bool) -> Result<u8> {
        self.lane.take_urgent(peek)
    }

    /// Options that the state machine acts on.
    pub(crate) fn wish(&self, wishes: super::tcb::Wishes) {
        self.with(|tcb, now, unread| tcb.set_wishes(wishes, now, unread));
    }

    pub(crate) fn facts(&self) -> Facts {
        let tcb = self.tcb.lock();
        let (sent, received) = tcb.totals();
        let mut options = 0;
        for (is_on, bit) in
            [(tcb.config.has_stamps, 1), (tcb.config.has_sack, 2), (tcb.config.scale.is_some(), 4)]
        {
            options |= if is_on { bit } else { 0 };
        }
        Facts {
            state: tcb.state,
            received,
            sent,
            unread: self.lane.len(),
            unacknowledged: tcb.unacknowledged(),
            mss: tcb.mss as u32,
            cwnd: (tcb.congestion.cwnd / tcb.mss.max(1) as u64) as u32,
            rtt_us: tcb.rtt.srtt_us,
            rttvar_us: tcb.rtt.var_us,
            rto_us: tcb.rtt.rto_us(),
            retransmits: tcb.retransmits,
            ssthresh: tcb.congestion.ssthresh.min(i32::MAX as u64) as u32,
            options,
            ino: self.ino.load(Ordering::Relaxed),
            uid: self.uid.load(Ordering::Relaxed),
        }
    }
}

impl Expire for Connection {
    fn expire(&self, now_ns: u64) -> Option<u64> {
        self.armed_ns.store(NEVER, Ordering::SeqCst);
        let is_due = self.tcb.lock().deadline().is_some_and(|at| at <= now_ns);
        if is_due {
            self.with(|tcb, now, unread| tcb.tick(now, unread));
        } else {
            let deadline = self.tcb.lock().deadline();
            self.arm(deadline);
        }
        None
    }
}

/// Whether a segment asks for a connection.
pub(crate) fn is_call(segment: &Segment) -> bool {
    segment.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN
}
