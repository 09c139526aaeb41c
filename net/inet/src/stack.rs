//! What a network namespace has of these protocols: tables of sockets, knobs, counters.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use arch::addr::PAGE_SIZE;
use netdevice::Devices;
use socket::{NamespacePart, NetNamespace, Slot};

use crate::ports::Ports;
use crate::tcp::Tcp;
use crate::timers::{self, Expire};
use crate::udp::Udp;

/// The knobs of `/proc/sys/net/ipv4` and `ipv6`, with Linux's defaults; the README tells which only keep
/// their number.
#[expect(missing_docs, reason = "named as the files are")]
pub struct Knobs {
    pub ip_local_port_range: (AtomicU32, AtomicU32),
    pub ip_unprivileged_port_start: AtomicI32,
    pub ip_default_ttl: AtomicI32,
    pub ip_forward: AtomicI32,
    pub ip_nonlocal_bind: AtomicI32,
    pub icmp_echo_ignore_all: AtomicI32,
    pub ping_group_range: (AtomicU32, AtomicU32),
    pub tcp_rmem: [AtomicI32; 3],
    pub tcp_wmem: [AtomicI32; 3],
    pub tcp_fin_timeout_s: AtomicI32,
    pub tcp_keepalive_time_s: AtomicI32,
    pub tcp_keepalive_intvl_s: AtomicI32,
    pub tcp_keepalive_probes: AtomicI32,
    pub tcp_syn_retries: AtomicI32,
    pub tcp_synack_retries: AtomicI32,
    pub tcp_retries1: AtomicI32,
    pub tcp_retries2: AtomicI32,
    pub tcp_syncookies: AtomicI32,
    pub tcp_max_syn_backlog: AtomicI32,
    pub tcp_max_tw_buckets: AtomicI32,
    pub tcp_tw_reuse: AtomicI32,
    pub tcp_timestamps: AtomicI32,
    pub tcp_sack: AtomicI32,
    pub tcp_window_scaling: AtomicI32,
    pub tcp_abort_on_overflow: AtomicI32,
    pub tcp_fastopen: AtomicI32,
    pub tcp_notsent_lowat: AtomicI32,
    pub tcp_init_cwnd: AtomicI32,
    pub tcp_loss_init_cwnd: AtomicI32,
    pub tcp_no_delay_ack: AtomicI32,
    pub tcp_rto_min_ms: AtomicI32,
    pub tcp_rto_max_ms: AtomicI32,
    pub bindv6only: AtomicI32,
}

impl Knobs {
    fn new() -> Knobs {
        let int = AtomicI32::new;
        Knobs {
            ip_local_port_range: (AtomicU32::new(32768), AtomicU32::new(60999)),
            ip_unprivileged_port_start: int(1024),
            ip_default_ttl: int(64),
            ip_forward: int(0),
            ip_nonlocal_bind: int(0),
            icmp_echo_ignore_all: int(0),
            ping_group_range: (AtomicU32::new(1), AtomicU32::new(0)),
            tcp_rmem: [int(4096), int(131_072), int(buffer_max(87_380, 6_291_456))],
            tcp_wmem: [int(4096), int(16384), int(buffer_max(65_536, 4_194_304))],
            tcp_fin_timeout_s: int(60),
            tcp_keepalive_time_s: int(7200),
            tcp_keepalive_intvl_s: int(75),
            tcp_keepalive_probes: int(9),
            tcp_syn_retries: int(6),
            tcp_synack_retries: int(5),
            tcp_retries1: int(3),
            tcp_retries2: int(15),
            tcp_syncookies: int(1),
            tcp_max_syn_backlog: int(512),
            tcp_max_tw_buckets: int(65536),
            tcp_tw_reuse: int(2),
            tcp_timestamps: int(1),
            tcp_sack: int(1),
            tcp_window_scaling: int(1),
            tcp_abort_on_overflow: int(0),
            tcp_fastopen: int(1),
            tcp_notsent_lowat: int(-1),
            tcp_init_cwnd: int(10),
            tcp_loss_init_cwnd: int(1),
            tcp_no_delay_ack: int(0),
            tcp_rto_min_ms: int(200),
            tcp_rto_max_ms: int(120_000),
            bindv6only: int(0),
        }
    }

    /// The ports the system chooses from.
    pub fn port_range(&self) -> (u16, u16) {
        let of = |word: &AtomicU32| word.load(Ordering::Relaxed) as u16;
        (of(&self.ip_local_port_range.0), of(&self.ip_local_port_range.1))
    }
}

/// The most bytes that one connection's buffer may have: the 128th part of the memory within bounds (tcp(7),
/// `tcp_rmem`).
fn buffer_max(least: i32, most: i32) -> i32 {
    let share = frames::total_pages().saturating_mul(PAGE_SIZE as u64 / 128);
    i32::try_from(share).unwrap_or(most).min(most).max(least)
}

/// The number a knob has.
#[inline]
pub(crate) fn knob(word: &AtomicI32) -> i32 {
    // Relaxed: a lone number.
    word.load(Ordering::Relaxed)
}

/// Counters of `/proc/net/snmp`.
#[derive(Default)]
#[expect(missing_docs, reason = "named as in /proc/net/snmp")]
pub struct Counters {
    pub ip_in_receives: AtomicU64,
    pub ip_in_discards: AtomicU64,
    pub ip_in_header_errors: AtomicU64,
    pub ip_in_delivers: AtomicU64,
    pub ip_out_requests: AtomicU64,
    pub tcp_active_opens: AtomicU64,
    pub tcp_passive_opens: AtomicU64,
    pub tcp_attempt_fails: AtomicU64,
    pub tcp_estab_resets: AtomicU64,
    pub tcp_in_segs: AtomicU64,
    pub tcp_out_segs: AtomicU64,
    pub tcp_retrans_segs: AtomicU64,
    pub tcp_in_errors: AtomicU64,
    pub tcp_out_resets: AtomicU64,
    pub udp_in_datagrams: AtomicU64,
    pub udp_no_ports: AtomicU64,
    pub udp_in_errors: AtomicU64,
    pub udp_out_datagrams: AtomicU64,
    pub udp_receive_buffer_errors: AtomicU64,
    pub icmp_in: AtomicU64,
    pub icmp_out: AtomicU64,
    pub listen_overflows: AtomicU64,
    pub syn_cookies_sent: AtomicU64,
}

/// Counts one.
#[inline]
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The protocols of a namespace.
pub struct Inet {
    this: Weak<Inet>,
    namespace: Weak<NetNamespace>,
    /// Interfaces and routes.
    pub devices: Arc<Devices>,
    /// Knobs.
    pub knobs: Knobs,
    /// Counters.
    pub counters: Counters,
    pub(crate) secret: u64,
    pub(crate) tcp: Tcp,
    pub(crate) udp: Udp,
    pub(crate) raw: crate::raw::Raw,
    pub(crate) groups: crate::groups::Groups,
    pub(crate) wire: crate::ipout::Wire,
}

/// The part of a namespace, which holds the protocols counted.
pub(crate) struct Part(Arc<Inet>);

impl NamespacePart for Part {
    const SLOT: Slot = Slot::Inet;
    fn new(namespace: &Weak<NetNamespace>) -> Part {
        let devices = namespace.upgrade().and_then(|namespace| namespace.part_arc::<Devices>());
        let devices = devices.unwrap_or_default();
        let inet = Inet::new(namespace.clone(), devices);
        crate::rtnetlink::watch(&inet.devices, namespace.clone(), Arc::downgrade(&inet));
        Part(inet)
    }
}

impl Drop for Part {
    /// Connections that are over hold the protocols, and so the interfaces, for a minute.
    fn drop(&mut self) {
        let inet = self.0.clone();
        // Whoever drops a namespace may hold locks.
        sched::work::queue(move || inet.tcp.end());
    }
}

impl Inet {
    /// Protocols on top of these interfaces.
    pub fn new(namespace: Weak<NetNamespace>, devices: Arc<Devices>) -> Arc<Inet> {
        let secret = crate::random();
        Arc::new_cyclic(|this| Inet {
            this: this.clone(),
            namespace,
            devices,
            knobs: Knobs::new(),
            counters: Counters::default(),
            secret,
            tcp: Tcp::new(Ports::new(secret ^ 1, false), secret ^ 2),
            udp: Udp::new(Ports::new(secret ^ 3, true), secret ^ 4),
            raw: crate::raw::Raw::default(),
            groups: crate::groups::Groups::new(secret ^ 5),
            wire: crate::ipout::Wire::new(),
        })
    }

    /// The protocols of a namespace.
    pub fn of(namespace: &NetNamespace) -> Option<Arc<Inet>> {
        namespace.part::<Part>().map(|part| part.0.clone())
    }

    /// Looks after those neighbours that are asked, at an instant.
    pub(crate) fn arm_neighbours(&self, at_ns: u64) {
        if let Some(this) = self.this.upgrade() {
            timers::arm(&(this as Arc<dyn Expire>), at_ns);
        }
    }

    /// The protocols, as those refer to them who do not keep them.
    pub(crate) fn weak(&self) -> Weak<Inet> {
        self.this.clone()
    }

    /// The namespace.
    pub fn namespace(&self) -> Option<Arc<NetNamespace>> {
        self.namespace.upgrade()
    }
}

impl Expire for Inet {
    fn expire(&self, now_ns: u64) -> Option<u64> {
        self.wire.neighbours.expire(self, now_ns)
    }
}
