//! A radix tree from page index to page, read without locks.
//!
//! Nodes have 64 slots and three bitmaps of marks ([`Mark`]) that say which slots, or subtrees below
//! them, hold a marked page: the next dirty page is found in a few steps however large the file.
//! A file of one page needs no node: the root holds the page itself.
//!
//! *Readers* hold an RCU read lock. *Writers* hold the tree's lock (the [`TreeWriter`] stands for it).
//! Nodes cut off are freed after an RCU grace period: the crate `slots` sees to it. Taking a
//! reference to a page that was found is the business of [`crate::mapping`].

use alloc::boxed::Box;
use arrayvec::ArrayVec;
use core::cell::RefCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use frames::{Page, PageRef};
use sched::rcu::{self, ReadGuard};
use slots::{Held, Retired, Slot, Taken};

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const MASK: u64 = SLOTS as u64 - 1;
/// Levels that a tree can have.
const LEVELS: usize = 11;

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
    /// Slots in use; written under the tree's lock only.
    count: AtomicUsize,
    marks: [AtomicU64; MARKS],
    slots: [Slot<Node>; SLOTS],
}

/// Nodes that a change took out.
pub(crate) type Cut = ArrayVec<Retired<Node>, LEVELS>;

impl Node {
    pub(crate) fn new() -> Box<Node> {
        Box::new(Node {
            shift: 0,
            count: AtomicUsize::new(0),
            marks: [const { AtomicU64::new(0) }; MARKS],
            slots: [const { Slot::new() }; SLOTS],
        })
    }

    /// The place of an index below this node.
    #[inline]
    fn place(&self, index: u64) -> usize {
        ((index >> self.shift) & MASK) as usize
    }

    fn count_in(&self) {
        // Relaxed: under the tree's lock, as all uses.
        self.count.store(self.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// The tree itself: a root, marks of a root page, and the number of pages.
pub(crate) struct Tree {
    root: Slot<Node>,
    root_marks: AtomicU64,
    pages: AtomicUsize,
}

/// Why an insertion did not happen.
pub(crate) enum InsertError {
    /// Somebody else's page is there.
    Occupied,
    /// The tree cannot grow without another node: allocate one with the lock dropped, try again with
    /// the page, which comes back.
    NeedNode(PageRef),
}

/// Why there is no slot.
enum NoSlot {
    Occupied,
    NeedNode,
}

/// Rights of the holder of the tree's lock.
pub(crate) struct TreeWriter<'a> {
    tree: &'a Tree,
    guard: ReadGuard,
    cut: RefCell<Cut>,
}

impl Tree {
    pub(crate) const fn new() -> Tree {
        Tree { root: Slot::new(), root_marks: AtomicU64::new(0), pages: AtomicUsize::new(0) }
    }

    /// How many pages are stored.
    pub(crate) fn len(&self) -> usize {
        // Relaxed: a statistic.
        self.pages.load(Ordering::Relaxed)
    }

    /// The slot that holds `index` now, if its node exists.
    #[inline]
    pub(crate) fn slot<'g>(&'g self, index: u64, guard: &'g ReadGuard) -> Option<&'g Slot<Node>> {
        match self.leaf(index, guard)? {
            Leaf::Root => Some(&self.root),
            Leaf::Node(node) => Some(&node.slots[(index & MASK) as usize]),
        }
    }

    /// Calls `each(index, slot)` for `index..end`, stopping when it returns `false`; slots of missing
    /// nodes end the run.
    #[inline]
    pub(crate) fn run<'g>(
        &'g self,
        mut index: u64,
        end: u64,
        guard: &'g ReadGuard,
        mut each: impl FnMut(u64, &'g Slot<Node>) -> bool,
    ) {
        while index < end {
            let Some(first) = self.leaf(index, guard) else { return };
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

    #[inline]
    fn leaf<'g>(&'g self, index: u64, guard: &'g ReadGuard) -> Option<Leaf<'g>> {
        let mut node = match self.root.load(guard) {
            Held::Node(node) => node,
            Held::Page(_) if index == 0 => return Some(Leaf::Root),
            _ => return None,
        };
        if index >> node.shift > MASK {
            return None;
        }
        while node.shift > 0 {
            let Held::Node(below) = node.slots[node.place(index)].load(guard) else { return None };
            node = below;
        }
        Some(Leaf::Node(node))
    }

    /// The first stored page at or after `index`.
    pub(crate) fn next(&self, index: u64, guard: &ReadGuard) -> Option<(u64, &'static Page)> {
        self.search(index, guard, |node, from| (from..SLOTS).find(|&at| !node.slots[at].is_empty()))
    }

    /// The first marked page at or after `index`, for a writer.
    fn next_marked(
        &self,
        index: u64,
        mark: Mark,
        guard: &ReadGuard,
    ) -> Option<(u64, &'static Page)> {
        if matches!(self.root.load(guard), Held::Page(_))
            && self.root_marks.load(Ordering::Relaxed) & (1 << mark as u32) == 0
        {
            return None;
        }
        self.search(index, guard, |node, from| {
            let bits = node.marks[mark as usize].load(Ordering::Relaxed);
            let rest = bits & u64::MAX.checked_shl(from as u32)?;
            (rest != 0).then(|| rest.trailing_zeros() as usize)
        })
    }

    /// Walks down by `pick(node, first slot to consider)`, backing up where a subtree has nothing.
    fn search(
        &self,
        mut index: u64,
        guard: &ReadGuard,
        pick: impl Fn(&Node, usize) -> Option<usize>,
    ) -> Option<(u64, &'static Page)> {
        'restart: loop {
            let top = match self.root.load(guard) {
                Held::Node(node) => node,
                Held::Page(page) => return (index == 0).then_some((0, page)),
                Held::Empty => return None,
            };
            if index >> top.shift > MASK {
                return None;
            }
            let mut node = top;
            loop {
                let from = node.place(index);
                let Some(at) = pick(node, from) else {
                    // Nothing here: go on behind this node's range, from the top.
                    let span = node.shift + BITS;
                    if span >= 64 {
                        return None;
                    }
                    index = ((index >> span) + 1).checked_shl(span)?;
                    if index == 0 || index >> top.shift > MASK {
                        return None;
                    }
                    continue 'restart;
                };
                if at != from {
                    let low = node.shift + BITS;
                    let base = if low >= 64 { 0 } else { index >> low << low };
                    index = base | ((at as u64) << node.shift);
                }
                match node.slots[at].load(guard) {
                    Held::Page(page) => return Some((index, page)),
                    Held::Node(below) => node = below,
                    // It was emptied meanwhile.
                    Held::Empty => {
                        index = ((index >> node.shift) + 1).checked_shl(node.shift)?;
                        if index == 0 {
                            return None;
                        }
                        continue 'restart;
                    }
                }
            }
        }
    }

    /// Write access for the holder of the lock that guards this tree.
    pub(crate) fn writer(&self) -> TreeWriter<'_> {
        TreeWriter { tree: self, guard: rcu::read_lock(), cut: RefCell::new(Cut::new()) }
    }
}

enum Leaf<'a> {
    Root,
    Node(&'a Node),
}

impl TreeWriter<'_> {
    /// Ends the change. What it took out is to be dropped without the lock.
    pub(crate) fn finish(self) -> Cut {
        self.cut.into_inner()
    }

    /// Stores `page` at `index`; nodes come from `spare`.
    pub(crate) fn insert(
        &self,
        index: u64,
        page: PageRef,
        spare: &mut Option<Box<Node>>,
    ) -> Result<(), InsertError> {
        let leaf = match self.make_leaf(index, spare) {
            Ok(leaf) => leaf,
            Err(NoSlot::Occupied) => return Err(InsertError::Occupied),
            Err(NoSlot::NeedNode) => return Err(InsertError::NeedNode(page)),
        };
        match leaf {
            Leaf::Root => {
                self.tree.root_marks.store(0, Ordering::Relaxed);
                self.tree.root.put_page(page).map_err(|_| InsertError::Occupied)?;
            }
            Leaf::Node(node) => {
                let slot = &node.slots[(index & MASK) as usize];
                slot.put_page(page).map_err(|_| InsertError::Occupied)?;
                node.count_in();
            }
        }
        self.tree.pages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn take_spare(spare: &mut Option<Box<Node>>, shift: u32) -> Result<Box<Node>, NoSlot> {
        let mut node = spare.take().ok_or(NoSlot::NeedNode)?;
        node.shift = shift;
        Ok(node)
    }

    /// Puts a node above what the root holds, if anything; `marks` are those of the first slot.
    fn grow(&self, mut node: Box<Node>, is_empty: bool, marks: [bool; MARKS]) {
        let root = &self.tree.root;
        let done = if is_empty {
            root.put_node(node)
        } else {
            *node.count.get_mut() = 1;
            for (bits, mark) in node.marks.iter_mut().zip(marks) {
                *bits.get_mut() = u64::from(mark);
            }
            root.wrap(node, |node| &mut node.slots[0])
        };
        debug_assert!(done.is_ok(), "a second writer");
    }

    fn make_leaf(&self, index: u64, spare: &mut Option<Box<Node>>) -> Result<Leaf<'_>, NoSlot> {
        loop {
            let top = match self.tree.root.load(&self.guard) {
                Held::Empty if index == 0 => return Ok(Leaf::Root),
                Held::Page(_) if index == 0 => return Err(NoSlot::Occupied),
                Held::Empty => {
                    self.grow(Self::take_spare(spare, 0)?, true, [false; MARKS]);
                    continue;
                }
                Held::Page(_) => {
                    // The root page moves into a leaf.
                    let marks = self.tree.root_marks.load(Ordering::Relaxed);
                    let marks = core::array::from_fn(|mark| marks >> mark & 1 != 0);
                    self.grow(Self::take_spare(spare, 0)?, false, marks);
                    continue;
                }
                Held::Node(top) => top,
            };
            if index >> top.shift > MASK {
                let marks =
                    core::array::from_fn(|mark| top.marks[mark].load(Ordering::Relaxed) != 0);
                self.grow(Self::take_spare(spare, top.shift + BITS)?, false, marks);
                continue;
            }
            let mut node = top;
            while node.shift > 0 {
                let slot = &node.slots[node.place(index)];
                if slot.is_empty() {
                    let below = Self::take_spare(spare, node.shift - BITS)?;
                    let done = slot.put_node(below);
                    debug_assert!(done.is_ok(), "a second writer");
                    node.count_in();
                }
                let Held::Node(below) = slot.load(&self.guard) else {
                    return Err(NoSlot::Occupied);
                };
                node = below;
            }
            return Ok(Leaf::Node(node));
        }
    }

    /// Takes out the page at `index` with its marks.
    pub(crate) fn remove(&self, index: u64) -> Option<PageRef> {
        let tree = self.tree;
        let page = match tree.root.load(&self.guard) {
            Held::Page(_) if index == 0 => {
                tree.root_marks.store(0, Ordering::Relaxed);
                let Taken::Page(page) = tree.root.take() else { return None };
                page
            }
            Held::Node(top) if index >> top.shift <= MASK => {
                let (page, is_empty) = self.remove_below(top, index)?;
                if is_empty {
                    tree.root_marks.store(0, Ordering::Relaxed);
                    self.cut_off(&tree.root);
                }
                page
            }
            _ => return None,
        };
        tree.pages.fetch_sub(1, Ordering::Relaxed);
        Some(page)
    }

    /// Takes out the page at `index` below a node, and the nodes that hold nothing then; and whether
    /// this node is one of them.
    fn remove_below(&self, node: &Node, index: u64) -> Option<(PageRef, bool)> {
        let at = node.place(index);
        let slot = &node.slots[at];
        let mut is_gone = true;
        let mut marked = [false; MARKS];
        let page = if node.shift == 0 {
            let Taken::Page(page) = slot.take() else { return None };
            page
        } else {
            let Held::Node(below) = slot.load(&self.guard) else { return None };
            let (page, is_empty) = self.remove_below(below, index)?;
            marked = core::array::from_fn(|mark| below.marks[mark].load(Ordering::Relaxed) != 0);
            is_gone = is_empty;
            page
        };
        for (bits, _) in node.marks.iter().zip(marked).filter(|(_, marked)| !marked) {
            let seen = bits.load(Ordering::Relaxed);
            if seen & 1 << at != 0 {
                bits.store(seen & !(1 << at), Ordering::Relaxed);
            }
        }
        if !is_gone {
            return Some((page, false));
        }
        if node.shift > 0 {
            self.cut_off(slot);
        }
        let count = node.count.load(Ordering::Relaxed) - 1;
        node.count.store(count, Ordering::Relaxed);
        Some((page, count == 0))
    }

    /// Takes an empty node out of its slot.
    fn cut_off(&self, slot: &Slot<Node>) {
        if let Taken::Node(node) = slot.take() {
            // A removal cuts off one node per level at most.
            self.cut.borrow_mut().push(node);
        }
    }

    /// The first marked page at or after `index`.
    pub(crate) fn next_marked(&self, index: u64, mark: Mark) -> Option<(u64, &'static Page)> {
        self.tree.next_marked(index, mark, &self.guard)
    }

    /// Sets `mark` on the page at `index`; nothing if there is no page.
    pub(crate) fn set_mark(&self, index: u64, mark: Mark) {
        match self.tree.root.load(&self.guard) {
            Held::Page(_) if index == 0 => {
                self.tree.root_marks.fetch_or(1 << mark as u32, Ordering::Relaxed);
            }
            Held::Node(top) if index >> top.shift <= MASK => {
                self.set_below(top, index, mark);
            }
            _ => {}
        }
    }

    /// Sets a mark below a node; whether it is the node's first, which its parent has to know.
    fn set_below(&self, node: &Node, index: u64, mark: Mark) -> bool {
        let at = node.place(index);
        let is_new = match node.slots[at].load(&self.guard) {
            Held::Empty => false,
            Held::Page(_) => true,
            Held::Node(below) => self.set_below(below, index, mark),
        };
        is_new && node.marks[mark as usize].fetch_or(1 << at, Ordering::Relaxed) == 0
    }

    /// Clears `mark` on the page at `index`.
    pub(crate) fn clear_mark(&self, index: u64, mark: Mark) {
        match self.tree.root.load(&self.guard) {
            Held::Page(_) if index == 0 => {
                self.tree.root_marks.fetch_and(!(1 << mark as u32), Ordering::Relaxed);
            }
            Held::Node(top) if index >> top.shift <= MASK => {
                self.clear_below(top, index, mark);
            }
            _ => {}
        }
    }

    /// Clears a mark below a node; whether it was the node's last.
    fn clear_below(&self, node: &Node, index: u64, mark: Mark) -> bool {
        let at = node.place(index);
        let is_gone = match node.slots[at].load(&self.guard) {
            Held::Node(below) => self.clear_below(below, index, mark),
            _ => true,
        };
        let bit = 1u64 << at;
        is_gone && node.marks[mark as usize].fetch_and(!bit, Ordering::Relaxed) == bit
    }

    /// Copies mark `from` to mark `to` for pages in `first..=last`.
    pub(crate) fn copy_marks(&self, first: u64, last: u64, from: Mark, to: Mark) {
        let mut index = first;
        while let Some((at, _)) = self.next_marked(index, from) {
            if at > last {
                return;
            }
            self.set_mark(at, to);
            let Some(next) = at.checked_add(1) else { return };
            index = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frames::{Flags, alloc_page};
    use std::collections::BTreeMap;

    fn insert(tree: &Tree, index: u64, mut page: PageRef) -> bool {
        let mut spare = None;
        loop {
            match tree.writer().insert(index, page, &mut spare) {
                Ok(()) => return true,
                Err(InsertError::Occupied) => return false,
                Err(InsertError::NeedNode(back)) => page = back,
            }
            spare = Some(Node::new());
        }
    }

    #[test]
    fn behaves_like_a_map() {
        frames::init_host(256 << 20);
        let tree = Tree::new();
        let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        let mut seed = 0x1234_5678_9abc_def1u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..20_000 {
            let index = match random() % 4 {
                0 => random() % 4,
                1 => random() % 200,
                2 => random() % 100_000,
                _ => ((random() % 8) << 40) | (random() % 64),
            };
            match random() % 5 {
                0 | 1 => {
                    let page = alloc_page(Flags::empty()).expect("memory");
                    let pfn = page.pfn().0;
                    let fresh = !model.contains_key(&index);
                    assert_eq!(insert(&tree, index, page), fresh);
                    model.entry(index).or_insert((pfn, false));
                }
                2 => {
                    let gone = tree.writer().remove(index);
                    let expected = model.remove(&index).map(|(pfn, _)| pfn);
                    assert_eq!(gone.map(|page| page.pfn().0), expected);
                }
                3 => {
                    tree.writer().set_mark(index, Mark::Dirty);
                    if let Some(entry) = model.get_mut(&index) {
                        entry.1 = true;
                    }
                }
                _ => {
                    if model.contains_key(&index) {
                        tree.writer().clear_mark(index, Mark::Dirty);
                        if let Some(entry) = model.get_mut(&index) {
                            entry.1 = false;
                        }
                    }
                }
            }
            let guard = rcu::read_lock();
            let probe = random() % 100_000;
            let found = |found: Option<(u64, &Page)>| found.map(|(at, page)| (at, page.pfn().0));
            let next = model.range(probe..).next().map(|(&i, &(w, _))| (i, w));
            assert_eq!(found(tree.next(probe, &guard)), next);
            let marked = model.range(probe..).find(|e| e.1.1).map(|(&i, &(w, _))| (i, w));
            assert_eq!(found(tree.next_marked(probe, Mark::Dirty, &guard)), marked);
            let slot = tree.slot(index, &guard).map(|slot| slot.load(&guard));
            let there = match slot {
                Some(Held::Page(page)) => Some(page.pfn().0),
                _ => None,
            };
            assert_eq!(there, model.get(&index).map(|&(pfn, _)| pfn));
        }
        assert_eq!(tree.len(), model.len());
        for &index in model.keys() {
            tree.writer().remove(index);
        }
        assert!(tree.next(0, &rcu::read_lock()).is_none());
    }
}
