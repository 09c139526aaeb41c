//! shmget(2), shmop(2), shmctl(2).

use super::{Context, check_id, number};
use crate::Cx;
use abi::ipc::{ShmidDs, common as cmd, shm};
use abi::process::Resource;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use ipc::shm::{Access, Lock};

/// `shmget(2)`. There are no reserved huge pages: `SHM_HUGETLB` is `ENOMEM`.
pub(super) fn sys_shmget(cx: &mut Cx<'_>, key: i32, size: u64, flags: u32) -> Result<usize> {
    let context = Context::of(cx);
    let id = ipc::shm::get(&context.ns, &context.caller(), key, size, flags)?;
    Ok(id as usize)
}

/// `shmat(2)`.
pub(super) fn sys_shmat(cx: &mut Cx<'_>, id: i32, addr: u64, flags: u32) -> Result<usize> {
    let context = Context::of(cx);
    let mm = cx.task.mm().ok_or(Errno::ENOMEM)?;
    let limits = crate::mm::limits(cx.task);
    let at = ipc::shm::attach(&context.ns, &context.caller(), &mm, id, (addr, flags), &limits)?;
    Ok(at as usize)
}

/// `shmdt(2)`.
pub(super) fn sys_shmdt(cx: &mut Cx<'_>, addr: u64) -> Result<usize> {
    cx.task.mm().ok_or(Errno::EINVAL)?.detach(addr)?;
    Ok(0)
}

/// `shmctl(2)`.
pub(super) fn sys_shmctl(
    cx: &mut Cx<'_>,
    id: i32,
    command: i32,
    buffer: VirtAddr,
) -> Result<usize> {
    check_id(id)?;
    let context = Context::of(cx);
    let (ns, caller) = (&context.ns, context.caller());
    let viewer = &context.creds.user_ns;
    match command {
        cmd::INFO => {
            let (limits, highest) = ns.shm_limits();
            user::write_val(buffer, &limits)?;
            Ok(highest as usize)
        }
        shm::INFO => {
            let (usage, highest) = ns.shm_usage();
            user::write_val(buffer, &usage)?;
            Ok(highest as usize)
        }
        cmd::STAT | shm::STAT | shm::STAT_ANY => {
            let report = match command {
                cmd::STAT => ns.shm_stat(&caller, id)?,
                shm::STAT => ns.shm_stat_slot(&caller, id, Access::Checked)?,
                _ => ns.shm_stat_slot(&caller, id, Access::Any)?,
            };
            user::write_val(buffer, &report.export(viewer, number(cx)))?;
            Ok(if command == cmd::STAT { 0 } else { report.id as usize })
        }
        cmd::SET => {
            let new: ShmidDs = user::read_val(buffer)?;
            ns.shm_set(&caller, id, &new.perm).map(|()| 0)
        }
        cmd::RMID => ns.shm_remove(&caller, id).map(|()| 0),
        shm::LOCK | shm::UNLOCK => {
            let lock = if command == shm::LOCK { Lock::Lock } else { Lock::Unlock };
            ns.shm_lock(&caller, id, lock, cx.task.limit(Resource::Memlock)).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}
