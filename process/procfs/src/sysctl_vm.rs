//! `/proc/sys/vm`: the knobs of memory. proc(5).

use crate::status::parse;
use crate::sysctl::number;
use abi::{Errno, Result};
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use pagecache::writeback::TUNABLES as DIRTY;
use pseudo::{Node, Tree, knob};
use vm::commit::TUNABLES as COMMIT;

static SWAPPINESS: AtomicI64 = AtomicI64::new(60);
static MMAP_MIN: AtomicI64 = AtomicI64::new(vm::MMAP_MIN as i64);

/// A number of which its counterpart (bytes for a ratio, a ratio for bytes) becomes 0 when it is
/// set.
fn either(
    value: &'static AtomicU64,
    counterpart: Option<&'static AtomicU64>,
    range: core::ops::RangeInclusive<u64>,
) -> Node {
    knob(
        move |out| {
            put!(out, "{}\n", value.load(Ordering::Relaxed));
            Ok(())
        },
        move |bytes| {
            let new: u64 = parse(bytes)?;
            if !range.contains(&new) {
                return Err(Errno::EINVAL);
            }
            value.store(new, Ordering::Relaxed);
            if let Some(other) = counterpart {
                other.store(0, Ordering::Relaxed);
            }
            Ok(())
        },
    )
}

/// `overcommit_ratio` and `overcommit_kbytes` exclude each other.
fn overcommit(value: &'static AtomicI64, counterpart: &'static AtomicI64) -> Node {
    knob(
        move |out| {
            put!(out, "{}\n", value.load(Ordering::Relaxed));
            Ok(())
        },
        move |bytes| {
            let new: i64 = parse(bytes)?;
            if !(0..=1 << 40).contains(&new) {
                return Err(Errno::EINVAL);
            }
            value.store(new, Ordering::Relaxed);
            counterpart.store(0, Ordering::Relaxed);
            Ok(())
        },
    )
}

/// `drop_caches`: 1 the page cache, 2 dentries, inodes and what the heap keeps, 3 both.
fn drop_caches(bytes: &[u8]) -> Result<()> {
    let what: u32 = parse(bytes)?;
    if !(1..=4).contains(&what) {
        return Err(Errno::EINVAL);
    }
    if what & 1 != 0 {
        pagecache::reclaim::drop_caches();
        frames::reclaim_everything();
    }
    if what & 2 != 0 {
        vfs::dcache::drop_unused();
        // What was freed is free for others only once its readers are gone.
        sched::rcu::barrier();
        vfs::inode_cache::sweep_all();
        heap::shrink();
    }
    frames::drain_all();
    Ok(())
}

/// Only written: nobody reads it.
fn drop_knob() -> Node {
    Node { mode: 0o200, ..knob(|_| Ok(()), drop_caches) }
}

fn min_free() -> Node {
    knob(
        |out| {
            put!(out, "{}\n", frames::watermarks().min * 4);
            Ok(())
        },
        |bytes| {
            let kib: u64 = parse(bytes)?;
            frames::set_min_free(kib / 4);
            Ok(())
        },
    )
}

/// `/proc/sys/vm`.
pub(crate) fn tree() -> Tree {
    let any = 0..=i64::MAX;
    let int = 0..=u64::from(u32::MAX >> 1);
    Tree::new()
        .with("admin_reserve_kbytes", number(&COMMIT.admin_reserve_kib, any.clone()))
        .with(
            "dirty_background_bytes",
            either(&DIRTY.background_bytes, Some(&DIRTY.background_ratio), 1..=u64::MAX),
        )
        .with(
            "dirty_background_ratio",
            either(&DIRTY.background_ratio, Some(&DIRTY.background_bytes), 0..=100),
        )
        .with("dirty_bytes", either(&DIRTY.dirty_bytes, Some(&DIRTY.dirty_ratio), 8192..=u64::MAX))
        .with("dirty_expire_centisecs", either(&DIRTY.expire_centisecs, None, int.clone()))
        .with("dirty_ratio", either(&DIRTY.dirty_ratio, Some(&DIRTY.dirty_bytes), 0..=100))
        .with("dirty_writeback_centisecs", either(&DIRTY.interval_centisecs, None, int))
        .with("drop_caches", drop_knob())
        .with("max_map_count", number(&COMMIT.max_map_count, 0..=i64::from(i32::MAX)))
        .with("min_free_kbytes", min_free())
        .with("mmap_min_addr", number(&MMAP_MIN, any.clone()))
        .with("overcommit_kbytes", overcommit(&COMMIT.overcommit_kib, &COMMIT.overcommit_ratio))
        .with("overcommit_memory", number(&COMMIT.overcommit_memory, 0..=2))
        .with("overcommit_ratio", overcommit(&COMMIT.overcommit_ratio, &COMMIT.overcommit_kib))
        .with("swappiness", number(&SWAPPINESS, 0..=100))
        .with("user_reserve_kbytes", number(&COMMIT.user_reserve_kib, any))
}
