#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod area;
mod fault;
mod source;
mod space;

pub use area::{Area, AreaFlags, PROT_EXEC, PROT_READ, PROT_WRITE};
pub use fault::{FaultAccess, FaultError, FaultKind};
pub use source::{Description, MapSource};
pub use space::{AddressSpace, MMAP_MIN, MapRequest, SpaceStats};
