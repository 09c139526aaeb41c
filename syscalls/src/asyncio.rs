//! Linux AIO: io_setup, io_submit, io_getevents and their like.
//!
//! `aio_reqprio` is taken and has no effect.

use aio::context::{self, AioContext, Event};
use aio::transfer::Started;
use aio::{Done, Memory, Submitter, Transfer};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fcntl::{RWF_APPEND, RWF_DSYNC, RWF_HIPRI, RWF_NOWAIT, RWF_SYNC};
use abi::signal::SigSet;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::uio::Segment;
use arch::user;
use process::Task;
use process::signal::wait::{begin_temporary, end_temporary};
use sched::Deadline;
use vfs::rw::At;
use vfs::{Direction, File, FileKind};

use crate::Cx;
use crate::fsctx::{MAX_TRANSFER, file, segments};

crate::syscalls! {
    206 io_setup => sys_io_setup(count: Dec, context: Hex);
    207 io_destroy => sys_io_destroy(context: Hex);
    208 io_getevents => sys_io_getevents(context: Hex, least: Dec, most: Dec, events: Hex, timeout: Timespec);
    209 io_submit => sys_io_submit(context: Hex, count: Dec, requests: Hex);
    210 io_cancel => sys_io_cancel(context: Hex, request: Hex, event: Hex);
    333 io_pgetevents => sys_io_pgetevents(context: Hex, least: Dec, most: Dec, events: Hex, timeout: Timespec, mask: Hex);
}

/// `IOCB_CMD_*`.
mod command {
    pub(super) const PREAD: u16 = 0;
    pub(super) const PWRITE: u16 = 1;
    pub(super) const FSYNC: u16 = 2;
    pub(super) const FDSYNC: u16 = 3;
    pub(super) const POLL: u16 = 5;
    pub(super) const PREADV: u16 = 7;
    pub(super) const PWRITEV: u16 = 8;
}

const FLAG_RESFD: u32 = 1;
const KNOWN_RWF: u32 = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;
/// Where `struct iocb` has the key that the kernel fills in.
const KEY: u64 = 8;

/// Sends a signal to the running task, if a task runs.
fn raise(signal: u32) {
    if let Some(task) = process::try_current() {
        task.vfs_context().get().caller.raise(signal);
    }
}

/// Who the task is, for transfers that go on without it.
pub(crate) fn submitter(task: &Task) -> Result<Arc<Submitter>> {
    let context = task.vfs_context();
    let caller = context.get().caller;
    let limit = |limit| caller.limit(limit);
    use vfs::context::Limit;
    Ok(Arc::new(Submitter {
        limits: [
            limit(Limit::FileSize),
            limit(Limit::OpenFiles),
            limit(Limit::LockedMemory),
            limit(Limit::Locks),
        ],
        ids: (caller.process_id(), caller.thread_id()),
        files_id: caller.files_id(),
        process: task.group.pid().clone(),
        raise,
        creds: context.creds.clone(),
        paths: context.paths.clone(),
        umask: context.umask,
        mounts: context.mounts.clone(),
        space: Arc::downgrade(&task.mm().ok_or(Errno::EFAULT)?),
    }))
}

/// `io_setup(2)`.
fn sys_io_setup(cx: &mut Cx<'_>, count: u32, at: VirtAddr) -> Result<usize> {
    let old: u64 = user::read_val(at)?;
    if old != 0 {
        return Err(Errno::EINVAL);
    }
    let space = cx.task.mm().ok_or(Errno::EFAULT)?;
    let id = context::create(&space, count, &crate::mm::limits(cx.task))?;
    if let Err(fault) = user::write_val(at, &id) {
        context::destroy(&space, id)?;
        return Err(fault.into());
    }
    Ok(0)
}

/// `io_destroy(2)`.
fn sys_io_destroy(cx: &mut Cx<'_>, id: u64) -> Result<usize> {
    context::destroy(&*cx.task.mm().ok_or(Errno::EINVAL)?, id)?;
    Ok(0)
}

fn find(cx: &Cx<'_>, id: u64) -> Result<Arc<AioContext>> {
    context::find(&*cx.task.mm().ok_or(Errno::EINVAL)?, id)
}

/// `struct iocb`.
struct Request {
    at: u64,
    data: u64,
    rwf: u32,
    command: u16,
    fd: i32,
    buf: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: i32,
}

impl Request {
    fn read(at: u64) -> Result<Request> {
        let words: [u64; 8] = user::read_val(VirtAddr(at))?;
        let [data, key, head, buf, len, offset, reserved, tail] = words;
        Ok(Request {
            at,
            data,
            rwf: (key >> 32) as u32,
            command: head as u16,
            fd: (head >> 32) as i32,
            buf,
            len,
            offset: offset as i64,
            reserved,
            flags: tail as u32,
            resfd: (tail >> 32) as i32,
        })
    }

    /// The memory of a transfer.
    fn segments(&self) -> Result<Vec<Segment>> {
        if matches!(self.command, command::PREADV | command::PWRITEV) {
            return Ok(segments(VirtAddr(self.buf), self.len as usize)?.to_vec());
        }
        let len = usize::try_from(self.len).map_err(|_| Errno::EINVAL)?;
        if !user::range_ok(VirtAddr(self.buf), len) {
            return Err(Errno::EFAULT);
        }
        Ok(alloc::vec![Segment { addr: VirtAddr(self.buf), len: len.min(MAX_TRANSFER) }])
    }

    fn check_unused(&self) -> Result<()> {
        let unused = self.buf | self.len | self.offset as u64 | u64::from(self.rwf);
        if unused == 0 { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

/// `io_submit(2)`.
fn sys_io_submit(cx: &mut Cx<'_>, id: u64, count: i64, list: VirtAddr) -> Result<usize> {
    let count = u64::try_from(count).map_err(|_| Errno::EINVAL)?;
    let context = find(cx, id)?;
    let mut who = None;
    let mut done = 0;
    while done < count {
        let submitted = user::read_val(list.wrapping_add(done * 8))
            .map_err(Errno::from)
            .and_then(|at| submit(cx, &context, &mut who, at));
        match submitted {
            Ok(()) => done += 1,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done as usize)
}

fn submit(
    cx: &Cx<'_>,
    context: &Arc<AioContext>,
    who: &mut Option<Arc<Submitter>>,
    at: u64,
) -> Result<()> {
    let request = Request::read(at)?;
    if request.reserved != 0
        || request.len as i64 != request.len as isize as i64
        || (request.len as i64) < 0
    {
        return Err(Errno::EINVAL);
    }
    let target = file(cx, request.fd)?;
    let notify = if request.flags & FLAG_RESFD != 0 {
        let event = file(cx, request.resfd)?;
        if !anon::eventfd::is_one(&event) {
            return Err(Errno::EINVAL);
        }
        Some(event)
    } else {
        None
    };
    user::write_val(VirtAddr(at + KEY), &0u32)?;
    match request.command {
        command::PREAD | command::PREADV => {
            transfer(cx, context, who, &request, target, notify, Direction::Read)
        }
        command::PWRITE | command::PWRITEV => {
            transfer(cx, context, who, &request, target, notify, Direction::Write)
        }
        command::FSYNC | command::FDSYNC => {
            request.check_unused()?;
            if !can_sync(&target) {
                return Err(Errno::EINVAL);
            }
            let ticket = context.admit((request.data, at), &target, notify)?;
            let data_only = request.command == command::FDSYNC;
            let done = Box::new(|result| ticket.complete(result));
            aio::transfer::sync(target, 0..u64::MAX, data_only, done);
            Ok(())
        }
        command::POLL => {
            if request.buf > u64::from(u16::MAX)
                || request.len != 0
                || request.offset != 0
                || request.rwf != 0
            {
                return Err(Errno::EINVAL);
            }
            let ticket = context.admit((request.data, at), &target, notify)?;
            context.poll(ticket, &target, request.buf as u32);
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Whether `fsync(2)` means anything for a file.
fn can_sync(file: &File) -> bool {
    matches!(file.inode().kind, FileKind::Regular | FileKind::Directory | FileKind::BlockDevice)
}

fn transfer(
    cx: &Cx<'_>,
    context: &Arc<AioContext>,
    who: &mut Option<Arc<Submitter>>,
    request: &Request,
    file: Arc<File>,
    notify: Option<Arc<File>>,
    direction: Direction,
) -> Result<()> {
    if request.rwf & !KNOWN_RWF != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if file.inode().kind == FileKind::Directory {
        return Err(Errno::EINVAL);
    }
    let is_stream = !file.mode().contains(vfs::FileMode::POSITIONAL);
    let at = match u64::try_from(request.offset) {
        _ if is_stream => At::Position,
        Ok(pos) => At::Offset(pos),
        Err(_) => return Err(Errno::EINVAL),
    };
    let transfer =
        Transfer { file: file.clone(), direction, at, rwf: request.rwf, in_background: false };
    transfer.check()?;
    let memory = Memory::User(request.segments()?);
    let who = match who {
        Some(who) => who.clone(),
        None => who.insert(submitter(cx.task)?).clone(),
    };
    let ticket = context.admit((request.data, request.at), &file, notify)?;
    drop(file);
    if !transfer.may_wait() {
        let _ = transfer.start(&who, memory, Box::new(|result| ticket.complete(result)));
        return Ok(());
    }
    let (name, holder) = (context.transfer_name(), Arc::downgrade(context));
    let done: Done = Box::new(move |result| {
        if let Some(context) = holder.upgrade() {
            context.forget_watch(name);
        }
        ticket.complete(result);
    });
    if let Started::Watching(watch) = transfer.start(&who, memory, done) {
        context.watch(name, &watch);
    }
    Ok(())
}

/// `io_cancel(2)`.
fn sys_io_cancel(cx: &mut Cx<'_>, id: u64, request: u64, _event: VirtAddr) -> Result<usize> {
    let key: u32 = user::read_val(VirtAddr(request.wrapping_add(KEY)))?;
    if key != 0 {
        return Err(Errno::EINVAL);
    }
    Err(find(cx, id)?.cancel(request))
}

fn events(
    cx: &Cx<'_>,
    id: u64,
    (least, most): (i64, i64),
    at: VirtAddr,
    timeout: VirtAddr,
) -> Result<usize> {
    let timeout = crate::time::read_timeout(timeout)?;
    let context = find(cx, id)?;
    let (Ok(least), Ok(most)) = (usize::try_from(least), usize::try_from(most)) else {
        return Err(Errno::EINVAL);
    };
    if least > most {
        return Err(Errno::EINVAL);
    }
    let mut take = |index: usize, event: &Event| -> Result<()> {
        let place = at.wrapping_add((index * size_of::<Event>()) as u64);
        let words = [event.data, event.obj, event.res as u64, event.res2 as u64];
        Ok(user::write_val(place, &words)?)
    };
    context.events(least, most, timeout.map(Deadline::after_ns), &mut take)
}

/// `io_getevents(2)`.
fn sys_io_getevents(
    cx: &mut Cx<'_>,
    id: u64,
    least: i64,
    most: i64,
    at: VirtAddr,
    timeout: VirtAddr,
) -> Result<usize> {
    events(cx, id, (least, most), at, timeout)
}

/// `io_pgetevents(2)`; `mask` points to an address and a length.
fn sys_io_pgetevents(
    cx: &mut Cx<'_>,
    id: u64,
    least: i64,
    most: i64,
    at: VirtAddr,
    timeout: VirtAddr,
    mask: VirtAddr,
) -> Result<usize> {
    let [set, size]: [u64; 2] = if mask.is_null() { [0; 2] } else { user::read_val(mask)? };
    if set == 0 {
        return events(cx, id, (least, most), at, timeout);
    }
    if size != size_of::<SigSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    begin_temporary(cx.task, user::read_val(VirtAddr(set))?);
    let result = events(cx, id, (least, most), at, timeout);
    end_temporary(cx.task, result == Err(Errno::EINTR));
    result
}
