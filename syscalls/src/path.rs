//! Calls that take names: open, make, remove, rename, links, the working directory.

use crate::Cx;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::process::Resource;
use abi::stat::*;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use vfs::ops::{self};
use vfs::{
    CloseOnExec, Context, DeviceNumber, FileKind, FileMode, OpenHow, Path, RenameFlags, Walk,
};

crate::syscalls! {
    2 open => sys_open(path: Path, flags: OpenFlags, mode: Oct);
    76 truncate => sys_truncate(path: Path, length: Dec);
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
    95 umask => sys_umask(mask: Oct);
    133 mknod => sys_mknod(path: Path, mode: Oct, dev: Hex);
    161 chroot => sys_chroot(path: Path);
    257 openat => sys_openat(dir: At, path: Path, flags: OpenFlags, mode: Oct);
    258 mkdirat => sys_mkdirat(dir: At, path: Path, mode: Oct);
    259 mknodat => sys_mknodat(dir: At, path: Path, mode: Oct, dev: Hex);
    263 unlinkat => sys_unlinkat(dir: At, path: Path, flags: Hex);
    264 renameat => sys_renameat(old_dir: At, old: Path, new_dir: At, new: Path);
    265 linkat => sys_linkat(old_dir: At, old: Path, new_dir: At, new: Path, flags: Hex);
    266 symlinkat => sys_symlinkat(target: Str, dir: At, path: Path);
    267 readlinkat => sys_readlinkat(dir: At, path: Path, buf: Hex, size: Dec);
    303 name_to_handle_at => sys_name_to_handle_at(dir: At, path: Path, handle: Hex, mount: Hex, flags: Hex);
    304 open_by_handle_at => sys_open_by_handle_at(mount: Fd, handle: Hex, flags: OpenFlags);
    316 renameat2 => sys_renameat2(old_dir: At, old: Path, new_dir: At, new: Path, flags: Hex);
    437 openat2 => sys_openat2(dir: At, path: Path, how: Hex, size: Dec);
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
    // man 2 open, O_PATH: other flags are ignored.
    if flags & O_PATH != 0 {
        flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    }
    if flags & O_TMPFILE_BIT != 0
        && (flags & O_TMPFILE != O_TMPFILE || flags & O_CREAT != 0 || flags & O_ACCMODE == O_RDONLY)
    {
        return Err(Errno::EINVAL);
    }
    // A directory cannot be made so.
    if flags & O_CREAT != 0 && flags & O_DIRECTORY != 0 {
        return Err(Errno::EINVAL);
    }
    let creates = flags & (O_CREAT | O_TMPFILE_BIT) != 0;
    let mode = if creates { mode & 0o7777 } else { 0 };
    Ok(OpenHow { walk: Walk::from_resolve(resolve), ..OpenHow::new(flags, mode) })
}

fn open_at(cx: &Cx<'_>, dirfd: i32, path: VirtAddr, how: &OpenHow) -> Result<usize> {
    let name = read_path(path, false)?;
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
    open_at(cx, dir, path, &check_openat(flags, mode)?)
}

/// What `openat(2)` makes of its flags.
pub(crate) fn check_openat(flags: u32, mode: u32) -> Result<OpenHow> {
    check_open((flags & OPEN_FLAGS) | O_LARGEFILE, mode, 0)
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
    open_at(cx, dir, path, &check_how(&how)?)
}

/// What `openat2(2)` makes of its argument.
pub(crate) fn check_how(how: &abi::fcntl::OpenHow) -> Result<OpenHow> {
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
    check_open(flags, how.mode as u32, how.resolve)
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

/// Flags of `renameat2(2)`.
pub(crate) fn check_rename(flags: u32) -> Result<RenameFlags> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let exclusive = RenameFlags::NOREPLACE | RenameFlags::WHITEOUT;
    if flags.contains(RenameFlags::EXCHANGE) && flags.intersects(exclusive) {
        return Err(Errno::EINVAL);
    }
    Ok(flags)
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
    let flags = check_rename(flags)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let old = read_path(old, false)?;
    let from = base(cx, old_dir, &old)?;
    let new = match read_path(new, false) {
        Ok(new) => new,
        // The old name's directory comes first.
        Err(error) => {
            let parent = vfs::walk_to_parent(&ctx, from.path(&ctx), &old);
            return Err(parent.err().unwrap_or(error));
        }
    };
    let to = base(cx, new_dir, &new)?;
    ops::rename(&ctx, from.path(&ctx), &old, to.path(&ctx), &new, flags).map(|()| 0)
}

/// `link(2)`.
fn sys_link(cx: &mut Cx<'_>, old: VirtAddr, new: VirtAddr) -> Result<usize> {
    sys_linkat(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// Flags of `linkat(2)`: how the old name is walked.
pub(crate) fn check_link(creds: &vfs::Creds, flags: u32) -> Result<Walk> {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut how = Walk::empty();
    if flags & AT_EMPTY_PATH != 0 {
        if !creds.capable(vfs::Cap::DAC_READ_SEARCH) {
            return Err(Errno::ENOENT);
        }
        how |= Walk::EMPTY;
    }
    if flags & AT_SYMLINK_FOLLOW != 0 {
        how |= Walk::FOLLOW;
    }
    Ok(how)
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
    let ctx = context(cx);
    let ctx = ctx.get();
    let how = check_link(ctx.creds, flags)?;
    let old = read_path(old, flags & AT_EMPTY_PATH != 0)?;
    let from = base(cx, old_dir, &old)?;
    let new = match read_path(new, false) {
        Ok(new) => new,
        // The file comes first.
        Err(error) => {
            return Err(vfs::walk(&ctx, from.path(&ctx), &old, how).err().unwrap_or(error));
        }
    };
    let to = base(cx, new_dir, &new)?;
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
    user::write_val(mount, &(path.mount.id as i32))?;
    user::write_val(handle, &new)?;
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
