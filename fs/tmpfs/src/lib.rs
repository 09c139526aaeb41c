#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod dir;
mod file;
mod inode;
mod memfd;
mod options;
mod superblock;

pub use inode::TmpInode;
pub use memfd::{add_seals, check_memfd_flags, get_seals, memfd_create, shared_file};
pub use options::Options;
pub use superblock::{Tmpfs, create, init, set_memory};
