#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

use core::marker::PhantomData;
use core::ptr::NonNull;

/// The part of an element that ties it into a heap.
pub struct Link<T> {
    child: Option<NonNull<T>>,
    next: Option<NonNull<T>>,
    /// The parent for a first child, else the sibling before; `None` for the root.
    prev: Option<NonNull<T>>,
}

impl<T> Link<T> {
    /// A link that is in no heap.
    pub const fn new() -> Self {
        Link { child: None, next: None, prev: None }
    }
}

impl<T> Default for Link<T> {
    fn default() -> Self {
        Link::new()
    }
}

/// Where the link of an element is, and which element comes first.
///
/// # Safety
/// `link` must answer the same embedded link for the same element each time.
pub unsafe trait Adapter {
    /// The element.
    type Element;
    /// The element's link.
    ///
    /// # Safety
    /// `element` must be valid.
    unsafe fn link(element: NonNull<Self::Element>) -> *mut Link<Self::Element>;
    /// Whether `a` leaves before `b`.
    ///
    /// # Safety
    /// Both must be valid.
    unsafe fn before(a: NonNull<Self::Element>, b: NonNull<Self::Element>) -> bool;
}

/// The heap. Dropping it does not touch the elements.
pub struct Heap<A: Adapter> {
    root: Option<NonNull<A::Element>>,
    adapter: PhantomData<A>,
}

// SAFETY: the heap is a pointer into elements whose owner promised, on insertion, that they may be
// reached by whoever may reach the heap.
unsafe impl<A: Adapter> Send for Heap<A> {}

impl<A: Adapter> Default for Heap<A> {
    fn default() -> Self {
        Heap::new()
    }
}

impl<A: Adapter> Heap<A> {
    /// An empty heap.
    pub const fn new() -> Self {
        Heap { root: None, adapter: PhantomData }
    }

    /// The first element.
    #[inline]
    pub fn peek(&self) -> Option<NonNull<A::Element>> {
        self.root
    }

    /// Adds an element.
    ///
    /// # Safety
    /// The element is in no heap, stays where it is and valid until it is taken out, and its order
    /// does not change in between.
    #[inline]
    pub unsafe fn insert(&mut self, element: NonNull<A::Element>) {
        // SAFETY: the caller promises a valid element; nobody else has its link.
        unsafe {
            *A::link(element) = Link { child: None, next: None, prev: None };
            self.root = Some(match self.root {
                None => element,
                Some(root) => meld::<A>(root, element),
            });
        }
    }

    /// Takes the first element out.
    #[inline]
    pub fn pop(&mut self) -> Option<NonNull<A::Element>> {
        let root = self.root?;
        // SAFETY: elements in the heap are valid by the promise of `insert`.
        unsafe {
            let link = A::link(root);
            self.root = merge_siblings::<A>((*link).child);
            (*link).child = None;
        }
        Some(root)
    }

    /// Takes one element out.
    ///
    /// # Safety
    /// The element is in this heap.
    pub unsafe fn remove(&mut self, element: NonNull<A::Element>) {
        if self.root == Some(element) {
            self.pop();
            return;
        }
        // SAFETY: all elements of the heap are valid; `element` is one, and not the root, so it
        // has a parent or an elder sibling.
        unsafe {
            let link = A::link(element);
            let next = (*link).next.take();
            if let Some(prev) = (*link).prev.take() {
                let prev_link = A::link(prev);
                if (*prev_link).child == Some(element) {
                    (*prev_link).child = next;
                } else {
                    (*prev_link).next = next;
                }
                if let Some(next) = next {
                    (*A::link(next)).prev = Some(prev);
                }
            }
            let orphans = merge_siblings::<A>((*link).child.take());
            self.root = match (self.root, orphans) {
                (Some(root), Some(orphans)) => Some(meld::<A>(root, orphans)),
                (root, None) => root,
                (None, orphans) => orphans,
            };
        }
    }

    /// Visits at most `limit` elements, the first one first, the others in no order, until `visit`
    /// answers false.
    pub fn scan(&self, limit: usize, mut visit: impl FnMut(NonNull<A::Element>) -> bool) {
        let mut current = self.root;
        let mut left = limit;
        while let Some(element) = current {
            if left == 0 || !visit(element) {
                return;
            }
            left -= 1;
            // SAFETY: elements of the heap are valid; `prev` of a first child is its parent.
            unsafe {
                let link = A::link(element);
                current = (*link).child;
                let mut up = element;
                while current.is_none() {
                    let up_link = A::link(up);
                    if let Some(next) = (*up_link).next {
                        current = Some(next);
                        break;
                    }
                    // Back to the first sibling, then to the parent.
                    let mut first = up;
                    loop {
                        match (*A::link(first)).prev {
                            None => return,
                            Some(prev) if (*A::link(prev)).child == Some(first) => {
                                up = prev;
                                break;
                            }
                            Some(prev) => first = prev,
                        }
                    }
                }
            }
        }
    }
}

/// Joins two heaps without siblings and answers the root.
///
/// # Safety
/// Both are valid roots.
#[inline]
unsafe fn meld<A: Adapter>(a: NonNull<A::Element>, b: NonNull<A::Element>) -> NonNull<A::Element> {
    // SAFETY: the caller promises valid roots; the loser becomes the first child of the winner.
    unsafe {
        let (winner, loser) = if A::before(b, a) { (b, a) } else { (a, b) };
        let winner_link = A::link(winner);
        let loser_link = A::link(loser);
        (*loser_link).next = (*winner_link).child;
        (*loser_link).prev = Some(winner);
        if let Some(child) = (*winner_link).child {
            (*A::link(child)).prev = Some(loser);
        }
        (*winner_link).child = Some(loser);
        winner
    }
}

/// Joins a list of siblings in two passes and answers the root.
///
/// # Safety
/// `first` is the first of a list of valid siblings whose parent forgets them.
unsafe fn merge_siblings<A: Adapter>(
    first: Option<NonNull<A::Element>>,
) -> Option<NonNull<A::Element>> {
    let mut rest = first?;
    // SAFETY: every sibling is valid; each is cut from the list before it is melded.
    unsafe {
        let mut pairs: Option<NonNull<A::Element>> = None;
        loop {
            let a = rest;
            let b = cut::<A>(a);
            let (joined, next) = match b {
                None => (a, None),
                Some(b) => {
                    let next = cut::<A>(b);
                    (meld::<A>(a, b), next)
                }
            };
            (*A::link(joined)).next = pairs;
            pairs = Some(joined);
            match next {
                None => break,
                Some(next) => rest = next,
            }
        }
        let mut root = pairs?;
        let mut next = (*A::link(root)).next.take();
        while let Some(pair) = next {
            next = (*A::link(pair)).next.take();
            root = meld::<A>(root, pair);
        }
        (*A::link(root)).prev = None;
        Some(root)
    }
}

/// Cuts an element off its list and answers the sibling after it.
///
/// # Safety
/// The element is valid.
unsafe fn cut<A: Adapter>(element: NonNull<A::Element>) -> Option<NonNull<A::Element>> {
    // SAFETY: the caller promises a valid element.
    unsafe {
        let link = A::link(element);
        (*link).prev = None;
        (*link).next.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Item {
        key: u64,
        link: Link<Item>,
    }
    struct ByKey;
    // SAFETY: `link` is the one field.
    unsafe impl Adapter for ByKey {
        type Element = Item;
        unsafe fn link(element: NonNull<Item>) -> *mut Link<Item> {
            // SAFETY: the caller promises a valid element.
            unsafe { &raw mut (*element.as_ptr()).link }
        }
        unsafe fn before(a: NonNull<Item>, b: NonNull<Item>) -> bool {
            // SAFETY: the caller promises valid elements.
            unsafe { (*a.as_ptr()).key < (*b.as_ptr()).key }
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(ops in prop::collection::vec((0u8..4, 0u64..50), 0..300)) {
            let mut heap: Heap<ByKey> = Heap::new();
            let mut model: Vec<NonNull<Item>> = Vec::new();
            for (op, key) in ops {
                match op {
                    0 | 1 => {
                        let item = Box::leak(Box::new(Item { key, link: Link::new() }));
                        let item = NonNull::from(item);
                        // SAFETY: the item is fresh and freed only after it left the heap.
                        unsafe { heap.insert(item) };
                        model.push(item);
                    }
                    2 => {
                        let popped = heap.pop();
                        // SAFETY: items of the model are alive.
                        let least = model.iter().map(|i| unsafe { i.as_ref() }.key).min();
                        // SAFETY: as above.
                        prop_assert_eq!(popped.map(|i| unsafe { i.as_ref() }.key), least);
                        model.retain(|i| Some(*i) != popped);
                    }
                    _ if !model.is_empty() => {
                        let item = model.swap_remove(key as usize % model.len());
                        // SAFETY: the item is in the heap.
                        unsafe { heap.remove(item) };
                    }
                    _ => {}
                }
                let mut seen = 0;
                heap.scan(usize::MAX, |_| { seen += 1; true });
                prop_assert_eq!(seen, model.len());
            }
        }
    }
}
