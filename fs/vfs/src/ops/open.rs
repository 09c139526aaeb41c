//! `openat2(2)` and everything that opens files.

use alloc::format;
use alloc::sync::Arc;

use abi::fcntl::*;
use abi::inotify::{IN_CREATE, IN_OPEN};
use abi::mount::{MS_NODEV, MS_NOEXEC};
use abi::{Errno, Result};

use super::entries::enter;
use super::{attr, create_in, new_inode};
use crate::acl;
use crate::context::Context;
use crate::dentry::Dentry;
use crate::dev;
use crate::file::{File, FileInit, FileMode, FileOps};
use crate::inode::Inode;
use crate::lease::Patience;
use crate::mount::MountWriter;
use crate::notify;
use crate::path::Path;
use crate::perm;
use crate::types::*;
use crate::walk::{Last, LastName, Walk, Walker, lookup_locked, lookup_slow, walk};

/// How to open, decoded and checked by the system-call layer.
#[derive(Clone, Copy, Debug)]
pub struct OpenHow {
    /// `O_*`.
    pub flags: u32,
    /// Permission bits of a new file; the umask is applied here.
    pub mode: u32,
    /// `RESOLVE_*` restrictions as walk flags.
    pub walk: Walk,
    /// `Access::EXEC` for `execve`, `uselib`; empty otherwise.
    pub execute: bool,
}

impl OpenHow {
    /// Plain `open(2)`.
    pub fn new(flags: u32, mode: u32) -> OpenHow {
        OpenHow { flags, mode, walk: Walk::empty(), execute: false }
    }

    /// To execute: read-only, regular files only.
    pub fn execute() -> OpenHow {
        OpenHow { flags: O_RDONLY, mode: 0, walk: Walk::empty(), execute: true }
    }

    fn walk_flags(&self) -> Walk {
        let mut walk = self.walk;
        if self.flags & O_NOFOLLOW == 0 {
            walk |= Walk::FOLLOW;
        }
        if self.flags & O_DIRECTORY != 0 {
            walk |= Walk::DIRECTORY;
        }
        walk
    }
}

/// Nothing can be done with an `O_PATH` file.
struct PathOnly;

impl FileOps for PathOnly {
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

fn path_only() -> Arc<dyn FileOps> {
    static OPS: arch::lock::Once<Arc<PathOnly>> = arch::lock::Once::new();
    OPS.call_once(|| Arc::new(PathOnly)).clone()
}

/// `openat2(2)`.
pub fn open(ctx: &Context<'_>, base: &Path, name: &[u8], how: &OpenHow) -> Result<Arc<File>> {
    if how.flags & O_PATH != 0 {
        let path = walk(ctx, base, name, how.walk_flags())?;
        return open_path(ctx, path, how.flags);
    }
    if how.flags & O_TMPFILE_BIT != 0 {
        let path = walk(ctx, base, name, how.walk_flags() | Walk::DIRECTORY)?;
        return tmpfile_in(ctx, &path, how);
    }
    if how.flags & O_CREAT == 0 {
        let path = walk(ctx, base, name, how.walk_flags())?;
        return open_found(ctx, path, how, Existing::Yes);
    }
    open_create(ctx, base, name, how)
}

/// A file opened with `O_PATH`.
pub fn open_path(ctx: &Context<'_>, path: Path, flags: u32) -> Result<Arc<File>> {
    crate::filecount::check(ctx.creds)?;
    let inode = path.inode()?;
    let flags = flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW);
    let creds = ctx.creds.clone();
    Ok(File::new(FileInit { ops: path_only(), inode, path, creds, flags, mode: FileMode::PATH }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Yes,
    /// Just made by this call: permission is not asked, nothing is truncated.
    No,
}

fn open_create(ctx: &Context<'_>, base: &Path, name: &[u8], how: &OpenHow) -> Result<Arc<File>> {
    let mut walker = Walker::new(ctx, base, name, how.walk, true)?;
    loop {
        let last = match walker.parent()? {
            Last::Name(last) => last,
            // The walk ended in a magic link, or at a directory.
            Last::Dot | Last::DotDot | Last::Root => {
                if how.flags & O_EXCL != 0 {
                    return Err(Errno::EEXIST);
                }
                let path = walker.at.clone();
                if path.inode()?.is_dir() {
                    return Err(Errno::EISDIR);
                }
                return open_found(ctx, path, how, Existing::Yes);
            }
        };
        if last.trailing || walker.trailing() {
            return Err(Errno::EISDIR);
        }
        let (dentry, existing) = find_or_create(ctx, &walker.at, &last, how)?;
        let dir = walker.at.clone();
        if existing == Existing::No {
            let path = Path { mount: dir.mount, dentry };
            return open_found(ctx, path, how, Existing::No);
        }
        if how.flags & O_EXCL != 0 {
            return Err(Errno::EEXIST);
        }
        let inode = dentry.inode().ok_or(Errno::ENOENT)?;
        if inode.kind == FileKind::Symlink {
            if how.flags & O_NOFOLLOW != 0 {
                return Err(Errno::ELOOP);
            }
            walker.follow(&dentry, true)?;
            continue;
        }
        perm::may_create_in_sticky(&*dir.inode()?, &inode, ctx.creds)?;
        walker.step_onto(dentry)?;
        let path = walker.at.clone();
        if how.flags & O_DIRECTORY != 0 && !path.inode()?.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        return open_found(ctx, path, how, Existing::Yes);
    }
}

fn find_or_create(
    ctx: &Context<'_>,
    dir: &Path,
    last: &LastName,
    how: &OpenHow,
) -> Result<(Arc<Dentry>, Existing)> {
    let parent = dir.inode()?;
    if !parent.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let name = last.name.bytes();
    // What exists is usually cached: no need for the directory's lock.
    if let Some(dentry) = lookup_slow_cached(dir, last)
        && dentry.is_positive()
    {
        return Ok((dentry, Existing::Yes));
    }
    let writer = dir.mount.want_write();
    let held = parent.lock().write();
    let found = lookup_locked(&dir.dentry, &parent, name, last.hash)?;
    if let Some(dentry) = &found
        && dentry.is_positive()
    {
        return Ok((dentry.clone(), Existing::Yes));
    }
    let _writer = writer?;
    perm::may_create(&parent, ctx.creds)?;
    let new = new_inode(ctx, &parent, FileKind::Regular, how.mode, DeviceNumber::NONE, b"");
    let inode = create_in(&parent, name, &new)?;
    let dentry = enter(&dir.dentry, found, last, inode.clone());
    drop(held);
    notify::in_directory(&parent, name, IN_CREATE, 0, Some(&inode));
    Ok((dentry, Existing::No))
}

fn lookup_slow_cached(dir: &Path, last: &LastName) -> Option<Arc<Dentry>> {
    let inode = dir.dentry.inode()?;
    if inode.has(InodeFlags::REVALIDATE) {
        return lookup_slow(dir, last.name.bytes(), last.hash).ok().flatten();
    }
    crate::dcache::lookup(&dir.dentry, last.name.bytes(), last.hash)
}

/// What an open asks permission for.
fn wanted(how: &OpenHow) -> Access {
    let mut access = match how.flags & O_ACCMODE {
        O_RDONLY => Access::READ,
        O_WRONLY => Access::WRITE,
        _ => Access::READ | Access::WRITE,
    };
    if how.flags & O_TRUNC != 0 {
        access |= Access::WRITE;
    }
    if how.execute {
        access = Access::EXEC;
    }
    access
}

fn writes(how: &OpenHow) -> bool {
    how.flags & O_ACCMODE != O_RDONLY
}

/// The checks `open` makes on what it found.
fn may_open(ctx: &Context<'_>, path: &Path, inode: &Arc<Inode>, how: &OpenHow) -> Result<()> {
    let access = wanted(how);
    match inode.kind {
        FileKind::Symlink => return Err(Errno::ELOOP),
        FileKind::Directory if access.contains(Access::WRITE) || how.flags & O_CREAT != 0 => {
            return Err(Errno::EISDIR);
        }
        FileKind::CharDevice | FileKind::BlockDevice if path.mount.has(MS_NODEV) => {
            return Err(Errno::EACCES);
        }
        _ => {}
    }
    if how.execute {
        // man 2 execve: only regular files, and not from noexec mounts.
        if inode.kind != FileKind::Regular || path.mount.has(MS_NOEXEC) {
            return Err(Errno::EACCES);
        }
    }
    perm::permission(inode, access, ctx.creds)?;
    if inode.has(InodeFlags::APPEND) {
        if writes(how) && how.flags & O_APPEND == 0 {
            return Err(Errno::EPERM);
        }
        if how.flags & O_TRUNC != 0 {
            return Err(Errno::EPERM);
        }
    }
    if how.flags & O_NOATIME != 0 && !perm::is_owner_or_capable(inode, ctx.creds) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn open_found(
    ctx: &Context<'_>,
    path: Path,
    how: &OpenHow,
    existing: Existing,
) -> Result<Arc<File>> {
    let inode = path.inode()?;
    let truncates =
        how.flags & O_TRUNC != 0 && existing == Existing::Yes && inode.kind == FileKind::Regular;
    // A truncation needs a writable mount even if the file is only read afterwards.
    let _truncating = if truncates { Some(path.mount.want_write()?) } else { None };
    if existing == Existing::Yes {
        may_open(ctx, &path, &inode, how)?;
        let patience = if how.flags & O_NONBLOCK != 0 { Patience::None } else { Patience::Wait };
        let changes = writes(how) || how.flags & O_TRUNC != 0;
        crate::lease::break_leases(&inode, changes, patience)?;
    }
    let file = open_inode(ctx, path, &inode, how.flags)?;
    if truncates {
        // The new file object holds write access if it writes.
        if !writes(how) {
            inode.get_write_access()?;
        }
        let result = attr::resize(ctx, &file.path, &inode, 0);
        if !writes(how) {
            inode.put_write_access();
        }
        result?;
    }
    notify::to_file(&file, IN_OPEN);
    Ok(file)
}

/// Opens an inode without asking for permission. `flags` are `O_*`.
pub fn open_inode(
    ctx: &Context<'_>,
    path: Path,
    inode: &Arc<Inode>,
    flags: u32,
) -> Result<Arc<File>> {
    crate::filecount::check(ctx.creds)?;
    let writing = flags & O_ACCMODE != O_RDONLY;
    let special = matches!(
        inode.kind,
        FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket
    );
    // Writing to a device does not change the file system it is on.
    let mut hold: Option<MountWriter> = None;
    if writing && !special {
        hold = Some(path.mount.want_write()?);
        if inode.kind == FileKind::Regular {
            inode.get_write_access()?;
        }
    }
    let counted = hold.is_some() && inode.kind == FileKind::Regular;
    let opened = if special {
        dev::open_special(inode, flags, ctx).map(|opened| (opened.ops, opened.mode))
    } else {
        let mut mode = FileMode::SEEK | FileMode::POSITIONAL | FileMode::LOCK_POSITION;
        if inode.kind == FileKind::Regular {
            mode |= FileMode::NOWAIT;
        }
        inode.ops().open(inode, flags, ctx).map(|ops| (ops, mode))
    };
    let (ops, mode) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            if counted {
                inode.put_write_access();
            }
            return Err(error);
        }
    };
    let init = FileInit { ops, inode: inode.clone(), path, creds: ctx.creds.clone(), flags, mode };
    let file = match hold {
        Some(mount) => File::new_writer(init, mount, counted),
        None => File::new(init),
    };
    if flags & O_DIRECT != 0 && !file.ops().supports_direct(&file) {
        return Err(Errno::EINVAL);
    }
    Ok(file)
}

/// `O_TMPFILE` in the directory `dir`.
pub fn tmpfile_in(ctx: &Context<'_>, dir: &Path, how: &OpenHow) -> Result<Arc<File>> {
    let parent = dir.inode()?;
    let _writer = dir.mount.want_write()?;
    perm::permission(&parent, Access::WRITE | Access::EXEC, ctx.creds)?;
    let new = new_inode(ctx, &parent, FileKind::Regular, how.mode, DeviceNumber::NONE, b"");
    let inode = acl::inheriting(&parent, &new, |new| parent.ops().tmpfile(&parent, new), |_| ())?;
    if how.flags & O_EXCL == 0 {
        inode.set_flags(InodeFlags::LINKABLE);
    }
    let name = format!("/#{}", inode.ino);
    let dentry = Dentry::new_disconnected(inode.clone(), name.as_bytes());
    let path = Path { mount: dir.mount.clone(), dentry };
    open_inode(ctx, path, &inode, how.flags & !O_TMPFILE_BIT)
}
