#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod file;
pub mod issue;
mod pending;
pub mod prepare;
pub mod register;
pub mod request;
pub mod rings;
mod sqpoll;
pub mod submit;
mod timeout;

pub use file::{create, of};
pub use issue::{Env, Extra};
pub use rings::Uring;
