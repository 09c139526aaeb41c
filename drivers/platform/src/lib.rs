#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod calendar;
mod machine;
pub mod power;
pub mod rtc;
pub mod sysrq;
