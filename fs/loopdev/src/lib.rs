#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod control;
mod drive;
mod registry;
mod status;

#[cfg(test)]
mod tests;

pub use registry::init;
