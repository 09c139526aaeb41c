//! Calls that take names: open, stat, make, remove, rename, links, permissions, times, xattrs.

use crate::Cx;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::process::Resource;
use abi::stat::*;
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::VirtAddr;
use arch::user;
use vfs::ops::{self, AccessMode, NewTime};
use vfs::{
    Attr, CloseOnExec, Context, DeviceNumber, FileKind, FileMode, OpenHow, Path, RenameFlags, Walk,
};

crate::syscalls! {
    2 open => sys_open(path: Path, flags: OpenFlags, mode: Oct);
    4 stat => sys_stat(path: Path, buf: Hex);
    5 fstat => sys_fstat(fd: Fd, buf: Hex);
    6 lstat => sys_lstat(path: Path, buf: Hex);
    21 access => sys_access(path: Path, mode: Dec);
    76 truncate => sys_truncate(path: Path, length: Dec);
    78 getdents => sys_getdents(fd: Fd, buf: Hex, count: Dec);
    79 getcwd => sys_getcwd(buf: Hex, size: Dec);
    80 chdir => sys_chdir(path: Path);
    81 fchdir => sys_fchdir(fd: Fd);
    82 rename => sys_rename(old: Path, new: Path);
    83 mkdir => sys_mkdir(path: Path, mode: Oct);
    84 rmdir => sys_rmdir(path: Path);
    85 creat => sys_creat(path: Path, mode: Oct);
    86 link => sys_link(old: Path, new: Path);
    87 unlink => sys_unlink(path: Path);
    88 symlink => sys_symlink(target: Str, path: Path);
    89 readlink => sys_readlink(path: Path, buf: Hex, size: Dec);
    90 chmod => sys_chmod(path: Path, mode: Oct);
    91 fchmod => sys_fchmod(fd: Fd, mode: Oct);
    92 chown => sys_chown(path: Path, uid: Dec, gid: Dec);
    93 fchown => sys_fchown(fd: Fd, uid: Dec, gid: Dec);
    94 lchown => sys_lchown(path: Path, uid: Dec, gid: Dec);
    95 umask => sys_umask(mask: Oct);
    132 utime => sys_utime(path: Path, times: Hex);
    133 mknod => sys_mknod(path: Path, mode: Oct, dev: Hex);
    161 chroot => sys_chroot(path: Path);
    188 setxattr => sys_setxattr(path: Path, name: Str, value: Hex, size: Dec, flags: Hex);
    189 lsetxattr => sys_lsetxattr(path: Path, name: Str, value: Hex, size: Dec, flags: Hex);
    190 fsetxattr => sys_fsetxattr(fd: Fd, name: Str, value: Hex, size: Dec, flags: Hex);
    191 getxattr => sys_getxattr(path: Path, name: Str, value: Hex, size: Dec);
    192 lgetxattr => sys_lgetxattr(path: Path, name: Str, value: Hex, size: Dec);
    193 fgetxattr => sys_fgetxattr(fd: Fd, name: Str, value: Hex, size: Dec);
    194 listxattr => sys_listxattr(path: Path, list: Hex, size: Dec);
    195 llistxattr => sys_llistxattr(path: Path, list: Hex, size: Dec);
    196 flistxattr => sys_flistxattr(fd: Fd, list: Hex, size: Dec);
    197 removexattr => sys_removexattr(path: Path, name: Str);
    198 lremovexattr => sys_lremovexattr(path: Path, name: Str);
    199 fremovexattr => sys_fremovexattr(fd: Fd, name: Str);
    217 getdents64 => sys_getdents64(fd: Fd, buf: Hex, count: Dec);
    235 utimes => sys_utimes(path: Path, times: Hex);
    257 openat => sys_openat(dir: At, path: Path, flags: OpenFlags, mode: Oct);
    258 mkdirat => sys_mkdirat(dir: At, path: Path, mode: Oct);
    259 mknodat => sys_mknodat(dir: At, path: Path, mode: Oct, dev: Hex);
    260 fchownat => sys_fchownat(dir: At, path: Path, uid: Dec, gid: Dec, flags: Hex);
    261 futimesat => sys_futimesat(dir: At, path: Path, times: Hex);
    262 newfstatat => sys_newfstatat(dir: At, path: Path, buf: Hex, flags: Hex);
    263 unlinkat => sys_unlinkat(dir: At, path: Path, flags: Hex);
    264 renameat => sys_renameat(old_dir: At, old: Path, new_dir: At, new: Path);
    265 linkat => sys_linkat(old_dir: At, old: Path, new_dir: At, new: Path, flags: Hex);
    266 symlinkat => sys_symlinkat(target: Str, dir: At, path: Path);
    267 readlinkat => sys_readlinkat(dir: At, path: Path, buf: Hex, size: Dec);
    268 fchmodat => sys_fchmodat(dir: At, path: Path, mode: Oct);
    269 faccessat => sys_faccessat(dir: At, path: Path, mode: Dec);
    280 utimensat => sys_utimensat(dir: At, path: Path, times: Hex, flags: Hex);
    303 name_to_handle_at => sys_name_to_handle_at(dir: At, path: Path, handle: Hex, mount: Hex, flags: Hex);
    304 open_by_handle_at => sys_open_by_handle_at(mount: Fd, handle: Hex, flags: OpenFlags);
    316 renameat2 => sys_renameat2(old_dir: At, old: Path, new_dir: At, new: Path, flags: Hex);
    332 statx => sys_statx(dir: At, path: Path, flags: Hex, mask: Hex, buf: Hex);
    437 openat2 => sys_openat2(dir: At, path: Path, how: Hex, size: Dec);
    439 faccessat2 => sys_faccessat2(dir: At, path: Path, mode: Dec, flags: Hex);
}

const OPEN_FLAGS: u32 = O_ACCMODE
    | O_CREAT
    | O_EXCL
    | O_NOCTTY
    | O_TRUNC
    | O_APPEND
    | O_NONBLOCK
    | O_SYNC
    | O_ASYNC
    | O_DIRECT
    | O_LARGEFILE
    | O_DIRECTORY
    | O_NOFOLLOW
    | O_NOATIME
    | O_CLOEXEC
    | O_PATH
    | O_TMPFILE_BIT;

/// Checks flags against each other, as both forms of open do.
fn check_open(flags: u32, mode: u32, resolve: u64) -> Result<OpenHow> {
    let mut flags = flags;
    if flags & O_TMPFILE_BIT != 0
        && (flags & O_TMPFILE != O_TMPFILE || flags & O_CREAT != 0 || flags & O_ACCMODE == O_RDONLY)
    {
        return Err(Errno::EINVAL);
    }
    // A directory cannot be made so.
    if flags & O_PATH == 0 && flags & O_CREAT != 0 && flags & O_DIRECTORY != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & O_PATH != 0 {
        flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    }
    let creates = flags & (O_CREAT | O_TMPFILE_BIT) != 0;
    let mode = if creates { mode & 0o7777 } else { 0 };
    Ok(OpenHow { walk: Walk::from_resolve(resolve), ..OpenHow::new(flags, mode) })
}

fn open_at(cx: &Cx<'_>, dirfd: i32, path: VirtAddr, how: &OpenHow) -> Result<usize> {
    let name = read_path(path, true)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let base = base(cx, dirfd, &name)?;
    // The number first: running out of them must not create anything.
    let table = files(cx)?;
    let cloexec = CloseOnExec::from_flags(how.flags, O_CLOEXEC);
    let fd = table.reserve(0, cx.task.limit(Resource::Nofile), cloexec)?;
    match vfs::open(&ctx, base.path(&ctx), &name, how) {
        Ok(file) => {
            table.install(fd, file);
            Ok(fd as usize)
        }
        Err(error) => {
            table.cancel(fd);
            Err(error)
        }
    }
}

/// `open(2)`.
fn sys_open(cx: &mut Cx<'_>, path: VirtAddr, flags: u32, mode: u32) -> Result<usize> {
    sys_openat(cx, AT_FDCWD, path, flags, mode)
}

/// `openat(2)`: unknown flags are ignored.
fn sys_openat(cx: &mut Cx<'_>, dir: i32, path: VirtAddr, flags: u32, mode: u32) -> Result<usize> {
    let how = check_open((flags & OPEN_FLAGS) | O_LARGEFILE, mode, 0)?;
    open_at(cx, dir, path, &how)
}

/// `creat(2)`.
fn sys_creat(cx: &mut Cx<'_>, path: VirtAddr, mode: u32) -> Result<usize> {
    sys_openat(cx, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode)
}

/// `openat2(2)`: unknown flags are `EINVAL`.
fn sys_openat2(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    how: VirtAddr,
    size: usize,
) -> Result<usize> {
    let how: abi::fcntl::OpenHow = read_sized(how, size, size_of::<abi::fcntl::OpenHow>())?;
    let flags = u32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    let known = RESOLVE_NO_XDEV
        | RESOLVE_NO_MAGICLINKS
        | RESOLVE_NO_SYMLINKS
        | RESOLVE_BENEATH
        | RESOLVE_IN_ROOT
        | RESOLVE_CACHED;
    let scoped = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
    if flags & !OPEN_FLAGS != 0
        || how.resolve & !known != 0
        || how.resolve & scoped == scoped
        || how.mode & !0o7777 != 0
    {
        return Err(Errno::EINVAL);
    }
    let creates = flags & (O_CREAT | O_TMPFILE_BIT) != 0;
    let path_flags = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC;
    if (!creates && how.mode != 0) || (flags & O_PATH != 0 && flags & !path_flags != 0) {
        return Err(Errno::EINVAL);
    }
    let checked = check_open(flags, how.mode as u32, how.resolve)?;
    open_at(cx, dir, path, &checked)
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
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if flags & !known != 0
        || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE
        || mask & STATX_RESERVED != 0
    {
        return Err(Errno::EINVAL);
    }
    let ctx = context(cx);
    let path = resolve(cx, &ctx.get(), dir, path, at_flags(flags))?;
    let attr = path.inode()?.attr()?;
    let time = |t: vfs::Time| StatxTime { tv_sec: t.sec, tv_nsec: t.nsec, reserved: 0 };
    let ns = &ctx.creds.user_ns;
    let out = Statx {
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
    };
    user::write_val(buf, &out)?;
    Ok(0)
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

/// `truncate(2)`.
fn sys_truncate(cx: &mut Cx<'_>, path: VirtAddr, length: i64) -> Result<usize> {
    let length = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = resolve(cx, &ctx, AT_FDCWD, path, Walk::FOLLOW)?;
    ops::truncate(&ctx, &path, length).map(|()| 0)
}

/// `getcwd(2)`: the length with the NUL.
fn sys_getcwd(cx: &mut Cx<'_>, buf: VirtAddr, size: usize) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let mut text = vfs::dpath::cwd(ctx.cwd, ctx.root)?;
    text.push(0);
    if text.len() > 4096 {
        return Err(Errno::ENAMETOOLONG);
    }
    if text.len() > size {
        return Err(Errno::ERANGE);
    }
    user::copy_to_user(buf, &text)?;
    Ok(text.len())
}

fn change_cwd(cx: &Cx<'_>, ctx: &Context<'_>, path: Path) -> Result<usize> {
    ops::chdir_target(ctx, &path)?;
    cx.task.fs().ok_or(Errno::ENOENT)?.update(|paths| paths.cwd = path);
    Ok(0)
}

/// `chdir(2)`.
fn sys_chdir(cx: &mut Cx<'_>, path: VirtAddr) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = resolve(cx, &ctx, AT_FDCWD, path, Walk::FOLLOW | Walk::DIRECTORY)?;
    change_cwd(cx, &ctx, path)
}

/// `fchdir(2)`.
fn sys_fchdir(cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    let file = any_file(cx, fd)?;
    let ctx = context(cx);
    change_cwd(cx, &ctx.get(), file.path.clone())
}

/// `chroot(2)`.
fn sys_chroot(cx: &mut Cx<'_>, path: VirtAddr) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = resolve(cx, &ctx, AT_FDCWD, path, Walk::FOLLOW | Walk::DIRECTORY)?;
    ops::chdir_target(&ctx, &path)?;
    crate::mount::may_chroot(cx)?;
    cx.task.fs().ok_or(Errno::ENOENT)?.update(|paths| paths.root = path);
    Ok(0)
}

/// `umask(2)`.
fn sys_umask(cx: &mut Cx<'_>, mask: u32) -> Result<usize> {
    Ok(cx.task.fs().ok_or(Errno::EINVAL)?.set_umask(mask) as usize)
}

/// `mkdir(2)`.
fn sys_mkdir(cx: &mut Cx<'_>, path: VirtAddr, mode: u32) -> Result<usize> {
    sys_mkdirat(cx, AT_FDCWD, path, mode)
}

/// `mkdirat(2)`.
fn sys_mkdirat(cx: &mut Cx<'_>, dir: i32, path: VirtAddr, mode: u32) -> Result<usize> {
    let name = read_path(path, false)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let base = base(cx, dir, &name)?;
    ops::mkdir(&ctx, base.path(&ctx), &name, mode).map(|()| 0)
}

/// `mknod(2)`.
fn sys_mknod(cx: &mut Cx<'_>, path: VirtAddr, mode: u32, dev: u64) -> Result<usize> {
    sys_mknodat(cx, AT_FDCWD, path, mode, dev)
}

/// `mknodat(2)`.
fn sys_mknodat(cx: &mut Cx<'_>, dir: i32, path: VirtAddr, mode: u32, dev: u64) -> Result<usize> {
    let kind = match mode & S_IFMT {
        0 => FileKind::Regular,
        S_IFDIR => return Err(Errno::EPERM),
        _ => match FileKind::from_mode(mode) {
            None | Some(FileKind::Symlink) => return Err(Errno::EINVAL),
            Some(kind) => kind,
        },
    };
    let name = read_path(path, false)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let base = base(cx, dir, &name)?;
    ops::mknod(&ctx, base.path(&ctx), &name, kind, mode & 0o7777, DeviceNumber::decode(dev))?;
    Ok(0)
}

/// `unlink(2)`.
fn sys_unlink(cx: &mut Cx<'_>, path: VirtAddr) -> Result<usize> {
    sys_unlinkat(cx, AT_FDCWD, path, 0)
}

/// `rmdir(2)`.
fn sys_rmdir(cx: &mut Cx<'_>, path: VirtAddr) -> Result<usize> {
    sys_unlinkat(cx, AT_FDCWD, path, AT_REMOVEDIR)
}

/// `unlinkat(2)`.
fn sys_unlinkat(cx: &mut Cx<'_>, dir: i32, path: VirtAddr, flags: u32) -> Result<usize> {
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let name = read_path(path, false)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let base = base(cx, dir, &name)?;
    let base = base.path(&ctx);
    if flags != 0 {
        ops::rmdir(&ctx, base, &name)?
    } else {
        ops::unlink(&ctx, base, &name)?
    }
    Ok(0)
}

/// `rename(2)`.
fn sys_rename(cx: &mut Cx<'_>, old: VirtAddr, new: VirtAddr) -> Result<usize> {
    sys_renameat2(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// `renameat(2)`.
fn sys_renameat(
    cx: &mut Cx<'_>,
    old_dir: i32,
    old: VirtAddr,
    new_dir: i32,
    new: VirtAddr,
) -> Result<usize> {
    sys_renameat2(cx, old_dir, old, new_dir, new, 0)
}

/// `renameat2(2)`.
fn sys_renameat2(
    cx: &mut Cx<'_>,
    old_dir: i32,
    old: VirtAddr,
    new_dir: i32,
    new: VirtAddr,
    flags: u32,
) -> Result<usize> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let (old, new) = (read_path(old, false)?, read_path(new, false)?);
    let ctx = context(cx);
    let ctx = ctx.get();
    let (from, to) = (base(cx, old_dir, &old)?, base(cx, new_dir, &new)?);
    ops::rename(&ctx, from.path(&ctx), &old, to.path(&ctx), &new, flags).map(|()| 0)
}

/// `link(2)`.
fn sys_link(cx: &mut Cx<'_>, old: VirtAddr, new: VirtAddr) -> Result<usize> {
    sys_linkat(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// `linkat(2)`.
fn sys_linkat(
    cx: &mut Cx<'_>,
    old_dir: i32,
    old: VirtAddr,
    new_dir: i32,
    new: VirtAddr,
    flags: u32,
) -> Result<usize> {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let ctx = context(cx);
    let ctx = ctx.get();
    let mut how = Walk::empty();
    if flags & AT_EMPTY_PATH != 0 {
        if !ctx.creds.capable(vfs::Cap::DAC_READ_SEARCH) {
            return Err(Errno::ENOENT);
        }
        how |= Walk::EMPTY;
    }
    if flags & AT_SYMLINK_FOLLOW != 0 {
        how |= Walk::FOLLOW;
    }
    let (old, new) = (read_path(old, flags & AT_EMPTY_PATH != 0)?, read_path(new, false)?);
    let (from, to) = (base(cx, old_dir, &old)?, base(cx, new_dir, &new)?);
    ops::link(&ctx, from.path(&ctx), &old, how, to.path(&ctx), &new).map(|()| 0)
}

/// `symlink(2)`.
fn sys_symlink(cx: &mut Cx<'_>, target: VirtAddr, path: VirtAddr) -> Result<usize> {
    sys_symlinkat(cx, target, AT_FDCWD, path)
}

/// `symlinkat(2)`.
fn sys_symlinkat(cx: &mut Cx<'_>, target: VirtAddr, dir: i32, path: VirtAddr) -> Result<usize> {
    let target = read_path(target, false)?;
    let name = read_path(path, false)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let base = base(cx, dir, &name)?;
    ops::symlink(&ctx, &target, base.path(&ctx), &name).map(|()| 0)
}

/// `readlink(2)`.
fn sys_readlink(cx: &mut Cx<'_>, path: VirtAddr, buf: VirtAddr, size: i32) -> Result<usize> {
    sys_readlinkat(cx, AT_FDCWD, path, buf, size)
}

/// `readlinkat(2)`.
fn sys_readlinkat(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    buf: VirtAddr,
    size: i32,
) -> Result<usize> {
    let size = usize::try_from(size).ok().filter(|s| *s > 0).ok_or(Errno::EINVAL)?;
    let name = read_path(path, true)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let base = base(cx, dir, &name)?;
    let text = ops::readlink(&ctx, base.path(&ctx), &name)?;
    let text = text.get(..size.min(text.len())).unwrap_or(&[]);
    user::copy_to_user(buf, text)?;
    Ok(text.len())
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

/// Sets the times of a path, or of an open file if there is no path.
fn times_at(
    cx: &Cx<'_>,
    dir: i32,
    path: VirtAddr,
    flags: Walk,
    times: (NewTime, NewTime),
) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = if path.0 == 0 && dir != AT_FDCWD {
        file(cx, dir)?.path.clone()
    } else {
        resolve(cx, &ctx, dir, path, flags)?
    };
    ops::set_times(&ctx, &path, times.0, times.1).map(|()| 0)
}

const NOW: (NewTime, NewTime) = (NewTime::Now, NewTime::Now);

/// `utimensat(2)`.
fn sys_utimensat(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    times: VirtAddr,
    flags: u32,
) -> Result<usize> {
    let pair = if times.0 == 0 {
        NOW
    } else {
        let [s0, n0, s1, n1]: [i64; 4] = user::read_val(times)?;
        (ops::check_times(s0, n0)?, ops::check_times(s1, n1)?)
    };
    if pair == (NewTime::Omit, NewTime::Omit) {
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
    times_at(cx, dir, path, Walk::FOLLOW, timevals(times)?)
}

/// `utime(2)`.
fn sys_utime(cx: &mut Cx<'_>, path: VirtAddr, times: VirtAddr) -> Result<usize> {
    let pair = if times.0 == 0 {
        NOW
    } else {
        let [access, modification]: [i64; 2] = user::read_val(times)?;
        (ops::check_times(access, 0)?, ops::check_times(modification, 0)?)
    };
    times_at(cx, AT_FDCWD, path, Walk::FOLLOW, pair)
}

/// The extended-attribute calls come in three forms: by path, by path without following, by file.
enum Target {
    Path(VirtAddr, Walk),
    File(i32),
}

impl Target {
    fn path(&self, cx: &Cx<'_>, ctx: &Context<'_>) -> Result<Path> {
        match self {
            Target::Path(path, flags) => resolve(cx, ctx, AT_FDCWD, *path, *flags),
            Target::File(fd) => Ok(file(cx, *fd)?.path.clone()),
        }
    }
}

fn xattr_name(name: VirtAddr) -> Result<alloc::vec::Vec<u8>> {
    match user::read_cstr(name, 257) {
        Ok(name) => Ok(name),
        Err(user::StrError::Fault) => Err(Errno::EFAULT),
        Err(user::StrError::TooLong) => Err(Errno::ERANGE),
    }
}

fn set_xattr(
    cx: &Cx<'_>,
    target: &Target,
    name: VirtAddr,
    value: VirtAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let name = xattr_name(name)?;
    if size > 65536 {
        return Err(Errno::E2BIG);
    }
    let mut bytes = alloc::vec![0u8; size];
    user::copy_from_user(&mut bytes, value)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = target.path(cx, &ctx)?;
    ops::set_xattr(&ctx, &path, &name, &bytes, flags).map(|()| 0)
}

/// Copies a value or list out; a size of 0 asks for the length.
fn give(bytes: &[u8], to: VirtAddr, size: usize) -> Result<usize> {
    if size != 0 {
        if bytes.len() > size {
            return Err(Errno::ERANGE);
        }
        user::copy_to_user(to, bytes)?;
    }
    Ok(bytes.len())
}

fn get_xattr(
    cx: &Cx<'_>,
    target: &Target,
    name: VirtAddr,
    value: VirtAddr,
    size: usize,
) -> Result<usize> {
    let name = xattr_name(name)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = target.path(cx, &ctx)?;
    give(&ops::get_xattr(&ctx, &path, &name)?, value, size)
}

fn list_xattr(cx: &Cx<'_>, target: &Target, list: VirtAddr, size: usize) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = target.path(cx, &ctx)?;
    give(&ops::list_xattr(&ctx, &path)?, list, size)
}

fn remove_xattr(cx: &Cx<'_>, target: &Target, name: VirtAddr) -> Result<usize> {
    let name = xattr_name(name)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = target.path(cx, &ctx)?;
    ops::remove_xattr(&ctx, &path, &name).map(|()| 0)
}

macro_rules! xattr_calls {
    ($($set:ident $get:ident $list:ident $remove:ident ($what:ident: $ty:ty) => $target:expr;)*) => {$(
        /// `setxattr(2)` in one of its forms.
        fn $set(cx: &mut Cx<'_>, $what: $ty, name: VirtAddr, value: VirtAddr, size: usize, flags: u32) -> Result<usize> {
            set_xattr(cx, &$target, name, value, size, flags)
        }
        /// `getxattr(2)` in one of its forms.
        fn $get(cx: &mut Cx<'_>, $what: $ty, name: VirtAddr, value: VirtAddr, size: usize) -> Result<usize> {
            get_xattr(cx, &$target, name, value, size)
        }
        /// `listxattr(2)` in one of its forms.
        fn $list(cx: &mut Cx<'_>, $what: $ty, list: VirtAddr, size: usize) -> Result<usize> {
            list_xattr(cx, &$target, list, size)
        }
        /// `removexattr(2)` in one of its forms.
        fn $remove(cx: &mut Cx<'_>, $what: $ty, name: VirtAddr) -> Result<usize> {
            remove_xattr(cx, &$target, name)
        }
    )*};
}

xattr_calls! {
    sys_setxattr sys_getxattr sys_listxattr sys_removexattr (path: VirtAddr) => Target::Path(path, Walk::FOLLOW);
    sys_lsetxattr sys_lgetxattr sys_llistxattr sys_lremovexattr (path: VirtAddr) => Target::Path(path, Walk::empty());
    sys_fsetxattr sys_fgetxattr sys_flistxattr sys_fremovexattr (fd: i32) => Target::File(fd);
}

/// Packs directory entries into user memory.
struct Records {
    at: VirtAddr,
    left: usize,
    done: usize,
    error: Option<Errno>,
    wide: bool,
}

impl vfs::DirSink for Records {
    fn emit(&mut self, entry: &vfs::DirEntry<'_>) -> bool {
        // `struct linux_dirent64` has the type before the name; the old one has it at the end.
        let head = if self.wide { 19 } else { 18 };
        let need = (head + entry.name.len() + 1 + usize::from(!self.wide)).next_multiple_of(8);
        if need > self.left {
            if self.done == 0 {
                self.error = Some(Errno::EINVAL);
            }
            return false;
        }
        let mut record = [0u8; 19 + 256 + 8 + 2];
        let Some(record) = record.get_mut(..need) else { return false };
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(room) = record.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
        };
        put(0, &entry.ino.to_le_bytes());
        put(8, &entry.next.to_le_bytes());
        put(16, &(need as u16).to_le_bytes());
        if self.wide {
            put(18, &[entry.kind]);
        } else {
            put(need - 1, &[entry.kind]);
        }
        put(head, entry.name);
        if user::copy_to_user(self.at, record).is_err() {
            self.error = Some(Errno::EFAULT);
            return false;
        }
        self.at = self.at.wrapping_add(need as u64);
        self.left -= need;
        self.done += need;
        true
    }
}

fn getdents(cx: &Cx<'_>, fd: i32, buf: VirtAddr, count: u32, wide: bool) -> Result<usize> {
    let file = file(cx, fd)?;
    let mut records = Records { at: buf, left: count as usize, done: 0, error: None, wide };
    vfs::rw::read_dir(&file, &mut records)?;
    match records.error {
        Some(error) if records.done == 0 => Err(error),
        _ => Ok(records.done),
    }
}

/// `getdents(2)`.
fn sys_getdents(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: u32) -> Result<usize> {
    getdents(cx, fd, buf, count, false)
}

/// `getdents64(2)`.
fn sys_getdents64(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: u32) -> Result<usize> {
    getdents(cx, fd, buf, count, true)
}

/// `name_to_handle_at(2)`.
fn sys_name_to_handle_at(
    cx: &mut Cx<'_>,
    dir: i32,
    path: VirtAddr,
    handle: VirtAddr,
    mount: VirtAddr,
    flags: u32,
) -> Result<usize> {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut how = Walk::empty();
    if flags & AT_SYMLINK_FOLLOW != 0 {
        how |= Walk::FOLLOW;
    }
    if flags & AT_EMPTY_PATH != 0 {
        how |= Walk::EMPTY;
    }
    let ctx = context(cx);
    let path = resolve(cx, &ctx.get(), dir, path, how)?;
    let head: FileHandleHead = user::read_val(handle)?;
    if head.handle_bytes > 128 {
        return Err(Errno::EINVAL);
    }
    let inode = path.inode()?;
    let (kind, bytes) = inode.ops().file_handle(&inode).ok_or(Errno::EOPNOTSUPP)?;
    let fits = bytes.len() <= head.handle_bytes as usize;
    let new = FileHandleHead { handle_bytes: bytes.len() as u32, handle_type: kind };
    user::write_val(handle, &new)?;
    user::write_val(mount, &(path.mount.id as i32))?;
    if !fits {
        return Err(Errno::EOVERFLOW);
    }
    user::copy_to_user(handle.wrapping_add(8), &bytes)?;
    Ok(0)
}

/// `open_by_handle_at(2)`.
fn sys_open_by_handle_at(
    cx: &mut Cx<'_>,
    mount: i32,
    handle: VirtAddr,
    flags: u32,
) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    ctx.creds.require(vfs::Cap::DAC_READ_SEARCH)?;
    let head: FileHandleHead = user::read_val(handle)?;
    if head.handle_bytes == 0 || head.handle_bytes > 128 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = alloc::vec![0u8; head.handle_bytes as usize];
    user::copy_from_user(&mut bytes, handle.wrapping_add(8))?;
    let at = if mount == AT_FDCWD { ctx.cwd.clone() } else { any_file(cx, mount)?.path.clone() };
    let sb = &at.mount.sb;
    let inode = sb.ops().inode_of_handle(sb, head.handle_type, &bytes)?;
    let dentry = vfs::Dentry::new_disconnected(inode.clone(), b"/");
    let path = Path { mount: at.mount.clone(), dentry };
    let how = check_open((flags & OPEN_FLAGS) | O_LARGEFILE, 0, 0)?;
    let opened = if how.flags & O_PATH != 0 {
        ops::open_path(&ctx, path, how.flags)?
    } else {
        ops::open_inode(&ctx, path, &inode, how.flags)?
    };
    debug_assert!(!opened.mode().contains(FileMode::QUIET));
    install(cx, opened, CloseOnExec::from_flags(flags, O_CLOEXEC))
}
