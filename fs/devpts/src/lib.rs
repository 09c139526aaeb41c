#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod instance;
mod open;
mod options;

pub use instance::set_limit;
pub use open::{init, open_peer};
