#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod alias;
mod boot;
mod bytes;
mod chain;
mod charset;
mod control;
mod data;
mod dir;
mod entries;
mod file;
mod fs;
mod mounting;
mod names;
mod node;
mod ops;
mod options;
mod record;
mod space;
mod table;
mod time;

#[cfg(test)]
mod tests;

pub use mounting::{init, mount};
