//! `renameat2(2)`.
//!
//! Lock order: the super block's rename lock (only between different directories), the two
//! directories (ancestor first, else by address), then the replaced entry and the moved directory.

use alloc::sync::Arc;

use abi::inotify::*;
use abi::{Errno, Result};

use super::entries::keeps_negative;
use crate::context::Context;
use crate::cred::Cap;
use crate::dcache;
use crate::dentry::Dentry;
use crate::inode::{Inode, InodeRef};
use crate::inode_ops::RenameEnd;
use crate::mount::{detach_at, is_local_mountpoint};
use crate::notify;
use crate::path::Path;
use crate::perm::{self, Victim};
use crate::types::*;
use crate::walk::{LastName, Walk, lookup_locked, spelling, walk_parent};

/// `renameat2(2)`.
pub fn rename(
    ctx: &Context<'_>,
    old_base: &Path,
    old: &[u8],
    new_base: &Path,
    new: &[u8],
    flags: RenameFlags,
) -> Result<()> {
    let exclusive = RenameFlags::NOREPLACE | RenameFlags::WHITEOUT;
    if flags.contains(RenameFlags::EXCHANGE) && flags.intersects(exclusive) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(RenameFlags::WHITEOUT) {
        ctx.creds.require(Cap::MKNOD)?;
    }
    let (from, from_last) = walk_parent(ctx, old_base, old, Walk::empty())?;
    let (to, to_last) = walk_parent(ctx, new_base, new, Walk::empty())?;
    if !Arc::ptr_eq(&from.mount, &to.mount) {
        return Err(Errno::EXDEV);
    }
    let from_last = from_last.name(Errno::EBUSY)?;
    let busy = if flags.contains(RenameFlags::NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY };
    let to_last = to_last.name(busy)?;
    let _writer = from.mount.want_write()?;
    let sides =
        Sides { ctx, from: &from, from_last: &from_last, to: &to, to_last: &to_last, flags };
    let (from_dir, to_dir) = (from.inode()?, to.inode()?);
    let done = if Arc::ptr_eq(&from_dir, &to_dir) {
        let _held = from_dir.lock().write();
        sides.run(&from_dir, &to_dir)?
    } else {
        let _shape = from_dir.sb().rename.lock();
        // Whichever contains the other is locked first.
        let first_is_to = from.dentry.is_within(&to.dentry)
            || (!to.dentry.is_within(&from.dentry)
                && Arc::as_ptr(&to_dir).addr() < Arc::as_ptr(&from_dir).addr());
        let (first, second) = if first_is_to { (&to_dir, &from_dir) } else { (&from_dir, &to_dir) };
        let _first = first.lock().write();
        let _second = second.lock().write_nested();
        sides.run(&from_dir, &to_dir)?
    };
    done.announce(&sides, &from_dir, &to_dir);
    Ok(())
}

struct Sides<'a> {
    ctx: &'a Context<'a>,
    from: &'a Path,
    from_last: &'a LastName,
    to: &'a Path,
    to_last: &'a LastName,
    flags: RenameFlags,
}

/// What a rename did, for what comes after the locks.
struct Done {
    moved: Arc<Inode>,
    replaced: Option<Arc<Inode>>,
    /// The replaced file's last use: dropped without locks.
    _freed: Option<InodeRef>,
    nothing: bool,
}

impl Sides<'_> {
    /// With both directories locked (and the tree's shape, if they differ).
    fn run(&self, from_dir: &Arc<Inode>, to_dir: &Arc<Inode>) -> Result<Done> {
        let exchange = self.flags.contains(RenameFlags::EXCHANGE);
        let creds = &**self.ctx.creds;
        let (from_name, to_name) = (self.from_last.name.bytes(), self.to_last.name.bytes());
        let source = lookup_locked(&self.from.dentry, from_dir, from_name, self.from_last.hash)?
            .ok_or(Errno::ENOENT)?;
        let moved = source.inode().ok_or(Errno::ENOENT)?;
        let target = lookup_locked(&self.to.dentry, to_dir, to_name, self.to_last.hash)?;
        let replaced = target.as_ref().and_then(|d| d.inode());
        if self.flags.contains(RenameFlags::NOREPLACE) && replaced.is_some() {
            return Err(Errno::EEXIST);
        }
        if exchange {
            let replaced = replaced.as_ref().ok_or(Errno::ENOENT)?;
            if !replaced.is_dir() && self.to_last.trailing {
                return Err(Errno::ENOTDIR);
            }
        }
        // Trailing slashes ask for a directory on both sides.
        if !moved.is_dir() {
            if self.from_last.trailing {
                return Err(Errno::ENOTDIR);
            }
            if !exchange && self.to_last.trailing {
                return Err(Errno::ENOTDIR);
            }
        }
        // A directory cannot go into itself, nor replace what contains it.
        if self.to.dentry.is_within(&source) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = &target
            && self.from.dentry.is_within(target)
        {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if replaced.as_ref().is_some_and(|r| Arc::ptr_eq(r, &moved)) {
            // man 2 rename: two names of the same file: nothing happens.
            return Ok(Done { moved, replaced: None, _freed: None, nothing: true });
        }
        self.check(from_dir, to_dir, &moved, replaced.as_ref(), creds)?;
        let mounted = |d: &Arc<Dentry>| is_local_mountpoint(d, self.ctx.mounts);
        if mounted(&source) || target.as_ref().is_some_and(mounted) {
            return Err(Errno::EBUSY);
        }
        self.call(from_dir, to_dir, &moved, replaced.as_ref())?;
        let freed = self.update_cache((from_dir, to_dir), &source, target, exchange);
        Ok(Done { moved, replaced, _freed: freed, nothing: false })
    }

    fn check(
        &self,
        from_dir: &Arc<Inode>,
        to_dir: &Arc<Inode>,
        moved: &Arc<Inode>,
        replaced: Option<&Arc<Inode>>,
        creds: &crate::cred::Creds,
    ) -> Result<()> {
        let exchange = self.flags.contains(RenameFlags::EXCHANGE);
        perm::may_delete(from_dir, moved, Victim::Any, creds)?;
        match replaced {
            None => perm::may_create(to_dir, creds)?,
            Some(replaced) => {
                let kind = match (exchange, moved.is_dir()) {
                    (true, _) => Victim::Any,
                    (false, true) => Victim::Directory,
                    (false, false) => Victim::File,
                };
                perm::may_delete(to_dir, replaced, kind, creds)?;
            }
        }
        if !Arc::ptr_eq(from_dir, to_dir) {
            // Changing `..` of a directory writes to it.
            if moved.is_dir() {
                perm::permission(moved, Access::WRITE, creds)?;
            }
            if let (true, Some(replaced)) = (exchange, replaced)
                && replaced.is_dir()
            {
                perm::permission(replaced, Access::WRITE, creds)?;
            }
        }
        Ok(())
    }

    fn call(
        &self,
        from_dir: &Arc<Inode>,
        to_dir: &Arc<Inode>,
        moved: &Arc<Inode>,
        replaced: Option<&Arc<Inode>>,
    ) -> Result<()> {
        let old = RenameEnd { dir: from_dir, name: self.from_last.name.bytes() };
        let new = RenameEnd { dir: to_dir, name: self.to_last.name.bytes() };
        let rename = || from_dir.ops().rename(old, moved, new, replaced, self.flags);
        match replaced {
            Some(target) => {
                let _held = target.lock().write_nested();
                rename()?;
                if target.is_dir() && !self.flags.contains(RenameFlags::EXCHANGE) {
                    target.set_flags(InodeFlags::DEAD);
                }
                Ok(())
            }
            None => rename(),
        }
    }

    fn update_cache(
        &self,
        (from_dir, to_dir): (&Arc<Inode>, &Arc<Inode>),
        source: &Arc<Dentry>,
        target: Option<Arc<Dentry>>,
        exchange: bool,
    ) -> Option<InodeRef> {
        if exchange {
            if let Some(target) = &target {
                dcache::exchange(source, target);
            }
            return None;
        }
        let mut freed = None;
        if let Some(target) = target {
            detach_at(&target);
            // A negative dentry simply goes.
            freed = if target.is_positive() {
                dcache::delete(&target, false)
            } else {
                dcache::unhash(&target)
            };
        }
        let spelling = spelling(to_dir, self.to_last.name.bytes());
        let name = spelling.as_deref().unwrap_or(self.to_last.name.bytes());
        dcache::relocate(source, &self.to.dentry, name);
        let whiteout = self.flags.contains(RenameFlags::WHITEOUT);
        if !whiteout && keeps_negative(from_dir) {
            let (name, hash) = (self.from_last.name.bytes(), self.from_last.hash);
            dcache::insert(&self.from.dentry, name, hash, None);
        }
        freed
    }
}

impl Done {
    fn announce(&self, sides: &Sides<'_>, from_dir: &Inode, to_dir: &Inode) {
        if self.nothing {
            return;
        }
        let cookie = notify::next_cookie();
        let (from, to) = (sides.from_last.name.bytes(), sides.to_last.name.bytes());
        notify::in_directory(from_dir, from, IN_MOVED_FROM, cookie, Some(&self.moved));
        notify::in_directory(to_dir, to, IN_MOVED_TO, cookie, Some(&self.moved));
        notify::moved_self(&self.moved);
        let Some(replaced) = &self.replaced else { return };
        if sides.flags.contains(RenameFlags::EXCHANGE) {
            let cookie = notify::next_cookie();
            notify::in_directory(to_dir, to, IN_MOVED_FROM, cookie, Some(replaced));
            notify::in_directory(from_dir, from, IN_MOVED_TO, cookie, Some(replaced));
            notify::moved_self(replaced);
        } else if !replaced.is_dir() {
            notify::to_inode(replaced, IN_ATTRIB);
        }
    }
}
