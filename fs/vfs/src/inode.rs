//! Inodes: the files themselves, whatever their names.
//!
//! An [`Inode`]'s identity (`ino`, kind, device number, super block, operations) never changes.
//! What `chmod` and friends change is kept in atomics, so that permission checks and `stat` take
//! no lock; writers hold [`Inode::lock`] exclusively.
//!
//! **Life.** Memory is owned by `Arc`s and may outlive the file by an RCU grace period. The file
//! itself lives as long as it has links or *users*: hashed positive dentries, open files and
//! [`InodeRef`]s. When both counts are zero [`InodeOps::evict`] runs once, in the context of
//! whoever dropped the last user, so that the space of a removed file is free when `unlink` or
//! the last `close` returns.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use abi::stat::{S_IFMT, S_ISGID, S_ISUID, S_IXGRP};
use abi::{Errno, Result};
use arch::lock::{LockClass, Once};
use pagecache::Mapping;
use sched::RwLock;

use crate::extra::InodeExtra;
use crate::file::File;
use crate::inode_ops::{InodeOps, NewInode};
use crate::superblock::SuperBlock;
use crate::types::*;

/// Class of [`Inode::lock`] of everything but directories.
pub static INODE_LOCK: LockClass = LockClass::new("vfs.inode", 230);
/// Class of [`Inode::lock`] of a directory that is held alone or as the parent of another.
pub static DIR_LOCK: LockClass = LockClass::new("vfs.dir", 220);

/// What a file system says about a new [`Inode`].
#[derive(Clone, Copy, Debug)]
pub struct InodeInit {
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Device number of device nodes.
    pub rdev: DeviceNumber,
    /// Length in bytes.
    pub size: u64,
    /// Space in use, units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of metadata.
    pub ctime: Time,
    /// Birth.
    pub btime: Option<Time>,
    /// Generation number (`FS_IOC_GETVERSION`, file handles).
    pub generation: u32,
    /// Initial flags.
    pub flags: InodeFlags,
}

impl InodeInit {
    /// A new file with one link (two for a directory), born now.
    pub fn new(ino: u64, new: &NewInode<'_>) -> InodeInit {
        InodeInit {
            ino,
            mode: new.kind.mode_bits() | (new.mode & 0o7777),
            uid: new.uid,
            gid: new.gid,
            nlink: if new.kind == FileKind::Directory { 2 } else { 1 },
            rdev: new.rdev,
            size: 0,
            blocks: 0,
            atime: new.now,
            mtime: new.now,
            ctime: new.now,
            btime: Some(new.now),
            generation: 0,
            flags: InodeFlags::empty(),
        }
    }

    /// An inode of a pseudo file system: root's, stamped now.
    pub fn pseudo(ino: u64, mode: u32) -> InodeInit {
        let now = Time::now();
        InodeInit {
            ino,
            mode,
            uid: 0,
            gid: 0,
            nlink: if mode & S_IFMT == abi::stat::S_IFDIR { 2 } else { 1 },
            rdev: DeviceNumber::NONE,
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: None,
            generation: 0,
            flags: InodeFlags::empty(),
        }
    }
}

/// A file, directory, link, device … : see the module documentation.
pub struct Inode {
    /// Inode number, unique in its super block.
    pub ino: u64,
    /// Type; never changes.
    pub kind: FileKind,
    /// The device a device node names.
    pub rdev: DeviceNumber,
    /// Generation number.
    pub generation: u32,
    has_btime: bool,
    flags: AtomicU32,
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    nlink: AtomicU32,
    users: AtomicU32,
    /// > 0: open for writing so many times; < 0: being executed so many times.
    writers: AtomicI32,
    size: AtomicU64,
    blocks: AtomicU64,
    version: AtomicU64,
    atime: AtomicTime,
    mtime: AtomicTime,
    ctime: AtomicTime,
    btime: AtomicTime,
    ops: Arc<dyn InodeOps>,
    mapping: Option<Arc<Mapping>>,
    sb: Arc<SuperBlock>,
    lock: RwLock<()>,
    extra: Once<Box<InodeExtra>>,
}

impl Inode {
    /// An inode of `sb` with the file system's part `ops` and, for regular files (and directories
    /// and links kept in pages), the page cache `mapping`. It has no users yet.
    pub fn new(
        sb: &Arc<SuperBlock>,
        init: &InodeInit,
        ops: Arc<dyn InodeOps>,
        mapping: Option<Arc<Mapping>>,
    ) -> Arc<Inode> {
        Arc::new(Self::build(sb, init, ops, mapping))
    }

    /// Like [`Inode::new`] where the parts need a weak reference to the inode itself.
    pub fn new_cyclic(
        sb: &Arc<SuperBlock>,
        init: &InodeInit,
        parts: impl FnOnce(&Weak<Inode>) -> (Arc<dyn InodeOps>, Option<Arc<Mapping>>),
    ) -> Arc<Inode> {
        Arc::new_cyclic(|weak| {
            let (ops, mapping) = parts(weak);
            Self::build(sb, init, ops, mapping)
        })
    }

    fn build(
        sb: &Arc<SuperBlock>,
        init: &InodeInit,
        ops: Arc<dyn InodeOps>,
        mapping: Option<Arc<Mapping>>,
    ) -> Inode {
        let kind = FileKind::from_mode(init.mode).unwrap_or(FileKind::Anonymous);
        let class = if kind == FileKind::Directory { &DIR_LOCK } else { &INODE_LOCK };
        let device = if kind.is_device() { InodeFlags::DEVICE } else { InodeFlags::empty() };
        Inode {
            ino: init.ino,
            kind,
            rdev: init.rdev,
            generation: init.generation,
            has_btime: init.btime.is_some(),
            flags: AtomicU32::new((init.flags | device).bits()),
            mode: AtomicU32::new(init.mode),
            uid: AtomicU32::new(init.uid),
            gid: AtomicU32::new(init.gid),
            nlink: AtomicU32::new(init.nlink),
            users: AtomicU32::new(0),
            writers: AtomicI32::new(0),
            size: AtomicU64::new(init.size),
            blocks: AtomicU64::new(init.blocks),
            version: AtomicU64::new(0),
            atime: AtomicTime::new(init.atime),
            mtime: AtomicTime::new(init.mtime),
            ctime: AtomicTime::new(init.ctime),
            btime: AtomicTime::new(init.btime.unwrap_or_default()),
            ops,
            mapping,
            sb: sb.clone(),
            lock: RwLock::new(class, ()),
            extra: Once::new(),
        }
    }

    /// The super block this inode belongs to.
    pub fn sb(&self) -> &Arc<SuperBlock> {
        &self.sb
    }

    /// The operations.
    pub fn ops(&self) -> &dyn InodeOps {
        &*self.ops
    }

    /// The file system's own part, if this inode is of that file system.
    pub fn private<T: 'static>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    /// The page cache of this file.
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.mapping.as_ref()
    }

    /// Serialises changes: of a directory's entries, a file's size, attributes. Lookups in a
    /// directory hold it shared. Ordered before everything in the file system.
    pub fn lock(&self) -> &RwLock<()> {
        &self.lock
    }

    // Relaxed everywhere below: each is a lone number; orders of several are made by `lock`.

    /// Type and permission bits.
    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Relaxed)
    }

    /// Replaces the permission bits; the type stays.
    pub fn set_mode(&self, mode: u32) {
        let kind = self.mode() & S_IFMT;
        self.mode.store(kind | (mode & 0o7777), Ordering::Relaxed);
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.uid.load(Ordering::Relaxed)
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.gid.load(Ordering::Relaxed)
    }

    /// Replaces the owner.
    pub fn set_uid(&self, uid: u32) {
        self.uid.store(uid, Ordering::Relaxed);
    }

    /// Replaces the group.
    pub fn set_gid(&self, gid: u32) {
        self.gid.store(gid, Ordering::Relaxed);
    }

    /// Hard links.
    pub fn nlink(&self) -> u32 {
        self.nlink.load(Ordering::Relaxed)
    }

    /// Replaces the number of hard links.
    pub fn set_nlink(&self, nlink: u32) {
        self.nlink.store(nlink, Ordering::Relaxed);
    }

    /// One hard link more.
    pub fn add_link(&self) {
        self.nlink.fetch_add(1, Ordering::Relaxed);
    }

    /// One hard link less; stays at zero.
    pub fn drop_link(&self) {
        let _ = self.nlink.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    /// Length in bytes; the mapping's, where there is one. Acquire: pages below it have been written before it grew.
    pub fn size(&self) -> u64 {
        if let Some(mapping) = &self.mapping {
            return mapping.size();
        }
        self.size.load(Ordering::Acquire)
    }

    /// Replaces the length. Release: see [`Inode::size`].
    pub fn set_size(&self, size: u64) {
        if let Some(mapping) = &self.mapping {
            return mapping.set_size(size);
        }
        self.size.store(size, Ordering::Release);
    }

    /// Space in use, units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Replaces the space in use.
    pub fn set_blocks(&self, blocks: u64) {
        self.blocks.store(blocks, Ordering::Relaxed);
    }

    /// Changes the space in use by `delta` units of 512 bytes.
    pub fn add_blocks(&self, delta: i64) {
        self.blocks.fetch_add(delta as u64, Ordering::Relaxed);
    }

    /// A number that changes with every change of the contents.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Counts a change of the contents.
    pub fn bump_version(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Last access.
    pub fn atime(&self) -> Time {
        self.atime.get()
    }

    /// Last change of contents.
    pub fn mtime(&self) -> Time {
        self.mtime.get()
    }

    /// Last change of metadata.
    pub fn ctime(&self) -> Time {
        self.ctime.get()
    }

    /// Birth, where the file system keeps it.
    pub fn btime(&self) -> Option<Time> {
        self.has_btime.then(|| self.btime.get())
    }

    /// Replaces the access time.
    pub fn set_atime(&self, time: Time) {
        self.atime.set(time);
    }

    /// Replaces the modification time.
    pub fn set_mtime(&self, time: Time) {
        self.mtime.set(time);
    }

    /// Replaces the change time.
    pub fn set_ctime(&self, time: Time) {
        self.ctime.set(time);
    }

    /// Stamps contents and metadata as changed `now`.
    pub fn touch(&self, now: Time) {
        self.mtime.set(now);
        self.ctime.set(now);
    }

    /// Stamps a write: cheap when the clock has not ticked since the last.
    pub fn touch_for_write(&self) {
        let now = Time::now();
        if self.mtime.get() != now || self.ctime.get() != now {
            self.touch(now);
            self.ops.dirty(self);
        }
    }

    /// Flags.
    pub fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Whether any of `flags` is set.
    pub fn has(&self, flags: InodeFlags) -> bool {
        self.flags.load(Ordering::Relaxed) & flags.bits() != 0
    }

    /// Sets flags. AcqRel: what a flag announces is written before it.
    pub fn set_flags(&self, flags: InodeFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::AcqRel);
    }

    /// Clears flags.
    pub fn clear_flags(&self, flags: InodeFlags) {
        self.flags.fetch_and(!flags.bits(), Ordering::AcqRel);
    }

    /// Takes over the attributes of `change` except the size, and the change time.
    pub fn apply(&self, change: &SetAttr) {
        if let Some(mode) = change.mode {
            self.set_mode(mode);
        }
        if let Some(uid) = change.uid {
            self.set_uid(uid);
        }
        if let Some(gid) = change.gid {
            self.set_gid(gid);
        }
        if let Some(atime) = change.atime {
            self.set_atime(atime);
        }
        if let Some(mtime) = change.mtime {
            self.set_mtime(mtime);
        } else if change.size.is_some() {
            self.set_mtime(change.now);
        }
        self.set_ctime(change.now);
    }

    /// What `stat(2)` reports.
    pub fn attr(&self) -> Result<Attr> {
        let mut attr = Attr {
            dev: self.sb.dev,
            ino: self.ino,
            mode: self.mode(),
            nlink: self.nlink(),
            uid: self.uid(),
            gid: self.gid(),
            rdev: self.rdev,
            size: self.size(),
            blksize: self.sb.block_size,
            blocks: self.blocks(),
            atime: self.atime(),
            mtime: self.mtime(),
            ctime: self.ctime(),
            btime: self.btime(),
            attributes: 0,
            attributes_mask: 0,
        };
        if self.has(InodeFlags::OWN_GETATTR) {
            self.ops.getattr(self, &mut attr)?;
        }
        Ok(attr)
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// The set-id bits that a write or a change of owner by the unprivileged takes away: the new
    /// mode, or `None` if nothing changes.
    pub fn mode_without_setid(&self) -> Option<u32> {
        let mode = self.mode();
        let mut kill = mode & S_ISUID;
        if mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
            kill |= S_ISGID;
        }
        (kill != 0 && self.kind == FileKind::Regular).then_some(mode & 0o7777 & !kill)
    }

    /// Opens for writing: `ETXTBSY` while the file is executed.
    pub fn get_write_access(&self) -> Result<()> {
        self.writers
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n >= 0).then_some(n + 1))
            .map(|_| ())
            .map_err(|_| Errno::ETXTBSY)
    }

    /// Undoes [`Inode::get_write_access`].
    pub fn put_write_access(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Executes the file: `ETXTBSY` while it is open for writing.
    pub fn deny_write_access(&self) -> Result<()> {
        self.writers
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n <= 0).then_some(n - 1))
            .map(|_| ())
            .map_err(|_| Errno::ETXTBSY)
    }

    /// Undoes [`Inode::deny_write_access`].
    pub fn allow_write_access(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// How often the file is open for writing.
    pub fn writer_count(&self) -> u32 {
        self.writers.load(Ordering::Relaxed).max(0) as u32
    }

    /// The state that few inodes have (locks, watches), made at first use.
    pub fn extra(&self) -> &InodeExtra {
        let extra = self.extra.call_once(Box::default);
        if !self.has(InodeFlags::HAS_EXTRA) {
            self.set_flags(InodeFlags::HAS_EXTRA);
        }
        extra
    }

    /// The state that few inodes have, if this one has.
    pub fn existing_extra(&self) -> Option<&InodeExtra> {
        self.extra.get().map(|boxed| &**boxed)
    }

    /// Counts a user: see the module documentation.
    pub fn add_user(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    /// How many users there are.
    pub fn users(&self) -> u32 {
        self.users.load(Ordering::Relaxed)
    }
}

/// Ends a use counted by [`Inode::add_user`]; evicts the inode if that was the last and no link
/// is left. May sleep.
pub fn drop_user(inode: &Arc<Inode>) {
    // AcqRel: the evictor sees everything the other users did.
    if inode.users.fetch_sub(1, Ordering::AcqRel) == 1 && inode.nlink() == 0 {
        crate::notify::inode_deleted(inode);
        inode.ops.evict(inode);
    }
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inode({} {:?} {:o})", self.ino, self.kind, self.mode())
    }
}

/// A counted use of an inode.
#[derive(Debug)]
pub struct InodeRef(Arc<Inode>);

impl InodeRef {
    /// Counts a use.
    pub fn new(inode: Arc<Inode>) -> InodeRef {
        inode.add_user();
        InodeRef(inode)
    }

    /// The inode.
    pub fn arc(&self) -> &Arc<Inode> {
        &self.0
    }
}

impl Clone for InodeRef {
    fn clone(&self) -> InodeRef {
        InodeRef::new(self.0.clone())
    }
}

impl Deref for InodeRef {
    type Target = Arc<Inode>;
    fn deref(&self) -> &Arc<Inode> {
        &self.0
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        drop_user(&self.0);
    }
}

/// The open files of one inode that execute it or map it without writing: keeps writers out.
#[derive(Debug)]
pub struct DenyWrite(InodeRef);

impl DenyWrite {
    /// Keeps writers of `file` out while this lives: `ETXTBSY` if there are some.
    pub fn new(file: &File) -> Result<DenyWrite> {
        file.inode().deny_write_access()?;
        Ok(DenyWrite(InodeRef::new(file.inode().clone())))
    }
}

impl Drop for DenyWrite {
    fn drop(&mut self) {
        self.0.allow_write_access();
    }
}
