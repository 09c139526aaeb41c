//! There is no context switch on the host: its threads are the host's.

use crate::thread::ArchThread;

/// Keeps nothing: host threads start by themselves.
pub fn set_start_hook(_hook: fn(*const ArchThread)) {}

/// Makes `next` current.
///
/// # Safety
/// As on the machine: both live.
pub unsafe fn switch(prev: *const ArchThread, next: *const ArchThread) -> *const ArchThread {
    super::cpu::set_current(next);
    prev
}
