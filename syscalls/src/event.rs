//! epoll, eventfd, timerfd.

use crate::Cx;
use crate::fsctx::{any_file, context, file, install};
use crate::time::{read_timer, write_timer};
use abi::fcntl::{O_CLOEXEC, O_NONBLOCK};
use abi::poll::{EPOLL_CTL_DEL, EpollEvent};
use abi::signal::SigSet;
use abi::{Errno, Result};
use alloc::sync::Arc;
use anon::{epoll, eventfd, timerfd};
use arch::VirtAddr;
use arch::user;
use process::signal::wait::{begin_temporary, end_temporary};
use vfs::CloseOnExec;
use vfs::cred::Cap;
use zerocopy::IntoBytes;

crate::syscalls! {
    213 epoll_create => sys_epoll_create(size: Dec);
    232 epoll_wait => sys_epoll_wait(epfd: Fd, events: Hex, count: Dec, timeout: Dec);
    233 epoll_ctl => sys_epoll_ctl(epfd: Fd, op: Dec, fd: Fd, event: Hex);
    281 epoll_pwait => sys_epoll_pwait(epfd: Fd, events: Hex, count: Dec, timeout: Dec, mask: Hex, size: Dec);
    283 timerfd_create => sys_timerfd_create(clock: Dec, flags: OpenFlags);
    284 eventfd => sys_eventfd(initial: Dec);
    286 timerfd_settime => sys_timerfd_settime(fd: Fd, flags: Hex, new: Hex, old: Hex);
    287 timerfd_gettime => sys_timerfd_gettime(fd: Fd, value: Hex);
    290 eventfd2 => sys_eventfd2(initial: Dec, flags: OpenFlags);
    291 epoll_create1 => sys_epoll_create1(flags: OpenFlags);
}

/// `O_CLOEXEC` in the flags of a call that makes a descriptor.
pub(crate) fn cloexec(flags: u32) -> CloseOnExec {
    if flags & O_CLOEXEC != 0 { CloseOnExec::Yes } else { CloseOnExec::No }
}

fn sys_epoll_create(cx: &mut Cx<'_>, size: i32) -> Result<usize> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    sys_epoll_create1(cx, 0)
}

fn sys_epoll_create1(cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    if flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let file = epoll::create(&context(cx).get())?;
    install(cx, file, cloexec(flags))
}

/// `epoll_ctl(2)`.
fn sys_epoll_ctl(cx: &mut Cx<'_>, epfd: i32, op: u32, fd: i32, event: VirtAddr) -> Result<usize> {
    let event: EpollEvent =
        if op == EPOLL_CTL_DEL { EpollEvent::default() } else { user::read_val(event)? };
    let instance = file(cx, epfd)?;
    let target = file(cx, fd)?;
    control(&instance, op, fd, &target, &event).map(|()| 0)
}

/// Adds, changes or removes what an instance watches.
pub(crate) fn control(
    instance: &vfs::File,
    op: u32,
    fd: i32,
    target: &Arc<vfs::File>,
    event: &EpollEvent,
) -> Result<()> {
    epoll::check_target(target)?;
    let data = u64::from(event.data[0]) | u64::from(event.data[1]) << 32;
    epoll::epoll_of(instance)?.control(op, fd, target, event.events, data)
}

fn wait(cx: &Cx<'_>, epfd: i32, events: VirtAddr, count: i32, timeout_ms: i32) -> Result<usize> {
    const LEN: usize = size_of::<EpollEvent>();
    let count = usize::try_from(count).ok().filter(|n| *n != 0 && *n <= i32::MAX as usize / 12);
    let count = count.ok_or(Errno::EINVAL)?;
    if !user::range_ok(events, count * LEN) {
        return Err(Errno::EFAULT);
    }
    let instance = file(cx, epfd)?;
    let now = timeout_ms == 0;
    let deadline = if now { None } else { crate::time::deadline_ms(timeout_ms) };
    let mut at = events;
    let mut give = |events: &[EpollEvent]| {
        let stored = user::copy_to_user_partial(at, events.as_bytes()) / LEN;
        at = at.wrapping_add((stored * LEN) as u64);
        stored
    };
    epoll::epoll_of(&instance)?.wait(count, deadline, now, &mut give)
}

fn sys_epoll_wait(
    cx: &mut Cx<'_>,
    epfd: i32,
    events: VirtAddr,
    count: i32,
    timeout_ms: i32,
) -> Result<usize> {
    wait(cx, epfd, events, count, timeout_ms)
}

fn sys_epoll_pwait(
    cx: &mut Cx<'_>,
    epfd: i32,
    events: VirtAddr,
    count: i32,
    timeout_ms: i32,
    mask: VirtAddr,
    size: usize,
) -> Result<usize> {
    if mask.is_null() {
        return wait(cx, epfd, events, count, timeout_ms);
    }
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    begin_temporary(cx.task, user::read_val(mask)?);
    let result = wait(cx, epfd, events, count, timeout_ms);
    end_temporary(cx.task, result == Err(Errno::EINTR));
    result
}

fn sys_eventfd(cx: &mut Cx<'_>, initial: u32) -> Result<usize> {
    sys_eventfd2(cx, initial, 0)
}

fn sys_eventfd2(cx: &mut Cx<'_>, initial: u32, flags: u32) -> Result<usize> {
    if flags & !(O_CLOEXEC | O_NONBLOCK | eventfd::EFD_SEMAPHORE) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = eventfd::create(&context(cx).get(), initial, flags & !O_CLOEXEC)?;
    install(cx, file, cloexec(flags))
}

fn sys_timerfd_create(cx: &mut Cx<'_>, clock: i32, flags: u32) -> Result<usize> {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let is_alarm = matches!(clock, 8 | 9);
    let clock = match clock {
        0 | 8 => timerfd::Clock::Realtime,
        1 => timerfd::Clock::Monotonic,
        7 | 9 => timerfd::Clock::Boottime,
        _ => return Err(Errno::EINVAL),
    };
    if is_alarm {
        cx.task.creds().require(Cap::WAKE_ALARM)?;
    }
    let file = timerfd::create(&context(cx).get(), clock, flags & O_NONBLOCK)?;
    install(cx, file, cloexec(flags))
}

fn sys_timerfd_settime(
    cx: &mut Cx<'_>,
    fd: i32,
    flags: u32,
    new: VirtAddr,
    old: VirtAddr,
) -> Result<usize> {
    let (interval, value) = read_timer(new)?;
    let start = match flags {
        0 | 2 => timerfd::Start::In,
        1 => timerfd::Start::At,
        3 => timerfd::Start::AtUnlessSet,
        _ => return Err(Errno::EINVAL),
    };
    let file = any_file(cx, fd)?;
    let (left, period) = timerfd::set(&file, value, interval, start)?;
    if !old.is_null() {
        write_timer(old, period, left)?;
    }
    Ok(0)
}

fn sys_timerfd_gettime(cx: &mut Cx<'_>, fd: i32, value: VirtAddr) -> Result<usize> {
    let file = any_file(cx, fd)?;
    let (left, period) = timerfd::get(&file)?;
    write_timer(value, period, left)?;
    Ok(0)
}
