//! [`Roll`]: members in the order in which they joined, each with a key for leaving again.
//!
//! Keys only go up, so joining appends. The latest members lie in a short queue that is searched by
//! halving, with holes where somebody has left; when it is full its older half moves to a tree. A
//! member that is alone lies in neither: most process groups have one, and most processes one thread.
//! So joining and leaving allocate nothing for one member, touch a few words for some dozens, and
//! cost a tree's logarithm for a million; nothing is moved that grows with their number.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};

/// Members in the queue.
const RECENT: usize = 128;

/// Members in the order of joining.
pub(crate) struct Roll<T> {
    next: u64,
    /// Joined when nobody was there: the first of all.
    lone: Option<(u64, T)>,
    /// Made for the second member and kept.
    more: Option<Box<More<T>>>,
}

/// Members that joined when somebody was there.
struct More<T> {
    /// Older than those in `recent`.
    old: BTreeMap<u64, T>,
    /// By key; neither the first nor the last is a hole.
    recent: VecDeque<(u64, Option<T>)>,
    /// Those in `recent` that are no holes.
    recent_len: usize,
}

impl<T> Default for Roll<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Roll<T> {
    /// Nobody.
    pub(crate) const fn new() -> Roll<T> {
        Roll { next: 0, lone: None, more: None }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.lone.is_some()) + self.more.as_ref().map_or(0, |more| more.len())
    }

    /// Whether nobody is there.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.lone.is_none() && self.more.as_ref().is_none_or(|more| more.is_empty())
    }

    /// Adds a member behind all others; its key.
    pub(crate) fn join(&mut self, member: T) -> u64 {
        let key = self.next;
        self.next += 1;
        if self.is_empty() {
            self.lone = Some((key, member));
        } else {
            self.more.get_or_insert_with(|| Box::new(More::new())).push(key, member);
        }
        key
    }

    /// Takes a member off; `None` if it has left before.
    pub(crate) fn leave(&mut self, key: u64) -> Option<T> {
        match self.lone.take_if(|lone| lone.0 == key) {
            Some((_, member)) => Some(member),
            None => self.more.as_mut()?.remove(key),
        }
    }

    /// The member with this key.
    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        match &self.lone {
            Some((lone, member)) if *lone == key => Some(member),
            _ => self.more.as_ref()?.get(key),
        }
    }

    /// Who has been there longest.
    #[inline]
    pub(crate) fn first(&self) -> Option<&T> {
        match &self.lone {
            Some((_, member)) => Some(member),
            None => self.more.as_ref()?.iter().next(),
        }
    }

    /// Takes off who has been there longest.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        match self.lone.take() {
            Some((_, member)) => Some(member),
            None => self.more.as_mut()?.pop(),
        }
    }

    /// All with their keys, in the order of joining.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &T)> {
        let lone = self.lone.iter().map(|(key, member)| (*key, member));
        lone.chain(self.more.iter().flat_map(|more| more.entries()))
    }

    /// All, in the order of joining.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let lone = self.lone.iter().map(|(_, member)| member);
        lone.chain(self.more.iter().flat_map(|more| more.iter()))
    }

    /// Calls `act` for all, in the order of joining. Where one is alone, as most are, it is quicker than
    /// [`iter`](Self::iter).
    #[inline]
    pub(crate) fn each(&self, mut act: impl FnMut(&T)) {
        if let Some((_, member)) = &self.lone {
            act(member);
        }
        if let Some(more) = self.more.as_ref().filter(|more| !more.is_empty()) {
            more.iter().for_each(act);
        }
    }

    /// All, in the order of joining.
    pub(crate) fn into_members(self) -> impl Iterator<Item = T> {
        let lone = self.lone.into_iter().map(|(_, member)| member);
        lone.chain(self.more.into_iter().flat_map(|more| more.into_members()))
    }
}

impl<T> More<T> {
    const fn new() -> More<T> {
        More { old: BTreeMap::new(), recent: VecDeque::new(), recent_len: 0 }
    }

    fn len(&self) -> usize {
        self.old.len() + self.recent_len
    }

    fn is_empty(&self) -> bool {
        self.recent_len == 0 && self.old.is_empty()
    }

    fn push(&mut self, key: u64, member: T) {
        if self.recent.len() >= RECENT {
            self.make_room();
        }
        self.recent.push_back((key, Some(member)));
        self.recent_len += 1;
    }

    fn remove(&mut self, key: u64) -> Option<T> {
        let Some(at) = self.position(key) else { return self.old.remove(&key) };
        let member = self.recent.get_mut(at)?.1.take()?;
        self.recent_len -= 1;
        while self.recent.front().is_some_and(|entry| entry.1.is_none()) {
            self.recent.pop_front();
        }
        while self.recent.back().is_some_and(|entry| entry.1.is_none()) {
            self.recent.pop_back();
        }
        Some(member)
    }

    fn pop(&mut self) -> Option<T> {
        if let Some((_, member)) = self.old.pop_first() {
            return Some(member);
        }
        let (_, member) = self.recent.pop_front()?;
        self.recent_len -= 1;
        while self.recent.front().is_some_and(|entry| entry.1.is_none()) {
            self.recent.pop_front();
        }
        member
    }

    fn entries(&self) -> impl Iterator<Item = (u64, &T)> {
        let recent = self.recent.iter().filter_map(|entry| Some((entry.0, entry.1.as_ref()?)));
        self.old.iter().map(|(key, member)| (*key, member)).chain(recent)
    }

    fn get(&self, key: u64) -> Option<&T> {
        match self.position(key) {
            Some(at) => self.recent.get(at)?.1.as_ref(),
            None => self.old.get(&key),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.old.values().chain(self.recent.iter().filter_map(|entry| entry.1.as_ref()))
    }

    fn into_members(self) -> impl Iterator<Item = T> {
        self.old.into_values().chain(self.recent.into_iter().filter_map(|entry| entry.1))
    }

    /// Where in `recent` the key is, be it a hole.
    fn position(&self, key: u64) -> Option<usize> {
        // Those that have been there longest tend to leave first.
        if self.recent.front().is_some_and(|entry| entry.0 == key) {
            return Some(0);
        }
        self.recent.binary_search_by_key(&key, |entry| entry.0).ok()
    }

    /// Closes the holes of a full queue; if there are few, moves its older half to the tree. Either
    /// way the next call is `RECENT / 4` members away or more.
    fn make_room(&mut self) {
        if self.recent_len > RECENT * 3 / 4 {
            let older = self.recent.drain(..RECENT / 2);
            let before = self.old.len();
            self.old.extend(older.filter_map(|(key, member)| Some((key, member?))));
            self.recent_len -= self.old.len() - before;
        }
        self.recent.retain(|entry| entry.1.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// Against a tree: whoever joins and leaves, those that are left stand in their order.
        #[test]
        fn as_a_tree_does(steps in proptest::collection::vec((0u8..6, any::<u16>()), 0..2000)) {
            let mut roll = Roll::new();
            let mut model = BTreeMap::new();
            for (step, (kind, which)) in steps.into_iter().enumerate() {
                if kind < 3 {
                    let key = roll.join(step);
                    prop_assert!(model.last_key_value().is_none_or(|(&last, _)| last < key));
                    model.insert(key, step);
                } else if kind == 3 {
                    prop_assert_eq!(roll.first(), model.values().next());
                    prop_assert_eq!(roll.pop(), model.pop_first().map(|(_, member)| member));
                } else if let Some((&key, _)) = model.iter().nth(usize::from(which) % model.len().max(1)) {
                    prop_assert_eq!(roll.get(key), model.get(&key));
                    prop_assert_eq!(roll.leave(key), model.remove(&key));
                    prop_assert_eq!(roll.leave(key), None);
                    prop_assert_eq!(roll.get(key), None);
                }
                prop_assert_eq!(roll.len(), model.len());
                prop_assert_eq!(roll.is_empty(), model.is_empty());
                prop_assert!(roll.more.as_ref().is_none_or(|more| more.recent.len() <= RECENT));
            }
            prop_assert!(roll.iter().eq(model.values()));
            prop_assert!(roll.entries().eq(model.iter().map(|(&key, member)| (key, member))));
                let mut each = std::vec::Vec::new();
                roll.each(|member| each.push(*member));
                prop_assert!(each.iter().eq(model.values()));
            prop_assert!(roll.into_members().eq(model.into_values()));
        }
    }

    #[test]
    fn one_that_stays_leaves_no_holes_behind() {
        let mut roll = Roll::new();
        let first = roll.join(0);
        let second = roll.join(1);
        for n in 2..10_000 {
            let key = roll.join(n);
            assert_eq!(roll.leave(key), Some(n));
        }
        assert_eq!(roll.leave(first), Some(0));
        let keys: Vec<u64> = (0..10_000).map(|n| roll.join(n)).collect();
        let recent = roll.more.as_ref().map(|more| &more.recent).expect("more than one");
        assert!(recent.len() <= RECENT && recent.capacity() <= 2 * RECENT);
        for key in keys {
            assert!(roll.leave(key).is_some());
        }
        assert_eq!(roll.len(), 1);
        assert_eq!(roll.get(second), Some(&1));
    }
}
