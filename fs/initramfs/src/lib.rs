#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cpio;
mod decompress;
mod unpack;

pub use unpack::{Error, unpack};
