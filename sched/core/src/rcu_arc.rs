//! Shared pointers that are read under RCU, without touching a reference count.
//!
//! [`RcuArc`] owns one reference to what it points at; replacing the pointer gives that reference
//! back after a grace period. A reader gets an [`RcuRef`], which it may turn into an `Arc`.
//!
//! [`RcuSlot`] is for objects whose last reference must go at once (an open file whose `close` the
//! other end waits for): taking the pointer out returns the reference immediately and only keeps
//! the *memory* until the grace period ends. Readers get an `Arc`, or nothing if they came late.

use alloc::sync::{Arc, Weak};
use core::hint::assert_unchecked;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::hooks::sched_after_grace;
use crate::rcu_later::Later;
use crate::rcu_read::{ReadGuard, read_lock};

/// The bytes in which an `Arc` counts its references, before the object.
const COUNTERS: usize = 2 * size_of::<usize>();

/// A borrowed `Arc` that is valid for `'g`.
pub struct RcuRef<'g, T> {
    raw: *const T,
    life: PhantomData<&'g T>,
}

impl<T> Clone for RcuRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RcuRef<'_, T> {}

impl<'g, T> RcuRef<'g, T> {
    /// Borrows an `Arc`.
    #[inline]
    pub fn from_arc(arc: &'g Arc<T>) -> RcuRef<'g, T> {
        RcuRef { raw: Arc::as_ptr(arc), life: PhantomData }
    }

    /// The object, for as long as it is protected.
    #[inline]
    pub fn get(self) -> &'g T {
        // SAFETY: `raw` comes from an `Arc` of which one reference is held for `'g`: by the borrow
        // in `from_arc`, or by RCU (see `RcuArc::load`).
        unsafe { &*self.raw }
    }

    #[inline]
    fn arc(self) -> ManuallyDrop<Arc<T>> {
        // SAFETY: as in `get`; the reference is not given up, because it is not dropped.
        ManuallyDrop::new(unsafe { Arc::from_raw(self.raw) })
    }

    /// A counted reference.
    #[inline]
    pub fn to_arc(self) -> Arc<T> {
        Arc::clone(&self.arc())
    }

    /// How many counted references there are.
    #[inline]
    pub fn strong_count(self) -> usize {
        Arc::strong_count(&self.arc())
    }
}

impl<T> Deref for RcuRef<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.get()
    }
}

/// An optional `Arc` that is replaced atomically and read under RCU.
pub struct RcuArc<T: Send + Sync + 'static> {
    raw: AtomicPtr<T>,
    owns: PhantomData<Arc<T>>,
}

impl<T: Send + Sync + 'static> RcuArc<T> {
    /// Nothing.
    pub const fn empty() -> RcuArc<T> {
        RcuArc { raw: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// Holding `value`.
    pub fn new(value: Option<Arc<T>>) -> RcuArc<T> {
        RcuArc { raw: AtomicPtr::new(into_raw(value)), owns: PhantomData }
    }

    /// What it points at now. Valid while both the guard and this cell live.
    #[inline]
    pub fn load<'g>(&'g self, _guard: &'g ReadGuard) -> Option<RcuRef<'g, T>> {
        // Acquire: pairs with the AcqRel in `set`: the object is written before it can be found.
        let raw = self.raw.load(Ordering::Acquire);
        // The cell's reference is given back only after a grace period that has to wait for the
        // guard, or when the cell is dropped, which the borrow of `self` forbids.
        if raw.is_null() { None } else { Some(RcuRef { raw, life: PhantomData }) }
    }

    /// A counted reference to what it points at.
    #[inline]
    pub fn get(&self) -> Option<Arc<T>> {
        let guard = read_lock();
        self.load(&guard).map(RcuRef::to_arc)
    }

    /// Whether it points at anything.
    #[inline]
    pub fn is_some(&self) -> bool {
        !self.raw.load(Ordering::Acquire).is_null()
    }

    /// Points it at something else; the old reference goes after a grace period.
    pub fn set(&self, value: Option<Arc<T>>) {
        let old = self.raw.swap(into_raw(value), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: the cell owned this reference and has given it up just now.
            sched_after_grace(Later::drop_arc(unsafe { Arc::from_raw(old) }));
        }
    }

    /// Empties a cell that nobody else sees any more, and returns what it held.
    pub fn take(&mut self) -> Option<Arc<T>> {
        let old = core::mem::replace(self.raw.get_mut(), ptr::null_mut());
        // SAFETY: the cell owned the reference; no reader borrows the cell.
        if old.is_null() { None } else { Some(unsafe { Arc::from_raw(old) }) }
    }
}

impl<T: Send + Sync + 'static> Drop for RcuArc<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<T: Send + Sync + 'static> Default for RcuArc<T> {
    fn default() -> Self {
        Self::empty()
    }
}

fn into_raw<T>(value: Option<Arc<T>>) -> *mut T {
    value.map_or(ptr::null_mut(), |arc| Arc::into_raw(arc).cast_mut())
}

/// An optional `Arc` that can be taken out at once while readers look: see the module's text.
pub struct RcuSlot<T: Send + Sync + 'static> {
    /// From `Arc::into_raw`; stands for one strong and one weak reference.
    raw: AtomicPtr<T>,
    owns: PhantomData<Arc<T>>,
}

impl<T: Send + Sync + 'static> RcuSlot<T> {
    /// Nothing.
    pub const fn empty() -> RcuSlot<T> {
        RcuSlot { raw: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// A counted reference to what is in the slot.
    #[inline]
    pub fn get(&self) -> Option<Arc<T>> {
        let _guard = read_lock();
        // Acquire: pairs with the AcqRel in `swap`.
        let raw = self.raw.load(Ordering::Acquire);
        if raw.is_null() {
            return None;
        }
        // SAFETY: `raw` points past the counters of an allocation, at aligned memory; `Weak` would
        // otherwise look whether it was made of nothing.
        unsafe { assert_unchecked(raw.addr() > COUNTERS && raw.addr() != usize::MAX) };
        // SAFETY: the slot's weak reference to `raw` is dropped after a grace period that waits for
        // the guard; it is not given up here, because it is not dropped.
        let weak = ManuallyDrop::new(unsafe { Weak::from_raw(raw) });
        weak.upgrade()
    }

    /// Whether the slot holds anything.
    #[inline]
    pub fn is_some(&self) -> bool {
        !self.raw.load(Ordering::Acquire).is_null()
    }

    /// Replaces what is in the slot and returns what was there.
    pub fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        let new = value.map_or(ptr::null_mut(), |arc| {
            let _ = Weak::into_raw(Arc::downgrade(&arc));
            Arc::into_raw(arc).cast_mut()
        });
        let old = self.raw.swap(new, Ordering::AcqRel);
        if old.is_null() {
            return None;
        }
        // SAFETY: the slot owned one strong and one weak reference to `old`, and both are given up
        // here: the strong one to the caller, the weak one after a grace period.
        let (strong, weak) = unsafe { (Arc::from_raw(old), Weak::from_raw(old)) };
        sched_after_grace(Later::drop_weak(weak));
        Some(strong)
    }

    /// Empties the slot and returns what was there.
    pub fn take(&self) -> Option<Arc<T>> {
        if self.is_some() { self.swap(None) } else { None }
    }
}

impl<T: Send + Sync + 'static> Drop for RcuSlot<T> {
    fn drop(&mut self) {
        let old = *self.raw.get_mut();
        if !old.is_null() {
            // SAFETY: the slot owned both references and nobody reads it any more.
            unsafe {
                drop(Weak::from_raw(old));
                drop(Arc::from_raw(old));
            }
        }
    }
}

impl<T: Send + Sync + 'static> Default for RcuSlot<T> {
    fn default() -> Self {
        Self::empty()
    }
}
