#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod change;
pub mod commit;
mod fault;
mod fork;
mod huge;
mod layout;
mod limits;
mod map;
mod observer;
mod remote;
mod report;
mod source;
mod space;
mod unmap;
mod vdso;
mod vma;

#[cfg(test)]
mod tests;

pub use commit::{committed, reserve, unreserve};
pub use fault::{FaultAccess, FaultError, FaultKind};
pub use huge::HugePages;
pub use limits::Limits;
pub use map::MapRequest;
pub use report::{MapInfo, PageInfo};
pub use source::{Description, MapSource};
pub use space::{AddressSpace, Stats};
pub use vma::{Vma, flag, prot};

/// In [`MapRequest::flags`]: `mprotect` may never add write permission (a shared mapping of a file
/// that is open for reading only).
pub const MAP_NEVER_WRITE: u32 = 1 << 30;

/// The lowest address that a program without `CAP_SYS_RAWIO` may map: `vm.mmap_min_addr`.
pub const MMAP_MIN: u64 = layout::MIN_ADDRESS;
