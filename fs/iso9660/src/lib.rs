#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod mounting;
mod record;
mod susp;
mod tree;
mod volume;

#[cfg(test)]
mod tests;

pub use mounting::init;
