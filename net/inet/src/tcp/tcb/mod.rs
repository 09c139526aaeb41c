//! The state machine of a connection over a wire (RFC 9293), without locks, clocks or devices: segments,
//! instants and a program's wishes go in, segments and data come out. So it is tested against itself over
//! links that lose, reorder and double, in virtual time.
//!
//! Positions in a stream are 64-bit offsets from the initial sequence number, whose 32 bits are only what a
//! segment carries: 0 is the SYN, data begins at 1, and nothing wraps.

mod congestion;
mod input;
mod output;
mod ranges;
mod rtt;
#[cfg(test)]
mod tests;
mod timer;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use abi::Errno;
use frames::PageRef;
use netdevice::Chunk;
use smallvec::SmallVec;

use super::State;
use congestion::{Algorithm, Congestion};
use ranges::{Pieces, Ranges};
use rtt::Rtt;

/// Flags of a segment.
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
    pub(crate) const URG: u8 = 32;
}

/// Options of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) may_sack: bool,
    /// Value and echo.
    pub(crate) stamps: Option<(u32, u32)>,
    pub(crate) sacks: SmallVec<[(u32, u32); 4]>,
}

/// A segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    /// As it stands in the header: not scaled.
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Options,
    pub(crate) payload: SmallVec<[Chunk; 4]>,
}

impl Segment {
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.payload.iter().map(Chunk::len).sum()
    }

    /// Its length in sequence numbers.
    pub(crate) fn len(&self) -> u64 {
        let controls = u64::from(self.has(flag::SYN)) + u64::from(self.has(flag::FIN));
        self.payload_len() as u64 + controls
    }
}

/// What a connection is made with.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) iss: u32,
    /// The most payload of a segment that the way takes.
    pub(crate) mss: u16,
    pub(crate) rcvbuf: usize,
    pub(crate) sndbuf: usize,
    pub(crate) has_stamps: bool,
    pub(crate) has_sack: bool,
    pub(crate) scale: Option<u8>,
    pub(crate) init_cwnd: u32,
    pub(crate) loss_cwnd: u32,
    pub(crate) rto_min_ms: u32,
    pub(crate) rto_max_ms: u32,
    pub(crate) syn_retries: u32,
    pub(crate) retries: u32,
    pub(crate) fin_timeout_ms: u64,
    /// No delayed acknowledgements.
    pub(crate) acks_at_once: bool,
    pub(crate) is_reno: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            iss: 0,
            mss: 1460,
            rcvbuf: 131_072,
            sndbuf: 87_040,
            has_stamps: true,
            has_sack: true,
            scale: Some(7),
            init_cwnd: 10,
            loss_cwnd: 1,
            rto_min_ms: 200,
            rto_max_ms: 120_000,
            syn_retries: 6,
            retries: 15,
            fin_timeout_ms: 60_000,
            acks_at_once: false,
            is_reno: false,
        }
    }
}

/// What a program may change while the connection is there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) nodelay: bool,
    pub(crate) cork: bool,
    /// Idle time, interval and count of probes, if it is to be kept alive.
    pub(crate) keepalive: Option<(u64, u64, u32)>,
    pub(crate) user_timeout_ms: u64,
}

/// A connection.
pub(crate) struct Tcb {
    pub(crate) config: Config,
    pub(crate) wishes: Wishes,
    pub(crate) state: State,
    /// Why it ended.
    pub(crate) error: Option<Errno>,

    // What is sent.
    una: u64,
    nxt: u64,
    /// The highest offset ever sent.
    max_sent: u64,
    send: Pieces,
    fin_wanted: bool,
    snd_wnd: u64,
    snd_wl1: u64,
    snd_wl2: u64,
    max_wnd: u64,
    snd_scale: u8,
    urgent_to: Option<u64>,
    pub(crate) mss: usize,
    sacked: Ranges,
    /// Retransmission in the current recovery has come so far.
    rexmit: u64,
    /// Recovery ends when this is acknowledged.
    recover: Option<u64>,
    /// The current recovery began with a time-out.
    is_loss: bool,
    dup_acks: u32,
    pub(crate) congestion: Congestion,
    pub(crate) rtt: Rtt,
    /// A timed segment, where stamps do not tell: its end and when it was sent.
    timed: Option<(u64, u64)>,

    // What is received.
    irs: u32,
    rcv_nxt: u64,
    /// The right edge that was promised.
    rcv_edge: u64,
    rcv_scale: u8,
    out_of_order: Ranges,
    /// Data beyond a hole by its start, with its end.
    held: BTreeMap<u64, (u64, SmallVec<[Chunk; 4]>)>,
    held_weight: u64,
    /// A page for short payloads, and how much of it is used.
    small: Option<(PageRef, usize)>,
    /// Where what was held last begins: reported first (RFC 2018 §4).
    held_newest: Option<u64>,
    fin_at: Option<u64>,
    urgent_from: Option<u64>,
    recent_stamp: u32,
    recent_stamp_ns: u64,
    last_ack_sent: u64,
    unacked_segments: u32,
    quick_acks: u32,
    /// Duplicate to report first (RFC 2883).
    dsack: Option<(u64, u64)>,

    // Time.
    rto_at: Option<u64>,
    backoff: u32,
    probes: u32,
    ack_at: Option<u64>,
    alive_at: Option<u64>,
    last_heard_ns: u64,
    last_sent_ns: u64,
    first_unacked_ns: Option<u64>,
    ends_at: Option<u64>,
    challenge: (u64, u32),
    /// No program has it any more.
    is_orphan: bool,

    pub(crate) retransmits: u32,
    /// Segments to be sent, in order.
    pub(crate) out: VecDeque<Segment>,
    /// Data for the program, in order.
    pub(crate) arrived: Vec<Chunk>,
    /// An urgent byte is the last of what arrived.
    pub(crate) is_urgent: bool,
}

impl Tcb {
    fn new(config: Config, state: State, now: u64) -> Tcb {
        let algorithm = if config.is_reno { Algorithm::Reno } else { Algorithm::Cubic };
        let mss = usize::from(config.mss);
        Tcb {
            congestion: Congestion::new(algorithm, config.init_cwnd, mss),
            rtt: Rtt::new(config.rto_min_ms, config.rto_max_ms),
            mss,
            rcv_scale: 0,
            config,
            wishes: Wishes::default(),
            state,
            error: None,
            una: 0,
            nxt: 0,
            max_sent: 0,
            send: Pieces::new(1),
            fin_wanted: false,
            snd_wnd: 0,
            snd_wl1: 0,
            snd_wl2: 0,
            max_wnd: 0,
            snd_scale: 0,
            urgent_to: None,
            sacked: Ranges::default(),
            rexmit: 0,
            recover: None,
            is_loss: false,
            dup_acks: 0,
            timed: None,
            irs: 0,
            rcv_nxt: 0,
            rcv_edge: 0,
            out_of_order: Ranges::default(),
            held: BTreeMap::new(),
            held_weight: 0,
            small: None,
            held_newest: None,
            fin_at: None,
            urgent_from: None,
            recent_stamp: 0,
            recent_stamp_ns: now,
            last_ack_sent: 0,
            unacked_segments: 0,
            quick_acks: 16,
            dsack: None,
            rto_at: None,
            backoff: 0,
            probes: 0,
            ack_at: None,
            alive_at: None,
            last_heard_ns: now,
            last_sent_ns: now,
            first_unacked_ns: None,
            ends_at: None,
            challenge: (0, 0),
            is_orphan: false,
            retransmits: 0,
            out: VecDeque::new(),
            arrived: Vec::new(),
            is_urgent: false,
        }
    }

    /// Calls: sends a SYN.
    pub(crate) fn connect(config: Config, now: u64) -> Tcb {
        let mut tcb = Tcb::new(config, State::SynSent, now);
        tcb.send_syn(now);
        tcb
    }

    /// Answers a SYN.
    pub(crate) fn answer(config: Config, syn: &Segment, now: u64) -> Tcb {
        let mut tcb = Tcb::new(config, State::SynReceived, now);
        tcb.take_syn(syn, now);
        tcb.send_syn(now);
        tcb
    }

    /// Bytes a program may still hand over.
    pub(crate) fn room(&self) -> usize {
        self.config.sndbuf.saturating_sub(self.send.len())
    }

    /// Whether there is room worth waking a sender for: a third of the buffer.
    pub(crate) fn has_room(&self) -> bool {
        self.room().saturating_mul(3) >= self.config.sndbuf
    }

    /// Bytes handed over and not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.send.len()
    }

    /// Bytes not yet sent for the first time.
    pub(crate) fn unsent(&self) -> usize {
        (self.send.end().saturating_sub(self.nxt.max(1))) as usize
    }

    /// Whether the program may send.
    pub(crate) fn may_send(&self) -> bool {
        matches!(self.state, State::Established | State::CloseWait) && !self.fin_wanted
    }

    /// Whether nothing more will arrive.
    pub(crate) fn is_deaf(&self) -> bool {
        matches!(
            self.state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed
        )
    }

    /// The program hands data over.
    pub(crate) fn write(
        &mut self,
        pieces: impl IntoIterator<Item = Chunk>,
        now: u64,
        unread: usize,
    ) {
        for piece in pieces {
            self.send.push(piece);
        }
        let idle_ns = u64::from(self.rtt.rto_us()) * 1000;
        if self.in_flight() == 0 && now.saturating_sub(self.last_sent_ns) > idle_ns {
            self.congestion.was_idle(self.config.init_cwnd);
        }
        self.last_sent_ns = now;
        self.transmit(now, unread);
    }

    /// The last byte handed over is urgent.
    pub(crate) fn mark_urgent(&mut self) {
        self.urgent_to = Some(self.send.end());
    }

    /// The program sends no more.
    pub(crate) fn finish(&mut self, now: u64, unread: usize) {
        match self.state {
            State::Established | State::SynReceived => self.state = State::FinWait1,
            State::CloseWait => self.state = State::LastAck,
            State::SynSent => {
                self.state = State::Closed;
                return;
            }
            _ => return,
        }
        self.fin_wanted = true;
        self.transmit(now, unread);
    }

    /// The program is gone: FIN_WAIT2 does not last for ever any more.
    pub(crate) fn orphan(&mut self, now: u64) {
        self.is_orphan = true;
        self.limit_fin_wait(now);
        self.wishes.keepalive = None;
        self.alive_at = None;
    }

    fn limit_fin_wait(&mut self, now: u64) {
        if self.is_orphan && self.state == State::FinWait2 {
            self.ends_at = Some(now + self.config.fin_timeout_ms * 1_000_000);
        }
    }

    /// Ends it at once; the other end hears of it.
    pub(crate) fn abort(&mut self) {
        if !matches!(self.state, State::SynSent | State::Closed | State::TimeWait | State::Listen) {
            let mut reset = self.segment(self.nxt, flag::RST | flag::ACK);
            reset.window = 0;
            self.out.push_back(reset);
        }
        self.close(None);
    }

    fn close(&mut self, error: Option<Errno>) {
        self.state = State::Closed;
        if self.error.is_none() {
            self.error = error;
        }
        (self.rto_at, self.ack_at, self.alive_at, self.ends_at) = (None, None, None, None);
        self.send.clear();
        self.forget_held();
    }

    /// The program has read: the window may open.
    pub(crate) fn has_read(&mut self, now: u64, unread: usize) {
        if self.is_deaf() || !self.is_synchronized() {
            return;
        }
        // RFC 9293 §3.8.6.2.2: by at least a segment or half of the buffer.
        let edge = self.window_edge(unread);
        let gain = edge.saturating_sub(self.rcv_edge);
        let promised = self.rcv_edge.saturating_sub(self.rcv_nxt);
        let worth = (self.mss as u64 * 2).min(self.config.rcvbuf as u64 / 2).max(1);
        if gain >= worth && promised <= self.config.rcvbuf as u64 / 2 {
            self.send_ack(now, unread);
        }
    }

    pub(crate) fn is_synchronized(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::Closed | State::Listen)
    }

    /// Whether something with this sequence number was sent and is not acknowledged (RFC 5927 §4.1).
    pub(crate) fn is_in_flight(&self, seq: u32) -> bool {
        let at = seq.wrapping_sub(self.config.iss.wrapping_add(self.una as u32));
        u64::from(at) < self.max_sent.saturating_sub(self.una)
    }

    /// Whether it waits out its time and `call`, a SYN, is newer than all that came (RFC 6191 §2).
    pub(crate) fn gives_way(&self, call: &Segment) -> bool {
        let is_newer = |new: u32, old: u32| new.wrapping_sub(old) as i32 > 0;
        let is_beyond = is_newer(call.seq, self.irs.wrapping_add(self.rcv_nxt as u32));
        self.state == State::TimeWait
            && match call.options.stamps {
                Some((stamp, _)) if self.config.has_stamps && stamp != self.recent_stamp => {
                    is_newer(stamp, self.recent_stamp)
                }
                _ => is_beyond,
            }
    }

    /// ICMP says that the way takes less.
    pub(crate) fn lower_mss(&mut self, mss: usize, now: u64, unread: usize) {
        if mss < self.mss {
            self.mss = mss.max(88);
            self.congestion.set_mss(self.mss);
            // What was too long is lost.
            self.nxt = self.una.max(1);
            self.transmit(now, unread);
        }
    }

    /// Sent and received offsets without the SYN.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.max_sent.saturating_sub(1), self.rcv_nxt.saturating_sub(1))
    }
}
