//! There is no context switch on the host: its threads are the host's.

use crate::addr::VirtAddr;
use crate::thread::ArchThread;
use crate::trap::TrapFrame;

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

/// There is no user mode on the host.
///
/// # Panics
/// Always.
pub fn enter_user(_frame: &TrapFrame) -> ! {
    panic!("no user mode on the host")
}

/// Nothing to reset.
pub fn reset_current() {}

pub(crate) fn signal_area_len() -> usize {
    512
}
pub(crate) fn signal_features() -> u64 {
    0
}
pub(crate) fn save_for_signal(area: &mut [u8]) {
    area.fill(0);
}
pub(crate) fn save_to_user(_to: VirtAddr) -> bool {
    false
}
pub(crate) fn restore_from_user(_from: VirtAddr, _len: usize, _features: u64) -> bool {
    false
}
pub(crate) fn restore_from_signal(_area: &[u8], _features: u64) -> bool {
    true
}
