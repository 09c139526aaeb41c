//! A stream's queue: pages, with marks where descriptors or another writer begin.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::socket::*;
use abi::{Errno, Result};
use arch::uio::{Sink, Source};
use frames::PageRef;
use socket::{Ancillary, Cred, Patience, RecvMessage, SendMessage};

use crate::name;
use crate::rights::{self, Extra, Rights};
use crate::sock::{DEAD, Inbox, RECV_SHUT, SEND_SHUT, Unix, WRITABLE};

const PAGE: usize = 4096;
/// No `SO_SNDBUF` is smaller.
const SNDBUF_MIN: usize = 4608;
/// Descriptors come with at most so many bytes: what follows is another message.
const RIGHTS_MAX: usize = 32 * 1024;
/// What a mark counts besides its bytes, as Linux counts a packet of one byte: each has a page of its own.
const MARK: usize = socket::packet_memory(1);

/// A page with bytes that are still to be received.
struct Segment {
    page: PageRef,
    offset: usize,
    len: usize,
    /// Descriptors that come with the first byte; who wrote.
    extra: Option<Box<Extra>>,
    /// A message with descriptors ends here: who received them gets no more than this.
    ends_rights: bool,
}

/// What a stream socket has not received yet.
pub(crate) struct StreamInbox {
    segments: VecDeque<Segment>,
    bytes: usize,
    /// Segments that descriptors or another writer begin.
    marks: usize,
    /// A page that was read empty, for the next write.
    spare: Option<PageRef>,
}

/// What a write puts before its first byte.
#[derive(Default)]
struct Front {
    rights: Option<Rights>,
    cred: Option<Cred>,
}

impl StreamInbox {
    pub(crate) const fn new() -> StreamInbox {
        StreamInbox { segments: VecDeque::new(), bytes: 0, marks: 0, spare: None }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What counts against the sender's buffer.
    pub(crate) fn used(&self) -> usize {
        self.bytes + self.marks * MARK
    }

    /// How many descriptors are in it.
    pub(crate) fn rights(&self) -> usize {
        let mut count = 0;
        self.each_rights(&mut |rights| count += rights.len());
        count
    }

    pub(crate) fn each_rights(&self, visit: &mut dyn FnMut(&Rights)) {
        let extras = self.segments.iter().filter_map(|segment| segment.extra.as_deref());
        extras.filter_map(|extra| extra.rights.as_ref()).for_each(visit);
    }

    pub(crate) fn take_rights(&mut self, out: &mut Vec<Rights>) {
        let extras = self.segments.iter_mut().filter_map(|segment| segment.extra.as_deref_mut());
        out.extend(extras.filter_map(|extra| extra.rights.take()));
    }

    /// Takes everything out; the caller drops it without the lock.
    pub(crate) fn clear(&mut self) -> impl Drop + use<> {
        (self.bytes, self.marks) = (0, 0);
        self.spare = None;
        core::mem::take(&mut self.segments)
    }

    fn page(&mut self) -> Result<PageRef> {
        match self.spare.take() {
            Some(page) => Ok(page),
            None => frames::alloc_page(frames::Flags::empty()).map_err(|_| Errno::ENOBUFS),
        }
    }

    /// Appends to the last page if all of a small write fits there; how much.
    #[inline]
    fn merge(&mut self, source: &mut Source<'_>, len: usize, cred: Option<&Cred>) -> Result<usize> {
        let Some(last) = self.segments.back_mut() else { return Ok(0) };
        let end = last.offset + last.len;
        if last.ends_rights || end + len > PAGE {
            return Ok(0);
        }
        let written_by = last.extra.as_deref().and_then(|extra| extra.cred.as_ref());
        let is_same = match (written_by, cred) {
            (None, None) => true,
            (Some(own), Some(other)) => own.is_same(other),
            _ => false,
        };
        if !is_same {
            return Ok(0);
        }
        let count = last.page.from_source(end, len, source)?;
        last.len += count;
        self.bytes += count;
        Ok(count)
    }

    /// Appends up to `len` bytes; how many. What `front` has goes before the first of them.
    fn append(&mut self, source: &mut Source<'_>, len: usize, front: &mut Front) -> Result<usize> {
        let len = len.min(source.remaining());
        if front.rights.is_none() {
            let small = len % PAGE;
            let merged =
                if small > 0 { self.merge(source, small, front.cred.as_ref())? } else { 0 };
            if merged == len {
                return Ok(merged);
            }
            return self.append_pages(source, len - merged, front).map(|count| merged + count);
        }
        let count = self.append_pages(source, len.min(RIGHTS_MAX), front)?;
        if let Some(last) = self.segments.back_mut() {
            last.ends_rights = true;
        }
        Ok(count)
    }

    fn append_pages(
        &mut self,
        source: &mut Source<'_>,
        len: usize,
        front: &mut Front,
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let page = match self.page() {
                Ok(page) => page,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            let count = match page.from_source(0, (len - done).min(PAGE), source) {
                Ok(count) if count > 0 => count,
                outcome => {
                    self.spare = Some(page);
                    match outcome {
                        Err(fault) if done == 0 => return Err(fault.into()),
                        _ => break,
                    }
                }
            };
            let extra = Extra { rights: front.rights.take(), cred: front.cred.clone() };
            let extra = if extra.is_empty() { None } else { Some(Box::new(extra)) };
            self.marks += usize::from(extra.is_some());
            self.segments.push_back(Segment {
                page,
                offset: 0,
                len: count,
                extra,
                ends_rights: false,
            });
            self.bytes += count;
            done += count;
        }
        Ok(done)
    }

    /// Moves bytes to `sink` until that is full, the queue empty, or what comes next is of another
    /// writer or message; how many.
    fn take(&mut self, sink: &mut Sink<'_>, got: &mut Got) -> Result<usize> {
        let mut done = 0;
        while !sink.is_full() && !got.is_over {
            let Some(first) = self.segments.front_mut() else { break };
            if first.extra.is_some() || got.cred.is_some() {
                if !got.may_mix(first.extra.as_deref()) {
                    break;
                }
                got.note(first.extra.as_deref_mut());
            }
            let len = first.len.min(sink.remaining());
            let count = match first.page.to_sink(first.offset, len, sink) {
                Ok(count) => count,
                Err(fault) if done == 0 => return Err(fault.into()),
                Err(_) => break,
            };
            got.has_bytes = true;
            done += count;
            first.offset += count;
            first.len -= count;
            if first.len == 0 {
                got.is_over = first.ends_rights && got.rights.is_some();
                self.retire();
            }
            if count < len {
                break;
            }
        }
        self.bytes -= done;
        Ok(done)
    }

    /// Drops the first segment, which is read; its page is kept for the next write.
    #[inline]
    fn retire(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        self.marks -= usize::from(segment.extra.is_some());
        if self.spare.is_none() {
            self.spare = Some(segment.page);
        }
    }

    /// Copies bytes from `skip` on to `sink` without taking them; how many.
    fn peek(&self, sink: &mut Sink<'_>, mut skip: usize, got: &mut Got) -> Result<usize> {
        let mut done = 0;
        for segment in &self.segments {
            if sink.is_full() || got.is_over {
                break;
            }
            if skip >= segment.len {
                skip -= segment.len;
                continue;
            }
            if segment.extra.is_some() || got.cred.is_some() {
                if !got.may_mix(segment.extra.as_deref()) {
                    break;
                }
                got.note_peeked(segment.extra.as_deref());
            }
            let len = (segment.len - skip).min(sink.remaining());
            let count = match segment.page.to_sink(segment.offset + skip, len, sink) {
                Ok(count) => count,
                Err(fault) if done == 0 => return Err(fault.into()),
                Err(_) => break,
            };
            got.is_over = segment.ends_rights && got.peeked.is_some();
            got.has_bytes = true;
            done += count;
            skip = 0;
            if count < len {
                break;
            }
        }
        Ok(done)
    }
}

/// What a receive has got besides bytes.
#[derive(Default)]
struct Got {
    rights: Option<Rights>,
    peeked: Option<Vec<alloc::sync::Arc<vfs::File>>>,
    cred: Option<Cred>,
    /// Bytes were got.
    has_bytes: bool,
    is_over: bool,
    /// Who wrote matters to the receiver.
    wants_cred: bool,
}

impl Got {
    /// Whether what comes next may go into the same receive: for one who wants to know, only bytes of
    /// one writer.
    fn may_mix(&self, extra: Option<&Extra>) -> bool {
        if !self.wants_cred || !self.has_bytes {
            return true;
        }
        match (&self.cred, extra.and_then(|extra| extra.cred.as_ref())) {
            (Some(own), Some(next)) => own.is_same(next),
            (None, None) => true,
            _ => false,
        }
    }

    fn note(&mut self, extra: Option<&mut Extra>) {
        let Some(extra) = extra else { return };
        self.cred = extra.cred.clone().or(self.cred.take());
        if let Some(rights) = extra.rights.take() {
            self.rights = Some(rights);
        }
    }

    fn note_peeked(&mut self, extra: Option<&Extra>) {
        let Some(extra) = extra else { return };
        self.cred = extra.cred.clone().or(self.cred.take());
        if let Some(rights) = &extra.rights {
            self.peeked = Some(rights.peek());
        }
    }

    fn has_something(&self) -> bool {
        self.wants_cred || self.rights.is_some() || self.peeked.is_some()
    }

    /// Hands over what was got.
    fn give(self, message: &mut RecvMessage) {
        if self.wants_cred {
            message.give(Ancillary::Credentials(self.cred.unwrap_or(Cred::nobody())));
        }
        self.peeked.iter().for_each(|files| rights::settle(files));
        let files = self.rights.map(Rights::receive).or(self.peeked);
        crate::packet::give_rights(message, files);
    }
}

/// What a send puts into the queue besides bytes: checked control messages, or the writer of its own.
pub(crate) fn extra_of(socket: &Unix, peer: &Unix, message: &mut SendMessage<'_>) -> Result<Extra> {
    let mut extra = Extra::default();
    for ancillary in core::mem::take(&mut message.control) {
        match ancillary {
            Ancillary::Rights(files) => {
                let call = message.call.ok_or(Errno::EINVAL)?;
                extra.rights = Some(Rights::new(files, call)?);
            }
            Ancillary::Credentials(cred) => extra.cred = Some(cred),
            Ancillary::Raw { .. } => {}
        }
    }
    if extra.cred.is_none() && (socket.passes_credentials() || peer.takes_credentials()) {
        extra.cred = Some(Cred::current());
    }
    Ok(extra)
}

/// `send(2)` and its relatives.
pub(crate) fn send(
    socket: &Unix,
    source: &mut Source<'_>,
    message: &mut SendMessage<'_>,
) -> Result<usize> {
    if message.flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let peer = socket.peer.get();
    if message.address.is_some() {
        let is_connected = socket.has(crate::sock::CONNECTED);
        return Err(if is_connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
    }
    let peer = peer.ok_or(Errno::ENOTCONN)?;
    let wants_extra =
        !message.control.is_empty() || socket.passes_credentials() || peer.takes_credentials();
    let mut front = Front::default();
    if wants_extra {
        name::auto_bind_for_credentials(socket, None)?;
        let extra = extra_of(socket, &peer, message)?;
        (front.rights, front.cred) = (extra.rights, extra.cred);
    }
    if socket.has(SEND_SHUT) {
        return Err(Errno::EPIPE);
    }
    let mut done = 0;
    let mut patience = None;
    while !source.is_empty() {
        let patience = (&mut patience, message.is_nonblocking());
        match step(socket, &peer, source, &mut front, patience) {
            Ok(count) => done += count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Sends what there is room for, waiting for some; how much.
#[inline]
fn step(
    socket: &Unix,
    peer: &Unix,
    source: &mut Source<'_>,
    front: &mut Front,
    (patience, nonblocking): (&mut Option<Patience>, bool),
) -> Result<usize> {
    if let Some(count) = push(socket, peer, source, front)? {
        return Ok(count);
    }
    let patience = *patience.get_or_insert_with(|| socket.common.send_patience(nonblocking));
    if !patience.may_wait() {
        return Err(Errno::EAGAIN);
    }
    patience.wait(&socket.writable, || {
        (peer.charged() < socket.sndbuf() || socket.has(SEND_SHUT) || peer.has(DEAD | RECV_SHUT))
            .then_some(())
    })?;
    if socket.has(SEND_SHUT) { Err(Errno::EPIPE) } else { Ok(0) }
}

/// Puts what fits into the peer's queue; how much, if there is room.
#[inline]
fn push(
    socket: &Unix,
    peer: &Unix,
    source: &mut Source<'_>,
    front: &mut Front,
) -> Result<Option<usize>> {
    let limit = socket.sndbuf();
    let count = {
        let mut inbox = peer.inbox.lock();
        if peer.has(DEAD | RECV_SHUT) {
            return Err(Errno::EPIPE);
        }
        let Inbox::Stream(inbox) = &mut *inbox else { return Err(Errno::EIO) };
        if inbox.used() >= limit {
            return Ok(None);
        }
        let count = inbox.append(source, limit - inbox.bytes(), front)?;
        // Release: who sees the count finds the bytes.
        peer.unread.store(inbox.bytes(), Ordering::Release);
        peer.charged.store(inbox.used(), Ordering::Release);
        count
    };
    if count == 0 {
        return Err(Errno::EFAULT);
    }
    peer.tell_reader();
    Ok(Some(count))
}

/// `recv(2)` and its relatives.
pub(crate) fn recv(socket: &Unix, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Result<usize> {
    if !socket.has(crate::sock::CONNECTED) {
        return Err(Errno::EINVAL);
    }
    if message.flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let target = socket.common.recv_target(sink.remaining(), message.flags);
    let mut got = Got { wants_cred: socket.passes_credentials(), ..Got::default() };
    let outcome = fill(socket, sink, message, &mut got, target);
    if matches!(outcome, Ok(count) if count > 0) && message.wants_address {
        message.address = peer_name(socket);
    }
    if outcome.is_ok() && got.has_something() {
        got.give(message);
    }
    outcome
}

/// The name of who is at the other end; nothing where that has none.
fn peer_name(socket: &Unix) -> socket::Address {
    let peer = socket.peer.get();
    let bound = peer.as_ref().and_then(|peer| peer.bound.get());
    bound.map_or(socket::Address::empty(), |bound| bound.address)
}

fn fill(
    socket: &Unix,
    sink: &mut Sink<'_>,
    message: &RecvMessage,
    got: &mut Got,
    target: usize,
) -> Result<usize> {
    let is_peek = message.flags & MSG_PEEK != 0;
    let mut skip = if is_peek {
        usize::try_from(socket.common.options.peek_off.load(Ordering::Relaxed)).unwrap_or(0)
    } else {
        0
    };
    let mut done = 0;
    let mut patience = None;
    loop {
        let outcome = if is_peek { look(socket, sink, skip, got) } else { pull(socket, sink, got) };
        let (count, is_more_left) = match outcome {
            Ok(taken) => taken,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        };
        done += count;
        skip += if is_peek { count } else { 0 };
        // What was left is another writer's, or more than there is room for.
        if done >= target || is_more_left || (done > 0 && got.is_over) {
            return Ok(done);
        }
        match wait(socket, message, skip, &mut patience) {
            Ok(true) => {}
            Ok(false) => return Ok(done),
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}

/// Takes what is there: how much, and whether something was left.
#[inline]
fn pull(socket: &Unix, sink: &mut Sink<'_>, got: &mut Got) -> Result<(usize, bool)> {
    let (count, before, after, is_more_left) = {
        let mut inbox = socket.inbox.lock();
        let Inbox::Stream(inbox) = &mut *inbox else { return Err(Errno::EIO) };
        if inbox.bytes() == 0 {
            return Ok((0, false));
        }
        let before = inbox.used();
        let count = inbox.take(sink, got)?;
        socket.unread.store(inbox.bytes(), Ordering::Release);
        socket.charged.store(inbox.used(), Ordering::Release);
        (count, before, inbox.used(), inbox.bytes() > 0)
    };
    let peek_off = &socket.common.options.peek_off;
    let offset = peek_off.load(Ordering::Relaxed);
    if offset > 0 {
        let left = offset.saturating_sub(i32::try_from(count).unwrap_or(i32::MAX)).max(0);
        peek_off.store(left, Ordering::Relaxed);
    }
    // Below the mark of the smallest buffer nothing was full.
    if before.saturating_mul(4) > SNDBUF_MIN
        && let Some(peer) = socket.peer.get()
    {
        let limit = peer.sndbuf();
        // Told once, when the queue falls below the mark.
        if before.saturating_mul(4) > limit && after.saturating_mul(4) <= limit {
            peer.writable.notify(WRITABLE);
        }
    }
    if is_more_left {
        // Another reader can go on with the rest.
        socket.readable.wake_one();
    }
    Ok((count, is_more_left))
}

/// Looks at what is there from `skip` on: how much, and whether there is more.
fn look(socket: &Unix, sink: &mut Sink<'_>, skip: usize, got: &mut Got) -> Result<(usize, bool)> {
    let (count, is_more_left) = {
        let inbox = socket.inbox.lock();
        let Inbox::Stream(inbox) = &*inbox else { return Err(Errno::EIO) };
        let count = inbox.peek(sink, skip, got)?;
        (count, inbox.bytes() > skip.saturating_add(count))
    };
    let peek_off = &socket.common.options.peek_off;
    if peek_off.load(Ordering::Relaxed) >= 0 {
        peek_off.fetch_add(i32::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }
    Ok((count, is_more_left))
}

/// Waits for bytes beyond `skip`; `false` at the end of the stream.
fn wait(
    socket: &Unix,
    message: &RecvMessage,
    skip: usize,
    patience: &mut Option<Patience>,
) -> Result<bool> {
    if socket.unread() > skip {
        return Ok(true);
    }
    socket.common.check_error()?;
    if socket.has(RECV_SHUT) {
        // What was sent before the end is seen before it.
        return Ok(socket.unread() > skip);
    }
    let nonblocking = message.is_nonblocking();
    let patience = *patience.get_or_insert_with(|| socket.common.recv_patience(nonblocking));
    if !patience.may_wait() {
        return Err(Errno::EAGAIN);
    }
    patience.wait(&socket.readable, || {
        (socket.unread() > skip || socket.has(RECV_SHUT) || socket.common.has_error()).then_some(())
    })?;
    Ok(true)
}
