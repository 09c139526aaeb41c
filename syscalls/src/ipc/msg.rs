//! msgget(2), msgop(2), msgctl(2).

use super::{Context, check_id, number};
use crate::Cx;
use abi::ipc::{MsqidDs, common as cmd, msg};
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use core::sync::atomic::Ordering;
use ipc::msg::{Message, Patience, Select};
use ipc::shm::Access;

/// `msgget(2)`.
pub(super) fn sys_msgget(cx: &mut Cx<'_>, key: i32, flags: u32) -> Result<usize> {
    let context = Context::of(cx);
    Ok(ipc::msg::get(&context.ns, &context.caller(), key, flags)? as usize)
}

fn patience(flags: u32) -> Patience {
    if flags & cmd::NOWAIT != 0 { Patience::None } else { Patience::Wait }
}

/// Where the text of a `struct msgbuf` is.
const TEXT: u64 = 8;

/// `msgsnd(2)`.
pub(super) fn sys_msgsnd(
    cx: &mut Cx<'_>,
    id: i32,
    from: VirtAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let kind: i64 = user::read_val(from)?;
    let context = Context::of(cx);
    let most = context.ns.limits.msgmax.load(Ordering::Relaxed).max(0) as usize;
    if size > most || id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let mut data = Vec::new();
    data.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    data.resize(size, 0);
    user::copy_from_user(&mut data, from.wrapping_add(TEXT))?;
    let message = Message { kind, data };
    ipc::msg::send(&context.ns, &context.caller(), id, message, patience(flags))?;
    Ok(0)
}

/// `msgrcv(2)`.
pub(super) fn sys_msgrcv(
    cx: &mut Cx<'_>,
    id: i32,
    to: VirtAddr,
    size: isize,
    kind: i64,
    flags: u32,
) -> Result<usize> {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    check_id(id)?;
    let context = Context::of(cx);
    let room = (size, flags & msg::NOERROR != 0);
    let message = if flags & msg::COPY != 0 {
        if flags & msg::EXCEPT != 0 || flags & cmd::NOWAIT == 0 {
            return Err(Errno::EINVAL);
        }
        ipc::msg::copy(&context.ns, &context.caller(), id, kind, room)?
    } else {
        let select = match kind {
            0 => Select::Any,
            // The lowest number has no positive counterpart.
            i64::MIN => Select::UpTo(i64::MAX),
            below if below < 0 => Select::UpTo(-below),
            kind if flags & msg::EXCEPT != 0 => Select::Except(kind),
            kind => Select::Kind(kind),
        };
        ipc::msg::receive(&context.ns, &context.caller(), id, select, room, patience(flags))?
    };
    user::write_val(to, &message.kind)?;
    let text = message.data.get(..message.data.len().min(size)).unwrap_or_default();
    user::copy_to_user(to.wrapping_add(TEXT), text)?;
    Ok(text.len())
}

/// `msgctl(2)`.
pub(super) fn sys_msgctl(
    cx: &mut Cx<'_>,
    id: i32,
    command: i32,
    buffer: VirtAddr,
) -> Result<usize> {
    check_id(id)?;
    let context = Context::of(cx);
    let (ns, caller) = (&context.ns, context.caller());
    match command {
        cmd::INFO | msg::INFO => {
            let (info, highest) = ns.msg_info(command == msg::INFO);
            user::write_val(buffer, &info)?;
            Ok(highest as usize)
        }
        cmd::STAT | msg::STAT | msg::STAT_ANY => {
            let report = match command {
                cmd::STAT => ns.msg_stat(&caller, id)?,
                msg::STAT => ns.msg_stat_slot(&caller, id, Access::Checked)?,
                _ => ns.msg_stat_slot(&caller, id, Access::Any)?,
            };
            user::write_val(buffer, &report.export(&context.creds.user_ns, number(cx)))?;
            Ok(if command == cmd::STAT { 0 } else { report.id as usize })
        }
        cmd::SET => {
            let new: MsqidDs = user::read_val(buffer)?;
            ns.msg_set(&caller, id, &new).map(|()| 0)
        }
        cmd::RMID => ns.msg_remove(&caller, id).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
