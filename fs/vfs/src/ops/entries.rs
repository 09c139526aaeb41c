//! Making and removing names: `mkdir`, `mknod`, `symlink`, `link`, `unlink`, `rmdir`, `readlink`.

use alloc::sync::Arc;

use abi::inotify::*;
use abi::{Errno, Result};

use super::{create_in, new_inode};
use crate::context::Context;
use crate::cred::Cap;
use crate::dcache;
use crate::dentry::Dentry;
use crate::dev;
use crate::file::File;
use crate::inode::{Inode, InodeRef};
use crate::mount::{MountWriter, detach_at, is_local_mountpoint};
use crate::notify;
use crate::path::Path;
use crate::perm::{self, Victim};
use crate::types::*;
use crate::walk::{Last, LastName, Walk, lookup_locked, spelling, walk, walk_parent};

/// Finds the place for something new: its directory and name. `EEXIST` for `.`, `..` and `/`.
fn place(ctx: &Context<'_>, base: &Path, name: &[u8]) -> Result<(Path, LastName)> {
    let (dir, last) = walk_parent(ctx, base, name, Walk::empty())?;
    Ok((dir, last.name(Errno::EEXIST)?))
}

/// Makes the new thing under the directory's lock; returns it. `directory` says that the name may
/// have trailing slashes.
fn make(
    ctx: &Context<'_>,
    dir: &Path,
    last: &LastName,
    directory: bool,
    create: impl FnOnce(&Arc<Inode>, &[u8]) -> Result<Arc<Inode>>,
) -> Result<Arc<Inode>> {
    let parent = dir.inode()?;
    let name = last.name.bytes();
    let held = parent.lock().write();
    let existing = lookup_locked(&dir.dentry, &parent, name, last.hash)?;
    if existing.as_ref().is_some_and(|d| d.is_positive()) {
        return Err(Errno::EEXIST);
    }
    if last.trailing && !directory {
        return Err(Errno::ENOENT);
    }
    let _writer = dir.mount.want_write()?;
    perm::may_create(&parent, ctx.creds)?;
    let inode = create(&parent, name)?;
    enter(&dir.dentry, existing, last, inode.clone());
    drop(held);
    notify::in_directory(&parent, name, IN_CREATE, 0, Some(&inode));
    Ok(inode)
}

/// Tells the dentry cache of a new file; returns its dentry.
pub(super) fn enter(
    dir: &Arc<Dentry>,
    negative: Option<Arc<Dentry>>,
    last: &LastName,
    inode: Arc<Inode>,
) -> Arc<Dentry> {
    if let Some(dentry) = negative {
        dcache::instantiate(&dentry, inode);
        return dentry;
    }
    let parent = dir.inode();
    match parent.and_then(|parent| spelling(&parent, last.name.bytes())) {
        Some(name) => dcache::insert(dir, &name, dcache::hash_name(&name), Some(inode)),
        None => dcache::insert(dir, last.name.bytes(), last.hash, Some(inode)),
    }
}

/// `mkdir(2)`.
pub fn mkdir(ctx: &Context<'_>, base: &Path, name: &[u8], mode: u32) -> Result<()> {
    let (dir, last) = place(ctx, base, name)?;
    let mode = mode & 0o1777;
    make(ctx, &dir, &last, true, |parent, name| {
        let new = new_inode(ctx, parent, FileKind::Directory, mode, DeviceNumber::NONE, b"");
        create_in(parent, name, &new)
    })?;
    Ok(())
}

/// `mknod(2)`; `kind` is not a directory. Returns the inode (a socket binds to it).
pub fn mknod(
    ctx: &Context<'_>,
    base: &Path,
    name: &[u8],
    kind: FileKind,
    mode: u32,
    rdev: DeviceNumber,
) -> Result<Arc<Inode>> {
    let (dir, last) = place(ctx, base, name)?;
    let whiteout = kind == FileKind::CharDevice && rdev == DeviceNumber::NONE;
    make(ctx, &dir, &last, false, |parent, name| {
        if kind.is_device() && !whiteout {
            ctx.creds.require(Cap::MKNOD)?;
            dev::check_access(kind, rdev, dev::DeviceAccess::MAKE)?;
        }
        let rdev = if kind.is_device() { rdev } else { DeviceNumber::NONE };
        let new = new_inode(ctx, parent, kind, mode, rdev, b"");
        create_in(parent, name, &new)
    })
}

/// `symlink(2)`.
pub fn symlink(ctx: &Context<'_>, target: &[u8], base: &Path, name: &[u8]) -> Result<()> {
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let (dir, last) = place(ctx, base, name)?;
    make(ctx, &dir, &last, false, |parent, name| {
        let new = new_inode(ctx, parent, FileKind::Symlink, 0o777, DeviceNumber::NONE, target);
        create_in(parent, name, &new)
    })?;
    Ok(())
}

/// `linkat(2)` of an existing name. `flags` say whether `old` is followed or may be empty.
pub fn link(
    ctx: &Context<'_>,
    old_base: &Path,
    old: &[u8],
    flags: Walk,
    new_base: &Path,
    new: &[u8],
) -> Result<()> {
    let source = walk(ctx, old_base, old, flags)?;
    link_path(ctx, &source, new_base, new)
}

/// `linkat(2)` with `AT_EMPTY_PATH` or through `/proc/self/fd`: gives an open file a name.
pub fn link_open_file(ctx: &Context<'_>, file: &File, base: &Path, name: &[u8]) -> Result<()> {
    link_path(ctx, &file.path, base, name)
}

fn link_path(ctx: &Context<'_>, source: &Path, base: &Path, name: &[u8]) -> Result<()> {
    let inode = source.inode()?;
    let (dir, last) = place(ctx, base, name)?;
    if !Arc::ptr_eq(&source.mount, &dir.mount) {
        return Err(Errno::EXDEV);
    }
    perm::may_link(&inode, ctx.creds)?;
    make(ctx, &dir, &last, false, |parent, name| {
        if !Arc::ptr_eq(parent.sb(), inode.sb()) {
            return Err(Errno::EXDEV);
        }
        if inode.has(InodeFlags::APPEND | InodeFlags::IMMUTABLE) || inode.is_dir() {
            return Err(Errno::EPERM);
        }
        let _held = inode.lock().write();
        if inode.nlink() == 0 && !inode.has(InodeFlags::LINKABLE) {
            return Err(Errno::ENOENT);
        }
        parent.ops().link(parent, name, &inode)?;
        inode.clear_flags(InodeFlags::LINKABLE);
        Ok(inode.clone())
    })?;
    notify::to_inode(&inode, IN_ATTRIB);
    Ok(())
}

/// The entry to remove, with the directory locked.
fn victim(dir: &Path, parent: &Arc<Inode>, last: &LastName) -> Result<(Arc<Dentry>, Arc<Inode>)> {
    let dentry = lookup_locked(&dir.dentry, parent, last.name.bytes(), last.hash)?;
    let dentry = dentry.ok_or(Errno::ENOENT)?;
    let inode = dentry.inode().ok_or(Errno::ENOENT)?;
    Ok((dentry, inode))
}

/// `unlink(2)`.
pub fn unlink(ctx: &Context<'_>, base: &Path, name: &[u8]) -> Result<()> {
    let (dir, last) = walk_parent(ctx, base, name, Walk::empty())?;
    let last = last.name(Errno::EISDIR)?;
    let parent = dir.inode()?;
    let writer: MountWriter = dir.mount.want_write()?;
    let (freed, inode): (Option<InodeRef>, Arc<Inode>);
    {
        let _held = parent.lock().write();
        let (dentry, target) = victim(&dir, &parent, &last)?;
        if last.trailing {
            return Err(if target.is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        perm::may_delete(&parent, &target, Victim::File, ctx.creds)?;
        {
            let _target_held = target.lock().write();
            if is_local_mountpoint(&dentry, ctx.mounts) {
                return Err(Errno::EBUSY);
            }
            parent.ops().unlink(&parent, last.name.bytes(), &target)?;
        }
        detach_at(&dentry);
        freed = dcache::delete(&dentry, keeps_negative(&parent));
        inode = target;
    }
    removed(&parent, last.name.bytes(), &inode);
    drop(freed);
    drop(writer);
    Ok(())
}

pub(super) fn keeps_negative(dir: &Inode) -> bool {
    !dir.has(InodeFlags::NO_NEGATIVE | InodeFlags::REVALIDATE)
}

/// Tells watchers that a name went.
fn removed(parent: &Inode, name: &[u8], inode: &Inode) {
    if !inode.is_dir() {
        // The number of its links is an attribute. The end itself is told when nobody uses it.
        notify::to_inode(inode, IN_ATTRIB);
    }
    notify::in_directory(parent, name, IN_DELETE, 0, Some(inode));
}

/// `rmdir(2)`.
pub fn rmdir(ctx: &Context<'_>, base: &Path, name: &[u8]) -> Result<()> {
    let (dir, last) = walk_parent(ctx, base, name, Walk::empty())?;
    let last = match last {
        Last::Name(name) => name,
        Last::Dot => return Err(Errno::EINVAL),
        Last::DotDot => return Err(Errno::ENOTEMPTY),
        Last::Root => return Err(Errno::EBUSY),
    };
    let parent = dir.inode()?;
    let writer = dir.mount.want_write()?;
    let (freed, inode): (Option<InodeRef>, Arc<Inode>);
    {
        let _held = parent.lock().write();
        let (dentry, target) = victim(&dir, &parent, &last)?;
        perm::may_delete(&parent, &target, Victim::Directory, ctx.creds)?;
        {
            let _target_held = target.lock().write_nested();
            if is_local_mountpoint(&dentry, ctx.mounts) {
                return Err(Errno::EBUSY);
            }
            parent.ops().rmdir(&parent, last.name.bytes(), &target)?;
            target.set_flags(InodeFlags::DEAD);
        }
        detach_at(&dentry);
        freed = dcache::delete(&dentry, keeps_negative(&parent));
        inode = target;
    }
    removed(&parent, last.name.bytes(), &inode);
    drop(freed);
    drop(writer);
    Ok(())
}

/// `readlink(2)`; an empty name means the base itself. `EINVAL` if it is not a link.
pub fn readlink(ctx: &Context<'_>, base: &Path, name: &[u8]) -> Result<Arc<[u8]>> {
    let path = walk(ctx, base, name, Walk::EMPTY)?;
    let inode = path.inode()?;
    if inode.kind != FileKind::Symlink {
        // man 2 readlink: with an empty path the descriptor must refer to a link.
        return Err(if name.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    crate::atime::touch(&path.mount, &inode);
    inode.ops().readlink(&inode, ctx)
}
