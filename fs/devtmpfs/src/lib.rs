#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod kmsg;
mod mem;
mod nodes;

pub use kmsg::kmsg_notify;
pub use mem::set_random;
pub use nodes::{init, super_block};
