//! A thread in the queues: its account and the links that tie it in.

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use pairing::{Adapter, Link};
use schedpolicy::Account;

/// The state a run queue keeps in each thread. Guarded by the lock of the queue it is on, or,
/// while it is on none, by whoever puts it on one.
pub struct Entity {
    pub(crate) account: Account,
    pub(crate) fair_link: Link<Entity>,
    pub(crate) rt_next: Option<NonNull<Entity>>,
    pub(crate) rt_prev: Option<NonNull<Entity>>,
}

impl Entity {
    /// An entity on no queue.
    pub const fn new() -> Entity {
        Entity { account: Account::new(), fair_link: Link::new(), rt_next: None, rt_prev: None }
    }
}

impl Default for Entity {
    fn default() -> Self {
        Entity::new()
    }
}

impl Deref for Entity {
    type Target = Account;
    #[inline(always)]
    fn deref(&self) -> &Account {
        &self.account
    }
}

impl DerefMut for Entity {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}

/// Orders entities by virtual run time.
pub(crate) struct ByVruntime;

// SAFETY: the link is one field of the entity.
unsafe impl Adapter for ByVruntime {
    type Element = Entity;
    #[inline(always)]
    unsafe fn link(element: NonNull<Entity>) -> *mut Link<Entity> {
        // SAFETY: the caller promises a valid element.
        unsafe { &raw mut (*element.as_ptr()).fair_link }
    }
    #[inline(always)]
    unsafe fn before(a: NonNull<Entity>, b: NonNull<Entity>) -> bool {
        // SAFETY: the caller promises valid elements.
        unsafe { (*a.as_ptr()).account.is_before(&(*b.as_ptr()).account) }
    }
}
