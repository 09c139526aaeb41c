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
    shards: Arc<Shards>,
}

type Shards = Vec<SpinLock<Shard>>;

static ALL_CLASS: LockClass = LockClass::new("vfs.inode_caches", 285);
/// Every cache, to be swept when memory is short.
static ALL: SpinLock<Vec<Weak<Shards>>> = SpinLock::new(&ALL_CLASS, Vec::new());

/// Forgets the inodes that have died: an entry keeps the memory of its inode. How many.
pub fn sweep_all() -> usize {
    let caches: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    caches.iter().flat_map(|shards| shards.iter()).map(sweep).sum()
}

fn sweep(shard: &SpinLock<Shard>) -> usize {
    // Declared first: freed after the lock is given back.
    let mut dead = Vec::new();
    let mut shard = shard.lock();
    let before = shard.inodes.len();
    shard.inodes.retain(|_, weak| {
        let lives = weak.strong_count() > 0;
        if !lives {
            // Freed without the lock.
            dead.push(core::mem::take(weak));
        }
        lives
    });
    if shard.inodes.capacity() > 4 * shard.inodes.len() {
        shard.inodes.shrink_to_fit();
    }
    shard.sweep_at = (shard.inodes.len() * 2).max(64);
    before - shard.inodes.len()
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
        let shards: Shards = (0..SHARDS).map(|_| SpinLock::new(&CLASS, Shard::default())).collect();
        let shards = Arc::new(shards);
        let mut all = ALL.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&shards));
        drop(all);
        InodeCache { shards }
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
        for shard in self.shards.iter() {
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
