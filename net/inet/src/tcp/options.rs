//! Options of tcp(7).

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use ::socket::{Call, OptionIn, OptionOut};
use abi::{Errno, Result};
use vfs::Cap;
use zerocopy::{Immutable, IntoBytes};

use super::State;
use super::direct::LOOPBACK_MSS;
use super::socket::TcpSocket;
use crate::stack::{Knobs, knob};

const TCP_NODELAY: i32 = 1;
const TCP_MAXSEG: i32 = 2;
const TCP_CORK: i32 = 3;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_SYNCNT: i32 = 7;
const TCP_LINGER2: i32 = 8;
const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_WINDOW_CLAMP: i32 = 10;
const TCP_INFO: i32 = 11;
const TCP_QUICKACK: i32 = 12;
const TCP_CONGESTION: i32 = 13;
const TCP_THIN_LINEAR_TIMEOUTS: i32 = 16;
const TCP_THIN_DUPACK: i32 = 17;
/// The options of checkpointing: what is read while that is not on.
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_CC_INFO: i32 = 26;
const TCP_SAVE_SYN: i32 = 27;
const TCP_SAVED_SYN: i32 = 28;
const TCP_REPAIR_WINDOW: i32 = 29;
const TCP_USER_TIMEOUT: i32 = 18;
const TCP_FASTOPEN: i32 = 23;
const TCP_TIMESTAMP: i32 = 24;
const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_INQ: i32 = 36;

/// Algorithms of congestion control, by Linux's names.
const ALGORITHMS: [&str; 2] = ["cubic", "reno"];

/// The values; each a word of its own.
pub(crate) struct TcpOptions {
    nodelay: AtomicI32,
    maxseg: AtomicI32,
    cork: AtomicI32,
    /// 0 where the system's default holds, here and below.
    keepidle_s: AtomicI32,
    keepintvl_s: AtomicI32,
    keepcnt: AtomicI32,
    syncnt: AtomicI32,
    linger2_s: AtomicI32,
    /// Resent SYN-ACKs.
    defer_accept: AtomicI32,
    window_clamp: AtomicI32,
    quickack: AtomicI32,
    algorithm: AtomicU32,
    thin_linear: AtomicI32,
    user_timeout_ms: AtomicI32,
    fastopen: AtomicI32,
    fastopen_connect: AtomicI32,
    fastopen_no_cookie: AtomicI32,
    notsent_lowat: AtomicI32,
    inq: AtomicI32,
}

impl TcpOptions {
    pub(super) fn new() -> TcpOptions {
        let zero = || AtomicI32::new(0);
        TcpOptions {
            nodelay: zero(),
            maxseg: zero(),
            cork: zero(),
            keepidle_s: zero(),
            keepintvl_s: zero(),
            keepcnt: zero(),
            syncnt: zero(),
            linger2_s: zero(),
            defer_accept: zero(),
            window_clamp: zero(),
            quickack: AtomicI32::new(1),
            algorithm: AtomicU32::new(0),
            thin_linear: zero(),
            user_timeout_ms: zero(),
            fastopen: zero(),
            fastopen_connect: zero(),
            fastopen_no_cookie: zero(),
            notsent_lowat: zero(),
            inq: zero(),
        }
    }

    /// What an accepted socket inherits: all of it.
    pub(super) fn duplicate(&self) -> TcpOptions {
        let new = TcpOptions::new();
        for (to, from) in [
            (&new.nodelay, &self.nodelay),
            (&new.maxseg, &self.maxseg),
            (&new.cork, &self.cork),
            (&new.keepidle_s, &self.keepidle_s),
            (&new.keepintvl_s, &self.keepintvl_s),
            (&new.keepcnt, &self.keepcnt),
            (&new.syncnt, &self.syncnt),
            (&new.linger2_s, &self.linger2_s),
            (&new.window_clamp, &self.window_clamp),
            (&new.user_timeout_ms, &self.user_timeout_ms),
            (&new.notsent_lowat, &self.notsent_lowat),
        ] {
            to.store(knob(from), Ordering::Relaxed);
        }
        new.algorithm.store(self.algorithm.load(Ordering::Relaxed), Ordering::Relaxed);
        new
    }

    pub(super) fn is_deferring(&self) -> bool {
        knob(&self.defer_accept) != 0
    }

    /// What the state machine heeds.
    pub(super) fn wishes(&self, knobs: &Knobs, is_kept_alive: bool) -> super::tcb::Wishes {
        let or = |own: &AtomicI32, default: &AtomicI32| match knob(own) {
            0 => knob(default).max(1) as u64,
            own => own.max(1) as u64,
        };
        let second = 1_000_000_000;
        let keepalive = is_kept_alive.then(|| {
            (
                or(&self.keepidle_s, &knobs.tcp_keepalive_time_s) * second,
                or(&self.keepintvl_s, &knobs.tcp_keepalive_intvl_s) * second,
                or(&self.keepcnt, &knobs.tcp_keepalive_probes) as u32,
            )
        });
        super::tcb::Wishes {
            nodelay: knob(&self.nodelay) != 0,
            cork: knob(&self.cork) != 0,
            keepalive,
            user_timeout_ms: knob(&self.user_timeout_ms).max(0) as u64,
        }
    }

    /// How long a call waits for an answer: all its SYNs, each twice as long as the one before.
    pub(super) fn syn_timeout_ns(&self, knobs: &Knobs) -> u64 {
        let user = knob(&self.user_timeout_ms);
        if user > 0 {
            return user as u64 * 1_000_000;
        }
        let own = knob(&self.syncnt);
        let retries = if own > 0 { own } else { knob(&knobs.tcp_syn_retries) };
        ((1u64 << (retries.clamp(0, 16) + 1)) - 1) * 1_000_000_000
    }
}

/// `struct tcp_info` as of Linux 5.4.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
struct TcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    scales: u8,
    app_limited: u8,
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
}

impl TcpSocket {
    fn info(&self) -> TcpInfo {
        let state = self.state();
        let Some(facts) = self.facts() else {
            let mut info = TcpInfo { state: state as u8, rto: 1_000_000, ..TcpInfo::default() };
            (info.snd_mss, info.rcv_mss, info.snd_cwnd) = (536, 88, 10);
            (info.reordering, info.advmss) = (3, 0);
            info.rttvar = 250_000;
            info.snd_ssthresh = i32::MAX as u32;
            (info.pacing_rate, info.max_pacing_rate) = (u64::MAX, u64::MAX);
            if let Some(listener) = self.listener() {
                // For one that listens these are the queue and its limit.
                (info.unacked, info.sacked) = (listener.ready() as u32, listener.backlog() as u32);
            }
            return info;
        };
        let segments = |bytes: u64| (bytes.div_ceil(u64::from(facts.mss.max(1)))) as u32;
        TcpInfo {
            state: facts.state as u8,
            options: facts.options,
            scales: 0x77,
            rto: facts.rto_us,
            ato: 40_000,
            snd_mss: facts.mss,
            rcv_mss: facts.mss.min(65483),
            unacked: segments(facts.unacknowledged as u64),
            pmtu: facts.mss + 53,
            rcv_ssthresh: 65483,
            rtt: facts.rtt_us,
            rttvar: facts.rttvar_us,
            snd_ssthresh: facts.ssthresh,
            snd_cwnd: facts.cwnd,
            advmss: facts.mss,
            reordering: 3,
            rcv_space: 65483,
            total_retrans: facts.retransmits,
            pacing_rate: u64::MAX,
            max_pacing_rate: u64::MAX,
            // The SYN counts as one.
            bytes_acked: facts.sent.saturating_sub(facts.unacknowledged as u64) + 1,
            bytes_received: facts.received,
            segs_out: segments(facts.sent) + 2,
            segs_in: segments(facts.received) + 1,
            min_rtt: facts.rtt_us,
            data_segs_in: segments(facts.received),
            data_segs_out: segments(facts.sent),
            delivered: segments(facts.sent) + 1,
            bytes_sent: facts.sent,
            snd_wnd: 65536,
            ..TcpInfo::default()
        }
    }

    pub(super) fn set_tcp_option(
        &self,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        let options = &self.options;
        if name == TCP_CONGESTION {
            let mut text = [0; 16];
            if value.is_empty() {
                return Err(Errno::EINVAL);
            }
            let len = value.bytes(&mut text)?;
            let text = text.get(..len).unwrap_or(&[]);
            let text = text.split(|byte| *byte == 0).next().unwrap_or(&[]);
            let at = ALGORITHMS.iter().position(|name| name.as_bytes() == text);
            options.algorithm.store(at.ok_or(Errno::ENOENT)? as u32, Ordering::Relaxed);
            return Ok(());
        }
        let number = value.int()?;
        let set = |word: &AtomicI32, value: i32| word.store(value, Ordering::Relaxed);
        let flag = i32::from(number != 0);
        let in_range = |range: core::ops::RangeInclusive<i32>| {
            if range.contains(&number) { Ok(number) } else { Err(Errno::EINVAL) }
        };
        match name {
            TCP_NODELAY => set(&options.nodelay, flag),
            TCP_CORK => set(&options.cork, flag),
            TCP_MAXSEG => {
                if number != 0 {
                    in_range(88..=32767)?;
                }
                set(&options.maxseg, number);
            }
            TCP_KEEPIDLE => set(&options.keepidle_s, in_range(1..=32767)?),
            TCP_KEEPINTVL => set(&options.keepintvl_s, in_range(1..=32767)?),
            TCP_KEEPCNT => set(&options.keepcnt, in_range(1..=127)?),
            TCP_SYNCNT => set(&options.syncnt, in_range(1..=127)?),
            TCP_LINGER2 => set(&options.linger2_s, number.clamp(-1, 120)),
            TCP_DEFER_ACCEPT => {
                set(&options.defer_accept, number.max(0));
                if let Some(listener) = self.listener() {
                    listener.is_deferring.store(number > 0, Ordering::Relaxed);
                }
            }
            TCP_WINDOW_CLAMP => {
                if number == 0 && self.state() != State::Closed {
                    return Err(Errno::EINVAL);
                }
                // Not below half of the least receive buffer.
                set(&options.window_clamp, if number == 0 { 0 } else { number.max(1152) });
            }
            TCP_QUICKACK => set(&options.quickack, flag),
            TCP_THIN_LINEAR_TIMEOUTS => set(&options.thin_linear, in_range(0..=1)?),
            TCP_THIN_DUPACK => {
                in_range(0..=1)?;
            }
            TCP_USER_TIMEOUT => set(&options.user_timeout_ms, in_range(0..=i32::MAX)?),
            TCP_FASTOPEN => {
                if number < 0 || !matches!(self.state(), State::Closed | State::Listen) {
                    return Err(Errno::EINVAL);
                }
                set(&options.fastopen, number);
            }
            TCP_FASTOPEN_CONNECT => {
                in_range(0..=1)?;
                if self.state() != State::Closed {
                    return Err(Errno::EINVAL);
                }
                set(&options.fastopen_connect, number);
            }
            TCP_FASTOPEN_NO_COOKIE => {
                in_range(0..=1)?;
                if !matches!(self.state(), State::Closed | State::Listen) {
                    return Err(Errno::EINVAL);
                }
                set(&options.fastopen_no_cookie, number);
            }
            TCP_TIMESTAMP => {
                if !call.creds().ns_capable(&call.namespace.user_ns, Cap::NET_ADMIN) {
                    return Err(Errno::EPERM);
                }
                return Err(Errno::EPERM);
            }
            TCP_NOTSENT_LOWAT => set(&options.notsent_lowat, number),
            TCP_INQ => set(&options.inq, in_range(0..=1)?),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    pub(super) fn get_tcp_option(&self, name: i32, value: &mut OptionOut<'_>) -> Result<()> {
        let options = &self.options;
        let get = |word: &AtomicI32| knob(word);
        let or = |word: &AtomicI32, default: &AtomicI32| match knob(word) {
            0 => knob(default),
            own => own,
        };
        let knobs = self.knobs();
        let number = match name {
            TCP_NODELAY => get(&options.nodelay),
            TCP_CORK => get(&options.cork),
            TCP_MAXSEG => match (self.facts(), get(&options.maxseg)) {
                (Some(facts), _) if facts.state != State::Closed => {
                    facts.mss.min(LOOPBACK_MSS) as i32
                }
                (_, 0) => 536,
                (_, own) => own,
            },
            TCP_KEEPIDLE => or(&options.keepidle_s, &knobs.tcp_keepalive_time_s),
            TCP_KEEPINTVL => or(&options.keepintvl_s, &knobs.tcp_keepalive_intvl_s),
            TCP_KEEPCNT => or(&options.keepcnt, &knobs.tcp_keepalive_probes),
            TCP_SYNCNT => or(&options.syncnt, &knobs.tcp_syn_retries),
            TCP_LINGER2 => or(&options.linger2_s, &knobs.tcp_fin_timeout_s),
            TCP_DEFER_ACCEPT => deferred_seconds(get(&options.defer_accept)),
            TCP_WINDOW_CLAMP => match get(&options.window_clamp) {
                0 if self.facts().is_some() => 65536,
                own => own,
            },
            TCP_INFO => return value.value(&self.info()),
            TCP_QUICKACK => get(&options.quickack),
            TCP_CONGESTION => {
                let mut text = [0; 16];
                let at = options.algorithm.load(Ordering::Relaxed) as usize;
                let name = ALGORITHMS.get(at).unwrap_or(&"cubic").as_bytes();
                text.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
                return value.bytes(&text);
            }
            TCP_THIN_LINEAR_TIMEOUTS => get(&options.thin_linear),
            TCP_THIN_DUPACK | TCP_REPAIR | TCP_SAVE_SYN => 0,
            TCP_REPAIR_QUEUE | TCP_QUEUE_SEQ | TCP_REPAIR_WINDOW => return Err(Errno::EINVAL),
            TCP_CC_INFO | TCP_SAVED_SYN => {
                value.tell_len(0);
                return Ok(());
            }
            TCP_USER_TIMEOUT => get(&options.user_timeout_ms),
            TCP_FASTOPEN => get(&options.fastopen),
            TCP_FASTOPEN_CONNECT => get(&options.fastopen_connect),
            TCP_FASTOPEN_NO_COOKIE => get(&options.fastopen_no_cookie),
            TCP_TIMESTAMP => (arch::time::now_ns() / 1_000_000) as i32,
            TCP_NOTSENT_LOWAT => get(&options.notsent_lowat),
            TCP_INQ => get(&options.inq),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        value.int(number)
    }
}

/// `TCP_DEFER_ACCEPT` is kept as a number of SYN-ACKs: the seconds until the one that covers the wish.
fn deferred_seconds(wish: i32) -> i32 {
    let (mut total, mut step) = (0, 1);
    if wish <= 0 {
        return 0;
    }
    while total < wish {
        total += step;
        step = (step * 2).min(120);
    }
    total
}
