//! A connection between two sockets of one machine: what one end sends is hung into the other's queue, and
//! no packet is made. States, resets, half-closed connections, back-pressure and what is left in TIME_WAIT
//! are TCP's.
//!
//! Both ends lie in one [`Pair`]. What changes a state holds the pair's lock; data moves without it.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use ::socket::{Patience, Shutdown};
use abi::poll::*;
use abi::socket::{MSG_OOB, MSG_PEEK, MSG_TRUNC};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use netdevice::Tuple;
use sched::{Mutex, WaitQueue};

use super::listen::Listener;
use super::{Conn, Facts, Goodbye, State, Wanted};
use crate::lane::{Lane, Writer};
use crate::ports::Claim;
use crate::stack::{Inet, count, knob};

static PAIR: LockClass = LockClass::new("inet.pair", 522);
static CLAIM: LockClass = LockClass::new("inet.direct_claim", 523);
static WRITER: LockClass = LockClass::new("inet.writer", 206);
static READER: LockClass = LockClass::new("inet.reader", 207);

/// This end has sent its FIN.
const FIN_SENT: u32 = 1;
/// The other end has.
const FIN_RECEIVED: u32 = 2;
/// The connection is over, by a reset or because both ends are done.
const OVER: u32 = 4;
/// No descriptor is left.
const ORPHAN: u32 = 8;
/// `SHUT_RD`.
const DEAF: u32 = 16;
/// This end sent its FIN before the other.
const FIRST: u32 = 32;
/// `TCP_DEFER_ACCEPT`: not yet shown to the listener.
const DEFERRED: u32 = 64;

/// What `SO_SNDBUF` grows to on a connection over the loopback interface.
pub(crate) const LOOPBACK_SNDBUF: i32 = 2_626_560;
/// The payload of a segment over the loopback interface with time stamps.
pub(crate) const LOOPBACK_MSS: u32 = 65483;

/// One end.
struct End {
    /// What this end receives.
    lane: Lane,
    flags: AtomicU32,
    error: AtomicI32,
    readable: Arc<WaitQueue>,
    writable: Arc<WaitQueue>,
    writer: Mutex<Writer>,
    reader: Mutex<()>,
    /// Somebody waits for room to send, or was told that there is none.
    wants_room: AtomicBool,
    sndbuf: AtomicUsize,
    rcvbuf: AtomicUsize,
    claim: SpinLock<Option<Claim>>,
    ino: AtomicU64,
    uid: AtomicU32,
}

impl End {
    fn new(queues: Queues, limits: (usize, usize), claim: Claim) -> End {
        End {
            lane: Lane::new(),
            flags: AtomicU32::new(0),
            error: AtomicI32::new(0),
            readable: queues.0,
            writable: queues.1,
            writer: Mutex::new(&WRITER, Writer::default()),
            reader: Mutex::new(&READER, ()),
            wants_room: AtomicBool::new(false),
            sndbuf: AtomicUsize::new(limits.0),
            rcvbuf: AtomicUsize::new(limits.1),
            claim: SpinLock::new(&CLAIM, Some(claim)),
            ino: AtomicU64::new(0),
            uid: AtomicU32::new(0),
        }
    }

    #[inline]
    fn has(&self, flags: u32) -> bool {
        self.flags.load(Ordering::SeqCst) & flags != 0
    }

    /// Sets flags; those that were set before.
    fn set(&self, flags: u32) -> u32 {
        self.flags.fetch_or(flags, Ordering::SeqCst)
    }

    fn fail(&self, error: Errno) {
        self.error.store(error.raw(), Ordering::SeqCst);
    }

    fn take_error(&self) -> Option<Errno> {
        if self.error.load(Ordering::SeqCst) == 0 {
            return None;
        }
        match self.error.swap(0, Ordering::SeqCst) {
            0 => None,
            raw => Some(Errno::from_raw(raw)),
        }
    }

    /// Wakes everybody: the state has changed.
    fn announce(&self) {
        self.readable.notify(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP | POLLERR);
        self.writable.notify(POLLOUT | POLLWRNORM | POLLHUP | POLLERR);
    }
}

/// The queues of a socket: who waits for data, who waits for room.
pub(crate) type Queues = (Arc<WaitQueue>, Arc<WaitQueue>);

/// Both ends of a connection.
pub(crate) struct Pair {
    inet: Arc<Inet>,
    /// As the end that connected sees it.
    tuple: Tuple,
    change: SpinLock<()>,
    ends: [End; 2],
    /// Whom a deferred connection is shown to.
    listener: SpinLock<Option<Arc<Listener>>>,
}

/// One end of a connection: the first connected, the second was accepted.
#[derive(Clone)]
pub(crate) struct Direct {
    pair: Arc<Pair>,
    is_second: bool,
}

/// What one end of a new connection brings along.
pub(crate) struct Side {
    pub(crate) queues: Queues,
    /// `SO_SNDBUF` and `SO_RCVBUF`.
    pub(crate) limits: (usize, usize),
    pub(crate) claim: Claim,
}

/// Makes a connection and enters it; `EADDRNOTAVAIL` if there is one between these ends.
pub(crate) fn establish(
    inet: &Arc<Inet>,
    tuple: Tuple,
    first: Side,
    second: Side,
) -> Result<(Direct, Direct)> {
    let [first, second] =
        [first, second].map(|side| End::new(side.queues, side.limits, side.claim));
    let pair = Arc::new(Pair {
        inet: inet.clone(),
        tuple,
        change: SpinLock::new(&PAIR, ()),
        ends: [first, second],
        listener: SpinLock::new(&CLAIM, None),
    });
    let first = Direct { pair: pair.clone(), is_second: false };
    let second = Direct { pair, is_second: true };
    if !inet.tcp.enter(tuple, Conn::Direct(first.clone())) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    if !inet.tcp.enter(tuple.reversed(), Conn::Direct(second.clone())) {
        inet.tcp.leave(&tuple);
        return Err(Errno::EADDRNOTAVAIL);
    }
    count(&inet.counters.tcp_active_opens);
    count(&inet.counters.tcp_passive_opens);
    Ok((first, second))
}

impl Direct {
    #[inline]
    fn end(&self) -> &End {
        let [first, second] = &self.pair.ends;
        if self.is_second { second } else { first }
    }

    #[inline]
    fn peer(&self) -> &End {
        let [first, second] = &self.pair.ends;
        if self.is_second { first } else { second }
    }

    pub(crate) fn tuple(&self) -> Tuple {
        if self.is_second { self.pair.tuple.reversed() } else { self.pair.tuple }
    }

    pub(crate) fn queues(&self) -> Queues {
        (self.end().readable.clone(), self.end().writable.clone())
    }

    pub(crate) fn set_owner(&self, ino: u64, uid: u32) {
        self.end().ino.store(ino, Ordering::Relaxed);
        self.end().uid.store(uid, Ordering::Relaxed);
    }

    pub(crate) fn set_limits(&self, sndbuf: usize, rcvbuf: usize) {
        self.end().sndbuf.store(sndbuf, Ordering::Relaxed);
        self.end().rcvbuf.store(rcvbuf, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> State {
        let flags = self.end().flags.load(Ordering::SeqCst);
        match flags & (FIN_SENT | FIN_RECEIVED) {
            _ if flags & OVER != 0 => State::Closed,
            0 => State::Established,
            FIN_SENT => State::FinWait2,
            FIN_RECEIVED => State::CloseWait,
            _ => State::Closed,
        }
    }

    /// Keeps the connection from its listener until data comes.
    pub(crate) fn defer(&self, listener: &Arc<Listener>) {
        *self.pair.listener.lock() = Some(listener.clone());
        self.end().set(DEFERRED);
    }

    /// Data came, or will not: a deferred connection is shown.
    #[cold]
    fn stop_deferring(&self, end: &End) {
        let old = end.flags.fetch_and(!DEFERRED, Ordering::SeqCst);
        let listener = self.pair.listener.lock().take();
        if old & DEFERRED != 0
            && let Some(listener) = listener
        {
            let second = Direct { pair: self.pair.clone(), is_second: true };
            listener.show(Conn::Direct(second));
        }
    }

    /// How many bytes may be on their way to the other end.
    #[inline]
    fn limit(&self) -> usize {
        self.end().sndbuf.load(Ordering::Relaxed) + self.peer().rcvbuf.load(Ordering::Relaxed)
    }

    /// Why nothing can be sent.
    #[cold]
    fn why_not_send(&self) -> Errno {
        self.end().take_error().unwrap_or(Errno::EPIPE)
    }

    #[inline]
    fn cannot_send(&self) -> bool {
        let end = self.end();
        end.has(FIN_SENT | OVER) || end.error.load(Ordering::SeqCst) != 0
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.peer().lane.len() < self.limit()
    }

    pub(crate) fn send(
        &self,
        source: &mut Source<'_>,
        flags: u32,
        wait: Patience,
    ) -> Result<usize> {
        let (end, peer) = (self.end(), self.peer());
        let mut total = 0;
        loop {
            {
                let mut writer = end.writer.lock();
                loop {
                    if self.cannot_send() {
                        return if total > 0 { Ok(total) } else { Err(self.why_not_send()) };
                    }
                    if peer.has(ORPHAN) {
                        return Ok(total + self.send_to_nobody(source));
                    }
                    let room = self.limit().saturating_sub(peer.lane.len());
                    if room == 0 {
                        break;
                    }
                    let (pieces, bytes) = match writer.fill(source, room) {
                        Ok(filled) => filled,
                        Err(_) if total > 0 => return Ok(total),
                        Err(error) => return Err(error),
                    };
                    total += bytes;
                    if bytes > 0 {
                        peer.lane.push(pieces, bytes);
                        if peer.has(DEFERRED) {
                            self.stop_deferring(peer);
                        }
                    }
                    if flags & MSG_OOB != 0 && source.is_empty() && bytes > 0 {
                        peer.lane.mark_urgent();
                        peer.readable.notify(POLLPRI);
                    }
                    peer.readable.notify(POLLIN | POLLRDNORM);
                    if source.is_empty() || bytes == 0 {
                        return Ok(total);
                    }
                }
            }
            end.wants_room.store(true, Ordering::SeqCst);
            let ready =
                || (self.has_room() || self.cannot_send() || peer.has(ORPHAN)).then_some(());
            match wait.wait(&end.writable, ready) {
                Ok(()) => {}
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }

    /// The other end has no program any more: it answers data with a reset (RFC 1122 §4.2.2.13).
    #[cold]
    fn send_to_nobody(&self, source: &mut Source<'_>) -> usize {
        let count = source.remaining();
        source.advance(count);
        let change = self.pair.change.lock();
        self.end_all();
        self.end().fail(Errno::EPIPE);
        drop(change);
        self.end().announce();
        count
    }

    /// Ends the connection on both sides. Under the lock.
    fn end_all(&self) {
        for (end, tuple) in self.both() {
            end.set(OVER);
            self.pair.inet.tcp.leave(&tuple);
            drop(end.claim.lock().take());
        }
    }

    fn both(&self) -> [(&End, Tuple); 2] {
        let [first, second] = &self.pair.ends;
        [(first, self.pair.tuple), (second, self.pair.tuple.reversed())]
    }

    #[inline]
    fn may_read(&self) -> bool {
        let end = self.end();
        end.lane.len() > 0
            || end.has(FIN_RECEIVED | OVER | DEAF)
            || end.error.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn recv(&self, sink: &mut Sink<'_>, wanted: &Wanted) -> Result<usize> {
        let end = self.end();
        if wanted.flags & MSG_TRUNC != 0 {
            let mut nowhere = Sink::discard(sink.remaining());
            let wanted = Wanted { flags: wanted.flags & !MSG_TRUNC, ..*wanted };
            return self.recv(&mut nowhere, &wanted);
        }
        let is_peek = wanted.flags & MSG_PEEK != 0;
        let mut total = 0;
        loop {
            let count = {
                let _turn = end.reader.lock();
                if is_peek {
                    total = 0;
                    end.lane.peek(sink, 0, wanted.inline)
                } else {
                    end.lane.read(sink, wanted.inline)
                }
            };
            match count {
                Ok(count) => total += count,
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error),
            }
            if total > 0 {
                if !is_peek {
                    self.tell_room();
                }
                let is_done = total >= wanted.target || sink.is_full() || is_peek;
                if is_done || end.lane.is_at_mark() {
                    return Ok(total);
                }
            }
            if end.lane.len() == 0 {
                if total > 0 && end.has(FIN_RECEIVED | OVER | DEAF) {
                    return Ok(total);
                }
                if let Some(error) = end.take_error() {
                    return if total > 0 {
                        end.fail(error);
                        Ok(total)
                    } else {
                        Err(error)
                    };
                }
                if end.has(FIN_RECEIVED | OVER | DEAF) {
                    // What was sent before the end is seen before the end.
                    if end.lane.len() == 0 {
                        return Ok(total);
                    }
                    continue;
                }
            }
            match wanted.patience.wait(&end.readable, || self.may_read().then_some(())) {
                Ok(()) => {}
                Err(_) if total > 0 => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }

    /// There is room again: the sender hears of it when a third is free.
    #[inline]
    fn tell_room(&self) {
        let peer = self.peer();
        if !peer.wants_room.load(Ordering::SeqCst) {
            return;
        }
        let limit = peer.sndbuf.load(Ordering::Relaxed) + self.end().rcvbuf.load(Ordering::Relaxed);
        if self.end().lane.len() <= limit - limit / 3
            && peer.wants_room.swap(false, Ordering::SeqCst)
        {
            peer.writable.notify(POLLOUT | POLLWRNORM);
        }
    }

    /// Sends a FIN, if that has not been done. Under the lock; whether it was.
    fn send_fin(&self) -> bool {
        let (end, peer) = (self.end(), self.peer());
        if end.has(OVER) {
            return false;
        }
        let old = end.set(FIN_SENT);
        if old & FIN_SENT != 0 {
            return false;
        }
        if old & FIN_RECEIVED == 0 {
            end.set(FIRST);
        }
        peer.set(FIN_RECEIVED);
        if old & FIN_RECEIVED != 0 {
            self.complete();
        }
        true
    }

    /// Both have sent their FIN: the one that began stays in TIME_WAIT (RFC 9293 §3.6).
    fn complete(&self) {
        let inet = &self.pair.inet;
        for (end, tuple) in self.both() {
            end.set(OVER);
            inet.tcp.leave(&tuple);
            let claim = end.claim.lock().take();
            if end.has(FIRST) {
                // Without a program it waited for this in FIN_WAIT2.
                let claim = claim.or_else(|| inet.tcp.time_wait.take(&tuple));
                if let Some(claim) = claim {
                    inet.tcp.time_wait.add(inet, tuple, State::TimeWait, claim);
                }
            }
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        let sent = {
            let _change = self.pair.change.lock();
            if how.reads() {
                self.end().set(DEAF);
            }
            how.writes() && self.send_fin()
        };
        if self.peer().has(DEFERRED) {
            self.stop_deferring(self.peer());
        }
        self.end().announce();
        if sent {
            self.peer().announce();
        }
    }

    pub(crate) fn close(&self, how: Goodbye) {
        let (end, peer) = (self.end(), self.peer());
        let (is_heard, is_reset) = {
            let _change = self.pair.change.lock();
            end.set(ORPHAN);
            // RFC 2525 §2.17: data that nobody will read is answered by a reset.
            let is_reset = how == Goodbye::Abrupt || end.lane.len() > 0;
            if end.has(OVER) {
                (false, false)
            } else if is_reset {
                let error = if end.has(FIN_SENT) { Errno::EPIPE } else { Errno::ECONNRESET };
                peer.fail(error);
                self.end_all();
                count(&self.pair.inet.counters.tcp_estab_resets);
                (true, true)
            } else {
                let heard = self.send_fin();
                if !end.has(OVER) && !peer.has(ORPHAN) {
                    self.forget_later();
                }
                (heard, false)
            }
        };
        end.lane.clear();
        if !is_reset && peer.has(DEFERRED) {
            self.stop_deferring(peer);
        }
        if is_heard || peer.wants_room.load(Ordering::SeqCst) {
            peer.announce();
        }
    }

    /// An end without a program waits for the other's FIN for `tcp_fin_timeout` only, then its port is free.
    fn forget_later(&self) {
        let inet = &self.pair.inet;
        if let Some(claim) = self.end().claim.lock().take() {
            inet.tcp.time_wait.add(inet, self.tuple(), State::FinWait2, claim);
        }
        inet.tcp.leave(&self.tuple());
    }

    pub(crate) fn poll(&self, lowat: usize) -> u32 {
        let end = self.end();
        let mut events = 0;
        if !self.has_room() {
            end.wants_room.store(true, Ordering::SeqCst);
        }
        let flags = end.flags.load(Ordering::SeqCst);
        let is_over = flags & OVER != 0;
        let hears_nothing = flags & (FIN_RECEIVED | DEAF | OVER) != 0;
        let says_nothing = flags & (FIN_SENT | OVER) != 0;
        if end.error.load(Ordering::SeqCst) != 0 {
            events |= POLLERR;
        }
        let len = end.lane.len();
        if len >= lowat.max(1) || hears_nothing {
            events |= POLLIN | POLLRDNORM;
        }
        if hears_nothing {
            events |= POLLRDHUP;
        }
        if is_over || (hears_nothing && says_nothing) {
            events |= POLLHUP;
        }
        if says_nothing || self.has_room() {
            events |= POLLOUT | POLLWRNORM;
        }
        if len > 0 && end.lane.has_urgent() {
            events |= POLLPRI;
        }
        events
    }

    pub(crate) fn take_error(&self) -> Option<Errno> {
        self.end().take_error()
    }

    pub(crate) fn inq(&self) -> usize {
        self.end().lane.len()
    }

    /// What the other end has not read counts as acknowledged.
    pub(crate) fn outq(&self) -> usize {
        0
    }

    pub(crate) fn is_at_mark(&self) -> bool {
        self.end().lane.is_at_mark()
    }

    pub(crate) fn take_urgent(&self, peek: bool) -> Result<u8> {
        self.end().lane.take_urgent(peek)
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts {
            state: self.state(),
            received: self.end().lane.received(),
            sent: self.peer().lane.received(),
            unread: self.end().lane.len(),
            unacknowledged: 0,
            mss: LOOPBACK_MSS,
            cwnd: knob(&self.pair.inet.knobs.tcp_init_cwnd).max(1) as u32,
            rtt_us: 20,
            rttvar_us: 10,
            rto_us: 200_000,
            retransmits: 0,
            ssthresh: i32::MAX as u32,
            options: 7,
            ino: self.end().ino.load(Ordering::Relaxed),
            uid: self.end().uid.load(Ordering::Relaxed),
        }
    }
}
