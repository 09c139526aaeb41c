#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

mod errno;
pub mod fcntl;
pub mod inotify;
pub mod ipc;
pub mod loopdev;
pub mod mount;
pub mod poll;
pub mod process;
pub mod ptrace;
pub mod signal;
pub mod socket;
pub mod stat;
pub mod termios;
pub mod tun;
pub mod uring;

pub use errno::{Errno, Result};
