//! What every socket has, whatever its family.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use abi::socket::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use bitflags::bitflags;

use crate::ancillary::PeerCred;
use crate::filter::Filter;
use crate::namespace::NetNamespace;
use crate::wait::{NO_TIMEOUT, Patience};

static PEER: LockClass = LockClass::new("socket.peer", 574);

/// The type of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "socket(2) describes them")]
pub enum Kind {
    Stream = SOCK_STREAM,
    Datagram = SOCK_DGRAM,
    Raw = SOCK_RAW,
    Rdm = SOCK_RDM,
    SeqPacket = SOCK_SEQPACKET,
    Dccp = SOCK_DCCP,
    Packet = SOCK_PACKET,
}

impl Kind {
    /// The type of a number.
    pub fn new(number: u32) -> Option<Kind> {
        Some(match number {
            SOCK_STREAM => Kind::Stream,
            SOCK_DGRAM => Kind::Datagram,
            SOCK_RAW => Kind::Raw,
            SOCK_RDM => Kind::Rdm,
            SOCK_SEQPACKET => Kind::SeqPacket,
            SOCK_DCCP => Kind::Dccp,
            SOCK_PACKET => Kind::Packet,
            _ => return None,
        })
    }
}

/// The memory that Linux counts for a packet of `len` bytes, which decides how many fit into a buffer: a
/// head, and something behind the bytes.
pub const fn packet_memory(len: usize) -> usize {
    const PAGE: usize = 4096;
    const HEAD: usize = 256;
    const TAIL: usize = 320;
    let bytes = len.saturating_add(TAIL);
    if bytes <= PAGE * 8 {
        bytes.next_power_of_two() + HEAD
    } else {
        bytes.next_multiple_of(PAGE).saturating_add(HEAD)
    }
}

bitflags! {
    /// Options of `SOL_SOCKET` that are on or off.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flag: u32 {
        /// `SO_DEBUG`.
        const DEBUG = 1;
        /// `SO_REUSEADDR`.
        const REUSEADDR = 1 << 1;
        /// `SO_REUSEPORT`.
        const REUSEPORT = 1 << 2;
        /// `SO_DONTROUTE`.
        const DONTROUTE = 1 << 3;
        /// `SO_BROADCAST`.
        const BROADCAST = 1 << 4;
        /// `SO_KEEPALIVE`.
        const KEEPALIVE = 1 << 5;
        /// `SO_OOBINLINE`.
        const OOBINLINE = 1 << 6;
        /// `SO_NO_CHECK`.
        const NO_CHECK = 1 << 7;
        /// `SO_LINGER`.
        const LINGER = 1 << 8;
        /// `SO_PASSCRED`.
        const PASSCRED = 1 << 9;
        /// `SO_PASSSEC`.
        const PASSSEC = 1 << 10;
        /// Receive time stamps, in microseconds or with `TIMESTAMPNS`.
        const TIMESTAMP = 1 << 11;
        /// Receive time stamps in nanoseconds.
        const TIMESTAMPNS = 1 << 12;
        /// The time stamps have the layout of the `_NEW` options.
        const TIMESTAMP_NEW = 1 << 13;
        /// `SO_RXQ_OVFL`.
        const RXQ_OVFL = 1 << 14;
        /// `SO_WIFI_STATUS`.
        const WIFI_STATUS = 1 << 15;
        /// `SO_NOFCS`.
        const NOFCS = 1 << 16;
        /// `SO_LOCK_FILTER`.
        const LOCK_FILTER = 1 << 17;
        /// `SO_SELECT_ERR_QUEUE`.
        const SELECT_ERR_QUEUE = 1 << 18;
        /// `SO_ZEROCOPY`.
        const ZEROCOPY = 1 << 19;
        /// `SO_SNDBUF` was set: the size does not follow the protocol's own rules any more.
        const SNDBUF_LOCKED = 1 << 20;
        /// `SO_RCVBUF` was set.
        const RCVBUF_LOCKED = 1 << 21;
    }
}

/// The generic options that are numbers; each a word of its own.
pub struct Options {
    flags: AtomicU32,
    /// `SO_RCVBUF` in bytes of memory: twice what was asked for.
    pub rcvbuf: AtomicI32,
    /// `SO_SNDBUF`, likewise.
    pub sndbuf: AtomicI32,
    /// `SO_RCVLOWAT`.
    pub rcvlowat: AtomicI32,
    /// `SO_RCVTIMEO` in nanoseconds; [`NO_TIMEOUT`].
    pub rcvtimeo_ns: AtomicU64,
    /// `SO_SNDTIMEO` in nanoseconds; [`NO_TIMEOUT`].
    pub sndtimeo_ns: AtomicU64,
    /// Seconds of `SO_LINGER`.
    pub linger_s: AtomicI32,
    /// `SO_PRIORITY`.
    pub priority: AtomicI32,
    /// `SO_MARK`.
    pub mark: AtomicU32,
    /// `SO_PEEK_OFF`; -1 is off.
    pub peek_off: AtomicI32,
    /// The interface of `SO_BINDTODEVICE`; 0 is none.
    pub bound_device: AtomicI32,
    /// `SO_INCOMING_CPU`; -1 before anything came.
    pub incoming_cpu: AtomicI32,
    /// `SO_BUSY_POLL` in microseconds.
    pub busy_poll: AtomicI32,
    /// `SO_MAX_PACING_RATE` in bytes per second.
    pub max_pacing_rate: AtomicU64,
    /// `SO_TIMESTAMPING` flags.
    pub timestamping: AtomicU32,
    /// `SO_ATTACH_FILTER`.
    pub filter: Filter,
}

impl Options {
    fn new(namespace: &NetNamespace) -> Options {
        // Relaxed here and below: each is a lone number.
        let of = |limit: &AtomicI32| AtomicI32::new(limit.load(Ordering::Relaxed));
        Options {
            flags: AtomicU32::new(0),
            rcvbuf: of(&namespace.core.rmem_default),
            sndbuf: of(&namespace.core.wmem_default),
            rcvlowat: AtomicI32::new(1),
            rcvtimeo_ns: AtomicU64::new(NO_TIMEOUT),
            sndtimeo_ns: AtomicU64::new(NO_TIMEOUT),
            linger_s: AtomicI32::new(0),
            priority: AtomicI32::new(0),
            mark: AtomicU32::new(0),
            peek_off: AtomicI32::new(-1),
            bound_device: AtomicI32::new(0),
            incoming_cpu: AtomicI32::new(-1),
            busy_poll: AtomicI32::new(0),
            max_pacing_rate: AtomicU64::new(u64::MAX),
            timestamping: AtomicU32::new(0),
            filter: Filter::new(),
        }
    }

    /// What the socket made by `accept` inherits of a listener's.
    pub fn inherit(&self, from: &Options) {
        let copy = |to: &AtomicI32, from: &AtomicI32| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        self.flags.store(from.flags.load(Ordering::Relaxed), Ordering::Relaxed);
        for (to, from) in [
            (&self.rcvbuf, &from.rcvbuf),
            (&self.sndbuf, &from.sndbuf),
            (&self.rcvlowat, &from.rcvlowat),
            (&self.linger_s, &from.linger_s),
            (&self.priority, &from.priority),
            (&self.bound_device, &from.bound_device),
            (&self.busy_poll, &from.busy_poll),
        ] {
            copy(to, from);
        }
        for (to, from) in [
            (&self.rcvtimeo_ns, &from.rcvtimeo_ns),
            (&self.sndtimeo_ns, &from.sndtimeo_ns),
            (&self.max_pacing_rate, &from.max_pacing_rate),
        ] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.filter.copy(&from.filter);
        for (to, from) in [(&self.mark, &from.mark), (&self.timestamping, &from.timestamping)] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Whether all of `flag` are on.
    #[inline]
    pub fn has(&self, flag: Flag) -> bool {
        self.flags.load(Ordering::Relaxed) & flag.bits() == flag.bits()
    }

    /// Switches options on or off.
    pub fn set(&self, flag: Flag, on: bool) {
        if on {
            self.flags.fetch_or(flag.bits(), Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag.bits(), Ordering::Relaxed);
        }
    }
}

/// What every socket has: a family embeds one.
pub struct Common {
    /// The address family (`SO_DOMAIN`).
    pub family: u16,
    /// The type (`SO_TYPE`).
    pub kind: Kind,
    /// The protocol (`SO_PROTOCOL`).
    pub protocol: i32,
    /// The inode number: `socket:[N]`.
    pub ino: u64,
    /// The network namespace it lives in.
    pub namespace: Arc<NetNamespace>,
    /// Generic options.
    pub options: Options,
    cookie: AtomicU64,
    error: AtomicI32,
    listening: AtomicBool,
    peer: SpinLock<Option<PeerCred>>,
}

/// Inode numbers of sockets.
fn next_ino() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(2);
    // Relaxed: only uniqueness matters.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Common {
    /// Of a new socket.
    pub fn new(namespace: &Arc<NetNamespace>, family: u16, kind: Kind, protocol: i32) -> Common {
        Common {
            family,
            kind,
            protocol,
            ino: next_ino(),
            namespace: namespace.clone(),
            options: Options::new(namespace),
            cookie: AtomicU64::new(0),
            error: AtomicI32::new(0),
            listening: AtomicBool::new(false),
            peer: SpinLock::new(&PEER, None),
        }
    }

    /// `SO_COOKIE`: made when first asked for.
    pub fn cookie(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let own = self.cookie.load(Ordering::Relaxed);
        if own != 0 {
            return own;
        }
        let new = NEXT.fetch_add(1, Ordering::Relaxed);
        match self.cookie.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => new,
            Err(other) => other,
        }
    }

    /// Notes an error for the next call and `SO_ERROR`. The caller notifies.
    pub fn set_error(&self, error: Errno) {
        self.error.store(error.raw(), Ordering::Release);
    }

    /// Whether an error waits to be told (`POLLERR`).
    #[inline]
    pub fn has_error(&self) -> bool {
        self.error.load(Ordering::Acquire) != 0
    }

    /// The pending error, which is told once.
    pub fn take_error(&self) -> Option<Errno> {
        if !self.has_error() {
            return None;
        }
        match self.error.swap(0, Ordering::AcqRel) {
            0 => None,
            raw => Some(Errno::from_raw(raw)),
        }
    }

    /// The pending error as the result of a call, which is told once.
    #[inline]
    pub fn check_error(&self) -> Result<()> {
        if self.has_error() { self.take_error().map_or(Ok(()), Err) } else { Ok(()) }
    }

    /// Whether it listens (`SO_ACCEPTCONN`).
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// It listens from now on, or does not any more.
    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Release);
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Option<PeerCred> {
        self.peer.lock().clone()
    }

    /// Says who is at the other end.
    pub fn set_peer(&self, peer: Option<PeerCred>) {
        let old = core::mem::replace(&mut *self.peer.lock(), peer);
        drop(old);
    }

    /// How long a receive waits.
    #[inline]
    pub fn recv_patience(&self, nonblocking: bool) -> Patience {
        Patience::new(nonblocking, self.options.rcvtimeo_ns.load(Ordering::Relaxed))
    }

    /// How long a send waits.
    #[inline]
    pub fn send_patience(&self, nonblocking: bool) -> Patience {
        Patience::new(nonblocking, self.options.sndtimeo_ns.load(Ordering::Relaxed))
    }

    /// The bytes a receive of up to `room` bytes waits for on a stream.
    pub fn recv_target(&self, room: usize, flags: u32) -> usize {
        if flags & MSG_WAITALL != 0 {
            return room;
        }
        let low = self.options.rcvlowat.load(Ordering::Relaxed);
        usize::try_from(low).unwrap_or(1).min(room).max(1)
    }
}
