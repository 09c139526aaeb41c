//! Who sleeps until a device answers: tells an idle processor from one that only has to wait.

use arch::cpu::CpuId;
use core::sync::atomic::{AtomicU32, Ordering};

arch::percpu! {
    /// Threads that went to sleep here for a device.
    static WAITING: PerCpu<AtomicU32> = AtomicU32::new(0);
}

/// While it lives, sleep of the running thread is waiting for a device.
#[must_use = "the wait is over when it is dropped"]
pub struct IoWait(CpuId);

impl IoWait {
    /// The running thread is about to sleep until a device answers.
    pub fn begin() -> IoWait {
        let cpu = arch::cpu::id();
        WAITING.on(cpu).fetch_add(1, Ordering::Relaxed);
        IoWait(cpu)
    }
}

impl Drop for IoWait {
    fn drop(&mut self) {
        WAITING.on(self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many threads that went to sleep on a processor wait for a device.
#[inline]
pub fn waiting_for_io(cpu: CpuId) -> u32 {
    WAITING.on(cpu).load(Ordering::Relaxed)
}
