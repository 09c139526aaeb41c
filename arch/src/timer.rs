//! One one-shot timer per processor.

#[cfg(not(target_os = "none"))]
use crate::host::time as imp;
#[cfg(target_os = "none")]
use crate::x86::timer as imp;

/// What an interrupt came in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The program.
    User,
    /// The kernel, for a program or itself.
    Kernel,
}

/// Registers the function called, in interrupt context, when a processor's timer expires. It may
/// be called early or without reason: it looks at the clock itself.
pub fn set_handler(handler: fn(Mode)) {
    imp::set_handler(handler);
}

/// Arms this processor's timer for the instant (as of [`now_ns`](crate::time::now_ns)), replacing
/// what was armed. A past instant fires at once.
#[inline]
pub fn arm(deadline_ns: u64) {
    imp::arm(deadline_ns);
}

/// Disarms this processor's timer.
pub fn cancel() {
    imp::cancel();
}
