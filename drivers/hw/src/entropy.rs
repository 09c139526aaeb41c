//! Randomness from devices, for the random number generator above.

use spin::Once;

/// The random number generator's entrance.
pub trait EntropyPool: Send + Sync {
    /// Mixes in bytes that hold about `bits` of entropy. May be called in interrupt context.
    fn add(&self, bytes: &[u8], bits: usize);
    /// Whether the pool wants more from a hardware generator now.
    fn wants_more(&self) -> bool;
}

static POOL: Once<&'static dyn EntropyPool> = Once::new();

/// Called once by the random number generator.
pub fn set_pool(pool: &'static dyn EntropyPool) {
    POOL.call_once(|| pool);
}

/// Mixes in bytes that hold about `bits` of entropy; nothing happens before there is a pool.
pub fn add(bytes: &[u8], bits: usize) {
    if let Some(pool) = POOL.get() {
        pool.add(bytes, bits);
    }
}

/// Whether a hardware generator should deliver.
pub fn is_wanted() -> bool {
    POOL.get().is_none_or(|pool| pool.wants_more())
}

/// Whether there is a pool already.
pub fn has_pool() -> bool {
    POOL.get().is_some()
}
