//! Descriptors without a file: pipes, `eventfd(2)`, `timerfd_create(2)`, `memfd_create(2)`.

use crate::Cx;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::process::Resource;
use abi::{Errno, Result};
use anon::timerfd::Clock;
use arch::VirtAddr;
use arch::user;
use vfs::CloseOnExec;

crate::syscalls! {
    22 pipe => sys_pipe(fds: Hex);
    283 timerfd_create => sys_timerfd_create(clock: Dec, flags: Hex);
    284 eventfd => sys_eventfd(initial: Dec);
    286 timerfd_settime => sys_timerfd_settime(fd: Fd, flags: Hex, new: Hex, old: Hex);
    287 timerfd_gettime => sys_timerfd_gettime(fd: Fd, current: Hex);
    290 eventfd2 => sys_eventfd2(initial: Dec, flags: Hex);
    293 pipe2 => sys_pipe2(fds: Hex, flags: Hex);
    319 memfd_create => sys_memfd_create(name: Str, flags: Hex);
}

/// `pipe(2)`.
fn sys_pipe(cx: &mut Cx<'_>, fds: VirtAddr) -> Result<usize> {
    sys_pipe2(cx, fds, 0)
}

/// `pipe2(2)`.
fn sys_pipe2(cx: &mut Cx<'_>, fds: VirtAddr, flags: u32) -> Result<usize> {
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (read, write) = anon::pipe::pipe(&context(cx).get(), flags)?;
    let table = files(cx)?;
    let limit = cx.task.limit(Resource::Nofile);
    let cloexec = CloseOnExec::from_flags(flags, O_CLOEXEC);
    let first = table.reserve(0, limit, cloexec)?;
    let second = table.reserve(0, limit, cloexec).inspect_err(|_| table.cancel(first))?;
    if let Err(fault) = user::write_val(fds, &[first, second]) {
        table.cancel(first);
        table.cancel(second);
        return Err(fault.into());
    }
    table.install(first, read);
    table.install(second, write);
    Ok(0)
}

/// `eventfd(2)` as the first system call had it.
fn sys_eventfd(cx: &mut Cx<'_>, initial: u32) -> Result<usize> {
    sys_eventfd2(cx, initial, 0)
}

/// `eventfd2(2)`.
fn sys_eventfd2(cx: &mut Cx<'_>, initial: u32, flags: u32) -> Result<usize> {
    if flags & !(O_CLOEXEC | O_NONBLOCK | anon::eventfd::EFD_SEMAPHORE) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = anon::eventfd::create(&context(cx).get(), initial, flags)?;
    install(cx, file, CloseOnExec::from_flags(flags, O_CLOEXEC))
}

/// `timerfd_create(2)`.
fn sys_timerfd_create(cx: &mut Cx<'_>, clock: i32, flags: u32) -> Result<usize> {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    // 8 and 9 would wake a suspended machine: ours does not suspend.
    let clock = match clock {
        0 | 8 => Clock::Realtime,
        1 => Clock::Monotonic,
        7 | 9 => Clock::Boottime,
        _ => return Err(Errno::EINVAL),
    };
    let file = anon::timerfd::create(&context(cx).get(), clock, flags & O_NONBLOCK)?;
    install(cx, file, CloseOnExec::from_flags(flags, O_CLOEXEC))
}

const NS: i64 = 1_000_000_000;

fn nanoseconds(sec: i64, nsec: i64) -> Result<u64> {
    if sec < 0 || !(0..NS).contains(&nsec) {
        return Err(Errno::EINVAL);
    }
    Ok((sec as u64).saturating_mul(NS as u64).saturating_add(nsec as u64))
}

fn store_setting(at: VirtAddr, (left, interval): anon::timerfd::Setting) -> Result<()> {
    let ns = NS as u64;
    let value = [interval / ns, interval % ns, left / ns, left % ns];
    Ok(user::write_val(at, &value)?)
}

/// `timerfd_settime(2)`; `TFD_TIMER_CANCEL_ON_SET` is accepted and has no effect.
fn sys_timerfd_settime(
    cx: &mut Cx<'_>,
    fd: i32,
    flags: u32,
    new: VirtAddr,
    old: VirtAddr,
) -> Result<usize> {
    if flags & !3 != 0 {
        return Err(Errno::EINVAL);
    }
    let [s1, n1, s0, n0]: [i64; 4] = user::read_val(new)?;
    let (interval, value) = (nanoseconds(s1, n1)?, nanoseconds(s0, n0)?);
    let file = file(cx, fd)?;
    let before = anon::timerfd::set(&file, value, interval, flags & 1 != 0)?;
    if old.0 != 0 {
        store_setting(old, before)?;
    }
    Ok(0)
}

/// `timerfd_gettime(2)`.
fn sys_timerfd_gettime(cx: &mut Cx<'_>, fd: i32, current: VirtAddr) -> Result<usize> {
    store_setting(current, anon::timerfd::get(&*file(cx, fd)?)?)?;
    Ok(0)
}

/// `memfd_create(2)`; `MFD_HUGETLB` is `ENOSYS`.
fn sys_memfd_create(cx: &mut Cx<'_>, name: VirtAddr, flags: u32) -> Result<usize> {
    let name = user::read_cstr(name, 250).map_err(|error| match error {
        user::StrError::Fault => Errno::EFAULT,
        user::StrError::TooLong => Errno::EINVAL,
    })?;
    let file = tmpfs::memfd_create(&context(cx).get(), &name, flags)?;
    install(cx, file, CloseOnExec::from_flags(flags, MFD_CLOEXEC))
}
