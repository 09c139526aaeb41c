#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod buffers;
mod file;
pub mod issue;
mod pending;
mod poll;
pub mod prepare;
pub mod register;
pub mod request;
pub mod restrict;
pub mod retry;
pub mod rings;
mod sqpoll;
pub mod submit;
mod timeout;

pub use buffers::Picked;
pub use file::{create, of};
pub use issue::{Env, Extra};
pub use retry::{Operation, Outcome, Try, Turn};
pub use rings::Uring;
