#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod packet;
mod program;

pub use packet::{Bytes, Packet};
pub use program::{Dialect, Input, Instruction, MAX_LEN, Program};
