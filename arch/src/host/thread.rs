//! There is no context switch on the host: its threads are the host's.

use crate::addr::VirtAddr;
use crate::thread::ArchThread;
use crate::trap::TrapFrame;
use crate::user::Fault;

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

/// As without XSAVE.
pub fn signal_frame_size() -> usize {
    512
}

/// Writes zeros.
pub fn write_signal_frame(to: VirtAddr) -> Result<(), Fault> {
    crate::user::clear_user(to, 512)
}

/// Reads nothing.
pub fn read_signal_frame(_from: VirtAddr) -> Result<(), Fault> {
    Ok(())
}

/// Zeros.
pub fn legacy_image(_thread: &ArchThread) -> [u8; 512] {
    [0; 512]
}

/// Sets nothing.
pub fn set_legacy_image(_thread: &ArchThread, _image: &[u8; 512]) {}
