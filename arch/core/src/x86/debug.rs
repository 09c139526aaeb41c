//! Debug registers of programs. SDM vol. 3B 18.2.

use crate::thread::ArchThread;
use crate::x86::regs;

/// Loads the thread's breakpoints, or disables those of whoever ran here before.
#[cold]
pub(super) fn load(thread: &ArchThread) {
    let [a, b, c, d, control] = thread.breakpoints();
    // SAFETY: `set_breakpoints` takes addresses of the user half only, and control words without
    // general detection, so no access of the kernel's own traps; DR7 comes last.
    unsafe {
        regs::set_dr7(0);
        if control != 0 {
            regs::set_dr0(a);
            regs::set_dr1(b);
            regs::set_dr2(c);
            regs::set_dr3(d);
            regs::set_dr7(control);
        }
    }
}
