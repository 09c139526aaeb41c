//! What `sched`, the layer above, defines: resolved by the linker.

use crate::rcu_later::Later;
use crate::thread::Thread;
use alloc::sync::Arc;
use arch::cpu::CpuId;

/// Names an alarm: its instant, and a number.
pub type AlarmKey = (u64, u64);

unsafe extern "Rust" {
    /// When the running thread's slice ends, for the timer; interrupts are off.
    #[cfg(target_os = "none")]
    pub(crate) safe fn sched_slice_end(end_ns: Option<u64>);
    /// Some thread has ended: the reaper is to look.
    #[cfg(target_os = "none")]
    pub(crate) safe fn sched_wake_reaper();
    /// Wakes a thread at an instant, or by so much later.
    pub(crate) safe fn sched_alarm(
        thread: Arc<Thread>,
        at_ns: u64,
        slack_ns: u64,
    ) -> (CpuId, AlarmKey);
    /// Takes an alarm back.
    pub(crate) safe fn sched_cancel(cpu: CpuId, key: AlarmKey);
    /// `CLOCK_REALTIME` in nanoseconds.
    pub(crate) safe fn sched_realtime_ns() -> u64;
    /// Drops it after a grace period.
    pub(crate) safe fn sched_after_grace(later: Later);
}

/// Defines what this crate calls above itself. Once, by `sched`.
#[macro_export]
macro_rules! define_hooks {
    (
        slice_end: $slice_end:path,
        wake_reaper: $wake_reaper:path,
        alarm: $alarm:path,
        cancel: $cancel:path,
        realtime_ns: $realtime_ns:path,
        after_grace: $after_grace:path $(,)?
    ) => {
        const _: () = {
            use $crate::hooks::AlarmKey;

            #[cfg(target_os = "none")]
            #[unsafe(no_mangle)]
            fn sched_slice_end(end_ns: Option<u64>) {
                $slice_end(end_ns);
            }
            #[cfg(target_os = "none")]
            #[unsafe(no_mangle)]
            fn sched_wake_reaper() {
                $wake_reaper();
            }
            #[unsafe(no_mangle)]
            fn sched_alarm(
                thread: alloc::sync::Arc<$crate::Thread>,
                at_ns: u64,
                slack_ns: u64,
            ) -> (arch::cpu::CpuId, AlarmKey) {
                $alarm(thread, at_ns, slack_ns)
            }
            #[unsafe(no_mangle)]
            fn sched_cancel(cpu: arch::cpu::CpuId, key: AlarmKey) {
                $cancel(cpu, key);
            }
            #[unsafe(no_mangle)]
            fn sched_realtime_ns() -> u64 {
                $realtime_ns()
            }
            #[unsafe(no_mangle)]
            fn sched_after_grace(later: $crate::rcu_later::Later) {
                $after_grace(later);
            }
        };
    };
}
