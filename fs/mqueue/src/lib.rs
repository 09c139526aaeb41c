#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod fs;
mod queue;

pub use fs::{Instance, Limits, init};
pub use queue::{Attributes, Message, Queue, queue_of};

use alloc::boxed::Box;

/// Who pays for the memory of a queue; dropped with it.
pub trait Charge: Send + Sync {}

/// Somebody to tell when a message arrives in an empty queue.
pub trait Notifier: Send + Sync {
    /// Whether the running process registered it.
    fn is_callers(&self) -> bool;
    /// Tells. The registration has ended.
    fn fire(self: Box<Self>);
    /// `NOTIFY`, `SIGNO` and `NOTIFY_PID` as the file of the queue shows them.
    fn describe(&self) -> (i32, i32, i32);
}
