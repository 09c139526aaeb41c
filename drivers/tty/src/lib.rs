#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod console;
mod control;
mod driver;
mod file;
pub mod hvc;
mod io;
mod ioctl;
mod jobs;
pub mod ldisc;
mod proc;
pub mod pty;
pub mod ring;
pub mod serial;
pub mod termios;
mod tty;
mod wait;

pub use driver::Driver;
pub use file::{TtyFile, all, find, find_by_name, init, open, register, terminal_of};
pub use jobs::{Caller, JobControl, PidRef, set_job_control};
pub use proc::describe_drivers;
pub use tty::{Tty, TtyKind};
