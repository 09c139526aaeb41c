#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod jobs;
pub mod ldisc;
pub mod ring;

pub use jobs::{Caller, JobControl, PidRef, set_job_control};

/// A terminal.
pub struct Tty {
    name: alloc::string::String,
}

impl Tty {
    /// Its name below `/dev`: `ttyS0`, `pts/3`.
    pub fn name(&self) -> &str {
        &self.name
    }
}
