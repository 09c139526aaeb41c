//! Small values shared by everything in the virtual file system: kinds, times, device numbers,
//! attributes.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::stat::*;
use bitflags::bitflags;

/// The type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix-domain socket.
    Socket,
    /// None of them: the inode behind an epoll, an eventfd and the like.
    Anonymous,
}

impl FileKind {
    /// The `S_IFMT` bits of this kind.
    pub const fn mode_bits(self) -> u32 {
        match self {
            FileKind::Regular => S_IFREG,
            FileKind::Directory => S_IFDIR,
            FileKind::Symlink => S_IFLNK,
            FileKind::CharDevice => S_IFCHR,
            FileKind::BlockDevice => S_IFBLK,
            FileKind::Fifo => S_IFIFO,
            FileKind::Socket => S_IFSOCK,
            FileKind::Anonymous => 0,
        }
    }

    /// The kind that the `S_IFMT` bits of `mode` name.
    pub const fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & S_IFMT {
            S_IFREG => FileKind::Regular,
            S_IFDIR => FileKind::Directory,
            S_IFLNK => FileKind::Symlink,
            S_IFCHR => FileKind::CharDevice,
            S_IFBLK => FileKind::BlockDevice,
            S_IFIFO => FileKind::Fifo,
            S_IFSOCK => FileKind::Socket,
            _ => return None,
        })
    }

    /// The `d_type` that `getdents64(2)` reports.
    pub const fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }

    /// Whether this is a character or block device.
    pub const fn is_device(self) -> bool {
        matches!(self, FileKind::CharDevice | FileKind::BlockDevice)
    }
}

/// A device number: 12 bits of major and 20 bits of minor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber(u32);

impl DeviceNumber {
    /// No device.
    pub const NONE: DeviceNumber = DeviceNumber(0);

    /// The number with these parts, which are cut to 12 and 20 bits.
    pub const fn new(major: u32, minor: u32) -> DeviceNumber {
        DeviceNumber(((major & 0xfff) << 20) | (minor & 0xf_ffff))
    }

    /// The major part.
    pub const fn major(self) -> u32 {
        self.0 >> 20
    }

    /// The minor part.
    pub const fn minor(self) -> u32 {
        self.0 & 0xf_ffff
    }

    /// As user space sees it in `st_dev` and `st_rdev`.
    pub const fn encode(self) -> u64 {
        let (major, minor) = (self.major() as u64, self.minor() as u64);
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }

    /// From the argument of `mknod(2)`.
    pub const fn decode(dev: u64) -> DeviceNumber {
        let dev = dev as u32;
        DeviceNumber::new((dev & 0xfff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xfff00))
    }
}

/// A time stamp of a file: seconds and nanoseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds.
    pub sec: i64,
    /// 0..1_000_000_000.
    pub nsec: u32,
}

impl Time {
    /// The first second that a file's time stamp can hold (1901).
    pub const MIN_SEC: i64 = -(1 << 31);
    /// The last second that a file's time stamp can hold (2446).
    pub const MAX_SEC: i64 = (1 << 34) - (1 << 31) - 1;

    /// The current time at the granularity of the clock tick, as files are stamped with.
    pub fn now() -> Time {
        crate::clock::coarse_now()
    }

    /// A time from its parts.
    pub const fn new(sec: i64, nsec: u32) -> Time {
        Time { sec, nsec }
    }
}

/// A [`Time`] in one word: 34 bits of seconds (the range of ext4) and 30 bits of nanoseconds.
#[derive(Debug, Default)]
pub struct AtomicTime(AtomicU64);

impl AtomicTime {
    /// Holding `time`, clamped to the range.
    pub fn new(time: Time) -> AtomicTime {
        AtomicTime(AtomicU64::new(Self::pack(time)))
    }

    fn pack(time: Time) -> u64 {
        if time.sec < Time::MIN_SEC {
            return 0;
        }
        let (sec, nsec) =
            if time.sec > Time::MAX_SEC { (Time::MAX_SEC, 0) } else { (time.sec, time.nsec) };
        (((sec - Time::MIN_SEC) as u64) << 30) | u64::from(nsec)
    }

    /// The time. Relaxed: a time stamp orders nothing.
    pub fn get(&self) -> Time {
        let raw = self.0.load(Ordering::Relaxed);
        Time { sec: (raw >> 30) as i64 + Time::MIN_SEC, nsec: (raw & 0x3fff_ffff) as u32 }
    }

    /// Replaces the time.
    pub fn set(&self, time: Time) {
        self.0.store(Self::pack(time), Ordering::Relaxed);
    }
}

/// What `stat(2)` and `statx(2)` report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attr {
    /// The device the file lives on.
    pub dev: DeviceNumber,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The device a device node names.
    pub rdev: DeviceNumber,
    /// Length in bytes.
    pub size: u64,
    /// Preferred size of I/O in bytes.
    pub blksize: u32,
    /// Space in use, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of metadata.
    pub ctime: Time,
    /// Birth, where the file system keeps it.
    pub btime: Option<Time>,
    /// `STATX_ATTR_*` that hold.
    pub attributes: u64,
    /// `STATX_ATTR_*` that the file system knows.
    pub attributes_mask: u64,
}

/// A change of attributes: what is `Some` changes. `ctime` becomes `now`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// New permission bits (07777).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<Time>,
    /// New modification time.
    pub mtime: Option<Time>,
    /// The stamp for `ctime` (and for `mtime` when the size changes).
    pub now: Time,
}

/// What `statfs(2)` reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsStat {
    /// Magic number of the file-system type.
    pub magic: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// Fragment size in bytes; 0 means the block size.
    pub fragment_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks free to the unprivileged.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Identifier.
    pub fsid: u64,
    /// Longest name.
    pub name_max: u64,
}

bitflags! {
    /// What a permission check asks for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Execute, or search a directory.
        const EXEC = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
        /// Only append.
        const APPEND = 8;
        /// Never sleep: the answer may be `EAGAIN`-like "unknown".
        const NO_BLOCK = 16;
    }
}

bitflags! {
    /// `FS_*_FL`-like properties of an inode and states the VFS keeps.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InodeFlags: u32 {
        /// Cannot be changed, renamed, linked or removed (`chattr +i`).
        const IMMUTABLE = 1;
        /// Can only be appended to (`chattr +a`).
        const APPEND = 2;
        /// Access time is not kept.
        const NOATIME = 4;
        /// Writes are synchronous.
        const SYNC = 8;
        /// Directory changes are synchronous.
        const DIRSYNC = 16;
        /// A removed directory: nothing can be made in it.
        const DEAD = 32;
        /// `permission` of the inode operations has rules of its own (ACLs, `/proc/PID`).
        const OWN_PERMISSION = 64;
        /// `getattr` of the inode operations must be asked.
        const OWN_GETATTR = 128;
        /// Children must be revalidated at each lookup (`procfs`, network file systems).
        const REVALIDATE = 256;
        /// Lookups of absent names must not leave negative dentries.
        const NO_NEGATIVE = 512;
        /// In use as swap space: refuses writes.
        const SWAPFILE = 1024;
        /// May hold watches, locks or leases: look at the extra state.
        const HAS_EXTRA = 2048;
        /// Some inotify watch sits on this inode.
        const WATCHED = 4096;
        /// A symbolic link that jumps instead of naming (`/proc/PID/fd/N`).
        const MAGIC_LINK = 8192;
        /// No `security.*` xattrs: nothing to strip at a write beyond set-id bits.
        const NOSEC = 16384;
        /// The inode has no name in any directory (O_TMPFILE): `linkat` may give it one.
        const LINKABLE = 32768;
        /// Not a file of a disk: never synced, no quota, counted nowhere.
        const PRIVATE = 65536;
        /// Has an access control list beside its mode.
        const ACL = 1 << 17;
        /// A directory with a list for what is made in it.
        const DEFAULT_ACL = 1 << 18;
        /// Somebody holds a lease.
        const LEASED = 1 << 19;
        /// A directory whose names have several spellings: [`crate::InodeOps::canonical_name`].
        const FOLDS_NAMES = 1 << 20;
        /// A device node: the rules of the `devices` controller are asked too. Set by [`crate::Inode::new`].
        const DEVICE = 1 << 21;
    }
}

bitflags! {
    /// The flags of `renameat2(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        /// Fail with `EEXIST` if the target exists.
        const NOREPLACE = 1;
        /// Swap the two.
        const EXCHANGE = 2;
        /// Leave a whiteout (character device 0:0) at the source.
        const WHITEOUT = 4;
    }
}
