#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod slot;
mod tables;

pub use slot::{Slot, Taken};
pub use tables::{Found, Tables};
