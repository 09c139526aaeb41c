//! [`Later`]: what goes after a grace period, in two words and without memory of its own.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};

/// Something that is dropped, or a function that is called, when this is dropped.
#[must_use = "dropped at once it does not wait for a grace period"]
pub struct Later {
    what: *const (),
    act: unsafe fn(*const ()),
}

// SAFETY: each constructor asks for what may be dropped, or called, in another thread.
unsafe impl Send for Later {}

impl Later {
    /// Drops a counted reference.
    pub fn drop_arc<T: Send + Sync + 'static>(arc: Arc<T>) -> Later {
        let act = |raw: *const ()| {
            // SAFETY: from `into_raw` below, and called once.
            drop(unsafe { Arc::<T>::from_raw(raw.cast()) });
        };
        Later { what: Arc::into_raw(arc).cast(), act }
    }

    /// Drops a weak reference: the memory of an object that has ended.
    pub fn drop_weak<T: Send + Sync + 'static>(weak: Weak<T>) -> Later {
        let act = |raw: *const ()| {
            // SAFETY: from `into_raw` below, and called once.
            drop(unsafe { Weak::<T>::from_raw(raw.cast()) });
        };
        Later { what: Weak::into_raw(weak).cast(), act }
    }

    /// Drops an object.
    pub fn drop_box<T: Send + 'static>(object: Box<T>) -> Later {
        let act = |raw: *const ()| {
            // SAFETY: from `into_raw` below, and called once.
            drop(unsafe { Box::<T>::from_raw(raw.cast_mut().cast()) });
        };
        Later { what: Box::into_raw(object).cast(), act }
    }

    /// Calls a function.
    pub fn call<F: FnOnce() + Send + 'static>(function: F) -> Later {
        let act = |raw: *const ()| {
            // SAFETY: from `into_raw` below, and called once.
            let function = unsafe { Box::<F>::from_raw(raw.cast_mut().cast()) };
            function();
        };
        Later { what: Box::into_raw(Box::new(function)).cast(), act }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        // SAFETY: `what` is the pointer that `act` was made for, and a value is dropped once.
        unsafe { (self.act)(self.what) }
    }
}
