//! Waiting for files: `poll(2)`, `select(2)`, `epoll(7)`.

use crate::Cx;
use crate::fsctx::*;
use ::sched::Deadline;
use abi::fcntl::O_CLOEXEC;
use abi::poll::*;
use abi::process::Resource;
use abi::signal::SigSet;
use abi::{Errno, Result};
use alloc::vec::Vec;
use anon::poll::Wanted;
use arch::VirtAddr;
use arch::user;
use process::signal::wait::{begin_temporary, end_temporary};
use vfs::CloseOnExec;

crate::syscalls! {
    7 poll => sys_poll(fds: Hex, count: Dec, timeout: Dec);
    23 select => sys_select(count: Dec, read: Hex, write: Hex, except: Hex, timeout: Hex);
    213 epoll_create => sys_epoll_create(size: Dec);
    232 epoll_wait => sys_epoll_wait(epfd: Fd, events: Hex, max: Dec, timeout: Dec);
    233 epoll_ctl => sys_epoll_ctl(epfd: Fd, op: Dec, fd: Fd, event: Hex);
    270 pselect6 => sys_pselect6(count: Dec, read: Hex, write: Hex, except: Hex, timeout: Timespec, mask: Hex);
    271 ppoll => sys_ppoll(fds: Hex, count: Dec, timeout: Timespec, mask: Hex, size: Dec);
    281 epoll_pwait => sys_epoll_pwait(epfd: Fd, events: Hex, max: Dec, timeout: Dec, mask: Hex, size: Dec);
    291 epoll_create1 => sys_epoll_create1(flags: Hex);
}

const NS: u64 = 1_000_000_000;

/// When a wait ends.
#[derive(Clone, Copy)]
struct Until {
    deadline_ns: Option<u64>,
    now: bool,
}

impl Until {
    fn after(ns: u64) -> Until {
        let deadline_ns = arch::time::now_ns().saturating_add(ns);
        Until { deadline_ns: Some(deadline_ns), now: ns == 0 }
    }

    const NEVER: Until = Until { deadline_ns: None, now: false };

    fn from_millis(timeout: i32) -> Until {
        match u64::try_from(timeout) {
            Ok(ms) => Until::after(ms * 1_000_000),
            Err(_) => Until::NEVER,
        }
    }

    /// From a `struct timespec`, or for ever if there is none.
    fn from_timespec(at: VirtAddr) -> Result<Until> {
        if at.0 == 0 {
            return Ok(Until::NEVER);
        }
        let [sec, nsec]: [i64; 2] = user::read_val(at)?;
        if sec < 0 || !(0..NS as i64).contains(&nsec) {
            return Err(Errno::EINVAL);
        }
        Ok(Until::after((sec as u64).saturating_mul(NS).saturating_add(nsec as u64)))
    }

    fn deadline(self) -> Option<Deadline> {
        self.deadline_ns.map(Deadline::Monotonic)
    }

    fn left(self) -> u64 {
        self.deadline_ns.map_or(0, |at| at.saturating_sub(arch::time::now_ns()))
    }
}

/// Runs `call` with a temporary signal mask, if one is given.
fn with_mask(
    cx: &Cx<'_>,
    mask: VirtAddr,
    size: usize,
    call: impl FnOnce() -> Result<usize>,
) -> Result<usize> {
    if mask.0 == 0 {
        return call();
    }
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let set: SigSet = user::read_val(mask)?;
    begin_temporary(cx.task, set);
    let result = call();
    end_temporary(cx.task, result == Err(Errno::EINTR));
    result
}

fn poll(cx: &Cx<'_>, fds: VirtAddr, count: u32, until: Until) -> Result<usize> {
    if u64::from(count) > cx.task.limit(Resource::Nofile) {
        return Err(Errno::EINVAL);
    }
    let table = files(cx)?;
    let mut asked: Vec<PollFd> = Vec::with_capacity(count as usize);
    let mut list = Vec::with_capacity(count as usize);
    for i in 0..u64::from(count) {
        let item: PollFd = user::read_val(fds.wrapping_add(i * 8))?;
        let file = if item.fd < 0 { None } else { table.get(item.fd).ok() };
        let ready = if item.fd >= 0 && file.is_none() { POLLNVAL } else { 0 };
        list.push(Wanted { file, events: u32::from(item.events), ready });
        asked.push(item);
    }
    let ready = anon::poll::wait(&mut list, until.deadline(), until.now)?;
    for (i, (item, wanted)) in asked.iter_mut().zip(&list).enumerate() {
        item.revents = wanted.ready as u16;
        user::write_val(fds.wrapping_add(i as u64 * 8 + 6), &item.revents)?;
    }
    Ok(ready)
}

/// `poll(2)`.
fn sys_poll(cx: &mut Cx<'_>, fds: VirtAddr, count: u32, timeout: i32) -> Result<usize> {
    let until = Until::from_millis(timeout);
    let task = cx.task;
    match poll(cx, fds, count, until) {
        // Goes on with what is left of the time.
        Err(Errno::EINTR) => {
            Err(task.restart_with(move |task| poll_again(task, fds, count, until)))
        }
        other => other,
    }
}

fn poll_again(task: &process::Task, fds: VirtAddr, count: u32, until: Until) -> Result<usize> {
    let mut frame = arch::trap::TrapFrame::default();
    let cx = Cx { task, frame: &mut frame };
    match poll(&cx, fds, count, until) {
        Err(Errno::EINTR) => {
            Err(task.restart_with(move |task| poll_again(task, fds, count, until)))
        }
        other => other,
    }
}

/// Writes back what is left of a time-out, as Linux does.
fn store_left(at: VirtAddr, until: Until, per_unit: u64) {
    if at.0 != 0 && until.deadline_ns.is_some() {
        let left = until.left();
        // A read-only time-out is left alone.
        let _ = user::write_val(at, &[left / NS, left % NS / per_unit]);
    }
}

/// `ppoll(2)`.
fn sys_ppoll(
    cx: &mut Cx<'_>,
    fds: VirtAddr,
    count: u32,
    timeout: VirtAddr,
    mask: VirtAddr,
    size: usize,
) -> Result<usize> {
    let until = Until::from_timespec(timeout)?;
    let result = with_mask(cx, mask, size, || poll(cx, fds, count, until));
    store_left(timeout, until, 1);
    result.map_err(no_hand)
}

/// Interrupted waits with a mask restart only if no handler ran.
fn no_hand(error: Errno) -> Errno {
    if error == Errno::EINTR { Errno::ERESTARTNOHAND } else { error }
}

/// What each of the three sets of `select(2)` means.
const IN_SET: u32 = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR;
const OUT_SET: u32 = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR;
const EX_SET: u32 = POLLPRI;

fn read_set(at: VirtAddr, words: usize) -> Result<Vec<u64>> {
    let mut set = Vec::with_capacity(words);
    for i in 0..words {
        set.push(if at.0 == 0 { 0 } else { user::read_val(at.wrapping_add(i as u64 * 8))? });
    }
    Ok(set)
}

fn select(cx: &Cx<'_>, count: i32, sets: [VirtAddr; 3], until: Until) -> Result<usize> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let table = files(cx)?;
    let count = count.min(table.capacity() as usize);
    let words = count.div_ceil(64);
    let asked = [read_set(sets[0], words)?, read_set(sets[1], words)?, read_set(sets[2], words)?];
    let has = |set: &[u64], fd: usize| set.get(fd / 64).is_some_and(|w| w & (1 << (fd % 64)) != 0);
    let mut list = Vec::new();
    let mut numbers = Vec::new();
    for fd in 0..count {
        let mut events = 0;
        for (set, bits) in asked.iter().zip([IN_SET, OUT_SET, EX_SET]) {
            if has(set, fd) {
                events |= bits;
            }
        }
        if events != 0 {
            let file = Some(table.get(fd as i32)?);
            // Errors and hang-ups count only for the sets they belong to.
            list.push(Wanted { file, events, ready: 0 });
            numbers.push((fd, events));
        }
    }
    anon::poll::wait(&mut list, until.deadline(), until.now)?;
    let mut total = 0;
    let mut result = [alloc::vec![0u64; words], alloc::vec![0u64; words], alloc::vec![0u64; words]];
    for ((fd, _), wanted) in numbers.iter().zip(&list) {
        let sets = result.iter_mut().zip(&asked).zip([IN_SET, OUT_SET, EX_SET]);
        for ((out, asked), bits) in sets {
            if has(asked, *fd) && wanted.ready & bits != 0 {
                if let Some(word) = out.get_mut(fd / 64) {
                    *word |= 1 << (fd % 64);
                }
                total += 1;
            }
        }
    }
    for (at, set) in sets.iter().zip(&result) {
        if at.0 == 0 {
            continue;
        }
        for (i, word) in set.iter().enumerate() {
            user::write_val(at.wrapping_add(i as u64 * 8), word)?;
        }
    }
    Ok(total)
}

/// `select(2)`; the time-out is updated.
fn sys_select(
    cx: &mut Cx<'_>,
    count: i32,
    read: VirtAddr,
    write: VirtAddr,
    except: VirtAddr,
    timeout: VirtAddr,
) -> Result<usize> {
    let until = if timeout.0 == 0 {
        Until::NEVER
    } else {
        let [sec, usec]: [i64; 2] = user::read_val(timeout)?;
        if sec < 0 || usec < 0 {
            return Err(Errno::EINVAL);
        }
        let ns = (sec as u64).saturating_mul(NS).saturating_add((usec as u64).saturating_mul(1000));
        Until::after(ns)
    };
    let result = select(cx, count, [read, write, except], until);
    store_left(timeout, until, 1000);
    result.map_err(no_hand)
}

/// `pselect6(2)`.
fn sys_pselect6(
    cx: &mut Cx<'_>,
    count: i32,
    read: VirtAddr,
    write: VirtAddr,
    except: VirtAddr,
    timeout: VirtAddr,
    mask: VirtAddr,
) -> Result<usize> {
    let until = Until::from_timespec(timeout)?;
    let [mask, size]: [u64; 2] = if mask.0 == 0 { [0, 0] } else { user::read_val(mask)? };
    let sets = [read, write, except];
    let result = with_mask(cx, VirtAddr(mask), size as usize, || select(cx, count, sets, until));
    store_left(timeout, until, 1);
    result.map_err(no_hand)
}

/// `epoll_create(2)`.
fn sys_epoll_create(cx: &mut Cx<'_>, size: i32) -> Result<usize> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    sys_epoll_create1(cx, 0)
}

/// `epoll_create1(2)`.
fn sys_epoll_create1(cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    if flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let file = anon::epoll::create(&context(cx).get())?;
    install(cx, file, CloseOnExec::from_flags(flags, O_CLOEXEC))
}

/// `epoll_ctl(2)`.
fn sys_epoll_ctl(cx: &mut Cx<'_>, epfd: i32, op: u32, fd: i32, event: VirtAddr) -> Result<usize> {
    let wanted: EpollEvent =
        if op == EPOLL_CTL_DEL { EpollEvent::default() } else { user::read_val(event)? };
    let (epoll, file) = (file(cx, epfd)?, file(cx, fd)?);
    let data = u64::from(wanted.data[0]) | u64::from(wanted.data[1]) << 32;
    anon::epoll::epoll_of(&epoll)?.control(op, fd, &file, wanted.events, data)?;
    Ok(0)
}

fn epoll_wait(cx: &Cx<'_>, epfd: i32, events: VirtAddr, max: i32, timeout: i32) -> Result<usize> {
    let max =
        usize::try_from(max).ok().filter(|m| (1..=1 << 27).contains(m)).ok_or(Errno::EINVAL)?;
    let file = file(cx, epfd)?;
    let epoll = anon::epoll::epoll_of(&file)?;
    let until = Until::from_millis(timeout);
    let mut at = events;
    epoll.wait(max, until.deadline(), until.now, &mut |events, data| {
        let event = EpollEvent { events, data: [data as u32, (data >> 32) as u32] };
        user::write_val(at, &event)?;
        at = at.wrapping_add(12);
        Ok(())
    })
}

/// `epoll_wait(2)`.
fn sys_epoll_wait(
    cx: &mut Cx<'_>,
    epfd: i32,
    events: VirtAddr,
    max: i32,
    timeout: i32,
) -> Result<usize> {
    epoll_wait(cx, epfd, events, max, timeout)
}

/// `epoll_pwait(2)`.
fn sys_epoll_pwait(
    cx: &mut Cx<'_>,
    epfd: i32,
    events: VirtAddr,
    max: i32,
    timeout: i32,
    mask: VirtAddr,
    size: usize,
) -> Result<usize> {
    with_mask(cx, mask, size, || epoll_wait(cx, epfd, events, max, timeout))
}
