//! Clocks and sleeps.

use crate::Cx;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use process::Task;
use process::usage::Usage;
use sched::{Deadline, clock};
use vfs::cred::Cap;

crate::syscalls! {
    35 nanosleep => sys_nanosleep(request: Timespec, remaining: Hex);
    96 gettimeofday => sys_gettimeofday(time: Hex, zone: Hex);
    159 adjtimex => sys_adjtimex(buffer: Hex);
    164 settimeofday => sys_settimeofday(time: Hex, zone: Hex);
    201 time => sys_time(at: Hex);
    227 clock_settime => sys_clock_settime(clock: Dec, time: Timespec);
    228 clock_gettime => sys_clock_gettime(clock: Dec, time: Hex);
    229 clock_getres => sys_clock_getres(clock: Dec, time: Hex);
    230 clock_nanosleep => sys_clock_nanosleep(clock: Dec, flags: Hex, request: Timespec, remaining: Hex);
    305 clock_adjtime => sys_clock_adjtime(clock: Dec, buffer: Hex);
}

pub(crate) const NANOS: u64 = 1_000_000_000;

/// Reads a `struct timespec` in nanoseconds; `None` for a null pointer (no limit).
pub(crate) fn read_timeout(at: VirtAddr) -> Result<Option<u64>> {
    if at.is_null() {
        return Ok(None);
    }
    read_timespec(at).map(Some)
}

/// The end of a wait of so many nanoseconds. None for no limit, nor for no wait at all: who does not
/// wait need not know the time.
pub(crate) fn deadline_ns(limit: Option<u64>) -> Option<Deadline> {
    limit.filter(|ns| *ns != 0).map(Deadline::after_ns)
}

/// As [`deadline_ns`] for milliseconds, negative for no limit.
pub(crate) fn deadline_ms(limit: i32) -> Option<Deadline> {
    deadline_ns(u64::try_from(limit).ok().map(|ms| ms * 1_000_000))
}

/// Reads a `struct timespec` in nanoseconds.
pub(crate) fn read_timespec(at: VirtAddr) -> Result<u64> {
    nanoseconds(user::read_val(at)?)
}

/// The seconds and nanoseconds of a `struct timespec` in nanoseconds.
pub(crate) fn nanoseconds([sec, nsec]: [i64; 2]) -> Result<u64> {
    if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
        return Err(Errno::EINVAL);
    }
    Ok((sec as u64).saturating_mul(NANOS).saturating_add(nsec as u64))
}

/// Writes nanoseconds as a `struct timespec`.
#[inline]
pub(crate) fn write_timespec(at: VirtAddr, ns: u64) -> Result<()> {
    user::write_val(at, &[ns / NANOS, ns % NANOS])?;
    Ok(())
}

/// Reads a `struct itimerspec`: the interval and the value, in nanoseconds.
pub(crate) fn read_timer(at: VirtAddr) -> Result<(u64, u64)> {
    Ok((read_timespec(at)?, read_timespec(at.wrapping_add(16))?))
}

/// Writes a `struct itimerspec`.
pub(crate) fn write_timer(at: VirtAddr, interval: u64, value: u64) -> Result<()> {
    write_timespec(at, interval)?;
    write_timespec(at.wrapping_add(16), value)
}

/// A clock's value in nanoseconds.
fn read_clock(task: &Task, id: i32) -> Result<u64> {
    Ok(match id {
        0 => clock::realtime_ns(),
        1 | 4 => clock::monotonic_ns(),
        6 => clock::monotonic_coarse(),
        2 => task.group.run_ns(),
        3 => task.thread().map_or(0, |thread| thread.run_ns()),
        5 => clock::realtime_coarse() as u64,
        7 | 9 => clock::boottime_ns(),
        8 => clock::realtime_ns(),
        11 => clock::tai_ns(),
        _ if id < 0 => return read_cpu_clock(task, id),
        _ => return Err(Errno::EINVAL),
    })
}

/// The clocks of other processes and threads (`clock_getcpuclockid(3)`): the number, inverted, above
/// three bits of kind.
fn read_cpu_clock(task: &Task, id: i32) -> Result<u64> {
    Ok(cpu_clock(task, id)?.read())
}

/// A decoded clock of a process or thread.
pub(crate) struct CpuClock {
    pub(crate) target: Arc<Task>,
    pub(crate) of_thread: bool,
    pub(crate) user_only: bool,
}

impl CpuClock {
    /// Its value in nanoseconds.
    fn read(&self) -> u64 {
        let (user, system) = if self.of_thread {
            let usage = Usage::of(&self.target);
            (usage.utime_ns, usage.stime_ns)
        } else {
            self.target.group.cpu_time()
        };
        if self.user_only { user } else { user + system }
    }
}

/// Decodes a negative clock number.
pub(crate) fn cpu_clock(task: &Task, id: i32) -> Result<CpuClock> {
    let (pid, kind) = (!(id >> 3), id & 7);
    if kind & 3 == 3 {
        return Err(Errno::EINVAL);
    }
    let ns = task.group.pid_ns();
    let target = if pid == 0 { task.arc() } else { ns.task(pid) }.ok_or(Errno::EINVAL)?;
    let of_thread = kind & 4 != 0;
    // A thread's clock is its own process's only.
    if of_thread && !Arc::ptr_eq(&target.group, &task.group) {
        return Err(Errno::EINVAL);
    }
    Ok(CpuClock { target, of_thread, user_only: kind & 3 == 1 })
}

fn sys_clock_gettime(cx: &mut Cx<'_>, id: i32, at: VirtAddr) -> Result<usize> {
    write_timespec(at, read_clock(cx.task, id)?)?;
    Ok(0)
}

fn sys_clock_getres(cx: &mut Cx<'_>, id: i32, at: VirtAddr) -> Result<usize> {
    read_clock(cx.task, id)?;
    if !at.is_null() {
        write_timespec(at, if matches!(id, 5 | 6) { clock::COARSE_NS } else { 1 })?;
    }
    Ok(0)
}

fn sys_clock_settime(cx: &mut Cx<'_>, id: i32, at: VirtAddr) -> Result<usize> {
    if id > 0 {
        return Err(Errno::EINVAL);
    }
    let ns = read_timespec(at)?;
    if id < 0 {
        cpu_clock(cx.task, id)?;
        return Err(Errno::EPERM);
    }
    cx.task.creds().require(Cap::SYS_TIME)?;
    check_wall_time(ns)?;
    clock::set_realtime(ns);
    Ok(0)
}

/// man 2 clock_settime: `EINVAL` for a time before the machine's start.
fn check_wall_time(ns: u64) -> Result<()> {
    if ns < clock::monotonic_ns() { Err(Errno::EINVAL) } else { Ok(()) }
}

fn sys_gettimeofday(_: &mut Cx<'_>, time: VirtAddr, zone: VirtAddr) -> Result<usize> {
    if !time.is_null() {
        let now = clock::realtime_ns();
        user::write_val(time, &[now / NANOS, now % NANOS / 1000])?;
    }
    if !zone.is_null() {
        user::write_val(zone, &[0i32, 0])?;
    }
    Ok(0)
}

fn sys_settimeofday(cx: &mut Cx<'_>, time: VirtAddr, zone: VirtAddr) -> Result<usize> {
    let read = |at: VirtAddr| user::read_val::<[i64; 2]>(at);
    let new = if time.is_null() { None } else { Some(read(time)?) };
    if new.is_some_and(|[_, usec]| !(0..1_000_000).contains(&usec)) {
        return Err(Errno::EINVAL);
    }
    let west = if zone.is_null() { None } else { Some(user::read_val::<[i32; 2]>(zone)?[0]) };
    if new.is_some_and(|[sec, _]| sec < 0) {
        return Err(Errno::EINVAL);
    }
    cx.task.creds().require(Cap::SYS_TIME)?;
    // The zone itself is nobody's business here: the hardware clock runs in UTC.
    if west.is_some_and(|minutes| !(-15 * 60..=15 * 60).contains(&minutes)) {
        return Err(Errno::EINVAL);
    }
    let Some([sec, usec]) = new else { return Ok(0) };
    let ns = (sec as u64).checked_mul(NANOS).ok_or(Errno::EINVAL)?;
    let ns = ns.checked_add(usec as u64 * 1000).ok_or(Errno::EINVAL)?;
    check_wall_time(ns)?;
    clock::set_realtime(ns);
    Ok(0)
}

fn sys_time(_: &mut Cx<'_>, at: VirtAddr) -> Result<usize> {
    let now = clock::realtime_ns() / NANOS;
    if !at.is_null() {
        user::write_val(at, &now)?;
    }
    Ok(now as usize)
}

/// Sleeps; what is left goes to `remaining` when a handler ran, and is slept after a stop.
fn sleep(task: &Task, deadline: Deadline, remaining: Option<VirtAddr>) -> Result<usize> {
    match sched::park_interruptible(|| None::<()>, Some(deadline)) {
        Ok(()) | Err(sched::WaitError::TimedOut) => Ok(0),
        Err(sched::WaitError::Interrupted) => {
            if let Some(at) = remaining.filter(|at| !at.is_null()) {
                let left = deadline.monotonic_ns().saturating_sub(clock::monotonic_ns());
                write_timespec(at, left)?;
            }
            Err(task.restart_with(move |task| sleep(task, deadline, remaining)))
        }
    }
}

/// Sleeps by the clock of a process; that of a thread cannot be waited for by itself.
fn sleep_by_processor(
    task: &Task,
    id: i32,
    is_absolute: bool,
    ns: u64,
    remaining: VirtAddr,
) -> Result<usize> {
    const OWN_PROCESS: i32 = !0 << 3 | 2;
    let clock = cpu_clock(task, if id == 2 { OWN_PROCESS } else { id })?;
    if clock.of_thread && core::ptr::eq(&*clock.target, task) {
        return Err(Errno::EINVAL);
    }
    if is_absolute {
        return sleep_until(task, clock, ns, None);
    }
    let until = clock.read().saturating_add(ns);
    sleep_until(task, clock, until, Some(remaining))
}

/// Sleeps until `clock` shows `until`, looking again when it can be there at the earliest: when all
/// processors have worked for it.
fn sleep_until(
    task: &Task,
    clock: CpuClock,
    until: u64,
    remaining: Option<VirtAddr>,
) -> Result<usize> {
    const SHORTEST_NS: u64 = 1_000_000;
    let processors = arch::cpu::online().len().max(1) as u64;
    loop {
        let left = until.saturating_sub(clock.read());
        if left == 0 {
            return Ok(0);
        }
        let deadline = Deadline::after_ns((left / processors).max(SHORTEST_NS));
        let waited = sched::park_interruptible(|| None::<()>, Some(deadline));
        if waited == Err(sched::WaitError::Interrupted) {
            let Some(at) = remaining else { return Err(Errno::ERESTARTNOHAND) };
            if !at.is_null() {
                write_timespec(at, until.saturating_sub(clock.read()))?;
            }
            return Err(task.restart_with(move |task| sleep_until(task, clock, until, remaining)));
        }
    }
}

fn sys_nanosleep(cx: &mut Cx<'_>, request: VirtAddr, remaining: VirtAddr) -> Result<usize> {
    let ns = read_timespec(request)?;
    sleep(cx.task, Deadline::after_ns(ns), Some(remaining))
}

fn sys_clock_nanosleep(
    cx: &mut Cx<'_>,
    id: i32,
    flags: u32,
    request: VirtAddr,
    remaining: VirtAddr,
) -> Result<usize> {
    const ABSTIME: u32 = 1;
    match id {
        ..=2 | 7 | 8 | 9 | 11 => {}
        3..=6 => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    }
    let ns = read_timespec(request)?;
    if id < 0 || id == 2 {
        return sleep_by_processor(cx.task, id, flags & ABSTIME != 0, ns, remaining);
    }
    if flags & ABSTIME == 0 {
        return sleep(cx.task, Deadline::after_ns(ns), Some(remaining));
    }
    let deadline = match id {
        0 | 8 => Deadline::at_realtime_ns(ns),
        11 => {
            let leap = clock::tai_ns().saturating_sub(clock::realtime_ns());
            Deadline::at_realtime_ns(ns.saturating_sub(leap))
        }
        _ => Deadline::at_monotonic_ns(ns),
    };
    match sleep(cx.task, deadline, None) {
        // An absolute sleep simply starts again.
        Err(Errno::ERESTART_RESTARTBLOCK) => Err(Errno::ERESTARTNOHAND),
        other => other,
    }
}

/// Whether `modes`, what is to be set, is possible and allowed (`adjtimex(2)`).
fn check_modes(cx: &Cx<'_>, modes: u32, buffer: &[u8; TIMEX_LEN]) -> Result<()> {
    const OFFSET: u32 = 1;
    const SETOFFSET: u32 = 0x100;
    const READ_ONLY: u32 = 0x2000;
    const TICK: u32 = 0x4000;
    const SINGLE_SHOT: u32 = 0x8000;
    let field = |at: usize| {
        let bytes = buffer.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, i64::from_le_bytes)
    };
    if modes & SINGLE_SHOT != 0 && modes & OFFSET == 0 {
        return Err(Errno::EINVAL);
    }
    let only_reads = modes & SINGLE_SHOT != 0 && modes & READ_ONLY != 0;
    if modes != 0 && !only_reads {
        cx.task.creds().require(Cap::SYS_TIME)?;
    }
    if modes & TICK != 0 && modes & SINGLE_SHOT == 0 && !(9000..=11000).contains(&field(88)) {
        return Err(Errno::EINVAL);
    }
    // With nanoseconds instead of microseconds.
    let parts = if modes & READ_ONLY != 0 { 1_000_000_000 } else { 1_000_000 };
    if modes & SETOFFSET == 0 {
        return Ok(());
    }
    cx.task.creds().require(Cap::SYS_TIME)?;
    if (0..parts).contains(&field(80)) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The length of `struct timex`.
const TIMEX_LEN: usize = 208;

/// `struct timex`: read only. The clock is not steered: state `TIME_ERROR` until it is set.
fn timex(cx: &Cx<'_>, at: VirtAddr) -> Result<usize> {
    let mut buffer = [0u8; TIMEX_LEN];
    user::copy_from_user(&mut buffer, at)?;
    let modes = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    check_modes(cx, modes, &buffer)?;
    let now = clock::realtime_ns();
    let mut put = |offset: usize, value: u64| {
        if let Some(slot) = buffer.get_mut(offset..offset + 8) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    };
    put(24, 16_000_000); // maxerror
    put(32, 16_000_000); // esterror
    put(40, 0x40); // STA_UNSYNC
    put(48, 2); // constant
    put(56, 1); // precision
    put(64, 32_768_000); // tolerance
    put(72, now / NANOS);
    put(80, now % NANOS / 1000);
    put(88, 10_000); // tick
    user::copy_to_user(at, &buffer)?;
    Ok(5)
}

fn sys_adjtimex(cx: &mut Cx<'_>, at: VirtAddr) -> Result<usize> {
    timex(cx, at)
}

fn sys_clock_adjtime(cx: &mut Cx<'_>, id: i32, at: VirtAddr) -> Result<usize> {
    match id {
        0 => timex(cx, at),
        _ if !user::range_ok(at, TIMEX_LEN)
            || user::fault_in_readable(at, TIMEX_LEN) != TIMEX_LEN =>
        {
            Err(Errno::EFAULT)
        }
        ..=9 | 11 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}
