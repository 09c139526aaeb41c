#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cpuacct;
mod cpuset;
mod devices;
mod directory;
mod freezer;
mod mount;
mod pids;
mod tasks;
mod version1;
mod version2;

pub use mount::init;
