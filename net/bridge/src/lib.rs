#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod device;
mod fdb;
mod port;
#[cfg(test)]
mod tests;
mod told;

pub use told::init;
