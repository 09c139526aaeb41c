//! Mounts and whole file systems: `mount(2)`, `umount2(2)`, `pivot_root(2)`, `statfs(2)`, `sync(2)`.

use crate::Cx;
use crate::fsctx::*;
use abi::fcntl::AT_FDCWD;
use abi::mount::*;
use abi::stat::Statfs;
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use vfs::mount::MountArgs;
use vfs::{Cap, Path, Walk, walk};

crate::syscalls! {
    136 ustat => sys_ustat(dev: Hex, buf: Hex);
    137 statfs => sys_statfs(path: Path, buf: Hex);
    138 fstatfs => sys_fstatfs(fd: Fd, buf: Hex);
    155 pivot_root => sys_pivot_root(new_root: Path, put_old: Path);
    162 sync => sys_sync();
    165 mount => sys_mount(source: Str, target: Path, fs_type: Str, flags: Hex, data: Hex);
    166 umount2 => sys_umount2(target: Path, flags: Hex);
    306 syncfs => sys_syncfs(fd: Fd);
}

/// Options are at most a page.
fn read_data(from: VirtAddr) -> Result<Vec<u8>> {
    if from.0 == 0 {
        return Ok(Vec::new());
    }
    let mut data = alloc::vec![0u8; 4096];
    let count = user::copy_from_user_partial(&mut data, from);
    if count == 0 {
        return Err(Errno::EFAULT);
    }
    let end = data.iter().position(|&b| b == 0).unwrap_or(count).min(count);
    data.truncate(end);
    Ok(data)
}

fn optional_string(from: VirtAddr) -> Result<Option<Vec<u8>>> {
    if from.0 == 0 {
        return Ok(None);
    }
    // A string that is too long is wrong here, not a name that is too long.
    match read_path(from, true) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::EINVAL),
        other => other.map(Some),
    }
}

/// `mount(2)`.
fn sys_mount(
    cx: &mut Cx<'_>,
    source: VirtAddr,
    target: VirtAddr,
    fs_type: VirtAddr,
    flags: u64,
    data: VirtAddr,
) -> Result<usize> {
    let fs_type = optional_string(fs_type)?;
    let source = optional_string(source)?;
    let data = read_data(data)?;
    let ctx = context(cx);
    let ctx = ctx.get();
    let target = resolve(cx, &ctx, AT_FDCWD, target, Walk::FOLLOW)?;
    let args = MountArgs {
        source: source.as_deref(),
        target,
        fs_type: fs_type.as_deref(),
        flags,
        data: &data,
    };
    vfs::mount::mount(&ctx, args, |name| walk(&ctx, ctx.cwd, name, Walk::FOLLOW))?;
    Ok(0)
}

/// `umount2(2)`.
fn sys_umount2(cx: &mut Cx<'_>, target: VirtAddr, flags: u32) -> Result<usize> {
    if flags & !(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let ctx = context(cx);
    let ctx = ctx.get();
    let follow = if flags & UMOUNT_NOFOLLOW != 0 { Walk::empty() } else { Walk::FOLLOW };
    let target = resolve(cx, &ctx, AT_FDCWD, target, follow)?;
    vfs::mount::umount(&ctx, target, flags).map(|()| 0)
}

/// `pivot_root(2)`: also moves the tasks that stand in the old root.
fn sys_pivot_root(cx: &mut Cx<'_>, new_root: VirtAddr, put_old: VirtAddr) -> Result<usize> {
    let hold = context(cx);
    let ctx = hold.get();
    vfs::mount::check_may_mount(&ctx)?;
    let flags = Walk::FOLLOW | Walk::DIRECTORY;
    let new = resolve(cx, &ctx, AT_FDCWD, new_root, flags)?;
    let old = resolve(cx, &ctx, AT_FDCWD, put_old, flags)?;
    let (old_root, new_root) = vfs::mount::pivot_root(&ctx, &new, &old)?;
    if let Some(fs) = cx.task.fs() {
        fs.update(|paths| {
            for path in [&mut paths.root, &mut paths.cwd] {
                if path.is(&old_root) {
                    *path = new_root.clone();
                }
            }
        });
    }
    Ok(0)
}

fn write_statfs(path: &Path, buf: VirtAddr) -> Result<usize> {
    let (stat, flags) = vfs::ops::statfs(path)?;
    let fragment = if stat.fragment_size == 0 { stat.block_size } else { stat.fragment_size };
    let out = Statfs {
        f_type: stat.magic as i64,
        f_bsize: stat.block_size as i64,
        f_blocks: stat.blocks,
        f_bfree: stat.free,
        f_bavail: stat.available,
        f_files: stat.files,
        f_ffree: stat.files_free,
        f_fsid: [stat.fsid as i32, (stat.fsid >> 32) as i32],
        f_namelen: stat.name_max as i64,
        f_frsize: fragment as i64,
        f_flags: flags as i64,
        f_spare: [0; 4],
    };
    user::write_val(buf, &out)?;
    Ok(0)
}

/// `statfs(2)`.
fn sys_statfs(cx: &mut Cx<'_>, path: VirtAddr, buf: VirtAddr) -> Result<usize> {
    let ctx = context(cx);
    write_statfs(&resolve(cx, &ctx.get(), AT_FDCWD, path, Walk::FOLLOW)?, buf)
}

/// `fstatfs(2)`.
fn sys_fstatfs(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr) -> Result<usize> {
    write_statfs(&any_file(cx, fd)?.path, buf)
}

/// `ustat(2)`: free blocks and inodes of a mounted device.
fn sys_ustat(_: &mut Cx<'_>, dev: u64, buf: VirtAddr) -> Result<usize> {
    let dev = vfs::DeviceNumber::decode(dev);
    let sb = vfs::super_blocks().into_iter().find(|sb| sb.dev == dev).ok_or(Errno::EINVAL)?;
    let stat = sb.ops().statfs(&sb)?;
    user::write_val(buf, &[stat.free, stat.files_free, 0, 0])?;
    Ok(0)
}

/// `sync(2)`.
fn sys_sync(_: &mut Cx<'_>) -> Result<usize> {
    vfs::sync_all();
    Ok(0)
}

/// `syncfs(2)`.
fn sys_syncfs(cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    let file = file(cx, fd)?;
    let sb = file.inode().sb();
    sb.ops().sync(sb, true)?;
    file.check_error().map(|()| 0)
}

/// Whether the caller may change its root directory.
pub(crate) fn may_chroot(cx: &Cx<'_>) -> Result<()> {
    cx.task.creds().require(Cap::SYS_CHROOT)
}
