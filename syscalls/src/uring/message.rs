//! What receives, and messages with a `struct msghdr`. All that the program says is read when an entry is
//! taken; what comes is written when it comes.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;

use ::uring::issue::Made;
use ::uring::prepare::Reader;
use ::uring::{Operation, Outcome, Picked, Try, Turn};
use abi::socket::*;
use abi::uring::{Sqe, cqe, socket as how};
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::uio::Segment;
use arch::user;
use socket::{Address, RecvMessage, Socket};
use zerocopy::IntoBytes;

use super::net::{
    Owner, READABLE, Sending, is_impatient, is_stream, must_be_none, partial, selects, skip,
    socket, total,
};
use crate::fsctx::MAX_TRANSFER;
use crate::socket::message::{ControlRoom, encode};

const IOV_MAX: u64 = 1024;
/// Most control data of a message, whatever `optmem_max` allows.
const MOST_CONTROL: u64 = 1 << 20;

/// The one segment of an entry.
pub(super) fn one(addr: u64, len: usize) -> Result<Vec<Segment>> {
    let len = len.min(MAX_TRANSFER);
    if !user::range_ok(VirtAddr(addr), len) {
        return Err(Errno::EFAULT);
    }
    Ok(alloc::vec![Segment { addr: VirtAddr(addr), len }])
}

fn header(reader: &Reader<'_>, at: u64) -> Result<MsgHdr> {
    let header: MsgHdr = reader.value(at)?;
    if header.namelen < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(header)
}

fn segments(reader: &Reader<'_>, header: &MsgHdr) -> Result<Vec<Segment>> {
    if header.iovlen > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut raw = alloc::vec![[0u64; 2]; header.iovlen as usize];
    reader.read(header.iov, raw.as_mut_bytes())?;
    let mut left = MAX_TRANSFER;
    let mut list = Vec::with_capacity(raw.len());
    for [addr, len] in raw {
        if len > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let len = (len as usize).min(left);
        list.extend(one(addr, len)?);
        left -= len;
    }
    Ok(list)
}

/// `IORING_OP_SENDMSG`.
pub(super) fn send(who: &Arc<Owner>, entry: &Sqe, reader: &Reader<'_>) -> Result<Made> {
    if entry.ioprio & !how::POLL_FIRST != 0 {
        return Err(Errno::EINVAL);
    }
    must_be_none(&[entry.off, entry.file_index.into()])?;
    let header = header(reader, entry.addr)?;
    let len = usize::try_from(header.namelen).unwrap_or(0).min(ADDRESS_MAX);
    let address = match len {
        _ if header.name == 0 => None,
        0 => None,
        len => Some(Address::fill(len, |bytes| reader.read(header.name, bytes))?),
    };
    let list = segments(reader, &header)?;
    if header.controllen > MOST_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let mut control = Vec::new();
    control.try_reserve_exact(header.controllen as usize).map_err(|_| Errno::ENOBUFS)?;
    control.resize(header.controllen as usize, 0);
    reader.read(header.control, &mut control)?;
    let (who, flags) = (who.clone(), entry.op_flags);
    let is_late = entry.ioprio & how::POLL_FIRST != 0;
    Ok(Made::Operation(Box::new(Sending { who, list, flags, address, control, done: 0, is_late })))
}

/// A `struct msghdr` that is received into.
struct Header {
    at: VirtAddr,
    given: MsgHdr,
}

struct Receiving {
    who: Arc<Owner>,
    list: Vec<Segment>,
    flags: u32,
    header: Option<Header>,
    /// The group whose buffers it takes.
    group: Option<u16>,
    wanted: usize,
    done: usize,
    is_late: bool,
    is_multi: bool,
}

/// What one receive has come to.
struct Got {
    count: usize,
    /// How much it could have been.
    room: usize,
    is_short: bool,
}

/// Where the parts of a message go that is in a buffer: its head, the address, control data.
type Places = Option<[VirtAddr; 3]>;

/// The head of a message in a buffer of a multishot receive: `struct io_uring_recvmsg_out`.
const HEAD: usize = 16;

impl Receiving {
    /// Where the bytes go: the buffer's places for an address and control data, and the rest.
    fn places(
        &self,
        turn: &Turn<'_>,
        socket: &dyn Socket,
        picked: Option<Picked>,
    ) -> Result<(Cow<'_, [Segment]>, Places)> {
        let Some(picked) = picked else {
            let list =
                if is_stream(socket) { turn.window(&self.list) } else { Cow::from(&self.list) };
            return Ok((list, None));
        };
        let whole = picked.segment(self.wanted);
        let Some(header) = self.header.as_ref().filter(|_| self.is_multi) else {
            return Ok((alloc::vec![whole].into(), None));
        };
        let name = whole.addr.wrapping_add(HEAD as u64);
        let name_len = header.given.namelen as usize;
        let control_len = usize::try_from(header.given.controllen).map_err(|_| Errno::EINVAL)?;
        let head = HEAD.saturating_add(name_len).saturating_add(control_len);
        let len = whole.len.checked_sub(head).ok_or(Errno::EFAULT)?;
        let control = name.wrapping_add(name_len as u64);
        let addr = whole.addr.wrapping_add(head as u64);
        Ok((alloc::vec![Segment { addr, len }].into(), Some([whole.addr, name, control])))
    }

    fn recv(&self, turn: &Turn<'_>, socket: &dyn Socket, picked: Option<Picked>) -> Result<Got> {
        let given = self.header.as_ref().map(|header| &header.given);
        let (list, places) = self.places(turn, socket, picked)?;
        let room = total(&list);
        let wants_control = given
            .is_some_and(|given| given.controllen > 0 && (self.is_multi || given.control != 0));
        let mut message = RecvMessage {
            flags: self.flags | MSG_DONTWAIT,
            wants_address: given
                .is_some_and(|given| given.name != 0 || self.is_multi && given.namelen > 0),
            wants_control,
            ..RecvMessage::default()
        };
        let count = turn.with_sink(&list, |sink| socket.recv(sink, &mut message))?;
        let result_flags = message.result_flags;
        let mut got = Got { count, room, is_short: false };
        if let Some(header) = &self.header {
            let flags =
                self.tell(turn, header, &mut message, places, count.min(room), wants_control)?;
            got.is_short = flags & (MSG_TRUNC | MSG_CTRUNC) != 0;
            if places.is_some() {
                got.count = HEAD
                    + header.given.namelen as usize
                    + header.given.controllen as usize
                    + count.min(room);
            }
        }
        got.is_short |= result_flags & (MSG_TRUNC | MSG_CTRUNC) != 0;
        Ok(got)
    }

    /// Writes what came besides the bytes; `MSG_*` of the message.
    fn tell(
        &self,
        turn: &Turn<'_>,
        header: &Header,
        message: &mut RecvMessage,
        places: Places,
        payload: usize,
        wants_control: bool,
    ) -> Result<u32> {
        let given = &header.given;
        let (name, control) = match places {
            Some([_, name, control]) => (name, control),
            None => (VirtAddr(given.name), VirtAddr(given.control)),
        };
        let left = if wants_control { given.controllen as usize } else { 0 };
        let write = |at: VirtAddr, bytes: &[u8]| turn.write(at, bytes);
        let mut room = ControlRoom::new(control, left, &write);
        if !message.control.is_empty() {
            encode(&self.who.party(turn.env)?, &mut room, message)?;
        }
        let bytes = message.address.bytes();
        let name_room = usize::try_from(given.namelen).unwrap_or(0);
        let wants_name = message.wants_address;
        if wants_name {
            turn.write(name, bytes.get(..name_room.min(bytes.len())).unwrap_or_default())?;
        }
        let flags = message.result_flags | room.flags | self.flags & MSG_CMSG_CLOEXEC;
        if let Some([head, ..]) = places {
            let name_len = if wants_name { bytes.len() as u32 } else { 0 };
            let out = [name_len, room.used as u32, payload as u32, flags];
            turn.write(head, out.as_bytes())?;
            return Ok(flags);
        }
        let field = |offset: usize| header.at.wrapping_add(offset as u64);
        if wants_name {
            let len = bytes.len() as i32;
            turn.write(field(offset_of!(MsgHdr, namelen)), len.as_bytes())?;
        }
        turn.write(field(offset_of!(MsgHdr, flags)), flags.as_bytes())?;
        turn.write(field(offset_of!(MsgHdr, controllen)), (room.used as u64).as_bytes())?;
        Ok(flags)
    }

    fn flags_of(&self, picked: Option<Picked>) -> u32 {
        picked.map_or(0, |picked| picked.flags())
    }

    fn one_turn(&mut self, turn: &Turn<'_>, socket: &dyn Socket) -> Option<Try> {
        let picked = match self.group.map(|group| turn.env.ring.pick(group)).transpose() {
            Ok(picked) => picked,
            Err(error) => return Some(Try::done(Err(error))),
        };
        let may_wait = !is_impatient(self.flags);
        let waits_for_all = self.flags & MSG_WAITALL != 0;
        let mut got = match self.recv(turn, socket, picked) {
            Ok(got) => got,
            Err(error) => {
                let is_first = self.done == 0;
                let waits = error == Errno::EAGAIN && may_wait && (is_first || waits_for_all);
                if waits && let Some(picked) = picked {
                    turn.env.ring.put_back(picked);
                }
                return Some(match error {
                    _ if waits => Try::Wait(READABLE),
                    _ if !is_first => {
                        let result = Ok(self.done);
                        Try::Done(Outcome { result, flags: 0, is_short: waits_for_all })
                    }
                    error => {
                        // The buffer is told of, and the program's again.
                        let flags = self.flags_of(picked);
                        Try::Done(Outcome { result: Err(error), flags, is_short: false })
                    }
                });
            }
        };
        if self.is_multi {
            return self.tell_part(turn, socket, got, picked);
        }
        self.done += got.count;
        if self.group.is_none() && self.flags & MSG_PEEK == 0 && is_stream(socket) {
            skip(&mut self.list, got.count);
            let has_room = !self.list.is_empty();
            if has_room && got.count > 0 {
                if got.count == got.room {
                    return None;
                }
                if waits_for_all && may_wait {
                    return Some(Try::Wait(READABLE));
                }
            }
            got.is_short |= has_room;
        }
        let flags = self.flags_of(picked) | has_more(socket);
        let is_short = got.is_short && waits_for_all;
        Some(Try::Done(Outcome { result: Ok(self.done), flags, is_short }))
    }

    /// Tells of what came; `None` if it goes on.
    fn tell_part(
        &self,
        turn: &Turn<'_>,
        socket: &dyn Socket,
        got: Got,
        picked: Option<Picked>,
    ) -> Option<Try> {
        let is_end = got.count == 0
            || self.header.is_some() && got.count == self.overhead() && is_stream(socket);
        let flags = self.flags_of(picked) | has_more(socket);
        if is_end {
            if let Some(picked) = picked {
                turn.env.ring.put_back(picked);
            }
            return Some(Try::done(Ok(0)));
        }
        turn.post(got.count, flags, READABLE)
    }

    /// What a message in a buffer has besides its bytes.
    fn overhead(&self) -> usize {
        self.header.as_ref().map_or(0, |header| {
            HEAD + header.given.namelen as usize + header.given.controllen as usize
        })
    }
}

/// `IORING_CQE_F_SOCK_NONEMPTY` if there is more to be received, where the protocol tells: TCP does.
fn has_more(socket: &dyn Socket) -> u32 {
    let common = socket.common();
    let tells = matches!(common.family, AF_INET | AF_INET6) && is_stream(socket);
    let has_more = tells && socket.queue_number(SIOCINQ).is_ok_and(|count| count > 0);
    if has_more { cqe::SOCK_NONEMPTY } else { 0 }
}

impl Operation for Receiving {
    fn attempt(&mut self, turn: &Turn<'_>) -> Try {
        let socket = match socket(turn) {
            Ok(socket) => socket,
            Err(error) => return Try::done(Err(error)),
        };
        loop {
            if let Some(came) = self.one_turn(turn, &*socket) {
                return came;
            }
        }
    }

    fn first_wait(&self) -> Option<u32> {
        self.is_late.then_some(READABLE)
    }

    fn is_multi(&self) -> bool {
        self.is_multi
    }

    fn cancelled(&self) -> Outcome {
        if self.done == 0 {
            return Err(Errno::ECANCELED).into();
        }
        partial(self.done)
    }
}

fn prepare(
    who: &Arc<Owner>,
    entry: &Sqe,
    list: Vec<Segment>,
    wanted: usize,
    header: Option<Header>,
) -> Result<Made> {
    let is_multi = entry.ioprio & how::RECV_MULTISHOT != 0;
    Ok(Made::Operation(Box::new(Receiving {
        who: who.clone(),
        list,
        flags: entry.op_flags,
        header,
        group: selects(entry).then_some(entry.buf_index),
        wanted,
        done: 0,
        is_late: entry.ioprio & how::POLL_FIRST != 0,
        is_multi,
    })))
}

fn check_recv(entry: &Sqe) -> Result<()> {
    let known = how::POLL_FIRST | how::RECV_MULTISHOT;
    must_be_none(&[u64::from(entry.ioprio & !known), entry.off, entry.file_index.into()])?;
    let is_multi = entry.ioprio & how::RECV_MULTISHOT != 0;
    if is_multi && (!selects(entry) || entry.op_flags & MSG_WAITALL != 0) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// `IORING_OP_RECV`.
pub(super) fn recv(who: &Arc<Owner>, entry: &Sqe) -> Result<Made> {
    check_recv(entry)?;
    if entry.ioprio & how::RECV_MULTISHOT != 0 && entry.len != 0 {
        return Err(Errno::EINVAL);
    }
    let len = entry.len as usize;
    let list = if selects(entry) { Vec::new() } else { one(entry.addr, len)? };
    prepare(who, entry, list, len, None)
}

/// `IORING_OP_RECVMSG`.
pub(super) fn recv_message(who: &Arc<Owner>, entry: &Sqe, reader: &Reader<'_>) -> Result<Made> {
    check_recv(entry)?;
    let at = VirtAddr(entry.addr);
    let given = header(reader, entry.addr)?;
    let is_multi = entry.ioprio & how::RECV_MULTISHOT != 0;
    let (list, wanted) = match selects(entry) {
        true if is_multi => (Vec::new(), 0),
        true if given.iovlen > 1 => return Err(Errno::EINVAL),
        true => {
            let list = segments(reader, &given)?;
            let wanted = list.iter().map(|segment| segment.len).sum();
            (Vec::new(), wanted)
        }
        false => (segments(reader, &given)?, 0),
    };
    prepare(who, entry, list, wanted, Some(Header { at, given }))
}
