//! Threads that have ended and are still to be freed. What they own may sleep to go, so it goes in
//! a thread: the reaper, and whoever makes new threads faster than the reaper gets its turns.
//!
//! A list per processor, linked through the threads: ending takes no lock and no memory.

use crate::hooks;
use crate::thread::Thread;
use alloc::sync::Arc;
use arch::cpu::CpuId;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// So many ended threads of a processor are left to the reaper.
const LEFT_TO_REAPER: usize = 32;

struct List {
    first: AtomicPtr<Thread>,
    /// About as many as the list holds.
    len: AtomicUsize,
    /// Whose list [`relieve_reaper`] looks at next besides this one.
    hand: AtomicUsize,
}

arch::percpu! {
    static DEAD: PerCpu<List> =
        List {
            first: AtomicPtr::new(core::ptr::null_mut()),
            len: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
        };
}

/// Takes over the reference of a thread that will never run again. Interrupts are off.
pub(super) fn bury(thread: Arc<Thread>) {
    let list = DEAD.this();
    let thread = Arc::into_raw(thread).cast_mut();
    // Relaxed: a count to decide by.
    list.len.fetch_add(1, Ordering::Relaxed);
    let mut first = list.first.load(Ordering::Relaxed);
    loop {
        // SAFETY: the reference that was just taken over keeps it alive.
        unsafe { (*thread).next_dead.store(first, Ordering::Relaxed) };
        // Release: who takes the list sees the thread as it ended, and its link.
        let linked =
            list.first.compare_exchange_weak(first, thread, Ordering::Release, Ordering::Relaxed);
        match linked {
            Ok(_) => break,
            Err(now) => first = now,
        }
    }
    // Whoever made the list of one has woken the reaper, which has yet to look.
    if first.is_null() {
        hooks::sched_wake_reaper();
    }
}

/// Frees what is on a list.
fn free(list: &List) {
    // Acquire: pairs with the release of `bury`.
    let mut next = list.first.swap(ptr::null_mut(), Ordering::Acquire);
    while !next.is_null() {
        // SAFETY: `bury` made it from a reference that now is nobody else's: the swap took it away.
        let thread = unsafe { Arc::from_raw(next) };
        next = thread.next_dead.load(Ordering::Relaxed);
        list.len.fetch_sub(1, Ordering::Relaxed);
        thread.forget_private();
    }
}

/// Frees threads that have ended. May sleep.
pub fn reap() {
    arch::cpu::possible().iter().for_each(|cpu| free(DEAD.on(cpu)));
}

/// Whether there are threads that have ended.
pub fn has_dead() -> bool {
    let has_some = |cpu| !DEAD.on(cpu).first.load(Ordering::Relaxed).is_null();
    arch::cpu::possible().iter().any(has_some)
}

/// Frees ended threads if the reaper does not keep up: called by who is about to make a thread, so
/// that the dead of many who fork cannot fill the memory. May sleep.
pub fn relieve_reaper() {
    let own = DEAD.this();
    // Relaxed: any list will do, and one that is just being freed too.
    let turn = own.hand.fetch_add(1, Ordering::Relaxed) % arch::cpu::possible_count();
    for list in [own, DEAD.on(CpuId::from_raw(turn as u32))] {
        if list.len.load(Ordering::Relaxed) > LEFT_TO_REAPER {
            free(list);
        }
    }
}
