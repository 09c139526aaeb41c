//! What an inode says of itself: stat, access, and changes of mode, owner and times.

use crate::Cx;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::stat::*;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use vfs::ops::{self, AccessMode, NewTime};
use vfs::{Attr, Context, Path, Walk};

crate::syscalls! {
    4 stat => sys_stat(path: Path, buf: Hex);
    5 fstat => sys_fstat(fd: Fd, buf: Hex);
    6 lstat => sys_lstat(path: Path, buf: Hex);
    21 access => sys_access(path: Path, mode: Dec);
    90 chmod => sys_chmod(path: Path, mode: Oct);
    91 fchmod => sys_fchmod(fd: Fd, mode: Oct);
    92 chown => sys_chown(path: Path, uid: Dec, gid: Dec);
    93 fchown => sys_fchown(fd: Fd, uid: Dec, gid: Dec);
    94 lchown => sys_lchown(path: Path, uid: Dec, gid: Dec);
    132 utime => sys_utime(path: Path, times: Hex);
    235 utimes => sys_utimes(path: Path, times: Hex);
    260 fchownat => sys_fchownat(dir: At, path: Path, uid: Dec, gid: Dec, flags: Hex);
    261 futimesat => sys_futimesat(dir: At, path: Path, times: Hex);
    262 newfstatat => sys_newfstatat(dir: At, path: Path, buf: Hex, flags: Hex);
    268 fchmodat => sys_fchmodat(dir: At, path: Path, mode: Oct);
    269 faccessat => sys_faccessat(dir: At, path: Path, mode: Dec);
    280 utimensat => sys_utimensat(dir: At, path: Path, times: Hex, flags: Hex);
    332 statx => sys_statx(dir: At, path: Path, flags: Hex, mask: Hex, buf: Hex);
    439 faccessat2 => sys_faccessat2(dir: At, path: Path, mode: Dec, flags: Hex);
}

fn write_stat(attr: &Attr, cx: &Cx<'_>, buf: VirtAddr) -> Result<usize> {
    let ns = &cx.task.creds().user_ns;
    let stat = Stat {
        st_dev: attr.dev.encode(),
        st_ino: attr.ino,
        st_nlink: u64::from(attr.nlink),
        st_mode: attr.mode,
        st_uid: ns.uid_in(attr.uid),
        st_gid: ns.gid_in(attr.gid),
        st_rdev: attr.rdev.encode(),
        st_size: attr.size as i64,
        st_blksize: i64::from(attr.blksize),
        st_blocks: attr.blocks as i64,
        st_atime: attr.atime.sec,
        st_atime_nsec: i64::from(attr.atime.nsec),
        st_mtime: attr.mtime.sec,
        st_mtime_nsec: i64::from(attr.mtime.nsec),
        st_ctime: attr.ctime.sec,
        st_ctime_nsec: i64::from(attr.ctime.nsec),
        ..Stat::default()
    };
    user::write_val(buf, &stat)?;
    Ok(0)
}

fn stat_at(cx: &Cx<'_>, dir: i32, path: VirtAddr, buf: VirtAddr, flags: Walk) -> Result<usize> {
    let ctx = context(cx);
    let path = resolve(cx, &ctx.get(), dir, path, flags)?;
    write_stat(&path.inode()?.attr()?, cx, buf)
}

/// `stat(2)`.
fn sys_stat(cx: &mut Cx<'_>, path: VirtAddr, buf: VirtAddr) -> Result<usize> {
    stat_at(cx, AT_FDCWD, path, buf, Walk::FOLLOW)
}

/// `lstat(2)`.
fn sys_lstat(cx: &mut Cx<'_>, path: VirtAddr, buf: VirtAddr) -> Result<usize> {
    stat_at(cx, AT_FDCWD, path, buf, Walk::empty())
}

/// `fstat(2)`.
fn sys_fstat(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr) -> Result<usize> {
    write_stat(&any_file(cx, fd)?.inode().attr()?, cx, buf)
}

/// `fstatat(2)`.
fn sys_newfstatat(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    buf: VirtAddr,
    flags: u32,
) -> Result<usize> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    stat_at(cx, dir, path, buf, at_flags(flags))
}

/// `statx(2)`.
fn sys_statx(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    flags: u32,
    mask: u32,
    buf: VirtAddr,
) -> Result<usize> {
    check_statx(flags, mask)?;
    let ctx = context(cx);
    let path = resolve(cx, &ctx.get(), dir, path, at_flags(flags))?;
    user::write_val(buf, &statx_of(&path, &ctx.creds.user_ns)?)?;
    Ok(0)
}

/// Whether `statx(2)` takes these.
pub(crate) fn check_statx(flags: u32, mask: u32) -> Result<()> {
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if flags & !known != 0
        || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE
        || mask & STATX_RESERVED != 0
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// What `statx(2)` says of a file to those in a user namespace.
pub(crate) fn statx_of(path: &vfs::Path, ns: &vfs::cred::UserNamespace) -> Result<Statx> {
    let attr = path.inode()?.attr()?;
    let time = |t: vfs::Time| StatxTime { tv_sec: t.sec, tv_nsec: t.nsec, reserved: 0 };
    Ok(Statx {
        stx_mask: STATX_BASIC_STATS | if attr.btime.is_some() { STATX_BTIME } else { 0 },
        stx_blksize: attr.blksize,
        stx_attributes: attr.attributes,
        stx_nlink: attr.nlink,
        stx_uid: ns.uid_in(attr.uid),
        stx_gid: ns.gid_in(attr.gid),
        stx_mode: attr.mode as u16,
        stx_ino: attr.ino,
        stx_size: attr.size,
        stx_blocks: attr.blocks,
        stx_attributes_mask: attr.attributes_mask | STATX_ATTR_AUTOMOUNT,
        stx_atime: time(attr.atime),
        stx_btime: time(attr.btime.unwrap_or_default()),
        stx_ctime: time(attr.ctime),
        stx_mtime: time(attr.mtime),
        stx_rdev_major: attr.rdev.major(),
        stx_rdev_minor: attr.rdev.minor(),
        stx_dev_major: attr.dev.major(),
        stx_dev_minor: attr.dev.minor(),
        ..Statx::default()
    })
}

fn access_at(cx: &Cx<'_>, dir: i32, path: VirtAddr, mode: u32, flags: u32) -> Result<usize> {
    if mode & !7 != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let hold = context(cx);
    let mut ctx = hold.get();
    let as_who = if flags & AT_EACCESS != 0 { AccessMode::Effective } else { AccessMode::Real };
    let real;
    if as_who == AccessMode::Real {
        real = Arc::new(real_creds(&hold.creds));
        ctx.creds = &real;
    }
    let path = resolve(cx, &ctx, dir, path, at_flags(flags))?;
    ops::access(&ctx, &path, mode).map(|()| 0)
}

/// Whom `access(2)` asks for: the real ids; root by them keeps its permitted capabilities.
fn real_creds(creds: &vfs::Creds) -> vfs::Creds {
    let mut real = creds.clone();
    real.fsuid = real.uid;
    real.fsgid = real.gid;
    const SECBIT_NO_SETUID_FIXUP: u32 = 4;
    if real.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
        real.effective = if real.uid == 0 { real.permitted } else { vfs::CapSet::EMPTY };
    }
    real
}

/// `access(2)`.
fn sys_access(cx: &mut Cx<'_>, path: VirtAddr, mode: u32) -> Result<usize> {
    access_at(cx, AT_FDCWD, path, mode, 0)
}

/// `faccessat(2)`: the system call has no flags.
fn sys_faccessat(cx: &mut Cx<'_>, dir: i32, path: VirtAddr, mode: u32) -> Result<usize> {
    access_at(cx, dir, path, mode, 0)
}

/// `faccessat2(2)`.
fn sys_faccessat2(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    mode: u32,
    flags: u32,
) -> Result<usize> {
    access_at(cx, dir, path, mode, flags)
}

/// `chmod(2)`.
fn sys_chmod(cx: &mut Cx<'_>, path: VirtAddr, mode: u32) -> Result<usize> {
    sys_fchmodat(cx, AT_FDCWD, path, mode)
}

/// `fchmodat(2)`: the system call has no flags.
fn sys_fchmodat(cx: &mut Cx<'_>, dir: i32, path: VirtAddr, mode: u32) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = resolve(cx, &ctx, dir, path, Walk::FOLLOW)?;
    ops::chmod(&ctx, &path, mode).map(|()| 0)
}

/// `fchmod(2)`.
fn sys_fchmod(cx: &mut Cx<'_>, fd: i32, mode: u32) -> Result<usize> {
    let file = file(cx, fd)?;
    let ctx = context(cx);
    ops::chmod(&ctx.get(), &file.path, mode).map(|()| 0)
}

/// Changes owner and group; -1 leaves one as it is.
fn chown(ctx: &Context<'_>, path: &Path, uid: u32, gid: u32) -> Result<usize> {
    let ns = &ctx.creds.user_ns;
    let uid = if uid == u32::MAX { None } else { Some(ns.uid_out(uid)?) };
    let gid = if gid == u32::MAX { None } else { Some(ns.gid_out(gid)?) };
    ops::chown(ctx, path, uid, gid).map(|()| 0)
}

fn chown_at(
    cx: &Cx<'_>,
    dir: i32,
    path: VirtAddr,
    uid: u32,
    gid: u32,
    flags: Walk,
) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = resolve(cx, &ctx, dir, path, flags)?;
    chown(&ctx, &path, uid, gid)
}

/// `chown(2)`.
fn sys_chown(cx: &mut Cx<'_>, path: VirtAddr, uid: u32, gid: u32) -> Result<usize> {
    chown_at(cx, AT_FDCWD, path, uid, gid, Walk::FOLLOW)
}

/// `lchown(2)`.
fn sys_lchown(cx: &mut Cx<'_>, path: VirtAddr, uid: u32, gid: u32) -> Result<usize> {
    chown_at(cx, AT_FDCWD, path, uid, gid, Walk::empty())
}

/// `fchown(2)`.
fn sys_fchown(cx: &mut Cx<'_>, fd: i32, uid: u32, gid: u32) -> Result<usize> {
    let file = file(cx, fd)?;
    let ctx = context(cx);
    chown(&ctx.get(), &file.path, uid, gid)
}

/// `fchownat(2)`.
fn sys_fchownat(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    uid: u32,
    gid: u32,
    flags: u32,
) -> Result<usize> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    chown_at(cx, dir, path, uid, gid, at_flags(flags))
}

const NOW: (NewTime, NewTime) = (NewTime::Now, NewTime::Now);

/// Sets the times of a path, or of an open file if there is no path.
fn times_at(
    cx: &Cx<'_>,
    dir: i32,
    path: VirtAddr,
    flags: Walk,
    times: impl FnOnce() -> Result<(NewTime, NewTime)>,
) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = if path.0 == 0 && dir != AT_FDCWD {
        file(cx, dir)?.path.clone()
    } else {
        resolve(cx, &ctx, dir, path, flags)?
    };
    let (accessed, modified) = times()?;
    ops::set_times(&ctx, &path, accessed, modified).map(|()| 0)
}

/// `utimensat(2)`.
fn sys_utimensat(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    times: VirtAddr,
    flags: u32,
) -> Result<usize> {
    let read = || user::read_val::<[i64; 4]>(times);
    let given = if times.is_null() { None } else { Some(read()?) };
    // Whether the times are possible is looked at when the file is known.
    let pair = || match given {
        None => Ok(NOW),
        Some([s0, n0, s1, n1]) => Ok((ops::check_times(s0, n0)?, ops::check_times(s1, n1)?)),
    };
    if pair() == Ok((NewTime::Omit, NewTime::Omit)) {
        return Ok(0);
    }
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    times_at(cx, dir, path, at_flags(flags), pair)
}

/// Two `struct timeval`s.
fn timevals(times: VirtAddr) -> Result<(NewTime, NewTime)> {
    if times.0 == 0 {
        return Ok(NOW);
    }
    let [s0, u0, s1, u1]: [i64; 4] = user::read_val(times)?;
    let one = |sec: i64, usec: i64| {
        if !(0..1_000_000).contains(&usec) {
            return Err(Errno::EINVAL);
        }
        ops::check_times(sec, usec * 1000)
    };
    Ok((one(s0, u0)?, one(s1, u1)?))
}

/// `utimes(2)`.
fn sys_utimes(cx: &mut Cx<'_>, path: VirtAddr, times: VirtAddr) -> Result<usize> {
    sys_futimesat(cx, AT_FDCWD, path, times)
}

/// `futimesat(2)`.
fn sys_futimesat(cx: &mut Cx<'_>, dir: i32, path: VirtAddr, times: VirtAddr) -> Result<usize> {
    let pair = timevals(times)?;
    times_at(cx, dir, path, Walk::FOLLOW, || Ok(pair))
}

/// `utime(2)`.
fn sys_utime(cx: &mut Cx<'_>, path: VirtAddr, times: VirtAddr) -> Result<usize> {
    let pair = if times.0 == 0 {
        NOW
    } else {
        let [access, modification]: [i64; 2] = user::read_val(times)?;
        (ops::check_times(access, 0)?, ops::check_times(modification, 0)?)
    };
    times_at(cx, AT_FDCWD, path, Walk::FOLLOW, || Ok(pair))
}
