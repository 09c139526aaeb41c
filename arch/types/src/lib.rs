#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

pub mod addr;
pub mod cpus;
pub mod frame;
pub mod pte;
