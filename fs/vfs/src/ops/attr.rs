//! Attributes: `chmod`, `chown`, `utimensat`, `truncate`, `access`, `statfs`.

use alloc::sync::Arc;

use abi::inotify::{IN_ATTRIB, IN_MODIFY};
use abi::stat::*;
use abi::{Errno, Result};

use crate::context::{Context, Limit};
use crate::cred::{Cap, Creds};
use crate::file::File;
use crate::inode::Inode;
use crate::notify;
use crate::path::Path;
use crate::perm::{self, capable_towards};
use crate::types::*;

const SIGXFSZ: u32 = 25;

/// Applies a change that has been checked; `path` for watchers.
fn apply(path: &Path, inode: &Arc<Inode>, change: &SetAttr, mask: u32) -> Result<()> {
    inode.ops().setattr(inode, change)?;
    notify::to_dentry(&path.dentry, mask);
    Ok(())
}

fn not_frozen(inode: &Inode) -> Result<()> {
    if inode.has(InodeFlags::IMMUTABLE | InodeFlags::APPEND) { Err(Errno::EPERM) } else { Ok(()) }
}

/// `chmod(2)` of the file at `path`.
pub fn chmod(ctx: &Context<'_>, path: &Path, mode: u32) -> Result<()> {
    let inode = path.inode()?;
    let _writer = path.mount.want_write()?;
    if inode.kind == FileKind::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    let _held = inode.lock().write();
    not_frozen(&inode)?;
    if !perm::is_owner_or_capable(&inode, ctx.creds) {
        return Err(Errno::EPERM);
    }
    let mut mode = mode & 0o7777;
    // man 2 chmod: set-group-id of a group one is not in goes silently.
    if !ctx.creds.in_group(inode.gid()) && !capable_towards(&inode, ctx.creds, Cap::FSETID) {
        mode &= !S_ISGID;
    }
    let change = SetAttr { mode: Some(mode), now: Time::now(), ..SetAttr::default() };
    apply(path, &inode, &change, IN_ATTRIB)?;
    crate::acl::follow_mode(&inode)
}

fn may_chown(inode: &Inode, creds: &Creds, uid: Option<u32>, gid: Option<u32>) -> bool {
    let owner = creds.fsuid == inode.uid();
    let uid_ok = match uid {
        Some(uid) => (owner && uid == inode.uid()) || capable_towards(inode, creds, Cap::CHOWN),
        None => true,
    };
    let gid_ok = match gid {
        Some(gid) => {
            (owner && (creds.in_group(gid) || gid == inode.gid()))
                || capable_towards(inode, creds, Cap::CHOWN)
        }
        None => true,
    };
    uid_ok && gid_ok
}

/// `chown(2)` of the file at `path`; `None` leaves a side as it is.
pub fn chown(ctx: &Context<'_>, path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let inode = path.inode()?;
    let _writer = path.mount.want_write()?;
    let _held = inode.lock().write();
    not_frozen(&inode)?;
    if !may_chown(&inode, ctx.creds, uid, gid) {
        return Err(Errno::EPERM);
    }
    // Executables lose their set-id bits, whoever changes the owner.
    let mode = if inode.is_dir() { None } else { inode.mode_without_setid() };
    let change = SetAttr { mode, uid, gid, now: Time::now(), ..SetAttr::default() };
    apply(path, &inode, &change, IN_ATTRIB)?;
    if inode.kind == FileKind::Regular {
        // File capabilities go as well.
        let _ = inode.ops().remove_xattr(&inode, b"security.capability");
    }
    Ok(())
}

/// A time as `utimensat(2)` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// `UTIME_NOW`.
    Now,
    /// `UTIME_OMIT`.
    Omit,
    /// A given time.
    At(Time),
}

/// Decodes a pair of seconds and nanoseconds; `EINVAL` for what is out of range.
pub fn check_times(sec: i64, nsec: i64) -> Result<NewTime> {
    match nsec {
        UTIME_NOW => Ok(NewTime::Now),
        UTIME_OMIT => Ok(NewTime::Omit),
        0..=999_999_999 => Ok(NewTime::At(Time::new(sec, nsec as u32))),
        _ => Err(Errno::EINVAL),
    }
}

/// `utimensat(2)` of the file at `path`: access and modification time.
pub fn set_times(ctx: &Context<'_>, path: &Path, atime: NewTime, mtime: NewTime) -> Result<()> {
    if atime == NewTime::Omit && mtime == NewTime::Omit {
        return Ok(());
    }
    let inode = path.inode()?;
    let _writer = path.mount.want_write()?;
    let _held = inode.lock().write();
    let both_now = atime == NewTime::Now && mtime == NewTime::Now;
    if both_now {
        if inode.has(InodeFlags::IMMUTABLE) {
            return Err(Errno::EPERM);
        }
        if !perm::is_owner_or_capable(&inode, ctx.creds) {
            perm::permission(&inode, Access::WRITE, ctx.creds)?;
        }
    } else {
        not_frozen(&inode)?;
        if !perm::is_owner_or_capable(&inode, ctx.creds)
            && !inode.ops().may_set_times(&inode, ctx.creds)
        {
            return Err(Errno::EPERM);
        }
    }
    let now = Time::now();
    let pick = |time| match time {
        NewTime::Now => Some(now),
        NewTime::Omit => None,
        NewTime::At(time) => Some(time),
    };
    let change = SetAttr { atime: pick(atime), mtime: pick(mtime), now, ..SetAttr::default() };
    apply(path, &inode, &change, IN_ATTRIB)
}

/// `truncate(2)` of the file at `path`.
pub fn truncate(ctx: &Context<'_>, path: &Path, size: u64) -> Result<()> {
    let inode = path.inode()?;
    match inode.kind {
        FileKind::Regular => {}
        FileKind::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    let _writer = path.mount.want_write()?;
    perm::permission(&inode, Access::WRITE, ctx.creds)?;
    if inode.has(InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    crate::lease::break_leases(&inode, true, crate::lease::Patience::Wait)?;
    inode.get_write_access()?;
    let result = resize(ctx, path, &inode, size);
    inode.put_write_access();
    result
}

/// `ftruncate(2)`: the file is open for writing.
pub fn truncate_file(ctx: &Context<'_>, file: &File, size: u64) -> Result<()> {
    let inode = file.inode();
    if inode.kind != FileKind::Regular || !file.can_write() {
        return Err(Errno::EINVAL);
    }
    if inode.has(InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    resize(ctx, &file.path, inode, size)
}

/// Checks limits and changes the size.
pub(crate) fn resize(ctx: &Context<'_>, path: &Path, inode: &Arc<Inode>, size: u64) -> Result<()> {
    if size > inode.size() {
        if size > ctx.caller.limit(Limit::FileSize) {
            ctx.caller.raise(SIGXFSZ);
            return Err(Errno::EFBIG);
        }
        if size > inode.sb().max_file_size {
            return Err(Errno::EFBIG);
        }
    }
    let _held = inode.lock().write();
    if inode.has(InodeFlags::SWAPFILE) {
        return Err(Errno::ETXTBSY);
    }
    crate::rw::not_sealed(inode)?;
    let mode = if capable_towards(inode, ctx.creds, Cap::FSETID) {
        None
    } else {
        inode.mode_without_setid()
    };
    let change = SetAttr { size: Some(size), mode, now: Time::now(), ..SetAttr::default() };
    apply(path, inode, &change, IN_MODIFY)
}

/// Whose identity `access(2)` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// The real ids, with the capabilities a set-user-id program would have had.
    Real,
    /// The effective ids (`AT_EACCESS`).
    Effective,
}

/// `access(2)` of the file at `path`; `wanted` has `R_OK`, `W_OK`, `X_OK` bits.
pub fn access(ctx: &Context<'_>, path: &Path, wanted: u32) -> Result<()> {
    let inode = path.inode()?;
    let wanted = Access::from_bits_truncate(wanted & 7);
    if wanted.contains(Access::EXEC)
        && inode.kind == FileKind::Regular
        && path.mount.has(abi::mount::MS_NOEXEC)
    {
        return Err(Errno::EACCES);
    }
    perm::permission(&inode, wanted, ctx.creds)?;
    // Device nodes and fifos can be written in a read-only mount.
    let stored = matches!(inode.kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
    if wanted.contains(Access::WRITE) && stored && path.mount.is_read_only() {
        return Err(Errno::EROFS);
    }
    Ok(())
}

/// Whether `path` can become the working or root directory.
pub fn chdir_target(ctx: &Context<'_>, path: &Path) -> Result<()> {
    let inode = path.inode()?;
    if !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    perm::permission(&inode, Access::EXEC, ctx.creds)
}

/// `statfs(2)` of what `path` is on: the numbers and the `ST_*` flags.
pub fn statfs(path: &Path) -> Result<(FsStat, u64)> {
    use abi::mount::*;
    let stat = path.mount.sb.ops().statfs(&path.mount.sb)?;
    let mut flags = ST_VALID;
    for (mount, st) in [
        (MS_RDONLY, ST_RDONLY),
        (MS_NOSUID, ST_NOSUID),
        (MS_NODEV, ST_NODEV),
        (MS_NOEXEC, ST_NOEXEC),
        (MS_NOATIME, ST_NOATIME),
        (MS_NODIRATIME, ST_NODIRATIME),
        (MS_RELATIME, ST_RELATIME),
    ] {
        if path.mount.has(mount) {
            flags |= st;
        }
    }
    if path.mount.sb.is_read_only() {
        flags |= ST_RDONLY;
    }
    if path.mount.sb.flags() & MS_SYNCHRONOUS != 0 {
        flags |= ST_SYNCHRONOUS;
    }
    Ok((stat, flags))
}
