//! io_uring: setup, enter, register, and the operations that go by paths and descriptors.
//!
//! Flags that are not there are `EINVAL`: `IORING_SETUP_SQE128`, `IORING_SETUP_CQE32`, and what newer kernels
//! than Linux 6.1 have.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use ::uring::issue::{Call, Extra};
use ::uring::prepare::Reader;
use ::uring::{Env, Uring};
use abi::fcntl::{AT_FDCWD, AT_REMOVEDIR, O_CLOEXEC};
use abi::signal::SigSet;
use abi::uring::{Params, Sqe, enter, op, register, setup};
use abi::{Errno, Result};
use aio::Submitter;
use arch::VirtAddr;
use arch::user;
use process::signal::wait::{begin_temporary, end_temporary};
use sched::Deadline;
use vfs::{CloseOnExec, Path};
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
        ring.start_poller(submitter(cx.task)?, &files(cx)?, &PATHS, idle_ms);
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
            extra: &PATHS,
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
        register::PROBE => probe(at, count as usize)?,
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
fn probe(at: VirtAddr, count: usize) -> Result<()> {
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
    let shown = count.min(usize::from(op::LAST));
    bytes[0] = op::LAST - 1;
    bytes[1] = shown as u8;
    for (opcode, entry) in bytes[HEAD..].chunks_exact_mut(EACH).take(shown).enumerate() {
        entry[0] = opcode as u8;
        entry[2] = u8::from(::uring::register::is_supported(opcode as u8, &PATHS));
    }
    Ok(user::copy_to_user(at, &bytes)?)
}

/// The operations that go by paths and descriptors.
struct Paths;

static PATHS: Paths = Paths;

/// Calls `act` with the directory that `dir` means for `name`.
fn with_base<R>(
    env: &Env,
    dir: i32,
    name: &[u8],
    act: impl FnOnce(&vfs::Context<'_>, &Path) -> Result<R>,
) -> Result<R> {
    let ctx = env.who.context();
    if dir == AT_FDCWD || name.first() == Some(&b'/') {
        return act(&ctx, ctx.cwd);
    }
    let base = env.files()?.get_any(dir)?;
    act(&ctx, &base.path)
}

fn call(work: impl FnOnce(&Env) -> Result<usize> + Send + 'static) -> Result<Call> {
    Ok(Box::new(work))
}

fn open(entry: &Sqe, reader: &Reader<'_>) -> Result<Call> {
    // Descriptors of the instance's own table are not given out.
    if entry.buf_index != 0 || entry.file_index != 0 {
        return Err(Errno::EINVAL);
    }
    let how = if entry.opcode == op::OPENAT2 {
        let mut how = abi::fcntl::OpenHow::default();
        if entry.len as usize != size_of::<abi::fcntl::OpenHow>() {
            return Err(Errno::EINVAL);
        }
        reader.read(entry.off, how.as_mut_bytes())?;
        crate::path::check_how(&how)?
    } else {
        crate::path::check_openat(entry.op_flags, entry.len)?
    };
    let (name, dir) = (reader.path(entry.addr)?, entry.fd);
    call(move |env| {
        // The number first: running out of them must not create anything.
        let cloexec = CloseOnExec::from_flags(how.flags, O_CLOEXEC);
        let files = env.files()?;
        let number = files.reserve(0, env.who.limits[1], cloexec)?;
        match with_base(env, dir, &name, |ctx, base| vfs::open(ctx, base, &name, &how)) {
            Ok(file) => {
                files.install(number, file);
                Ok(number as usize)
            }
            Err(error) => {
                files.cancel(number);
                Err(error)
            }
        }
    })
}

fn statx(entry: &Sqe, reader: &Reader<'_>) -> Result<Call> {
    if entry.buf_index != 0 || entry.file_index != 0 {
        return Err(Errno::EINVAL);
    }
    crate::stat::check_statx(entry.op_flags, entry.len)?;
    let walk = crate::fsctx::at_flags(entry.op_flags);
    let name = match reader.path(entry.addr) {
        Ok(name) if name.is_empty() && !walk.contains(vfs::Walk::EMPTY) => {
            return Err(Errno::ENOENT);
        }
        Ok(name) => name,
        Err(error) => return Err(error),
    };
    let (dir, to) = (entry.fd, entry.off);
    call(move |env| {
        let path = with_base(env, dir, &name, |ctx, base| vfs::walk(ctx, base, &name, walk))?;
        let out = crate::stat::statx_of(&path, &env.who.creds.user_ns)?;
        put(&env.who, to, out.as_bytes())
    })
}

/// Writes to the program's memory.
fn put(who: &Submitter, to: u64, bytes: &[u8]) -> Result<usize> {
    let count = who.space()?.write_remote(VirtAddr(to), bytes)?;
    if count == bytes.len() { Ok(0) } else { Err(Errno::EFAULT) }
}

impl Extra for Paths {
    fn prepare(&self, entry: &Sqe, reader: &Reader<'_>) -> Option<Result<Call>> {
        let (fd, entry) = (entry.fd, *entry);
        Some(match entry.opcode {
            op::OPENAT | op::OPENAT2 => open(&entry, reader),
            op::STATX => statx(&entry, reader),
            op::CLOSE => {
                if entry.off | entry.addr | u64::from(entry.len | entry.op_flags) != 0
                    || entry.buf_index != 0
                {
                    return Some(Err(Errno::EINVAL));
                }
                call(move |env| {
                    // The instance itself is not closed by itself.
                    if env.files()?.get_any(fd).is_ok_and(|file| ::uring::of(&file).is_ok()) {
                        return Err(Errno::EBADF);
                    }
                    env.files()?.close(fd).map(|()| 0)
                })
            }
            op::FALLOCATE => call(move |env| {
                let file = env.files()?.get(fd)?;
                let (offset, len) = (entry.off as i64, entry.addr as i64);
                let mode = entry.len;
                vfs::rw::fallocate(&env.who.context(), &file, mode, offset, len).map(|()| 0)
            }),
            op::FADVISE => call(move |env| {
                let file = env.files()?.get(fd)?;
                let len = u64::from(entry.len);
                let end = if len == 0 { u64::MAX } else { entry.off.saturating_add(len) };
                if entry.op_flags > 5 {
                    return Err(Errno::EINVAL);
                }
                file.ops().advise(&file, entry.off..end, entry.op_flags).map(|()| 0)
            }),
            op::UNLINKAT => {
                if entry.op_flags & !AT_REMOVEDIR != 0 {
                    return Some(Err(Errno::EINVAL));
                }
                let name = match reader.path(entry.addr) {
                    Ok(name) => name,
                    Err(error) => return Some(Err(error)),
                };
                call(move |env| {
                    with_base(env, fd, &name, |ctx, base| match entry.op_flags {
                        0 => vfs::ops::unlink(ctx, base, &name).map(|_| 0),
                        _ => vfs::ops::rmdir(ctx, base, &name).map(|_| 0),
                    })
                })
            }
            op::MKDIRAT => {
                let name = match reader.path(entry.addr) {
                    Ok(name) => name,
                    Err(error) => return Some(Err(error)),
                };
                call(move |env| {
                    with_base(env, fd, &name, |ctx, base| {
                        vfs::ops::mkdir(ctx, base, &name, entry.len).map(|_| 0)
                    })
                })
            }
            _ => return None,
        })
    }

    fn knows(&self, opcode: u8) -> bool {
        matches!(
            opcode,
            op::OPENAT
                | op::OPENAT2
                | op::STATX
                | op::CLOSE
                | op::FALLOCATE
                | op::FADVISE
                | op::UNLINKAT
                | op::MKDIRAT
        )
    }
}
