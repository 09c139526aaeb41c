//! What a connection does with a segment (RFC 9293 §3.10.7, RFC 5961, RFC 7323).

use abi::Errno;
use netdevice::Chunk;
use smallvec::SmallVec;

use super::{Segment, State, Tcb, flag};

/// How long an acknowledgement may wait for company.
const DELAY_NS: u64 = 40_000_000;
/// What a connection leaves behind stays so long.
const TIME_WAIT_NS: u64 = 60_000_000_000;
/// Payloads up to this length share pages.
const SHORT: usize = 512;
/// After so long without a segment an old time stamp is believed again (RFC 7323 §5.5).
const STAMP_AGE_NS: u64 = 24 * 24 * 3600 * 1_000_000_000;

impl Tcb {
    /// A position that a segment means, near another one.
    fn offset(base: u32, near: u64, wire: u32) -> Option<u64> {
        let off = wire.wrapping_sub(base.wrapping_add(near as u32)) as i32;
        near.checked_add_signed(i64::from(off))
    }

    pub(super) fn take_syn(&mut self, syn: &Segment, now: u64) {
        let options = &syn.options;
        self.irs = syn.seq;
        self.rcv_nxt = 1;
        self.rcv_edge = 1;
        let theirs = usize::from(options.mss.unwrap_or(536)).max(64);
        self.mss = self.mss.min(theirs);
        match (options.scale, self.config.scale) {
            (Some(theirs), Some(own)) => {
                self.snd_scale = theirs.min(14);
                self.rcv_scale = own;
            }
            _ => self.config.scale = None,
        }
        self.config.has_sack &= options.may_sack;
        self.config.has_stamps &= options.stamps.is_some();
        if let Some((value, _)) = options.stamps {
            self.recent_stamp = value;
            self.recent_stamp_ns = now;
        }
        if self.config.has_stamps {
            self.mss -= 12;
        }
        self.congestion.set_mss(self.mss);
        self.snd_wnd = u64::from(syn.window);
        self.max_wnd = self.snd_wnd;
        self.snd_wl1 = 0;
        self.last_ack_sent = 1;
    }

    /// A segment came; `unread` is what the program has not read.
    pub(crate) fn receive(&mut self, segment: Segment, now: u64, unread: usize) {
        match self.state {
            State::Closed | State::Listen => {}
            State::SynSent => self.receive_in_syn_sent(&segment, now, unread),
            _ => self.receive_synchronized(segment, now, unread),
        }
    }

    fn receive_in_syn_sent(&mut self, segment: &Segment, now: u64, unread: usize) {
        let acked = if segment.has(flag::ACK) {
            match Self::offset(self.config.iss, self.una, segment.ack) {
                Some(1) => true,
                _ if segment.has(flag::RST) => return,
                _ => {
                    let mut reset = self.segment(0, flag::RST);
                    reset.seq = segment.ack;
                    self.out.push_back(reset);
                    return;
                }
            }
        } else {
            false
        };
        if segment.has(flag::RST) {
            if acked {
                self.close(Some(Errno::ECONNREFUSED));
            }
            return;
        }
        if !segment.has(flag::SYN) {
            return;
        }
        self.take_syn(segment, now);
        self.last_heard_ns = now;
        if !acked {
            // Both called at once.
            self.state = State::SynReceived;
            self.rto_at = None;
            self.send_syn(now);
            return;
        }
        self.acked_syn(segment, now);
        self.state = State::Established;
        self.keep_alive_from(now);
        self.send_ack(now, unread);
        self.transmit(now, unread);
    }

    fn acked_syn(&mut self, segment: &Segment, now: u64) {
        self.una = 1;
        self.nxt = self.nxt.max(1);
        (self.rto_at, self.backoff, self.first_unacked_ns) = (None, 0, None);
        if let Some((_, sent)) = self.timed.take() {
            self.rtt.sample(now.saturating_sub(sent) / 1000);
        }
        self.snd_wl2 = 1;
        let _ = segment;
    }

    fn receive_synchronized(&mut self, mut segment: Segment, now: u64, unread: usize) {
        let Some(seq) = Self::offset(self.irs, self.rcv_nxt, segment.seq) else { return };
        let len = segment.len();
        if let (true, Some((value, _))) = (self.config.has_stamps, segment.options.stamps) {
            let is_old = (value.wrapping_sub(self.recent_stamp) as i32) < 0
                && now.saturating_sub(self.recent_stamp_ns) < STAMP_AGE_NS;
            if is_old && !segment.has(flag::RST) {
                if len > 0 {
                    self.note_duplicate(seq, seq + segment.payload_len() as u64);
                    self.send_challenge(now, unread);
                }
                return;
            }
        }
        let edge = self.rcv_edge.max(self.rcv_nxt);
        let is_inside = |at: u64| at >= self.rcv_nxt && at < edge;
        let is_acceptable = match (len, edge - self.rcv_nxt) {
            (0, 0) => seq == self.rcv_nxt,
            (0, _) => is_inside(seq) || seq == self.rcv_nxt,
            // With no room the acknowledgement of what begins here is still heard.
            (_, 0) => seq <= self.rcv_nxt && seq + len > self.rcv_nxt,
            (len, _) => seq < edge && seq + len > self.rcv_nxt,
        };
        if !is_acceptable {
            if segment.has(flag::RST) {
                return;
            }
            if segment.has(flag::SYN) && self.state == State::SynReceived {
                // The SYN came again: our answer was lost.
                self.send_syn(now);
                return;
            }
            self.note_duplicate(seq, seq + segment.payload_len() as u64);
            if self.state == State::TimeWait && segment.has(flag::FIN) {
                self.ends_at = Some(now + TIME_WAIT_NS);
            }
            self.send_challenge(now, unread);
            return;
        }
        if segment.has(flag::RST) {
            // RFC 5961 §3.2: only exactly where it is expected.
            if seq == self.rcv_nxt {
                self.reset();
            } else {
                self.send_challenge(now, unread);
            }
            return;
        }
        if segment.has(flag::SYN) {
            self.send_challenge(now, unread);
            return;
        }
        if !segment.has(flag::ACK) {
            return;
        }
        self.last_heard_ns = now;
        self.probes = 0;
        self.keep_alive_from(now);
        if let Some((value, _)) = segment.options.stamps
            && self.config.has_stamps
            && seq <= self.last_ack_sent
        {
            self.recent_stamp = value;
            self.recent_stamp_ns = now;
        }
        if !self.receive_ack(&segment, seq, now, unread) || self.state == State::Closed {
            return;
        }
        self.receive_data(&mut segment, seq, now, unread);
        self.transmit(now, unread + self.arrived.iter().map(Chunk::len).sum::<usize>());
    }

    fn reset(&mut self) {
        let error = match self.state {
            State::SynReceived => Errno::ECONNREFUSED,
            State::CloseWait => Errno::EPIPE,
            State::TimeWait | State::LastAck | State::Closing => return self.close(None),
            _ => Errno::ECONNRESET,
        };
        self.close(Some(error));
    }

    /// What came and is here already is reported (RFC 2883); what lies beyond the window is not here.
    fn note_duplicate(&mut self, start: u64, end: u64) {
        let is_here = end <= self.rcv_nxt || self.out_of_order.covers(start, end);
        if end > start && is_here && self.config.has_sack {
            self.dsack = Some((start, end));
        }
    }

    /// Whether the segment is to be looked at further.
    fn receive_ack(&mut self, segment: &Segment, seq: u64, now: u64, unread: usize) -> bool {
        let Some(ack) = Self::offset(self.config.iss, self.una, segment.ack) else { return false };
        if self.state == State::SynReceived {
            if ack != 1 {
                let mut reset = self.segment(0, flag::RST);
                reset.seq = segment.ack;
                self.out.push_back(reset);
                return false;
            }
            self.acked_syn(segment, now);
            self.state = State::Established;
            self.snd_wnd = u64::from(segment.window) << self.snd_scale;
            self.max_wnd = self.snd_wnd;
            (self.snd_wl1, self.snd_wl2) = (seq, ack);
            return true;
        }
        if ack > self.max_sent || ack + self.max_wnd.max(65535) < self.una {
            self.send_challenge(now, unread);
            return false;
        }
        let has_news = self.take_sacks(segment);
        let window = u64::from(segment.window) << self.snd_scale;
        let is_same_window = window == self.snd_wnd;
        if self.snd_wl1 < seq || (self.snd_wl1 == seq && self.snd_wl2 <= ack) {
            if self.snd_wnd == 0 && window > 0 {
                // The window opened: what waited for it is not a loss.
                (self.backoff, self.rto_at) = (0, None);
            }
            self.snd_wnd = window;
            self.max_wnd = self.max_wnd.max(window);
            (self.snd_wl1, self.snd_wl2) = (seq, ack);
        }
        if ack > self.una {
            self.advance(segment, ack, now);
        } else if ack == self.una && self.in_flight() > 0 {
            let is_bare = segment.len() == 0 && (is_same_window || has_news);
            if is_bare {
                self.dup_acks += 1;
                self.consider_loss(now, unread);
            }
        }
        true
    }

    /// Notes what the other end has beyond a hole; whether something of that is new.
    fn take_sacks(&mut self, segment: &Segment) -> bool {
        let mut has_news = false;
        if !self.config.has_sack {
            return false;
        }
        for (start, end) in &segment.options.sacks {
            let at = |wire| Self::offset(self.config.iss, self.una, wire);
            let (Some(start), Some(end)) = (at(*start), at(*end)) else { continue };
            let is_sane = start >= self.una && start < end && end <= self.max_sent;
            // A bound on what an inventive peer makes us remember.
            if is_sane && self.sacked.count() < 1024 {
                has_news |= self.sacked.add(start, end);
            }
        }
        has_news
    }

    fn advance(&mut self, segment: &Segment, ack: u64, now: u64) {
        let bytes = ack - self.una;
        let was_full = self.in_flight() + self.mss as u64 >= self.congestion.cwnd;
        self.una = ack;
        self.nxt = self.nxt.max(ack);
        self.send.cut(ack);
        self.sacked.cut(ack);
        self.backoff = 0;
        self.dup_acks = 0;
        self.measure(segment, ack, now);
        if self.urgent_to.is_some_and(|to| to <= ack) {
            self.urgent_to = None;
        }
        match self.recover {
            Some(recover) if ack >= recover => {
                self.recover = None;
                self.is_loss = false;
            }
            Some(_) => {
                if self.is_loss {
                    self.congestion.acked(bytes, now / 1_000_000, self.srtt_ms());
                }
                if !self.config.has_sack {
                    self.rexmit = ack;
                }
            }
            None if was_full => self.congestion.acked(bytes, now / 1_000_000, self.srtt_ms()),
            None => {}
        }
        let all = self.in_flight() == 0;
        self.rto_at = if all { None } else { Some(now + self.rtt.backed_off_ns(0)) };
        self.first_unacked_ns = if all { None } else { Some(now) };
        if self.fin_wanted && ack > self.send.end() {
            match self.state {
                State::FinWait1 => {
                    self.state = State::FinWait2;
                    self.limit_fin_wait(now);
                }
                State::Closing => self.enter_time_wait(now),
                State::LastAck => self.close(None),
                _ => {}
            }
        }
    }

    fn srtt_ms(&self) -> u64 {
        u64::from(self.rtt.srtt_us) / 1000
    }

    fn measure(&mut self, segment: &Segment, ack: u64, now: u64) {
        if let (true, Some((_, echo))) = (self.config.has_stamps, segment.options.stamps) {
            let ms = ((now / 1_000_000) as u32).wrapping_sub(echo);
            if echo != 0 && ms < 600_000 {
                self.rtt.sample(u64::from(ms) * 1000 + 1);
            }
            self.timed = None;
        } else if let Some((end, sent)) = self.timed
            && ack >= end
        {
            self.rtt.sample(now.saturating_sub(sent) / 1000);
            self.timed = None;
        }
    }

    /// Three signs that something is missing (RFC 5681 §3.2, RFC 6675 §5).
    fn consider_loss(&mut self, now: u64, unread: usize) {
        if self.recover.is_some() {
            return;
        }
        let is_lost = self.dup_acks >= 3
            || (self.config.has_sack
                && self
                    .sacked
                    .threshold(3 * self.mss as u64, 3)
                    .is_some_and(|at| at > self.una && self.sacked.bytes() >= 3 * self.mss as u64));
        if !is_lost {
            return;
        }
        self.congestion.lost(self.in_flight());
        self.recover = Some(self.max_sent);
        self.is_loss = false;
        self.rexmit = self.una;
        self.retransmit_next(now, unread);
        self.rto_at = Some(now + self.rtt.backed_off_ns(0));
    }

    fn enter_time_wait(&mut self, now: u64) {
        self.state = State::TimeWait;
        self.ends_at = Some(now + TIME_WAIT_NS);
        (self.rto_at, self.alive_at) = (None, None);
        self.forget_held();
    }

    fn receive_data(&mut self, segment: &mut Segment, seq: u64, now: u64, unread: usize) {
        let len = segment.payload_len() as u64;
        let (mut start, mut end) = (seq, seq + len);
        let mut has_fin = segment.has(flag::FIN);
        if len == 0 && !has_fin {
            return;
        }
        let may_arrive =
            matches!(self.state, State::Established | State::FinWait1 | State::FinWait2);
        if !may_arrive {
            if self.state == State::TimeWait {
                self.ends_at = Some(now + TIME_WAIT_NS);
            }
            self.send_ack(now, unread);
            return;
        }
        if end > self.rcv_edge.max(self.rcv_nxt) {
            end = self.rcv_edge.max(self.rcv_nxt).max(start);
            has_fin = false;
        }
        if start < self.rcv_nxt {
            let known = self.rcv_nxt.min(end);
            self.note_duplicate(start, known);
            trim_front(&mut segment.payload, (known - start) as usize);
            start = known.max(start);
        }
        trim_to(&mut segment.payload, end.saturating_sub(start) as usize);
        if has_fin {
            self.fin_at = Some(end);
        }
        if segment.has(flag::URG) && segment.urgent > 0 {
            self.urgent_from = Some(seq + u64::from(segment.urgent) - 1);
        }
        let mut payload = core::mem::take(&mut segment.payload);
        self.compact(&mut payload);
        if start > self.rcv_nxt {
            self.hold(start, end, payload);
            self.quick_acks = self.quick_acks.max(1);
            self.send_ack(now, unread);
            return;
        }
        let had_holes = !self.out_of_order.is_empty();
        self.deliver(payload);
        self.deliver_held();
        let pending = unread + self.arrived.iter().map(Chunk::len).sum::<usize>();
        if self.fin_at == Some(self.rcv_nxt) {
            self.receive_fin(now);
            self.send_ack(now, pending);
            return;
        }
        self.unacked_segments += len.div_ceil(self.mss as u64).max(1) as u32;
        let at_once = had_holes
            || self.dsack.is_some()
            || self.config.acks_at_once
            || self.quick_acks > 0
            || self.unacked_segments >= 2;
        if at_once {
            self.quick_acks = self.quick_acks.saturating_sub(1);
            self.send_ack(now, pending);
        } else {
            self.ack_at.get_or_insert(now + DELAY_NS);
        }
    }

    fn receive_fin(&mut self, now: u64) {
        self.rcv_nxt += 1;
        self.rcv_edge = self.rcv_edge.max(self.rcv_nxt);
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 if self.fin_wanted && self.una > self.send.end() => {
                self.enter_time_wait(now);
            }
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(now),
            _ => {}
        }
    }

    fn deliver(&mut self, payload: SmallVec<[Chunk; 4]>) {
        for piece in payload {
            self.rcv_nxt += piece.len() as u64;
            if !piece.is_empty() {
                self.arrived.push(piece);
            }
        }
        if self.urgent_from.is_some_and(|at| at < self.rcv_nxt) {
            self.urgent_from = None;
            self.is_urgent = true;
        }
    }

    fn hold(&mut self, start: u64, end: u64, payload: SmallVec<[Chunk; 4]>) {
        if end <= start {
            return;
        }
        if self.out_of_order.covers(start, end) {
            self.held_newest = Some(start);
            self.note_duplicate(start, end);
            return;
        }
        // A peer may cut and overlap as it likes: what cannot be kept is not reported, and comes again.
        let weight = weight(start, end);
        if self.held_weight + weight > 2 * self.config.rcvbuf as u64 {
            return;
        }
        self.held_newest = Some(start);
        self.out_of_order.add(start, end);
        self.held_weight += weight;
        if let Some((old_end, _)) = self.held.insert(start, (end, payload)) {
            // A longer segment from the same place.
            self.held_weight -= self::weight(start, old_end);
        }
    }

    fn deliver_held(&mut self) {
        while let Some(first) = self.held.first_entry() {
            if *first.key() > self.rcv_nxt {
                break;
            }
            let (start, (end, mut payload)) = first.remove_entry();
            self.held_weight -= weight(start, end);
            trim_front(&mut payload, (self.rcv_nxt - start) as usize);
            self.deliver(payload);
        }
        self.out_of_order.cut(self.rcv_nxt);
    }

    pub(super) fn forget_held(&mut self) {
        self.held.clear();
        self.held_weight = 0;
        self.small = None;
    }

    /// Copies a short payload to a page that several share: a device's page for each would hold many
    /// times what the window allows.
    fn compact(&mut self, payload: &mut SmallVec<[Chunk; 4]>) {
        let len: usize = payload.iter().map(Chunk::len).sum();
        if len == 0 || len > SHORT {
            return;
        }
        let mut bytes = [0; SHORT];
        let mut done = 0;
        for piece in payload.iter() {
            done += piece.copy_out(bytes.get_mut(done..len).unwrap_or_default());
        }
        let used = match &self.small {
            Some((page, used)) if used + len <= page.size() => *used,
            _ => {
                // Without memory it stays where it is.
                let Ok(page) = frames::alloc_page(frames::Flags::empty()) else { return };
                self.small = Some((page, 0));
                0
            }
        };
        if let (Some((page, at)), Some(bytes)) = (&mut self.small, bytes.get(..len)) {
            page.copy_in(used, bytes);
            *at = used + len;
            payload.clear();
            payload.push(Chunk { page: page.clone(), offset: used as u32, len: len as u32 });
        }
    }
}

/// What a segment that waits for those before it costs: descriptions count too.
fn weight(start: u64, end: u64) -> u64 {
    (end - start).max(256)
}

fn trim_front(payload: &mut SmallVec<[Chunk; 4]>, mut count: usize) {
    payload.retain(|piece| {
        let step = count.min(piece.len());
        piece.advance(step);
        count -= step;
        !piece.is_empty()
    });
}

fn trim_to(payload: &mut SmallVec<[Chunk; 4]>, mut count: usize) {
    payload.retain(|piece| {
        piece.truncate(count);
        count -= piece.len();
        !piece.is_empty()
    });
}
