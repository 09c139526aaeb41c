#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

mod global;
mod large;
mod pressure;
mod slab;
mod stack;
mod stats;

#[cfg(test)]
mod tests;

pub use global::Heap;
pub use pressure::register_shrinker;
pub use slab::shrink;
pub use stack::{KernelStack, STACK_SIZE};
pub use stats::{ClassStats, Stats, for_each_class, stats};
