#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicUsize, Ordering};
use frames::{Page, PageRef};
use sched::rcu::{self, ReadGuard};

/// Bit 0 of a word: it is a node.
const NODE: usize = 1;

/// A word that is empty, or owns a page or a node.
pub struct Slot<N: Send + Sync + 'static> {
    word: AtomicUsize,
    owns: PhantomData<(PageRef, Box<N>)>,
}

/// What a reader finds in a slot.
pub enum Held<'g, N> {
    /// Nothing.
    Empty,
    /// A page, which may be free by now: see the crate's text.
    Page(&'static Page),
    /// A node.
    Node(&'g N),
}

/// What was taken out of a slot.
pub enum Taken<N: Send + Sync + 'static> {
    /// Nothing.
    Empty,
    /// The page with the slot's reference.
    Page(PageRef),
    /// The node, which readers may still look at.
    Node(Retired<N>),
}

/// A node that is no longer in a tree. Dropping it frees it after a grace period.
pub struct Retired<N: Send + Sync + 'static>(ManuallyDrop<Box<N>>);

impl<N: Send + Sync + 'static> Drop for Retired<N> {
    fn drop(&mut self) {
        // SAFETY: taken once, here; `self` is not used after its drop.
        let node = unsafe { ManuallyDrop::take(&mut self.0) };
        rcu::call(rcu::Later::drop_box(node));
    }
}

fn page_word(page: &'static Page) -> usize {
    core::ptr::from_ref(page).expose_provenance()
}

fn node_word<N>(node: Box<N>) -> usize {
    const { assert!(align_of::<N>() > NODE && align_of::<Page>() > NODE) };
    Box::into_raw(node).expose_provenance() | NODE
}

/// The node of a word.
///
/// # Safety
/// The word is from `node_word`, and the node is freed by nobody else.
unsafe fn node_of<N>(word: usize) -> Box<N> {
    // SAFETY: the caller vouches.
    unsafe { Box::from_raw(core::ptr::with_exposed_provenance_mut(word & !NODE)) }
}

/// The page of a word.
///
/// # Safety
/// The word is from `page_word`.
#[inline]
unsafe fn page_of(word: usize) -> &'static Page {
    // SAFETY: the caller vouches; metadata of pages lives for ever.
    unsafe { &*core::ptr::with_exposed_provenance(word) }
}

impl<N: Send + Sync + 'static> Slot<N> {
    /// An empty slot.
    pub const fn new() -> Slot<N> {
        Slot { word: AtomicUsize::new(0), owns: PhantomData }
    }

    /// What is there now.
    #[inline]
    pub fn load<'g>(&'g self, _guard: &'g ReadGuard) -> Held<'g, N> {
        // Acquire: pairs with the Release of whoever put it: what it points at is written before.
        let word = self.word.load(Ordering::Acquire);
        if word == 0 {
            Held::Empty
        } else if word & NODE == 0 {
            // SAFETY: words without the bit are made by `page_word` only.
            Held::Page(unsafe { page_of(word) })
        } else {
            // SAFETY: words with the bit are made by `node_word` only. The slot owned the node just
            // now: it is freed after a grace period that waits for the guard (`Retired`), or when the
            // slot itself is dropped, which the borrow forbids.
            Held::Node(unsafe { &*core::ptr::with_exposed_provenance::<N>(word & !NODE) })
        }
    }

    /// Whether nothing is there.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.word.load(Ordering::Acquire) == 0
    }

    /// Whether this page is there.
    #[inline]
    pub fn is_page(&self, page: &'static Page) -> bool {
        self.word.load(Ordering::Acquire) == core::ptr::from_ref(page).addr()
    }

    fn fill(&self, word: usize) -> bool {
        self.word.compare_exchange(0, word, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Puts a page where nothing is. Else it comes back.
    pub fn put_page(&self, page: PageRef) -> Result<(), PageRef> {
        if !self.fill(page_word(page.page())) {
            return Err(page);
        }
        // The slot has the reference now.
        page.into_raw();
        Ok(())
    }

    /// Puts a node where nothing is. Else it comes back.
    pub fn put_node(&self, node: Box<N>) -> Result<(), Box<N>> {
        let word = node_word(node);
        if self.fill(word) {
            return Ok(());
        }
        // SAFETY: made just now and published nowhere.
        Err(unsafe { node_of(word) })
    }

    /// Puts a node in place of what is there, which moves to the node's slot that `inner` names and
    /// that is empty. `Err` when another writer came between.
    pub fn wrap(
        &self,
        node: Box<N>,
        inner: impl for<'a> FnOnce(&'a mut N) -> &'a mut Slot<N>,
    ) -> Result<(), Box<N>> {
        let seen = self.word.load(Ordering::Acquire);
        let raw = Box::into_raw(node);
        // SAFETY: from the box just now; nobody else has it.
        let to = unsafe { inner(&mut *raw) }.word.get_mut();
        if *to == 0 {
            // Nobody else sees the node's slot: until the exchange only `self` owns what was seen.
            *to = seen;
            let word = raw.expose_provenance() | NODE;
            if self.word.compare_exchange(seen, word, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
            *to = 0;
        }
        // SAFETY: as above; it was not published.
        Err(unsafe { Box::from_raw(raw) })
    }

    /// Takes out what is there.
    pub fn take(&self) -> Taken<N> {
        let word = self.word.swap(0, Ordering::AcqRel);
        if word == 0 {
            Taken::Empty
        } else if word & NODE == 0 {
            // SAFETY: a page's word, whose reference the slot owned and has given up just now.
            Taken::Page(unsafe { PageRef::from_raw(page_of(word)) })
        } else {
            // SAFETY: a node's word, taken out by nobody else; `Retired` waits for readers.
            Taken::Node(Retired(ManuallyDrop::new(unsafe { node_of(word) })))
        }
    }
}

impl<N: Send + Sync + 'static> Default for Slot<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<N: Send + Sync + 'static> Drop for Slot<N> {
    fn drop(&mut self) {
        let word = *self.word.get_mut();
        if word & NODE != 0 {
            // SAFETY: the slot owned the node, and nobody reads the slot any more.
            drop(unsafe { node_of::<N>(word) });
        } else if word != 0 {
            // SAFETY: the slot owned this reference.
            drop(unsafe { PageRef::from_raw(page_of(word)) });
        }
    }
}
