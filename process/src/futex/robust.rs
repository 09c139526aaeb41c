//! Robust futexes (`set_robust_list(2)`): when a thread ends, the locks it lists as held are marked
//! so that the next owner learns of it.

use super::{Scope, wake};
use crate::task::Task;
use abi::process::futex::{OWNER_DIED, TID_MASK, WAITERS};
use arch::VirtAddr;
use arch::user;
use core::sync::atomic::Ordering;

/// How many entries are followed: the list may be circular.
const LIMIT: usize = 2048;

/// Walks the list of the running thread, which ends.
pub(super) fn release(task: &Task) {
    let head = task.robust_list.swap(0, Ordering::Relaxed);
    if head == 0 {
        return;
    }
    let head_at = VirtAddr(head);
    let Ok(first) = user::load_u64(head_at) else { return };
    let Ok(offset) = user::load_u64(head_at.wrapping_add(8)) else { return };
    let Ok(pending) = user::load_u64(head_at.wrapping_add(16)) else { return };
    let mut entry = first;
    let mut left = LIMIT;
    while entry & !1 != head && left > 0 {
        left -= 1;
        // Read before the lock is released: the word may be reused at once.
        let next = user::load_u64(VirtAddr(entry & !1));
        if entry & !1 != pending & !1 {
            let word = VirtAddr((entry & !1).wrapping_add(offset));
            if !give_up(task, word, entry & 1 != 0, false) {
                return;
            }
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => return,
        }
    }
    if pending != 0 {
        let word = VirtAddr((pending & !1).wrapping_add(offset));
        give_up(task, word, pending & 1 != 0, true);
    }
}

/// Marks one lock; `false` if its word is not accessible.
fn give_up(task: &Task, word: VirtAddr, is_pi: bool, is_pending: bool) -> bool {
    let Ok(mut seen) = user::load_u32(word) else { return false };
    loop {
        // A lock being released when the thread was killed: its waiters must not hang.
        if is_pending && !is_pi && seen == 0 {
            let _ = wake(task, word, Scope::Shared, 1, u32::MAX);
            let _ = wake(task, word, Scope::Private, 1, u32::MAX);
            return true;
        }
        if seen & TID_MASK != task.tid() as u32 {
            return true;
        }
        let new = seen & WAITERS | OWNER_DIED;
        match user::cmpxchg_u32(word, seen, new) {
            Ok(found) if found == seen => break,
            Ok(found) => seen = found,
            Err(_) => return false,
        }
    }
    if !is_pi && seen & WAITERS != 0 {
        let woken = wake(task, word, Scope::Shared, 1, u32::MAX);
        if woken == Ok(0) {
            let _ = wake(task, word, Scope::Private, 1, u32::MAX);
        }
    }
    true
}
