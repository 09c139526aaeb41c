//! What a connection sends, and when it may.

use smallvec::SmallVec;

use super::{Options, Segment, State, Tcb, flag};

/// The most payload handed to a device at once.
const MOST_AT_ONCE: usize = 65160;

impl Tcb {
    /// Something of the stream is on its way or was lost.
    pub(super) fn in_flight(&self) -> u64 {
        self.nxt - self.una
    }

    /// The offset after the last byte of data.
    fn data_end(&self) -> u64 {
        self.send.end()
    }

    fn is_fin_sent(&self) -> bool {
        self.fin_wanted && self.nxt > self.data_end()
    }

    pub(super) fn window_edge(&self, unread: usize) -> u64 {
        self.rcv_nxt + self.config.rcvbuf.saturating_sub(unread) as u64
    }

    fn stamp(now: u64) -> u32 {
        (now / 1_000_000) as u32
    }

    /// A segment with what every one has, at an offset.
    pub(super) fn segment(&self, at: u64, flags: u8) -> Segment {
        let promised = self.rcv_edge.saturating_sub(self.rcv_nxt);
        Segment {
            seq: self.config.iss.wrapping_add(at as u32),
            ack: if flags & flag::ACK != 0 {
                self.irs.wrapping_add(self.rcv_nxt as u32)
            } else {
                0
            },
            flags,
            window: (promised >> self.rcv_scale).min(65535) as u16,
            urgent: 0,
            options: Options::default(),
            payload: SmallVec::new(),
        }
    }

    pub(super) fn send_syn(&mut self, now: u64) {
        let mut flags = flag::SYN;
        if self.state == State::SynReceived {
            flags |= flag::ACK;
        }
        self.rcv_edge = self.rcv_edge.max(self.rcv_nxt + self.config.rcvbuf.min(65535) as u64);
        let mut syn = self.segment(0, flags);
        // The window of a SYN is never scaled.
        syn.window = self.config.rcvbuf.min(65535) as u16;
        syn.options.mss = Some(self.config.mss);
        syn.options.scale = self.config.scale;
        syn.options.may_sack = self.config.has_sack;
        if self.config.has_stamps {
            syn.options.stamps = Some((Self::stamp(now), self.recent_stamp));
        }
        if self.max_sent == 0 {
            self.timed = Some((1, now));
        }
        self.nxt = self.nxt.max(1);
        self.max_sent = self.max_sent.max(1);
        self.out.push_back(syn);
        self.rto_at.get_or_insert(now + self.rtt.backed_off_ns(self.backoff));
        self.first_unacked_ns.get_or_insert(now);
    }

    fn put(&mut self, mut segment: Segment, now: u64, unread: usize) {
        let edge = self.window_edge(unread);
        // What was promised is never taken back (RFC 9293 §3.8.6).
        let field = (edge.max(self.rcv_edge) - self.rcv_nxt) >> self.rcv_scale;
        segment.window = field.min(65535) as u16;
        self.rcv_edge =
            self.rcv_edge.max(self.rcv_nxt + (u64::from(segment.window) << self.rcv_scale));
        if self.config.has_stamps {
            segment.options.stamps = Some((Self::stamp(now), self.recent_stamp));
        }
        if self.config.has_sack {
            let most = if self.config.has_stamps { 3 } else { 4 };
            let wire = |(start, end): (u64, u64)| {
                (self.irs.wrapping_add(start as u32), self.irs.wrapping_add(end as u32))
            };
            segment.options.sacks.extend(self.dsack.take().map(wire));
            let newest = self.held_newest.and_then(|at| self.out_of_order.around(at));
            segment.options.sacks.extend(newest.map(wire));
            let others = self.out_of_order.descending().filter(|range| Some(*range) != newest);
            let left = most - segment.options.sacks.len().min(most);
            segment.options.sacks.extend(others.take(left).map(wire));
        }
        if let Some(to) = self.urgent_to {
            let at = self.una
                + u64::from(
                    segment.seq.wrapping_sub(self.config.iss.wrapping_add(self.una as u32)),
                );
            if to > at && to - at <= 65535 {
                segment.flags |= flag::URG;
                segment.urgent = (to - at) as u16;
            }
        }
        self.last_ack_sent = self.rcv_nxt;
        self.unacked_segments = 0;
        self.ack_at = None;
        self.out.push_back(segment);
    }

    pub(super) fn send_ack(&mut self, now: u64, unread: usize) {
        let ack = self.segment(self.nxt, flag::ACK);
        self.put(ack, now, unread);
    }

    /// RFC 5961: a segment that might be an attack is answered, but not too often.
    pub(super) fn send_challenge(&mut self, now: u64, unread: usize) {
        let second = now / 1_000_000_000;
        if self.challenge.0 != second {
            self.challenge = (second, 0);
        }
        self.challenge.1 += 1;
        if self.challenge.1 <= 100 {
            self.send_ack(now, unread);
        }
    }

    /// The offset below which everything that was not received counts as lost.
    fn lost_edge(&self) -> u64 {
        match self.recover {
            None => self.una,
            Some(recover) if self.is_loss => recover,
            Some(_) if self.config.has_sack => self
                .sacked
                .threshold(3 * self.mss as u64, 3)
                .unwrap_or(self.una)
                .max(self.rexmit_floor()),
            Some(recover) => (self.una + self.mss as u64).min(recover),
        }
    }

    /// In recovery at least the first segment is lost.
    fn rexmit_floor(&self) -> u64 {
        let end = self.una + self.mss as u64;
        self.sacked.hole(self.una, self.nxt).map_or(end, |(_, e)| e.min(end))
    }

    /// What is believed to be on its way (RFC 6675 §4).
    pub(super) fn pipe(&self) -> u64 {
        let flight = self.in_flight();
        if self.recover.is_none() {
            let doubled =
                if self.config.has_sack { 0 } else { u64::from(self.dup_acks) * self.mss as u64 };
            return flight.saturating_sub(self.sacked.bytes()).saturating_sub(doubled);
        }
        let edge = self.lost_edge();
        let mut lost = 0;
        let mut at = self.rexmit.max(self.una);
        while let Some((start, end)) = self.sacked.hole(at, edge) {
            lost += end - start;
            at = end;
        }
        let doubled =
            if self.config.has_sack { 0 } else { u64::from(self.dup_acks) * self.mss as u64 };
        flight.saturating_sub(self.sacked.bytes()).saturating_sub(lost).saturating_sub(doubled)
    }

    /// Sends what may be sent.
    pub(super) fn transmit(&mut self, now: u64, unread: usize) {
        if !matches!(
            self.state,
            State::Established
                | State::CloseWait
                | State::FinWait1
                | State::LastAck
                | State::Closing
        ) {
            return;
        }
        while self.pipe() < self.congestion.cwnd {
            if self.recover.is_some() && self.retransmit_next(now, unread) {
                continue;
            }
            if !self.send_new(now, unread) {
                break;
            }
        }
        if self.in_flight() > 0 {
            self.arm(now);
        } else if self.rto_at.is_none() && self.unsent() + usize::from(self.is_fin_due()) > 0 {
            // Nothing is on its way and nothing may be sent: the window is asked for.
            self.arm(now);
        }
    }

    fn is_fin_due(&self) -> bool {
        self.fin_wanted && !self.is_fin_sent()
    }

    pub(super) fn arm(&mut self, now: u64) {
        if self.rto_at.is_none() {
            self.rto_at = Some(now + self.rtt.backed_off_ns(self.backoff));
            self.first_unacked_ns.get_or_insert(now);
        }
    }

    /// Sends a lost segment again; `false` if all were.
    pub(super) fn retransmit_next(&mut self, now: u64, unread: usize) -> bool {
        let from = self.rexmit.max(self.una);
        let Some((start, end)) = self.sacked.hole(from, self.lost_edge()) else { return false };
        let len = (end - start).min(self.mss as u64);
        self.resend(start, len as usize, now, unread);
        self.rexmit = start + len;
        true
    }

    pub(super) fn resend(&mut self, start: u64, len: usize, now: u64, unread: usize) {
        let data_end = self.data_end();
        let data = (data_end.saturating_sub(start)).min(len as u64) as usize;
        let mut segment = self.segment(start, flag::ACK | flag::PSH);
        segment.payload = self.send.copy(start, data);
        if self.fin_wanted && self.max_sent > data_end && start + len as u64 > data_end {
            segment.flags |= flag::FIN;
        }
        self.retransmits += 1;
        // Karn: what was sent twice times nothing.
        self.timed = None;
        self.put(segment, now, unread);
    }

    /// Sends data for the first time; `false` if there is none or it may not be sent.
    fn send_new(&mut self, now: u64, unread: usize) -> bool {
        let at = self.nxt.max(1);
        let data_end = self.data_end();
        let available = data_end.saturating_sub(at) as usize;
        let is_fin_due = self.is_fin_due();
        if available == 0 && !(is_fin_due && at == data_end) {
            return false;
        }
        let in_window = (self.una + self.snd_wnd).saturating_sub(at) as usize;
        let in_cwnd = self.congestion.cwnd.saturating_sub(self.pipe()) as usize;
        let mut len = available.min(in_window).min(MOST_AT_ONCE);
        // The congestion window counts whole segments.
        len = len.min(in_cwnd.max(self.mss).next_multiple_of(self.mss));
        if len > self.mss && len < available {
            len -= len % self.mss;
        }
        if available > 0 && len == 0 {
            return false;
        }
        let is_last = at + len as u64 == data_end;
        let with_fin = is_fin_due && is_last;
        if len < self.mss && !with_fin {
            if len < available {
                // RFC 9293 §3.8.6.2.1: no small part because of a small window, unless nothing is on its way.
                if (len as u64) < self.max_wnd / 2 {
                    return false;
                }
            } else {
                let is_urgent = self.urgent_to.is_some_and(|to| to > at);
                let waits = !self.wishes.nodelay && self.in_flight() > 0;
                if (self.wishes.cork || waits) && !is_urgent {
                    return false;
                }
            }
        }
        let mut flags = flag::ACK;
        if is_last && len > 0 {
            flags |= flag::PSH;
        }
        let mut segment = self.segment(at, flags);
        segment.payload = self.send.copy(at, len);
        self.nxt = at + len as u64;
        if with_fin {
            segment.flags |= flag::FIN;
            self.nxt += 1;
        }
        if self.timed.is_none() && self.nxt > self.max_sent {
            self.timed = Some((self.nxt, now));
        }
        self.max_sent = self.max_sent.max(self.nxt);
        self.put(segment, now, unread);
        true
    }
}
