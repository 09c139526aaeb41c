#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod choose;
mod control;
mod device;
mod file;
mod queue;
#[cfg(test)]
mod tests;
mod wire;

pub use file::init;
