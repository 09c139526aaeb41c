#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod dma;
pub mod entropy;
mod mmio;
mod port;
pub mod resources;
#[cfg(not(target_os = "none"))]
pub mod sim;

pub use dma::{DmaArray, DmaBuffer};
pub use mmio::{Mmio, Register32};
pub use port::PortRange;
