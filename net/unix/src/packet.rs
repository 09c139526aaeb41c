//! Datagrams and sequenced packets.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::socket::*;
use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use frames::PageRef;
use socket::{Ancillary, Cred, Patience, RecvMessage, SendMessage, filter, packet_memory};
use vfs::File;

use crate::name::{self, Bound};
use crate::rights::{self, Extra, Rights};
use crate::sock::{CONNECTED, DEAD, Inbox, READABLE, RECV_SHUT, SEND_SHUT, Unix, WRITABLE};
use crate::stream::extra_of;

const PAGE: usize = 4096;
/// Up to here a packet's bytes are in one piece of the heap.
const SMALL_MAX: usize = 2048;
/// What is left of `SO_SNDBUF` for the longest packet.
const RESERVE: usize = 32;

enum Bytes {
    Small(Vec<u8>),
    Pages(Vec<PageRef>),
}

impl Bytes {
    /// Takes all of a source.
    fn read(source: &mut Source<'_>) -> Result<Bytes> {
        let len = source.remaining();
        if len <= SMALL_MAX {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
            bytes.resize(len, 0);
            source.take_all(&mut bytes)?;
            return Ok(Bytes::Small(bytes));
        }
        let mut pages = Vec::new();
        pages.try_reserve_exact(len.div_ceil(PAGE)).map_err(|_| Errno::ENOBUFS)?;
        while !source.is_empty() {
            let page = frames::alloc_page(frames::Flags::empty()).map_err(|_| Errno::ENOBUFS)?;
            let wanted = source.remaining().min(PAGE);
            if page.from_source(0, wanted, source)? < wanted {
                return Err(Errno::EFAULT);
            }
            pages.push(page);
        }
        Ok(Bytes::Pages(pages))
    }

    /// Puts up to `len` bytes from `skip` on.
    fn write(&self, skip: usize, mut len: usize, sink: &mut Sink<'_>) -> Result<()> {
        match self {
            Bytes::Small(bytes) => {
                sink.put_all(bytes.get(skip..skip + len).unwrap_or_default())?;
            }
            Bytes::Pages(pages) => {
                let mut offset = skip % PAGE;
                for page in pages.iter().skip(skip / PAGE) {
                    let step = len.min(PAGE - offset);
                    if page.to_sink(offset, step, sink)? < step {
                        return Err(Errno::EFAULT);
                    }
                    len -= step;
                    offset = 0;
                    if len == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl bpf::Bytes for Bytes {
    fn read(&self, at: usize, to: &mut [u8]) -> bool {
        match self {
            Bytes::Small(bytes) => bpf::Bytes::read(&bytes.as_slice(), at, to),
            Bytes::Pages(pages) => to.iter_mut().zip(at..).all(|(to, at)| {
                let page = pages.get(at / PAGE);
                page.is_some_and(|page| {
                    page.copy_out(at % PAGE, core::slice::from_mut(to));
                    true
                })
            }),
        }
    }
}

/// A packet on its way.
struct Packet {
    bytes: Bytes,
    len: usize,
    from: Option<Arc<Bound>>,
    extra: Option<Box<Extra>>,
    /// Paid back when the packet is gone.
    _charge: Charge,
}

/// What a packet costs its sender until it is received.
struct Charge {
    sender: Arc<Unix>,
    cost: usize,
}

impl Charge {
    fn new(sender: Arc<Unix>, cost: usize) -> Charge {
        sender.charged.fetch_add(cost, Ordering::AcqRel);
        Charge { sender, cost }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.sender.charged.fetch_sub(self.cost, Ordering::AcqRel);
        let limit = self.sender.sndbuf();
        let after = before.saturating_sub(self.cost);
        if before.saturating_mul(4) > limit && after.saturating_mul(4) <= limit {
            self.sender.writable.notify(WRITABLE);
        }
    }
}

/// What a socket has not received yet.
pub(crate) struct PacketInbox {
    packets: VecDeque<Packet>,
}

impl PacketInbox {
    pub(crate) const fn new() -> PacketInbox {
        PacketInbox { packets: VecDeque::new() }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.packets.iter().map(|packet| packet.len).sum()
    }

    pub(crate) fn first_len(&self) -> usize {
        self.packets.front().map_or(0, |packet| packet.len)
    }

    /// How many descriptors are in it.
    pub(crate) fn rights(&self) -> usize {
        let mut count = 0;
        self.each_rights(&mut |rights| count += rights.len());
        count
    }

    pub(crate) fn each_rights(&self, visit: &mut dyn FnMut(&Rights)) {
        let extras = self.packets.iter().filter_map(|packet| packet.extra.as_deref());
        extras.filter_map(|extra| extra.rights.as_ref()).for_each(visit);
    }

    pub(crate) fn take_rights(&mut self, out: &mut Vec<Rights>) {
        let extras = self.packets.iter_mut().filter_map(|packet| packet.extra.as_deref_mut());
        out.extend(extras.filter_map(|extra| extra.rights.take()));
    }

    /// Takes everything out; the caller drops it without the lock.
    pub(crate) fn clear(&mut self) -> impl Drop + use<> {
        core::mem::take(&mut self.packets)
    }
}

/// Whether as many packets wait as may, of senders that it is not connected to.
fn is_full(socket: &Unix) -> bool {
    let most = socket.packets_max.load(Ordering::Relaxed);
    socket.unread() > usize::try_from(most).unwrap_or(0)
}

/// Whether `to` is connected to `from`: then only the sender's buffer limits it.
fn is_mutual(to: &Unix, from: &Unix) -> bool {
    to.peer.get().is_some_and(|peer| core::ptr::eq(&*peer, from))
}

/// Whether the socket that a datagram socket is connected to takes no more.
pub(crate) fn is_peer_full(socket: &Unix) -> bool {
    if socket.is_connection() {
        return false;
    }
    socket.peer.get().is_some_and(|peer| is_full(&peer) && !is_mutual(&peer, socket))
}

/// Where a packet goes: the address of the call, or the peer.
fn target(socket: &Unix, message: &SendMessage<'_>) -> Result<Arc<Unix>> {
    if let (Some(address), Some(call)) = (message.address, message.call)
        && !socket.is_connection()
        && !address.is_empty()
    {
        return name::find(socket, call, address);
    }
    let peer = socket.peer.get().ok_or(Errno::ENOTCONN)?;
    if !socket.is_connection() && peer.has(DEAD) {
        socket.peer.set(None);
        return Err(Errno::ECONNREFUSED);
    }
    Ok(peer)
}

/// `send(2)` and its relatives.
pub(crate) fn send(
    socket: &Unix,
    source: &mut Source<'_>,
    message: &mut SendMessage<'_>,
) -> Result<usize> {
    if socket.is_connection() {
        socket.common.check_error()?;
        if !socket.has(CONNECTED) {
            return Err(Errno::ENOTCONN);
        }
    }
    if message.flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let given = target(socket, message);
    // An address is looked at before the packet is made, and looked up after.
    let peer = match given {
        Err(Errno::ENOTCONN) => return Err(Errno::ENOTCONN),
        other => other,
    };
    name::auto_bind_for_credentials(socket, None)?;
    let len = source.remaining();
    if len > socket.sndbuf().saturating_sub(RESERVE) {
        return Err(Errno::EMSGSIZE);
    }
    let mut patience = None;
    let nonblocking = message.is_nonblocking();
    let charge = pay(socket, packet_memory(len), nonblocking, &mut patience)?;
    let bytes = Bytes::read(source)?;
    let peer = peer?;
    let extra = extra_of(socket, &peer, message)?;
    let mut packet = Packet {
        bytes,
        len,
        from: socket.bound.get().cloned(),
        extra: if extra.is_empty() { None } else { Some(Box::new(extra)) },
        _charge: charge,
    };
    if peer.common.options.filter.is_there() {
        match filtered(&peer, &packet) {
            Some(kept) => packet.len = kept,
            // What a filter drops is lost without a word.
            None => return Ok(len),
        }
    }
    loop {
        match push(socket, &peer, packet)? {
            None => break,
            Some(refused) => packet = refused,
        }
        let patience = patience.get_or_insert_with(|| socket.common.send_patience(nonblocking));
        wait_room(socket, &peer, *patience)?;
    }
    peer.readable.notify_one(READABLE);
    Ok(len)
}

/// How many bytes of a packet the receiver's filter lets pass.
#[cold]
fn filtered(peer: &Unix, packet: &Packet) -> Option<usize> {
    let filter = &peer.common.options.filter;
    filter.pass(packet.len, 1, || filter::plain(&packet.bytes, packet.len, 0))
}

/// Waits until the sender's buffer has room for a packet.
fn pay(
    socket: &Unix,
    cost: usize,
    nonblocking: bool,
    patience: &mut Option<Patience>,
) -> Result<Charge> {
    let has_room = || {
        (socket.charged() < socket.sndbuf() || socket.has(SEND_SHUT) || socket.common.has_error())
            .then_some(())
    };
    if has_room().is_none() {
        let patience = patience.get_or_insert_with(|| socket.common.send_patience(nonblocking));
        patience.wait(&socket.writable, has_room)?;
    }
    socket.common.check_error()?;
    if socket.has(SEND_SHUT) {
        return Err(Errno::EPIPE);
    }
    let own = socket.this.upgrade().ok_or(Errno::ENOTCONN)?;
    Ok(Charge::new(own, cost))
}

/// Waits until the receiver takes packets again.
fn wait_room(socket: &Unix, peer: &Unix, patience: Patience) -> Result<()> {
    if !patience.may_wait() {
        return Err(Errno::EAGAIN);
    }
    patience.wait(&peer.room, || {
        (!is_full(peer)
            || peer.has(DEAD | RECV_SHUT)
            || socket.has(SEND_SHUT)
            || is_mutual(peer, socket))
        .then_some(())
    })
}

/// Puts a packet into the receiver's queue; gives it back if that is full.
fn push(socket: &Unix, peer: &Unix, packet: Packet) -> Result<Option<Packet>> {
    if !socket.is_connection() {
        let theirs = peer.peer.get();
        // unix(7): a connected datagram socket receives from its peer only.
        if theirs.is_some_and(|theirs| !core::ptr::eq(&*theirs, socket)) {
            return Err(Errno::EPERM);
        }
    }
    let mut inbox = peer.inbox.lock();
    if peer.has(DEAD) {
        drop(inbox);
        if socket.is_connection() {
            return Err(Errno::EPIPE);
        }
        let was_peer = socket.peer.get().is_some_and(|own| core::ptr::eq(&*own, peer));
        if was_peer {
            socket.peer.set(None);
        }
        return Err(Errno::ECONNREFUSED);
    }
    if peer.has(RECV_SHUT) {
        return Err(Errno::EPIPE);
    }
    let Inbox::Packets(inbox) = &mut *inbox else { return Err(Errno::EPROTOTYPE) };
    if !core::ptr::eq(peer, socket) && is_full(peer) && !is_mutual(peer, socket) {
        return Ok(Some(packet));
    }
    inbox.packets.push_back(packet);
    peer.unread.store(inbox.packets.len(), Ordering::Release);
    Ok(None)
}

/// Hands files over, or drops them where there is no room for control messages.
pub(crate) fn give_rights(message: &mut RecvMessage, files: Option<Vec<Arc<File>>>) {
    files.into_iter().for_each(|files| message.give(Ancillary::Rights(files)));
}

/// `recv(2)` and its relatives.
pub(crate) fn recv(socket: &Unix, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Result<usize> {
    if socket.is_connection() && !socket.has(CONNECTED) {
        return Err(Errno::ENOTCONN);
    }
    if message.flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut patience = None;
    loop {
        let received = if message.flags & MSG_PEEK != 0 {
            peek(socket, sink, message)
        } else {
            pop(socket, sink, message)
        };
        if let Some(outcome) = received {
            return outcome;
        }
        socket.common.check_error()?;
        if socket.has(RECV_SHUT) && socket.unread() == 0 {
            let is_end = socket.is_connection() || !message.is_nonblocking();
            return if is_end { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let nonblocking = message.is_nonblocking();
        let patience = patience.get_or_insert_with(|| socket.common.recv_patience(nonblocking));
        patience.wait(&socket.readable, || {
            (socket.unread() > 0 || socket.has(RECV_SHUT) || socket.common.has_error())
                .then_some(())
        })?;
    }
}

/// Receives a packet, if there is one.
fn pop(socket: &Unix, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Option<Result<usize>> {
    let (mut packet, was_full, left) = {
        let mut inbox = socket.inbox.lock();
        let Inbox::Packets(inbox) = &mut *inbox else { return Some(Err(Errno::EIO)) };
        let was_full = is_full(socket);
        let packet = inbox.packets.pop_front()?;
        socket.unread.store(inbox.packets.len(), Ordering::Release);
        (packet, was_full, inbox.packets.len())
    };
    if was_full && !is_full(socket) {
        socket.room.notify(WRITABLE);
    }
    if left > 0 {
        socket.readable.wake_one();
    }
    let extra = packet.extra.take().map_or_else(Extra::default, |extra| *extra);
    let skip = peek_offset(socket).min(packet.len);
    if skip > 0 {
        socket.common.options.peek_off.store(
            peek_offset(socket).saturating_sub(packet.len).try_into().unwrap_or(0),
            Ordering::Relaxed,
        );
    }
    let outcome = show(&packet, 0, sink, message);
    drop(packet);
    give_cred(socket, message, extra.cred);
    give_rights(message, extra.rights.map(Rights::receive));
    Some(outcome)
}

fn peek_offset(socket: &Unix) -> usize {
    usize::try_from(socket.common.options.peek_off.load(Ordering::Relaxed)).unwrap_or(0)
}

/// Looks at a packet, if there is one.
fn peek(socket: &Unix, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Option<Result<usize>> {
    let inbox = socket.inbox.lock();
    let Inbox::Packets(packets) = &*inbox else { return Some(Err(Errno::EIO)) };
    let mut skip = peek_offset(socket);
    let mut packets = packets.packets.iter();
    let packet = packets.find(|packet| {
        let is_it = skip < packet.len || (skip == 0 && packet.len == 0);
        if !is_it {
            skip -= packet.len;
        }
        is_it
    })?;
    let outcome = show(packet, skip, sink, message);
    if socket.common.options.peek_off.load(Ordering::Relaxed) >= 0
        && let Ok(count) = outcome
    {
        let count = i32::try_from(count).unwrap_or(0);
        socket.common.options.peek_off.fetch_add(count, Ordering::Relaxed);
    }
    let extra = packet.extra.as_deref();
    let cred = extra.and_then(|extra| extra.cred.clone());
    let files = extra.and_then(|extra| extra.rights.as_ref()).map(Rights::peek);
    drop(inbox);
    files.iter().for_each(|files| rights::settle(files));
    give_cred(socket, message, cred);
    give_rights(message, files);
    Some(outcome)
}

fn give_cred(socket: &Unix, message: &mut RecvMessage, cred: Option<Cred>) {
    if socket.passes_credentials() {
        message.give(Ancillary::Credentials(cred.unwrap_or(Cred::nobody())));
    }
}

/// Copies a packet's bytes from `skip` on to the receiver, and tells what else there is to tell.
fn show(
    packet: &Packet,
    skip: usize,
    sink: &mut Sink<'_>,
    message: &mut RecvMessage,
) -> Result<usize> {
    let len = packet.len - skip;
    let count = len.min(sink.remaining());
    packet.bytes.write(skip, count, sink)?;
    if count < len {
        message.result_flags |= MSG_TRUNC;
    }
    if message.wants_address
        && let Some(from) = &packet.from
    {
        message.address = from.address;
    }
    Ok(if message.flags & MSG_TRUNC != 0 { len } else { count })
}
