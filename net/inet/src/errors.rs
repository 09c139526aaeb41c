//! Errors that the network told of what a socket sent (ip(7), `IP_RECVERR`; `MSG_ERRQUEUE` of recv(2)).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use ::socket::{Ancillary, Common, RecvMessage, ancillary, packet_memory};
use abi::socket::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::Sink;
use netdevice::{Endpoint, Ip};

use crate::sockaddr;

static CLASS: LockClass = LockClass::new("inet.errors", 535);

const IP_RECVERR: i32 = 11;
const IPV6_RECVERR: i32 = 25;
/// `SO_EE_ORIGIN_ICMP`, `SO_EE_ORIGIN_ICMP6`.
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// What ICMP says of a packet.
pub(crate) struct Told<'a> {
    /// The protocol of the packet, and its ends.
    pub(crate) protocol: u8,
    pub(crate) from: Ip,
    pub(crate) to: Ip,
    /// The packet from its transport's header on, as much as was sent back.
    pub(crate) quoted: &'a [u8],
    pub(crate) error: Errno,
    /// The next hop's longest packet, where that is what was wrong.
    pub(crate) mtu: Option<u32>,
    /// Of the message.
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// Who says it.
    pub(crate) offender: Ip,
}

/// An error in a queue.
struct Report {
    error: Errno,
    kind: u8,
    code: u8,
    info: u32,
    offender: Ip,
    to: Endpoint,
    data: Vec<u8>,
    time_ns: u64,
}

#[derive(Default)]
struct Inner {
    reports: VecDeque<Report>,
    memory: usize,
}

/// The errors that a socket has not received.
pub(crate) struct Errors {
    inner: SpinLock<Inner>,
    /// How many: read without the lock.
    count: AtomicUsize,
}

impl Default for Errors {
    fn default() -> Self {
        Errors { inner: SpinLock::new(&CLASS, Inner::default()), count: AtomicUsize::new(0) }
    }
}

impl Errors {
    /// Whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Adds what was told of something sent to `to`; `skip` bytes of what was sent back are no data. What finds no
    /// room in the socket's buffer is lost.
    pub(crate) fn push(&self, common: &Common, told: &Told<'_>, to: Endpoint, skip: usize) {
        let data = told.quoted.get(skip..).unwrap_or(&[]);
        let cost = packet_memory(data.len());
        let limit = common.options.rcvbuf.load(Ordering::Relaxed).max(0) as usize;
        let mut kept = Vec::new();
        if kept.try_reserve_exact(data.len()).is_err() {
            return;
        }
        kept.extend_from_slice(data);
        let mut inner = self.inner.lock();
        if inner.memory >= limit || inner.reports.try_reserve(1).is_err() {
            return;
        }
        inner.memory += cost;
        inner.reports.push_back(Report {
            error: told.error,
            kind: told.kind,
            code: told.code,
            info: told.mtu.unwrap_or(0),
            offender: told.offender,
            to,
            data: kept,
            time_ns: sched::clock::realtime_ns(),
        });
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes the first, and says what error the one after it is.
    fn pop(&self) -> Option<(Report, Option<Errno>)> {
        let mut inner = self.inner.lock();
        let first = inner.reports.pop_front()?;
        inner.memory = inner.memory.saturating_sub(packet_memory(first.data.len()));
        self.count.fetch_sub(1, Ordering::SeqCst);
        Some((first, inner.reports.front().map(|next| next.error)))
    }

    /// `recv` with `MSG_ERRQUEUE`: the data of what was sent, whom it was for, and what was said of it.
    pub(crate) fn recv(
        &self,
        common: &Common,
        sink: &mut Sink<'_>,
        message: &mut RecvMessage,
    ) -> Result<usize> {
        let (report, next) = self.pop().ok_or(Errno::EAGAIN)?;
        // The error that waits to be told is that of the first report.
        common.take_error();
        if let Some(next) = next {
            common.set_error(next);
        }
        let count = report.data.len().min(sink.remaining());
        sink.put_all(report.data.get(..count).unwrap_or(&[]))?;
        if count < report.data.len() {
            message.result_flags |= MSG_TRUNC;
        }
        let is_v6 = common.family == AF_INET6;
        if message.wants_address {
            message.address = sockaddr::show(report.to, is_v6, 0);
        }
        if let Some(stamp) = ancillary::stamp(common, report.time_ns) {
            message.give(stamp);
        }
        // `struct sock_extended_err`, and who said it.
        let mut data = Vec::with_capacity(48);
        data.extend_from_slice(&(report.error.raw() as u32).to_ne_bytes());
        let origin = if report.offender.is_v4() { ORIGIN_ICMP } else { ORIGIN_ICMP6 };
        data.extend_from_slice(&[origin, report.kind, report.code, 0]);
        data.extend_from_slice(&report.info.to_ne_bytes());
        data.extend_from_slice(&[0; 4]);
        let offender = sockaddr::show(Endpoint::new(report.offender, 0), is_v6, 0);
        data.extend_from_slice(offender.bytes());
        let (level, kind) = if is_v6 { (SOL_IPV6, IPV6_RECVERR) } else { (SOL_IP, IP_RECVERR) };
        message.give(Ancillary::Raw { level, kind, data });
        message.result_flags |= MSG_ERRQUEUE;
        Ok(count)
    }
}
