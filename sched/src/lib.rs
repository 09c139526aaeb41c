#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod clock;
mod load;
mod mutex;
mod pairing;
pub mod policy;
pub mod rcu;
#[cfg(target_os = "none")]
mod run;
#[cfg(not(target_os = "none"))]
#[path = "run_host.rs"]
mod run;
mod thread;
pub mod timer;
mod wait;
pub mod work;

pub use load::{init as init_load, loadavg};
pub use mutex::{
    Completion, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore,
};
pub use policy::{Params, Policy};
pub use run::{
    TUNABLES, current, exit, idle, idle_ns, init_cpu, nr_running, schedule, spawn_kernel, switches,
    try_current, yield_now,
};
pub use thread::{CpuTimes, STACK_SIZE, Space, Thread, state};
pub use wait::{Deadline, Listener, WaitError, WaitQueue};
