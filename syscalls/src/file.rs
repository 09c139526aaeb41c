//! Calls on open descriptors: read, write, seek, dup, ioctl, sync, allocation and the rest.

use crate::Cx;
use crate::direct;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::process::Resource;
use abi::socket::{FIOGETOWN, FIOSETOWN, SIOCGPGRP, SIOCSPGRP};
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::uio::{Sink, Source};
use arch::user;
use vfs::Direction::{Read, Write};
use vfs::rw::{self, At};
use vfs::{Cap, CloseOnExec, FileKind};

crate::syscalls! {
    0 read => sys_read(fd: Fd, buf: Hex, count: Dec);
    1 write => sys_write(fd: Fd, buf: Data, count: Dec);
    3 close => sys_close(fd: Fd);
    8 lseek => sys_lseek(fd: Fd, offset: Dec, whence: Dec);
    16 ioctl => sys_ioctl(fd: Fd, cmd: Hex, arg: Hex);
    17 pread64 => sys_pread(fd: Fd, buf: Hex, count: Dec, pos: Dec);
    18 pwrite64 => sys_pwrite(fd: Fd, buf: Data, count: Dec, pos: Dec);
    19 readv => sys_readv(fd: Fd, iov: Hex, count: Dec);
    20 writev => sys_writev(fd: Fd, iov: Hex, count: Dec);
    32 dup => sys_dup(fd: Fd);
    33 dup2 => sys_dup2(old: Fd, new: Fd);
    436 close_range => sys_close_range(first: Dec, last: Dec, flags: Hex);
    72 fcntl => sys_fcntl(fd: Fd, cmd: Dec, arg: Hex);
    73 flock => sys_flock(fd: Fd, operation: Dec);
    74 fsync => sys_fsync(fd: Fd);
    75 fdatasync => sys_fdatasync(fd: Fd);
    77 ftruncate => sys_ftruncate(fd: Fd, length: Dec);
    187 readahead => sys_readahead(fd: Fd, offset: Dec, count: Dec);
    221 fadvise64 => sys_fadvise64(fd: Fd, offset: Dec, len: Dec, advice: Dec);
    277 sync_file_range => sys_sync_file_range(fd: Fd, offset: Dec, bytes: Dec, flags: Hex);
    285 fallocate => sys_fallocate(fd: Fd, mode: Hex, offset: Dec, len: Dec);
    292 dup3 => sys_dup3(old: Fd, new: Fd, flags: Hex);
    295 preadv => sys_preadv(fd: Fd, iov: Hex, count: Dec, pos: Dec);
    296 pwritev => sys_pwritev(fd: Fd, iov: Hex, count: Dec, pos: Dec);
    327 preadv2 => sys_preadv2(fd: Fd, iov: Hex, count: Dec, pos: Dec, high: Dec, flags: Hex);
    328 pwritev2 => sys_pwritev2(fd: Fd, iov: Hex, count: Dec, pos: Dec, high: Dec, flags: Hex);
}

/// A position from a register: negative ones are `EINVAL`.
pub(crate) fn offset(pos: i64) -> Result<At> {
    u64::try_from(pos).map(At::Offset).map_err(|_| Errno::EINVAL)
}

/// `read(2)`.
fn sys_read(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: usize) -> Result<usize> {
    let file = file(cx, fd)?;
    // A descriptor that cannot be read tells so before the buffer is looked at.
    rw::check_read(&file, At::Position)?;
    if let Some(result) = direct::one(cx, &file, At::Position, (buf, count), Read) {
        return result;
    }
    rw::read(&file, At::Position, &mut sink(buf, count)?)
}

/// `write(2)`.
fn sys_write(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: usize) -> Result<usize> {
    let file = file(cx, fd)?;
    rw::check_write(&file, At::Position)?;
    if let Some(result) = direct::one(cx, &file, At::Position, (buf, count), Write) {
        return result;
    }
    rw::write(cx.task, &file, At::Position, &mut source(buf, count)?, 0)
}

/// `pread(2)`.
fn sys_pread(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: usize, pos: i64) -> Result<usize> {
    let at = offset(pos)?;
    let file = file(cx, fd)?;
    rw::check_read(&file, at)?;
    if let Some(result) = direct::one(cx, &file, at, (buf, count), Read) {
        return result;
    }
    rw::read(&file, at, &mut sink(buf, count)?)
}

/// `pwrite(2)`.
fn sys_pwrite(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: usize, pos: i64) -> Result<usize> {
    let at = offset(pos)?;
    let file = file(cx, fd)?;
    rw::check_write(&file, at)?;
    if let Some(result) = direct::one(cx, &file, at, (buf, count), Write) {
        return result;
    }
    rw::write(cx.task, &file, at, &mut source(buf, count)?, 0)
}

fn read_vector(
    cx: &Cx<'_>,
    fd: i32,
    iov: VirtAddr,
    count: usize,
    at: At,
    rwf: u32,
) -> Result<usize> {
    let file = file(cx, fd)?;
    let allowed = rw::check_read(&file, at);
    let list = vector(allowed, iov, count)?;
    if list.iter().all(|segment| segment.len == 0) {
        return Ok(0);
    }
    check_rwf(rwf)?;
    if let Some(result) = direct::many(cx, &file, at, &list, Read) {
        return result;
    }
    rw::read(&file, at, &mut Sink::user_segments(&list))
}

fn write_vector(
    cx: &Cx<'_>,
    fd: i32,
    iov: VirtAddr,
    count: usize,
    at: At,
    rwf: u32,
) -> Result<usize> {
    let file = file(cx, fd)?;
    let allowed = rw::check_write(&file, at);
    let list = vector(allowed, iov, count)?;
    if list.iter().all(|segment| segment.len == 0) {
        return Ok(0);
    }
    check_rwf(rwf)?;
    if rwf == 0
        && let Some(result) = direct::many(cx, &file, at, &list, Write)
    {
        return result;
    }
    rw::write(cx.task, &file, at, &mut Source::user_segments(&list), rwf)
}

/// `readv(2)`.
fn sys_readv(cx: &mut Cx<'_>, fd: i32, iov: VirtAddr, count: usize) -> Result<usize> {
    read_vector(cx, fd, iov, count, At::Position, 0)
}

/// `writev(2)`.
fn sys_writev(cx: &mut Cx<'_>, fd: i32, iov: VirtAddr, count: usize) -> Result<usize> {
    write_vector(cx, fd, iov, count, At::Position, 0)
}

/// `preadv(2)`.
fn sys_preadv(cx: &mut Cx<'_>, fd: i32, iov: VirtAddr, count: usize, pos: i64) -> Result<usize> {
    read_vector(cx, fd, iov, count, offset(pos)?, 0)
}

/// `pwritev(2)`.
fn sys_pwritev(cx: &mut Cx<'_>, fd: i32, iov: VirtAddr, count: usize, pos: i64) -> Result<usize> {
    write_vector(cx, fd, iov, count, offset(pos)?, 0)
}

/// Position of the `…v2` calls: -1 is the file's own.
fn offset2(pos: i64) -> Result<At> {
    if pos == -1 { Ok(At::Position) } else { offset(pos) }
}

fn check_rwf(flags: u32) -> Result<()> {
    // `RWF_NOWAIT` would need a promise not to sleep that reads from a disk do not make.
    if flags & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(())
}

/// `preadv2(2)`; `RWF_NOWAIT` is `EOPNOTSUPP`.
fn sys_preadv2(
    cx: &mut Cx<'_>,
    fd: i32,
    iov: VirtAddr,
    count: usize,
    pos: i64,
    _high: u64,
    flags: u32,
) -> Result<usize> {
    read_vector(cx, fd, iov, count, offset2(pos)?, flags)
}

/// `pwritev2(2)`; `RWF_NOWAIT` is `EOPNOTSUPP`.
fn sys_pwritev2(
    cx: &mut Cx<'_>,
    fd: i32,
    iov: VirtAddr,
    count: usize,
    pos: i64,
    _high: u64,
    flags: u32,
) -> Result<usize> {
    write_vector(cx, fd, iov, count, offset2(pos)?, flags)
}

/// `close(2)`.
fn sys_close(cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    files(cx)?.close(fd).map(|()| 0)
}

/// `close_range(2)` of Linux 5.9, which newer C libraries call.
fn sys_close_range(cx: &mut Cx<'_>, first: u32, last: u32, flags: u32) -> Result<usize> {
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        process::namespaces::unshare(cx.task, abi::process::clone::FILES)?;
    }
    let files = files(cx)?;
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        files.close_range_on_exec(first, last);
    } else {
        files.close_range(first, last);
    }
    Ok(0)
}

/// `lseek(2)`.
fn sys_lseek(cx: &mut Cx<'_>, fd: i32, offset: i64, whence: u32) -> Result<usize> {
    Ok(vfs::seek::lseek(&*file(cx, fd)?, offset, whence)? as usize)
}

/// `dup(2)`.
fn sys_dup(cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    let file = any_file(cx, fd)?;
    install(cx, file, CloseOnExec::No)
}

fn replace(cx: &Cx<'_>, old: i32, new: i32, cloexec: CloseOnExec) -> Result<usize> {
    let table = files(cx)?;
    let file = table.get_any(old)?;
    let new = u32::try_from(new).map_err(|_| Errno::EBADF)?;
    table.replace(new, file, cx.task.limit(Resource::Nofile), cloexec)?;
    Ok(new as usize)
}

/// `dup2(2)`.
fn sys_dup2(cx: &mut Cx<'_>, old: i32, new: i32) -> Result<usize> {
    if old == new {
        any_file(cx, old)?;
        return Ok(new as usize);
    }
    replace(cx, old, new, CloseOnExec::No)
}

/// `dup3(2)`.
fn sys_dup3(cx: &mut Cx<'_>, old: i32, new: i32, flags: u32) -> Result<usize> {
    if flags & !O_CLOEXEC != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    replace(cx, old, new, CloseOnExec::from_flags(flags, O_CLOEXEC))
}

const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const FIOQSIZE: u32 = 0x5460;
const FIBMAP: u32 = 1;
const FIGETBSZ: u32 = 2;
const FICLONE: u32 = 0x4004_9409;
const FICLONERANGE: u32 = 0x4020_940d;
/// Mandatory locks of `flock(2)`, which do nothing.
const LOCK_MAND: u32 = 32;

/// `ioctl(2)`: what every file knows; the rest is the file's own.
fn sys_ioctl(cx: &mut Cx<'_>, fd: i32, cmd: u32, arg: usize) -> Result<usize> {
    let table = files(cx)?;
    let file = table.get(fd)?;
    let at = VirtAddr(arg as u64);
    let toggle = |bit: u32| -> Result<usize> {
        let on = user::read_val::<i32>(at)? != 0;
        let value = if on { bit } else { 0 };
        file.ops().set_flags(&file, (file.flags() & !bit) | value)?;
        if bit == O_ASYNC && (file.flags() ^ value) & bit != 0 {
            vfs::sigio::set_async(&file, fd, value != 0);
        }
        file.replace_flags(bit, value);
        Ok(0)
    };
    match cmd {
        FIOCLEX => table.set_cloexec(fd, CloseOnExec::Yes).map(|()| 0),
        FIONCLEX => table.set_cloexec(fd, CloseOnExec::No).map(|()| 0),
        FIONBIO => toggle(O_NONBLOCK),
        FIOASYNC => toggle(O_ASYNC),
        FIONREAD if file.inode().kind == FileKind::Regular => {
            let left = file.inode().size().saturating_sub(file.position().now());
            user::write_val(at, &(left as i32))?;
            Ok(0)
        }
        FIOQSIZE if matches!(file.inode().kind, FileKind::Regular | FileKind::Directory) => {
            user::write_val(at, &file.inode().size())?;
            Ok(0)
        }
        FIBMAP if file.inode().kind == FileKind::Regular => {
            cx.task.creds().require(Cap::SYS_RAWIO)?;
            // No file system tells where its blocks are.
            Err(Errno::EINVAL)
        }
        FIGETBSZ => {
            user::write_val(at, &file.inode().sb().block_size)?;
            Ok(0)
        }
        FICLONE => clone_range(cx, &file, arg as i32),
        FICLONERANGE => {
            let range: [u64; 4] = user::read_val(at)?;
            clone_range(cx, &file, range[0] as i32)
        }
        FIOSETOWN | SIOCSPGRP | FIOGETOWN | SIOCGPGRP if socket::socket_of(&file).is_ok() => {
            crate::fcntl::socket_owner(cx, &file, cmd, at)
        }
        _ => {
            let ctx = context(cx);
            match file.ops().ioctl(&file, &ctx.get(), cmd, arg) {
                Err(Errno::ENOIOCTLCMD) => Err(Errno::ENOTTY),
                other => other,
            }
        }
    }
}

/// `ioctl_ficlonerange(2)`: no file system shares blocks between files, so that what is allowed is
/// not supported.
fn clone_range(cx: &Cx<'_>, to: &vfs::File, from: i32) -> Result<usize> {
    let from = crate::file::file(cx, from)?;
    let (source, target) = (from.inode(), to.inode());
    if source.is_dir() || target.is_dir() {
        return Err(Errno::EISDIR);
    }
    if source.kind != FileKind::Regular || target.kind != FileKind::Regular {
        return Err(Errno::EINVAL);
    }
    if !from.can_read() || !to.can_write() || to.flags() & O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    if !alloc::sync::Arc::ptr_eq(source.sb(), target.sb()) {
        return Err(Errno::EXDEV);
    }
    Err(Errno::EOPNOTSUPP)
}

/// `fcntl(2)`.
fn sys_fcntl(cx: &mut Cx<'_>, fd: i32, cmd: u32, arg: u64) -> Result<usize> {
    crate::fcntl::fcntl(cx, fd, cmd, arg)
}

/// `flock(2)`.
fn sys_flock(cx: &mut Cx<'_>, fd: i32, operation: u32) -> Result<usize> {
    use vfs::locks::{self, Wait};
    if operation & LOCK_MAND != 0 {
        return Ok(0);
    }
    let kind = operation & !LOCK_NB;
    if !matches!(kind, LOCK_UN | LOCK_SH | LOCK_EX) {
        return Err(Errno::EINVAL);
    }
    let file = file(cx, fd)?;
    let wait = if operation & LOCK_NB != 0 { Wait::No } else { Wait::Yes };
    match kind {
        LOCK_UN => locks::unlock_flock(&file),
        kind @ (LOCK_SH | LOCK_EX) => {
            let pid = cx.task.group.tgid();
            locks::flock(&file, kind, pid, wait)?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn sync(cx: &Cx<'_>, fd: i32, data_only: bool) -> Result<usize> {
    rw::fsync(&*file(cx, fd)?, 0..u64::MAX, data_only).map(|()| 0)
}

/// `fsync(2)`.
fn sys_fsync(cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    sync(cx, fd, false)
}

/// `fdatasync(2)`.
fn sys_fdatasync(cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    sync(cx, fd, true)
}

/// `sync_file_range(2)`: writes the range's data.
fn sys_sync_file_range(
    cx: &mut Cx<'_>,
    fd: i32,
    offset: i64,
    bytes: i64,
    flags: u32,
) -> Result<usize> {
    let known = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    let file = file(cx, fd)?;
    if flags & !known != 0 || offset < 0 || bytes < 0 {
        return Err(Errno::EINVAL);
    }
    let end = if bytes == 0 { i64::MAX } else { offset.checked_add(bytes).ok_or(Errno::EINVAL)? };
    match file.inode().kind {
        FileKind::Regular | FileKind::BlockDevice | FileKind::Directory | FileKind::Symlink => {}
        _ => return Err(Errno::ESPIPE),
    }
    if flags & SYNC_FILE_RANGE_WRITE != 0 {
        rw::fsync(&file, offset as u64..end as u64, true)?;
    }
    Ok(0)
}

/// `ftruncate(2)`.
fn sys_ftruncate(cx: &mut Cx<'_>, fd: i32, length: i64) -> Result<usize> {
    let length = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    let file = file(cx, fd)?;
    let ctx = context(cx);
    vfs::ops::truncate_file(&ctx.get(), &file, length).map(|()| 0)
}

/// `fallocate(2)`.
fn sys_fallocate(cx: &mut Cx<'_>, fd: i32, mode: u32, offset: i64, len: i64) -> Result<usize> {
    let file = file(cx, fd)?;
    let ctx = context(cx);
    rw::fallocate(&ctx.get(), &file, mode, offset, len).map(|()| 0)
}

/// `readahead(2)`.
fn sys_readahead(cx: &mut Cx<'_>, fd: i32, offset: i64, count: usize) -> Result<usize> {
    let file = file(cx, fd)?;
    if !file.can_read() {
        return Err(Errno::EBADF);
    }
    if !matches!(file.inode().kind, FileKind::Regular | FileKind::BlockDevice) {
        return Err(Errno::EINVAL);
    }
    // A length beyond what an offset can be is wrong; an offset there has nothing to read.
    if count > i64::MAX as usize {
        return Err(Errno::EINVAL);
    }
    let Ok(start) = u64::try_from(offset) else { return Ok(0) };
    file.ops().advise(&file, start..start.saturating_add(count as u64), 3)?;
    Ok(0)
}

/// `posix_fadvise(2)`.
fn sys_fadvise64(cx: &mut Cx<'_>, fd: i32, offset: i64, len: i64, advice: u32) -> Result<usize> {
    let file = file(cx, fd)?;
    if file.inode().kind == FileKind::Fifo {
        return Err(Errno::ESPIPE);
    }
    if advice > 5 || len < 0 {
        return Err(Errno::EINVAL);
    }
    let start = offset.max(0) as u64;
    let end = if len == 0 { u64::MAX } else { start.saturating_add(len as u64) };
    file.ops().advise(&file, start..end, advice)?;
    Ok(0)
}
