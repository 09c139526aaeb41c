//! Which [`Pages`] the number in a page's `owner` word stands for.
//!
//! Entries come and go with interrupts off, where nothing may be allocated: a table that is full is
//! replaced by a larger one that was made without the lock.

use crate::pages::Pages;
use alloc::sync::{Arc, Weak};
use arch::lock::{IrqLock, LockClass};
use hashbrown::HashTable;

static CLASS: LockClass = LockClass::new("pagecache.owners", 485);

type Entry = (u64, Weak<Pages>);
type Shard = IrqLock<HashTable<Entry>>;

const SHARDS: usize = 16;
/// Those with pages that reclaim may take, by number.
static OWNERS: [Shard; SHARDS] = [const { IrqLock::new(&CLASS, HashTable::new()) }; SHARDS];

fn shard(number: u64) -> &'static Shard {
    &OWNERS[number as usize % SHARDS]
}

/// Numbers are given out in order, and those of a shard have their low bits in common.
fn hash(number: u64) -> u64 {
    (number / SHARDS as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn hash_of(entry: &Entry) -> u64 {
    hash(entry.0)
}

/// Enters a number that is not there.
pub(crate) fn insert(number: u64, pages: Weak<Pages>) {
    let mut spare = HashTable::new();
    loop {
        let mut table = shard(number).lock();
        let len = table.len();
        if len == table.capacity() && spare.capacity() > len {
            for entry in table.drain() {
                spare.insert_unique(hash_of(&entry), entry, hash_of);
            }
            core::mem::swap(&mut *table, &mut spare);
        }
        if len < table.capacity() {
            table.insert_unique(hash(number), (number, pages), hash_of);
            return;
        }
        drop(table);
        spare = HashTable::with_capacity(2 * (len + 1));
    }
}

/// What a number stands for, unless it is going away.
pub(crate) fn find(number: u64) -> Option<Arc<Pages>> {
    let table = shard(number).lock();
    table.find(hash(number), |entry| entry.0 == number)?.1.upgrade()
}

/// Takes a number out.
pub(crate) fn remove(number: u64) {
    let mut table = shard(number).lock();
    let found = table.find_entry(hash(number), |entry| entry.0 == number).ok();
    let gone = found.map(|found| found.remove().0);
    // The memory of those that were many goes with the last of them.
    let empty = if table.is_empty() { core::mem::take(&mut *table) } else { HashTable::new() };
    drop(table);
    drop((gone, empty));
}

#[cfg(test)]
mod tests {
    use super::find;
    use crate::pages::Pages;
    use crate::stats::Counter;
    use std::sync::Arc;

    #[test]
    fn numbers_are_found_while_their_pages_live() {
        let make = || {
            let pages = Arc::new(Pages::new(Counter::InactiveFile, true));
            pages.register();
            pages
        };
        let mut all: Vec<_> = (0..5000).map(|_| make()).collect();
        let mut gone = Vec::new();
        for round in 0..4 {
            assert!(
                all.iter().all(|p| find(p.number()).is_some_and(|found| Arc::ptr_eq(&found, p)))
            );
            let half = all.len() / 2;
            gone.extend(all.drain(..half).map(|pages| pages.number()));
            all.extend((0..100 * round).map(|_| make()));
            assert!(gone.iter().all(|number| find(*number).is_none()));
        }
    }
}
