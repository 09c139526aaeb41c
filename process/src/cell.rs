//! [`ArcCell`]: an optional `Arc` that its owner replaces and anybody reads. [`SharedCell`]: one of what tasks share.
//!
//! The old object is given up at once when it is replaced, not after a grace period: descriptors
//! of a process that ends must be closed before its parent learns of it.

use alloc::sync::Arc;
use arch::lock::{IrqLock, LockClass, SpinLock};
use vfs::Shared;

static CLASS: LockClass = LockClass::new("process.cell", 650);

/// An optional `Arc`.
pub struct ArcCell<T: ?Sized>(SpinLock<Option<Arc<T>>>);

impl<T: ?Sized> ArcCell<T> {
    /// Holding `value`.
    pub const fn new(value: Option<Arc<T>>) -> ArcCell<T> {
        ArcCell(SpinLock::new(&CLASS, value))
    }

    /// What it holds.
    #[inline]
    pub fn get(&self) -> Option<Arc<T>> {
        self.0.lock().clone()
    }

    /// Which object it holds, without a reference to it: to be compared only.
    #[inline]
    pub(crate) fn address(&self) -> Option<*const ()> {
        self.0.lock().as_ref().map(|held| Arc::as_ptr(held).cast())
    }

    /// Replaces what it holds; the old object is dropped without the lock.
    pub fn set(&self, value: Option<Arc<T>>) {
        drop(self.replace(value));
    }

    /// Replaces what it holds by what is returned.
    fn replace(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        core::mem::replace(&mut *self.0.lock(), value)
    }
}

/// As [`ArcCell`], for what tasks may have in common: it is counted there how many cells hold it.
pub struct SharedCell<T: Shared>(ArcCell<T>);

impl<T: Shared> SharedCell<T> {
    /// Holding `value`.
    pub(crate) fn new(value: Arc<T>) -> SharedCell<T> {
        value.sharers().join();
        SharedCell(ArcCell::new(Some(value)))
    }

    /// What it holds.
    #[inline]
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.0.get()
    }

    /// Whether it holds `object`.
    pub(crate) fn holds(&self, object: &Arc<T>) -> bool {
        self.0.address() == Some(Arc::as_ptr(object).cast())
    }

    /// Replaces what it holds, as [`ArcCell::set`].
    pub(crate) fn set(&self, value: Option<Arc<T>>) {
        if let Some(new) = &value {
            new.sharers().join();
        }
        if let Some(old) = self.0.replace(value) {
            old.sharers().leave();
        }
    }
}

impl<T: Shared> Drop for SharedCell<T> {
    fn drop(&mut self) {
        // Of a thread that has ended it holds nothing any more.
        if let Some(held) = self.0.0.get_mut() {
            held.sharers().leave();
        }
    }
}

/// As [`ArcCell`], for what interrupts read too.
pub(crate) struct IrqArcCell<T: ?Sized>(IrqLock<Option<Arc<T>>>);

impl<T: ?Sized> IrqArcCell<T> {
    /// Holding `value`.
    pub(crate) const fn new(value: Option<Arc<T>>) -> IrqArcCell<T> {
        IrqArcCell(IrqLock::new(&CLASS, value))
    }

    /// What it holds.
    #[inline]
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.0.lock().clone()
    }

    /// Replaces what it holds; the old object is dropped without the lock.
    pub(crate) fn set(&self, value: Option<Arc<T>>) {
        let old = core::mem::replace(&mut *self.0.lock(), value);
        drop(old);
    }
}
