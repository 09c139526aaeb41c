#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod start;

/// The kernel's heap.
#[cfg(target_os = "none")]
#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

#[cfg(not(target_os = "none"))]
fn main() {}
