//! Who maps pages of a file into address spaces.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use arch::lock::LockClass;
use core::sync::atomic::{AtomicUsize, Ordering};
use sched::RwLock;

static OBSERVERS: LockClass = LockClass::new("pagecache.observers", 455);

/// Somebody who maps pages of a file into address spaces. Called without page-cache spinlocks.
pub trait MapObserver: Send + Sync {
    /// Removes all translations of pages `first..=last`.
    fn unmap_range(&self, first: u64, last: u64);

    /// As [`unmap_range`](Self::unmap_range) for pages that are no longer in the file: private copies
    /// of them go as well.
    fn unmap_truncated(&self, first: u64, last: u64) {
        self.unmap_range(first, last);
    }

    /// Makes all translations of the page read-only; the next write faults and calls
    /// [`Mapping::make_writable`](crate::Mapping::make_writable).
    fn write_protect(&self, index: u64);

    /// Removes all translations of the page for reclaim: without waiting for locks, and not if the
    /// page is locked in memory. Whether it did.
    fn try_unmap(&self, index: u64) -> bool {
        self.unmap_range(index, index);
        true
    }

    /// Whether the page was used through a translation since the last call. Does not wait.
    fn test_and_clear_young(&self, index: u64) -> bool {
        let _ = index;
        false
    }
}

/// Names a registered [`MapObserver`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObserverId(u64);

struct Observed {
    first: u64,
    last: u64,
    observer: Arc<dyn MapObserver>,
}

#[derive(Default)]
struct List {
    next: u64,
    list: BTreeMap<u64, Observed>,
}

/// Those who map one file.
pub(crate) struct Observers {
    list: RwLock<List>,
    count: AtomicUsize,
}

impl Observers {
    /// Nobody.
    pub(crate) fn new() -> Observers {
        Observers { list: RwLock::new(&OBSERVERS, List::default()), count: AtomicUsize::new(0) }
    }

    pub(crate) fn add(&self, first: u64, last: u64, observer: Arc<dyn MapObserver>) -> ObserverId {
        let mut observers = self.list.write();
        let id = observers.next;
        observers.next += 1;
        observers.list.insert(id, Observed { first, last, observer });
        self.count.fetch_add(1, Ordering::Release);
        ObserverId(id)
    }

    pub(crate) fn remove(&self, id: ObserverId) {
        let gone = self.list.write().list.remove(&id.0);
        if gone.is_some() {
            self.count.fetch_sub(1, Ordering::Release);
        }
        // Dropped outside the lock.
        drop(gone);
    }

    pub(crate) fn are_there(&self) -> bool {
        // Acquire: pairs with the Release of whoever registers.
        self.count.load(Ordering::Acquire) != 0
    }

    /// Calls `each` for whoever maps any of the pages `first..=last`.
    pub(crate) fn each(&self, first: u64, last: u64, mut each: impl FnMut(&dyn MapObserver)) {
        if !self.are_there() {
            return;
        }
        let observers = self.list.read();
        for observed in observers.list.values() {
            if observed.first <= last && first <= observed.last {
                each(&*observed.observer);
            }
        }
    }

    /// Whether the page was used through a translation since the last call, for reclaim: in doubt
    /// it was. Does not wait: who registers an observer may be waiting for memory.
    pub(crate) fn test_and_clear_young(&self, index: u64) -> bool {
        let Some(observers) = self.list.try_read() else { return true };
        let mut young = false;
        for observed in observers.list.values().filter(|o| o.first <= index && index <= o.last) {
            young |= observed.observer.test_and_clear_young(index);
        }
        young
    }

    /// Removes all translations of the page without waiting; whether all are gone.
    pub(crate) fn try_unmap(&self, index: u64) -> bool {
        let Some(observers) = self.list.try_read() else { return false };
        let mut those = observers.list.values().filter(|o| o.first <= index && index <= o.last);
        those.all(|observed| observed.observer.try_unmap(index))
    }
}
