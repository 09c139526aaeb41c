//! semget(2), semop(2), semctl(2).

use super::{Context, check_id, number};
use crate::Cx;
use abi::ipc::{SemBuf, SemidDs, common as cmd, sem};
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use core::sync::atomic::Ordering;
use ipc::sem::Query;
use ipc::shm::Access;
use sched::Deadline;
use zerocopy::IntoBytes;

/// `semget(2)`.
pub(super) fn sys_semget(cx: &mut Cx<'_>, key: i32, count: i32, flags: u32) -> Result<usize> {
    let context = Context::of(cx);
    let id = ipc::sem::get(&context.ns, &context.caller(), key, count, flags)?;
    Ok(id as usize)
}

/// `semop(2)`.
pub(super) fn sys_semop(cx: &mut Cx<'_>, id: i32, ops: VirtAddr, count: u32) -> Result<usize> {
    operate(cx, id, ops, count, None)
}

/// `semtimedop(2)`.
pub(super) fn sys_semtimedop(
    cx: &mut Cx<'_>,
    id: i32,
    ops: VirtAddr,
    count: u32,
    timeout: VirtAddr,
) -> Result<usize> {
    let timeout = if timeout.is_null() { None } else { Some(user::read_val(timeout)?) };
    operate(cx, id, ops, count, timeout)
}

fn operate(
    cx: &Cx<'_>,
    id: i32,
    from: VirtAddr,
    count: u32,
    timeout: Option<[i64; 2]>,
) -> Result<usize> {
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    let context = Context::of(cx);
    let most = context.ns.limits.sem.get(2).map_or(0, |limit| limit.load(Ordering::Relaxed));
    if i64::from(count) > i64::from(most) {
        return Err(Errno::E2BIG);
    }
    let mut list = Vec::new();
    list.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
    list.resize(count as usize, SemBuf::default());
    let mut ops: Box<[SemBuf]> = list.into();
    user::copy_from_user(ops.as_mut_bytes(), from)?;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    // Whether the time is possible is looked at when the operations are known.
    let timeout_ns = timeout.map(crate::time::nanoseconds).transpose()?;
    let deadline = timeout_ns.map(Deadline::after_ns);
    let undo = ops
        .iter()
        .any(|op| op.flags & sem::UNDO != 0)
        .then(|| process::ipc::sem::undo_list(cx.task));
    ipc::sem::operate(&context.ns, &context.caller(), id, ops, undo.as_deref(), deadline)?;
    Ok(0)
}

/// `semctl(2)`.
pub(super) fn sys_semctl(
    cx: &mut Cx<'_>,
    id: i32,
    num: i32,
    command: i32,
    arg: VirtAddr,
) -> Result<usize> {
    check_id(id)?;
    let context = Context::of(cx);
    let (ns, caller) = (&context.ns, context.caller());
    match command {
        cmd::INFO | sem::INFO => {
            let (info, highest) = ns.sem_info(command == sem::INFO);
            user::write_val(arg, &info)?;
            Ok(highest as usize)
        }
        cmd::STAT | sem::STAT | sem::STAT_ANY => {
            let report = match command {
                cmd::STAT => ns.sem_stat(&caller, id)?,
                sem::STAT => ns.sem_stat_slot(&caller, id, Access::Checked)?,
                _ => ns.sem_stat_slot(&caller, id, Access::Any)?,
            };
            user::write_val(arg, &report.export(&context.creds.user_ns))?;
            Ok(if command == cmd::STAT { 0 } else { report.id as usize })
        }
        cmd::SET => {
            let new: SemidDs = user::read_val(arg)?;
            ns.sem_set(&caller, id, &new.perm).map(|()| 0)
        }
        cmd::RMID => ns.sem_remove(&caller, id).map(|()| 0),
        sem::GETVAL => ns.sem_query(&caller, id, num, Query::Value).map(|v| v as usize),
        sem::GETNCNT => ns.sem_query(&caller, id, num, Query::WaitingForMore).map(|v| v as usize),
        sem::GETZCNT => ns.sem_query(&caller, id, num, Query::WaitingForZero).map(|v| v as usize),
        sem::GETPID => {
            let last = ns.sem_last(&caller, id, num)?;
            Ok(last.map_or(0, |who| number(cx)(&who)) as usize)
        }
        sem::GETALL => {
            let values = ns.sem_values(&caller, id)?;
            user::copy_to_user(arg, values.as_bytes())?;
            Ok(0)
        }
        sem::SETVAL => ns.sem_set_value(&caller, id, num, arg.0 as i32).map(|()| 0),
        sem::SETALL => {
            let count = ns.sem_count(&caller, id)?;
            let mut values: Vec<u16> = Vec::new();
            values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
            values.resize(count, 0);
            user::copy_from_user(values.as_mut_bytes(), arg)?;
            ns.sem_set_values(&caller, id, &values).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}
