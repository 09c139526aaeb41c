//! Extended attributes: name spaces and who may use them (`xattr(7)`).

use alloc::vec::Vec;

use abi::inotify::IN_ATTRIB;
use abi::stat::S_ISVTX;
use abi::{Errno, Result};

use crate::acl::{self, Which};
use crate::context::Context;
use crate::cred::Cap;
use crate::inode::Inode;
use crate::notify;
use crate::path::Path;
use crate::perm;
use crate::types::*;

/// Longest name with its name space.
const NAME_MAX: usize = 255;
/// Longest value.
const SIZE_MAX: usize = 65536;

fn check(ctx: &Context<'_>, inode: &Inode, name: &[u8], access: Access) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Errno::ERANGE);
    }
    let writing = access.contains(Access::WRITE);
    if writing && inode.has(InodeFlags::IMMUTABLE | InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    if name.starts_with(b"security.") || name.starts_with(b"system.") {
        return Ok(());
    }
    if name.starts_with(b"trusted.") {
        let denied = if writing { Errno::EPERM } else { Errno::ENODATA };
        return if ctx.creds.capable(Cap::SYS_ADMIN) { Ok(()) } else { Err(denied) };
    }
    if name.starts_with(b"user.") {
        let denied = if writing { Errno::EPERM } else { Errno::ENODATA };
        if !matches!(inode.kind, FileKind::Regular | FileKind::Directory) {
            return Err(denied);
        }
        let sticky = inode.is_dir() && inode.mode() & S_ISVTX != 0;
        if sticky && writing && !perm::is_owner_or_capable(inode, ctx.creds) {
            return Err(Errno::EPERM);
        }
        return perm::permission(inode, access, ctx.creds);
    }
    // A name of no known kind: whether the file may be touched comes first.
    perm::permission(inode, access, ctx.creds)?;
    Err(Errno::EOPNOTSUPP)
}

/// `getxattr(2)`.
pub fn get_xattr(ctx: &Context<'_>, path: &Path, name: &[u8]) -> Result<Vec<u8>> {
    let inode = path.inode()?;
    check(ctx, &inode, name, Access::READ)?;
    let mut value = Vec::new();
    inode.ops().get_xattr(&inode, name, &mut value)?;
    if Which::of(name).is_some() {
        return acl::to_namespace(&value, &ctx.creds.user_ns);
    }
    Ok(value)
}

/// `setxattr(2)`.
pub fn set_xattr(
    ctx: &Context<'_>,
    path: &Path,
    name: &[u8],
    value: &[u8],
    flags: u32,
) -> Result<()> {
    if flags & !3 != 0 {
        return Err(Errno::EINVAL);
    }
    if value.len() > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let inode = path.inode()?;
    let _writer = path.mount.want_write()?;
    let _held = inode.lock().write();
    check(ctx, &inode, name, Access::WRITE)?;
    check_special(ctx, &inode, name)?;
    match Which::of(name) {
        Some(which) => acl::set(&inode, which, value, ctx.creds)?,
        None => inode.ops().set_xattr(&inode, name, value, flags)?,
    }
    inode.set_ctime(Time::now());
    inode.ops().dirty(&inode);
    notify::to_dentry(&path.dentry, IN_ATTRIB);
    Ok(())
}

/// Attributes that mean something to the kernel.
fn check_special(ctx: &Context<'_>, inode: &Inode, name: &[u8]) -> Result<()> {
    if name == b"security.capability" {
        return ctx.creds.require(Cap::SETFCAP);
    }
    if name.starts_with(b"security.") {
        return ctx.creds.require(Cap::SYS_ADMIN);
    }
    if name.starts_with(b"system.posix_acl_") && !perm::is_owner_or_capable(inode, ctx.creds) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// `removexattr(2)`.
pub fn remove_xattr(ctx: &Context<'_>, path: &Path, name: &[u8]) -> Result<()> {
    let inode = path.inode()?;
    let _writer = path.mount.want_write()?;
    let _held = inode.lock().write();
    check(ctx, &inode, name, Access::WRITE)?;
    check_special(ctx, &inode, name)?;
    match Which::of(name) {
        // A list without entries: removing what is not there succeeds.
        Some(which) => acl::set(&inode, which, &acl::EMPTY, ctx.creds)?,
        None => inode.ops().remove_xattr(&inode, name)?,
    }
    inode.set_ctime(Time::now());
    inode.ops().dirty(&inode);
    notify::to_dentry(&path.dentry, IN_ATTRIB);
    Ok(())
}

/// `listxattr(2)`: NUL-terminated names; `trusted.` ones only for the privileged.
pub fn list_xattr(ctx: &Context<'_>, path: &Path) -> Result<Vec<u8>> {
    let inode = path.inode()?;
    let mut names = Vec::new();
    inode.ops().list_xattr(&inode, &mut names)?;
    if !ctx.creds.capable(Cap::SYS_ADMIN) {
        let visible = names.split_inclusive(|&b| b == 0).filter(|n| !n.starts_with(b"trusted."));
        names = visible.flatten().copied().collect();
    }
    Ok(names)
}
