//! A radix tree from page index to page, read without locks.
//!
//! Nodes have 64 slots and three bitmaps of marks ([`Mark`]) that say which slots, or subtrees below
//! them, hold a marked page: the next dirty page is found in a few steps however large the file.
//! A file of one page needs no node: the root holds the page itself.
//!
//! *Readers* hold an RCU read lock and follow `Acquire` loads. *Writers* hold the tree's lock (the
//! [`TreeWriter`] proves it) and publish with `Release` stores. Nodes cut off are freed after an RCU
//! grace period. The tree stores plain words with bit 0 clear; what they mean, and keeping a
//! found page alive, is the business of [`crate::mapping`].

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const MASK: u64 = SLOTS as u64 - 1;
/// Bit 0 of a word: it points to a node.
const NODE: usize = 1;

/// What pages can be found by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// Has changes that are not on their way to the device.
    Dirty = 0,
    /// Is being written to the device.
    Writeback = 1,
    /// Was dirty when a sync began.
    ToWrite = 2,
}
const MARKS: usize = 3;

pub(crate) struct Node {
    /// Index bits below this node's slots.
    shift: u32,
    /// Place in the parent.
    offset: usize,
    /// Null for the root node. Written under the tree's lock only.
    parent: AtomicUsize,
    /// Slots in use; written under the tree's lock only.
    count: AtomicUsize,
    marks: [AtomicU64; MARKS],
    slots: [AtomicUsize; SLOTS],
}

impl Node {
    pub(crate) fn new() -> Box<Node> {
        Box::new(Node {
            shift: 0,
            offset: 0,
            parent: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            marks: [const { AtomicU64::new(0) }; MARKS],
            slots: [const { AtomicUsize::new(0) }; SLOTS],
        })
    }
}

/// The tree itself: a root word, marks of a root page, and the number of pages.
pub(crate) struct Tree {
    root: AtomicUsize,
    root_marks: AtomicU64,
    pages: AtomicUsize,
}

// SAFETY: all fields are atomics; node pointers are only followed under RCU or the tree's lock, and
// nodes are freed by one writer after a grace period.
unsafe impl Send for Tree {}
// SAFETY: as above.
unsafe impl Sync for Tree {}

/// Why an insertion did not happen.
#[derive(Debug)]
pub(crate) enum InsertError {
    /// Somebody else's word is there.
    Occupied,
    /// The tree cannot grow without another node: allocate one with the lock dropped, try again.
    NeedNode,
}

/// Rights of the holder of the tree's lock; `retire` takes nodes that are to be freed after a grace
/// period.
pub(crate) struct TreeWriter<'a> {
    tree: &'a Tree,
    retire: &'a dyn Fn(Box<Node>),
}

fn node_of<'a>(word: usize) -> &'a Node {
    debug_assert!(word & NODE != 0);
    // SAFETY: words with bit 0 set are made from `Box::into_raw` in `TreeWriter` only, and the
    // caller is a reader inside its RCU section or the holder of the tree's lock, either of which
    // keeps the node from being freed for as long as the reference is used.
    unsafe { &*ptr::with_exposed_provenance::<Node>(word & !NODE) }
}

impl Tree {
    pub(crate) const fn new() -> Tree {
        Tree {
            root: AtomicUsize::new(0),
            root_marks: AtomicU64::new(0),
            pages: AtomicUsize::new(0),
        }
    }

    /// How many words are stored.
    pub(crate) fn len(&self) -> usize {
        // Relaxed: a statistic.
        self.pages.load(Ordering::Relaxed)
    }

    /// The slot that holds `index` now, if its node exists. Caller: RCU read lock or tree lock.
    #[inline]
    pub(crate) fn slot(&self, index: u64) -> Option<&AtomicUsize> {
        // Acquire: pairs with the Release stores that publish nodes and words.
        let root = self.root.load(Ordering::Acquire);
        if root & NODE == 0 {
            return if index == 0 { Some(&self.root) } else { None };
        }
        let mut node = node_of(root);
        if index >> node.shift > MASK {
            return None;
        }
        loop {
            let slot = &node.slots[((index >> node.shift) & MASK) as usize];
            if node.shift == 0 {
                return Some(slot);
            }
            let word = slot.load(Ordering::Acquire);
            if word == 0 {
                return None;
            }
            node = node_of(word);
        }
    }

    /// Calls `each(index, slot)` for `index..index + count`, stopping when it returns `false`; slots
    /// of missing nodes end the run. Caller: RCU read lock or tree lock.
    #[inline]
    pub(crate) fn run(
        &self,
        mut index: u64,
        end: u64,
        mut each: impl FnMut(u64, &AtomicUsize) -> bool,
    ) {
        while index < end {
            let Some(first) = self.leaf(index) else { return };
            match first {
                Leaf::Root => {
                    each(0, &self.root);
                    return;
                }
                Leaf::Node(node) => loop {
                    if !each(index, &node.slots[(index & MASK) as usize]) {
                        return;
                    }
                    index += 1;
                    if index >= end {
                        return;
                    }
                    if index & MASK == 0 {
                        break;
                    }
                },
            }
        }
    }

    fn leaf(&self, index: u64) -> Option<Leaf<'_>> {
        let root = self.root.load(Ordering::Acquire);
        if root & NODE == 0 {
            return (index == 0 && root != 0).then_some(Leaf::Root);
        }
        let mut node = node_of(root);
        if index >> node.shift > MASK {
            return None;
        }
        while node.shift > 0 {
            let word = node.slots[((index >> node.shift) & MASK) as usize].load(Ordering::Acquire);
            if word == 0 {
                return None;
            }
            node = node_of(word);
        }
        Some(Leaf::Node(node))
    }

    /// The first stored word at or after `index`. Caller: RCU read lock or tree lock.
    pub(crate) fn next(&self, index: u64) -> Option<(u64, usize)> {
        self.search(index, |node, from| {
            (from..SLOTS).find(|&at| node.slots[at].load(Ordering::Acquire) != 0)
        })
    }

    /// The first marked word at or after `index`. Caller: the tree's lock.
    pub(crate) fn next_marked(&self, index: u64, mark: Mark) -> Option<(u64, usize)> {
        let root = self.root.load(Ordering::Acquire);
        if root & NODE == 0 && self.root_marks.load(Ordering::Relaxed) & (1 << mark as u32) == 0 {
            return None;
        }
        self.search(index, |node, from| {
            let bits = node.marks[mark as usize].load(Ordering::Relaxed);
            let rest = bits & u64::MAX.checked_shl(from as u32)?;
            (rest != 0).then(|| rest.trailing_zeros() as usize)
        })
    }

    /// Walks down by `pick(node, first slot to consider)`, backing up where a subtree has nothing.
    fn search(
        &self,
        mut index: u64,
        pick: impl Fn(&Node, usize) -> Option<usize>,
    ) -> Option<(u64, usize)> {
        'restart: loop {
            let root = self.root.load(Ordering::Acquire);
            if root & NODE == 0 {
                return (root != 0 && index == 0).then_some((0, root));
            }
            let mut node = node_of(root);
            if index >> node.shift > MASK {
                return None;
            }
            loop {
                let from = ((index >> node.shift) & MASK) as usize;
                let Some(at) = pick(node, from) else {
                    // Nothing here: go on behind this node's range, from the top.
                    let span = u64::from(node.shift) + u64::from(BITS);
                    if span >= 64 {
                        return None;
                    }
                    index = ((index >> span) + 1).checked_shl(span as u32)?;
                    if index == 0 || index >> node_of(root).shift > MASK {
                        return None;
                    }
                    continue 'restart;
                };
                if at != from {
                    let low = node.shift + BITS;
                    let base = if low >= 64 { 0 } else { index >> low << low };
                    index = base | ((at as u64) << node.shift);
                }
                let word = node.slots[at].load(Ordering::Acquire);
                if node.shift == 0 {
                    if word == 0 {
                        index = index.checked_add(1)?;
                        continue 'restart;
                    }
                    return Some((index, word));
                }
                if word == 0 {
                    index = ((index >> node.shift) + 1) << node.shift;
                    continue 'restart;
                }
                node = node_of(word);
            }
        }
    }

    /// Write access for the holder of the lock that guards this tree.
    pub(crate) fn writer<'a>(&'a self, retire: &'a dyn Fn(Box<Node>)) -> TreeWriter<'a> {
        TreeWriter { tree: self, retire }
    }
}

enum Leaf<'a> {
    Root,
    Node(&'a Node),
}

impl TreeWriter<'_> {
    /// Stores `word` at `index`; nodes come from `spare`.
    pub(crate) fn insert(
        &self,
        index: u64,
        word: usize,
        spare: &mut Option<Box<Node>>,
    ) -> Result<(), InsertError> {
        debug_assert!(word != 0 && word & NODE == 0);
        let slot = self.make_slot(index, spare)?;
        match slot {
            Leaf::Root => {
                self.tree.root_marks.store(0, Ordering::Relaxed);
                // Release: the page's state is visible to who finds it.
                self.tree.root.store(word, Ordering::Release);
            }
            Leaf::Node(node) => {
                let slot = &node.slots[(index & MASK) as usize];
                if slot.load(Ordering::Relaxed) != 0 {
                    return Err(InsertError::Occupied);
                }
                slot.store(word, Ordering::Release);
                node.count.store(node.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
        }
        self.tree.pages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn take(
        spare: &mut Option<Box<Node>>,
        shift: u32,
        offset: usize,
        parent: usize,
    ) -> Result<usize, InsertError> {
        let mut node = spare.take().ok_or(InsertError::NeedNode)?;
        node.shift = shift;
        node.offset = offset;
        node.parent = AtomicUsize::new(parent);
        Ok(Box::into_raw(node).expose_provenance() | NODE)
    }

    fn make_slot(
        &self,
        index: u64,
        spare: &mut Option<Box<Node>>,
    ) -> Result<Leaf<'_>, InsertError> {
        let tree = self.tree;
        loop {
            let root = tree.root.load(Ordering::Acquire);
            if root & NODE == 0 {
                if index == 0 {
                    return if root == 0 { Ok(Leaf::Root) } else { Err(InsertError::Occupied) };
                }
                // The root page, if any, moves into a leaf.
                let word = Self::take(spare, 0, 0, 0)?;
                let node = node_of(word);
                if root != 0 {
                    node.slots[0].store(root, Ordering::Relaxed);
                    node.count.store(1, Ordering::Relaxed);
                    let marks = tree.root_marks.load(Ordering::Relaxed);
                    for (mark, bits) in node.marks.iter().enumerate() {
                        bits.store((marks >> mark) & 1, Ordering::Relaxed);
                    }
                }
                tree.root.store(word, Ordering::Release);
                continue;
            }
            let top = node_of(root);
            if index >> top.shift > MASK {
                // Grow by one level above.
                let word = Self::take(spare, top.shift + BITS, 0, 0)?;
                let node = node_of(word);
                node.slots[0].store(root, Ordering::Relaxed);
                node.count.store(1, Ordering::Relaxed);
                for (bits, below) in node.marks.iter().zip(&top.marks) {
                    bits.store(u64::from(below.load(Ordering::Relaxed) != 0), Ordering::Relaxed);
                }
                top.parent.store(word, Ordering::Relaxed);
                tree.root.store(word, Ordering::Release);
                continue;
            }
            let mut word = root;
            loop {
                let node = node_of(word);
                if node.shift == 0 {
                    return Ok(Leaf::Node(node));
                }
                let at = ((index >> node.shift) & MASK) as usize;
                let mut below = node.slots[at].load(Ordering::Relaxed);
                if below == 0 {
                    below = Self::take(spare, node.shift - BITS, at, word)?;
                    node.slots[at].store(below, Ordering::Release);
                    node.count.store(node.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
                word = below;
            }
        }
    }

    /// Takes out the word at `index` with its marks.
    pub(crate) fn remove(&self, index: u64) -> Option<usize> {
        let tree = self.tree;
        let word = match tree.leaf(index)? {
            Leaf::Root => {
                let word = tree.root.swap(0, Ordering::AcqRel);
                tree.root_marks.store(0, Ordering::Relaxed);
                word
            }
            Leaf::Node(leaf) => {
                let at = (index & MASK) as usize;
                if leaf.slots[at].load(Ordering::Relaxed) == 0 {
                    return None;
                }
                for mark in [Mark::Dirty, Mark::Writeback, Mark::ToWrite] {
                    self.clear_mark(index, mark);
                }
                let word = leaf.slots[at].swap(0, Ordering::AcqRel);
                self.shrink(leaf);
                word
            }
        };
        tree.pages.fetch_sub(1, Ordering::Relaxed);
        Some(word)
    }

    /// One slot of `node` became empty: frees it and its parents while they hold nothing.
    fn shrink(&self, mut node: &Node) {
        loop {
            let count = node.count.load(Ordering::Relaxed) - 1;
            node.count.store(count, Ordering::Relaxed);
            if count > 0 {
                return;
            }
            let parent = node.parent.load(Ordering::Relaxed);
            let word = if parent == 0 {
                self.tree.root_marks.store(0, Ordering::Relaxed);
                self.tree.root.swap(0, Ordering::AcqRel)
            } else {
                node_of(parent).slots[node.offset].swap(0, Ordering::AcqRel)
            };
            // SAFETY: `word` came from `Box::into_raw` in `take`; it was just unlinked by the only
            // writer, so nobody else frees it, and `retire` waits for readers.
            let node_box =
                unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<Node>(word & !NODE)) };
            (self.retire)(node_box);
            if parent == 0 {
                return;
            }
            node = node_of(parent);
        }
    }

    /// Sets `mark` on the word at `index`; nothing if there is no word.
    pub(crate) fn set_mark(&self, index: u64, mark: Mark) {
        match self.tree.leaf(index) {
            None => {}
            Some(Leaf::Root) => {
                self.tree.root_marks.fetch_or(1 << mark as u32, Ordering::Relaxed);
            }
            Some(Leaf::Node(mut node)) => {
                let mut at = (index & MASK) as usize;
                if node.slots[at].load(Ordering::Relaxed) == 0 {
                    return;
                }
                loop {
                    let bits = node.marks[mark as usize].fetch_or(1 << at, Ordering::Relaxed);
                    let parent = node.parent.load(Ordering::Relaxed);
                    if bits != 0 || parent == 0 {
                        return;
                    }
                    at = node.offset;
                    node = node_of(parent);
                }
            }
        }
    }

    /// Clears `mark` on the word at `index`.
    pub(crate) fn clear_mark(&self, index: u64, mark: Mark) {
        match self.tree.leaf(index) {
            None => {}
            Some(Leaf::Root) => {
                self.tree.root_marks.fetch_and(!(1 << mark as u32), Ordering::Relaxed);
            }
            Some(Leaf::Node(mut node)) => {
                let mut at = (index & MASK) as usize;
                loop {
                    let bit = 1u64 << at;
                    let bits = node.marks[mark as usize].fetch_and(!bit, Ordering::Relaxed);
                    let parent = node.parent.load(Ordering::Relaxed);
                    if bits & bit == 0 || bits & !bit != 0 || parent == 0 {
                        return;
                    }
                    at = node.offset;
                    node = node_of(parent);
                }
            }
        }
    }

    /// Copies mark `from` to mark `to` for words in `first..=last`.
    pub(crate) fn copy_marks(&self, first: u64, last: u64, from: Mark, to: Mark) {
        let mut index = first;
        while let Some((at, _)) = self.tree.next_marked(index, from) {
            if at > last {
                return;
            }
            self.set_mark(at, to);
            let Some(next) = at.checked_add(1) else { return };
            index = next;
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // The mapping has removed all pages; only empty nodes left by a failed insertion remain.
        fn free(word: usize) {
            if word & NODE == 0 {
                return;
            }
            // SAFETY: the tree is being dropped, nobody else can reach its nodes.
            let node =
                unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<Node>(word & !NODE)) };
            for slot in &node.slots {
                free(slot.load(Ordering::Relaxed));
            }
        }
        free(*self.root.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn insert(tree: &Tree, index: u64, word: usize) -> bool {
        let retire = |_: Box<Node>| {};
        let mut spare = None;
        loop {
            match tree.writer(&retire).insert(index, word, &mut spare) {
                Ok(()) => return true,
                Err(InsertError::Occupied) => return false,
                Err(InsertError::NeedNode) => spare = Some(Node::new()),
            }
        }
    }

    #[test]
    fn behaves_like_a_map() {
        let tree = Tree::new();
        let retire = |_: Box<Node>| {};
        let mut model: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
        let mut seed = 0x1234_5678_9abc_def1u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for step in 0..20_000 {
            let index = match random() % 4 {
                0 => random() % 4,
                1 => random() % 200,
                2 => random() % 100_000,
                _ => ((random() % 8) << 40) | (random() % 64),
            };
            match random() % 5 {
                0 | 1 => {
                    let word = (step + 1) * 64;
                    let fresh = !model.contains_key(&index);
                    assert_eq!(insert(&tree, index, word), fresh);
                    model.entry(index).or_insert((word, false));
                }
                2 => {
                    let gone = tree.writer(&retire).remove(index);
                    assert_eq!(gone, model.remove(&index).map(|(word, _)| word));
                }
                3 => {
                    tree.writer(&retire).set_mark(index, Mark::Dirty);
                    if let Some(entry) = model.get_mut(&index)
                        && tree.slot(index).is_some_and(|s| s.load(Ordering::Relaxed) != 0)
                    {
                        entry.1 = true;
                    }
                }
                _ => {
                    if model.contains_key(&index) {
                        tree.writer(&retire).clear_mark(index, Mark::Dirty);
                        if let Some(entry) = model.get_mut(&index) {
                            entry.1 = false;
                        }
                    }
                }
            }
            let probe = random() % 100_000;
            let next = model.range(probe..).next().map(|(&i, &(w, _))| (i, w));
            assert_eq!(tree.next(probe), next);
            let marked = model.range(probe..).find(|e| e.1.1).map(|(&i, &(w, _))| (i, w));
            assert_eq!(tree.next_marked(probe, Mark::Dirty), marked);
            let slot = tree.slot(index).map_or(0, |slot| slot.load(Ordering::Relaxed));
            assert_eq!(slot, model.get(&index).map_or(0, |&(word, _)| word));
        }
        assert_eq!(tree.len(), model.len());
        for &index in model.keys() {
            tree.writer(&retire).remove(index);
        }
        assert_eq!(tree.next(0), None);
    }
}
