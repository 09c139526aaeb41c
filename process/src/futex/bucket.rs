//! The waiters of the futexes whose keys share a hash: [`Bucket`].

use super::{Key, Taken, Waiter};
use crate::roll::Roll;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use smallvec::SmallVec;

/// The waiters of one futex in the order of their arrival.
pub(super) type Queue = Roll<Arc<Waiter>>;

/// A queue for each futex that is waited for. Most buckets have one at most, which lies in the bucket itself: waiting
/// there allocates nothing. The others are in a tree. What is woken or moved comes off its queue's head, whatever waits
/// behind it.
#[derive(Default)]
pub(super) struct Bucket {
    lone: Option<(Key, Queue)>,
    others: BTreeMap<Key, Queue>,
}

impl Bucket {
    /// Nobody waits.
    pub(super) const fn new() -> Bucket {
        Bucket { lone: None, others: BTreeMap::new() }
    }

    /// Whether nobody waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.lone.is_none() && self.others.is_empty()
    }

    /// Who waits for `key`; never an empty queue.
    pub(super) fn queue(&self, key: Key) -> Option<&Queue> {
        match &self.lone {
            Some((lone, queue)) if *lone == key => Some(queue),
            _ => self.others.get(&key),
        }
    }

    /// Puts a waiter behind the others of its key; the number to [`remove`](Self::remove) it by.
    pub(super) fn insert(&mut self, key: Key, waiter: Arc<Waiter>) -> u64 {
        match &mut self.lone {
            Some((lone, queue)) if *lone == key => return queue.join(waiter),
            None if self.others.is_empty() => {}
            _ => return self.others.entry(key).or_default().join(waiter),
        }
        let (_, queue) = self.lone.insert((key, Queue::new()));
        queue.join(waiter)
    }

    /// Takes a waiter out; `false` if it is not there any more, though another one may have its number since.
    pub(super) fn remove(&mut self, (key, number): (Key, u64), waiter: &Arc<Waiter>) -> bool {
        let is_there = self.queue(key).and_then(|queue| queue.get(number));
        let is_there = is_there.is_some_and(|found| Arc::ptr_eq(found, waiter));
        is_there && self.change(key, |queue| queue.leave(number)).is_some()
    }

    /// Takes the first waiter of `key` out.
    pub(super) fn pop(&mut self, key: Key) -> Option<Arc<Waiter>> {
        self.change(key, Queue::pop)
    }

    /// Takes all waiters of `key` out.
    pub(super) fn take_all(&mut self, key: Key) -> Option<Queue> {
        match self.lone.take_if(|(lone, _)| *lone == key) {
            Some((_, queue)) => Some(queue),
            None => self.others.remove(&key),
        }
    }

    /// Takes up to `count` waiters of `key` out that `bits` mean, but none that wait for a lock that is inherited:
    /// whether one of those was the first.
    pub(super) fn take(&mut self, key: Key, count: usize, bits: u32, out: &mut Taken) -> bool {
        for taken in 0..count {
            let Some(first) = self.queue(key).and_then(Queue::first) else { return false };
            if first.bits & bits == 0 || first.pi.is_some() {
                return self.pick(key, count - taken, bits, out, taken == 0);
            }
            out.extend(self.pop(key));
        }
        false
    }

    /// [`take`](Self::take) from a queue whose first waiter stays. `is_new`: none were taken before, so that all
    /// stay if the first that is meant must not be taken.
    fn pick(&mut self, key: Key, count: usize, bits: u32, out: &mut Taken, is_new: bool) -> bool {
        let Some(queue) = self.queue(key) else { return false };
        let mut meant = queue.entries().filter(|(_, waiter)| waiter.bits & bits != 0).peekable();
        if is_new && meant.peek().is_some_and(|(_, waiter)| waiter.pi.is_some()) {
            return true;
        }
        let plain = meant.filter(|(_, waiter)| waiter.pi.is_none());
        let numbers: SmallVec<[u64; 8]> = plain.take(count).map(|(number, _)| number).collect();
        for number in numbers {
            out.extend(self.change(key, |queue| queue.leave(number)));
        }
        false
    }

    /// Changes the queue of `key`, and drops it if nobody is left in it.
    #[inline]
    fn change<R>(&mut self, key: Key, change: impl FnOnce(&mut Queue) -> Option<R>) -> Option<R> {
        if let Some((lone, queue)) = &mut self.lone
            && *lone == key
        {
            let result = change(queue);
            if queue.is_empty() {
                self.lone = None;
            }
            return result;
        }
        let queue = self.others.get_mut(&key)?;
        let result = change(queue);
        if queue.is_empty() {
            self.others.remove(&key);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::futex::pi::Claim;
    use alloc::sync::Weak;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn key(offset: u64) -> Key {
        Key { object: 8, offset }
    }

    fn waiter(key: Key, bits: u32, is_pi: bool) -> Arc<Waiter> {
        Waiter::new(key, bits, is_pi.then(|| Claim { tid: 1, task: Weak::new() }))
    }

    fn same(a: &[Arc<Waiter>], b: &[Arc<Waiter>]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    #[test]
    fn those_wake_first_that_came_first() {
        let mut bucket = Bucket::new();
        let waiters: Vec<_> = (0..3).map(|_| waiter(key(4), 1, false)).collect();
        for waiter in &waiters {
            waiter.clone().enqueue(key(4), &mut bucket);
        }
        waiter(key(8), 1, false).enqueue(key(8), &mut bucket);
        let mut out = Taken::new();
        assert!(!bucket.take(key(4), 2, 1, &mut out));
        assert!(same(&out, &waiters[..2]));
        assert!(!bucket.take(key(4), 9, 2, &mut out));
        assert_eq!(out.len(), 2);
        assert!(bucket.queue(key(4)).is_some() && bucket.queue(key(8)).is_some());
    }

    #[test]
    fn nobody_is_taken_if_the_first_waits_for_an_inherited_lock() {
        let mut bucket = Bucket::new();
        let mut out = Taken::new();
        for (bits, is_pi) in [(2, false), (1, true), (1, false)] {
            waiter(key(4), bits, is_pi).enqueue(key(4), &mut bucket);
        }
        assert!(bucket.take(key(4), 9, 1, &mut out));
        assert!(out.is_empty());
        // The one in the middle stays where the first is not of its kind.
        assert!(!bucket.take(key(4), 9, 3, &mut out));
        assert_eq!(out.len(), 2);
        assert!(bucket.take(key(4), 9, 3, &mut out));
    }

    #[test]
    fn who_was_taken_out_does_not_take_out_who_has_the_number_now() {
        let mut bucket = Bucket::new();
        let (old, new) = (waiter(key(4), 1, false), waiter(key(4), 1, false));
        old.clone().enqueue(key(4), &mut bucket);
        let place = *old.place.lock();
        assert!(bucket.pop(key(4)).is_some() && bucket.is_empty());
        new.clone().enqueue(key(4), &mut bucket);
        assert_eq!(*new.place.lock(), place);
        assert!(!bucket.remove(place, &old));
        assert!(bucket.remove(place, &new) && bucket.is_empty());
    }

    proptest! {
        /// Against a list: of several futexes in one bucket, whatever waits, is taken, moves and gives up.
        #[test]
        fn as_a_list_does(steps in proptest::collection::vec((0u8..6, 0u64..4, 0usize..5, 1u32..4), 0..300)) {
            let mut bucket = Bucket::new();
            let mut model: Vec<(Key, Arc<Waiter>)> = Vec::new();
            for (what, at, count, bits) in steps {
                let at = key(at * 4);
                match what {
                    0 | 1 => {
                        let new = waiter(at, bits, false);
                        new.clone().enqueue(at, &mut bucket);
                        model.push((at, new));
                    }
                    2 => {
                        let mut out = Taken::new();
                        prop_assert!(!bucket.take(at, count, bits, &mut out));
                        let meant = |(key, waiter): &(Key, Arc<Waiter>)| *key == at && waiter.bits & bits != 0;
                        let wanted: Vec<_> = model.iter().filter(|w| meant(w)).take(count).map(|w| w.1.clone()).collect();
                        model.retain(|(_, waiter)| !wanted.iter().any(|w| Arc::ptr_eq(w, waiter)));
                        prop_assert!(same(&out, &wanted));
                    }
                    3 => {
                        let moved = bucket.pop(at);
                        let first = model.iter().position(|(key, _)| *key == at);
                        prop_assert_eq!(moved.is_some(), first.is_some());
                        if let (Some(moved), Some(first)) = (moved, first) {
                            let (_, wanted) = model.remove(first);
                            prop_assert!(Arc::ptr_eq(&moved, &wanted));
                            moved.enqueue(key(0), &mut bucket);
                            model.push((key(0), wanted));
                        }
                    }
                    4 if !model.is_empty() => {
                        let (_, gone) = model.remove(count % model.len());
                        let place = *gone.place.lock();
                        prop_assert!(bucket.remove(place, &gone));
                        prop_assert!(!bucket.remove(place, &gone));
                    }
                    _ => {
                        let all: Vec<_> = bucket.take_all(at).into_iter().flat_map(Queue::into_members).collect();
                        let wanted: Vec<_> = model.extract_if(.., |(key, _)| *key == at).map(|w| w.1).collect();
                        prop_assert!(same(&all, &wanted));
                    }
                }
                prop_assert_eq!(bucket.is_empty(), model.is_empty());
            }
        }
    }
}
