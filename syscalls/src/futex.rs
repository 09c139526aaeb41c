//! `futex(2)`, robust lists and restartable sequences.

use crate::Cx;
use abi::process::futex as f;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use process::Task;
use process::futex::{self, Scope, pi};
use sched::Deadline;

crate::syscalls! {
    202 futex => sys_futex(word: Hex, op: FutexOp, value: Hex, timeout: Hex, word2: Hex, value3: Hex);
    273 set_robust_list => sys_set_robust_list(head: Hex, len: Dec);
    334 rseq => sys_rseq(area: Hex, len: Dec, flags: Hex, signature: Hex);
    274 get_robust_list => sys_get_robust_list(pid: Dec, head: Hex, len: Hex);
}

/// The end of the wait that the arguments ask for. Only `FUTEX_WAIT` counts from now; the others
/// name a point on the monotonic clock, or on the real-time one with the flag.
fn deadline(command: u32, realtime: bool, timeout: VirtAddr) -> Result<Option<Deadline>> {
    let Some(ns) = crate::time::read_timeout(timeout)? else { return Ok(None) };
    Ok(Some(match command {
        f::WAIT => Deadline::after_ns(ns),
        f::LOCK_PI => Deadline::at_realtime_ns(ns),
        _ if realtime => Deadline::at_realtime_ns(ns),
        _ => Deadline::at_monotonic_ns(ns),
    }))
}

/// Waits, and arranges for what is left of a relative time-out to be waited for after a stop.
fn wait(
    task: &Task,
    word: VirtAddr,
    scope: Scope,
    value: u32,
    deadline: Option<Deadline>,
    bits: u32,
) -> Result<usize> {
    match futex::wait(task, word, scope, value, deadline, bits) {
        Ok(()) => Ok(0),
        Err(Errno::ERESTARTSYS) if deadline.is_some() => {
            Err(task.restart_with(move |task| wait(task, word, scope, value, deadline, bits)))
        }
        Err(error) => Err(error),
    }
}

/// `futex(2)`.
fn sys_futex(
    cx: &mut Cx<'_>,
    word: VirtAddr,
    op: u32,
    value: u32,
    timeout: VirtAddr,
    word2: VirtAddr,
    value3: u32,
) -> Result<usize> {
    let task = cx.task;
    let command = op & f::CMD_MASK;
    let scope = if op & f::PRIVATE_FLAG != 0 { Scope::Private } else { Scope::Shared };
    let realtime = op & f::CLOCK_REALTIME != 0;
    if realtime && !matches!(command, f::WAIT | f::WAIT_BITSET | f::WAIT_REQUEUE_PI) {
        return Err(Errno::ENOSYS);
    }
    let value2 = timeout.0 as u32;
    let words = (word, word2);
    match command {
        f::WAIT => {
            let deadline = deadline(command, realtime, timeout)?;
            wait(task, word, scope, value, deadline, f::BITSET_MATCH_ANY)
        }
        f::WAIT_BITSET => {
            let deadline = deadline(command, realtime, timeout)?;
            wait(task, word, scope, value, deadline, value3)
        }
        f::WAKE => futex::wake(task, word, scope, value, f::BITSET_MATCH_ANY),
        f::WAKE_BITSET => futex::wake(task, word, scope, value, value3),
        f::REQUEUE => futex::requeue(task, words, scope, (value, value2), None),
        f::CMP_REQUEUE => futex::requeue(task, words, scope, (value, value2), Some(value3)),
        f::WAKE_OP => futex::wake_op(task, words, scope, (value, value2), value3),
        f::LOCK_PI => {
            let deadline = deadline(command, realtime, timeout)?;
            pi::lock_pi(task, word, scope, deadline, true).map(|()| 0)
        }
        f::TRYLOCK_PI => pi::lock_pi(task, word, scope, None, false).map(|()| 0),
        f::UNLOCK_PI => pi::unlock_pi(task, word, scope).map(|()| 0),
        f::WAIT_REQUEUE_PI => {
            let deadline = deadline(command, realtime, timeout)?;
            pi::wait_requeue(task, word, scope, value, deadline, word2).map(|()| 0)
        }
        f::CMP_REQUEUE_PI => pi::cmp_requeue(task, words, scope, (value, value2), value3),
        _ => Err(Errno::ENOSYS),
    }
}

/// `sizeof(struct robust_list_head)`.
const ROBUST_HEAD_LEN: usize = 24;

fn sys_set_robust_list(cx: &mut Cx<'_>, head: VirtAddr, len: usize) -> Result<usize> {
    if len != ROBUST_HEAD_LEN {
        return Err(Errno::EINVAL);
    }
    cx.task.set_robust_list(head);
    Ok(0)
}

fn sys_get_robust_list(cx: &mut Cx<'_>, pid: i32, head: VirtAddr, len: VirtAddr) -> Result<usize> {
    let list = if pid == 0 {
        cx.task.robust_list()
    } else {
        let target = cx.task.group.pid_ns().task(pid).ok_or(Errno::ESRCH)?;
        process::task::inspect(cx.task, &target, || target.robust_list())?
    };
    user::write_val(len, &(ROBUST_HEAD_LEN as u64))?;
    user::write_val(head, &list.0)?;
    Ok(0)
}

/// `rseq(2)`.
fn sys_rseq(
    cx: &mut Cx<'_>,
    area: VirtAddr,
    len: u32,
    flags: u32,
    signature: u32,
) -> Result<usize> {
    process::rseq::register(cx.task, area, len, flags, signature).map(|()| 0)
}
