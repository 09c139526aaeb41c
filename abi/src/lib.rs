#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

mod errno;
pub mod process;
pub mod signal;
pub mod termios;

pub use errno::{Errno, Result};
