//! What the sysctls of a namespace and the way mean for a new connection.

use netdevice::{Tuple, Way};

use super::header;
use super::tcb::Config;
use crate::stack::{Inet, knob};

/// How a connection of a namespace is made. `limits` are those of what it sends and receives, in bytes.
pub(super) fn config(inet: &Inet, tuple: &Tuple, way: &Way, limits: (usize, usize)) -> Config {
    let knobs = &inet.knobs;
    let on = |word| knob(word) != 0;
    let number = |word| knob(word).max(0) as u32;
    // RFC 6528: from the ends, a secret and the time.
    let hash =
        core::hash::BuildHasher::hash_one(&crate::table::Keyed::new(inet.secret ^ 77), tuple);
    let iss = (hash as u32).wrapping_add((arch::time::now_ns() / 4000) as u32);
    Config {
        iss,
        mss: header::mss_for(way.mtu, tuple.remote.ip),
        rcvbuf: limits.1.max(2304),
        // What is counted includes the description of packets: half is data.
        sndbuf: limits.0.max(4608) * 8,
        has_stamps: on(&knobs.tcp_timestamps),
        has_sack: on(&knobs.tcp_sack),
        scale: on(&knobs.tcp_window_scaling).then_some(7),
        init_cwnd: number(&knobs.tcp_init_cwnd),
        loss_cwnd: number(&knobs.tcp_loss_init_cwnd),
        rto_min_ms: number(&knobs.tcp_rto_min_ms),
        rto_max_ms: number(&knobs.tcp_rto_max_ms),
        syn_retries: number(&knobs.tcp_syn_retries),
        retries: number(&knobs.tcp_retries2),
        fin_timeout_ms: u64::from(number(&knobs.tcp_fin_timeout_s)) * 1000,
        acks_at_once: on(&knobs.tcp_no_delay_ack),
        is_reno: false,
    }
}
