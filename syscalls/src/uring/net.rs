//! The operations on sockets: tried without waiting, and tried again when the socket is ready.
//!
//! Not there: descriptors of the instance's own table as results (`file_index`), `IORING_OP_SEND_ZC`, and
//! `IORING_RECVSEND_FIXED_BUF`; all of them are `EINVAL`.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use ::uring::issue::Made;
use ::uring::prepare::Reader;
use ::uring::{Env, Operation, Outcome, Try, Turn};
use abi::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use abi::socket::*;
use abi::uring::{Sqe, op, socket as how, sqe};
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::uio::Segment;
use process::Task;
use process::nsproxy::NsProxy;
use process::pid::PidNamespace;
use socket::{Address, Call, SendMessage, Shutdown, Socket, file_of, socket_of};
use vfs::CloseOnExec;

use super::message;
use crate::socket::message::Party;
use crate::socket::split_type;

pub(super) const READABLE: u32 = POLLIN | POLLRDNORM;
pub(super) const WRITABLE: u32 = POLLOUT | POLLWRNORM;

/// Whose namespaces an operation lives in.
pub(super) struct Owner {
    namespaces: Arc<NsProxy>,
    pid_ns: Arc<PidNamespace>,
}

impl Owner {
    pub(super) fn of(task: &Task) -> Owner {
        Owner { namespaces: task.ns(), pid_ns: task.group.pid_ns().clone() }
    }

    /// Calls `work` with the submitter's context.
    pub(super) fn with_call<R>(&self, env: &Env, work: impl FnOnce(&Call<'_>) -> R) -> R {
        work(&Call { fs: &env.who.context(), namespace: &self.namespaces.net })
    }

    pub(super) fn party(&self, env: &Env) -> Result<Party> {
        Ok(Party {
            files: env.files()?,
            most_files: env.who.limits[1],
            creds: env.who.creds.clone(),
            tgid: env.who.ids.0 as i32,
            pid_ns: self.pid_ns.clone(),
        })
    }
}

/// Whether an operation is not to wait. That its file has `O_NONBLOCK` does not matter.
pub(super) fn is_impatient(flags: u32) -> bool {
    flags & MSG_DONTWAIT != 0
}

pub(super) fn socket(turn: &Turn<'_>) -> Result<Arc<dyn Socket>> {
    socket_of(turn.file).cloned()
}

/// What is wrong with an entry that has something where nothing is to be.
pub(super) fn must_be_none(values: &[u64]) -> Result<()> {
    if values.iter().all(|&value| value == 0) { Ok(()) } else { Err(Errno::EINVAL) }
}

struct Connect {
    who: Arc<Owner>,
    address: Address,
    /// It has begun.
    is_waiting: bool,
}

impl Operation for Connect {
    fn attempt(&mut self, turn: &Turn<'_>) -> Try {
        let socket = match socket(turn) {
            Ok(socket) => socket,
            Err(error) => return Try::done(Err(error)),
        };
        let (who, address) = (&self.who, &self.address);
        match who.with_call(turn.env, |call| socket.connect(call, address, true)) {
            Err(Errno::EINPROGRESS) => {
                self.is_waiting = true;
                Try::Wait(WRITABLE)
            }
            Err(Errno::EALREADY) if self.is_waiting => Try::Wait(WRITABLE),
            Err(Errno::EISCONN) if self.is_waiting => Try::done(Ok(0)),
            Err(Errno::EAGAIN) => {
                match who.with_call(turn.env, |call| socket.connect_queue(call, address)) {
                    Ok(Some(queue)) => Try::Queue(queue),
                    Ok(None) => Try::done(Err(Errno::EAGAIN)),
                    Err(error) => Try::done(Err(error)),
                }
            }
            result => Try::done(result.map(|()| 0)),
        }
    }
}

struct Accept {
    who: Arc<Owner>,
    address: VirtAddr,
    len_at: VirtAddr,
    flags: u32,
    is_multi: bool,
}

impl Accept {
    fn accept(&self, turn: &Turn<'_>) -> Result<usize> {
        let (env, socket) = (turn.env, socket(turn)?);
        let files = env.files()?;
        let cloexec = CloseOnExec::from_flags(self.flags, SOCK_CLOEXEC);
        let reserved = files.reserve(0, env.who.limits[1], cloexec)?;
        let made = self.who.with_call(env, |call| {
            let socket = socket.accept(call, true)?;
            let file = file_of(call.fs, socket.clone(), self.flags & SOCK_NONBLOCK)?;
            if !self.address.is_null() {
                let peer = socket.peer_address().map_err(|_| Errno::ECONNABORTED)?;
                self.tell(turn, &peer)?;
            }
            Ok(file)
        });
        match made {
            Ok(file) => {
                files.install(reserved, file);
                Ok(reserved as usize)
            }
            Err(error) => {
                files.cancel(reserved);
                Err(error)
            }
        }
    }

    /// Writes the address of the other end, as much of it as fits.
    fn tell(&self, turn: &Turn<'_>, peer: &Address) -> Result<()> {
        let mut room = [0; 4];
        let count = turn.env.who.space()?.read_remote(self.len_at, &mut room)?;
        let room = i32::from_ne_bytes(room);
        if count < 4 {
            return Err(Errno::EFAULT);
        }
        let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
        let bytes = peer.bytes();
        turn.write(self.address, bytes.get(..room.min(bytes.len())).unwrap_or_default())?;
        turn.write(self.len_at, &(bytes.len() as i32).to_ne_bytes())
    }
}

impl Operation for Accept {
    fn attempt(&mut self, turn: &Turn<'_>) -> Try {
        loop {
            match self.accept(turn) {
                Err(Errno::EAGAIN) => return Try::Wait(READABLE),
                Ok(fd) if self.is_multi => {
                    if let Some(last) = turn.post(fd, 0, READABLE) {
                        return last;
                    }
                }
                result => return Try::done(result),
            }
        }
    }

    fn is_multi(&self) -> bool {
        self.is_multi
    }
}

fn accept(who: &Arc<Owner>, entry: &Sqe) -> Result<Made> {
    must_be_none(&[u64::from(entry.len), entry.buf_index.into(), entry.file_index.into()])?;
    let is_multi = entry.ioprio & how::ACCEPT_MULTISHOT != 0;
    if entry.ioprio & !how::ACCEPT_MULTISHOT != 0
        || entry.op_flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0
    {
        return Err(Errno::EINVAL);
    }
    let (address, len_at) = (VirtAddr(entry.addr), VirtAddr(entry.off));
    let (who, flags) = (who.clone(), entry.op_flags);
    Ok(Made::Operation(Box::new(Accept { who, address, len_at, flags, is_multi })))
}

fn connect(who: &Arc<Owner>, entry: &Sqe, reader: &Reader<'_>) -> Result<Made> {
    must_be_none(&[
        u64::from(entry.len),
        entry.buf_index.into(),
        entry.op_flags.into(),
        entry.file_index.into(),
    ])?;
    let len = entry.off as u32 as i32;
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let address = Address::fill(len, |bytes| reader.read(entry.addr, bytes))?;
    Ok(Made::Operation(Box::new(Connect { who: who.clone(), address, is_waiting: false })))
}

fn shutdown(entry: &Sqe) -> Result<Made> {
    must_be_none(&[
        entry.off,
        entry.addr,
        entry.op_flags.into(),
        entry.buf_index.into(),
        entry.file_index.into(),
    ])?;
    let (fd, flags, how) = (entry.fd, entry.flags, entry.len);
    Ok(Made::Call(Box::new(move |env: &Env| {
        let file = env.file(fd, flags)?;
        let socket = socket_of(&file)?;
        socket.shutdown(Shutdown::new(how)?).map(|()| 0)
    })))
}

fn new_socket(who: &Arc<Owner>, entry: &Sqe) -> Result<Made> {
    must_be_none(&[
        entry.addr,
        entry.op_flags.into(),
        entry.buf_index.into(),
        entry.file_index.into(),
    ])?;
    let (domain, protocol) = (entry.fd, entry.len as i32);
    let (kind, flags, cloexec) = split_type(entry.off as u32)?;
    let who = who.clone();
    Ok(Made::Call(Box::new(move |env: &Env| {
        let files = env.files()?;
        let file = who.with_call(env, |call| {
            let socket = socket::create(call, domain, kind, protocol)?;
            file_of(call.fs, socket, flags)
        })?;
        Ok(files.add(file, 0, env.who.limits[1], cloexec)? as usize)
    })))
}

/// Bytes of a message, or what is left of them.
pub(super) struct Sending {
    pub(super) who: Arc<Owner>,
    pub(super) list: Vec<Segment>,
    pub(super) flags: u32,
    pub(super) address: Option<Address>,
    pub(super) control: Vec<u8>,
    pub(super) done: usize,
    pub(super) is_late: bool,
}

impl Sending {
    fn send(&self, turn: &Turn<'_>, socket: &dyn Socket, list: &[Segment]) -> Result<usize> {
        // Nobody gets a signal for what an instance sends.
        let flags = self.flags | MSG_DONTWAIT | MSG_NOSIGNAL;
        turn.with_source(list, |source| {
            if self.address.is_none() && self.control.is_empty() {
                return socket.send(source, &mut SendMessage { flags, ..SendMessage::default() });
            }
            self.who.with_call(turn.env, |call| {
                let control = match self.control.is_empty() {
                    true => Vec::new(),
                    false => {
                        let party = self.who.party(turn.env)?;
                        crate::socket::message::decode(&party, socket.scm(), &self.control)?
                    }
                };
                let address = self.address.as_ref();
                socket.send(source, &mut SendMessage { flags, address, control, call: Some(call) })
            })
        })
    }
}

impl Operation for Sending {
    fn attempt(&mut self, turn: &Turn<'_>) -> Try {
        let socket = match socket(turn) {
            Ok(socket) => socket,
            Err(error) => return Try::done(Err(error)),
        };
        let waits_for_all = self.flags & MSG_WAITALL != 0;
        let may_wait = !is_impatient(self.flags);
        loop {
            let is_stream = is_stream(&*socket);
            let list = if is_stream { turn.window(&self.list) } else { Cow::from(&self.list) };
            let room = total(&list);
            let sent = self.send(turn, &*socket, &list);
            drop(list);
            match sent {
                Err(Errno::EAGAIN) if may_wait && (self.done == 0 || waits_for_all) => {
                    return Try::Wait(WRITABLE);
                }
                Err(error) if self.done == 0 => return Try::done(Err(error)),
                Err(_) => {
                    let result = Ok(self.done);
                    return Try::Done(Outcome { result, flags: 0, is_short: waits_for_all });
                }
                Ok(count) => {
                    self.done += count;
                    skip(&mut self.list, count);
                    // What went out with the first bytes does not go again.
                    self.control.clear();
                    let has_more = !self.list.is_empty();
                    if is_stream && has_more && count > 0 {
                        if count == room {
                            continue;
                        }
                        if waits_for_all && may_wait {
                            return Try::Wait(WRITABLE);
                        }
                    }
                    let is_short = waits_for_all && has_more;
                    return Try::Done(Outcome { result: Ok(self.done), flags: 0, is_short });
                }
            }
        }
    }

    fn first_wait(&self) -> Option<u32> {
        self.is_late.then_some(WRITABLE)
    }

    fn cancelled(&self) -> Outcome {
        if self.done > 0 { partial(self.done) } else { Err(Errno::ECANCELED).into() }
    }
}

/// What has moved so much, and then failed.
pub(super) fn partial(count: usize) -> Outcome {
    Outcome { result: Ok(count), flags: 0, is_short: true }
}

/// Whether what was moved in part can be gone on with.
pub(super) fn is_stream(socket: &dyn Socket) -> bool {
    socket.common().kind == socket::Kind::Stream
}

/// How many bytes there are.
pub(super) fn total(list: &[Segment]) -> usize {
    list.iter().fold(0, |sum, segment| sum.saturating_add(segment.len))
}

/// Leaves out what has been moved.
pub(super) fn skip(list: &mut Vec<Segment>, mut count: usize) {
    list.retain_mut(|segment| {
        let step = count.min(segment.len);
        segment.addr = segment.addr.wrapping_add(step as u64);
        segment.len -= step;
        count -= step;
        segment.len > 0
    });
}

fn send(who: &Arc<Owner>, entry: &Sqe, reader: &Reader<'_>) -> Result<Made> {
    if entry.ioprio & !how::POLL_FIRST != 0 {
        return Err(Errno::EINVAL);
    }
    // Where to, and how long that is (io_uring_prep_send_set_addr(3)).
    let len = u16::try_from(entry.file_index).map_err(|_| Errno::EINVAL)?;
    let address = match (entry.off, usize::from(len)) {
        (0, _) | (_, 0) => None,
        (at, len) => Some(Address::fill(len, |bytes| reader.read(at, bytes))?),
    };
    Ok(Made::Operation(Box::new(Sending {
        who: who.clone(),
        list: message::one(entry.addr, entry.len as usize)?,
        flags: entry.op_flags,
        address,
        control: Vec::new(),
        done: 0,
        is_late: entry.ioprio & how::POLL_FIRST != 0,
    })))
}

/// Makes an entry ready; `None` if it is not one of these.
pub(super) fn prepare(who: &Arc<Owner>, entry: &Sqe, reader: &Reader<'_>) -> Option<Result<Made>> {
    Some(match entry.opcode {
        op::SEND => send(who, entry, reader),
        op::RECV => message::recv(who, entry),
        op::SENDMSG => message::send(who, entry, reader),
        op::RECVMSG => message::recv_message(who, entry, reader),
        op::ACCEPT => accept(who, entry),
        op::CONNECT => connect(who, entry, reader),
        op::SHUTDOWN => shutdown(entry),
        op::SOCKET => new_socket(who, entry),
        _ => return None,
    })
}

/// Whether there is such an operation here.
pub(super) fn knows(opcode: u8) -> bool {
    matches!(
        opcode,
        op::SEND
            | op::RECV
            | op::SENDMSG
            | op::RECVMSG
            | op::ACCEPT
            | op::CONNECT
            | op::SHUTDOWN
            | op::SOCKET
    )
}

/// Whether an entry takes a provided buffer.
pub(super) fn selects(entry: &Sqe) -> bool {
    entry.flags & sqe::BUFFER_SELECT != 0
}
