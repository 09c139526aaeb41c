//! The real-time queue: one list per priority and a bitmap of the lists that are not empty.

use super::entity::Entity;
use core::ptr::NonNull;

/// Waiting real-time entities, best priority first, first come first within one.
pub(crate) struct RtQueue {
    /// Bit p: priority p has a waiter.
    bitmap: u128,
    lists: [List; 100],
}

#[derive(Clone, Copy)]
struct List {
    head: Option<NonNull<Entity>>,
    tail: Option<NonNull<Entity>>,
}

/// At which end of its priority an entity queues.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Head,
    Tail,
}

impl RtQueue {
    pub(crate) const fn new() -> RtQueue {
        RtQueue { bitmap: 0, lists: [List { head: None, tail: None }; 100] }
    }

    /// The priority of the first waiter.
    #[inline]
    pub(crate) fn best_priority(&self) -> Option<u8> {
        if self.bitmap == 0 { None } else { Some(127 - self.bitmap.leading_zeros() as u8) }
    }

    /// # Safety
    /// The entity is valid until removed and on no list.
    pub(crate) unsafe fn insert(&mut self, entity: NonNull<Entity>, end: End) {
        // SAFETY: the caller promises a valid entity; those on the list are by the same promise.
        unsafe {
            let item = entity.as_ptr();
            let priority = usize::from((*item).account.params.rt_priority.min(99));
            let list = &mut self.lists[priority];
            match end {
                End::Tail => {
                    (*item).rt_prev = list.tail;
                    (*item).rt_next = None;
                    match list.tail {
                        Some(tail) => (*tail.as_ptr()).rt_next = Some(entity),
                        None => list.head = Some(entity),
                    }
                    list.tail = Some(entity);
                }
                End::Head => {
                    (*item).rt_next = list.head;
                    (*item).rt_prev = None;
                    match list.head {
                        Some(head) => (*head.as_ptr()).rt_prev = Some(entity),
                        None => list.tail = Some(entity),
                    }
                    list.head = Some(entity);
                }
            }
            self.bitmap |= 1 << priority;
        }
    }

    /// # Safety
    /// The entity is on a list of this queue.
    pub(crate) unsafe fn remove(&mut self, entity: NonNull<Entity>) {
        // SAFETY: the entity and its neighbours are on the list, hence valid.
        unsafe {
            let item = entity.as_ptr();
            let priority = usize::from((*item).account.params.rt_priority.min(99));
            let list = &mut self.lists[priority];
            match (*item).rt_prev {
                Some(prev) => (*prev.as_ptr()).rt_next = (*item).rt_next,
                None => list.head = (*item).rt_next,
            }
            match (*item).rt_next {
                Some(next) => (*next.as_ptr()).rt_prev = (*item).rt_prev,
                None => list.tail = (*item).rt_prev,
            }
            (*item).rt_prev = None;
            (*item).rt_next = None;
            if list.head.is_none() {
                self.bitmap &= !(1 << priority);
            }
        }
    }

    /// The first waiter of the best priority.
    pub(crate) fn first(&self) -> Option<NonNull<Entity>> {
        self.lists[usize::from(self.best_priority()?)].head
    }

    /// Takes the first waiter of the best priority.
    pub(crate) fn pop(&mut self) -> Option<NonNull<Entity>> {
        let first = self.first()?;
        // SAFETY: it is on the list.
        unsafe { self.remove(first) };
        Some(first)
    }

    /// Visits the waiters, best first, until `visit` answers false.
    pub(crate) fn scan(&self, limit: usize, mut visit: impl FnMut(NonNull<Entity>) -> bool) {
        let mut bitmap = self.bitmap;
        let mut left = limit;
        while bitmap != 0 {
            let priority = 127 - bitmap.leading_zeros() as usize;
            let mut next = self.lists[priority].head;
            while let Some(entity) = next {
                if left == 0 || !visit(entity) {
                    return;
                }
                left -= 1;
                // SAFETY: entities on the list are valid.
                next = unsafe { (*entity.as_ptr()).rt_next };
            }
            bitmap &= !(1 << priority);
        }
    }
}
