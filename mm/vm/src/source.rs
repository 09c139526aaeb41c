//! What file mappings take their pages from.

use abi::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use arch::PhysAddr;
use pagecache::Mapping;

/// The file behind a mapping; kept alive by it.
pub trait MapSource: Send + Sync {
    /// The page cache that holds the pages; `None` for device memory.
    fn mapping(&self) -> Option<Arc<Mapping>>;

    /// The byte of the mapping that offset `offset` of the file means: another for files whose offsets are
    /// names.
    fn first_byte(&self, offset: u64) -> u64 {
        offset
    }

    /// The frame at byte `offset` of device memory.
    fn device_frame(&self, offset: u64) -> Result<PhysAddr> {
        let _ = offset;
        Err(Errno::EFAULT)
    }

    /// An address space has one area more of it. Called with the areas' lock held.
    fn opened(&self) {}

    /// An address space has one area less of it. Called with the areas' lock held.
    fn closed(&self) {}

    /// Whether it is a System V segment, which `shmdt(2)` takes away.
    fn is_segment(&self) -> bool {
        false
    }

    /// Device number, inode number and path for `/proc/PID/maps`.
    fn describe(&self) -> Description {
        Description::default()
    }
}

/// What `/proc/PID/maps` shows of a mapped file.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Major and minor number of the file system's device.
    pub dev: (u32, u32),
    /// Inode number.
    pub ino: u64,
    /// The path, or a name in brackets.
    pub path: String,
}
