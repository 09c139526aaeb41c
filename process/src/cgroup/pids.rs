//! The controller `pids`: how many tasks a group and those below it may have.
//!
//! Every group of a hierarchy with the controller counts, whether or not it has a limit, so that a limit
//! can be set at any time. A task counts until it is waited for, as its number is taken so long.

use super::group::Group;
use super::set::Set;
use abi::{Errno, Result};
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// No limit.
pub const NO_LIMIT: i64 = i64::MAX;

/// The numbers of one group.
pub(super) struct Pids {
    count: AtomicI64,
    max: AtomicI64,
    refused: AtomicU64,
}

impl Pids {
    pub(super) fn new() -> Pids {
        Pids { count: AtomicI64::new(0), max: AtomicI64::new(NO_LIMIT), refused: AtomicU64::new(0) }
    }
}

impl Group {
    /// `pids.current`.
    pub fn pids_current(&self) -> i64 {
        self.state.pids.count.load(Ordering::Relaxed)
    }

    /// `pids.max`; [`NO_LIMIT`] for none.
    pub fn pids_max(&self) -> i64 {
        self.state.pids.max.load(Ordering::Relaxed)
    }

    /// Sets `pids.max`. Who is over it already stays.
    pub fn set_pids_max(&self, max: i64) {
        self.state.pids.max.store(max, Ordering::Relaxed);
    }

    /// `max` in `pids.events`: how often a task was refused by the limit of this group.
    pub fn pids_refused(&self) -> u64 {
        self.state.pids.refused.load(Ordering::Relaxed)
    }
}

fn add(group: &Group, tasks: i64) {
    for group in group.ancestors() {
        group.state.pids.count.fetch_add(tasks, Ordering::Relaxed);
    }
}

/// Counts a new task in the groups of `set`. Errors: `EAGAIN` at a limit, and nothing is counted.
pub(super) fn charge(set: &Set) -> Result<()> {
    for (index, group) in set.counting().enumerate() {
        if let Err(full) = charge_group(group) {
            full.state.pids.refused.fetch_add(1, Ordering::Relaxed);
            super::told_later(full);
            set.counting().take(index).for_each(|group| add(group, -1));
            return Err(Errno::EAGAIN);
        }
    }
    Ok(())
}

/// Counts a new task in a group and those above it, or says whose limit is reached.
fn charge_group(group: &Group) -> core::result::Result<(), &Group> {
    for (index, at) in group.ancestors().enumerate() {
        let pids = &at.state.pids;
        if pids.count.fetch_add(1, Ordering::Relaxed) >= pids.max.load(Ordering::Relaxed) {
            for counted in group.ancestors().take(index + 1) {
                counted.state.pids.count.fetch_sub(1, Ordering::Relaxed);
            }
            return Err(at);
        }
    }
    Ok(())
}

/// Counts a task that moves there: no limit stops it.
pub(super) fn charge_moved(set: &Set) {
    set.counting().for_each(|group| add(group, 1));
}

/// A task of `set` is gone or has moved away.
pub(super) fn uncharge(set: &Set) {
    set.counting().for_each(|group| add(group, -1));
}
