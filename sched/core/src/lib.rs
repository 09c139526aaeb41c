#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod awake;
mod deferred;
pub mod hooks;
mod io_wait;
mod mutex;
mod park;
pub mod policy;
pub mod rcu_arc;
pub mod rcu_later;
pub mod rcu_read;
#[cfg(target_os = "none")]
pub mod run;
#[cfg(not(target_os = "none"))]
#[path = "run_host.rs"]
pub mod run;
mod rwlock;
mod thread;
mod wait;

pub use deferred::Deferred;
pub use io_wait::{IoWait, waiting_for_io};
pub use mutex::{Mutex, MutexGuard};
pub use park::park_interruptible;
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use schedpolicy::ProcessorTimes;
pub use thread::{AtRest, CpuTimes, STACK_SIZE, Space, Thread, state};
pub use wait::{Deadline, Listener, WaitError, WaitQueue};
