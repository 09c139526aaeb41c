use crate::{thread::ArchThread, trap::TrapFrame};
/// Registers what a new thread calls first, with the thread that was switched away from.
pub fn set_start_hook(_hook: fn(*const ArchThread)) {
    unimplemented!()
}
/// Switches.
///
/// # Safety
/// Both threads live.
pub unsafe fn switch(_prev: *const ArchThread, _next: *const ArchThread) -> *const ArchThread {
    unimplemented!()
}
pub(crate) fn prepare_kernel(_t: &ArchThread, _e: fn(usize), _a: usize) {
    unimplemented!()
}
pub(crate) fn prepare_user(_t: &ArchThread, _f: &TrapFrame) {
    unimplemented!()
}
