//! Inodes of tmpfs.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::fcntl::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use pagecache::Mapping;
use vfs::{
    Attr, Context, FileKind, FileOps, Inode, InodeFlags, InodeInit, InodeOps, Link, NewInode,
    RenameEnd, RenameFlags, SetAttr, SuperBlock, Time,
};

use crate::dir::{Directory, START};
use crate::file::{DirFile, TmpFile};
use crate::superblock::TmpSuper;

static DIR: LockClass = LockClass::new("tmpfs.dir", 310);
static XATTR: LockClass = LockClass::new("tmpfs.xattr", 311);

/// What each entry adds to the size of its directory.
const ENTRY_SIZE: u64 = 20;
const MAX_LINKS: u32 = u32::MAX - 1;

enum Body {
    File,
    Dir(SpinLock<Directory>, SpinLock<Weak<Inode>>),
    Link(Arc<[u8]>),
    Special,
}

/// Extended attributes: values by name.
type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// tmpfs's part of an inode.
pub struct TmpInode {
    body: Body,
    xattrs: SpinLock<Xattrs>,
    /// `F_SEAL_*`.
    pub(crate) seals: AtomicU32,
    /// Pages charged to the super block.
    charged: AtomicU64,
    /// Shared maps that may be written.
    pub(crate) writable_maps: AtomicU32,
}

impl TmpInode {
    fn new(body: Body) -> TmpInode {
        TmpInode {
            body,
            xattrs: SpinLock::new(&XATTR, BTreeMap::new()),
            seals: AtomicU32::new(F_SEAL_SEAL),
            charged: AtomicU64::new(0),
            writable_maps: AtomicU32::new(0),
        }
    }

    fn dir(&self) -> Result<&SpinLock<Directory>> {
        match &self.body {
            Body::Dir(entries, _) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The directory's entries, for listing.
    pub(crate) fn entries(&self) -> Result<&SpinLock<Directory>> {
        self.dir()
    }

    /// The number of the parent directory.
    pub(crate) fn parent_ino(&self, inode: &Inode) -> u64 {
        match &self.body {
            Body::Dir(_, parent) => parent.lock().upgrade().map_or(inode.ino, |p| p.ino),
            _ => inode.ino,
        }
    }

    fn set_parent(&self, dir: &Arc<Inode>) {
        if let Body::Dir(_, parent) = &self.body {
            *parent.lock() = Arc::downgrade(dir);
        }
    }

    /// Whether a seal forbids it.
    pub(crate) fn sealed(&self, seals: u32) -> bool {
        // Relaxed: adding a seal takes the inode's lock, as do all who ask.
        self.seals.load(Ordering::Relaxed) & seals != 0
    }

    /// Brings the charge in line with the pages there are.
    pub(crate) fn settle(&self, inode: &Inode) {
        let (Some(mapping), Some(sb)) = (inode.mapping(), inode.sb().private::<TmpSuper>()) else {
            return;
        };
        let now = mapping.cached_pages() as u64;
        let before = self.charged.swap(now, Ordering::Relaxed);
        sb.adjust_pages(now as i64 - before as i64);
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        // Entries may nest deeply: they are dropped without recursion.
        if let Body::Dir(entries, _) = &mut self.body {
            flatten(take_all(entries.get_mut()));
        }
    }
}

/// Empties a directory.
fn take_all(entries: &mut Directory) -> Vec<Arc<Inode>> {
    let names: Vec<Box<[u8]>> = entries.older(START).map(|(_, name, _)| name.into()).collect();
    names.iter().filter_map(|name| entries.remove(name)).collect()
}

/// Drops a forest of inodes without recursion.
fn flatten(mut pending: Vec<Arc<Inode>>) {
    while let Some(inode) = pending.pop() {
        if let Some(tmp) = inode.private::<TmpInode>()
            && let Ok(entries) = tmp.dir()
            && Arc::strong_count(&inode) == 1
        {
            pending.append(&mut take_all(&mut entries.lock()));
        }
    }
}

/// A new inode of `sb`, charged to its inode limit.
pub(crate) fn make(sb: &Arc<SuperBlock>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
    let tmp = sb.private::<TmpSuper>().ok_or(Errno::EIO)?;
    let ino = tmp.take_inode()?;
    let mut init = InodeInit::new(ino, new);
    init.flags |= InodeFlags::NOSEC;
    let (body, mapping) = match new.kind {
        FileKind::Regular => {
            init.flags |= InodeFlags::OWN_GETATTR;
            (Body::File, Some(Mapping::without_backing(0)))
        }
        FileKind::Directory => {
            init.size = 2 * ENTRY_SIZE;
            let entries = SpinLock::new(&DIR, Directory::new());
            (Body::Dir(entries, SpinLock::new(&DIR, Weak::new())), None)
        }
        FileKind::Symlink => {
            init.size = new.target.len() as u64;
            (Body::Link(new.target.into()), None)
        }
        _ => (Body::Special, None),
    };
    Ok(Inode::new(sb, &init, Arc::new(TmpInode::new(body)), mapping))
}

fn tmp(inode: &Inode) -> Result<&TmpInode> {
    inode.private().ok_or(Errno::EXDEV)
}

fn changed(dir: &Inode, entries: i64) {
    let size = dir.size() as i64 + entries * ENTRY_SIZE as i64;
    dir.set_size(size.max(0) as u64);
    dir.touch(Time::now());
    dir.bump_version();
}

impl InodeOps for TmpInode {
    fn lookup(&self, _dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Ok(self.dir()?.lock().get(name).cloned())
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let inode = make(dir.sb(), new)?;
        if new.kind == FileKind::Directory {
            tmp(&inode)?.set_parent(dir);
            dir.add_link();
        }
        self.dir()?.lock().insert(name, inode.clone());
        changed(dir, 1);
        Ok(inode)
    }

    fn link(&self, dir: &Arc<Inode>, name: &[u8], target: &Arc<Inode>) -> Result<()> {
        if target.nlink() >= MAX_LINKS {
            return Err(Errno::EMLINK);
        }
        self.dir()?.lock().insert(name, target.clone());
        target.add_link();
        target.set_ctime(Time::now());
        changed(dir, 1);
        Ok(())
    }

    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        let removed = self.dir()?.lock().remove(name);
        removed.ok_or(Errno::ENOENT)?;
        victim.drop_link();
        victim.set_ctime(Time::now());
        changed(dir, -1);
        Ok(())
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        if tmp(victim)?.dir()?.lock().len() != 0 {
            return Err(Errno::ENOTEMPTY);
        }
        let removed = self.dir()?.lock().remove(name);
        removed.ok_or(Errno::ENOENT)?;
        victim.set_nlink(0);
        victim.set_ctime(Time::now());
        dir.drop_link();
        changed(dir, -1);
        Ok(())
    }

    fn rename(
        &self,
        old: RenameEnd<'_>,
        moved: &Arc<Inode>,
        new: RenameEnd<'_>,
        replaced: Option<&Arc<Inode>>,
        flags: RenameFlags,
    ) -> Result<()> {
        let (from, to) = (tmp(old.dir)?, tmp(new.dir)?);
        if flags.contains(RenameFlags::EXCHANGE) {
            return exchange(from, to, old, moved, new, replaced.ok_or(Errno::ENOENT)?);
        }
        let whiteout = if flags.contains(RenameFlags::WHITEOUT) {
            Some(make(old.dir.sb(), &NewInode::whiteout(moved))?)
        } else {
            None
        };
        if let Some(target) = replaced {
            if let Ok(entries) = tmp(target)?.dir() {
                if entries.lock().len() != 0 {
                    return Err(Errno::ENOTEMPTY);
                }
                target.set_nlink(0);
                new.dir.drop_link();
            } else {
                target.drop_link();
            }
            target.set_ctime(Time::now());
            let gone = to.dir()?.lock().remove(new.name);
            drop(gone);
            changed(new.dir, -1);
        }
        let gone = from.dir()?.lock().remove(old.name);
        drop(gone);
        changed(old.dir, -1);
        to.dir()?.lock().insert(new.name, moved.clone());
        changed(new.dir, 1);
        if moved.is_dir() && !Arc::ptr_eq(old.dir, new.dir) {
            old.dir.drop_link();
            new.dir.add_link();
            tmp(moved)?.set_parent(new.dir);
        }
        if let Some(node) = whiteout {
            from.dir()?.lock().insert(old.name, node);
            changed(old.dir, 1);
        }
        moved.set_ctime(Time::now());
        Ok(())
    }

    fn tmpfile(&self, dir: &Arc<Inode>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let inode = make(dir.sb(), new)?;
        inode.set_nlink(0);
        Ok(inode)
    }

    fn follow(&self, _inode: &Arc<Inode>, _ctx: &Context<'_>) -> Result<Link> {
        match &self.body {
            Body::Link(target) => Ok(Link::Text(target.clone())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn link_text(&self) -> Option<Arc<[u8]>> {
        match &self.body {
            Body::Link(target) => Some(target.clone()),
            _ => None,
        }
    }

    fn getattr(&self, inode: &Inode, attr: &mut Attr) -> Result<()> {
        self.settle(inode);
        attr.blocks = self.charged.load(Ordering::Relaxed) * 8;
        Ok(())
    }

    fn setattr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        if let (Some(size), Some(mapping)) = (change.size, inode.mapping()) {
            let old = inode.size();
            if (size < old && self.sealed(F_SEAL_SHRINK))
                || (size > old && self.sealed(F_SEAL_GROW))
            {
                return Err(Errno::EPERM);
            }
            if size != old {
                mapping.truncate(size)?;
                self.settle(inode);
            }
        }
        inode.apply(change);
        Ok(())
    }

    fn get_xattr(&self, _inode: &Arc<Inode>, name: &[u8], value: &mut Vec<u8>) -> Result<()> {
        supported(name)?;
        let xattrs = self.xattrs.lock();
        value.extend_from_slice(xattrs.get(name).ok_or(Errno::ENODATA)?);
        Ok(())
    }

    fn set_xattr(&self, inode: &Arc<Inode>, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        supported(name)?;
        let (key, boxed): (Box<[u8]>, Box<[u8]>) = (name.into(), value.into());
        let mut xattrs = self.xattrs.lock();
        match (xattrs.contains_key(name), flags) {
            (true, XATTR_CREATE) => return Err(Errno::EEXIST),
            (false, XATTR_REPLACE) => return Err(Errno::ENODATA),
            _ => {}
        }
        xattrs.insert(key, boxed);
        inode.clear_flags(InodeFlags::NOSEC);
        Ok(())
    }

    fn remove_xattr(&self, _inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        supported(name)?;
        let removed = self.xattrs.lock().remove(name);
        removed.map(|_| ()).ok_or(Errno::ENODATA)
    }

    fn list_xattr(&self, _inode: &Arc<Inode>, names: &mut Vec<u8>) -> Result<()> {
        for name in self.xattrs.lock().keys() {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(())
    }

    fn open(
        &self,
        _inode: &Arc<Inode>,
        _flags: u32,
        _ctx: &Context<'_>,
    ) -> Result<Arc<dyn FileOps>> {
        match &self.body {
            Body::File => Ok(TmpFile::shared()),
            Body::Dir(..) => Ok(DirFile::shared()),
            _ => Err(Errno::ENXIO),
        }
    }

    fn evict(&self, inode: &Arc<Inode>) {
        if let Some(mapping) = inode.mapping() {
            if mapping.truncate(0).is_err() {
                log::warn!("tmpfs: inode {} keeps pages", inode.ino);
            }
            self.settle(inode);
        }
        if let Some(sb) = inode.sb().private::<TmpSuper>() {
            sb.give_inode();
            sb.named.remove(inode.ino);
        }
    }

    fn file_handle(&self, inode: &Arc<Inode>) -> Option<(i32, Vec<u8>)> {
        inode.sb().private::<TmpSuper>()?.named.insert(inode.clone());
        let mut bytes = inode.generation.to_le_bytes().to_vec();
        bytes.extend_from_slice(&inode.ino.to_le_bytes());
        Some((HANDLE, bytes))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The type of a handle: the generation (32 bits) and the number (64 bits).
const HANDLE: i32 = 1;

/// The generation and number in a handle.
pub(crate) fn parse_handle(kind: i32, handle: &[u8]) -> Option<(u32, u64)> {
    let (generation, rest) = handle.split_first_chunk::<4>()?;
    let ino = rest.first_chunk::<8>()?;
    (kind == HANDLE).then(|| (u32::from_le_bytes(*generation), u64::from_le_bytes(*ino)))
}

fn exchange(
    from: &TmpInode,
    to: &TmpInode,
    old: RenameEnd<'_>,
    moved: &Arc<Inode>,
    new: RenameEnd<'_>,
    other: &Arc<Inode>,
) -> Result<()> {
    let first = from.dir()?.lock().replace(old.name, other.clone());
    let second = to.dir()?.lock().replace(new.name, moved.clone());
    drop((first, second));
    if !Arc::ptr_eq(old.dir, new.dir) {
        if moved.is_dir() != other.is_dir() {
            let (gains, loses) =
                if moved.is_dir() { (new.dir, old.dir) } else { (old.dir, new.dir) };
            gains.add_link();
            loses.drop_link();
        }
        tmp(moved)?.set_parent(new.dir);
        tmp(other)?.set_parent(old.dir);
    }
    let now = Time::now();
    for inode in [moved, other] {
        inode.set_ctime(now);
    }
    old.dir.touch(now);
    new.dir.touch(now);
    Ok(())
}

/// tmpfs keeps `trusted.` and `security.` attributes.
fn supported(name: &[u8]) -> Result<()> {
    let prefixes: [&[u8]; 3] = [b"trusted.", b"security.", b"system.posix_acl_"];
    if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
        Ok(())
    } else {
        Err(Errno::EOPNOTSUPP)
    }
}
