//! `fcntl(2)`.

use crate::Cx;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::process::Resource;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use vfs::file::SignalOwner;
use vfs::locks::{self, LockKind, Owner, RecordLock, Wait};
use vfs::{CloseOnExec, File, FileMode};

/// The flags `F_SETFL` can change.
const SETTABLE: u32 = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME;

/// `fcntl(2)`.
pub(crate) fn fcntl(cx: &mut Cx<'_>, fd: i32, cmd: u32, arg: u64) -> Result<usize> {
    let table = files(cx)?;
    let file = table.get_any(fd)?;
    let limit = cx.task.limit(Resource::Nofile);
    let dup = |cloexec| -> Result<usize> {
        // The lower half is what counts.
        let lowest = arg as u32;
        if u64::from(lowest) >= limit {
            return Err(Errno::EINVAL);
        }
        Ok(table.add(file.clone(), lowest, limit, cloexec)? as usize)
    };
    match cmd {
        F_DUPFD => return dup(CloseOnExec::No),
        F_DUPFD_CLOEXEC => return dup(CloseOnExec::Yes),
        F_GETFD => return Ok(usize::from(table.cloexec(fd)?)),
        F_SETFD => {
            table.set_cloexec(fd, CloseOnExec::from_flags(arg as u32, FD_CLOEXEC))?;
            return Ok(0);
        }
        F_GETFL => {
            let path = if file.mode().contains(FileMode::PATH) { O_PATH } else { 0 };
            return Ok((file.flags() | path) as usize);
        }
        _ if file.mode().contains(FileMode::PATH) => return Err(Errno::EBADF),
        _ => {}
    }
    let address = VirtAddr(arg);
    match cmd {
        F_SETFL => set_flags(cx, fd, &file, arg as u32),
        F_GETLK | F_OFD_GETLK => get_lock(cx, &file, cmd == F_OFD_GETLK, address, table.id()),
        F_SETLK => set_lock(cx, &file, false, address, Wait::No, table.id()),
        F_SETLKW => set_lock(cx, &file, false, address, Wait::Yes, table.id()),
        F_OFD_SETLK => set_lock(cx, &file, true, address, Wait::No, table.id()),
        F_OFD_SETLKW => set_lock(cx, &file, true, address, Wait::Yes, table.id()),
        F_SETOWN | F_GETOWN | F_SETSIG | F_GETSIG | F_SETOWN_EX | F_GETOWN_EX | F_GETOWNER_UIDS => {
            owner(cx, &file, cmd, arg)
        }
        F_SETPIPE_SZ => {
            let pipe = anon::pipe::pipe_of(&file).ok_or(Errno::EBADF)?;
            pipe.set_capacity(&context(cx).get(), arg as u32 as usize)
        }
        F_GETPIPE_SZ => Ok(anon::pipe::pipe_of(&file).ok_or(Errno::EBADF)?.capacity()),
        F_ADD_SEALS => {
            let seals = u32::try_from(arg).map_err(|_| Errno::EINVAL)?;
            tmpfs::add_seals(&file, seals).map(|()| 0)
        }
        F_GET_SEALS => Ok(tmpfs::get_seals(&file)? as usize),
        F_GETLEASE => Ok(vfs::lease::get(&file) as usize),
        F_SETLEASE => {
            own_signals(cx, &file);
            let kind = u32::try_from(arg).map_err(|_| Errno::EINVAL)?;
            vfs::lease::set(&context(cx).get(), &file, fd, kind).map(|()| 0)
        }
        F_NOTIFY => {
            own_signals(cx, &file);
            vfs::dnotify::set(&file, fd, arg as u32).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn set_flags(cx: &Cx<'_>, fd: i32, file: &Arc<File>, arg: u32) -> Result<usize> {
    let old = file.flags();
    if old & O_APPEND != 0 && arg & O_APPEND == 0 && file.inode().has(vfs::InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    if arg & O_NOATIME != 0
        && old & O_NOATIME == 0
        && !vfs::perm::is_owner_or_capable(file.inode(), &cx.task.creds())
    {
        return Err(Errno::EPERM);
    }
    file.ops().set_flags(file, (old & !SETTABLE) | (arg & SETTABLE))?;
    if (old ^ arg) & O_ASYNC != 0 {
        vfs::sigio::set_async(file, fd, arg & O_ASYNC != 0);
    }
    file.replace_flags(SETTABLE, arg);
    Ok(0)
}

/// The bytes and the kind a `struct flock` means; `None` is `F_UNLCK`.
fn decode(
    cx: &Cx<'_>,
    file: &File,
    lock: &Flock,
    owner: Owner,
) -> Result<(RecordLock, Option<LockKind>)> {
    let base = match u32::from(lock.l_whence as u16) {
        SEEK_SET => 0,
        SEEK_CUR => file.position().now() as i64,
        SEEK_END => file.inode().size() as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(lock.l_start).ok_or(Errno::EOVERFLOW)?;
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    let (start, end) = match lock.l_len {
        0 => (start, i64::MAX),
        len @ 1.. => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        // man 2 fcntl: a negative length covers the bytes before.
        len => {
            let first = start.checked_add(len).filter(|s| *s >= 0).ok_or(Errno::EINVAL)?;
            (first, start - 1)
        }
    };
    let kind = match lock.l_type {
        F_RDLCK => Some(LockKind::Read),
        F_WRLCK => Some(LockKind::Write),
        F_UNLCK => None,
        _ => return Err(Errno::EINVAL),
    };
    let pid = if matches!(owner, Owner::Table(_)) { cx.task.group.tgid() } else { -1 };
    let record = RecordLock {
        start: start as u64,
        end: end as u64,
        kind: kind.unwrap_or(LockKind::Read),
        owner,
        pid,
    };
    Ok((record, kind))
}

fn lock_owner(file: &File, ofd: bool, table: u64, lock: &Flock) -> Result<Owner> {
    if !ofd {
        return Ok(Owner::Table(table));
    }
    // man 2 fcntl: `l_pid` must be zero.
    if lock.l_pid != 0 { Err(Errno::EINVAL) } else { Ok(file.lock_owner()) }
}

fn get_lock(cx: &Cx<'_>, file: &File, ofd: bool, at: VirtAddr, table: u64) -> Result<usize> {
    let mut lock: Flock = user::read_val(at)?;
    let owner = lock_owner(file, ofd, table, &lock)?;
    let (wanted, kind) = decode(cx, file, &lock, owner)?;
    kind.ok_or(Errno::EINVAL)?;
    match locks::test_record(file.inode(), &wanted) {
        None => lock.l_type = F_UNLCK,
        Some(found) => {
            lock.l_type = if found.kind == LockKind::Read { F_RDLCK } else { F_WRLCK };
            lock.l_whence = 0;
            lock.l_start = found.start as i64;
            let open_end = found.end == i64::MAX as u64;
            lock.l_len = if open_end { 0 } else { (found.end - found.start + 1) as i64 };
            lock.l_pid = found.pid;
        }
    }
    user::write_val(at, &lock)?;
    Ok(0)
}

fn set_lock(
    cx: &Cx<'_>,
    file: &File,
    ofd: bool,
    at: VirtAddr,
    wait: Wait,
    table: u64,
) -> Result<usize> {
    let lock: Flock = user::read_val(at)?;
    let owner = lock_owner(file, ofd, table, &lock)?;
    let (wanted, kind) = decode(cx, file, &lock, owner)?;
    match kind {
        None => locks::unlock_record(file.inode(), &wanted),
        Some(LockKind::Read) if !file.can_read() => return Err(Errno::EBADF),
        Some(LockKind::Write) if !file.can_write() => return Err(Errno::EBADF),
        Some(_) => locks::set_record(file.inode(), wanted, wait)?,
    }
    Ok(0)
}

/// Signals of a lease or a directory go to the caller unless somebody was named.
fn own_signals(cx: &Cx<'_>, file: &File) {
    let owner = file.signal_owner().unwrap_or_default();
    if owner.id == 0 {
        let creds = cx.task.creds();
        let uids = (creds.uid, creds.euid);
        let id = cx.task.group.pid().global();
        file.set_signal_owner(Some(SignalOwner { kind: F_OWNER_PID, id, uids, ..owner }));
    }
}

/// The number in the initial namespace of who has this one in the caller's; 0 names nobody.
fn global_id(cx: &Cx<'_>, kind: i32, id: i32) -> Result<i32> {
    if id == 0 {
        return Ok(0);
    }
    let found = cx.task.group.pid_ns().find(id);
    let pid = found.filter(|pid| kind != F_OWNER_PGRP || pid.is_process_group());
    Ok(pid.ok_or(Errno::ESRCH)?.global())
}

/// The number in the caller's namespace of who has this one in the initial; 0 where there is none.
fn local_id(cx: &Cx<'_>, id: i32) -> i32 {
    let pid = process::pid::PidNamespace::initial().find(id);
    pid.map_or(0, |pid| pid.number_in(cx.task.group.pid_ns()))
}

/// `FIOSETOWN` and its relatives of sockets: `F_SETOWN` and `F_GETOWN` through memory.
pub(crate) fn socket_owner(cx: &Cx<'_>, file: &File, cmd: u32, at: VirtAddr) -> Result<usize> {
    use abi::socket::{FIOSETOWN, SIOCSPGRP};
    if matches!(cmd, FIOSETOWN | SIOCSPGRP) {
        let id: i32 = user::read_val(at)?;
        return owner(cx, file, F_SETOWN, id as u64);
    }
    let id = owner(cx, file, F_GETOWN, 0)? as i32;
    user::write_val(at, &id)?;
    Ok(0)
}

fn owner(cx: &Cx<'_>, file: &File, cmd: u32, arg: u64) -> Result<usize> {
    let creds = cx.task.creds();
    let mut owner = file.signal_owner().unwrap_or_default();
    let ids = (creds.uid, creds.euid);
    match cmd {
        F_SETOWN => {
            let id = arg as i32;
            let kind = if id < 0 { F_OWNER_PGRP } else { F_OWNER_PID };
            let id = global_id(cx, kind, id.checked_abs().ok_or(Errno::EINVAL)?)?;
            file.set_signal_owner(Some(SignalOwner { kind, id, uids: ids, ..owner }));
            Ok(0)
        }
        F_GETOWN => {
            let id = local_id(cx, owner.id);
            let id = if owner.kind == F_OWNER_PGRP { -id } else { id };
            Ok(id as isize as usize)
        }
        F_SETOWN_EX => {
            let new: FOwnerEx = user::read_val(VirtAddr(arg))?;
            if !(F_OWNER_TID..=F_OWNER_PGRP).contains(&new.kind) {
                return Err(Errno::EINVAL);
            }
            let id = global_id(cx, new.kind, new.pid)?;
            owner = SignalOwner { kind: new.kind, id, uids: ids, ..owner };
            file.set_signal_owner(Some(owner));
            Ok(0)
        }
        F_GETOWN_EX => {
            user::write_val(
                VirtAddr(arg),
                &FOwnerEx { kind: owner.kind, pid: local_id(cx, owner.id) },
            )?;
            Ok(0)
        }
        F_SETSIG => {
            if arg > 64 {
                return Err(Errno::EINVAL);
            }
            owner.signal = arg as u32;
            file.set_signal_owner(Some(owner));
            Ok(0)
        }
        F_GETSIG => Ok(owner.signal as usize),
        _ => {
            user::write_val(VirtAddr(arg), &[owner.uids.0, owner.uids.1])?;
            Ok(0)
        }
    }
}
