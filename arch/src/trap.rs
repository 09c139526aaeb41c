//! What is saved on entry to the kernel, and who is told.

pub use machine::trap::*;

use crate::addr::VirtAddr;

/// The address of this processor's last fault outside of the user half that user mode made: what
/// `si_addr` is when `user_exception` is called for vector 14.
pub fn fault_address() -> VirtAddr {
    #[cfg(target_os = "none")]
    return crate::x86::traps::last_bad_address();
    #[cfg(not(target_os = "none"))]
    VirtAddr(0)
}
