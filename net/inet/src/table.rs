//! Hash tables in parts, each under a lock of its own: what a look-up costs does not depend on how
//! many entries there are, and two processors seldom want the same part.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash, Hasher};

use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;

/// Parts of a table.
const SHARDS: usize = 64;

/// Hashes with a key of its table, so that peers cannot choose what collides.
#[derive(Clone, Copy)]
pub(crate) struct Keyed(u64);

impl Keyed {
    /// Hashes with this key.
    pub(crate) fn new(secret: u64) -> Keyed {
        Keyed(secret | 1)
    }
}

/// The state of one hash.
pub(crate) struct Mixer(u64);

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Mixer {
    #[inline]
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = (product as u64 ^ (product >> 64) as u64).rotate_left(23);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            self.mix(u64::from_le_bytes(word));
        }
    }
    #[inline]
    fn write_u16(&mut self, value: u16) {
        self.mix(u64::from(value));
    }
    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }
    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }
    #[inline]
    fn write_u128(&mut self, value: u128) {
        self.mix(value as u64);
        self.mix((value >> 64) as u64);
    }
    #[inline]
    fn finish(&self) -> u64 {
        let product = u128::from(self.0) * u128::from(FACTOR);
        product as u64 ^ (product >> 64) as u64
    }
}

impl BuildHasher for Keyed {
    type Hasher = Mixer;
    #[inline]
    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

/// One part of a table.
pub(crate) type Part<K, V> = HashMap<K, V, Keyed>;

/// A map from `K` to `V`.
pub(crate) struct Sharded<K, V> {
    keyed: Keyed,
    shards: Box<[SpinLock<Part<K, V>>]>,
}

impl<K: Hash + Eq, V> Sharded<K, V> {
    /// An empty one whose hashes depend on `secret`.
    pub(crate) fn new(class: &'static LockClass, secret: u64) -> Sharded<K, V> {
        let keyed = Keyed::new(secret);
        let shards = (0..SHARDS).map(|_| SpinLock::new(class, HashMap::with_hasher(keyed)));
        Sharded { keyed, shards: shards.collect() }
    }

    #[inline]
    fn shard(&self, key: &K) -> &SpinLock<Part<K, V>> {
        // The map inside takes the lowest and the highest bits.
        let index = (self.keyed.hash_one(key) >> 24) as usize % SHARDS;
        // `SHARDS` is the length.
        self.shards.get(index).unwrap_or_else(|| unreachable!("a remainder is below its divisor"))
    }

    /// Does something under the lock of the part that `key` is in.
    #[inline]
    pub(crate) fn with<R>(&self, key: &K, act: impl FnOnce(&mut Part<K, V>) -> R) -> R {
        act(&mut self.shard(key).lock())
    }

    /// What is there for a key.
    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<V>
    where
        V: Clone,
    {
        self.shard(key).lock().get(key).cloned()
    }

    /// A copy of all values, part by part.
    pub(crate) fn values(&self) -> Vec<V>
    where
        V: Clone,
    {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().values().cloned());
        }
        all
    }

    /// Calls `visit` for every entry, one part locked at a time.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&K, &V)) {
        for shard in &self.shards {
            shard.lock().iter().for_each(|(key, value)| visit(key, value));
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
