//! Calls with a `struct msghdr`: `sendmsg(2)`, `recvmsg(2)` and the forms for several messages.

use super::transfer::send;
use super::{Open, with_call, write_address};
use crate::Cx;
use crate::fsctx::{Segments, files, segments};
use crate::time::{read_timespec, write_timespec};
use abi::process::Resource;
use abi::socket::*;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::uio::{Sink, Source};
use arch::user;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use process::pid::PidNamespace;
use socket::{Address, Ancillary, Cred, RecvMessage, Scm, SendMessage, Socket};
use vfs::{Cap, CloseOnExec, Creds, FdTable, File};
use zerocopy::{FromBytes, IntoBytes};

/// Segments of one message, and messages of one call.
const IOV_MAX: u64 = 1024;
/// `sizeof(struct cmsghdr)`, to which lengths are aligned as well by 8.
const HEADER: usize = size_of::<CmsgHdr>();

/// What the caller's `struct msghdr` says.
struct Given {
    at: VirtAddr,
    header: MsgHdr,
    list: Segments,
}

impl Given {
    fn read(at: VirtAddr) -> Result<Given> {
        let mut header: MsgHdr = user::read_val(at)?;
        if header.name == 0 {
            header.namelen = 0;
        }
        if header.namelen < 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Given { at, header, list: Segments::new() })
    }

    /// The address to send to: what is beyond the longest is ignored.
    fn address(&self) -> Result<Option<Address>> {
        let len = usize::try_from(self.header.namelen).unwrap_or(0).min(ADDRESS_MAX);
        if len == 0 {
            return Ok(None);
        }
        Address::fill(len, |bytes| user::copy_from_user(bytes, VirtAddr(self.header.name)))
            .map(Some)
    }

    fn read_segments(&mut self) -> Result<()> {
        if self.header.iovlen > IOV_MAX {
            return Err(Errno::EMSGSIZE);
        }
        self.list = segments(VirtAddr(self.header.iov), self.header.iovlen as usize)?;
        Ok(())
    }
}

/// The control data of a send.
fn read_control(socket: &dyn Socket, header: &MsgHdr) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if header.controllen > i32::MAX as u64 {
        return Err(Errno::ENOBUFS);
    }
    let len = header.controllen as usize;
    if len > 0 {
        let most = socket.common().namespace.core.optmem_max.load(Ordering::Relaxed);
        if len > usize::try_from(most).unwrap_or(0) {
            return Err(Errno::ENOBUFS);
        }
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(len, 0);
        user::copy_from_user(&mut bytes, VirtAddr(header.control))?;
    }
    Ok(bytes)
}

/// On whose behalf messages with control data are sent and received.
pub(crate) struct Party {
    /// The descriptors.
    pub(crate) files: Arc<FdTable>,
    /// `RLIMIT_NOFILE`.
    pub(crate) most_files: u64,
    /// Its rights.
    pub(crate) creds: Arc<Creds>,
    /// The number of its process.
    pub(crate) tgid: i32,
    /// Whose rights over processes count.
    pub(crate) pid_ns: Arc<PidNamespace>,
}

impl Party {
    fn of(cx: &Cx<'_>) -> Result<Party> {
        Ok(Party {
            files: files(cx)?,
            most_files: cx.task.limit(Resource::Nofile),
            creds: cx.task.creds(),
            tgid: cx.task.group.tgid(),
            pid_ns: cx.task.group.pid_ns().clone(),
        })
    }
}

/// unix(7): whom a sender may name: itself, and with privilege others.
fn check_credentials(party: &Party, given: &Ucred) -> Result<Cred> {
    let creds = &*party.creds;
    let user_ns = &creds.user_ns;
    let (uid, gid) = (user_ns.uid_out(given.uid)?, user_ns.gid_out(given.gid)?);
    let may = |cap: Cap| creds.effective.has(cap);
    let own_pid = given.pid == party.tgid;
    let own_uid = [creds.uid, creds.euid, creds.suid].contains(&uid);
    let own_gid = [creds.gid, creds.egid, creds.sgid].contains(&gid);
    // Numbers of processes belong to another namespace than those of users.
    let may_any_pid = || creds.ns_capable(&party.pid_ns.user_ns, Cap::SYS_ADMIN);
    if !(own_pid || may_any_pid())
        || !(own_uid || may(Cap::SETUID))
        || !(own_gid || may(Cap::SETGID))
    {
        return Err(Errno::EPERM);
    }
    let who = socket::identity::find(given.pid).ok_or(Errno::ESRCH)?;
    Ok(Cred { who: Some(who), uid, gid })
}

/// Adds the files of `SCM_RIGHTS` to those of earlier messages.
fn add_rights(party: &Party, data: &[u8], rights: &mut Vec<Arc<File>>) -> Result<()> {
    let count = data.len() / size_of::<i32>();
    if rights.len() + count > SCM_MAX_FD {
        return Err(Errno::EINVAL);
    }
    rights.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
    for word in data.chunks_exact(size_of::<i32>()) {
        let fd = i32::read_from_bytes(word).map_err(|_| Errno::EINVAL)?;
        rights.push(party.files.get(fd)?);
    }
    Ok(())
}

/// Decodes control data for a socket, as cmsg(3) lays it out.
pub(crate) fn decode(party: &Party, scm: Scm, bytes: &[u8]) -> Result<Vec<Ancillary>> {
    let mut messages = Vec::new();
    let (mut rights, mut credentials) = (Vec::new(), None);
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let (header, _) = CmsgHdr::read_from_prefix(rest).map_err(|_| Errno::EINVAL)?;
        let len = usize::try_from(header.len).map_err(|_| Errno::EINVAL)?;
        if len < HEADER || len > rest.len() {
            return Err(Errno::EINVAL);
        }
        let data = rest.get(HEADER..len).unwrap_or_default();
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
        match (header.level, header.kind) {
            (SOL_SOCKET, SCM_RIGHTS | SCM_CREDENTIALS) if scm == Scm::Raw => {}
            (SOL_SOCKET, SCM_RIGHTS) if scm == Scm::Rights => add_rights(party, data, &mut rights)?,
            (SOL_SOCKET, SCM_CREDENTIALS) if scm != Scm::Raw => {
                let given = Ucred::read_from_bytes(data).map_err(|_| Errno::EINVAL)?;
                credentials = Some(check_credentials(party, &given)?);
            }
            (SOL_SOCKET, _) if scm != Scm::Raw => return Err(Errno::EINVAL),
            _ if scm != Scm::Raw => {}
            (level, kind) => messages.push(Ancillary::Raw { level, kind, data: data.into() }),
        }
    }
    if !rights.is_empty() {
        messages.push(Ancillary::Rights(rights));
    }
    messages.extend(credentials.map(Ancillary::Credentials));
    Ok(messages)
}

fn send_one(cx: &Cx<'_>, open: &Open, at: VirtAddr, flags: u32) -> Result<usize> {
    let socket = open.socket()?;
    let mut given = Given::read(at)?;
    let address = given.address()?;
    given.read_segments()?;
    let control = read_control(socket, &given.header)?;
    let mut source = Source::user_segments(&given.list);
    let mut message = SendMessage { flags: flags | open.flags(), ..SendMessage::default() };
    if address.is_none() && control.is_empty() {
        return send(cx, socket, &mut source, &mut message);
    }
    with_call(cx, |call| {
        let control = match control.is_empty() {
            true => Vec::new(),
            false => decode(&Party::of(cx)?, socket.scm(), &control)?,
        };
        let address = address.as_ref();
        let flags = message.flags;
        let mut message = SendMessage { flags, address, control, call: Some(call) };
        send(cx, socket, &mut source, &mut message)
    })
}

/// `sendmsg(2)`.
pub(super) fn sys_sendmsg(cx: &mut Cx<'_>, fd: i32, at: VirtAddr, flags: u32) -> Result<usize> {
    if flags & MSG_CMSG_COMPAT != 0 {
        return Err(Errno::EINVAL);
    }
    send_one(cx, &Open::new(cx, fd)?, at, flags)
}

/// `sendmmsg(2)`: the error of a message after the first is not told.
pub(super) fn sys_sendmmsg(
    cx: &mut Cx<'_>,
    fd: i32,
    at: VirtAddr,
    count: u32,
    flags: u32,
) -> Result<usize> {
    if flags & MSG_CMSG_COMPAT != 0 {
        return Err(Errno::EINVAL);
    }
    let open = Open::new(cx, fd)?;
    let count = u64::from(count).min(IOV_MAX);
    let mut done = 0;
    for index in 0..count {
        let at = at.wrapping_add(index * size_of::<MmsgHdr>() as u64);
        let more = if index + 1 < count { MSG_BATCH } else { 0 };
        let sent = send_one(cx, &open, at, flags | more).and_then(|sent| {
            let len_at = at.wrapping_add(offset_of!(MmsgHdr, len) as u64);
            user::write_val(len_at, &(sent as u32))?;
            Ok(())
        });
        match sent {
            Ok(()) => done += 1,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Writes to the receiver's memory.
type Write<'a> = &'a dyn Fn(VirtAddr, &[u8]) -> Result<()>;

/// Room for control messages in the receiver's memory.
pub(crate) struct ControlRoom<'a> {
    at: VirtAddr,
    left: usize,
    /// How much of it has something.
    pub(crate) used: usize,
    /// `MSG_CTRUNC` if something found no room.
    pub(crate) flags: u32,
    write: Write<'a>,
}

impl<'a> ControlRoom<'a> {
    /// `len` bytes at an address.
    pub(crate) fn new(at: VirtAddr, len: usize, write: Write<'a>) -> ControlRoom<'a> {
        ControlRoom { at, left: len, used: 0, flags: 0, write }
    }

    /// Puts a message, cut to the room there is.
    fn put(&mut self, level: i32, kind: i32, data: &[u8]) -> Result<()> {
        if self.left < HEADER {
            self.flags |= MSG_CTRUNC;
            return Ok(());
        }
        let mut len = HEADER + data.len();
        if len > self.left {
            self.flags |= MSG_CTRUNC;
            len = self.left;
        }
        let header = CmsgHdr { len: len as u64, level, kind };
        (self.write)(self.at, header.as_bytes())?;
        let shown = data.get(..len - HEADER).unwrap_or_default();
        (self.write)(self.at.wrapping_add(HEADER as u64), shown)?;
        self.advance((HEADER + data.len()).next_multiple_of(8));
        Ok(())
    }

    fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.left);
        self.at = self.at.wrapping_add(bytes as u64);
        self.left -= bytes;
        self.used += bytes;
    }

    /// Gives the caller descriptors for files, as many as there is room for.
    fn put_rights(&mut self, party: &Party, sent: Vec<Arc<File>>, cloexec: CloseOnExec) {
        let total = sent.len();
        let most = self.left.saturating_sub(HEADER) / size_of::<i32>();
        let mut count = 0;
        for file in sent.into_iter().take(most) {
            let at = self.at.wrapping_add((HEADER + count * size_of::<i32>()) as u64);
            if give_descriptor(party, file, at, cloexec, self.write).is_err() {
                break;
            }
            count += 1;
        }
        if count > 0 {
            let len = HEADER + count * size_of::<i32>();
            let header = CmsgHdr { len: len as u64, level: SOL_SOCKET, kind: SCM_RIGHTS };
            if (self.write)(self.at, header.as_bytes()).is_ok() {
                self.advance(len.next_multiple_of(8));
            }
        }
        if count < total {
            self.flags |= MSG_CTRUNC;
        }
    }
}

fn give_descriptor(
    party: &Party,
    file: Arc<File>,
    at: VirtAddr,
    cloexec: CloseOnExec,
    write: Write<'_>,
) -> Result<()> {
    let table = &party.files;
    let fd = table.reserve(0, party.most_files, cloexec)?;
    if let Err(fault) = write(at, fd.as_bytes()) {
        table.cancel(fd);
        return Err(fault);
    }
    table.install(fd, file);
    Ok(())
}

/// Gives the receiver the control messages that came.
pub(crate) fn encode(
    party: &Party,
    room: &mut ControlRoom<'_>,
    message: &mut RecvMessage,
) -> Result<()> {
    let cloexec = CloseOnExec::from_flags(message.flags, MSG_CMSG_CLOEXEC);
    for ancillary in core::mem::take(&mut message.control) {
        match ancillary {
            Ancillary::Rights(files) => room.put_rights(party, files, cloexec),
            Ancillary::Credentials(cred) => {
                let seen = cred.seen_from(&party.creds.user_ns);
                room.put(SOL_SOCKET, SCM_CREDENTIALS, seen.as_bytes())?;
            }
            Ancillary::Raw { level, kind, data } => room.put(level, kind, &data)?,
        }
    }
    Ok(())
}

fn recv_one(cx: &Cx<'_>, open: &Open, at: VirtAddr, flags: u32) -> Result<usize> {
    let mut given = Given::read(at)?;
    given.read_segments()?;
    let header = given.header;
    let mut message = RecvMessage {
        flags: flags | open.flags(),
        wants_address: header.name != 0,
        wants_control: header.control != 0 && header.controllen > 0,
        ..RecvMessage::default()
    };
    let mut sink = Sink::user_segments(&given.list);
    let count = open.socket()?.recv(&mut sink, &mut message)?;
    let left = if header.control == 0 { 0 } else { header.controllen as usize };
    let write = |at: VirtAddr, bytes: &[u8]| Ok(user::copy_to_user(at, bytes)?);
    let mut room = ControlRoom::new(VirtAddr(header.control), left, &write);
    if !message.control.is_empty() {
        encode(&Party::of(cx)?, &mut room, &mut message)?;
    }
    let field = |offset: usize| given.at.wrapping_add(offset as u64);
    if header.name != 0 {
        write_address(&message.address, VirtAddr(header.name), field(offset_of!(MsgHdr, namelen)))?;
    }
    let result_flags = message.result_flags | room.flags | flags & MSG_CMSG_CLOEXEC;
    user::write_val(field(offset_of!(MsgHdr, flags)), &result_flags)?;
    user::write_val(field(offset_of!(MsgHdr, controllen)), &(room.used as u64))?;
    Ok(count)
}

/// `recvmsg(2)`.
pub(super) fn sys_recvmsg(cx: &mut Cx<'_>, fd: i32, at: VirtAddr, flags: u32) -> Result<usize> {
    if flags & MSG_CMSG_COMPAT != 0 {
        return Err(Errno::EINVAL);
    }
    recv_one(cx, &Open::new(cx, fd)?, at, flags)
}

/// `recvmmsg(2)`. The time-out is looked at after each message, as the man page says ("BUGS").
pub(super) fn sys_recvmmsg(
    cx: &mut Cx<'_>,
    fd: i32,
    at: VirtAddr,
    count: u32,
    flags: u32,
    timeout: VirtAddr,
) -> Result<usize> {
    if flags & MSG_CMSG_COMPAT != 0 {
        return Err(Errno::EINVAL);
    }
    let end = if timeout.is_null() {
        None
    } else {
        Some(sched::clock::monotonic_ns().saturating_add(read_timespec(timeout)?))
    };
    let open = Open::new(cx, fd)?;
    let done = recv_many(cx, &open, at, u64::from(count).min(IOV_MAX), flags, end)?;
    if let Some(end) = end
        && done > 0
    {
        write_timespec(timeout, end.saturating_sub(sched::clock::monotonic_ns()))?;
    }
    Ok(done)
}

fn recv_many(
    cx: &Cx<'_>,
    open: &Open,
    at: VirtAddr,
    count: u64,
    mut flags: u32,
    end: Option<u64>,
) -> Result<usize> {
    let common = open.socket()?.common();
    common.check_error()?;
    let mut done = 0;
    for index in 0..count {
        let at = at.wrapping_add(index * size_of::<MmsgHdr>() as u64);
        let received = recv_one(cx, open, at, flags & !MSG_WAITFORONE).and_then(|len| {
            let len_at = at.wrapping_add(offset_of!(MmsgHdr, len) as u64);
            user::write_val(len_at, &(len as u32))?;
            Ok(())
        });
        if let Err(error) = received {
            if done == 0 {
                return Err(error);
            }
            // The next call tells it.
            if !matches!(error, Errno::EAGAIN | Errno::ERESTARTSYS | Errno::EINTR) {
                common.set_error(error);
            }
            break;
        }
        done += 1;
        if flags & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT;
        }
        if end.is_some_and(|end| sched::clock::monotonic_ns() >= end) {
            break;
        }
    }
    Ok(done)
}
