#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod inode;
mod pages;
pub mod pipe;
mod wait;

pub use inode::anon_file;
