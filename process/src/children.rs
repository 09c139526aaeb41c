//! [`Children`]: a process's children, and which of them `wait(2)` has something to tell about.
//!
//! Those that have ended are found by a heap of their keys, oldest first, in which a key that has
//! been waited for stays until it comes up or most are such: so waiting for a child by number never
//! touches the heap, and waiting for any pays a logarithm. The child's own word
//! ([`Kin`](crate::group::Kin)) says whether it can be waited for; it changes with the parent's
//! family locked.

use crate::group::ThreadGroup;
use crate::roll::Roll;
use alloc::collections::{BTreeMap, BinaryHeap};
use alloc::sync::Arc;
use core::cmp::Reverse;

/// Children in the order in which they came to this process, by birth or adoption.
#[derive(Default)]
pub(crate) struct Children {
    all: Roll<Arc<ThreadGroup>>,
    ended: Ended,
    /// Those that stopped or continued and were not waited for since.
    changed: BTreeMap<u64, Arc<ThreadGroup>>,
}

impl Children {
    /// All, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<ThreadGroup>> {
        self.all.iter()
    }

    /// Takes all off, in order; what they have to tell is forgotten.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Arc<ThreadGroup>> + use<> {
        core::mem::take(self).all.into_members()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds a child.
    pub(crate) fn add(&mut self, child: &Arc<ThreadGroup>) {
        let key = self.all.join(child.clone());
        let mut kin = child.kin.lock();
        kin.child_key = key;
        kin.is_waitable = false;
    }

    /// Removes a child that is waited for no more.
    pub(crate) fn remove(&mut self, child: &ThreadGroup) -> Option<Arc<ThreadGroup>> {
        let (key, could) = {
            let mut kin = child.kin.lock();
            (kin.child_key, core::mem::replace(&mut kin.is_waitable, false))
        };
        if could {
            self.ended.taken();
        }
        self.changed.remove(&key);
        self.all.leave(key)
    }

    /// The child has ended and can be waited for.
    pub(crate) fn announce(&mut self, child: &ThreadGroup) {
        let key = {
            let mut kin = child.kin.lock();
            if core::mem::replace(&mut kin.is_waitable, true) {
                return;
            }
            kin.child_key
        };
        let Children { all, ended, .. } = self;
        ended.add(key, |key| all.get(key).is_some_and(|child| child.kin.lock().is_waitable));
    }

    /// Takes the right to wait for an ended child; whether it was there to be taken.
    pub(crate) fn claim(&mut self, child: &ThreadGroup) -> bool {
        let could = core::mem::replace(&mut child.kin.lock().is_waitable, false);
        if could {
            self.ended.taken();
        }
        could
    }

    /// The first child that has ended and that `is_wanted`.
    pub(crate) fn first_ended(
        &mut self,
        is_wanted: impl Fn(&ThreadGroup) -> bool,
    ) -> Option<Arc<ThreadGroup>> {
        let Children { all, ended, .. } = self;
        let key = ended.first(|key| {
            let child = all.get(key).filter(|child| child.kin.lock().is_waitable);
            child.map(|child| is_wanted(child))
        })?;
        all.get(key).cloned()
    }

    /// The child has stopped or continued.
    pub(crate) fn change(&mut self, child: &Arc<ThreadGroup>) {
        let key = child.kin.lock().child_key;
        self.changed.insert(key, child.clone());
    }

    /// The first child that stopped or continued and about which `look` finds something.
    pub(crate) fn find_change<R>(
        &self,
        look: impl Fn(&ThreadGroup) -> Option<R>,
    ) -> Option<(Arc<ThreadGroup>, R)> {
        self.changed.values().find_map(|child| look(child).map(|found| (child.clone(), found)))
    }

    /// What the child did has been waited for.
    pub(crate) fn forget_change(&mut self, child: &ThreadGroup) {
        let key = child.kin.lock().child_key;
        self.changed.remove(&key);
    }
}

/// Keys of children that have ended.
#[derive(Default)]
struct Ended {
    /// With some that have been waited for.
    keys: BinaryHeap<Reverse<u64>>,
    /// How many have not.
    count: usize,
}

impl Ended {
    /// Adds a key; `is_there` says which of the others have not been waited for.
    fn add(&mut self, key: u64, is_there: impl Fn(u64) -> bool) {
        if self.keys.len() > 2 * self.count + 32 {
            self.keys.retain(|key| is_there(key.0));
        }
        self.keys.push(Reverse(key));
        self.count += 1;
    }

    /// One has been waited for.
    fn taken(&mut self) {
        self.count -= 1;
        if self.count == 0 {
            self.keys.clear();
        }
    }

    /// The lowest key for which `look` says `Some(true)`; `None` is one that was waited for.
    fn first(&mut self, look: impl Fn(u64) -> Option<bool>) -> Option<u64> {
        while let Some(&Reverse(key)) = self.keys.peek() {
            match look(key) {
                Some(true) => return Some(key),
                Some(false) => break,
                None => drop(self.keys.pop()),
            }
        }
        self.keys.iter().map(|key| key.0).filter(|&key| look(key) == Some(true)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        /// Against a set: keys end in any order and are waited for in any, with and without a wish.
        #[test]
        fn first_is_the_lowest_wanted(steps in proptest::collection::vec((0u8..4, 0u64..300), 0..1500)) {
            let mut ended = Ended::default();
            let mut there = BTreeSet::new();
            let mut used = BTreeSet::new();
            for (kind, key) in steps {
                match kind {
                    0 | 1 if used.insert(key) => {
                        ended.add(key, |key| there.contains(&key));
                        there.insert(key);
                    }
                    2 if there.remove(&key) => ended.taken(),
                    3 => {
                        let wish = |k: u64| key % 3 == 0 || k % 2 == key % 2;
                        let found = ended.first(|k| there.contains(&k).then(|| wish(k)));
                        prop_assert_eq!(found, there.iter().copied().find(|&k| wish(k)));
                        if let Some(found) = found.filter(|_| key % 5 > 0) {
                            there.remove(&found);
                            ended.taken();
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(ended.count, there.len());
                prop_assert!(ended.keys.len() <= 2 * used.len() + 33);
            }
        }
    }

    #[test]
    fn keys_that_were_waited_for_go() {
        let mut ended = Ended::default();
        ended.add(0, |_| true);
        for key in 1..10_000 {
            ended.add(key, |other| other == 0);
            ended.taken();
        }
        assert!(ended.keys.len() <= 40);
        assert_eq!(ended.first(|key| (key == 0).then_some(true)), Some(0));
    }
}
