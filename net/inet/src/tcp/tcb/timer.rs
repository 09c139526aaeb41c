//! What a connection does when nothing comes (RFC 6298 §5, RFC 9293 §3.8.6.1, RFC 1122 §4.2.3.6).

use abi::Errno;

use super::{State, Tcb, flag};

impl Tcb {
    /// The next instant at which something is to be done.
    pub(crate) fn deadline(&self) -> Option<u64> {
        [self.rto_at, self.ack_at, self.alive_at, self.ends_at].into_iter().flatten().min()
    }

    /// Changes what the program wishes.
    pub(crate) fn set_wishes(&mut self, wishes: super::Wishes, now: u64, unread: usize) {
        self.wishes = wishes;
        self.keep_alive_from(now);
        self.transmit(now, unread);
    }

    pub(super) fn keep_alive_from(&mut self, now: u64) {
        let is_there = matches!(self.state, State::Established | State::CloseWait);
        self.alive_at = match self.wishes.keepalive {
            Some((idle_ns, _, _)) if is_there => Some(now + idle_ns),
            _ => None,
        };
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: u64, unread: usize) {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(self.ends_at) {
            return self.close(None);
        }
        if due(self.ack_at) {
            // Delayed in vain: the other end waited for it.
            self.send_ack(now, unread);
        }
        if due(self.rto_at) {
            self.rto_at = None;
            self.time_out(now, unread);
        }
        if due(self.alive_at) {
            self.probe_alive(now, unread);
        }
    }

    fn gives_up(&self, now: u64, most: u32) -> bool {
        let user_ns = self.wishes.user_timeout_ms.saturating_mul(1_000_000);
        if user_ns > 0 {
            return self.first_unacked_ns.is_some_and(|since| now.saturating_sub(since) >= user_ns);
        }
        self.backoff > most
    }

    fn time_out(&mut self, now: u64, unread: usize) {
        self.backoff += 1;
        match self.state {
            State::SynSent | State::SynReceived => {
                if self.gives_up(now, self.config.syn_retries) {
                    return self.close(Some(Errno::ETIMEDOUT));
                }
                self.retransmits += 1;
                self.timed = None;
                return self.send_syn(now);
            }
            State::Closed | State::TimeWait | State::Listen => return,
            _ => {}
        }
        if self.in_flight() == 0 || self.snd_wnd == 0 {
            // A peer that answers may keep its window closed for as long as it likes.
            self.probes += 1;
            if self.probes > self.config.retries {
                return self.close(Some(Errno::ETIMEDOUT));
            }
        } else if self.gives_up(now, self.config.retries) {
            return self.close(Some(Errno::ETIMEDOUT));
        }
        if self.in_flight() == 0 {
            return self.probe_window(now, unread);
        }
        if self.snd_wnd == 0 {
            // The window closed over what is on its way: its first byte asks.
            self.resend(self.una.max(1), 1, now, unread);
            self.arm(now);
            return;
        }
        if !self.is_loss || self.recover.is_none() {
            self.congestion.timed_out(self.in_flight(), self.config.loss_cwnd);
        } else {
            self.congestion.cwnd = self.mss as u64 * u64::from(self.config.loss_cwnd.max(1));
        }
        // A receiver may have thrown away what it had reported (RFC 2018 §8).
        if self.sacked.around(self.una).is_some() {
            self.sacked.clear();
        }
        self.recover = Some(self.max_sent);
        self.is_loss = true;
        self.rexmit = self.una;
        self.dup_acks = 0;
        self.retransmit_next(now, unread);
        self.arm(now);
    }

    /// Asks for the window with a byte that lies outside of it.
    fn probe_window(&mut self, now: u64, unread: usize) {
        if self.unsent() == 0 && !self.fin_wanted {
            self.backoff = 0;
            return;
        }
        if self.unsent() > 0 && (self.una + self.snd_wnd) > self.nxt {
            // A small window that is better than none.
            let len = self.snd_wnd.min(self.unsent() as u64).min(self.mss as u64) as usize;
            let at = self.nxt.max(1);
            self.nxt = at + len as u64;
            self.max_sent = self.max_sent.max(self.nxt);
            self.resend(at, len, now, unread);
        } else {
            let mut probe = self.segment(self.nxt.wrapping_sub(1), flag::ACK);
            probe.payload.clear();
            if self.config.has_stamps {
                probe.options.stamps = Some(((now / 1_000_000) as u32, self.recent_stamp));
            }
            self.out.push_back(probe);
        }
        self.arm(now);
    }

    fn probe_alive(&mut self, now: u64, unread: usize) {
        let Some((_, interval_ns, count)) = self.wishes.keepalive else {
            self.alive_at = None;
            return;
        };
        // What is on its way tells as well.
        if self.in_flight() > 0 || self.unsent() > 0 {
            self.keep_alive_from(now);
            return;
        }
        let user_ns = self.wishes.user_timeout_ms.saturating_mul(1_000_000);
        let is_late =
            user_ns > 0 && self.probes > 0 && now.saturating_sub(self.last_heard_ns) >= user_ns;
        if is_late || (user_ns == 0 && self.probes >= count) {
            self.abort();
            self.error = Some(Errno::ETIMEDOUT);
            return;
        }
        self.probes += 1;
        let _ = unread;
        let mut probe = self.segment(self.nxt.wrapping_sub(1), flag::ACK);
        if self.config.has_stamps {
            probe.options.stamps = Some(((now / 1_000_000) as u32, self.recent_stamp));
        }
        self.out.push_back(probe);
        self.alive_at = Some(now + interval_ns);
    }
}
