//! The handlers behind one interrupt vector of one processor, called without a lock.

use crate::irq::Handler;
use crate::irq_count;
use crate::x86::ipi;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

struct Action {
    handlers: Vec<Handler>,
}

/// A place for the handlers of the devices that share a vector. Whoever changes it holds a lock of its
/// own; calling takes none.
pub struct HandlerSlot {
    action: AtomicPtr<Action>,
    /// How often handlers were called, whosever they were.
    count: AtomicU64,
}

/// Handlers that are in no slot any more. Dropping it waits until no processor is in them: without
/// locks, interrupts on.
#[must_use = "is to be dropped without locks"]
pub struct OldHandlers(*mut Action);

impl Drop for OldHandlers {
    fn drop(&mut self) {
        if self.0.is_null() {
            return;
        }
        // Every processor that answers has left the handlers it was in.
        ipi::call_on(&crate::cpu::online(), |_| (), 0);
        // SAFETY: made by `replace`, out of its slot, and nobody is in it.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl HandlerSlot {
    /// A slot without handlers.
    pub const fn new() -> HandlerSlot {
        HandlerSlot { action: AtomicPtr::new(core::ptr::null_mut()), count: AtomicU64::new(0) }
    }

    /// Calls the handlers, in an interrupt of the one processor whose slot it is; whether there are any.
    #[inline]
    pub fn call(&self) -> bool {
        // Acquire: pairs with the release when the action was installed.
        let action = self.action.load(Ordering::Acquire);
        // SAFETY: an action is freed only after every processor has left its handlers, which it
        // answers with interrupts on, and here they are off.
        let Some(action) = (unsafe { action.as_ref() }) else { return false };
        irq_count::add(&self.count, 1);
        action.handlers.iter().for_each(|handler| handler());
        true
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.action.load(Ordering::Relaxed).is_null()
    }

    /// How often handlers were called here since boot.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The handlers. The caller holds the lock under which the slot is changed, interrupts off: what
    /// was there is freed only after this processor answered.
    pub fn handlers(&self) -> Vec<Handler> {
        let _irq = crate::irq::disable();
        // SAFETY: as in `call`.
        match unsafe { self.action.load(Ordering::Acquire).as_ref() } {
            Some(action) => action.handlers.clone(),
            None => Vec::new(),
        }
    }

    /// Puts other handlers in place; none empties the slot.
    pub fn replace(&self, handlers: Vec<Handler>) -> OldHandlers {
        let new = if handlers.is_empty() {
            core::ptr::null_mut()
        } else {
            Box::into_raw(Box::new(Action { handlers }))
        };
        // Release: pairs with the acquire in `call`.
        OldHandlers(self.action.swap(new, Ordering::AcqRel))
    }
}

impl Default for HandlerSlot {
    fn default() -> Self {
        Self::new()
    }
}
