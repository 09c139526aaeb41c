//! Mounts as file descriptors: `open_tree(2)`, `move_mount(2)`, `fsopen(2)`, `fsconfig(2)`,
//! `fsmount(2)`, `fspick(2)`.

use crate::Cx;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::mount::*;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::user;
use vfs::mount::FsConfig;
use vfs::superblock::OptionValue;
use vfs::{CloseOnExec, Walk};

crate::syscalls! {
    428 open_tree => sys_open_tree(dirfd: At, path: Path, flags: Hex);
    429 move_mount => sys_move_mount(from: At, from_path: Path, to: At, to_path: Path, flags: Hex);
    430 fsopen => sys_fsopen(fs_type: Str, flags: Hex);
    431 fsconfig => sys_fsconfig(fd: Fd, command: Dec, key: Str, value: Hex, aux: Dec);
    432 fsmount => sys_fsmount(fd: Fd, flags: Hex, attributes: Hex);
    433 fspick => sys_fspick(dirfd: At, path: Path, flags: Hex);
}

/// Names and texts given to `fsconfig(2)` with their NUL.
const STRING_MAX: usize = 256;
/// Binary values given to `fsconfig(2)`.
const BINARY_MAX: i32 = 1 << 20;

fn cloexec(yes: bool) -> CloseOnExec {
    if yes { CloseOnExec::Yes } else { CloseOnExec::No }
}

/// `open_tree(2)`.
fn sys_open_tree(cx: &mut Cx<'_>, dirfd: i32, path: VirtAddr, flags: u32) -> Result<usize> {
    let known = AT_EMPTY_PATH
        | AT_NO_AUTOMOUNT
        | AT_RECURSIVE
        | AT_SYMLINK_NOFOLLOW
        | OPEN_TREE_CLONE
        | O_CLOEXEC;
    if flags & !known != 0 || flags & (AT_RECURSIVE | OPEN_TREE_CLONE) == AT_RECURSIVE {
        return Err(Errno::EINVAL);
    }
    let ctx = context(cx);
    let ctx = ctx.get();
    if flags & OPEN_TREE_CLONE != 0 {
        vfs::mount::check_may_mount(&ctx)?;
    }
    let path = resolve(cx, &ctx, dirfd, path, at_flags(flags))?;
    let file = if flags & OPEN_TREE_CLONE != 0 {
        vfs::mount::clone_tree(&ctx, &path, flags & AT_RECURSIVE != 0)?
    } else {
        vfs::ops::open_path(&ctx, path, O_PATH)?
    };
    install(cx, file, cloexec(flags & O_CLOEXEC != 0))
}

/// `move_mount(2)`; `MOVE_MOUNT_SET_GROUP`, which is newer than 5.4, is `EINVAL`.
fn sys_move_mount(
    cx: &mut Cx<'_>,
    from: i32,
    from_path: VirtAddr,
    to: i32,
    to_path: VirtAddr,
    flags: u32,
) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    vfs::mount::check_may_mount(&ctx)?;
    if flags & !MOVE_MOUNT_MASK != 0 {
        return Err(Errno::EINVAL);
    }
    let walk_flags = |follow: u32, empty: u32| {
        let mut walk = Walk::empty();
        walk.set(Walk::FOLLOW, flags & follow != 0);
        walk.set(Walk::EMPTY, flags & empty != 0);
        walk
    };
    let source = walk_flags(MOVE_MOUNT_F_SYMLINKS, MOVE_MOUNT_F_EMPTY_PATH);
    let target = walk_flags(MOVE_MOUNT_T_SYMLINKS, MOVE_MOUNT_T_EMPTY_PATH);
    let source = resolve(cx, &ctx, from, from_path, source)?;
    let target = resolve(cx, &ctx, to, to_path, target)?;
    vfs::mount::move_mount(&ctx, &source, target)?;
    Ok(0)
}

/// A string of `fsconfig(2)` or `fsopen(2)`, at most [`STRING_MAX`] bytes.
fn string(from: VirtAddr) -> Result<Vec<u8>> {
    user::read_cstr(from, STRING_MAX).map_err(|error| match error {
        user::StrError::Fault => Errno::EFAULT,
        user::StrError::TooLong => Errno::EINVAL,
    })
}

fn install_config(cx: &Cx<'_>, config: FsConfig, on_exec: CloseOnExec) -> Result<usize> {
    let ctx = context(cx);
    let file = anon::anon_file(&ctx.get(), "[fscontext]", Arc::new(config), O_RDWR)?;
    install(cx, file, on_exec)
}

/// `fsopen(2)`.
fn sys_fsopen(cx: &mut Cx<'_>, fs_type: VirtAddr, flags: u32) -> Result<usize> {
    let ctx = context(cx);
    vfs::mount::check_may_mount(&ctx.get())?;
    if flags & !FSOPEN_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let config = FsConfig::open(&ctx.get(), &string(fs_type)?)?;
    install_config(cx, config, cloexec(flags & FSOPEN_CLOEXEC != 0))
}

/// `fspick(2)`.
fn sys_fspick(cx: &mut Cx<'_>, dirfd: i32, path: VirtAddr, flags: u32) -> Result<usize> {
    let known = FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW | FSPICK_NO_AUTOMOUNT | FSPICK_EMPTY_PATH;
    let ctx = context(cx);
    let ctx = ctx.get();
    vfs::mount::check_may_mount(&ctx)?;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let mut walk = Walk::empty();
    walk.set(Walk::FOLLOW, flags & FSPICK_SYMLINK_NOFOLLOW == 0);
    walk.set(Walk::EMPTY, flags & FSPICK_EMPTY_PATH != 0);
    let path = resolve(cx, &ctx, dirfd, path, walk)?;
    install_config(cx, FsConfig::pick(&ctx, &path)?, cloexec(flags & FSPICK_CLOEXEC != 0))
}

/// Whether the arguments beside the descriptor are those of the command.
fn check_arguments(command: u32, key: VirtAddr, value: VirtAddr, aux: i32) -> Result<()> {
    let (key, value) = (key.0 != 0, value.0 != 0);
    let fits = match command {
        FSCONFIG_SET_FLAG => key && !value && aux == 0,
        FSCONFIG_SET_STRING => key && value && aux == 0,
        FSCONFIG_SET_BINARY => key && value && (1..=BINARY_MAX).contains(&aux),
        FSCONFIG_SET_PATH | FSCONFIG_SET_PATH_EMPTY => {
            key && value && (aux == AT_FDCWD || aux >= 0)
        }
        FSCONFIG_SET_FD => key && !value && aux >= 0,
        FSCONFIG_CMD_CREATE | FSCONFIG_CMD_RECONFIGURE => !key && !value && aux == 0,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether a value that nobody takes can be read at least.
fn check_readable(value: VirtAddr, len: usize) -> Result<()> {
    let mut piece = [0u8; 512];
    for at in (0..len).step_by(piece.len()) {
        let part = piece.get_mut(..(len - at).min(512)).unwrap_or_default();
        user::copy_from_user(part, value.wrapping_add(at as u64))?;
    }
    Ok(())
}

/// `fsconfig(2)`. No file system takes objects (paths, descriptors, binary values) as options.
fn sys_fsconfig(
    cx: &mut Cx<'_>,
    fd: i32,
    command: u32,
    key: VirtAddr,
    value: VirtAddr,
    aux: i32,
) -> Result<usize> {
    if fd < 0 {
        return Err(Errno::EINVAL);
    }
    check_arguments(command, key, value, aux)?;
    let file = file(cx, fd)?;
    let config = file.private::<FsConfig>().ok_or(Errno::EINVAL)?;
    let ctx = context(cx);
    match command {
        FSCONFIG_CMD_CREATE => config.create(&ctx.get())?,
        FSCONFIG_CMD_RECONFIGURE => config.reconfigure(&ctx.get())?,
        FSCONFIG_SET_FLAG => config.set(&string(key)?, OptionValue::None)?,
        FSCONFIG_SET_STRING => config.set(&string(key)?, OptionValue::Text(&string(value)?))?,
        _ => {
            let key = string(key)?;
            let _object = match command {
                FSCONFIG_SET_BINARY => {
                    check_readable(value, aux as usize)?;
                    None
                }
                FSCONFIG_SET_FD => Some(any_file(cx, aux)?),
                _ => {
                    read_path(value, command == FSCONFIG_SET_PATH_EMPTY)?;
                    None
                }
            };
            config.set(&key, OptionValue::Object)?;
        }
    }
    Ok(0)
}

/// The `MS_*` flags of `MOUNT_ATTR_*`; `EINVAL` for those that 5.4 does not know.
fn mount_flags(attributes: u32) -> Result<u64> {
    let plain = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    if attributes & !(plain | MOUNT_ATTR_ATIME | MOUNT_ATTR_NODIRATIME) != 0 {
        return Err(Errno::EINVAL);
    }
    // The four plain ones have the values of MS_RDONLY to MS_NOEXEC.
    let mut flags = u64::from(attributes & plain);
    flags |= match attributes & MOUNT_ATTR_ATIME {
        MOUNT_ATTR_RELATIME => MS_RELATIME,
        MOUNT_ATTR_NOATIME => MS_NOATIME,
        MOUNT_ATTR_STRICTATIME => 0,
        _ => return Err(Errno::EINVAL),
    };
    if attributes & MOUNT_ATTR_NODIRATIME != 0 {
        flags |= MS_NODIRATIME;
    }
    Ok(flags)
}

/// `fsmount(2)`.
fn sys_fsmount(cx: &mut Cx<'_>, fd: i32, flags: u32, attributes: u32) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    vfs::mount::check_may_mount(&ctx)?;
    if flags & !FSMOUNT_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let mount_flags = mount_flags(attributes)?;
    let file = file(cx, fd)?;
    let config = file.private::<FsConfig>().ok_or(Errno::EINVAL)?;
    install(cx, config.mount(&ctx, mount_flags)?, cloexec(flags & FSMOUNT_CLOEXEC != 0))
}
