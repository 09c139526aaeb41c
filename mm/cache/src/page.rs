//! Locks and waits on pages: a lock bit per page and wait queues shared by hash.

use abi::{Errno, Result};
use frames::{Page, PageRef, flag};
use sched::{IoWait, WaitQueue};

const QUEUES: usize = 256;
static WAITERS: [WaitQueue; QUEUES] = [const { WaitQueue::new() }; QUEUES];

fn queue(page: &Page) -> &'static WaitQueue {
    let hash = page.pfn().0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    &WAITERS[hash as usize % QUEUES]
}

/// Sleeps until none of `bits` is set.
fn wait_clear(page: &Page, bits: u32) {
    let _waiting = IoWait::begin();
    queue(page).wait(|| {
        // WAITERS first, then look: who clears the bit afterwards sees WAITERS and wakes us.
        page.set(flag::WAITERS);
        (page.flags() & bits == 0).then_some(())
    });
}

/// Clears `bits` and wakes those who sleep on them.
pub(crate) fn clear_and_wake(page: &Page, bits: u32) {
    if page.clear(bits) & flag::WAITERS != 0 {
        // Others with the same queue re-check and set it again.
        page.clear(flag::WAITERS);
        queue(page).wake_all();
    }
}

/// Takes the page lock if it is free.
#[inline]
pub(crate) fn try_lock(page: &Page) -> bool {
    page.set(flag::LOCKED) & flag::LOCKED == 0
}

/// Takes the page lock.
pub(crate) fn lock(page: &Page) {
    while !try_lock(page) {
        wait_clear(page, flag::LOCKED);
    }
}

/// Gives the page lock back.
pub(crate) fn unlock(page: &Page) {
    clear_and_wake(page, flag::LOCKED);
}

/// Sleeps while the page is being written.
pub fn wait_writeback(page: &PageRef) {
    if page.flags() & flag::WRITEBACK != 0 {
        wait_clear(page, flag::WRITEBACK);
    }
}

/// Sleeps until the page's read has ended.
pub(crate) fn wait_read(page: &PageRef) -> Result<()> {
    if page.flags() & flag::UPTODATE == 0 {
        wait_clear(page, flag::LOCKED);
    }
    if page.flags() & flag::UPTODATE != 0 { Ok(()) } else { Err(Errno::EIO) }
}
