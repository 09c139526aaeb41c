//! io_uring: setup, enter, register, and the operations that go by paths and descriptors.
//!
//! Flags that are not there are `EINVAL`: `IORING_SETUP_SQE128`, `IORING_SETUP_CQE32`, and what newer kernels
//! than Linux 6.1 have.

mod message;
mod net;
mod paths;

use alloc::sync::Arc;
use alloc::vec::Vec;

use ::uring::issue::{Extra, Made};
use ::uring::prepare::Reader;
use ::uring::restrict::Restrictions;
use ::uring::{Env, Uring};
use abi::signal::SigSet;
use abi::uring::{Params, Sqe, enter, op, register, setup};
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use process::signal::wait::{begin_temporary, end_temporary};
use sched::Deadline;
use vfs::CloseOnExec;
use zerocopy::IntoBytes;

use crate::Cx;
use crate::asyncio::submitter;
use crate::fsctx::{context, file, files, install, segments};

crate::syscalls! {
    425 io_uring_setup => sys_io_uring_setup(entries: Dec, params: Hex);
    426 io_uring_enter => sys_io_uring_enter(fd: Fd, submit: Dec, complete: Dec, flags: Hex, argument: Hex, size: Dec);
    427 io_uring_register => sys_io_uring_register(fd: Fd, what: Dec, argument: Hex, count: Dec);
}

/// `io_uring_setup(2)`.
fn sys_io_uring_setup(cx: &mut Cx<'_>, entries: u32, at: VirtAddr) -> Result<usize> {
    let mut params: Params = user::read_val(at)?;
    let known = setup::IOPOLL
        | setup::SQPOLL
        | setup::SQ_AFF
        | setup::CQSIZE
        | setup::CLAMP
        | setup::ATTACH_WQ
        | setup::R_DISABLED
        | setup::SUBMIT_ALL
        | setup::COOP_TASKRUN
        | setup::TASKRUN_FLAG
        | setup::SINGLE_ISSUER
        | setup::DEFER_TASKRUN;
    if params.resv != [0; 3] || params.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    check_setup(cx, &params)?;
    let idle_ms = params.sq_thread_idle;
    let ring = Uring::new(entries, &mut params)?;
    user::write_val(at, &params)?;
    let file = ::uring::create(&context(cx).get(), &ring)?;
    let fd = install(cx, file, CloseOnExec::Yes)?;
    if ring.has_poller() {
        ring.start_poller(submitter(cx.task)?, &files(cx)?, extra(cx), idle_ms);
    }
    Ok(fd)
}

/// Which flags go together.
fn check_setup(cx: &Cx<'_>, params: &Params) -> Result<()> {
    let has = |flag: u32| params.flags & flag != 0;
    if has(setup::SQ_AFF) && !has(setup::SQPOLL) {
        return Err(Errno::EINVAL);
    }
    if has(setup::SQPOLL) && has(setup::COOP_TASKRUN | setup::TASKRUN_FLAG | setup::DEFER_TASKRUN) {
        return Err(Errno::EINVAL);
    }
    if has(setup::TASKRUN_FLAG) && !has(setup::COOP_TASKRUN | setup::DEFER_TASKRUN) {
        return Err(Errno::EINVAL);
    }
    if has(setup::DEFER_TASKRUN) && !has(setup::SINGLE_ISSUER) {
        return Err(Errno::EINVAL);
    }
    if has(setup::SQ_AFF) && params.sq_thread_cpu as usize >= arch::cpu::count() {
        return Err(Errno::EINVAL);
    }
    if has(setup::ATTACH_WQ) {
        let other = file(cx, params.wq_fd as i32).map_err(|_| Errno::ENXIO)?;
        ::uring::of(&other).map_err(|_| Errno::EINVAL)?;
    }
    Ok(())
}

/// `io_uring_enter(2)`.
fn sys_io_uring_enter(
    cx: &mut Cx<'_>,
    fd: i32,
    submit: u32,
    complete: u32,
    flags: u32,
    argument: VirtAddr,
    size: usize,
) -> Result<usize> {
    let known = enter::GETEVENTS | enter::SQ_WAKEUP | enter::SQ_WAIT | enter::EXT_ARG;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let ring = ::uring::of(&*file(cx, fd)?)?;
    if ring.is_disabled() {
        return Err(Errno::EBADFD);
    }
    let mut taken = 0;
    if ring.has_poller() {
        if flags & enter::SQ_WAKEUP != 0 {
            ring.kick_poller();
        }
        taken = submit;
    } else if submit > 0 {
        let env = Env {
            ring: ring.clone(),
            who: submitter(cx.task)?,
            files: Arc::downgrade(&files(cx)?),
            extra: extra(cx),
        };
        taken = ring.submit(&Arc::new(env), &Reader::Current, submit);
        if taken == 0 && ring.is_overfull() {
            return Err(Errno::EBUSY);
        }
    }
    if flags & enter::GETEVENTS == 0 || (taken < submit && taken > 0) {
        return Ok(taken as usize);
    }
    match wait(cx, &ring, complete, flags, argument, size) {
        Err(error) if taken == 0 => Err(error),
        _ => Ok(taken as usize),
    }
}

fn wait(
    cx: &Cx<'_>,
    ring: &Uring,
    complete: u32,
    flags: u32,
    argument: VirtAddr,
    size: usize,
) -> Result<()> {
    let (mut mask, mut mask_size, mut timeout) = (argument.0, size as u64, 0);
    if flags & enter::EXT_ARG != 0 {
        // `struct io_uring_getevents_arg`.
        if size != 24 {
            return Err(Errno::EINVAL);
        }
        [mask, mask_size, timeout] = user::read_val(argument)?;
        mask_size &= u64::from(u32::MAX);
    }
    let deadline = match timeout {
        0 => None,
        at => Some(Deadline::after_ns(crate::time::read_timespec(VirtAddr(at))?)),
    };
    if mask == 0 {
        return ring.wait(complete, deadline);
    }
    if mask_size != size_of::<SigSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    begin_temporary(cx.task, user::read_val(VirtAddr(mask))?);
    let result = ring.wait(complete, deadline);
    end_temporary(cx.task, result == Err(Errno::EINTR));
    result
}

fn fds(at: VirtAddr, count: usize) -> Result<Vec<i32>> {
    if count > 1 << 20 {
        return Err(Errno::EINVAL);
    }
    let mut fds = alloc::vec![0i32; count];
    user::copy_from_user(fds.as_mut_bytes(), at)?;
    Ok(fds)
}

/// `io_uring_register(2)`.
fn sys_io_uring_register(
    cx: &mut Cx<'_>,
    fd: i32,
    what: u32,
    at: VirtAddr,
    count: u32,
) -> Result<usize> {
    let ring = ::uring::of(&*file(cx, fd)?)?;
    let table = files(cx)?;
    ring.check_register(what)?;
    let has_argument = !at.is_null() || count != 0;
    match what {
        register::BUFFERS | register::FILES if at.is_null() => return Err(Errno::EFAULT),
        register::FILES_UPDATE if count == 0 => return Err(Errno::EINVAL),
        register::PROBE if at.is_null() => return Err(Errno::EINVAL),
        register::BUFFERS => {
            ring.register_buffers(&*submitter(cx.task)?, &segments(at, count as usize)?)?;
        }
        register::FILES => ring.register_files(&table, &fds(at, count as usize)?)?,
        register::FILES_UPDATE => {
            // `struct io_uring_files_update`.
            let [head, list]: [u64; 2] = user::read_val(at)?;
            if head >> 32 != 0 || count == 0 {
                return Err(Errno::EINVAL);
            }
            let fds = fds(VirtAddr(list), count as usize)?;
            return ring.update_files(&table, head as u32, &fds);
        }
        register::PROBE => probe(cx, at, count as usize)?,
        register::PBUF_RING | register::UNREGISTER_PBUF_RING if count != 1 => {
            return Err(Errno::EINVAL);
        }
        register::PBUF_RING | register::UNREGISTER_PBUF_RING if at.is_null() => {
            return Err(Errno::EINVAL);
        }
        register::PBUF_RING => {
            let given = BufferRing::read(at)?;
            let who = submitter(cx.task)?;
            ring.register_ring(&who, given.addr, given.entries, given.group)?;
        }
        register::UNREGISTER_PBUF_RING => ring.unregister_ring(BufferRing::read(at)?.group)?,
        register::RESTRICTIONS => ring.restrict(restrictions(at, count as usize)?)?,
        register::EVENTFD | register::EVENTFD_ASYNC => {
            if count != 1 {
                return Err(Errno::EINVAL);
            }
            ring.register(what, &table, Some(user::read_val(at)?))?;
        }
        _ if has_argument => return Err(Errno::EINVAL),
        _ => ring.register(what, &table, None)?,
    }
    Ok(0)
}

/// Fills in a `struct io_uring_probe` with room for `count` operations.
fn probe(cx: &Cx<'_>, at: VirtAddr, count: usize) -> Result<()> {
    const HEAD: usize = 16;
    const EACH: usize = 8;
    if count > 256 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = alloc::vec![0u8; HEAD + count * EACH];
    user::copy_from_user(&mut bytes, at)?;
    if bytes.iter().any(|&byte| byte != 0) {
        return Err(Errno::EINVAL);
    }
    let extra = extra(cx);
    let shown = count.min(usize::from(op::LAST));
    bytes[0] = op::LAST - 1;
    bytes[1] = shown as u8;
    for (opcode, entry) in bytes[HEAD..].chunks_exact_mut(EACH).take(shown).enumerate() {
        entry[0] = opcode as u8;
        entry[2] = u8::from(::uring::register::is_supported(opcode as u8, &*extra));
    }
    Ok(user::copy_to_user(at, &bytes)?)
}

fn restrictions(at: VirtAddr, count: usize) -> Result<Restrictions> {
    if at.is_null() || count > ::uring::restrict::MOST {
        return Err(Errno::EINVAL);
    }
    let mut given = alloc::vec![[0u32; 4]; count];
    user::copy_from_user(given.as_mut_bytes(), at)?;
    let mut rules = Restrictions::default();
    given.into_iter().try_for_each(|one| rules.add(one))?;
    Ok(rules)
}

/// `struct io_uring_buf_reg`.
struct BufferRing {
    addr: u64,
    entries: u32,
    group: u16,
}

impl BufferRing {
    fn read(at: VirtAddr) -> Result<BufferRing> {
        let [addr, head, reserved @ ..]: [u64; 5] = user::read_val(at)?;
        if head >> 48 != 0 || reserved != [0; 3] {
            return Err(Errno::EINVAL);
        }
        Ok(BufferRing { addr, entries: head as u32, group: (head >> 32) as u16 })
    }
}

/// The operations that this layer has, for one who submits.
struct Calls {
    /// Whose namespaces count.
    who: Arc<net::Owner>,
}

fn extra(cx: &Cx<'_>) -> Arc<dyn Extra> {
    Arc::new(Calls { who: Arc::new(net::Owner::of(cx.task)) })
}

impl Extra for Calls {
    fn prepare(&self, entry: &Sqe, reader: &Reader<'_>) -> Option<Result<Made>> {
        let call = paths::prepare(entry, reader).map(|call| call.map(Made::Call));
        call.or_else(|| net::prepare(&self.who, entry, reader))
    }

    fn knows(&self, opcode: u8) -> bool {
        paths::knows(opcode) || net::knows(opcode)
    }
}
