#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod blocks;
mod cache;
mod compress;
mod dir;
mod inode;
mod layout;
mod mounting;
mod tree;
mod volume;
mod xattr;

#[cfg(test)]
mod tests;

pub use mounting::{init, mount};
