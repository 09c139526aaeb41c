//! A table of the live inodes of one file system, by number.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;

use crate::inode::Inode;

static CLASS: LockClass = LockClass::new("vfs.inode_cache", 290);
const SHARDS: usize = 32;

/// Live inodes by number: lets `lookup` return the same `Arc` for the same file. It owns nothing;
/// dead entries are swept as a shard grows.
pub struct InodeCache {
    shards: Vec<SpinLock<Shard>>,
}

#[derive(Default)]
struct Shard {
    inodes: HashMap<u64, Weak<Inode>>,
    sweep_at: usize,
}

impl Default for InodeCache {
    fn default() -> Self {
        Self::new()
    }
}

impl InodeCache {
    /// Empty.
    pub fn new() -> InodeCache {
        InodeCache {
            shards: (0..SHARDS).map(|_| SpinLock::new(&CLASS, Shard::default())).collect(),
        }
    }

    fn shard(&self, ino: u64) -> &SpinLock<Shard> {
        let index = (ino.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as usize % SHARDS;
        &self.shards[index]
    }

    /// The live inode with this number.
    pub fn get(&self, ino: u64) -> Option<Arc<Inode>> {
        self.shard(ino).lock().inodes.get(&ino)?.upgrade()
    }

    /// Enters `inode`; if another thread entered one with the same number first, that one wins
    /// and is returned.
    pub fn insert(&self, inode: Arc<Inode>) -> Arc<Inode> {
        let mut shard = self.shard(inode.ino).lock();
        if let Some(first) = shard.inodes.get(&inode.ino).and_then(Weak::upgrade) {
            return first;
        }
        if shard.inodes.len() >= shard.sweep_at {
            shard.inodes.retain(|_, weak| weak.strong_count() > 0);
            shard.sweep_at = (shard.inodes.len() * 2).max(64);
        }
        shard.inodes.insert(inode.ino, Arc::downgrade(&inode));
        inode
    }

    /// Forgets an inode number (the file is deleted and the number may be used again).
    pub fn remove(&self, ino: u64) {
        self.shard(ino).lock().inodes.remove(&ino);
    }

    /// Every live inode at this moment.
    pub fn all(&self) -> Vec<Arc<Inode>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().inodes.values().filter_map(Weak::upgrade));
        }
        all
    }
}

impl core::fmt::Debug for InodeCache {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("InodeCache")
    }
}
