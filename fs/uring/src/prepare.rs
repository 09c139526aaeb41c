//! From an entry of the ring to something that can be started: all that it points to is read here, so
//! that the program may use the entry again.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::uring::{Sqe, op, sqe};
use abi::{Errno, Result};
use aio::Held;
use arch::VirtAddr;
use arch::uio::Segment;
use arch::user;
use vfs::Direction;
use vm::AddressSpace;
use zerocopy::{FromBytes, IntoBytes};

use crate::buffers::Row;
use crate::issue::{Env, Made, Target, Work};
use crate::poll::Poll;

/// No transfer moves more at once, as read(2) says.
const MAX_TRANSFER: usize = 0x7fff_f000;
const IOV_MAX: u32 = 1024;
const TIMEOUT_ABS: u32 = 1;
const TIMEOUT_UPDATE: u32 = 2;
const TIMEOUT_REALTIME: u32 = 8;
const LINK_TIMEOUT_UPDATE: u32 = 16;
const POLL_MULTI: u32 = 1;
const POLL_EVENTS: u32 = 2;
const POLL_USER_DATA: u32 = 4;
const CANCEL_ALL: u32 = 1;
const CANCEL_FD: u32 = 2;
const CANCEL_ANY: u32 = 4;
const CANCEL_FIXED: u32 = 8;
/// Numbers of buffers are 16 bits wide.
const MOST_BUFFERS: i32 = 1 << 16;
const TIMEOUT_ETIME_SUCCESS: u32 = 32;

/// The memory of the program that submits.
pub enum Reader<'a> {
    /// It is the one that runs.
    Current,
    /// It is another: a thread of the kernel submits for it.
    Other(&'a AddressSpace),
}

impl Reader<'_> {
    /// Fills `to`.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        match self {
            Reader::Current => Ok(user::copy_from_user(to, VirtAddr(at))?),
            Reader::Other(space) => {
                let count = space.read_remote(VirtAddr(at), to)?;
                if count == to.len() { Ok(()) } else { Err(Errno::EFAULT) }
            }
        }
    }

    /// A value.
    pub fn value<T: FromBytes + IntoBytes>(&self, at: u64) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read(at, value.as_mut_bytes())?;
        Ok(value)
    }

    /// A path, without its NUL.
    pub fn path(&self, at: u64) -> Result<Vec<u8>> {
        const MOST: usize = 4096;
        let mut path = Vec::new();
        while path.len() < MOST {
            // Up to the border of a page at a time: the next may not be there.
            let from = at.wrapping_add(path.len() as u64);
            let step = (64 - from as usize % 64).min(MOST - path.len());
            let mut part = [0; 64];
            let part = part.get_mut(..step).unwrap_or_default();
            self.read(from, part)?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                path.extend_from_slice(part.get(..end).unwrap_or_default());
                return Ok(path);
            }
            path.extend_from_slice(part);
        }
        Err(Errno::ENAMETOOLONG)
    }
}

/// An entry that can be started.
pub struct Prepared {
    pub(crate) user_data: u64,
    pub(crate) flags: u8,
    pub(crate) work: Work,
    /// It is none that there is: nothing behind it is taken in the same call.
    pub(crate) is_wrong: bool,
}

/// A time of `struct __kernel_timespec`, as an instant of the monotonic clock.
fn instant(reader: &Reader<'_>, at: u64, flags: u32) -> Result<u64> {
    let [sec, nsec]: [i64; 2] = reader.value(at)?;
    if sec < 0 || nsec < 0 {
        return Err(Errno::EINVAL);
    }
    let ns = (sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64);
    if flags & TIMEOUT_ABS == 0 {
        return Ok(arch::time::now_ns().saturating_add(ns));
    }
    Ok(match flags & TIMEOUT_REALTIME {
        0 => ns,
        _ => {
            let ahead = ns.saturating_sub(sched::clock::realtime_ns());
            arch::time::now_ns().saturating_add(ahead)
        }
    })
}

fn one(addr: u64, len: u32) -> Result<Vec<Segment>> {
    let len = (len as usize).min(MAX_TRANSFER);
    if !user::range_ok(VirtAddr(addr), len) {
        return Err(Errno::EFAULT);
    }
    Ok(alloc::vec![Segment { addr: VirtAddr(addr), len }])
}

fn vector(reader: &Reader<'_>, addr: u64, count: u32) -> Result<Vec<Segment>> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut raw = alloc::vec![[0u64; 2]; count as usize];
    reader.read(addr, raw.as_mut_bytes())?;
    let mut left = MAX_TRANSFER;
    let mut list = Vec::with_capacity(raw.len());
    for [addr, len] in raw {
        if len > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let len = (len as usize).min(left);
        if !user::range_ok(VirtAddr(addr), len) {
            return Err(Errno::EFAULT);
        }
        left -= len;
        list.push(Segment { addr: VirtAddr(addr), len });
    }
    Ok(list)
}

/// What an entry of a transfer has as its memory.
fn memory(env: &Env, entry: &Sqe, reader: &Reader<'_>) -> Result<aio::Memory> {
    Ok(match entry.opcode {
        op::READV | op::WRITEV => aio::Memory::User(vector(reader, entry.addr, entry.len)?),
        op::READ_FIXED | op::WRITE_FIXED => {
            let buffer = env.ring.registered.buffer(entry.buf_index)?;
            let offset = entry.addr.checked_sub(buffer.addr).ok_or(Errno::EFAULT)?;
            let held: Held = buffer.held.part(offset as usize, entry.len as usize)?;
            aio::Memory::Held(held)
        }
        _ => aio::Memory::User(one(entry.addr, entry.len)?),
    })
}

/// What fails when it is started.
fn failed(error: Errno) -> Work {
    Work::Extra(Box::new(move |_: &Env| Err(error)))
}

fn work(env: &Env, entry: &Sqe, reader: &Reader<'_>) -> Result<Work> {
    let fd = entry.fd;
    Ok(match entry.opcode {
        op::NOP => Work::Nop,
        op::READV | op::READ_FIXED | op::READ | op::WRITEV | op::WRITE_FIXED | op::WRITE => {
            let direction = match entry.opcode {
                op::READV | op::READ_FIXED | op::READ => Direction::Read,
                _ => Direction::Write,
            };
            if matches!(entry.opcode, op::READ_FIXED | op::WRITE_FIXED) {
                env.ring.registered.buffer(entry.buf_index)?;
            }
            if entry.flags & sqe::BUFFER_SELECT != 0 {
                let wanted = match entry.opcode {
                    op::READV => match vector(reader, entry.addr, entry.len) {
                        Ok(list) if list.len() == 1 => list.iter().map(|part| part.len).sum(),
                        Ok(_) => return Ok(failed(Errno::EINVAL)),
                        Err(error) => return Ok(failed(error)),
                    },
                    _ => entry.len as usize,
                };
                let (group, rwf) = (entry.buf_index, entry.op_flags);
                return Ok(Work::Select { fd, group, wanted, pos: entry.off, rwf });
            }
            // What is wrong with the memory shows when the transfer is made.
            let memory = match memory(env, entry, reader) {
                Ok(memory) => memory,
                Err(error) => return Ok(failed(error)),
            };
            Work::Transfer { fd, direction, pos: entry.off, rwf: entry.op_flags, memory }
        }
        op::PROVIDE_BUFFERS => provide(entry)?,
        op::REMOVE_BUFFERS => {
            let wrong = entry.op_flags != 0 || entry.addr != 0 || entry.len != 0 || entry.off != 0;
            if wrong || !(1..=MOST_BUFFERS).contains(&fd) || entry.file_index != 0 {
                return Err(Errno::EINVAL);
            }
            Work::RemoveBuffers { group: entry.buf_index, most: fd as u32 }
        }
        op::FSYNC => {
            if entry.op_flags & !1 != 0 || entry.addr != 0 || entry.buf_index != 0 {
                return Err(Errno::EINVAL);
            }
            let len = u64::from(entry.len);
            let end = if len == 0 { i64::MAX as u64 } else { entry.off.saturating_add(len) };
            Work::Sync { fd, range: entry.off..end, data_only: entry.op_flags & 1 != 0 }
        }
        op::SYNC_FILE_RANGE => {
            let len = u64::from(entry.len);
            let end = if len == 0 { i64::MAX as u64 } else { entry.off.saturating_add(len) };
            Work::SyncRange { fd, range: entry.off..end, flags: entry.op_flags }
        }
        op::POLL_ADD => {
            // `IORING_POLL_ADD_LEVEL` is not there.
            if entry.len & !POLL_MULTI != 0
                || entry.buf_index != 0
                || entry.off != 0
                || entry.addr != 0
            {
                return Err(Errno::EINVAL);
            }
            let is_multi = entry.len & POLL_MULTI != 0;
            if is_multi && entry.flags & sqe::CQE_SKIP_SUCCESS != 0 {
                return Err(Errno::EINVAL);
            }
            let wanted = entry.op_flags & 0xffff;
            Work::Try { fd, operation: Box::new(Poll { wanted, is_multi }) }
        }
        op::POLL_REMOVE => {
            let how = entry.len;
            if how & !(POLL_MULTI | POLL_EVENTS | POLL_USER_DATA) != 0 || entry.buf_index != 0 {
                return Err(Errno::EINVAL);
            }
            // Being told of each change cannot be had later.
            if how == POLL_MULTI {
                return Err(Errno::EINVAL);
            }
            let wanted = (how & POLL_EVENTS != 0).then_some(entry.op_flags & 0xffff);
            let user_data = (how & POLL_USER_DATA != 0).then_some(entry.off);
            if user_data.is_none() && entry.off != 0 || wanted.is_none() && entry.op_flags != 0 {
                return Err(Errno::EINVAL);
            }
            Work::PollRemove { target: entry.addr, wanted, user_data }
        }
        op::TIMEOUT | op::LINK_TIMEOUT => {
            let known = TIMEOUT_ABS | 4 | TIMEOUT_REALTIME | TIMEOUT_ETIME_SUCCESS;
            let is_link = entry.opcode == op::LINK_TIMEOUT;
            if entry.len != 1 || entry.buf_index != 0 || entry.op_flags & !known != 0 {
                return Err(Errno::EINVAL);
            }
            if is_link && entry.off != 0 {
                return Err(Errno::EINVAL);
            }
            let at_ns = instant(reader, entry.addr, entry.op_flags)?;
            let is_success = entry.op_flags & TIMEOUT_ETIME_SUCCESS != 0;
            match is_link {
                true => Work::LinkTimeout { at_ns },
                false => Work::Timeout { at_ns, completions: entry.off, is_success },
            }
        }
        op::TIMEOUT_REMOVE => {
            if entry.buf_index != 0 || entry.len != 0 {
                return Err(Errno::EINVAL);
            }
            let at_ns = match entry.op_flags & (TIMEOUT_UPDATE | LINK_TIMEOUT_UPDATE) {
                0 if entry.op_flags != 0 => return Err(Errno::EINVAL),
                0 => None,
                _ => Some(instant(reader, entry.off, entry.op_flags)?),
            };
            let is_limit = entry.op_flags & LINK_TIMEOUT_UPDATE != 0;
            Work::TimeoutRemove { target: entry.addr, at_ns, is_limit }
        }
        op::ASYNC_CANCEL => {
            let how = entry.op_flags;
            if entry.off != 0 || how & !15 != 0 {
                return Err(Errno::EINVAL);
            }
            let target = match (how & CANCEL_ANY != 0, how & CANCEL_FD != 0) {
                (true, true) => return Err(Errno::EINVAL),
                (true, false) => Target::Any,
                (false, true) => Target::File { fd, is_fixed: how & CANCEL_FIXED != 0 },
                (false, false) => Target::Named(entry.addr),
            };
            Work::Cancel { target, all: how & CANCEL_ALL != 0 || how & CANCEL_ANY != 0 }
        }
        op::FILES_UPDATE => {
            let mut fds = alloc::vec![0i32; (entry.len as usize).min(1 << 15)];
            reader.read(entry.addr, fds.as_mut_bytes())?;
            Work::FilesUpdate { first: entry.off as u32, fds }
        }
        _ => match env.extra.prepare(entry, reader).ok_or(Errno::EINVAL)?? {
            Made::Call(call) => Work::Extra(call),
            Made::Operation(operation) => Work::Try { fd, operation },
        },
    })
}

fn provide(entry: &Sqe) -> Result<Work> {
    let (count, len) = (entry.fd, entry.len);
    if entry.op_flags != 0 || entry.file_index != 0 || len == 0 {
        return Err(Errno::EINVAL);
    }
    if !(1..=MOST_BUFFERS).contains(&count) {
        return Err(Errno::E2BIG);
    }
    let count = count as u32;
    let bytes = u64::from(count).checked_mul(u64::from(len)).ok_or(Errno::EOVERFLOW)?;
    entry.addr.checked_add(bytes).ok_or(Errno::EOVERFLOW)?;
    if !user::range_ok(VirtAddr(entry.addr), bytes as usize) {
        return Err(Errno::EFAULT);
    }
    let first = u16::try_from(entry.off).map_err(|_| Errno::E2BIG)?;
    if u32::from(first) + count > MOST_BUFFERS as u32 {
        return Err(Errno::EINVAL);
    }
    let row = Row { addr: entry.addr, len, count, first };
    Ok(Work::Provide { group: entry.buf_index, row })
}

/// Makes an entry ready. One that is wrong is started too, and fails.
pub(crate) fn prepare(env: &Env, entry: &Sqe, reader: &Reader<'_>) -> Prepared {
    let known = sqe::FIXED_FILE
        | sqe::IO_DRAIN
        | sqe::IO_LINK
        | sqe::IO_HARDLINK
        | sqe::ASYNC
        | sqe::BUFFER_SELECT
        | sqe::CQE_SKIP_SUCCESS;
    let selects = matches!(entry.opcode, op::READ | op::READV | op::RECV | op::RECVMSG);
    let work = if entry.flags & sqe::BUFFER_SELECT != 0 && !selects {
        Err(Errno::EOPNOTSUPP)
    } else if entry.flags & !known != 0 {
        Err(Errno::EINVAL)
    } else if let Err(error) = env.ring.check_entry(entry) {
        Err(error)
    } else {
        work(env, entry, reader)
    };
    let is_wrong = work.is_err();
    let work = work.unwrap_or_else(failed);
    Prepared { user_data: entry.user_data, flags: entry.flags, work, is_wrong }
}

impl Prepared {
    /// Whether the next entry belongs to the same chain.
    pub(crate) fn has_link(&self) -> bool {
        self.flags & (sqe::IO_LINK | sqe::IO_HARDLINK) != 0
    }
}
