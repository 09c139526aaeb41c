#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod context;
pub mod direct;
pub mod memory;
pub mod pool;
pub mod ring;
pub mod submitter;
pub mod transfer;
pub mod watch;

pub use memory::Held;
pub use submitter::Submitter;
pub use transfer::{Done, Memory, Transfer};
