//! Timers: `setitimer(2)`, `alarm(2)`, `timer_create(2)`.

use crate::Cx;
use crate::time::{NANOS, cpu_clock, read_timer, write_timer};
use abi::process::Resource;
use abi::signal::Signal;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use process::timers::{self, Clock, Expiry, Notify, Which};
use process::{Task, ThreadGroup};
use vfs::cred::Cap;

crate::syscalls! {
    36 getitimer => sys_getitimer(which: Dec, value: Hex);
    37 alarm => sys_alarm(seconds: Dec);
    38 setitimer => sys_setitimer(which: Dec, new: Hex, old: Hex);
    222 timer_create => sys_timer_create(clock: Dec, event: Hex, id: Hex);
    223 timer_settime => sys_timer_settime(id: Dec, flags: Hex, new: Hex, old: Hex);
    224 timer_gettime => sys_timer_gettime(id: Dec, value: Hex);
    225 timer_getoverrun => sys_timer_getoverrun(id: Dec);
    226 timer_delete => sys_timer_delete(id: Dec);
}

fn which(raw: i32) -> Result<Which> {
    Ok(match raw {
        0 => Which::Real,
        1 => Which::Virtual,
        2 => Which::Prof,
        _ => return Err(Errno::EINVAL),
    })
}

fn own_group(cx: &Cx<'_>) -> Result<Arc<ThreadGroup>> {
    cx.task.group.arc().ok_or(Errno::ESRCH)
}

fn write_itimer(at: VirtAddr, (period, left): (u64, u64)) -> Result<()> {
    let micros = |ns: u64| [ns / NANOS, ns % NANOS / 1000];
    let ([a, b], [c, d]) = (micros(period), micros(left));
    user::write_val(at, &[a, b, c, d])?;
    Ok(())
}

fn sys_getitimer(cx: &mut Cx<'_>, raw: i32, at: VirtAddr) -> Result<usize> {
    write_itimer(at, timers::get_interval(&cx.task.group, which(raw)?))?;
    Ok(0)
}

fn sys_setitimer(cx: &mut Cx<'_>, raw: i32, new: VirtAddr, old: VirtAddr) -> Result<usize> {
    let [psec, pusec, sec, usec]: [i64; 4] =
        if new.is_null() { [0; 4] } else { user::read_val(new)? };
    let valid = |s: i64, us: i64| s >= 0 && (0..1_000_000).contains(&us);
    if !valid(psec, pusec) || !valid(sec, usec) {
        return Err(Errno::EINVAL);
    }
    let ns = |s: i64, us: i64| (s as u64).saturating_mul(NANOS).saturating_add(us as u64 * 1000);
    let group = &cx.task.group;
    let before = timers::set_interval(group, which(raw)?, ns(psec, pusec), ns(sec, usec));
    if !old.is_null() {
        write_itimer(old, before)?;
    }
    Ok(0)
}

fn sys_alarm(cx: &mut Cx<'_>, seconds: u32) -> Result<usize> {
    let first = u64::from(seconds) * NANOS;
    let (_, left) = timers::set_interval(&cx.task.group, Which::Real, 0, first);
    // A rest counts as a second unless it is less than half of one and not the only one.
    let whole = left / NANOS;
    let rounded =
        if left % NANOS >= NANOS / 2 || (whole == 0 && left > 0) { whole + 1 } else { whole };
    Ok(rounded as usize)
}

/// The clock of a timer. `EOPNOTSUPP` for clocks that have no timers.
fn timer_clock(task: &Task, id: i32) -> Result<Clock> {
    Ok(match id {
        0 | 8 => Clock::Realtime,
        1 => Clock::Monotonic,
        7 | 9 => Clock::Boottime,
        11 => Clock::Tai,
        2 => {
            Clock::Process(task.group.arc().map(|g| Arc::downgrade(&g)).unwrap_or_default(), false)
        }
        3 => Clock::Thread(task.weak(), false),
        4..=6 => return Err(Errno::EOPNOTSUPP),
        _ if id < 0 => {
            let clock = cpu_clock(task, id)?;
            if clock.of_thread {
                Clock::Thread(Arc::downgrade(&clock.target), clock.user_only)
            } else {
                Clock::Process(Arc::downgrade(&clock.target.group), clock.user_only)
            }
        }
        _ => return Err(Errno::EINVAL),
    })
}

/// Decodes a `struct sigevent`: who is told, and the value.
fn decode_event(task: &Task, event: Option<[u64; 3]>) -> Result<(Notify, Option<u64>)> {
    const SIGNAL: i32 = 0;
    const NONE: i32 = 1;
    const THREAD: i32 = 2;
    const THREAD_ID: i32 = 4;
    let Some([value, signal_and_kind, tid]) = event else {
        return Ok((Notify::Process(Signal::SIGALRM), None));
    };
    let signal = Signal::new(signal_and_kind as i32).ok_or(Errno::EINVAL);
    let notify = match (signal_and_kind >> 32) as i32 {
        NONE => Notify::Nobody,
        SIGNAL | THREAD => Notify::Process(signal?),
        THREAD_ID => {
            let thread = task.group.pid_ns().task(tid as i32);
            let thread = thread.filter(|thread| Arc::ptr_eq(&thread.group, &task.group));
            Notify::Thread(Arc::downgrade(&thread.ok_or(Errno::EINVAL)?), signal?)
        }
        _ => return Err(Errno::EINVAL),
    };
    Ok((notify, Some(value)))
}

fn sys_timer_create(cx: &mut Cx<'_>, clock: i32, event: VirtAddr, id: VirtAddr) -> Result<usize> {
    // The order of the checks: the event's memory, the clock's kind, the event, the place for the
    // number, whose clock it is.
    let event = if event.is_null() { None } else { Some(user::read_val(event)?) };
    if clock >= 0 {
        timer_clock(cx.task, clock)?;
    }
    let (notify, value) = decode_event(cx.task, event)?;
    if clock < 0 && user::fault_in_writable(id, size_of::<i32>()) < size_of::<i32>() {
        return Err(Errno::EFAULT);
    }
    if matches!(clock, 8 | 9) {
        cx.task.creds().require(Cap::WAKE_ALARM)?;
    }
    let clock = timer_clock(cx.task, clock)?;
    let group = own_group(cx)?;
    let user = cx.task.user().ok_or(Errno::EAGAIN)?;
    let limit = cx.task.limit(Resource::Sigpending);
    let number = group.timers.create(&group, clock, notify, value, user, limit)?;
    if let Err(fault) = user::write_val(id, &number) {
        group.timers.delete(number)?;
        return Err(fault.into());
    }
    Ok(0)
}

fn sys_timer_settime(
    cx: &mut Cx<'_>,
    id: i32,
    flags: u32,
    new: VirtAddr,
    old: VirtAddr,
) -> Result<usize> {
    const ABSTIME: u32 = 1;
    if new.is_null() {
        return Err(Errno::EINVAL);
    }
    let (interval, value) = read_timer(new)?;
    let timer = cx.task.group.timers.posix_timer(id)?;
    let first = match value {
        0 => Expiry::Never,
        at if flags & ABSTIME != 0 => Expiry::At(at),
        ns => Expiry::After(ns),
    };
    let (period, left) = timer.set(first, interval);
    if !old.is_null() {
        write_timer(old, period, left)?;
    }
    Ok(0)
}

fn sys_timer_gettime(cx: &mut Cx<'_>, id: i32, at: VirtAddr) -> Result<usize> {
    let (period, left) = cx.task.group.timers.posix_timer(id)?.get();
    write_timer(at, period, left)?;
    Ok(0)
}

fn sys_timer_getoverrun(cx: &mut Cx<'_>, id: i32) -> Result<usize> {
    Ok(cx.task.group.timers.posix_timer(id)?.overrun() as usize)
}

fn sys_timer_delete(cx: &mut Cx<'_>, id: i32) -> Result<usize> {
    cx.task.group.timers.delete(id)?;
    Ok(0)
}
