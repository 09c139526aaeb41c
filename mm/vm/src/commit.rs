//! Memory promised to programs: `Committed_AS`, its limit, and the knobs of both. proc(5),
//! `/proc/sys/vm/overcommit_memory`.

use abi::{Errno, Result};
use core::sync::atomic::{AtomicI64, Ordering};

/// The knobs of `/proc/sys/vm`. Relaxed throughout: each is read alone.
#[derive(Debug)]
pub struct Tunables {
    /// `overcommit_memory`: 0 heuristic, 1 always, 2 never.
    pub overcommit_memory: AtomicI64,
    /// `overcommit_ratio`, percent of memory.
    pub overcommit_ratio: AtomicI64,
    /// `overcommit_kbytes`; 0: the ratio counts.
    pub overcommit_kib: AtomicI64,
    /// `admin_reserve_kbytes`: what mode 2 keeps for who may administrate.
    pub admin_reserve_kib: AtomicI64,
    /// `user_reserve_kbytes`: what mode 2 keeps from one large process, at most.
    pub user_reserve_kib: AtomicI64,
    /// `max_map_count`.
    pub max_map_count: AtomicI64,
}

/// Their values.
pub static TUNABLES: Tunables = Tunables {
    overcommit_memory: AtomicI64::new(0),
    overcommit_ratio: AtomicI64::new(50),
    overcommit_kib: AtomicI64::new(0),
    admin_reserve_kib: AtomicI64::new(8192),
    user_reserve_kib: AtomicI64::new(131_072),
    max_map_count: AtomicI64::new(65530),
};

static COMMITTED: AtomicI64 = AtomicI64::new(0);

fn load(knob: &AtomicI64) -> u64 {
    knob.load(Ordering::Relaxed).max(0) as u64
}

/// Pages promised to programs: `Committed_AS`, and the limit: `CommitLimit`.
pub fn committed() -> (u64, u64) {
    (load(&COMMITTED), limit(frames::total_pages()))
}

fn limit(total_pages: u64) -> u64 {
    match load(&TUNABLES.overcommit_kib) {
        0 => total_pages * load(&TUNABLES.overcommit_ratio) / 100,
        kib => kib / 4,
    }
}

/// Whether `MAP_NORESERVE` keeps a mapping from being counted: not when nothing is overcommitted.
pub(crate) fn heeds_no_reserve() -> bool {
    load(&TUNABLES.overcommit_memory) != 2
}

/// The most areas an address space may have.
pub(crate) fn max_areas() -> usize {
    load(&TUNABLES.max_map_count) as usize
}

/// Promises pages to a process that has `own` already, or says that there are not so many.
pub(crate) fn commit(pages: u64, own: u64) -> Result<()> {
    let now = COMMITTED.fetch_add(pages as i64, Ordering::Relaxed).max(0) as u64 + pages;
    let mode = load(&TUNABLES.overcommit_memory);
    if fits(mode, pages, now, own, frames::total_pages()) {
        return Ok(());
    }
    uncommit(pages);
    Err(Errno::ENOMEM)
}

/// Whether `pages` more, which make `now` in all, may be promised on a machine of `total` pages.
fn fits(mode: u64, pages: u64, now: u64, own: u64, total: u64) -> bool {
    match mode {
        1 => true,
        0 => pages <= total,
        _ => {
            // Reserves for recovery: one for the administrator, one that grows with the process.
            let admin = load(&TUNABLES.admin_reserve_kib) / 4;
            let user = (own / 32).min(load(&TUNABLES.user_reserve_kib) / 4);
            now < limit(total).saturating_sub(admin + user)
        }
    }
}

/// Promises pages of a file that has no address space: a System V segment.
pub fn reserve(pages: u64) -> Result<()> {
    commit(pages, 0)
}

/// Takes back what [`reserve`] promised.
pub fn unreserve(pages: u64) {
    uncommit(pages);
}

pub(crate) fn uncommit(pages: u64) {
    COMMITTED.fetch_sub(pages as i64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn modes() {
        let total = 1 << 18;
        assert!(fits(0, total, 10 * total, 0, total));
        assert!(!fits(0, total + 1, total + 1, 0, total));
        assert!(fits(1, 100 * total, 100 * total, 0, total));
        let half = total / 2;
        assert!(!fits(2, 1, half - 2048, 0, total));
        assert!(fits(2, 1, half - 2049, 0, total));
        // A large process leaves room for others.
        assert!(!fits(2, 1, half - 2049, 32 * 10, total));
    }
}
