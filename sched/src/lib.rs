#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod clock;
mod load;
pub mod rcu;
mod sync;
pub mod timer;
pub mod work;

pub use load::{init as init_load, loadavg};
pub use sync::{Completion, Semaphore};
pub use threads::policy::{self, Params, Policy};
pub use threads::run::{
    TUNABLES, current, exit, idle, is_idle, kernel_threads, nr_running, processor_times,
    relieve_reaper, running_on, schedule, spawn_kernel, switches, try_current, yield_now,
};
pub use threads::{
    AtRest, CpuTimes, Deadline, Deferred, IoWait, Listener, Mutex, MutexGuard, ProcessorTimes,
    RwLock, RwLockReadGuard, RwLockWriteGuard, STACK_SIZE, Space, Thread, WaitError, WaitQueue,
    park_interruptible, state, waiting_for_io,
};

threads::define_hooks! {
    slice_end: timer::set_slice_end,
    wake_reaper: work::wake_reaper,
    alarm: timer::alarm,
    cancel: timer::cancel,
    realtime_ns: clock::realtime_ns,
    after_grace: rcu::call,
}

/// Makes the code that runs on this processor its idle thread. Once per processor, before it takes
/// interrupts.
pub fn init_cpu(stack: arch::thread::KernelStackRange) {
    threads::run::init_cpu(stack);
    #[cfg(target_os = "none")]
    arch::timer::set_handler(timer::interrupt);
}
