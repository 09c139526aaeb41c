#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod blk;
mod console;
mod driver;
mod net;
mod queue;
mod rng;
mod transport;

pub use driver::init;
