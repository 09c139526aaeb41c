//! Extended attributes, `xattr(7)`.

use crate::Cx;
use crate::fsctx::*;
use abi::fcntl::*;
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::user;
use vfs::ops::{self};
use vfs::{Context, Path, Walk};

crate::syscalls! {
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
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
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
    let ctx = context(cx);
    let ctx = ctx.get();
    // The order of the checks is Linux's: the file, the flags, the name, the value.
    let path = target.path(cx, &ctx)?;
    if flags & !(XATTR_CREATE | XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = xattr_name(name)?;
    if size > 65536 {
        return Err(Errno::E2BIG);
    }
    let mut bytes = alloc::vec::Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(size, 0);
    user::copy_from_user(&mut bytes, value)?;
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
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = target.path(cx, &ctx)?;
    let name = xattr_name(name)?;
    give(&ops::get_xattr(&ctx, &path, &name)?, value, size)
}

fn list_xattr(cx: &Cx<'_>, target: &Target, list: VirtAddr, size: usize) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = target.path(cx, &ctx)?;
    give(&ops::list_xattr(&ctx, &path)?, list, size)
}

fn remove_xattr(cx: &Cx<'_>, target: &Target, name: VirtAddr) -> Result<usize> {
    let ctx = context(cx);
    let ctx = ctx.get();
    let path = target.path(cx, &ctx)?;
    let name = xattr_name(name)?;
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
