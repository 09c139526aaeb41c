//! Super blocks of tmpfs, and the types `tmpfs` and `ramfs`.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, Result};
use vfs::{
    DeviceNumber, FileKind, FileSystemType, FsStat, Inode, InodeCache, MountRequest, NewInode,
    SuperBlock, SuperInit, SuperOps, Time, register_file_system,
};

use vfs::superblock::{OptionError, OptionValue};

use crate::inode;
use crate::options::Options;

const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

static MEMORY_PAGES: AtomicU64 = AtomicU64::new(1 << 16);

/// Tells how many pages of memory there are: half of them is the default `size=`.
pub fn set_memory(pages: u64) {
    // Relaxed: set once at start.
    MEMORY_PAGES.store(pages, Ordering::Relaxed);
}

fn default_limit() -> u64 {
    MEMORY_PAGES.load(Ordering::Relaxed) / 2
}

/// tmpfs's part of a super block.
pub(crate) struct TmpSuper {
    max_pages: AtomicU64,
    used_pages: AtomicU64,
    max_inodes: AtomicU64,
    used_inodes: AtomicU64,
    next_ino: AtomicU64,
    /// Inodes that a handle was asked for: only those need to be found by number.
    pub(crate) named: InodeCache,
    options: Options,
    magic: u64,
}

// Relaxed everywhere: counters, of which nothing else depends.
impl TmpSuper {
    pub(crate) fn take_inode(&self) -> Result<u64> {
        let max = self.max_inodes.load(Ordering::Relaxed);
        self.used_inodes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (max == 0 || n < max).then_some(n + 1)
            })
            .map_err(|_| Errno::ENOSPC)?;
        Ok(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn give_inode(&self) {
        self.used_inodes.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn adjust_pages(&self, delta: i64) {
        if delta != 0 {
            self.used_pages.fetch_add(delta as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn free_pages(&self) -> u64 {
        match self.max_pages.load(Ordering::Relaxed) {
            0 => u64::MAX,
            max => max.saturating_sub(self.used_pages.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn has_room(&self, pages: u64) -> bool {
        pages <= self.free_pages()
    }
}

impl SuperOps for TmpSuper {
    fn statfs(&self, sb: &SuperBlock) -> Result<FsStat> {
        let mut stat = FsStat {
            magic: self.magic,
            block_size: 4096,
            name_max: 255,
            fsid: u64::from(sb.dev.minor()),
            ..FsStat::default()
        };
        let max = self.max_pages.load(Ordering::Relaxed);
        if max != 0 {
            stat.blocks = max;
            stat.free = self.free_pages();
            stat.available = stat.free;
        }
        let inodes = self.max_inodes.load(Ordering::Relaxed);
        if inodes != 0 {
            stat.files = inodes;
            stat.files_free = inodes.saturating_sub(self.used_inodes.load(Ordering::Relaxed));
        }
        Ok(stat)
    }

    fn remount(&self, _sb: &Arc<SuperBlock>, _flags: u64, data: &[u8]) -> Result<()> {
        if self.magic == RAMFS_MAGIC {
            return Ok(());
        }
        let options = Options::parse(data, MEMORY_PAGES.load(Ordering::Relaxed))?;
        if let Some(pages) = options.pages {
            // man 5 tmpfs: not below what is in use, and never from unlimited to limited.
            let used = self.used_pages.load(Ordering::Relaxed);
            let unlimited = self.max_pages.load(Ordering::Relaxed) == 0;
            if pages != 0 && (pages < used || unlimited) {
                return Err(Errno::EINVAL);
            }
            self.max_pages.store(pages, Ordering::Relaxed);
        }
        if let Some(inodes) = options.inodes {
            if inodes != 0 && inodes < self.used_inodes.load(Ordering::Relaxed) {
                return Err(Errno::EINVAL);
            }
            self.max_inodes.store(inodes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn show_options(&self, sb: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        if self.magic == RAMFS_MAGIC {
            return Ok(());
        }
        let devtmpfs = sb.fs_type == "devtmpfs";
        let pages = self.max_pages.load(Ordering::Relaxed);
        if pages != default_limit() || devtmpfs {
            write!(out, ",size={}k", pages * 4)?;
        }
        let inodes = self.max_inodes.load(Ordering::Relaxed);
        if inodes != default_limit() || devtmpfs {
            write!(out, ",nr_inodes={inodes}")?;
        }
        if let Some(mode) = self.options.mode
            && mode != 0o1777
        {
            write!(out, ",mode={mode:03o}")?;
        }
        if let Some(uid) = self.options.uid
            && uid != 0
        {
            write!(out, ",uid={uid}")?;
        }
        if let Some(gid) = self.options.gid
            && gid != 0
        {
            write!(out, ",gid={gid}")?;
        }
        Ok(())
    }

    fn inode_of_handle(
        &self,
        _sb: &Arc<SuperBlock>,
        kind: i32,
        handle: &[u8],
    ) -> Result<Arc<Inode>> {
        let (generation, ino) = inode::parse_handle(kind, handle).ok_or(Errno::ESTALE)?;
        let inode = self.named.get(ino).ok_or(Errno::ESTALE)?;
        let same = inode.nlink() > 0 && inode.generation == generation;
        if same { Ok(inode) } else { Err(Errno::ESTALE) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A super block in memory under the type name `fs_type`, with its root directory.
pub fn create(
    fs_type: &'static str,
    options: Options,
    owner: (u32, u32),
) -> Result<Arc<SuperBlock>> {
    let magic = if fs_type == "ramfs" || fs_type == "rootfs" { RAMFS_MAGIC } else { TMPFS_MAGIC };
    let limit = if magic == RAMFS_MAGIC { 0 } else { default_limit() };
    let ops = TmpSuper {
        max_pages: AtomicU64::new(options.pages.unwrap_or(limit)),
        used_pages: AtomicU64::new(0),
        max_inodes: AtomicU64::new(options.inodes.unwrap_or(limit)),
        used_inodes: AtomicU64::new(0),
        next_ino: AtomicU64::new(1),
        named: InodeCache::new(),
        options,
        magic,
    };
    let sb = SuperBlock::new(SuperInit::pseudo(fs_type, magic), Box::new(ops));
    let default_mode = if magic == RAMFS_MAGIC { 0o755 } else { 0o1777 };
    let root = NewInode {
        kind: FileKind::Directory,
        mode: options.mode.unwrap_or(default_mode),
        uid: options.uid.unwrap_or(owner.0),
        gid: options.gid.unwrap_or(owner.1),
        rdev: DeviceNumber::NONE,
        target: b"",
        now: Time::now(),
    };
    sb.set_root(inode::make(&sb, &root)?);
    Ok(sb)
}

/// The file-system type `tmpfs`, or `ramfs`, which is the same without limits.
#[derive(Debug)]
pub struct Tmpfs {
    name: &'static str,
}

impl FileSystemType for Tmpfs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn userns_mount(&self) -> bool {
        self.name == "tmpfs"
    }

    fn check_option(&self, key: &[u8], value: OptionValue<'_>) -> Result<(), OptionError> {
        if self.name == "ramfs" {
            return Ok(());
        }
        if !Options::is_known(key) {
            return Err(OptionError::Unknown);
        }
        let mut option = key.to_vec();
        match value {
            OptionValue::None => {}
            OptionValue::Text(text) => {
                option.push(b'=');
                option.extend_from_slice(text);
            }
            OptionValue::Object => return Err(OptionError::BadValue),
        }
        Options::parse(&option, 0).map(|_| ()).map_err(|_| OptionError::BadValue)
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let options = if self.name == "ramfs" {
            // Unknown options are ignored, as there.
            Options::parse(request.data, 0).unwrap_or_default()
        } else {
            Options::parse(request.data, MEMORY_PAGES.load(Ordering::Relaxed))?
        };
        let creds = request.ctx.creds;
        let sb = create(self.name, options, (creds.fsuid, creds.fsgid))?;
        sb.set_flags(request.flags);
        Ok(sb)
    }
}

/// Registers `tmpfs` and `ramfs`.
pub fn init() {
    register_file_system(&Tmpfs { name: "tmpfs" });
    register_file_system(&Tmpfs { name: "ramfs" });
}
