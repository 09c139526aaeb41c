//! `/proc/sys/vm`: the knobs of memory. proc(5).

use crate::status::parse;
use crate::sysctl::{exclusive, number};
use abi::{Errno, Result};
use core::sync::atomic::AtomicI64;
use pagecache::writeback::TUNABLES as DIRTY;
use pseudo::{Node, Tree, knob, show};
use vm::commit::TUNABLES as COMMIT;

/// Without swap there is nothing that it steers.
static SWAPPINESS: AtomicI64 = AtomicI64::new(60);

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
    let int = 0..=i64::from(i32::MAX);
    let kib = 0..=1i64 << 40;
    Tree::new()
        .with("admin_reserve_kbytes", number(&COMMIT.admin_reserve_kib, any.clone()))
        .with(
            "dirty_background_bytes",
            exclusive(&DIRTY.background_bytes, Some(&DIRTY.background_ratio), 1..=i64::MAX),
        )
        .with(
            "dirty_background_ratio",
            exclusive(&DIRTY.background_ratio, Some(&DIRTY.background_bytes), 0..=100),
        )
        .with(
            "dirty_bytes",
            exclusive(&DIRTY.dirty_bytes, Some(&DIRTY.dirty_ratio), 8192..=i64::MAX),
        )
        .with("dirty_expire_centisecs", exclusive(&DIRTY.expire_centisecs, None, int.clone()))
        .with("dirty_ratio", exclusive(&DIRTY.dirty_ratio, Some(&DIRTY.dirty_bytes), 0..=100))
        .with("dirty_writeback_centisecs", exclusive(&DIRTY.interval_centisecs, None, int))
        .with("drop_caches", drop_knob())
        .with("max_map_count", number(&COMMIT.max_map_count, 0..=i64::from(i32::MAX)))
        .with("min_free_kbytes", min_free())
        .with(
            "mmap_min_addr",
            show(|out| {
                put!(out, "{}\n", vm::MMAP_MIN);
                Ok(())
            }),
        )
        .with(
            "overcommit_kbytes",
            exclusive(&COMMIT.overcommit_kib, Some(&COMMIT.overcommit_ratio), kib.clone()),
        )
        .with("overcommit_memory", number(&COMMIT.overcommit_memory, 0..=2))
        .with(
            "overcommit_ratio",
            exclusive(&COMMIT.overcommit_ratio, Some(&COMMIT.overcommit_kib), kib),
        )
        .with("swappiness", number(&SWAPPINESS, 0..=100))
        .with("user_reserve_kbytes", number(&COMMIT.user_reserve_kib, any))
}
