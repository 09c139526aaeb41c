//! Datagrams, and the queue of those that a socket has not received.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use ::socket::{Ancillary, Common};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use netdevice::{Chunk, Endpoint, Ip};
use sched::WaitQueue;
use smallvec::SmallVec;
use zerocopy::{Immutable, IntoBytes};

use crate::ipopts::{IpOptions, want};
use abi::socket::*;

static QUEUE: LockClass = LockClass::new("inet.datagrams", 535);

/// Data up to this size lies in one piece of the heap.
const SMALL: usize = 2048;

/// The data of a datagram.
pub(crate) enum Payload {
    Small(Box<[u8]>),
    Pages(SmallVec<[Chunk; 4]>, usize),
}

impl Payload {
    /// Takes everything a source has.
    pub(crate) fn take(source: &mut Source<'_>) -> Result<Payload> {
        let len = source.remaining();
        if len <= SMALL {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
            bytes.resize(len, 0);
            source.take_all(&mut bytes)?;
            return Ok(Payload::Small(bytes.into_boxed_slice()));
        }
        let mut pieces = SmallVec::new();
        let mut total = 0;
        while let Some(piece) = Chunk::from_source(source)? {
            total += piece.len();
            let is_short = piece.len() < 4096 && !source.is_empty();
            pieces.push(piece);
            if is_short {
                return Err(Errno::EFAULT);
            }
        }
        Ok(Payload::Pages(pieces, total))
    }

    /// These pieces.
    pub(crate) fn of_chunks(pieces: SmallVec<[Chunk; 4]>) -> Payload {
        let total = pieces.iter().map(Chunk::len).sum();
        Payload::Pages(pieces, total)
    }

    /// These bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Payload {
        Payload::Small(bytes.into())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::Small(bytes) => bytes.len(),
            Payload::Pages(_, total) => *total,
        }
    }

    /// Puts it into a sink, as much as fits.
    pub(crate) fn put(&self, sink: &mut Sink<'_>) -> Result<usize> {
        match self {
            Payload::Small(bytes) => {
                let len = bytes.len().min(sink.remaining());
                sink.put_all(bytes.get(..len).unwrap_or(&[]))?;
                Ok(len)
            }
            Payload::Pages(pieces, _) => {
                let mut done = 0;
                for piece in pieces {
                    if sink.is_full() {
                        break;
                    }
                    let wanted = piece.len().min(sink.remaining());
                    let count = piece.to_sink(sink)?;
                    if count < wanted {
                        return Err(Errno::EFAULT);
                    }
                    done += count;
                }
                Ok(done)
            }
        }
    }

    /// The bytes in one piece.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        match self {
            Payload::Small(bytes) => bytes.to_vec(),
            Payload::Pages(pieces, total) => {
                let mut all = alloc::vec![0; *total];
                let mut rest = all.as_mut_slice();
                for piece in pieces {
                    let count = piece.copy_out(rest);
                    rest = rest.get_mut(count..).unwrap_or_default();
                }
                all
            }
        }
    }

    /// The pieces it is sent in.
    pub(crate) fn chunks(&self) -> Result<SmallVec<[Chunk; 4]>> {
        match self {
            Payload::Small(bytes) if bytes.is_empty() => Ok(SmallVec::new()),
            Payload::Small(bytes) => {
                Ok(smallvec::smallvec![Chunk::from_bytes(bytes).ok_or(Errno::ENOBUFS)?])
            }
            Payload::Pages(pieces, _) => Ok(pieces.clone()),
        }
    }
}

/// A datagram that came.
pub(crate) struct Datagram {
    pub(crate) from: Endpoint,
    pub(crate) to: Endpoint,
    pub(crate) interface: u32,
    pub(crate) hops: u8,
    pub(crate) tos: u8,
    pub(crate) data: Payload,
    /// When, by the real-time clock.
    pub(crate) time_ns: u64,
}

impl Datagram {
    /// Memory as Linux counts it: a power of two for the data, and the packet's description.
    fn weight(&self) -> usize {
        (self.data.len() + 384).next_power_of_two() + 256
    }
}

struct Inner {
    datagrams: VecDeque<Arc<Datagram>>,
    weight: usize,
}

/// The queue.
pub(crate) struct Queue {
    inner: SpinLock<Inner>,
    /// How many there are: read without the lock.
    count: AtomicUsize,
    /// How many found it full.
    pub(crate) dropped: AtomicUsize,
    pub(crate) readable: Arc<WaitQueue>,
}

impl Queue {
    pub(crate) fn new() -> Queue {
        let inner = Inner { datagrams: VecDeque::new(), weight: 0 };
        Queue {
            inner: SpinLock::new(&QUEUE, inner),
            count: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            readable: Arc::new(WaitQueue::new()),
        }
    }

    /// Adds a datagram; `false` if there is no room for it.
    pub(crate) fn push(&self, datagram: Arc<Datagram>, limit: usize) -> bool {
        {
            let mut inner = self.inner.lock();
            let weight = datagram.weight();
            // One always fits.
            if inner.weight > 0 && inner.weight + weight > limit {
                drop(inner);
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            inner.weight += weight;
            inner.datagrams.push_back(datagram);
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        self.readable.wake_one();
        self.readable.tell(abi::poll::POLLIN | abi::poll::POLLRDNORM);
        true
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// The first one, which stays there.
    pub(crate) fn peek(&self) -> Option<Arc<Datagram>> {
        self.inner.lock().datagrams.front().cloned()
    }

    /// Takes the first one.
    #[inline]
    pub(crate) fn pop(&self) -> Option<Arc<Datagram>> {
        if self.is_empty() {
            return None;
        }
        let mut inner = self.inner.lock();
        let first = inner.datagrams.pop_front()?;
        inner.weight -= first.weight();
        self.count.fetch_sub(1, Ordering::SeqCst);
        Some(first)
    }

    /// The length of the first one (`FIONREAD`).
    pub(crate) fn first_len(&self) -> usize {
        self.inner.lock().datagrams.front().map_or(0, |first| first.data.len())
    }

    /// Memory in use.
    pub(crate) fn weight(&self) -> usize {
        self.inner.lock().weight
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct PktInfo {
    index: u32,
    spec_dst: [u8; 4],
    addr: [u8; 4],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct PktInfo6 {
    addr: [u8; 16],
    index: u32,
}

fn raw(level: i32, kind: i32, data: &[u8]) -> Ancillary {
    Ancillary::Raw { level, kind, data: data.to_vec() }
}

/// The control messages that a socket wants with a datagram.
pub(crate) fn control(common: &Common, ip: &IpOptions, datagram: &Datagram) -> Vec<Ancillary> {
    let mut all = Vec::new();
    all.extend(::socket::ancillary::stamp(common, datagram.time_ns));
    let to = datagram.to.ip;
    if to.is_v4() {
        if ip.wants(want::PKTINFO) {
            let addr = to.octets4();
            let spec_dst = if to.is_multicast() { [0; 4] } else { addr };
            let info = PktInfo { index: datagram.interface, spec_dst, addr };
            all.push(raw(SOL_IP, 8, info.as_bytes()));
        }
        if ip.wants(want::TTL) {
            all.push(raw(SOL_IP, 2, &i32::from(datagram.hops).to_ne_bytes()));
        }
        if ip.wants(want::TOS) {
            all.push(raw(SOL_IP, 1, &[datagram.tos]));
        }
        if ip.wants(want::ORIGDST) {
            let address = crate::sockaddr::show(datagram.to, false, 0);
            all.push(raw(SOL_IP, 20, address.bytes()));
        }
    }
    if common.family == AF_INET6 {
        if ip.wants(want::PKTINFO6) {
            let info = PktInfo6 { addr: to.octets6(), index: datagram.interface };
            all.push(raw(SOL_IPV6, 50, info.as_bytes()));
        }
        if ip.wants(want::HOPLIMIT6) {
            all.push(raw(SOL_IPV6, 52, &i32::from(datagram.hops).to_ne_bytes()));
        }
        if ip.wants(want::TCLASS6) {
            all.push(raw(SOL_IPV6, 67, &i32::from(datagram.tos).to_ne_bytes()));
        }
    }
    all
}

/// Where `sendmsg` wants a datagram to leave from (`IP_PKTINFO`, `IPV6_PKTINFO`).
pub(crate) fn wanted_source(control: &[Ancillary]) -> Result<(Option<Ip>, u32)> {
    let mut wanted = (None, 0);
    for message in control {
        let Ancillary::Raw { level, kind, data } = message else { return Err(Errno::EINVAL) };
        let word = |at: usize| -> Option<[u8; 4]> { data.get(at..at + 4)?.try_into().ok() };
        match (*level, *kind) {
            (SOL_IP, 8) => {
                let index = word(0).ok_or(Errno::EINVAL)?;
                let source = Ip::v4(word(4).ok_or(Errno::EINVAL)?);
                wanted = ((!source.is_any()).then_some(source), u32::from_ne_bytes(index));
            }
            (SOL_IPV6, 50) => {
                let source: [u8; 16] =
                    data.get(..16).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
                let index = word(16).ok_or(Errno::EINVAL)?;
                let source = Ip::v6(source);
                wanted = ((!source.is_any()).then_some(source), u32::from_ne_bytes(index));
            }
            (SOL_IP, 1 | 2) | (SOL_IPV6, 52 | 67) => {}
            (SOL_IP | SOL_IPV6, _) => return Err(Errno::EINVAL),
            _ => {}
        }
    }
    Ok(wanted)
}
