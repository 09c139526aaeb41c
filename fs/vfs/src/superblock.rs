//! Super blocks (mounted file systems) and the registry of file-system types.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::mount::*;
use abi::{Errno, Result};
use arch::lock::{LockClass, Once, SpinLock};
use sched::Mutex;

use crate::context::Context;
use crate::cred::{Cap, Creds, UserNamespace};
use crate::dentry::Dentry;
use crate::inode::Inode;
use crate::types::{DeviceNumber, FsStat};

static SB_RENAME: LockClass = LockClass::new("vfs.sb_rename", 215);
static SB_LIST: LockClass = LockClass::new("vfs.sb_list", 280);
static FS_TYPES: LockClass = LockClass::new("vfs.fs_types", 281);

/// What a file system does as a whole.
#[expect(unused_variables, reason = "the defaults ignore their arguments")]
pub trait SuperOps: Any + Send + Sync {
    /// Space and inodes for `statfs(2)`; `magic`, `block_size`, `name_max` are required.
    fn statfs(&self, sb: &SuperBlock) -> Result<FsStat>;

    /// Writes everything dirty; `wait` until it is on the disk.
    fn sync(&self, sb: &SuperBlock, wait: bool) -> Result<()> {
        Ok(())
    }

    /// Applies new options at `mount -o remount`; `flags` are `MS_*`. The VFS has flushed and
    /// blocked writers when this turns read-only.
    fn remount(&self, sb: &Arc<SuperBlock>, flags: u64, data: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Whether it is read-only by nature: it stays so, whatever a remount asks for.
    fn is_for_reading(&self) -> bool {
        false
    }

    /// Writes everything and then nothing more, though files may be open for writing, until a
    /// [`remount`](SuperOps::remount) allows it again. The VFS lets nothing begin that would change
    /// something, but what began on open files may not have ended.
    fn seal(&self, sb: &Arc<SuperBlock>) -> Result<()> {
        self.sync(sb, true)?;
        self.remount(sb, sb.flags(), b"")
    }

    /// The last mount is gone and all dentries are dropped: finish, write, free.
    fn put_super(&self, sb: &SuperBlock) {}

    /// `umount -f`: give up on what does not answer.
    fn umount_begin(&self, sb: &SuperBlock) {}

    /// Writes the options for `/proc/mounts`, each with a leading comma.
    fn show_options(&self, sb: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        Ok(())
    }

    /// The inode that bytes of [`crate::InodeOps::file_handle`] name.
    fn inode_of_handle(
        &self,
        sb: &Arc<SuperBlock>,
        kind: i32,
        handle: &[u8],
    ) -> Result<Arc<Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Freezes or thaws (`FIFREEZE`).
    fn freeze(&self, sb: &SuperBlock, frozen: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// For downcasts to the file system's own type.
    fn as_any(&self) -> &dyn Any;
}

/// Facts about a new super block.
#[derive(Debug)]
pub struct SuperInit {
    /// The type's name (`ext4`).
    pub fs_type: &'static str,
    /// `st_dev`: the block device, or [`anonymous_dev`].
    pub dev: DeviceNumber,
    /// `MS_*` flags that concern the super block (`MS_RDONLY`, `MS_SYNCHRONOUS`, …).
    pub flags: u64,
    /// Block size in bytes.
    pub block_size: u32,
    /// Longest file in bytes.
    pub max_file_size: u64,
    /// Longest name in bytes.
    pub name_max: u32,
    /// Magic number for `statfs(2)`.
    pub magic: u64,
    /// What was mounted, as `/proc/mounts` shows it when the mount has no name of its own.
    pub id: String,
}

impl SuperInit {
    /// A file system without a device.
    pub fn pseudo(fs_type: &'static str, magic: u64) -> SuperInit {
        SuperInit {
            fs_type,
            dev: anonymous_dev(),
            flags: 0,
            block_size: 4096,
            max_file_size: i64::MAX as u64,
            name_max: 255,
            magic,
            id: fs_type.to_owned(),
        }
    }
}

/// A mounted file system, however often and wherever it is mounted.
pub struct SuperBlock {
    /// The type's name.
    pub fs_type: &'static str,
    /// The device number `stat` reports.
    pub dev: DeviceNumber,
    /// Block size in bytes.
    pub block_size: u32,
    /// Longest file in bytes.
    pub max_file_size: u64,
    /// Longest name in bytes.
    pub name_max: u32,
    /// Magic number.
    pub magic: u64,
    /// What it was made from.
    pub id: String,
    flags: AtomicU64,
    /// Mounts plus other holders; at zero the file system is put away.
    active: AtomicU32,
    /// The user namespace it was mounted from; none is the initial one.
    owner: Once<Arc<UserNamespace>>,
    ops: Box<dyn SuperOps>,
    root: SpinLock<Option<Arc<Dentry>>>,
    /// Held by renames between directories: the shape of the tree is still.
    pub(crate) rename: Mutex<()>,
}

static SB_ROOT: LockClass = LockClass::new("vfs.sb_root", 282);

impl SuperBlock {
    /// A super block without a root yet: see [`SuperBlock::set_root`].
    pub fn new(init: SuperInit, ops: Box<dyn SuperOps>) -> Arc<SuperBlock> {
        let sb = Arc::new(SuperBlock {
            fs_type: init.fs_type,
            dev: init.dev,
            block_size: init.block_size,
            max_file_size: init.max_file_size,
            name_max: init.name_max,
            magic: init.magic,
            id: init.id,
            flags: AtomicU64::new(init.flags),
            active: AtomicU32::new(0),
            owner: Once::new(),
            ops,
            root: SpinLock::new(&SB_ROOT, None),
            rename: Mutex::new(&SB_RENAME, ()),
        });
        let mut list = SUPER_BLOCKS.lock();
        list.retain(|weak| weak.strong_count() > 0);
        list.push(Arc::downgrade(&sb));
        drop(list);
        sb
    }

    /// Says which user namespace a new file system belongs to: before anything is mounted of it.
    pub(crate) fn set_owner(&self, owner: &Arc<UserNamespace>) {
        // Relaxed: the maker is the only one who knows it yet.
        if self.active.load(Ordering::Relaxed) == 0 {
            self.owner.call_once(|| owner.clone());
        }
    }

    /// Whether someone may change it as a whole: `CAP_SYS_ADMIN` in the user namespace it belongs to,
    /// user_namespaces(7).
    pub(crate) fn may_change(&self, creds: &Creds) -> Result<()> {
        match self.owner.get() {
            Some(owner) if creds.ns_capable(owner, Cap::SYS_ADMIN) => Ok(()),
            Some(_) => Err(Errno::EPERM),
            None => creds.require(Cap::SYS_ADMIN),
        }
    }

    /// Sets the root directory; once, before the first mount.
    pub fn set_root(&self, inode: Arc<Inode>) {
        *self.root.lock() = Some(Dentry::new_root(inode));
    }

    /// The root dentry; `ENODEV` once the file system is put away.
    pub fn root(&self) -> Result<Arc<Dentry>> {
        self.root.lock().clone().ok_or(Errno::ENODEV)
    }

    /// The operations.
    pub fn ops(&self) -> &dyn SuperOps {
        &*self.ops
    }

    /// The file system's own type.
    pub fn private<T: 'static>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    /// `MS_*` flags.
    pub fn flags(&self) -> u64 {
        // Relaxed: the change to read-only is ordered by `write`.
        self.flags.load(Ordering::Relaxed)
    }

    /// Replaces the flags.
    pub fn set_flags(&self, flags: u64) {
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// Whether nothing may be changed.
    pub fn is_read_only(&self) -> bool {
        self.flags() & MS_RDONLY != 0
    }

    /// Another mount uses this super block.
    pub fn activate(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    /// Activates unless it is already being put away.
    pub fn try_activate(&self) -> bool {
        self.active
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n > 0).then_some(n + 1))
            .is_ok()
    }

    /// A mount is gone; the last one puts the file system away. May sleep.
    pub fn deactivate(self: &Arc<Self>) {
        if self.active.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        crate::dcache::forget_super(self);
        if let Err(error) = self.ops.sync(self, true) {
            log::error!("{}: sync at unmount failed: {error}", self.id);
        }
        let root = self.root.lock().take();
        if let Some(root) = root {
            root.kill();
        }
        self.ops.put_super(self);
    }

    /// The options of `/proc/mounts` that belong to the super block, from `rw` on.
    pub fn show(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(if self.is_read_only() { "ro" } else { "rw" })?;
        self.show_flags(out)?;
        self.ops.show_options(self, out)
    }

    /// Those that every file system has, each with a leading comma.
    pub(crate) fn show_flags(&self, out: &mut dyn Write) -> fmt::Result {
        let flags = self.flags();
        for (flag, name) in [
            (MS_SYNCHRONOUS, ",sync"),
            (MS_DIRSYNC, ",dirsync"),
            (MS_MANDLOCK, ",mand"),
            (MS_LAZYTIME, ",lazytime"),
        ] {
            if flags & flag != 0 {
                out.write_str(name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SuperBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SuperBlock({} {})", self.fs_type, self.id)
    }
}

static SUPER_BLOCKS: SpinLock<Vec<Weak<SuperBlock>>> = SpinLock::new(&SB_LIST, Vec::new());

/// All super blocks that are in use.
pub fn super_blocks() -> Vec<Arc<SuperBlock>> {
    SUPER_BLOCKS
        .lock()
        .iter()
        .filter_map(Weak::upgrade)
        .filter(|sb| sb.active.load(Ordering::Relaxed) > 0)
        .collect()
}

/// The super block in use of this type on this device.
pub fn find_super(fs_type: &str, dev: DeviceNumber) -> Option<Arc<SuperBlock>> {
    super_blocks().into_iter().find(|sb| sb.dev == dev && sb.fs_type == fs_type)
}

/// Writes out every file system: `sync(2)`.
pub fn sync_all() {
    for wait in [false, true] {
        for sb in super_blocks() {
            if sb.is_read_only() || !sb.try_activate() {
                continue;
            }
            if let Err(error) = sb.ops.sync(&sb, wait) {
                log::error!("{}: sync failed: {error}", sb.id);
            }
            sb.deactivate();
        }
    }
}

/// A fresh device number for a file system without a device: major 0.
pub fn anonymous_dev() -> DeviceNumber {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // Relaxed: only uniqueness matters. Skipping the low bits once they wrap would need a bitmap;
    // 2^20 mounts of device-less file systems reuse numbers.
    DeviceNumber::new(0, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What `mount(2)` asks of a file-system type.
#[derive(Clone, Copy, Debug)]
pub struct MountRequest<'a> {
    /// The first argument of `mount(2)`.
    pub source: &'a [u8],
    /// `MS_*`, those of the super block only.
    pub flags: u64,
    /// The options.
    pub data: &'a [u8],
    /// Who mounts.
    pub ctx: &'a Context<'a>,
}

/// What is given for an option.
#[derive(Clone, Copy, Debug)]
pub enum OptionValue<'a> {
    /// Nothing.
    None,
    /// Text.
    Text(&'a [u8]),
    /// A file, a place or bytes that are no text.
    Object,
}

/// Why an option is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// There is no such option.
    Unknown,
    /// The option does not take this value.
    BadValue,
}

/// A kind of file system that can be mounted.
pub trait FileSystemType: Send + Sync {
    /// The name given to `mount -t`.
    fn name(&self) -> &'static str;

    /// Whether it needs a block device (`/proc/filesystems` says `nodev` for the others).
    fn needs_device(&self) -> bool {
        false
    }

    /// Whether a user namespace may mount it.
    fn userns_mount(&self) -> bool {
        false
    }

    /// Whether an option given by itself (`fsconfig(2)`) is one of this type. The default leaves it
    /// to `mount`, to which all options come as one list.
    fn check_option(&self, key: &[u8], value: OptionValue<'_>) -> Result<(), OptionError> {
        let _ = key;
        if matches!(value, OptionValue::Object) { Err(OptionError::BadValue) } else { Ok(()) }
    }

    /// Makes a super block, or finds the one in use for the same device. Each successful call
    /// must be matched by the VFS with one `activate`.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>>;
}

static TYPES: SpinLock<Vec<&'static dyn FileSystemType>> = SpinLock::new(&FS_TYPES, Vec::new());

/// Makes a type known to `mount(2)`.
pub fn register_file_system(fs: &'static dyn FileSystemType) {
    let mut types = TYPES.lock();
    if !types.iter().any(|known| known.name() == fs.name()) {
        types.push(fs);
    }
}

/// The type with this name; `fuse.x` finds `fuse`.
pub fn file_system(name: &[u8]) -> Option<&'static dyn FileSystemType> {
    let base = name.split(|&b| b == b'.').next().unwrap_or(name);
    TYPES.lock().iter().copied().find(|fs| fs.name().as_bytes() == base)
}

/// All types, in order of registration (`/proc/filesystems`).
pub fn file_systems() -> Vec<&'static dyn FileSystemType> {
    TYPES.lock().clone()
}
