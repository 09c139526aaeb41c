#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod acl;
#[path = "alloc.rs"]
mod alloc_;
mod buffer;
mod bytes;
mod commit;
mod config;
mod csum;
mod damage;
mod data;
mod dir;
mod direct;
mod extents;
mod fallocate;
mod file;
mod fs;
mod hash;
mod htree;
mod indirect;
mod io;
mod ioctl;
mod journal;
mod layout;
mod logged;
mod map;
mod mounting;
mod node;
mod ops;
mod options;
mod orphan;
mod seal;
mod shrink;
mod xattr;

#[cfg(test)]
mod tests;

pub use mounting::{Ext4Type, init, mount};
